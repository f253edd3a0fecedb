"""A real HTTP server that speaks the API of vLLM, and does what a test wants."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple, final

from healthchecks import exercises

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

CONTEXT = 512
MODEL = "qwen3-omni"

Json = dict[str, Any]


class Answer(NamedTuple):
    """What the server sends; a body of several parts is sent part by part, ``pause`` apart."""

    status: int
    parts: list[bytes]
    content_type: str = "application/json"
    pause: float = 0.0
    location: str | None = None


class Hangup(Exception):  # noqa: N818 - it is no error of the server
    """The server closes the connection without an answer."""


def answer(status: int, document: object) -> Answer:
    return Answer(status, [json.dumps(document).encode()])


def completion(tokens: int = 16, message: Json | None = None, finish: str = "length") -> Json:
    return {
        "object": "chat.completion",
        "choices": [
            {"index": 0, "message": message or {"content": None, "reasoning": "Well, "}}
            | {"finish_reason": finish}
        ],
        "usage": {"prompt_tokens": 812, "completion_tokens": tokens},
    }


def events(*documents: object, done: bool = True) -> Answer:
    lines = [f"data: {json.dumps(document)}\n\n".encode() for document in documents]
    return Answer(200, [*lines, b"data: [DONE]\n\n"] if done else lines, "text/event-stream")


def chunk(finish: str | None = None) -> Json:
    # A line separator inside a string must not split the event.
    choice = {"index": 0, "delta": {"content": "Hello\u2028"}, "finish_reason": finish}
    return {"choices": [choice], "usage": None}


USAGE: Json = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}


def parts(request: Json) -> list[Json]:
    content = request["messages"][0]["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def modalities(request: Json) -> list[str]:
    return [part["type"] for part in parts(request)]


def is_over_limit(request: Json) -> bool:
    return any(len(part.get("text", "").split()) > CONTEXT for part in parts(request))


SEED = "1"
NOTHING_SHOWN = "I see no image and hear no sound."


def right_answers(seed: str) -> dict[tuple[str, ...], str]:
    """The right answer to each set of media of a seed, and to the files of the package."""
    shown = [e for modality in exercises.MODALITIES for e in exercises.pair(modality, seed)]
    shown += [exercises.jpeg(), exercises.mp4()]
    return {tuple(medium.url for medium in e.media): e.right for e in shown}


RIGHT = right_answers(SEED)


def media_of(request: Json) -> tuple[str, ...]:
    """The data URLs of a request."""
    return tuple(part[part["type"]]["url"] for part in parts(request) if part["type"] != "text")


def says(text: str, finish: str = "stop") -> Answer:
    """A completion of a model that reasons."""
    return answer(200, completion(9, {"content": text, "reasoning": "I look."}, finish))


def good_chat(request: Json) -> Answer:
    """A server in order, which knows the media of SEED."""
    if is_over_limit(request):
        message = f"This model's maximum context length is {CONTEXT} tokens."
        return answer(400, {"error": {"message": message, "type": "BadRequestError"}})
    if request.get("stream"):
        assert request["stream_options"] == {"include_usage": True}
        return events(chunk(), chunk("length"), USAGE)
    if isinstance(request["messages"][0]["content"], str):
        return answer(200, completion(request["max_tokens"]))
    return says(RIGHT.get(media_of(request), NOTHING_SHOWN))


@final
@dataclass
class FakeServer:
    """A server of the test; its behaviour is in its attributes."""

    chat: Callable[[Json], Answer] = good_chat
    models: Answer = field(
        default_factory=lambda: answer(
            200, {"object": "list", "data": [{"id": MODEL, "max_model_len": CONTEXT}]}
        )
    )
    health: Answer = field(default_factory=lambda: Answer(200, []))
    metrics: Callable[[], Answer] = lambda: answer(404, {"detail": "Not Found"})
    key: str | None = None
    port: int = 0
    requests: list[Json] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.released = threading.Event()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fake.handle(self, None)

            def do_POST(self) -> None:
                fake.handle(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Keep the output of the tests clean."""

        self.httpd = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.url = f"http://127.0.0.1:{self.httpd.server_port}"

    def handle(self, handler: BaseHTTPRequestHandler, request: Json | None) -> None:
        self.paths.append(handler.path)
        self.authorizations.append(handler.headers.get("Authorization"))
        try:
            reply = self.route(handler.path, handler.headers.get("Authorization"), request)
        except Hangup:
            return
        handler.send_response(reply.status)
        handler.send_header("Content-Type", reply.content_type)
        if reply.location is not None:
            handler.send_header("Location", reply.location)
        handler.end_headers()
        try:
            for part in reply.parts:
                handler.wfile.write(part)
                self.released.wait(reply.pause)
        except OSError:
            pass  # the client had enough

    def route(self, path: str, authorization: str | None, request: Json | None) -> Answer:
        if path == "/health":
            return self.health
        if self.key is not None and authorization != f"Bearer {self.key}":
            return answer(401, {"error": "Unauthorized"})
        if path == "/metrics":
            return self.metrics()
        if path == "/v1/models":
            return self.models
        if path == "/v1/chat/completions" and request is not None:
            self.requests.append(request)
            return self.chat(request)
        return answer(404, {"detail": "Not Found"})

    def hang(self, _: Json) -> Answer:
        self.released.wait(30)
        raise Hangup

    def stop_listening(self) -> None:
        if self.httpd.socket.fileno() < 0:
            return
        self.httpd.shutdown()
        self.httpd.socket.close()

    def __enter__(self) -> FakeServer:
        threading.Thread(
            target=self.httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.released.set()
        self.stop_listening()
