"""What the latencies of a run say beyond the run: estimates with intervals.

ITL's samples hang together: the tokens of one request are alike. They are drawn by request,
which a flat list of them tells only where it has one stretch a request, in the order of the
requests; where answers differ in length the stretches are cut evenly, and are off by some
tokens. Requests that were in flight together share their steps too: that, no cut shows. The
noise between runs (bench.py) has to cover it.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.compare import intervals
from appliance.compare.arrivals import number

if TYPE_CHECKING:
    from appliance.compare.intervals import Estimate
    from appliance.compare.metrics import Metric
    from appliance.results.model import BenchRun

# Samples that give a figure which differs by more from the one told are not its own.
_OWN_SAMPLES = 0.02


@dataclass(frozen=True)
class Estimates:
    """A metric on both sides; `basis` says, in words, what the intervals rest on."""

    own: Estimate
    reference: Estimate
    basis: str
    fewest: int


def estimates(metric: Metric, own: BenchRun, reference: BenchRun) -> Estimates | None:
    """Return a latency of two runs, or `None` where neither tells how it spreads.

    Where one side does not tell, it is taken to spread as the other does.
    """
    mine, theirs = _estimate(metric, own), _estimate(metric, reference)
    counts = _count(metric, own), _count(metric, reference)
    basis = f"From {counts[0] or '?'} and {counts[1] or '?'} {_word(metric)}."
    if theirs is None:
        theirs = _borrowed(metric, own, reference)
        basis += " The reference has no samples, and is taken to spread as this run does."
    elif mine is None:
        mine = _borrowed(metric, reference, own)
        basis += " This run has no samples, and is taken to spread as the reference does."
    if mine is None or theirs is None:
        return None
    return Estimates(mine, theirs, basis, min(filter(None, counts), default=0))


def sampled(run: BenchRun, metric: Metric) -> bool:
    """Tell whether a run has samples of a metric."""
    return bool(run.samples.get(metric.samples))


def unbounded(metric: Metric, found: Estimates) -> str:
    """Return, in words, why an interval has no end, and how many requests would give it one."""
    at = metric.statistic
    if not isinstance(at, float):
        return "Too few to bound it."
    rest = max(at, 1 - at)
    needed = math.ceil(intervals.Z**2 * rest / (1 - rest) / 10) * 10
    beyond = max(1, round(found.fewest * (1 - rest)))
    slowest = "slowest one" if beyond == 1 else f"{beyond} slowest"
    return (
        f"With {found.fewest} {_word(metric)} it rests on the {slowest}, and nothing that was "
        f"measured bounds it; about {needed} would."
    )


def _estimate(metric: Metric, run: BenchRun, count: int | None = None) -> Estimate | None:
    """Return a run's own estimate, or `None`; `count` is for how many requests it shall be."""
    value = number(run, metric.name)
    if value is None:
        return None
    blocks = _blocks(metric, run)
    if len(blocks) >= intervals.FEWEST:
        if metric.statistic == "mean":
            found = intervals.mean(blocks, count)
        else:
            found = intervals.quantile(blocks, float(metric.statistic or 0), count)
        told = value * metric.scale
        if found.value > 0 and math.isclose(found.value, told, rel_tol=_OWN_SAMPLES):
            return found.scaled(value)
    return _from_deviation(metric, run, value, count)


def _from_deviation(
    metric: Metric, run: BenchRun, value: float, count: int | None
) -> Estimate | None:
    deviation = number(run, f"std_{metric.samples}")
    count = count or _count(metric, run)
    if metric.statistic != "mean" or deviation is None or not count or count < intervals.FEWEST:
        return None
    return intervals.from_deviation(value, deviation / metric.scale, count)


def _borrowed(metric: Metric, source: BenchRun, target: BenchRun) -> Estimate | None:
    """Return the estimate of a run that spreads, relative to its value, as another one does."""
    value, count = number(target, metric.name), _count(metric, target)
    if value is None or not count or count < intervals.FEWEST:
        return None
    found = _estimate(metric, source, count)
    return found.scaled(value) if found else None


def _count(metric: Metric, run: BenchRun) -> int | None:
    """Return of how many requests, or iterations, a latency is."""
    samples = run.samples.get(metric.samples, [])
    if samples and metric.samples != "itl_ms":
        return len(samples)
    if metric.samples == "latency_ms":
        return run.parameters.num_iters
    if run.samples.get("ttft_ms"):
        return len(run.samples["ttft_ms"])
    answered = number(run, "completed") or run.parameters.num_prompts
    return int(answered) if answered else None


def _blocks(metric: Metric, run: BenchRun) -> list[list[float]]:
    """Return the samples of a metric, those of one request together."""
    samples = [value for value in run.samples.get(metric.samples, ()) if math.isfinite(value)]
    if metric.samples != "itl_ms":
        return [[value] for value in samples]
    requests = _count(metric, run) or 0
    if not 0 < requests <= len(samples):
        return []
    edges = [round(len(samples) * part / requests) for part in range(requests + 1)]
    return [samples[a:b] for a, b in itertools.pairwise(edges)]


def _word(metric: Metric) -> str:
    return "iterations" if metric.samples == "latency_ms" else "requests"
