"""The lines of a pipe, read so that nobody ever waits for whoever holds its other end."""

from __future__ import annotations

import os
import select
from collections import deque
from threading import Lock
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_BLOCK = 1 << 16
_POLL_SECONDS = 0.5


class Pipe:
    """A pipe to read from. A plain file can't be closed while another thread reads it."""

    def __init__(self, stream: IO[bytes], heard: Callable[[], None]) -> None:
        """Take a stream that nothing else reads; `heard` is called for all that comes."""
        self._stream = stream
        self._heard = heard
        self._reading = Lock()
        self._closed = False
        self._ended = False
        self._lines: deque[bytes] = deque()
        self._pieces: list[bytes] = []  # Of the line that has no end yet.

    def line(self) -> str | None:
        """Return the next line, or `None` at the end; raises TimeoutError where none is there."""
        if not self._lines and not self._ended:
            self._read()
        if self._lines:
            return self._lines.popleft().decode("utf-8", errors="replace")
        if self._ended:
            return None
        raise TimeoutError

    def close(self) -> None:
        """Close it; whoever reads it meets its end."""
        self._closed = True
        with self._reading:
            self._stream.close()

    def _read(self) -> None:
        """Take in what comes within a moment."""
        with self._reading:
            if self._closed:
                self._ended = True
                return
            poll = select.poll()
            poll.register(self._stream, select.POLLIN)
            if not poll.poll(1000 * _POLL_SECONDS):
                return
            block = os.read(self._stream.fileno(), _BLOCK)
        self._heard()
        self._ended = not block
        # Progress bars end their lines with a carriage return.
        first, *more = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._pieces.append(first)
        for piece in more:
            self._lines.append(b"".join(self._pieces))
            self._pieces = [piece]
        if self._ended and any(self._pieces):
            self._lines.append(b"".join(self._pieces))
