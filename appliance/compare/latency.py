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
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.compare import arrivals, intervals
from appliance.compare.arrivals import number
from appliance.compare.intervals import Estimate

if TYPE_CHECKING:
    from appliance.compare.metrics import Metric
    from appliance.results.model import BenchRun

# Samples that give a figure which differs by more from the one told are not its own.
_OWN_SAMPLES = 0.02
# A run is cut into so many stretches. Their means differ by chance by as much as independent
# requests tell; by so many times as much in one run of 25.
_STRETCHES = 10
_ALIKE = 2.0
# Without samples: a 99th percentile so many times the median is one of a queue.
_FAR = 3.0
# From here on a quantile is of the slow half, and of the slowest.
_MIDDLE = 0.5
_TAIL = 0.9


@dataclass(frozen=True)
class Estimates:
    """A metric on both sides; `basis` says, in words, what the intervals rest on.

    `assumed`: one of them is not measured.
    """

    own: Estimate
    reference: Estimate
    basis: str
    assumed: bool


def estimates(metric: Metric, own: BenchRun, reference: BenchRun) -> Estimates | None:
    """Return a latency of two runs, or `None` where neither tells how it spreads.

    Where one side does not tell, it is taken to spread as the other does.
    """
    mine, theirs = _estimate(metric, own), _estimate(metric, reference)
    assumed = mine is None or theirs is None
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
    return Estimates(mine, theirs, basis, assumed)


def unusable(metric: Metric, own: BenchRun, reference: BenchRun) -> str | None:
    """Return, in words, what keeps the figures of two runs from being judged, or `None`."""
    for run, side in ((own, "this run"), (reference, "the reference")):
        count = _count(metric, run)
        if count is not None and count < intervals.FEWEST:
            return f"Too few {_word(metric)} to judge: {count} of {side}."
        told, blocks = number(run, metric.name), _blocks(metric, run)
        if told is None or len(blocks) < intervals.FEWEST:
            continue
        found = _of(metric, blocks)
        if not math.isclose(found, told * metric.scale, rel_tol=_OWN_SAMPLES):
            unit = metric.samples.rpartition("_")[2]
            return (
                f"The samples of {side} do not give this figure: {told * metric.scale:.4g} "
                f"{unit} is told, and they give {found:.4g} {unit}."
            )
    return None


def _of(metric: Metric, blocks: list[list[float]]) -> float:
    values = sorted(value for block in blocks for value in block)
    if metric.statistic == "mean":
        return math.fsum(values) / len(values)
    return intervals.at_share(values, float(metric.statistic or 0))


def waited(metric: Metric, run: BenchRun, noise: float) -> bool:
    """Tell whether the requests of a run waited for each other, as far as its figures show.

    Then those that came one after the other are alike, and tell less than as many that are
    independent: how much less no run of some minutes tells, for near a server's limit one
    crowd lasts as long. What changes a figure by less than the noise does not count.
    """
    values = _series(metric, run)
    size = len(values) // _STRETCHES
    middle = number(run, f"median_{metric.samples}")
    if size < 2:  # noqa: PLR2004 (a mean of one is none)
        most = number(run, f"p99_{metric.samples}")
        return bool(middle and most and metric.samples != "itl_ms" and most > _FAR * middle)
    parts = [statistics.fmean(values[k * size : (k + 1) * size]) for k in range(_STRETCHES)]
    spread = statistics.pvariance(values)
    if spread == 0 or size * statistics.variance(parts) <= _ALIKE * spread:
        return False
    mean = statistics.fmean(values)
    if isinstance(metric.statistic, float) and metric.statistic > _TAIL:
        return intervals.at_share(sorted(values), metric.statistic) > (1 + noise) * mean
    return intervals.Z * statistics.stdev(parts) / math.sqrt(_STRETCHES) > noise / 2 * mean


