"""From flags and the catalog to what evalscope is told: a pure step."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.diagnose.redact import Redactor
from appliance.errors import ApplianceError
from appliance.results.model import EvalSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from appliance.catalog.evaluation import Defaults
    from appliance.results.model import Modality

# Names of datasets are names of folders too, here and in the container.
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Wanted:
    """What flags ask for; `None` is the catalog's default.

    `limit` is of each subset, and 0 is all. `timeout` is for one answer, in seconds.
    `subsets` are DATASET/SUBSET. `dataset_args` are evalscope's, and go before the catalog's.
    """

    datasets: tuple[str, ...] | None = None
    subsets: tuple[str, ...] = ()
    limit: int | None = None
    batch_size: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    timeout: float | None = None
    use_image: bool | None = None
    use_audio: bool | None = None
    dataset_args: Mapping[str, Any] = field(default_factory=dict)
    dataset_dir: Path | None = None
    ignore_errors: bool = False
    fresh: bool = False
    name: str | None = None
    output: Path = Path("results")


@dataclass(frozen=True)
class Questions:
    """What is asked, whoever is: evalscope's task, less the server."""

    datasets: tuple[str, ...]
    dataset_args: Mapping[str, Mapping[str, Any]]
    generation: Mapping[str, Any]
    batch_size: int
    # `None` is all.
    limit: int | None
    timeout: float
    eval_type: str
    ignore_errors: bool

    def task(self, url: str, model: str) -> dict[str, Any]:
        """Return the keywords of evalscope's TaskConfig, less the key."""
        return {
            "model": model,
            "api_url": f"{url.rstrip('/').removesuffix('/v1')}/v1",
            "eval_type": self.eval_type,
            "datasets": list(self.datasets),
            "dataset_args": {name: dict(value) for name, value in self.dataset_args.items()},
            "eval_batch_size": self.batch_size,
            "generation_config": {**self.generation, "timeout": self.timeout},
            "limit": self.limit,
            "ignore_errors": self.ignore_errors,
        }

    def settings(self, evalscope: str | None) -> EvalSettings:
        """Return how the questions are asked, as the result document has it."""
        return EvalSettings(
            evalscope=evalscope,
            generation=dict(self.generation),
            # The operator's own arguments may hold a login, and results are passed on.
            dataset_args=Redactor().document(
                {name: dict(value) for name, value in self.dataset_args.items()}
            ),
            batch_size=self.batch_size,
            limit=self.limit,
        )

    def subsets(self, defaults: Defaults) -> dict[str, tuple[str, ...]]:
        """Return the subsets that are asked of each dataset, empty for one that is not known."""
        found = {}
        for name in self.datasets:
            known = defaults.datasets.get(name)
            listed = self.dataset_args.get(name, {}).get("subset_list")
            found[name] = tuple(listed or (known.subsets if known else ()))
        return found

    def media(self, dataset: str, defaults: Defaults) -> list[Modality] | None:
        """Return the media that come with a dataset's questions, `None` for unknown."""
        known = defaults.datasets.get(dataset)
        if known is None:
            return None
        given = self.dataset_args.get(dataset, {}).get("extra_params", {})
        # evalscope's own default for both is to send them.
        return [medium for name, medium in known.media.items() if given.get(name, True)]


def questions(wanted: Wanted, defaults: Defaults) -> Questions:
    """Return what is asked; raises input-invalid."""
    names = wanted.datasets or tuple(defaults.datasets)
    _check(wanted, names, defaults)
    chosen = {"max_tokens": wanted.max_tokens, "temperature": wanted.temperature}
    given = {name: value for name, value in chosen.items() if value is not None}
    limit = defaults.limit if wanted.limit is None else wanted.limit
    return Questions(
        datasets=names,
        dataset_args=_dataset_args(wanted, names, defaults),
        generation={**defaults.generation, **given},
        batch_size=wanted.batch_size or defaults.batch_size,
        limit=limit or None,
        timeout=wanted.timeout or defaults.request_seconds,
        eval_type=defaults.eval_type,
        ignore_errors=wanted.ignore_errors,
    )


