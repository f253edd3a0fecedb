"""What is probed, and what a probe says."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_MAX_TOKENS = 16
# Reasoning about a question of one line takes a model some hundreds of tokens.
DEFAULT_ANSWER_TOKENS = 2048

# A wait longer than a day is a mistake; far longer ones overflow the socket timeout.
MAX_TIMEOUT_SECONDS = 86_400.0


@dataclass(frozen=True)
class Target:
    """A server to probe.

    Attributes:
        url: where the server listens, such as ``http://127.0.0.1:8000``; a trailing ``/v1`` is
            accepted and means the same server.
        model: the model to ask for; None takes the first one that the server lists.
        api_key: sent as a bearer token; None sends none. Never shown by ``repr`` nor in a result.
        timeout: seconds. ``live`` and ``ready`` take at most about this long in all; in a smoke
            run it holds for each probe.

    Raises:
        ValueError: a value cannot work. The message never holds the key or a password.

    """

    url: str = DEFAULT_URL
    model: str | None = None
    api_key: str | None = field(default=None, repr=False)
    timeout: float = 30.0

    def __post_init__(self) -> None:
        """Refuse here what would otherwise fail in the middle of a probe."""
        _check_url(self.url)
        if self.api_key is not None and not re.fullmatch(r"[\x21-\x7e]+", self.api_key):
            raise ValueError("the API key must be visible ASCII characters without spaces")
        check_seconds("timeout", self.timeout)

    @property
    def base_url(self) -> str:
        """The URL without a trailing slash and without ``/v1``."""
        return self.url.rstrip("/").removesuffix("/v1").rstrip("/")


@dataclass(frozen=True)
class Settings:
    """What the probes of a run have in common.

    Attributes:
        max_tokens: the most tokens to generate where any text will do.
        answer_tokens: the most to generate where the answer has to be right, reasoning included.
        seed: what the media are made from.

    Raises:
        ValueError: there can be no token.

    """

    max_tokens: int = DEFAULT_MAX_TOKENS
    answer_tokens: int = DEFAULT_ANSWER_TOKENS
    seed: str = ""

    def __post_init__(self) -> None:
        """Refuse here what would fail in every probe."""
        for name in ("max_tokens", "answer_tokens"):
            number = getattr(self, name)
            if number < 1:
                raise ValueError(f"{name} must be at least 1, not {number}")


# `wrong`: the answer is not right. `degenerate`: it is no text. `refused`: HTTP 400 to 499.
Verdict = Literal["ok", "wrong", "degenerate", "refused", "timeout", "error"]


@dataclass(frozen=True)
class ProbeResult:
    """The verdict of one probe.

    Attributes:
        probe: the probe's name.
        ok: whether there is nothing wrong with the server: it passed, or the server refused what
            not every server supports (``verdict`` is then ``refused``).
        seconds: how long it took, to the millisecond.
        detail: one printable line: what was measured, or the response or error that failed it.
        verdict: how it ended.
        seed: what the probe's media were made from, where they are made from one.

    """

    probe: str
    ok: bool
    seconds: float
    detail: str
    verdict: Verdict
    seed: str | None = None


def check_seconds(name: str, seconds: float) -> None:
    """Raise ValueError where there can be no wait of so many seconds."""
    if not (math.isfinite(seconds) and 0 < seconds <= MAX_TIMEOUT_SECONDS):
        raise ValueError(
            f"the {name} must be more than 0 and at most {MAX_TIMEOUT_SECONDS:g} seconds, "
            f"not {seconds!r}"
        )


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("the URL has a bad host or port") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("the URL must not carry a user name or password; use an API key file")
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        raise ValueError(f"the URL must look like {DEFAULT_URL}, not {url!r}")
    if parts.query or parts.fragment:
        raise ValueError(f"the URL must end with the port or a path, not {url!r}")
