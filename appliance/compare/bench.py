"""Comparison of two benchmark runs, metric by metric.

What makes which figures meaningless, and what only stands beside them:

- Another question (asked.py), another model, or a run that failed: nothing is comparable.
- Requests that failed, on either side: only the share of answered ones is. Latencies are those
  of the requests that survived, and a server that drops its slow half would look fast.
- Arrivals that limit both (arrivals.py): no throughput is. Latencies are: the load is equal.
- Other numbers of generated tokens a request, where a model may stop early: whatever counts
  requests is not; what counts tokens, or is per token, is.
- Other numbers of prompt tokens, as with another chat template: the time to the first token
  and whatever counts prompt tokens are not.
- Dummy against real weights: times are comparable, since the same work is done whatever the
  values are, but for which experts a token goes to. That is a caveat. (Accuracy is not: see
  accuracy.py.)
- Expert parallelism, layout, release, image, hardware: what one wants to compare. Caveats.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from appliance.compare import arrivals, asked, intervals, latency, metrics
from appliance.compare.arrivals import number
from appliance.compare.model import Group, Interval, Row, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from appliance.compare.metrics import Metric
    from appliance.results.model import BenchRun

# Two runs of the same server differ by more than the requests of one run tell: caches, clocks,
# neighbours, the placement of threads. By how much is assumed here, not measured: each run within
# some 3 to 4 % of its server's mean, so the difference of two within about this share of it.
NOISE = 0.05
# Counts of tokens that differ by no more are of the same requests, tokenised twice.
_SAME_TOKENS = 0.05
_PER_REQUEST = {"request_throughput", "requests_per_second", "request_goodput"}
_TIMES = {"duration", "elapsed_time"}
_PROMPT_TOKENS = {"total_token_throughput", "tokens_per_second"}


def group(own: BenchRun, reference: BenchRun, other_model: str | None) -> Group:
    """Compare two runs; `other_model` says that they are of different models, if so."""
    names = {*own.metrics, *reference.metrics, metrics.SUCCESS}
    pair = _Pair(own, reference, other_model)
    rows = [row for one in metrics.known(names) if (row := pair.row(one)) is not None]
    caveats = asked.beside(own, reference) + ([] if pair.forbidden else pair.tokens)
    return Group(own.label, reference.label, tuple(rows), tuple(caveats))


class _Pair:
    """Two runs, and what holds for all of their metrics."""

    def __init__(self, own: BenchRun, reference: BenchRun, other_model: str | None) -> None:
        self.own = own
        self.reference = reference
        self.forbidden = self._forbidden(other_model)
        self.failed = self._failed()
        self.other_output = _other_count(own, reference, "total_output_tokens")
        self.other_input = _other_count(own, reference, "total_input_tokens")
        self.tokens = []
        if self.other_output:
            self.tokens.append(f"Generated tokens a request: {self.other_output}.")
        if self.other_input:
            self.tokens.append(f"Prompt tokens a request: {self.other_input}.")

    def _forbidden(self, other_model: str | None) -> str | None:
        for run, side in ((self.own, "This run"), (self.reference, "The reference")):
            if run.error:
                return f"{side} failed: {run.error}"
        differences = [other_model] if other_model else []
        differences += asked.forbidding(self.own, self.reference)
        return f"Not the same was asked: {'; '.join(differences)}." if differences else None

    def _failed(self) -> str | None:
        for run, side in ((self.own, "of this run"), (self.reference, "of the reference")):
            if failed := number(run, "failed"):
                total = arrivals.requests(run)
                return f"{failed:g} of {total:g} requests {side} failed: the rest is a selection."
        return None

    def row(self, metric: Metric) -> Row | None:
        """Return the verdict on one metric; `None` where neither side has it."""
        if metric.family == "success":
            return self._success(metric)
        mine, theirs = number(self.own, metric.name), number(self.reference, metric.name)
        if mine is None and theirs is None:
            return None
        why = self.forbidden or _absent(mine, theirs) or self.failed or self._other_work(metric)
        if metric.family == "peak":
            why = why or "The largest of many moments: it has no interval, and no good direction."
        if why or mine is None or theirs is None:
            return _row(metric, mine, theirs, "not-comparable", why or "")
        if metric.family == "throughput":
            return self._throughput(metric, mine, theirs)
        return self._latency(metric, mine, theirs)

    def _other_work(self, metric: Metric) -> str | None:
        counts_requests = metric.name in _PER_REQUEST | _TIMES or metric.samples == "e2el_ms"
        if self.other_output and (counts_requests or metric.samples == "latency_ms"):
            return f"Another number of tokens was generated a request: {self.other_output}."
        if self.other_input and (metric.samples == "ttft_ms" or metric.name in _PROMPT_TOKENS):
            return f"The prompts were of another length: {self.other_input} tokens."
        if metric.name in _TIMES:
            mine, theirs = arrivals.requests(self.own), arrivals.requests(self.reference)
            if mine != theirs:
                return "Another number of requests."
        return None

    def _success(self, metric: Metric) -> Row | None:
        mine, theirs = _answered(self.own), _answered(self.reference)
        if mine is None and theirs is None:
            return None
        own, reference = mine and mine[0], theirs and theirs[0]
        if self.forbidden or mine is None or theirs is None:
            why = self.forbidden or "A side does not tell how many requests failed."
            return _row(metric, own, reference, "not-comparable", why)
        low, high = intervals.difference(intervals.share(*mine), intervals.share(*theirs))
        lost = [f"{round(count * (1 - part))} of {count}" for part, count in (mine, theirs)]
        reason = f"Failed: {lost[0]} requests against {lost[1]}."
        verdict = _verdict(metric, low, high)
        if theirs[0] == 1 and mine[0] < 1:
            # One request that fails is a defect, and no matter of chance.
            return _row(metric, own, reference, "worse", reason)
        return _row(metric, own, reference, verdict, reason, Interval(low, high))

    def _throughput(self, metric: Metric, mine: float, theirs: float) -> Row:
        own, reference = arrivals.load(self.own), arrivals.load(self.reference)
        rate = self.own.parameters.request_rate
        if own == reference == "limited":
            reason = (
                f"Limited by the arrival rate: at {rate:g} a second both kept up, and any "
                "server that does shows this figure."
            )
            return _row(metric, mine, theirs, "not-comparable", reason)
        if "unknown" in (own, reference):
            reason = "It can't be told whether the arrival rate limited it."
            return _row(metric, mine, theirs, "not-comparable", reason)
        noise = NOISE * abs(theirs)
        reason = f"A run has one throughput; that of two runs may differ by {100 * NOISE:.0f} %."
        if "limited" in (own, reference) and rate:
            seconds = arrivals.duration(self.reference) or math.inf
            chance = intervals.Z * math.sqrt(2) * arrivals.deviation(self.reference) / seconds
            noise = math.hypot(noise, chance * abs(theirs))
            side = "The reference" if own == "limited" else "This run"
            reason = f"{side} did not keep up with {rate:g} requests a second, the other side did."
        elif own == reference == "behind" and rate:
            reason += f" Neither kept up with {rate:g} requests a second."
        low, high = mine - theirs - noise, mine - theirs + noise
        return _row(
            metric, mine, theirs, _verdict(metric, low, high), reason, Interval(low, high, None)
        )

    def _latency(self, metric: Metric, mine: float, theirs: float) -> Row:
        found = latency.estimates(metric, self.own, self.reference)
        if found is None:
            reason = (
                "No samples, and no standard deviation, on either side: it has no interval."
                if not latency.sampled(self.own, metric)
                else "Too few samples for an interval, or none that give this figure."
            )
            return _row(metric, mine, theirs, "not-comparable", reason)
        low, high = intervals.difference(found.own, found.reference, NOISE * abs(theirs))
        verdict = _verdict(metric, low, high)
        reason = f"{found.basis} Two runs may differ by {100 * NOISE:.0f} %."
        ends = (found.own.high, found.reference.high, found.own.low, found.reference.low)
        if not all(map(math.isfinite, ends)):
            reason = f"{found.basis} {latency.unbounded(metric, found)}"
            if verdict == "same":
                # What is not bounded can't be said to be the same.
                verdict = "not-comparable"
        return _row(metric, mine, theirs, verdict, reason, _interval(low, high))


def _answered(run: BenchRun) -> tuple[float, int] | None:
    answered, failed = number(run, "completed"), number(run, "failed")
    if answered is None or failed is None or answered + failed < 1:
        return None
    return answered / (answered + failed), round(answered + failed)


def _other_count(own: BenchRun, reference: BenchRun, name: str) -> str | None:
    """Return, in words, that counts of tokens a request differ, or `None`."""
    means = []
    for run in (own, reference):
        total, answered = number(run, name), number(run, "completed")
        if not total or not answered:
            return None
        means.append(total / answered)
    if math.isclose(means[0], means[1], rel_tol=_SAME_TOKENS):
        return None
    return f"{means[0]:.4g} against {means[1]:.4g}"


def _absent(mine: float | None, theirs: float | None) -> str | None:
    if mine is None:
        return "This run does not have it."
    return "The reference does not have it." if theirs is None else None


def _verdict(metric: Metric, low: float, high: float) -> Verdict:
    if low <= 0 <= high:
        return "same"
    return "better" if (low > 0) == (metric.good == "higher") else "worse"


def _interval(low: float, high: float) -> Interval:
    return Interval(low if math.isfinite(low) else None, high if math.isfinite(high) else None)


def _row(
    metric: Metric,
    own: float | None,
    reference: float | None,
    verdict: Verdict,
    reason: str,
    difference: Interval | None = None,
) -> Row:
    return Row(
        metric.name,
        metric.title,
        metric.unit,
        metric.good,
        own,
        reference,
        verdict,
        reason,
        difference,
    )


def pairs(
    own: Sequence[BenchRun], reference: Sequence[BenchRun]
) -> tuple[list[tuple[BenchRun, BenchRun]], list[BenchRun], list[BenchRun]]:
    """Match the runs of two results; return the pairs, and what is left over on each side.

    Those that asked the same belong together, of several those of the same label, then those
    in the same order. Then come those of the same label that asked differently; and where just
    one is left on each side, those two: why they are not comparable is worth telling.
    """
    mine, theirs = list(own), list(reference)
    found: list[tuple[BenchRun, BenchRun]] = []
    rules = (
        lambda a, b: asked.key(a) == asked.key(b) and a.label == b.label,
        lambda a, b: asked.key(a) == asked.key(b),
        lambda a, b: a.label == b.label,
        lambda a, b: len(own) == len(reference) == 1,  # noqa: ARG005
    )
    for rule in rules:
        for one in list(mine):
            other = next((run for run in theirs if rule(one, run)), None)
            if other is not None:
                mine.remove(one)
                theirs.remove(other)
                found.append((one, other))
    order = {id(run): place for place, run in enumerate(own)}
    found.sort(key=lambda pair: order[id(pair[0])])
    return found, mine, theirs
