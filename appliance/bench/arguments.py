"""What `vllm bench` is told: a preset, changed by flags, as lists of arguments.

Two presets' worth of prompts are the same for the same seed, and a server that has seen a prompt
answers it from its cache: a second run would look faster than the first. Each run therefore has
a salt of its own, which vLLM's prefix cache goes by, and keeps the seed: the prompts, and the
moments at which they arrive, are the same from one day to the next. Media are cached whatever
the salt, so runs with media get a seed of their own.
"""

from __future__ import annotations

import dataclasses
import json
import math
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from appliance.catalog.bench import presets
from appliance.errors import ApplianceError
from appliance.plan import names
from appliance.results.model import BenchParameters

if TYPE_CHECKING:
    from appliance.catalog.bench import Load, Mode, Preset

SEEDS = 2**31
METRICS = "ttft,tpot,itl,e2el"
# What each mode's load is made of: a flag for something else would be without effect.
_OF_MODE: dict[Mode, frozenset[str]] = {
    "serve": frozenset(
        {"num_prompts", "input_len", "output_len", "request_rate", "max_concurrency", "seed"}
    ),
    "latency": frozenset({"input_len", "output_len", "batch_size", "num_iters", "seed"}),
    "throughput": frozenset({"num_prompts", "input_len", "output_len", "seed"}),
}


@dataclass(frozen=True)
class Changes:
    """What flags say instead of the preset; `None` leaves it. Names as in `Load`.

    `request_rate` is infinite for all at once. In a sweep `max_concurrency` is where it ends,
    and `num_prompts` the least of each point.
    """

    num_prompts: int | None = None
    input_len: int | None = None
    output_len: int | None = None
    request_rate: float | None = None
    max_concurrency: int | None = None
    batch_size: int | None = None
    num_iters: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Server:
    """Where `serve` finds what it measures: URL, name in the API, and tokenizer's folder."""

    url: str
    model: str
    tokenizer: str


@dataclass(frozen=True)
class Order:
    """One run as the container is told of it. `result` is the file that vLLM writes there."""

    arguments: tuple[str, ...]
    result: str
    client: dict[str, Any] | None = None


def preset(name: str) -> Preset:
    """Return a preset by name; raises input-invalid."""
    known = presets()
    if name not in known:
        message = f"There is no preset {name}; there are {', '.join(known)}."
        raise ApplianceError("input-invalid", message)
    return known[name]


def changed(name: str, changes: Changes) -> Preset:
    """Return a preset as flags change it; raises input-invalid for a flag without effect."""
    wanted = preset(name)
    given = {key: value for key, value in dataclasses.asdict(changes).items() if value is not None}
    if strange := sorted(set(given) - _OF_MODE[wanted.mode]):
        flags = ", ".join(f"--{key.replace('_', '-')}" for key in strange)
        raise ApplianceError(
            "input-invalid",
            f"The preset {name} is measured by `vllm bench {wanted.mode}`, which knows no {flags}.",
        )
    given.pop("seed", None)
    if given.get("request_rate") == math.inf:
        given["request_rate"] = None
    if wanted.sweep and "max_concurrency" in given:
        sweep = dataclasses.replace(wanted.sweep, highest=given.pop("max_concurrency"))
        wanted = dataclasses.replace(wanted, sweep=sweep)
    loads = tuple(dataclasses.replace(load, **given) for load in wanted.loads)
    return dataclasses.replace(wanted, loads=loads)


def warm_up(load: Load) -> Load:
    """Return the run that goes before another one, and is not counted."""
    return dataclasses.replace(
        load,
        label="warm-up",
        num_prompts=load.warm_up,
        request_rate=None,
        max_concurrency=None,
        fresh_seed=True,
    )


def seed_of(load: Load, changes: Changes) -> int:
    """Return the seed of a run: the one that was asked for, vLLM's own, or a fresh one."""
    if changes.seed is not None:
        return changes.seed
    return secrets.randbelow(SEEDS) if load.fresh_seed else 0


