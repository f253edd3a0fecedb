"""Where a log comes from: a file, standard input, the appliance's container, or what is kept."""

from __future__ import annotations

import io
import sys
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from appliance.engine.docker import ContainerState

STDIN = "-"
KILLED = 137


@dataclass(frozen=True)
class Source:
    """A log that can be read once. `title` says where it is from; `said` what the engine adds."""

    title: str
    stream: IO[bytes]
    said: tuple[str, ...] = ()


class Kept:
    """Passes a log's pieces on to whoever reads it, and keeps the last of them."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        """Keep up to `limit` bytes."""
        self._stream = stream
        self._limit = limit
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._cut = False

    def readline(self, size: int) -> bytes:
        """Read a line, or `size` bytes of a longer one."""
        piece = self._stream.readline(size)
        self._pieces.append(piece)
        self._size += len(piece)
        while self._size > self._limit:
            self._size -= len(self._pieces.popleft())
            self._cut = True
        return piece

    def text(self) -> str:
        """Return what was kept. A line that was cut is left out: it may be half a secret."""
        kept = b"".join(self._pieces)
        if self._cut:
            kept = kept.partition(b"\n")[2]
        return kept.decode("utf-8", errors="replace")


@contextmanager
def opened(file: Path | None, name: str, tail: int | None) -> Iterator[Source]:
    """Open the log to look at: the file that was named, else the appliance's own.

    `tail` limits what is asked of the engine. Raises file-not-written where the file can't be
    read, engine-unreachable, and not-running where there is neither a container nor its log.
    """
    if file is None:
        with _own(name, tail) as source:
            yield source
    elif str(file) == STDIN:
        yield Source("standard input", sys.stdin.buffer)
    else:
        with _file(file) as stream:
            yield Source(str(file), stream)


@contextmanager
def _file(file: Path) -> Iterator[IO[bytes]]:
    try:
        with file.open("rb") as stream:
            yield stream
    except OSError as error:
        raise ApplianceError(
            "file-not-written",
            f"{file} can't be read: {error.strerror or error}.",
            "Correct the path after --log; `-` reads standard input.",
        ) from error


@contextmanager
def _own(name: str, tail: int | None) -> Iterator[Source]:
    from appliance.engine import docker
    from appliance.lifecycle import state

    engine = docker.connect()
    found = engine.container(name)
    if found is not None:
        stream = _stream(engine.log_stream(found, tail))
        yield Source(f"container {name}", stream, tuple(said(found)))
        return
    previous = state.folder(name) / "previous.log"
    if not previous.is_file():
        raise ApplianceError(
            "not-running",
            f"There is no container {name}, and the log of none is kept.",
            "Start it with `appliance up`, or name a log with `--log FILE`.",
        )
    with _file(previous) as stream:
        yield Source(f"the last container's log, {previous}", stream)


def said(found: ContainerState) -> Iterator[str]:
    """Yield what the engine knows of a container's end, and its log may not."""
    if found.error:
        yield found.error
    if found.oom_killed:
        yield "The engine says: OOMKilled."
    if not found.running and found.exit_code == KILLED:
        yield f"The engine says: exit code {KILLED}."


def _stream(chunks: Iterable[bytes]) -> IO[bytes]:
    return io.BufferedReader(_Chunks(chunks))


class _Chunks(io.RawIOBase):
    """A file of what an iterator yields."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        super().__init__()
        self._chunks = iter(chunks)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a buffer with what is left of a chunk, or with the next one that is not empty."""
        while not self._rest:
            piece = next(self._chunks, None)
            if piece is None:
                return 0
            self._rest = piece
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size
