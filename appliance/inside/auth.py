"""Asks for the API key on every path of the server but the liveness one.

vLLM 0.23 asks for it only under /v1, /v2 and /inference: /invocations would generate for
anybody, and /metrics, /tokenize and the documentation would answer. This is an ASGI
middleware for vLLM's `--middleware`.
"""

from __future__ import annotations

import hmac
import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Message = dict[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    Application = Callable[[Message, Receive, Send], Awaitable[None]]

# Says nothing but that the process is there; orchestrators ask without a key.
OPEN_PATHS = frozenset({"/health"})
_REFUSAL = json.dumps(
    {"error": {"message": "Unauthorized", "type": "Unauthorized", "param": None, "code": 401}}
).encode()


class RequireKey:
    """Lets a request through that carries the key as a bearer token."""

    def __init__(self, app: Application) -> None:
        """Take the key from where vLLM takes it; without one nothing is let through."""
        self.app = app
        self._expected = f"Bearer {os.environ.get('VLLM_API_KEY', '')}".encode()
        self._armed = bool(os.environ.get("VLLM_API_KEY"))

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it with 401."""
        kind = scope["type"]
        if kind not in ("http", "websocket") or self._allowed(scope):
            await self.app(scope, receive, send)
        elif kind == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": _REFUSAL})

    def _allowed(self, scope: Message) -> bool:
        # A browser's preflight carries no key, and is answered with rules alone.
        if scope["path"] in OPEN_PATHS or scope.get("method") == "OPTIONS":
            return True
        given = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
        return self._armed and len(given) == 1 and hmac.compare_digest(given[0], self._expected)
