"""Answers 503 in the engine's place while there is none: a clear word instead of silence."""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

REQUEST_SECONDS = 10
CHUNK_BYTES = 1 << 16
STATUS = 503
ANYWHERE = "0.0.0.0"  # noqa: S104
PORT = 8000


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_SECONDS
    server_version = "appliance"
    sys_version = ""
    message = ""
    until: float | None = None

    def _answer(self) -> None:
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
        if self.until is not None:
            self.send_header("Retry-After", str(max(1, round(self.until - time.monotonic()))))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.close_connection = True
        self._linger()

    def _linger(self) -> None:
        """Read on until the client has had its answer.

        A connection that is closed with a request half read is reset, and the answer is lost.
        """
        self.connection.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + REQUEST_SECONDS
        while time.monotonic() < deadline and self.rfile.read1(CHUNK_BYTES):
            pass

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _answer  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Say nothing: the log belongs to what went wrong."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Say nothing of clients that went away."""


class Unavailable:
    """Listens where the engine would, until the block ends; does without where it can't."""

    def __init__(self, address: tuple[str, int], message: str, until: float | None) -> None:
        """Every request gets `message`; `until` is when to try again, of the monotonic clock."""
        handler = type("Handler", (_Handler,), {"message": message, "until": until})
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        made = type("Server", (_Server,), {"address_family": family})
        self.trouble: str | None = None
        self._server: ThreadingHTTPServer | None = None
        try:
            self._server = made(address, handler)
        except (OSError, OverflowError, ValueError) as error:
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
    port = options.get("--port", "")
    # What can't be understood is the engine's to refuse.
    return options.get("--host", ANYWHERE), int(port) if port.isdecimal() else PORT


def url(command: Sequence[str]) -> str:
    """Return where a `vllm serve` line is asked from beside it."""
    host, port = address(command)
    host = {ANYWHERE: "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
