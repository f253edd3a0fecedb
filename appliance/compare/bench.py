"""Comparison of two benchmark runs, metric by metric.

What makes which figures meaningless, and what only stands beside them:

- Another question (asked.py), another model, or a run that failed: nothing is comparable.
- Many requests that failed, on either side: only the share of answered ones is. Latencies are
  those of the requests that survived, and a server that drops its slow half would look fast.
  Where a few failed, intervals have room for whatever those would have shown.
- Arrivals that limit both (arrivals.py): no throughput is, unless they differ by more than
  arrivals do by chance. Latencies are: the load is equal.
- Requests that came at random, and waited for each other: latencies are not, for other
  arrivals would have given others. Where the seed is the same, so are the arrivals.
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
from appliance.compare.model import CONFIDENCE, Group, Interval, Row, Verdict

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
# Of so many requests some may have failed: more change the load.
_MOST_LOST = 0.05
# Figures without samples, and without a deviation: from which ratio on they are taken to differ.
# For a middle, and for a quantile of the slowest.
_GROSS = 1.3
_GROSS_TAIL = 2.0
_TAIL = 0.9
_PER_REQUEST = {"request_throughput", "requests_per_second", "request_goodput"}
_TIMES = {"duration", "elapsed_time"}
_PROMPT_TOKENS = {"total_token_throughput", "tokens_per_second"}


def group(own: BenchRun, reference: BenchRun, other_model: str | None) -> Group:
    """Compare two runs; `other_model` says that they are of different models, if so."""
    names = {*own.metrics, *reference.metrics, metrics.SUCCESS}
    pair = _Pair(own, reference, other_model)
    rows = [row for one in metrics.known(names) if (row := pair.row(one)) is not None]
    caveats = asked.beside(own, reference) + ([] if pair.forbidden else pair.tokens + pair.few)
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
        """Return, in words, that too many requests failed; a few are put beside the figures."""
        self.lost = 0.0
        self.few: list[str] = []
        for run, side in ((self.own, "of this run"), (self.reference, "of the reference")):
            lost, total = arrivals.lost(run), arrivals.requests(run) or 0
            text = f"{round(lost * total)} of {total:g} requests {side} failed"
            if lost > _MOST_LOST:
                return f"{text}: the rest is a selection."
            if lost:
                self.lost += lost
                self.few.append(
                    f"{text}: the intervals take them to be among the slowest, or the fastest."
                )
        return None

    def row(self, metric: Metric) -> Row | None:
        """Return the verdict on one metric; `None` where neither side has it."""
        if metric.family == "success":
            return self._success(metric)
        mine, theirs = number(self.own, metric.name), number(self.reference, metric.name)
        if mine is None and theirs is None:
            return None
        why = self.forbidden or _absent(mine, theirs) or self.failed or self._other_work(metric)
        if not why and min(mine or 0, theirs or 0) <= 0:
            why = "A figure that is not above 0 is no measurement."
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
        lost = [f"{round(count * (1 - part))} of {count}" for part, count in (mine, theirs)]
        reason = f"Failed: {lost[0]} requests against {lost[1]}."
        if min(own or 0, reference or 0) < 1:
            reason += " Each that failed deserves a look, whatever the verdict."
        if min(mine[1], theirs[1]) < intervals.FEWEST:
            return _row(metric, own, reference, "not-comparable", f"{reason} Too few to judge.")
        low, high = intervals.difference(intervals.share(*mine), intervals.share(*theirs))
        verdict = _verdict(metric, low, high)
        return _row(metric, own, reference, verdict, reason, Interval(low, high))

    def _throughput(self, metric: Metric, mine: float, theirs: float) -> Row:
        runs = (self.own, self.reference)
        loads = (
            arrivals.load(self.own, self.reference),
            arrivals.load(self.reference, self.own),
        )
        counts = [count for run in runs if (count := arrivals.requests(run)) is not None]
        if min(counts, default=intervals.FEWEST) < intervals.FEWEST:
            reason = f"Too few requests to judge: {min(counts):g}."
            return _row(metric, mine, theirs, "not-comparable", reason)
        if "unknown" in loads:
            reason = "It can't be told whether the arrival rate limited it."
            return _row(metric, mine, theirs, "not-comparable", reason)
        noise = NOISE
        if "free" not in loads and not arrivals.same(*runs):
            # Where a server is behind, what limits it is itself, but for the odd idle moment.
            limited = [run for run, load in zip(runs, loads, strict=True) if load == "limited"]
            chance = max(map(arrivals.chance, limited), default=0.0)
            noise = math.hypot(noise, intervals.Z * math.sqrt(2) * chance)
        half = (noise + self.lost) * (mine + theirs) / 2
        low, high = mine - theirs - half, mine - theirs + half
        verdict = _verdict(metric, low, high)
        reason = f"A run has one throughput; that of two runs may differ by {100 * NOISE:.0f} %."
        if loads != ("free", "free"):
            reason = f"{self._took()} {reason}"
        if loads == ("limited", "limited") and verdict == "same":
            reason = (
                f"Limited by the arrival rate: {self._took()} What is left of a difference "
                "arrivals make by chance, and any server that keeps up shows such a figure."
            )
            return _row(metric, mine, theirs, "not-comparable", reason)
        return _row(metric, mine, theirs, verdict, reason, Interval(low, high, None))

    def _took(self) -> str:
        """Return how long the runs took, beside their arrivals: who kept up, everyone can see."""
        rate = self.own.parameters.request_rate or math.inf
        count = arrivals.requests(self.own) or 0
        mine, theirs = (arrivals.duration(run) or 0 for run in (self.own, self.reference))
        return (
            f"At {rate:g} a second {count:g} requests arrive in about {count / rate:.4g} s; this "
            f"run took {mine:.4g} s, and the reference {theirs:.4g} s."
        )

    def _waited(self, metric: Metric) -> str | None:
        """Return, in words, that chance had a hand in how long requests waited."""
        runs = (self.own, self.reference)
        if not all(map(arrivals.rated, runs)) or arrivals.same(*runs):
            return None
        waited = [latency.waited(metric, run, NOISE) for run in runs]
        if not any(waited):
            return None
        behind = [
            arrivals.load(run, other) == "behind"
            for run, other in (runs, (self.reference, self.own))
        ]
        if waited == behind and not all(waited):
            # One was above its limit, the other clearly below: that is no chance.
            return None
        return (
            "Requests waited for each other, so other arrivals would have given other times. "
            "The same --seed on both sides gives the same arrivals."
        )

    def _latency(self, metric: Metric, mine: float, theirs: float) -> Row:
        why = latency.unusable(metric, self.own, self.reference) or self._waited(metric)
        if why:
            return _row(metric, mine, theirs, "not-comparable", why)
        found = latency.estimates(metric, self.own, self.reference)
        if found is None:
            return self._gross(metric, mine, theirs)
        noise = NOISE * (mine + theirs) / 2
        low, high = intervals.difference(found.own, found.reference, noise)
        verdict = _verdict(metric, low, high)
        reason = f"{found.basis} Two runs may differ by {100 * NOISE:.0f} %."
        ends = (found.own.high, found.reference.high, found.own.low, found.reference.low)
        if not all(map(math.isfinite, ends)) and verdict == "same":
            # What is not bounded can't be said to be the same.
            verdict, reason = self._open(metric, found.basis)
        confidence = None if found.assumed else CONFIDENCE
        return _row(metric, mine, theirs, verdict, reason, _interval(low, high, confidence))

    def _open(self, metric: Metric, basis: str) -> tuple[Verdict, str]:
        """Return the verdict on a quantile that nothing bounds, and why."""
        side = latency.tails(metric, self.own, self.reference, NOISE) if not self.lost else 0
        if side:
            words = ("this run", "the reference")
            slow, fast = words if side > 0 else words[::-1]
            reason = (
                f"{basis} Nothing bounds it, but more requests of {slow} than chance allows were "
                f"slower than the figure of {fast} and {100 * NOISE:.0f} %."
            )
            return "worse" if side > 0 else "better", reason
        text = latency.unbounded(metric, self.own, self.reference)
        return "not-comparable", f"{basis} {text}"

    def _gross(self, metric: Metric, mine: float, theirs: float) -> Row:
        """Return the verdict on two figures of which nothing tells how they spread."""
        if self.lost:
            reason = "Requests failed, and no samples tell how much that may hide."
            return _row(metric, mine, theirs, "not-comparable", reason)
        tail = isinstance(metric.statistic, float) and not 1 - _TAIL < metric.statistic < _TAIL
        least = _GROSS_TAIL if tail else _GROSS
        half = (least - 1) * min(mine, theirs)
        low, high = mine - theirs - half, mine - theirs + half
        verdict = _verdict(metric, low, high)
        reason = (
            "Neither side has samples or a standard deviation: a difference of less than "
            f"{100 * (least - 1):.0f} % is taken to be nothing that can be told."
        )
        if verdict == "same" and abs(mine - theirs) > NOISE * (mine + theirs) / 2:
            verdict = "not-comparable"
        return _row(metric, mine, theirs, verdict, reason, Interval(low, high, None))


def _answered(run: BenchRun) -> tuple[float, int] | None:
    """Return the share of requests that were answered, and of how many; `None` if untold."""
    answered, total = number(run, "completed"), arrivals.requests(run)
    untold = number(run, "failed") is None and run.parameters.num_prompts is None
    if answered is None or not total or untold or answered < 0:
        return None
    return answered / total, round(total)


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


def _interval(low: float, high: float, confidence: float | None) -> Interval:
    ends = [end if math.isfinite(end) else None for end in (low, high)]
    return Interval(ends[0], ends[1], confidence)


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
