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


def load(run: BenchRun) -> Load:
    """Return what the arrivals did to a run.

    `free`: no rate, or one so high that the arrivals took the smaller part. `limited`: the
    server kept up, so the throughput is the arrivals'. `behind`: it did not keep up.
    """
    rate = run.parameters.request_rate
    if rate is None or not math.isfinite(rate) or rate <= 0:
        return "free"
    count, seconds = requests(run), duration(run)
    if not count or seconds is None:
        return "unknown"
    arriving = count / rate
    if arriving < _MOST * seconds and (own := _own_time(run)) is not None and own > arriving:
        return "free"
    most = arriving + DEVIATIONS * deviation(run)
    if seconds <= most:
        return "limited"
    own = _own_time(run)
    if own is None:
        return "unknown"
    return "limited" if seconds <= most + own else "behind"


def requests(run: BenchRun) -> float | None:
    """Return how many requests were sent."""
    answered = number(run, "completed")
    if answered is None:
        return run.parameters.num_prompts
    return answered + (number(run, "failed") or 0)


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


def _own_time(run: BenchRun) -> float | None:
    """Return how long one request is answered, in seconds, without its wait for its turn.

    The time to the first token is left out: on a server that does not keep up it is the wait.
    """
    per_token = number(run, "mean_tpot_ms")
    tokens = run.parameters.output_len
    if per_token is None or tokens is None:
        return None
    return per_token * max(0, tokens - 1) / 1000


def number(run: BenchRun, name: str) -> float | None:
    """Return a metric that is a finite number, or `None`."""
    value = run.metrics.get(name)
    return value if value is not None and math.isfinite(value) else None
