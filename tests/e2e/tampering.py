"""A proxy in front of the server that takes something away from each request."""

from __future__ import annotations

import base64
import json
import struct
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx

from healthchecks.stimuli import sounds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Part = dict[str, Any]


def _content(part: Part) -> bytes:
    url: str = part[part["type"]]["url"]
    return base64.b64decode(url.partition(",")[2])


def _replaced(part: Part, media_type: str, content: bytes) -> Part:
    url = f"data:{media_type};base64,{base64.b64encode(content).decode()}"
    return {**part, part["type"]: {"url": url}}


def silenced(part: Part) -> Part | None:
    """Sounds become silence, also those of videos."""
    if part["type"] == "audio_url":
        seconds = len(_content(part)) / (2 * sounds.SAMPLE_RATE)
        return _replaced(part, "audio/wav", sounds.wav(sounds.silence(seconds)))
    if part["type"] == "video_url" and "x-msvideo" in part["video_url"]["url"][:40]:
        film, at = bytearray(_content(part)), 0
        while (at := film.find(b"01wb", at)) >= 0:
            (length,) = struct.unpack_from("<I", film, at + 4)
            if at + 8 + length <= len(film):
                film[at + 8 : at + 8 + length] = bytes(length)
            at += 8
        return _replaced(part, "video/x-msvideo", bytes(film))
    return part


def without_images(part: Part) -> Part | None:
    """Images are left out."""
    return None if part["type"] == "image_url" else part


def without_media(part: Part) -> Part | None:
    """Only text is left."""
    return part if part["type"] == "text" else None


def _changed(body: bytes, change: Callable[[Part], Part | None]) -> bytes:
    request = json.loads(body)
    for message in request["messages"]:
        if isinstance(message["content"], list):
            parts = [change(part) for part in message["content"]]
            message["content"] = [part for part in parts if part is not None]
    if not any(p["type"] == "video_url" for p in message["content"] if isinstance(p, dict)):
        # Without a video its option is refused, which would give the game away.
        request.pop("mm_processor_kwargs", None)
    return json.dumps(request).encode()


@contextmanager
def proxy(url: str, change: Callable[[Part], Part | None]) -> Iterator[str]:
    """Serve what `url` serves, with every message's parts changed; gives its own URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send(httpx.get(url + self.path, timeout=60, trust_env=False))

        def do_POST(self) -> None:
            body = _changed(self.rfile.read(int(self.headers["Content-Length"])), change)
            headers = {"Content-Type": "application/json"}
            self.send(
                httpx.post(
                    url + self.path, content=body, headers=headers, timeout=60, trust_env=False
                )
            )

        def send(self, answer: httpx.Response) -> None:
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers.get("Content-Type", "text/plain"))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Keep the output of the tests clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
