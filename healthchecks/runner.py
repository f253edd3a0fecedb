"""Run one probe and turn what happens into a result."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from healthchecks.errors import ProbeError, UnsupportedError
from healthchecks.target import ProbeResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from healthchecks.client import Session
    from healthchecks.target import Settings, Verdict


class Probe(NamedTuple):
    """One probe.

    ``run`` takes the session and the settings and returns the line to report; it raises
    ProbeError when the probe fails. ``seeded`` says whether its media depend on the seed.
    """

    name: str
    run: Callable[[Session, Settings], str]
    seeded: bool = False


def attempt(
    probe: Probe, session: Session, settings: Settings
) -> tuple[ProbeResult, Exception | None]:
    """Run a probe; return its result and, when it failed, the error behind it."""
    start = time.monotonic()
    failure: Exception | None = None
    verdict: Verdict = "ok"
    try:
        detail = probe.run(session, settings)
    except ProbeError as error:
        failure, detail, verdict = error, str(error), error.verdict
    except OSError as error:  # a media file of the installation
        failure, detail, verdict = error, f"cannot read a file of the probe: {error}", "error"
    seconds = round(time.monotonic() - start, 3)
    passed = failure is None or isinstance(failure, UnsupportedError)
    seed = settings.seed if probe.seeded else None
    return ProbeResult(probe.name, passed, seconds, detail, verdict, seed), failure