def _series(metric: Metric, run: BenchRun) -> list[float]:
    """Return one value a request, in the order in which they came."""
    name = "tpot_ms" if metric.samples == "itl_ms" else metric.samples
    return [value for value in run.samples.get(name, ()) if math.isfinite(value)]


def tails(metric: Metric, own: BenchRun, reference: BenchRun, noise: float) -> int:
    """Return 1 where this run's slowest are slower by more than chance, -1 where faster, or 0.

    For one value a request: those of one request are not independent.
    """
    mine, theirs = _series(metric, own), _series(metric, reference)
    at = metric.statistic
    if (
        metric.samples == "itl_ms"
        or not isinstance(at, float)
        or at < _MIDDLE
        or not mine
        or not theirs
    ):
        return 0
    if intervals.heavier(mine, theirs, at, noise):
        return 1
    return -1 if intervals.heavier(theirs, mine, at, noise) else 0


def unbounded(metric: Metric, own: BenchRun, reference: BenchRun) -> str:
    """Return, in words, why an interval has no end, and how many requests would give it one."""
    at = metric.statistic
    counts = [count for run in (own, reference) if (count := _count(metric, run))]
    fewest = min(counts, default=0)
    if not isinstance(at, float):
        return "Nothing that was measured bounds it."
    rest = max(at, 1 - at)
    needed = math.ceil(intervals.Z**2 * rest / (1 - rest) / 10) * 10
    # As numpy interpolates: from the smaller of the two values that it lies between.
    beyond = fewest - math.floor(rest * (fewest - 1))
    end = "slowest" if at >= _MIDDLE else "fastest"
    which = f"{end} one" if beyond <= 1 else f"{beyond} {end}"
    text = (
        f"It can't be told from {fewest} {_word(metric)}: it rests on the {which}, and nothing "
        "that was measured bounds it."
    )
    both = all(run.samples.get(metric.samples) for run in (own, reference))
    return f"{text} About {needed} on each side would." if both and fewest < needed else text


def _estimate(
    metric: Metric, run: BenchRun, count: int | None = None, lost: float | None = None
) -> Estimate | None:
    """Return a run's own estimate, or `None`; `count` is for how many requests it shall be."""
    value = number(run, metric.name)
    if value is None:
        return None
    lost = arrivals.lost(run) if lost is None else lost
    blocks = _blocks(metric, run)
    if len(blocks) < intervals.FEWEST:
        return None if lost else _from_deviation(metric, run, value, count)
    if metric.statistic == "mean":
        found = intervals.without(intervals.mean(blocks, count), blocks, None, lost)
    else:
        at = float(metric.statistic or 0)
        found = intervals.without(intervals.quantile(blocks, at, count), blocks, at, lost)
    return found.scaled(value) if found.value > 0 else None


def _from_deviation(
    metric: Metric, run: BenchRun, value: float, count: int | None
) -> Estimate | None:
    deviation = number(run, f"std_{metric.samples}")
    count = count or _count(metric, run)
    if metric.statistic != "mean" or deviation is None or not count or count < intervals.FEWEST:
        return None
    return intervals.from_deviation(value, deviation / metric.scale, count)


def _borrowed(metric: Metric, source: BenchRun, target: BenchRun) -> Estimate | None:
    """Return the estimate of a run that spreads, relative to its value, as another one does.

    An end that nothing bounds is taken to lie no further away than the other's furthest value.
    """
    value, count = number(target, metric.name), _count(metric, target)
    if value is None or not count or count < intervals.FEWEST:
        return None
    found = _estimate(metric, source, count, max(map(arrivals.lost, (source, target))))
    if found is None or not found.value:
        return None
    samples = [one / metric.scale for one in source.samples.get(metric.samples, ())]
    low = found.low if math.isfinite(found.low) else min(samples, default=found.low)
    high = found.high if math.isfinite(found.high) else max(samples, default=found.high)
    return Estimate(found.value, low, high).scaled(value)


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
