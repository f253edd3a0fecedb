"""Answers 503 in the engine's place while there is none: a clear word instead of silence."""

from __future__ import annotations

import itertools
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

REQUEST_SECONDS = 10
BODY_BYTES = 1 << 20
STATUS = 503


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_SECONDS
    server_version = "appliance"
    sys_version = ""
    message = ""
    retry_after: int | None = None

    def _answer(self) -> None:
        # A connection that is closed with a request half read is reset, and the answer is lost.
        length = self.headers.get("Content-Length", "")
        self.rfile.read(min(int(length), BODY_BYTES) if length.isdecimal() else 0)
        error = {
            "message": self.message,
            "type": "ServiceUnavailable",
            "param": None,
            "code": STATUS,
        }
        body = json.dumps({"error": error}).encode()
        self.send_response(STATUS)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        if self.retry_after is not None:
            self.send_header("Retry-After", str(self.retry_after))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = _answer  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Say nothing: the log belongs to what went wrong."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Say nothing of clients that went away."""


class Unavailable:
    """Listens where the engine would, until the block ends; does without where it can't."""

    def __init__(self, address: tuple[str, int], message: str, retry_after: int | None) -> None:
        """Every request gets `message`; `retry_after` is in seconds."""
        handler = type("Handler", (_Handler,), {"message": message, "retry_after": retry_after})
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        made = type("Server", (_Server,), {"address_family": family})
        self.trouble: str | None = None
        self._server: ThreadingHTTPServer | None = None
        try:
            self._server = made(address, handler)
        except OSError as error:
            self.trouble = str(error)

    def __enter__(self) -> Self:
        """Begin to answer."""
        if self._server is not None:
            threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Free the port for the engine."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


def address(command: Sequence[str]) -> tuple[str, int]:
    """Return host and port of a `vllm serve` line, as the plan writes it."""
    options = dict(itertools.pairwise(command))
    return options.get("--host", "0.0.0.0"), int(options.get("--port", "8000"))  # noqa: S104