def serve(load: Load, server: Server, seed: int) -> Order:
    """Return a run of `vllm bench serve`. The guide's own words come first, in its order."""
    rate = "inf" if load.request_rate is None else f"{load.request_rate:g}"
    visual = bool(load.media.image or load.media.video)
    result = _result(load)
    folder, _, file = result.rpartition("/")
    words = [
        *("bench", "serve"),
        *("--model", server.model),
        *("--dataset-name", "random-mm" if visual else "random"),
        *("--random-input", str(load.input_len)),
        *("--num-prompt", str(load.num_prompts)),
        *("--request-rate", rate),
        "--save-result",
        *("--random-output-len", str(load.output_len)),
        "--ignore-eos",
        *("--seed", str(seed)),
        *_in_flight(load),
        *("--base-url", server.url),
        *("--tokenizer", server.tokenizer),
        *_backend(load),
        *(_buckets(load) if visual else ()),
        *("--extra-body", json.dumps({"cache_salt": secrets.token_hex(16)})),
        # A trial request would leave its prompt in the cache; releases differ in the default.
        *("--ready-check-timeout-sec", "0"),
        *("--percentile-metrics", METRICS),
        "--save-detailed",
        *("--result-dir", folder, "--result-filename", file),
    ]
    client = None
    if load.media.sound_seconds:
        client = {"sound": {"seconds": load.media.sound_seconds, "seed": seed}}
    return Order(tuple(words), result, client)


def _in_flight(load: Load) -> tuple[str, ...]:
    if load.max_concurrency is None:
        return ()
    return ("--max-concurrency", str(load.max_concurrency))


def _backend(load: Load) -> tuple[str, ...]:
    if load.media.modality == "text":
        return ()
    return ("--backend", "openai-chat", "--endpoint", "/v1/chat/completions")


def _buckets(load: Load) -> tuple[str, ...]:
    """Return what makes each request hold one image, one video, or one of both."""
    buckets: dict[tuple[int, ...], float] = {}
    if load.media.image:
        buckets[(*load.media.image, 1)] = 1.0
    if load.media.video:
        buckets[load.media.video] = 1.0
    shares = {size: 1 / len(buckets) for size in buckets}
    limits = {"image": int(bool(load.media.image)), "video": int(bool(load.media.video))}
    return (
        *("--random-mm-base-items-per-request", str(len(buckets))),
        *("--random-mm-num-mm-items-range-ratio", "0"),
        *("--random-mm-limit-mm-per-prompt", json.dumps(limits)),
        *("--random-mm-bucket-config", repr(shares)),
    )


def offline(mode: Mode, load: Load, engine: tuple[str, ...], seed: int) -> Order:
    """Return a run of `vllm bench latency|throughput`, with an engine like a server's.

    `engine` are the arguments of `vllm serve`, the model's folder first.
    """
    lengths = ["--input-len", str(load.input_len), "--output-len", str(load.output_len)]
    if mode == "latency":
        lengths += ["--batch-size", str(load.batch_size), "--num-iters", str(load.num_iters)]
        lengths += ["--num-iters-warmup", str(load.num_iters_warmup)]
        # Its batch is the same in each iteration.
        lengths += ["--no-enable-prefix-caching"]
    else:
        lengths += ["--dataset-name", "random", "--num-prompts", str(load.num_prompts)]
        # Newer releases prefer these, whose defaults are others, to those above.
        lengths += ["--random-input-len", str(load.input_len)]
        lengths += ["--random-output-len", str(load.output_len)]
    result = _result(load)
    words = ("bench", mode, *lengths, "--seed", str(seed), "--output-json", result)
    return Order(words, result, {"engine": list(engine)})


def _result(load: Load) -> str:
    return f"{names.WORK_DIR}/bench/{slug(load.label)}.json"


def slug(label: str) -> str:
    """Return a run's label as the name of a file."""
    return "".join(letter if letter.isalnum() else "-" for letter in label.lower())


def parameters(mode: Mode, load: Load, seed: int) -> BenchParameters:
    """Return what a run asks, for the result document."""
    return BenchParameters(
        dataset=dataset(load),
        modality=load.media.modality,
        input_len=load.input_len,
        output_len=load.output_len,
        num_prompts=load.num_prompts,
        request_rate=load.request_rate,
        max_concurrency=load.max_concurrency,
        batch_size=load.batch_size,
        num_iters=load.num_iters,
        seed=seed,
        temperature=1.0 if mode != "serve" else None,  # `serve` leaves it to the server.
        ignore_eos=True,
    )


def dataset(load: Load) -> str:
    """Name what is asked: vLLM's dataset, and the size of each medium that a request holds."""
    media = load.media
    visual = media.image or media.video
    parts = ["random-mm" if visual else "random"]
    if media.image:
        parts.append("image {}x{}".format(*media.image))
    if media.video:
        parts.append("video {}x{}x{}".format(*media.video))
    if media.sound_seconds:
        parts.append(f"sound {media.sound_seconds:g} s")
    return " + ".join(parts)
