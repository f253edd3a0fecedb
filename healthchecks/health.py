"""Liveness and readiness."""

from __future__ import annotations

from typing import TYPE_CHECKING

from healthchecks import chat
from healthchecks.client import Session
from healthchecks.runner import attempt

if TYPE_CHECKING:
    from healthchecks.target import ProbeResult, Target


def live(target: Target) -> ProbeResult:
    """Say whether GET /health answers 200 within ``target.timeout`` seconds.

    That the process answers proves little: /health stays at 200 while the engine hangs.
    """
    with Session(target) as session:
        return attempt("live", _live, session, 0)[0]


def ready(target: Target) -> ProbeResult:
    """Say whether the server lists the model and generates a token with it.

    Both requests together get ``target.timeout`` seconds. On a server with a full queue the token
    waits its turn: choose the timeout with that in mind.
    """
    with Session(target) as session:
        return attempt("ready", _ready, session, 1)[0]


def _live(session: Session, _: int) -> str:
    return f"HTTP {session.expect_ok(session.get('/health')).status}"


def _ready(session: Session, max_tokens: int) -> str:
    model = session.model().name
    return f"{session.clean(model)}: {chat.complete(session, chat.fresh_text(), max_tokens)}"
