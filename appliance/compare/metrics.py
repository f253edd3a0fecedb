"""What is known of each metric of a benchmark: its words, its unit, which direction is good."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from appliance.compare.model import Good

# Of a benchmark's counts: which share of the requests was answered.
SUCCESS = "success_rate"


@dataclass(frozen=True)
class Metric:
    """One metric. `statistic` is how a latency was made of its samples: mean, or 0 < q < 1.

    `samples` names them, and `scale` is the metric's unit in theirs: 1000 for s from ms.
    """

    name: str
    title: str
    unit: str
    good: Good
    family: Literal["throughput", "peak", "latency", "success"]
    statistic: Literal["mean"] | float | None = None
    samples: str = ""
    scale: float = 1.0


_RATES = (
    Metric(SUCCESS, "Requests answered", "share", "higher", "success"),
    Metric("request_throughput", "Request throughput", "requests/s", "higher", "throughput"),
    Metric("requests_per_second", "Request throughput", "requests/s", "higher", "throughput"),
    Metric("output_throughput", "Output throughput", "tokens/s", "higher", "throughput"),
    Metric("total_token_throughput", "Total throughput", "tokens/s", "higher", "throughput"),
    Metric("tokens_per_second", "Total throughput", "tokens/s", "higher", "throughput"),
    Metric("request_goodput", "Goodput", "requests/s", "higher", "throughput"),
    Metric("duration", "Duration", "s", "lower", "throughput"),
    Metric("elapsed_time", "Duration", "s", "lower", "throughput"),
    Metric("max_output_tokens_per_s", "Peak output throughput", "tokens/s", "higher", "peak"),
    Metric("max_concurrent_requests", "Peak requests in flight", "", "lower", "peak"),
)
_KNOWN = {metric.name: metric for metric in _RATES}
QUANTITIES: Mapping[str, str] = {
    "ttft": "TTFT",
    "tpot": "TPOT",
    "itl": "ITL",
    "e2el": "request latency",
    "latency": "batch latency",
}
_LATENCY = re.compile(
    rf"(?P<what>mean|avg|median|p(?P<percent>\d+(?:\.\d+)?))_(?P<of>{'|'.join(QUANTITIES)})(?P<unit>_ms)?"
)


@lru_cache
def metric(name: str) -> Metric | None:
    """Return what is known of a metric, by vLLM's name of it, or `None`."""
    if name in _KNOWN:
        return _KNOWN[name]
    found = _LATENCY.fullmatch(name)
    if found is None:
        return None
    what, of, unit = found["what"], found["of"], "ms" if found["unit"] else "s"
    statistic: Literal["mean"] | float = "mean"
    if what == "median":
        statistic = 0.5
    elif found["percent"]:
        statistic = float(found["percent"]) / 100
        if not 0 < statistic < 1:
            return None
    word = {"avg": "Mean", "mean": "Mean", "median": "Median"}.get(what, what.upper())
    return Metric(
        name,
        f"{word} {QUANTITIES[of]}",
        unit,
        "lower",
        "latency",
        statistic,
        f"{of}_ms",
        1.0 if unit == "ms" else 1000.0,
    )


def known(names: Iterable[str]) -> list[Metric]:
    """Return the metrics that are known, in the order in which they are read."""
    found = [one for name in set(names) if (one := metric(name)) is not None]
    return sorted(found, key=_place)


def _place(one: Metric) -> tuple[int, int, float, str]:
    if one.name in _KNOWN:
        return (0, list(_KNOWN).index(one.name), 0.0, "")
    quantity = list(QUANTITIES).index(one.samples.removesuffix("_ms"))
    return (1, quantity, 0.0 if one.statistic == "mean" else float(one.statistic or 0), one.name)
