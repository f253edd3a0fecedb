"""Liveness and readiness."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from healthchecks import chat
from healthchecks.client import Session
from healthchecks.errors import RefusedError
from healthchecks.runner import Probe, attempt
from healthchecks.target import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from healthchecks.target import ProbeResult, Target

ONE_TOKEN = Settings(max_tokens=1)
# Between two questions whether the server is ready.
PAUSE_SECONDS = 1.0
# HTTP statuses that no waiting mends.
KEY_REFUSED = (401, 403)


def live(target: Target) -> ProbeResult:
    """Say whether GET /health answers 200 within ``target.timeout`` seconds.

    That the process answers proves little: /health stays at 200 while the engine hangs.
    """
    with Session(target) as session:
        return attempt(Probe("live", _live), session, ONE_TOKEN)[0]


def ready(target: Target) -> ProbeResult:
    """Say whether the server lists the model and generates a token with it.

    Both requests together get ``target.timeout`` seconds. On a server with a full queue the token
    waits its turn: choose the timeout with that in mind.
    """
    return _attempt_ready(target)[0]


def await_ready(
    target: Target, seconds: float, on_wait: Callable[[ProbeResult], None] | None = None
) -> ProbeResult:
    """Ask until the server is ready, for at most about so many seconds; return the last result.

    A server that refuses the API key ends the wait: its answer stays the same.

    Args:
        target: the server; its timeout holds for each time that it is asked.
        seconds: the most to wait.
        on_wait: called with each result after which it is asked again.

    """
    end = time.monotonic() + seconds
    while True:
        left = max(end - time.monotonic(), 0.001)
        result, error = _attempt_ready(replace(target, timeout=min(target.timeout, left)))
        refused = isinstance(error, RefusedError) and error.status in KEY_REFUSED
        if result.ok or refused or end - time.monotonic() <= PAUSE_SECONDS:
            return result
        if on_wait is not None:
            on_wait(result)
        time.sleep(PAUSE_SECONDS)


def _attempt_ready(target: Target) -> tuple[ProbeResult, Exception | None]:
    with Session(target) as session:
        return attempt(Probe("ready", _ready), session, ONE_TOKEN)


def _live(session: Session, _: Settings) -> str:
    return f"HTTP {session.expect_ok(session.get('/health')).status}"


def _ready(session: Session, settings: Settings) -> str:
    model = session.model().name
    completion = chat.complete(session, chat.fresh_text(), settings.max_tokens)
    return f"{session.clean(model)}: {completion.line}"
