"""Liveness and readiness."""

from __future__ import annotations

from typing import TYPE_CHECKING

from healthchecks import chat
from healthchecks.client import Session
from healthchecks.runner import Probe, attempt
from healthchecks.target import Settings

if TYPE_CHECKING:
    from healthchecks.target import ProbeResult, Target

ONE_TOKEN = Settings(max_tokens=1)


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
    with Session(target) as session:
        return attempt(Probe("ready", _ready), session, ONE_TOKEN)[0]


def _live(session: Session, _: Settings) -> str:
    return f"HTTP {session.expect_ok(session.get('/health')).status}"


def _ready(session: Session, settings: Settings) -> str:
    model = session.model().name
    completion = chat.complete(session, chat.fresh_text(), settings.max_tokens)
    return f"{session.clean(model)}: {completion.line}"
