"""How a probe fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from healthchecks.target import Verdict


class ProbeError(Exception):
    """The probe failed; the message says why and quotes what the server sent.

    ``verdict`` is what the result calls it.
    """

    verdict: ClassVar[Verdict] = "error"


class UnreachableError(ProbeError):
    """No connection to the server could be made."""


class ProbeTimeoutError(ProbeError):
    """The server did not answer in time."""

    verdict = "timeout"


class RefusedError(ProbeError):
    """The server refused the request: HTTP 400 to 499; ``status`` says which."""

    verdict = "refused"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class NotServedError(ProbeError):
    """The server answers, and does not list the model that was asked for."""


class UnsupportedError(ProbeError):
    """The server refused what not every server supports, which is no failure."""

    verdict = "refused"


class WrongError(ProbeError):
    """The server answered, and the answer is not right."""

    verdict = "wrong"


class DegenerateError(ProbeError):
    """What the server generated is no text: one token repeated, broken characters, or nothing."""

    verdict = "degenerate"
