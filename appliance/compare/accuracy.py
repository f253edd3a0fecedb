"""Comparison of two evaluations, score by score.

What makes a score meaningless: dummy weights (the answers are noise), another model, other
media with the questions, and whatever else changes the questions themselves: their prompts, the
number of examples before them, the choice of subsets that an overall score is made of. What a
side leaves out is evalscope's default (the catalog's evalscope.yaml). What
changes only how the model was run - temperature, the limit on tokens, the batch - stands beside
it: that is a caveat, since it is part of what a deployment chooses.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from appliance.catalog import references
from appliance.compare import asked, intervals
from appliance.compare.model import Group, Interval, Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from appliance.results.model import EvalScore, EvalSettings, Result

OVERALL = "OVERALL"
# Of evalscope's --dataset-args: what changes the questions, ...
_QUESTION = {
    "few_shot_num",
    "few_shot_random",
    "few_shot_prompt_template",
    "prompt_template",
    "query_template",
    "system_prompt",
    "subset_list",
    "shuffle_choices",
    "extra_params",
}
# ... and what only says where they come from.
_PLACE = {"local_path", "dataset_id", "name", "dataset_dir"}
# Which media the questions come with: told by a score's modalities, where it has them.
_MEDIA = {"use_image", "use_audio", "use_video"}
# In names of metrics where less is better: the share of words that are wrong, ...
_LOWER = {
    "wer", "cer", "ter", "mer", "mae", "mse", "rmse", "ppl", "perplexity", "loss", "error",
    "errors", "distance", "hallucination", "toxicity",
}  # fmt: skip


@dataclass(frozen=True)
class Scores:
    """The group of all scores, and the subsets that only one side tells."""

    group: Group
    only_own: tuple[str, ...]
    only_reference: tuple[str, ...]


def compare(own: Result, reference: Result) -> Scores:
    """Compare two evaluations.

    Every score of the reference has a row. One that only this side has is listed, and has a row
    where the reference has nothing else of its dataset.
    """
    mine = {_key(score): score for score in own.scores}
    theirs = {_key(score): score for score in reference.scores}
    datasets = {score.dataset for score in reference.scores}
    names = [key for key in mine if key in theirs or key[0] not in datasets]
    names += [key for key in theirs if key not in mine]
    rows = [_row(own, reference, mine.get(key), theirs.get(key)) for key in names]
    group = Group(own.name, reference.name, tuple(rows), tuple(_caveats(own, reference)))
    return Scores(
        group,
        tuple(_title(score) for key, score in mine.items() if key not in theirs),
        tuple(_title(score) for key, score in theirs.items() if key not in mine),
    )


def _key(score: EvalScore) -> tuple[str, str, str]:
    return score.dataset, score.metric, score.subset


def _title(score: EvalScore) -> str:
    plain = score.subset.lower() in {"default", "main"}
    name = score.dataset if plain else f"{score.dataset} {score.subset}"
    return f"{name} ({score.metric})"


def _row(own: Result, reference: Result, mine: EvalScore | None, theirs: EvalScore | None) -> Row:
    either = mine or theirs
    if either is None:
        raise ValueError("A row is of at least one score.")
    values = _finite(mine), _finite(theirs)
    name, title = "/".join(_key(either)), _title(either)
    row = partial(Row, name, title, "share", "higher", *values)
    if mine is None or theirs is None:
        side = "This run" if mine is None else "The reference"
        return row("not-comparable", f"{side} does not have it.")
    why = _twice(own, mine) or _twice(reference, theirs)
    why = why or next(_forbidding(own, reference, mine, theirs), None)
    if why:
        return row("not-comparable", why)
    low, high = intervals.difference(
        intervals.share(mine.score, mine.num), intervals.share(theirs.score, theirs.num)
    )
    reason = _reason(mine, theirs, (high - low) / 2)
    if low > 0:
        return row("better", reason, Interval(low, high))
    return row("worse" if high < 0 else "same", reason, Interval(low, high))


def _twice(result: Result, score: EvalScore) -> str | None:
    if sum(_key(one) == _key(score) for one in result.scores) > 1:
        return f"{result.name} has it more than once."
    return None


def _finite(score: EvalScore | None) -> float | None:
    return score.score if score is not None and math.isfinite(score.score) else None


def _reason(mine: EvalScore, theirs: EvalScore, half: float) -> str:
    count = f"{mine.num}" if mine.num == theirs.num else f"{mine.num} and {theirs.num}"
    text = (
        f"From {count} questions, which can't tell a difference of less than about "
        f"{100 * half:.0f} points from chance."
    )
    hashes = {mine.questions_sha256, theirs.questions_sha256}
    if len(hashes) == 1 and None not in hashes:
        return f"{text} Both asked the same questions, so the interval is rather too wide."
    if mine.num != theirs.num or None not in hashes:
        return f"{text} The questions are not the same ones."
    return text


def _forbidding(
    own: Result, reference: Result, mine: EvalScore, theirs: EvalScore
) -> Iterator[str]:
    """Yield, in words, what keeps two scores from being compared."""
    other = asked.other_model(own.system.model, reference.system.model)
    if other:
        yield f"Not the same was asked: {other}."
    sides = (("This run", own, mine), ("The reference", reference, theirs))
    for side, result, score in sides:
        if result.system.model.weights == "dummy":
            yield f"{side} had dummy weights: its answers are noise."
        if score.num == 0:
            yield f"{side} asked no question."
        if not 0 <= score.score <= 1:
            yield f"{side} has no score between 0 and 1."
    if _LOWER & set(re.split(r"[^a-z]+", mine.metric.lower())):
        yield f"Of {mine.metric} less is better, which this comparison does not know to judge."
    if min(mine.num, theirs.num) < intervals.FEWEST:
        yield f"Too few questions to judge: {min(mine.num, theirs.num)}."
    media = _media(own, mine), _media(reference, theirs)
    if media[0] != media[1] and None not in media:
        yield (
            f"The questions came with other media: {_words(media[0])} against "
            f"{_words(media[1])}, so they are not the same questions."
        )
    if mine.subset == OVERALL and (why := _other_subsets(own, reference, mine)):
        yield why
    yield from _other_questions(own, reference, mine, theirs)


def _other_questions(
    own: Result, reference: Result, mine: EvalScore, theirs: EvalScore
) -> Iterator[str]:
    media_told = None not in (_media(own, mine), _media(reference, theirs))
    for name, a, b in _arguments(own.evaluation, reference.evaluation, mine.dataset):
        if name not in _QUESTION or name == "subset_list":
            continue
        if name == "extra_params" and media_told:
            a, b = _without_media(a), _without_media(b)  # noqa: PLW2901 (told by the media)
            if a == b:
                continue
        yield f"The questions were put differently: {name} {_told(a)} against {_told(b)}."


def _without_media(value: Any) -> Any:
    rest = value if value is not None else {}
    if isinstance(rest, dict):
        return {key: one for key, one in rest.items() if key not in _MEDIA}
    return rest


def _other_subsets(own: Result, reference: Result, score: EvalScore) -> str | None:
    """Return, in words, that two overall scores are of other subsets, or `None`."""
    mine, theirs = _subsets(own, score), _subsets(reference, score)
    if _chosen(own, score) or _chosen(reference, score):
        # Rows may be missing; what was chosen is told.
        chosen = [_chosen(one, score) for one in (own, reference)]
        mine, theirs = chosen[0] or mine, chosen[1] or theirs
    if mine is None or theirs is None or mine == theirs:
        return None
    both = len(mine & theirs)
    return (
        f"The overall scores are of other subsets: {len(mine)} against {len(theirs)}, of which "
        f"{both} are the same ({both} of {max(len(mine), len(theirs))} subsets)."
    )


def _chosen(result: Result, score: EvalScore) -> frozenset[str] | None:
    given = result.evaluation.dataset_args.get(score.dataset) if result.evaluation else None
    listed = given.get("subset_list") if isinstance(given, dict) else None
    return frozenset(map(str, listed)) if isinstance(listed, (list, tuple)) else None


def _subsets(result: Result, score: EvalScore) -> frozenset[str] | None:
    """Return of which subsets an overall score is: of its rows, or else of what was asked."""
    rows = frozenset(
        one.subset
        for one in result.scores
        if (one.dataset, one.metric) == (score.dataset, score.metric) and one.subset != OVERALL
    )
    if rows or result.evaluation is None:
        return rows or None
    listed = _asked(result.evaluation, score.dataset).get("subset_list")
    return frozenset(map(str, listed)) if isinstance(listed, (list, tuple)) else None


def _media(result: Result, score: EvalScore) -> frozenset[str] | None:
    """Return the media of a score's questions: as it tells, or else as they were asked."""
    if score.modalities is not None:
        return frozenset(score.modalities) - {"text"}
    if result.evaluation is None:
        return None
    extra = _asked(result.evaluation, score.dataset).get("extra_params")
    if not isinstance(extra, dict) or not _MEDIA & set(extra):
        return None
    return frozenset(name.removeprefix("use_") for name in _MEDIA if extra.get(name))


