"""The smoke run: every probe in turn, whatever the ones before it said."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from healthchecks.client import Session
from healthchecks.errors import ProbeTimeoutError, UnreachableError
from healthchecks.probes import PROBE_NAMES, PROBES
from healthchecks.runner import attempt
from healthchecks.target import ProbeResult, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from healthchecks.target import Target

# Probes in a row that get no answer, after which the rest would get none either.
MAX_SILENT = 3


def fresh_seed() -> str:
    """Return a seed that no earlier run had."""
    return secrets.token_hex(4)


def smoke(
    target: Target,
    on_result: Callable[[ProbeResult], None] | None = None,
    only: Collection[str] | None = None,
    settings: Settings | None = None,
) -> list[ProbeResult]:
    """Run the smoke probes in their order and return one result for each.

    A failed probe does not stop the run; only three in a row to which the server does not answer
    at all do, and the probes that are left then count as failed. ``target.timeout`` (seconds)
    holds for each probe.

    Args:
        target: the server.
        on_result: called with each result as it comes.
        only: names of the probes to run; None or empty runs them all.
        settings: the limits and the seed; None, or an empty seed, takes a fresh one.

    Raises:
        ValueError: an unknown probe name.

    """
    unknown = sorted(set(only or ()) - set(PROBE_NAMES))
    if unknown:
        raise ValueError(f"unknown probe: {', '.join(unknown)}; known: {', '.join(PROBE_NAMES)}")
    settings = settings or Settings()
    if not settings.seed:
        settings = Settings(settings.max_tokens, settings.answer_tokens, fresh_seed())
    results: list[ProbeResult] = []
    silent: list[ProbeResult] = []
    with Session(target) as session:
        for probe in PROBES:
            if only and probe.name not in only:
                continue
            if len(silent) >= MAX_SILENT:
                result = _skipped(probe.name, silent)
            else:
                session.deadline_in(target.timeout)
                result, error = attempt(probe, session, settings)
                no_answer = isinstance(error, (UnreachableError, ProbeTimeoutError))
                silent = [*silent, result] if no_answer else []
            results.append(result)
            if on_result is not None:
                on_result(result)
    return results


def unready(
    last: ProbeResult,
    on_result: Callable[[ProbeResult], None] | None = None,
    only: Collection[str] | None = None,
) -> list[ProbeResult]:
    """Return the results of a run that did not begin, since the server did not become ready.

    Every probe failed, with the verdict of the last question; the first result quotes its answer.
    """
    results: list[ProbeResult] = []
    for name in PROBE_NAMES:
        if only and name not in only:
            continue
        detail = "skipped: the server is not ready" + ("" if results else f": {last.detail}")
        result = ProbeResult(name, ok=False, seconds=0.0, detail=detail, verdict=last.verdict)
        results.append(result)
        if on_result is not None:
            on_result(result)
    return results


def _skipped(name: str, silent: list[ProbeResult]) -> ProbeResult:
    last = silent[-1].verdict
    reason = "server unreachable"
    if last == "timeout":
        reason = f"the server did not answer {len(silent)} probes in a row"
    return ProbeResult(name, ok=False, seconds=0.0, detail=f"skipped: {reason}", verdict=last)