def _check(wanted: Wanted, names: tuple[str, ...], defaults: Defaults) -> None:
    for name in names:
        if not _NAME.fullmatch(name):
            raise _invalid(f"--datasets: {name!r} is no name of a dataset.")
    if len(set(names)) != len(names):
        raise _invalid(f"--datasets names something twice: {', '.join(names)}.")
    for word in wanted.subsets:
        dataset, _, subset = word.partition("/")
        if dataset not in names or not subset:
            raise _invalid(f"--subset {word} is no DATASET/SUBSET of {', '.join(names)}.")
        _check_subsets(dataset, [subset], defaults)
    for dataset, value in wanted.dataset_args.items():
        if dataset not in names:
            raise _invalid(f"--dataset-args is about {dataset}, which is not asked.")
        _check_args(dataset, value, defaults)
    _check_media(wanted, names, defaults)


def _check_args(dataset: str, args: Any, defaults: Defaults) -> None:
    """Check what of evalscope's own arguments is read here too; the rest is evalscope's."""
    if not isinstance(args, dict):
        raise _invalid("--dataset-args must give an object for each dataset.")
    if not isinstance(args.get("extra_params", {}), dict):
        raise _invalid(f"--dataset-args: extra_params of {dataset} is no object.")
    if "subset_list" in args:
        _check_subsets(dataset, args["subset_list"], defaults)


def _check_subsets(dataset: str, subsets: Any, defaults: Defaults) -> None:
    if not isinstance(subsets, list) or not subsets or not all(map(_is_text, subsets)):
        raise _invalid(f"--dataset-args: subset_list of {dataset} is no list of names.")
    known = defaults.datasets.get(dataset)
    for subset in subsets:
        if known is not None and subset not in known.subsets:
            raise _invalid(f"{dataset} has no subset {subset}. It has: {', '.join(known.subsets)}.")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _check_media(wanted: Wanted, names: tuple[str, ...], defaults: Defaults) -> None:
    """Refuse flags that would be without effect."""
    for flag, value in (("use_image", wanted.use_image), ("use_audio", wanted.use_audio)):
        having = [name for name, known in defaults.datasets.items() if flag in known.media]
        if value is not None and not set(having) & set(names):
            option = f"--{'' if value else 'no-'}{flag.replace('_', '-')}"
            raise _invalid(f"{option} is of {', '.join(having)}, which is not asked.")


def _dataset_args(
    wanted: Wanted, names: tuple[str, ...], defaults: Defaults
) -> dict[str, dict[str, Any]]:
    """Merge the catalog's arguments, those of single flags, and the operator's own."""
    found = {}
    flags = {"use_image": wanted.use_image, "use_audio": wanted.use_audio}
    chosen = {name: value for name, value in flags.items() if value is not None}
    for name in names:
        known = defaults.datasets.get(name)
        given = dict(wanted.dataset_args.get(name, {}))
        args: dict[str, Any] = {**(known.args if known else {}), **given}
        media = {key: value for key, value in chosen.items() if known and key in known.media}
        if known and (known.args.get("extra_params") or media):
            own, extra = known.args.get("extra_params", {}), given.get("extra_params", {})
            args["extra_params"] = {**own, **extra, **media}
        if subsets := [word.partition("/")[2] for word in wanted.subsets if _of(word, name)]:
            args["subset_list"] = subsets
        if args:
            found[name] = args
    return found


def _of(word: str, dataset: str) -> bool:
    return word.partition("/")[0] == dataset


def _invalid(message: str) -> ApplianceError:
    return ApplianceError("input-invalid", message)


def key(asked: Questions, server: Any, files: Any) -> str:
    """Return the name of a run: the same for the same questions to the same server.

    How long to wait for an answer, and how many to ask at once, change no question.
    """
    content = [
        asked.datasets,
        asked.dataset_args,
        asked.generation,
        asked.limit,
        asked.eval_type,
        server,
        files,
    ]
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
