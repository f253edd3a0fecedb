"""How many requests in flight a server can use: 1, 2, 4 … until more bring no more tokens."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from appliance.catalog.bench import Load, Sweep
    from appliance.results.model import BenchRun

THROUGHPUT = "output_throughput"


@dataclass(frozen=True)
class Saturation:
    """How a sweep ended. Throughputs in generated tokens a second.

    `concurrency` is where more requests in flight stopped to pay, `None` where they did to the
    end: then the sweep's limit is not the server's.
    """

    concurrency: int | None
    throughput: float | None
    reason: str


def levels(sweep: Sweep, max_num_seqs: int | None) -> list[int]:
    """Return the numbers of requests in flight to try, in their order.

    Beyond `max_num_seqs` the server has the rest wait: one point shows that, and no more.
    """
    highest = min(sweep.highest, 2 * max_num_seqs) if max_num_seqs else sweep.highest
    found = [2**power for power in range(highest.bit_length()) if 2**power <= highest]
    return found if found[-1] == highest or max_num_seqs else [*found, highest]


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
        return _at(runs[:-1], f"At {_flight(last)} requests in flight: {what}")
    if len(runs) < 2:  # noqa: PLR2004
        return None
    gain = _gain(runs[-2], last)
    if gain >= sweep.least_gain:
        return None
    change = f"{gain:+.1%}".replace("%", " %")
    return _at(runs[:-1], f"{_flight(last)} requests in flight bring {change} tokens/s")


def unsaturated(runs: Sequence[BenchRun]) -> Saturation | None:
    """Return the end of a sweep that reached its limit; `None` where it is too short to tell."""
    if len(runs) < 2:  # noqa: PLR2004
        return None
    change = f"{_gain(runs[-2], runs[-1]):+.1%}".replace("%", " %")
    reason = f"{_flight(runs[-1])} requests in flight still bring {change} tokens/s"
    return Saturation(None, None, reason)


def _at(runs: Sequence[BenchRun], reason: str) -> Saturation:
    if not runs:
        return Saturation(None, None, reason)
    return Saturation(_flight(runs[-1]), runs[-1].metrics.get(THROUGHPUT), reason)


def _flight(run: BenchRun) -> int | None:
    return run.parameters.max_concurrency


def _gain(before: BenchRun, after: BenchRun) -> float:
    first, second = before.metrics.get(THROUGHPUT, 0), after.metrics.get(THROUGHPUT, 0)
    return second / first - 1 if first else 0.0
