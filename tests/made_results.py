"""Results of benchmarks and evaluations that no server ever gave, with differences of choice."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from dataclasses import dataclass, replace
from typing import Any

from appliance.catalog import references
from appliance.compare.intervals import at_share
from appliance.results.model import (
    BenchParameters,
    BenchRun,
    EvalScore,
    EvalSettings,
    Model,
    Parallel,
    Result,
    System,
)

MODEL = "Qwen/Qwen3-Omni-30B-A3B-Thinking"


@dataclass(frozen=True)
class Server:
    """A made-up server: medians in ms, their spread (sigma of the logarithm), tokens/s at most."""

    ttft: float = 200.0
    tpot: float = 50.0
    spread: float = 0.2
    most: float = 900.0
    fails: int = 0

    def slower(self, factor: float) -> Server:
        return replace(self, ttft=self.ttft * factor, tpot=self.tpot * factor)


@dataclass(frozen=True)
class Asked:
    """What is asked of it: as `BenchParameters` has it."""

    count: int = 200
    rate: float | None = 1.0
    concurrency: int | None = None
    input_len: int = 200
    output_len: int = 128


def run(
    server: Server = Server(),
    asked: Asked = Asked(),
    *,
    seed: int = 0,
    label: str = "guide",
    itl: bool = True,
) -> BenchRun:
    """One run of `vllm bench serve`, with samples."""
    draw = random.Random(seed)  # noqa: S311
    answered = asked.count - server.fails
    load = 1.0
    if asked.rate is None and asked.concurrency:
        wanted = asked.concurrency * 1000 / server.tpot
        load = max(1.0, wanted / server.most)
    ttft = [load * server.ttft * draw.lognormvariate(0, server.spread) for _ in range(answered)]
    tpot = [load * server.tpot * draw.lognormvariate(0, server.spread / 4) for _ in range(answered)]
    steps = asked.output_len - 1
    samples = {"ttft_ms": ttft, "tpot_ms": tpot}
    if itl:
        samples["itl_ms"] = [
            one * draw.choice((0.9, 0.95, 1.0, 1.15)) for one in tpot for _ in range(steps)
        ]
    spent = [(a + b * steps) / 1000 for a, b in zip(ttft, tpot, strict=True)]
    if asked.rate is not None:
        arriving = asked.count / asked.rate
        duration = max(arriving, answered * asked.output_len / server.most) + spent[-1]
    else:
        duration = math.fsum(spent) / min(asked.concurrency or asked.count, asked.count)
    metrics = {
        "completed": float(answered),
        "failed": float(server.fails),
        "duration": duration,
        "total_input_tokens": float(answered * asked.input_len),
        "total_output_tokens": float(answered * asked.output_len),
        "request_throughput": answered / duration,
        "output_throughput": answered * asked.output_len / duration,
        "total_token_throughput": answered * (asked.output_len + asked.input_len) / duration,
        "max_output_tokens_per_s": 1.8 * answered * asked.output_len / duration,
        "max_concurrent_requests": float(asked.concurrency or 24),
    }
    for name, values in samples.items():
        metrics |= figures(name, values)
    parameters = BenchParameters(
        dataset="random",
        input_len=asked.input_len,
        output_len=asked.output_len,
        num_prompts=asked.count,
        request_rate=asked.rate,
        max_concurrency=asked.concurrency,
        seed=seed,
    )
    return BenchRun(
        label=label, mode="serve", parameters=parameters, metrics=metrics, samples=samples
    )


def figures(name: str, values: list[float]) -> dict[str, float]:
    """The figures that vLLM makes of samples."""
    ordered = sorted(values)
    return {
        f"mean_{name}": statistics.fmean(values),
        f"median_{name}": at_share(ordered, 0.5),
        f"std_{name}": statistics.pstdev(values),
        f"p99_{name}": at_share(ordered, 0.99),
    }


def bare(one: BenchRun, *, std: bool = False) -> BenchRun:
    """A run as a page publishes it: without samples."""
    metrics = {k: v for k, v in one.metrics.items() if std or not k.startswith("std_")}
    return one.model_copy(update={"samples": {}, "metrics": metrics})


def system(**more: Any) -> System:
    told: dict[str, Any] = {
        "model": Model(id=MODEL, weights="real"),
        "parallel": Parallel(tensor_parallel_size=2, data_parallel_size=1, expert_parallel=True),
        "launcher": "1.0",
        "platform": "ascend",
        "product": "atlas-a2",
        "release": "v0.23.0",
        "image": "qwen3-omni-appliance:v0.23.0",
        "image_digest": "sha256:" + "ab" * 32,
        "versions": {"vllm": "0.23.0", "torch": "2.11.0", "transformers": "4.57.6"},
        "serve_args": [MODEL, "--tensor-parallel-size", "2", "--enable-expert-parallel"],
    }
    return System(**{**told, **more})


def bench(*runs: BenchRun, name: str = "own", **more: Any) -> Result:
    """The document of some runs."""
    told = {"kind": "bench", "name": name, "system": system(), "runs": list(runs)}
    told |= {"started": "2026-11-20T08:00:00Z", "finished": "2026-11-20T08:09:00Z"}
    return Result(**{**told, **more})


def score(dataset: str, share: float, num: int, **more: Any) -> EvalScore:
    told: dict[str, Any] = {"metric": "mean_acc", "subset": "default", "modalities": []}
    return EvalScore(dataset=dataset, num=num, score=share, **{**told, **more})


def evaluation(*scores: EvalScore, name: str = "own", **more: Any) -> Result:
    """The document of some scores."""
    settings = EvalSettings(
        evalscope="1.2.0",
        generation={"max_tokens": 10000, "temperature": 0.6},
        dataset_args={"omni_bench": {"extra_params": {"use_image": True, "use_audio": False}}},
        batch_size=1,
        limit=100,
    )
    told = {"kind": "eval", "name": name, "system": system(), "evaluation": settings}
    return Result(**{**told, "scores": list(scores), **more})


def guide_scores(omni: float = 0.46, gsm8k: float = 0.97, bbh: float = 0.91) -> Result:
    """An evaluation of what the guide evaluates, with a row for each of bbh's subsets too."""
    names = references.asked_by_default("bbh")["subset_list"]
    subsets = [score("bbh", bbh, 10, subset=name) for name in names]
    return evaluation(
        score("omni_bench", omni, 100, modalities=["image"]),
        score("gsm8k", gsm8k, 100, subset="main"),
        *subsets,
        score("bbh", bbh, 270, subset="OVERALL"),
    )


def sweep(server: Server = Server(), *, seed: int = 0, **more: Any) -> Result:
    """Runs with more and more requests in flight: from some number on it is no faster."""
    runs = [
        run(
            server,
            Asked(count=max(32, 4 * level), rate=None, concurrency=level),
            seed=seed + level,
            label=f"concurrency {level}",
        )
        for level in itertools.takewhile(lambda n: n <= 256, (2**k for k in range(20)))
    ]
    return bench(*runs, preset="sweep", **more)
