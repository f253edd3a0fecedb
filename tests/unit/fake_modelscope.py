"""A small ModelScope: the part of the hub's HTTP API that its library calls to fetch a model.

Like the hub, it answers for small files itself, whole and without `Range`, and sends clients
elsewhere for large ones, where `Range` works.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlsplit

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

LARGE = 100_000  # bytes from which a file is served from elsewhere
CHUNK = 64 * 1024
PATIENCE = 15.0  # seconds that the gate holds at most


@dataclass
class Gate:
    """Holds back what follows a number of bytes of a file, the first time it is served."""

    file: str
    after: int
    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Served:
    """What a client was sent of a file: where it asked to begin, and the bytes it got."""

    file: str
    start: int
    bytes: int


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that is killed is what the tests are about.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class FakeModelScope:
    """Serves models, given as the bytes of their files, on a free port of 127.0.0.1."""

    def __init__(self, models: dict[str, dict[str, bytes]]) -> None:
        self.models = models
        self.gate: Gate | None = None
        self.requests: list[str] = []
        self.served: list[Served] = []
        self.extra_entries: list[dict[str, Any]] = []
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.gate:
            self.gate.opened.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def bytes_served(self, file: str) -> int:
        return sum(served.bytes for served in self.served if served.file == file)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        class Handler(_Handler):
            hub = self

        return Handler


class _Handler(BaseHTTPRequestHandler):
    hub: FakeModelScope
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        del format, args

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.hub.requests.append(url.path)
        if url.path == "/api/v1/repos/internalAccelerationInfo":
            self._json(200, {"Data": {}})
            return
        match = re.fullmatch(
            r"/(?:api/v1/models|elsewhere)/([^/]+/[^/]+)/(repo/files|repo)", url.path
        )
        files = self.hub.models.get(match[1]) if match else None
        if not match or files is None:
            self._json(404, {"Code": 10010205001, "Message": "record not found", "Success": False})
        elif match[2] == "repo/files":
            self._listing(files)
        else:
            self._file(match[1], files, query["FilePath"])

    def _listing(self, files: dict[str, bytes]) -> None:
        entries = [
            {
                "Name": path.rpartition("/")[2],
                "Path": path,
                "Type": "blob",
                "Size": len(data),
                "Sha256": hashlib.sha256(data).hexdigest(),
            }
            for path, data in files.items()
        ]
        entries += self.hub.extra_entries
        self._json(200, {"Code": 200, "Success": True, "Data": {"Files": entries}})

    def _file(self, model: str, files: dict[str, bytes], path: str) -> None:
        if path not in files:
            self._json(404, {"Code": 10010205001, "Message": "record not found", "Success": False})
            return
        data = files[path]
        if len(data) < LARGE:
            self._body(200, path, data, 0)
        elif self.path.startswith("/api/"):
            self.send_response(302)
            self.send_header("Location", f"/elsewhere/{model}/repo?FilePath={quote(path)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            self._body(206, path, data, int(match[1]))
        else:
            self._body(200, path, data, 0)

    def _body(self, status: int, path: str, data: bytes, start: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) - start))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        sent, gate = 0, self.hub.gate
        try:
            while block := data[start + sent : start + sent + CHUNK]:
                if gate and gate.file == path and sent >= gate.after:
                    gate.reached.set()
                    gate.opened.wait(PATIENCE)
                self.wfile.write(block)
                sent += len(block)
        except ConnectionError:
            self.close_connection = True
        finally:
            self.hub.served.append(Served(path, start, sent))

    def _json(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
