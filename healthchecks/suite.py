"""The smoke run: every probe in turn, whatever the ones before it said."""

from __future__ import annotations

from typing import TYPE_CHECKING

from healthchecks.client import Session
from healthchecks.errors import UnreachableError
from healthchecks.probes import PROBE_NAMES, PROBES
from healthchecks.runner import attempt
from healthchecks.target import DEFAULT_MAX_TOKENS, ProbeResult

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from healthchecks.target import Target

MAX_REFUSED_CONNECTIONS = 3


def smoke(
    target: Target,
    on_result: Callable[[ProbeResult], None] | None = None,
    only: Collection[str] | None = None,
    max_tokens: int = DEFAULT_MAX_TOKENS,
) -> list[ProbeResult]:
    """Run the smoke probes in their order and return one result for each.

    A failed probe does not stop the run; only three connections in a row that cannot be made do,
    and the probes that are left then count as failed. ``target.timeout`` (seconds) holds for each
    probe.

    Args:
        target: the server.
        on_result: called with each result as it comes.
        only: names of the probes to run; None or empty runs them all.
        max_tokens: the most tokens to generate in each probe.

    Raises:
        ValueError: an unknown probe name, or max_tokens below 1.

    """
    unknown = sorted(set(only or ()) - set(PROBE_NAMES))
    if unknown:
        raise ValueError(f"unknown probe: {', '.join(unknown)}; known: {', '.join(PROBE_NAMES)}")
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, not {max_tokens}")
    results: list[ProbeResult] = []
    refused = 0
    with Session(target) as session:
        for probe in PROBES:
            if only and probe.name not in only:
                continue
            if refused >= MAX_REFUSED_CONNECTIONS:
                result = ProbeResult(
                    probe.name, ok=False, seconds=0.0, detail="skipped: server unreachable"
                )
            else:
                session.deadline_in(target.timeout)
                result, error = attempt(probe.name, probe.run, session, max_tokens)
                refused = refused + 1 if isinstance(error, UnreachableError) else 0
            results.append(result)
            if on_result is not None:
                on_result(result)
    return results
