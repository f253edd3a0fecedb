"""Run one probe and turn what happens into a result."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from healthchecks.errors import ProbeError
from healthchecks.target import ProbeResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from healthchecks.client import Session


def attempt(
    name: str, run: Callable[[Session, int], str], session: Session, max_tokens: int
) -> tuple[ProbeResult, Exception | None]:
    """Run a probe; return its result and, when it failed, the error behind it."""
    start = time.monotonic()
    failure: Exception | None = None
    try:
        detail = run(session, max_tokens)
    except ProbeError as error:
        failure, detail = error, str(error)
    except OSError as error:  # a media file of the installation
        failure, detail = error, f"cannot read a file of the probe: {error}"
    seconds = round(time.monotonic() - start, 3)
    return ProbeResult(name, ok=failure is None, seconds=seconds, detail=detail), failure
