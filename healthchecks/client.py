"""One HTTP exchange at a time, with finite waits and errors that quote the response."""

from __future__ import annotations

import json
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import httpx

from healthchecks.errors import (
    NotServedError,
    ProbeError,
    ProbeTimeoutError,
    RefusedError,
    UnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from healthchecks.target import Target

HTTP_OK = 200
HTTP_UNAUTHORIZED = 401
HTTP_CLIENT_ERRORS = range(400, 500)
QUOTED_CHARACTERS = 300
MAX_BODY_BYTES = 4 * 1024 * 1024
MAX_CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class Reply:
    """A complete HTTP response. ``quote`` is its status and the start of its body."""

    status: int
    body: str
    quote: str

    def json(self) -> object:
        """Return the decoded body; raises ProbeError when it is not JSON."""
        try:
            document: object = json.loads(self.body)
        except (ValueError, RecursionError):
            raise ProbeError(f"the answer is not JSON: {self.quote}") from None
        return document


@dataclass(frozen=True)
class ServedModel:
    """One entry of /v1/models. ``max_model_len`` is the context in tokens, where given."""

    name: str
    max_model_len: int | None


@final
class Session:
    """A series of requests to one target.

    ``deadline_in`` starts a period of so many seconds that the following requests share;
    ``headers`` go with each of them.
    """

    def __init__(self, target: Target, headers: Mapping[str, str] | None = None) -> None:
        self.target = target
        self._models: list[ServedModel] = []
        self._deadline = 0.0
        self.deadline_in(target.timeout)
        sent = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        sent |= headers or {}
        if target.api_key is not None:
            sent["Authorization"] = f"Bearer {target.api_key}"
        self._client = httpx.Client(
            headers=sent,
            # A proxy from the environment must never see requests to this server, nor the key.
            trust_env=False,
            # The system's certificates, which hold a company's own authority where there is one.
            # Reading them takes longer than a request over plain HTTP, which needs none.
            verify=ssl.create_default_context() if target.url.startswith("https:") else False,
            follow_redirects=False,
            # A connection for each probe, so that a dead server shows as a refused connection and
            # not as a broken one from before.
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    def __enter__(self) -> Session:
        """Return the session itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        self._client.close()

    def deadline_in(self, seconds: float) -> None:
        """Give the requests that follow this many seconds, all together."""
        self._period = seconds
        self._deadline = time.monotonic() + seconds

    def get(self, path: str) -> Reply:
        """GET a path of the server. Raises ProbeError when no complete response came."""
        return self._exchange("GET", path, None)

    def post(self, path: str, payload: dict[str, object]) -> Reply:
        """POST a JSON document. Raises ProbeError when no complete response came."""
        return self._exchange("POST", path, payload)

    def expect_ok(self, reply: Reply) -> Reply:
        """Return the reply if it is HTTP 200.

        Raises:
            RefusedError, ProbeError: it is HTTP 400 to 499, or any other; the message quotes it.

        """
        if reply.status == HTTP_OK:
            return reply
        hint = ""
        if reply.status == HTTP_UNAUTHORIZED:
            sent = self.target.api_key is not None
            hint = " (the API key was refused)" if sent else " (no API key was sent)"
        if reply.status in HTTP_CLIENT_ERRORS:
            raise RefusedError(reply.quote + hint, reply.status)
        raise ProbeError(reply.quote + hint)

    def model(self) -> ServedModel:
        """Return the model to ask for. Raises ProbeError when the server does not list it."""
        if not self._models:
            self._models = _served_models(self.expect_ok(self.get("/v1/models")))
        wanted = self.target.model
        for served in self._models:
            if wanted is None or served.name == wanted:
                return served
        names = ", ".join(served.name for served in self._models)
        raise NotServedError(self.clean(f"model {wanted} is not served; served: {names}"))

    def clean(self, text: str) -> str:
        """Return text as one printable line, without the key and of bounded length."""
        # The key goes first: a cut through its middle would leave half of it readable.
        if self.target.api_key is not None:
            text = text.replace(self.target.api_key, "[API key]")
        line = " ".join(text[: 4 * QUOTED_CHARACTERS].split())
        # Escape what could drive the terminal of whoever reads this.
        line = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in line)
        if len(line) > QUOTED_CHARACTERS:
            line = line[:QUOTED_CHARACTERS] + "..."
        return line

    def _exchange(self, method: str, path: str, payload: dict[str, object] | None) -> Reply:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise ProbeTimeoutError(f"no time left for {method} {path} within {self._period:g} s")
        waits = httpx.Timeout(remaining, connect=min(remaining, MAX_CONNECT_SECONDS))
        # Not httpx's own encoding, which fails on a model name that is not valid Unicode.
        content = None if payload is None else json.dumps(payload).encode("ascii")
        body = bytearray()
        try:
            with self._client.stream(
                method, self.target.base_url + path, content=content, timeout=waits
            ) as response:
                for part in response.iter_bytes():
                    body += part
                    self._check_progress(method, path, body)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise self._transport_error(error, method, path, body) from None
        text = body.decode("utf-8", "replace")
        quote = f"HTTP {response.status_code}: {self.clean(text) or '(empty body)'}"
        return Reply(response.status_code, text, quote)

    def _check_progress(self, method: str, path: str, body: bytearray) -> None:
        # httpx bounds each wait for bytes; only this bounds a body that trickles in.
        if time.monotonic() > self._deadline:
            reason = f"no complete answer to {method} {path} within {self._period:g} s"
            raise ProbeTimeoutError(reason + self._received(body))
        if len(body) > MAX_BODY_BYTES:
            raise ProbeError(f"the answer to {method} {path} is longer than {MAX_BODY_BYTES} bytes")

    def _transport_error(
        self, error: Exception, method: str, path: str, body: bytearray
    ) -> ProbeError:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
            return UnreachableError(
                self.clean(f"cannot connect to {self.target.base_url}: {reason}")
            )
        if isinstance(error, httpx.TimeoutException):
            reason = f"no answer to {method} {path} within {self._period:g} s ({reason})"
            return ProbeTimeoutError(self.clean(reason) + self._received(body))
        reason = f"{method} {path} broke off: {reason}"
        return ProbeError(self.clean(reason) + self._received(body))

    def _received(self, body: bytearray) -> str:
        return f"; received so far: {self.clean(body.decode('utf-8', 'replace'))}" if body else ""


def _served_models(reply: Reply) -> list[ServedModel]:
    document = reply.json()
    entries = document.get("data") if isinstance(document, dict) else None
    models = []
    for entry in entries if isinstance(entries, list) else []:
        name = entry.get("id") if isinstance(entry, dict) else None
        if isinstance(name, str) and name:
            length = entry.get("max_model_len")
            models.append(ServedModel(name, length if type(length) is int else None))
    if not models:
        raise ProbeError(f"/v1/models lists no model: {reply.quote}")
    return models
