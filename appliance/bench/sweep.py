"""How many requests in flight a server can use: 1, 2, 4 … until more bring no more tokens."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from appliance.results.saturation import saturated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from appliance.catalog.bench import Load, Sweep
    from appliance.results.model import BenchRun

THROUGHPUT = "output_throughput"


@dataclass(frozen=True)
class Saturation:
    """How a sweep ended. Throughputs in generated tokens a second.

    `saturated`: more requests in flight than `concurrency` did not pay. `failed`: with more,
    requests failed, so where they stop to pay is not known. `limit`: they paid to the end, and
    the sweep's limit is not the server's.
    """

    outcome: Literal["saturated", "failed", "limit"]
    concurrency: int | None
    throughput: float | None
    reason: str


def levels(sweep: Sweep, max_num_seqs: int | None) -> list[int]:
    """Return the numbers of requests in flight to try, in their order.

    Beyond `max_num_seqs` the server has the rest wait: one point shows that, and no more.
    """
    highest = min(sweep.highest, 2 * max_num_seqs) if max_num_seqs else sweep.highest
    found = [2**power for power in range(highest.bit_length()) if 2**power <= highest]
    # The last one that was asked for, unless it is far beyond what the server takes at a time.
    return found if found[-1] == highest or highest < sweep.highest else [*found, highest]


def point(load: Load, sweep: Sweep, concurrency: int) -> Load:
    """Return the run at one point."""
    least = load.num_prompts or 0
    return dataclasses.replace(
        load,
        label=f"concurrency {concurrency}",
        max_concurrency=concurrency,
        num_prompts=max(least, sweep.prompts_per_request * concurrency),
    )


def over(runs: Sequence[BenchRun], sweep: Sweep) -> Saturation | None:
    """Return why a sweep ends with these runs, or `None` where it goes on."""
    last = runs[-1]
    if last.error or last.metrics.get("failed"):
        what = last.error or f"{last.metrics['failed']:g} requests failed"
        reason = f"at {_flight(last)} requests in flight: {what}"
        if len(runs) == 1:
            return Saturation("failed", None, None, reason)
        return _at("failed", runs[-2], reason)
    speeds = [run.metrics.get(THROUGHPUT, 0) for run in runs]
    place = saturated(speeds, sweep.least_gain)
    if place is None:
        return None
    gain = _gain(runs[-2], last)
    change = f"{gain:+.1%}".replace("%", " %")
    return _at(
        "saturated", runs[place], f"{_flight(last)} requests in flight bring {change} tokens/s"
    )


def unsaturated(runs: Sequence[BenchRun]) -> Saturation | None:
    """Return the end of a sweep that reached its limit; `None` where it is too short to tell."""
    if len(runs) < 2:  # noqa: PLR2004
        return None
    change = f"{_gain(runs[-2], runs[-1]):+.1%}".replace("%", " %")
    reason = f"{_flight(runs[-1])} requests in flight still bring {change} tokens/s"
    return Saturation("limit", None, None, reason)


def _at(outcome: Literal["saturated", "failed"], run: BenchRun, reason: str) -> Saturation:
    return Saturation(outcome, _flight(run), run.metrics.get(THROUGHPUT), reason)


def _flight(run: BenchRun) -> int | None:
    return run.parameters.max_concurrency


def _gain(before: BenchRun, after: BenchRun) -> float:
    first, second = before.metrics.get(THROUGHPUT, 0), after.metrics.get(THROUGHPUT, 0)
    return second / first - 1 if first else 0.0
