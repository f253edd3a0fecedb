"""Refuses the requests that would bring the server down, before vLLM reads them.

This is an ASGI middleware for vLLM's `--middleware`. It takes a request's body whole, within a
limit, and passes it on when `limits` and `burden` find nothing in it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import replace
from email.message import Message
from http import HTTPStatus
from importlib import import_module
from typing import TYPE_CHECKING, Any

from appliance.config.model import Server
from appliance.inside import burden, limits
from appliance.inside.limits import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from appliance.inside.auth import Application, Receive, Send
    from appliance.inside.auth import Message as Event

MIB = 1024 * 1024
# For the next piece of a body, and for reading on to where a client listens for the answer.
SILENCE, LINGER = 30.0, 10.0
# Changes how many replicas there are: the plan has decided that, by the devices that are there.
CLOSED = frozenset({"/scale_elastic_ep"})


class Guard:
    """Lets a request through that the server can take."""

    def __init__(self, app: Application) -> None:
        """Take the limits from the variables that carry the operator's settings, if any."""
        self.app = app
        self._most = _setting("max_body_mb") * MIB
        self._bounds = burden.Bounds(
            _setting("max_media_mb"), _setting("max_media_seconds"), _frames(sys.argv)
        )

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it."""
        if scope["type"] == "http" and _ambiguous(scope):
            await _answer(send, Refused("The length of the body is given in two ways."))
            return
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
            return
        if scope["path"].rstrip("/") in CLOSED:
            await _answer(send, Refused("Not Found", 404))
            return
        try:
            body = await self._body(scope, receive)
            if body is None:
                return
            await asyncio.to_thread(self._check, _header(scope, b"content-type"), body)
        except Refused as refused:
            await _answer(send, refused)
            return
        held = [body]
        del body
        await self.app(scope, _again(held, receive), send)

    async def _body(self, scope: Event, receive: Receive) -> bytes | None:
        """Return the body, `None` where the client is gone; raises `Refused`."""
        length = _header(scope, b"content-length")
        whole = bytearray()
        fits = not (length.isdigit() and int(length) > self._most)
        while fits:
            message = await _next(receive)
            if message["type"] == "http.disconnect":
                return None
            whole += message.get("body", b"")
            fits = len(whole) <= self._most
            if fits and not message.get("more_body", False):
                return bytes(whole)
        whole.clear()
        await _drain(receive)
        raise Refused(f"The body is larger than {self._most // MIB} MiB.", 413)

    def _check(self, kind: bytes, body: bytes) -> None:
        if kind.lower().startswith(b"multipart/"):
            for file in _files(kind, body):
                burden.measure(file, "audio", self._bounds)
        elif body:
            found = limits.check(body)
            bounds = self._bounds
            if found.frames is not None:
                bounds = replace(bounds, frames=found.frames)
            burden.check(found.media, bounds)


async def _next(receive: Receive) -> Event:
    try:
        return await asyncio.wait_for(receive(), SILENCE)
    except (TimeoutError, asyncio.TimeoutError):
        raise Refused("The body did not come in time.", 408) from None


async def _drain(receive: Receive) -> None:
    """Read on for a while: a client that is still sending would not see the answer."""

    async def rest() -> None:
        while (await receive()).get("more_body", False):
            pass

    try:
        await asyncio.wait_for(rest(), LINGER)
    except (TimeoutError, asyncio.TimeoutError):
        return


def _again(body: list[bytes], receive: Receive) -> Receive:
    """Return a `receive` that gives the body once, and then what comes after it.

    It takes the body out of the list: nothing holds it while an answer is being made.
    """

    async def next_message() -> Event:
        if not body:
            return await receive()
        return {"type": "http.request", "body": body.pop(), "more_body": False}

    return next_message


async def _answer(send: Send, refused: Refused) -> None:
    status = HTTPStatus(refused.status)
    error = {"message": str(refused), "type": status.phrase, "param": None, "code": status.value}
    content = json.dumps({"error": error}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status.value, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def _files(kind: bytes, body: bytes) -> Iterator[bytes]:
    """Yield the files of a form, which /v1/audio takes."""
    form = Message()
    form["content-type"] = kind.decode("latin-1")
    boundary = form.get_boundary()
    for part in body.split(f"--{boundary}".encode("latin-1"))[1:] if boundary else ():
        head, _, content = part.partition(b"\r\n\r\n")
        if b"filename" in head.lower():
            yield content.removesuffix(b"\r\n")


def _header(scope: Event, name: bytes) -> bytes:
    for given, value in scope["headers"]:
        if given.lower() == name:
            return bytes(value)
    return b""


def _ambiguous(scope: Event) -> bool:
    """Tell whether a proxy in front might see the request end elsewhere (request smuggling)."""
    names = {name.lower() for name, _ in scope["headers"]}
    return {b"content-length", b"transfer-encoding"} <= names


def _setting(name: str) -> int:
    """Return a setting of `server`, as the launcher itself would read it from its variable."""
    return int(os.environ.get(f"APPLIANCE_SERVER_{name.upper()}", getattr(Server(), name)))


def _frames(arguments: list[str]) -> int:
    """Return how many frames of a video vLLM reads, as its command line says."""
    option = "--media-io-kwargs"
    for index, word in enumerate(arguments[:-1]):
        if word == option:
            try:
                return int(json.loads(arguments[index + 1])["video"]["num_frames"])
            except (KeyError, TypeError, ValueError):
                continue
    return burden.FRAMES


def _bound_headers() -> None:
    """Have uvicorn parse HTTP with h11, which bounds a request's headers.

    Where httptools is installed uvicorn prefers it, and it collects a header without end, in
    time that grows with its square, while nobody else is answered. vLLM's own option for the
    size of headers, --h11-max-incomplete-event-size, means nothing to it.
    """
    try:
        protocols: dict[str, Any] = import_module("uvicorn.config").HTTP_PROTOCOLS
        protocols["auto"] = protocols["h11"]
    except (ImportError, AttributeError, KeyError):
        print("appliance: uvicorn's HTTP parser is left as it is", file=sys.stderr)


# vLLM imports its middleware before it configures uvicorn.
_bound_headers()
