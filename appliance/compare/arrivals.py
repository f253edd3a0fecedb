"""Whether a run's throughput is the server's, or only that of its requests' arrivals.

A run of 200 requests at 1 a second takes 200 s and the last request's own time on any server
that keeps up: its throughput is the client's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from appliance.results.model import BenchRun

# Of the arrivals' whole length: it is a sum of as many random gaps, each of which deviates by
# about its mean, so 200 at 1 a second deviate by 14 s. vLLM's `get_request` has come to scale
# them to exactly count / rate; other clients and older releases do not, and a result does not
# say whether its own did.
DEVIATIONS = 3.0
# Where the arrivals are less of a run than this, it was its requests that took the time.
_MOST = 0.5

Load = Literal["free", "limited", "behind", "unknown"]


def load(run: BenchRun, other: BenchRun | None = None) -> Load:
    """Return what the arrivals did to a run.

    `free`: no rate, or one so high that the arrivals took the smaller part. `limited`: the
    server may have kept up, so the throughput is the arrivals'. `behind`: it did not keep up.
    `other` is a run of the same question: it helps to tell how long a request alone takes.
    """
    if not rated(run):
        return "free"
    rate = run.parameters.request_rate or math.inf
    count, seconds = requests(run), duration(run)
    if not count or seconds is None:
        return "unknown"
    arriving = count / rate
    own = _own_time(run, other)
    if arriving < _MOST * seconds and own is not None and own > arriving:
        return "free"
    most = arriving + DEVIATIONS * deviation(run)
    if seconds <= most:
        return "limited"
    if own is None:
        return "unknown"
    return "limited" if seconds <= most + own else "behind"


def rated(run: BenchRun) -> bool:
    """Tell whether the requests of a run came at a rate, and not all at once."""
    rate = run.parameters.request_rate
    return rate is not None and math.isfinite(rate) and rate > 0


def same(own: BenchRun, reference: BenchRun) -> bool:
    """Tell whether the requests of two runs are known to have arrived at the same moments."""
    return own.parameters.seed is not None and own.parameters.seed == reference.parameters.seed


def requests(run: BenchRun) -> float | None:
    """Return how many requests were sent: one that nobody tells of was sent all the same."""
    answered, asked = number(run, "completed"), run.parameters.num_prompts
    if answered is None:
        return asked
    return max(answered + max(0, number(run, "failed") or 0), asked or 0)


def lost(run: BenchRun) -> float:
    """Return the share of the requests that got no answer."""
    total, answered = requests(run), number(run, "completed")
    return 0.0 if not total or answered is None else 1 - answered / total


def duration(run: BenchRun) -> float | None:
    """Return how long the run took, in seconds."""
    seconds, rate = number(run, "duration"), number(run, "request_throughput")
    if seconds is None and rate:
        answered = number(run, "completed") or run.parameters.num_prompts
        seconds = answered / rate if answered else None
    return seconds


def deviation(run: BenchRun) -> float:
    """Return the standard deviation of the arrivals' length, in seconds; 0 without a rate."""
    rate, count = run.parameters.request_rate, requests(run)
    return math.sqrt(count) / rate if rate and count else 0.0


def chance(run: BenchRun) -> float:
    """Return the same as a share of the run's own length."""
    seconds = duration(run)
    return deviation(run) / seconds if seconds else 0.0


def _own_time(run: BenchRun, other: BenchRun | None) -> float | None:
    """Return how long one request is answered, in seconds, without its wait for its turn.

    The time to the first token is left out: on a server that does not keep up it is the wait.
    The time per token grows there too, so it is that of the fastest requests, or without
    samples at most that of the other run.
    """
    tokens = run.parameters.output_len
    per_token = _fastest(run)
    if per_token is None:
        means = [number(run, "mean_tpot_ms")]
        means += [] if other is None else [_fastest(other), number(other, "mean_tpot_ms")]
        per_token = min((one for one in means if one is not None), default=None)
    if per_token is None or tokens is None:
        return None
    return per_token * max(0, tokens - 1) / 1000


def _fastest(run: BenchRun) -> float | None:
    """Return the time per token, in ms, of the fastest twentieth of the requests."""
    found = sorted(value for value in run.samples.get("tpot_ms", ()) if math.isfinite(value))
    return found[len(found) // 20] if found else None


def number(run: BenchRun, name: str) -> float | None:
    """Return a metric that is a finite number, or `None`."""
    value = run.metrics.get(name)
    return value if value is not None and math.isfinite(value) else None
