"""The container's log, where nobody may be listening: neither the engine nor its end waits."""

from __future__ import annotations

import os
import select
import threading
import time
from contextlib import suppress

# What may be written to a pipe that can take anything without waiting for its reader.
PIPE_BYTES = select.PIPE_BUF
# For a reader that stands still; after that, what it does not take is lost.
READER_SECONDS = 5.0
# One writer at a time, of both: they may be the same pipe, and only who writes alone knows that
# there is room left.
_ALONE = threading.Lock()


class Output:
    """A descriptor that is written to as long as somebody takes what is written."""

    def __init__(self, descriptor: int) -> None:
        """Nothing is opened: `descriptor` stays whose it is."""
        self._descriptor = descriptor
        self._taken = True
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def write(self, data: bytes) -> None:
        """Write it all, or drop what is not taken in time."""
        with suppress(OSError):  # Nobody listens any more.
            for start in range(0, len(data), PIPE_BYTES):
                with _ALONE:
                    if not self._waits():
                        return
                    _all(self._descriptor, data[start : start + PIPE_BYTES])

    def _waits(self) -> bool:
        """Return whether more can be written; the second time, a dead reader costs no time."""
        self._taken = bool(self._poll.poll(READER_SECONDS * 1000 if self._taken else 0))
        return self._taken


def _all(descriptor: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            # Somebody made it not to wait, which holds for all who share it.
            time.sleep(0.01)


STDOUT, STDERR = Output(1), Output(2)


def say(words: str) -> None:
    """Say something in the container's log."""
    STDERR.write(f"appliance: {words}\n".encode(errors="backslashreplace"))
