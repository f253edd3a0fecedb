"""What is wrong with one request: it becomes a line of the results, and ends nothing."""

from __future__ import annotations


class Flaw(Exception):  # noqa: N818 (of the input, not of this program)
    """Why a request can't be run. `code` is stable, for programs; the message is for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