def _words(media: frozenset[str] | None) -> str:
    return " and ".join(sorted(media or ())) or "none"


def _asked(settings: EvalSettings, dataset: str) -> dict[str, Any]:
    """Return the --dataset-args of a dataset; what is left out is evalscope's default."""
    default = references.asked_by_default(dataset)
    given = settings.dataset_args.get(dataset)
    found = {**default, **(given if isinstance(given, dict) else {})}
    extra = found.get("extra_params")
    if isinstance(extra, dict):
        found["extra_params"] = {**default.get("extra_params", {}), **extra}
    return found


def _arguments(
    own: EvalSettings | None, reference: EvalSettings | None, dataset: str
) -> Iterator[tuple[str, Any, Any]]:
    """Yield the --dataset-args of a dataset that differ; `None` is a default nobody knows."""
    if own is None or reference is None:
        return
    mine, theirs = _asked(own, dataset), _asked(reference, dataset)
    for name in sorted({*mine, *theirs} - _PLACE):
        if mine.get(name) != theirs.get(name):
            yield name, mine.get(name), theirs.get(name)


def _caveats(own: Result, reference: Result) -> Iterator[str]:
    mine, theirs = own.evaluation, reference.evaluation
    if mine is None or theirs is None:
        yield "A side does not tell how the questions were asked."
        return
    for name in sorted({*mine.generation, *theirs.generation}):
        a, b = mine.generation.get(name), theirs.generation.get(name)
        if a != b:
            yield f"Generation: {name} {_told(a)} against {_told(b)}."
    for word in ("limit", "evalscope"):
        a, b = getattr(mine, word), getattr(theirs, word)
        if a != b:
            none = "all" if word == "limit" else asked.UNTOLD
            yield f"{word}: {none if a is None else a} against {none if b is None else b}."
    yield from _dataset_caveats(own, reference)


def _dataset_caveats(own: Result, reference: Result) -> Iterator[str]:
    for dataset in sorted({score.dataset for score in (*own.scores, *reference.scores)}):
        for name, a, b in _arguments(own.evaluation, reference.evaluation, dataset):
            if name not in _QUESTION:
                yield f"{dataset}: {name} {_told(a)} against {_told(b)}."
    for score in own.scores:
        other = next((one for one in reference.scores if _key(one) == _key(score)), None)
        if other is not None and (_media(own, score) is None) != (_media(reference, other) is None):
            yield f"{score.dataset}: a side does not tell which media the questions came with."


def _told(value: Any) -> str:
    return "left to the default" if value is None else str(value)
