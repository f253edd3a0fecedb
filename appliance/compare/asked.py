"""What two runs asked, and of what: what forbids comparing them, and what stands beside it.

The question that a benchmark asks - dataset, lengths, load - must be the same, and so must the
model. Everything else is the system under test: another release, layout, image or machine is
what one compares, and is listed, not refused.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from appliance.results.model import BenchParameters, BenchRun, Model, System

# Part of the question, with the words for it.
_ASKED = {
    "dataset": "dataset",
    "modality": "modality",
    "input_len": "input length",
    "output_len": "output length",
    "request_rate": "request rate",
    "batch_size": "batch size",
}
# What a number of these changes is how long the run is, unless they all come at a rate or the
# run has a start and an end to speak of; but another count of the same is no other question.
_BESIDE = {
    "num_prompts": "number of prompts",
    "num_iters": "number of iterations",
    "seed": "seed",
    "temperature": "temperature",
    "ignore_eos": "ignore_eos",
}
_NONE = {"request_rate": "all at once"}
UNTOLD = "not told"


def key(run: BenchRun) -> tuple[Any, ...]:
    """Return what tells whether two runs asked the same."""
    asked = run.parameters
    count = asked.num_prompts if _rate(asked) is not None else None
    return (
        run.mode,
        *(_asked(asked, name) for name in _ASKED),
        in_flight(asked) if run.mode == "serve" else None,
        count,
    )


def _rate(asked: BenchParameters) -> float | None:
    rate = asked.request_rate
    return None if rate is None or math.isinf(rate) else rate


def _asked(asked: BenchParameters, name: str) -> Any:
    return _rate(asked) if name == "request_rate" else getattr(asked, name)


def in_flight(asked: BenchParameters) -> int | None:
    """Return how many requests are in flight at most; `None` for no limit but the arrivals.

    There are never more than there are prompts: all at once, their number is the load.
    """
    limit, count = asked.max_concurrency, asked.num_prompts
    if _rate(asked) is not None:
        return None if limit is None or limit >= (count or math.inf) else limit
    return min((one for one in (limit, count) if one is not None), default=None)


def forbidding(own: BenchRun, reference: BenchRun) -> list[str]:
    """Return, in words, how two runs asked differently."""
    found = []
    if own.mode != reference.mode:
        found.append(f"mode {own.mode} against {reference.mode}")
    mine, theirs = own.parameters, reference.parameters
    found += _differences(mine, theirs, _ASKED)
    if _rate(mine) is None and _rate(theirs) is None:
        if own.mode == "serve" and in_flight(mine) != in_flight(theirs):
            words = [_word(in_flight(one)) for one in (mine, theirs)]
            found.append(f"requests in flight {words[0]} against {words[1]}")
    elif _rate(mine) == _rate(theirs) and in_flight(mine) != in_flight(theirs):
        words = [_word(in_flight(one), "no limit") for one in (mine, theirs)]
        found.append(f"concurrency limit {words[0]} against {words[1]}")
    # With a rate, their number decides how long the load lasts, and how much piles up.
    if _rate(mine) is not None:
        found += _differences(mine, theirs, {"num_prompts": "prompts"})
    return found


def beside(own: BenchRun, reference: BenchRun) -> list[str]:
    """Return, in words, how two runs differ where that is no other question."""
    mine, theirs = own.parameters, reference.parameters
    told = {
        name: word
        for name, word in _BESIDE.items()
        if getattr(mine, name) is not None and getattr(theirs, name) is not None
    }
    return [f"{text}." for text in _differences(mine, theirs, told)]


def _differences(
    own: BenchParameters, reference: BenchParameters, names: dict[str, str]
) -> list[str]:
    found = []
    for name, word in names.items():
        mine, theirs = _asked(own, name), _asked(reference, name)
        if mine != theirs:
            none = _NONE.get(name, UNTOLD)
            found.append(f"{word} {_word(mine, none)} against {_word(theirs, none)}")
    return found


def _word(value: Any, none: str = UNTOLD) -> str:
    if value is None:
        return none
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def other_model(own: Model, reference: Model) -> str | None:
    """Return, in words, that two models are not the same, or `None`.

    A model may be named by its id on the hub or by its folder: where a side has no owner's
    name, or a path, the last part decides.
    """
    mine, theirs = own.id.rstrip("/"), reference.id.rstrip("/")
    if all(name.count("/") == 1 for name in (mine, theirs)):
        same = mine.lower() == theirs.lower()
    else:
        same = mine.rpartition("/")[2].lower() == theirs.rpartition("/")[2].lower()
    return None if same else f"model {own.id} against {reference.id}"


def systems(own: System, reference: System) -> Iterator[str]:
    """Yield, in words, how the systems under test differ, or that one of them is not told."""
    pairs: list[tuple[str, Any, Any]] = [
        ("release", own.release, reference.release),
        ("platform", own.platform, reference.platform),
        ("product", own.product, reference.product),
        ("weights", _weights(own.model), _weights(reference.model)),
        ("revision of the model", own.model.revision, reference.model.revision),
        (
            "tensor parallel size",
            own.parallel.tensor_parallel_size,
            reference.parallel.tensor_parallel_size,
        ),
        (
            "data parallel size",
            own.parallel.data_parallel_size or 1,
            reference.parallel.data_parallel_size or 1,
        ),
        ("expert parallel", own.parallel.expert_parallel, reference.parallel.expert_parallel),
        ("image", _image(own), _image(reference)),
    ]
    pairs += [
        (name, version, reference.versions[name])
        for name, version in sorted(own.versions.items())
        if name in reference.versions
    ]
    for word, mine, theirs in pairs:
        if mine != theirs:
            yield f"{word}: {_word(mine)} against {_word(theirs)}."


def _weights(model: Model) -> str | None:
    return None if model.weights == "unknown" else model.weights


def _image(system: System) -> str | None:
    digest = system.image_digest or system.image_id
    # Twelve digits are what `docker images` shows too.
    return digest[: len("sha256:") + 12] if digest else system.image
