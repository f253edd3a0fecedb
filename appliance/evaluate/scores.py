"""What evalscope reported, as the rows and notes of a result document."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from appliance.results.model import EvalScore

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from appliance.results.model import Modality

OVERALL = "OVERALL"
# evalscope gave its metrics longer names with version 1.
_SHORT = {"accuracy": "acc"}


@dataclass
class Told:
    """What the container has told, as it came."""

    evalscope: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    # Dataset to subset to `num` and `sha256` of its questions.
    asked: dict[str, dict[str, Any]] = field(default_factory=dict)
    cached: int = 0
    # Path to text, below evalscope's folder.
    files: dict[str, str] = field(default_factory=dict)
    answers: list[dict[str, Any]] = field(default_factory=list)

    @property
    def total(self) -> int:
        """How many questions there are."""
        return sum(row["num"] for rows in self.asked.values() for row in rows.values())

    def reports(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield the report of each dataset, in the order in which they were asked."""
        texts = {path.rpartition("/")[2]: text for path, text in self.files.items()}
        for dataset in self.asked:
            if text := texts.get(f"{dataset}.json"):
                yield dataset, json.loads(text)


def rows(told: Told, media: Mapping[str, list[Modality] | None]) -> list[EvalScore]:
    """Return the rows of evalscope's table: each subset, and all of them where there are more."""
    found = []
    for dataset, report in told.reports():
        for metric in report["metrics"]:
            name = _metric(metric)
            subsets = [
                (category, subset)
                for category in metric["categories"]
                for subset in category["subsets"]
            ]
            hashes = {key: row["sha256"] for key, row in told.asked[dataset].items()}
            for category, subset in subsets:
                found.append(
                    EvalScore(
                        dataset=dataset,
                        metric=name,
                        subset=subset["name"],
                        num=subset["num"],
                        score=subset["score"],
                        category="/".join(category["name"]) or None,
                        modalities=media.get(dataset),
                        questions_sha256=hashes.get(subset["name"]),
                    )
                )
            if len(subsets) > 1:
                found.append(
                    EvalScore(
                        dataset=dataset,
                        metric=name,
                        subset=OVERALL,
                        num=metric["num"],
                        score=metric["score"],
                        modalities=media.get(dataset),
                        questions_sha256=_joined(hashes),
                    )
                )
    return found


def _metric(metric: Mapping[str, Any]) -> str:
    """Return a metric's name as the guide's table has it, such as mean_acc."""
    identity = metric["identity"]
    name = _SHORT.get(identity["name"], identity["name"])
    return f"{identity['aggregation']}_{name}" if identity.get("aggregation") else str(name)


def _joined(hashes: Mapping[str, str]) -> str:
    text = "".join(f"{name} {value}\n" for name, value in hashes.items())
    return hashlib.sha256(text.encode()).hexdigest()


def unscored(told: Told) -> dict[str, int]:
    """Return, by dataset, how many of its questions are in no score."""
    found = {}
    for dataset, subsets in told.asked.items():
        report = dict(told.reports()).get(dataset)
        scored = max((metric["num"] for metric in report["metrics"]), default=0) if report else 0
        lost = sum(row["num"] for row in subsets.values()) - scored
        if lost > 0:
            found[dataset] = lost
    return found


def notes(told: Told, generation: Mapping[str, Any], limit: int | None) -> list[str]:
    """Return, in words, what makes the scores less than they look."""
    found = []
    cut = _count(told, "max_tokens")
    if cut:
        found.append(
            f"{sum(cut.values())} of {told.total} answers were cut off at max_tokens "
            f"({generation.get('max_tokens')}), most of them before the answer itself, and count "
            f"as wrong ({_listed(cut)}): the scores are not the model's. Raise --max-tokens."
        )
    refused = _count(told, "model_length")
    if refused:
        found.append(
            f"{sum(refused.values())} of {told.total} questions were refused, being longer with "
            f"max_tokens than the server's context, and count as wrong ({_listed(refused)}). "
            "Lower --max-tokens, or raise server.max_model_len."
        )
    empty = Counter(
        _dataset(told, row["file"])
        for row in told.answers
        if not row["answer"].strip() and row["stop_reason"] == "stop"
    )
    if empty:
        found.append(f"{sum(empty.values())} answers are empty ({_listed(empty)}).")
    if lost := unscored(told):
        found.append(f"{sum(lost.values())} questions are in no score ({_listed(lost)}).")
    if limit is not None:
        found.append(f"At most {limit} questions of each subset: its first ones, and no sample.")
    if told.cached:
        found.append(f"{told.cached} answers are of an earlier try, which was interrupted.")
    return found


def _count(told: Told, reason: str) -> Counter[str]:
    return Counter(
        _dataset(told, row["file"]) for row in told.answers if row["stop_reason"] == reason
    )


def _dataset(told: Told, file: str) -> str:
    """Return the dataset of a file, which is named DATASET_SUBSET, with _ in both."""
    names = [name for name in told.asked if file.startswith(f"{name}_")]
    return max(names, key=len, default=file)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
