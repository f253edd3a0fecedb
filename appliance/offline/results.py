"""The results: one line for each request, in the order of the input, whole at the end.

While a run lasts, each answer is put at the end of `FILE.partial` as it comes, whatever its
turn, so that nothing that was finished is lost. At the end the lines are put in order, into a
file that then takes the name FILE. A line is an object of OpenAI's batch output, with one key
more: `appliance` has what tells whether an answer is still the one to the request.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from appliance.offline.flaw import Flaw
    from appliance.offline.lines import Entry

_MARK = "appliance"
_BEGINNING = b'{"id": "batch_req_'
_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True)
class Kept:
    """An answer that is in a file: for which request, and where."""

    key: str
    file: Path
    offset: int
    length: int


def answer(custom_id: str, key: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the line of an answer."""
    response = {"status_code": 200, "request_id": body.get("id"), "body": body}
    return _line(custom_id, key, response=response, error=None)


def error(entry: Entry, flaw: Flaw) -> dict[str, Any]:
    """Return the line of a request that could not be run."""
    words = {"code": flaw.code, "message": flaw.message, "line": entry.number}
    return _line(entry.custom_id, entry.key, response=None, error=words)


def _line(custom_id: str | None, key: str | None, **rest: Any) -> dict[str, Any]:
    number = f"batch_req_{uuid.uuid4().hex}"
    return {"id": number, "custom_id": custom_id, **rest, _MARK: {"key": key}}


class Results:
    """The results of one input, in one file."""

    def __init__(self, path: Path) -> None:
        """`path` is FILE. Nothing is read or written yet."""
        try:
            self.path = path.resolve()
        except (OSError, RuntimeError) as error:  # Links in a circle.
            raise _not_written(path, error) from error
        if not self.path.name:
            raise ApplianceError("file-not-written", f"{path} is not a file.")
        self.partial = self.path.with_name(f"{self.path.name}.partial")
        self.kept: dict[str, Kept] = {}
        self._journal: IO[bytes] | None = None

    def require_no_other(self, ids: Collection[str]) -> None:
        """Raise file-differs where there are answers to requests that are not in the input."""
        others = [name for name in self.kept if name not in ids]
        if others:
            raise ApplianceError(
                "file-differs",
                f"{self.kept[others[0]].file} has {len(others)} answers to requests that are not "
                f"in this input (such as {others[0]:.60}), and they would be lost.",
                "Name another file with --output, or start anew with --force.",
            )

    def has(self, entry: Entry) -> bool:
        """Tell whether a request is answered already, as it is now."""
        if entry.custom_id is None or entry.key is None:
            return False
        kept = self.kept.get(entry.custom_id)
        return kept is not None and kept.key == entry.key

    @contextmanager
    def writing(self, *, force: bool = False) -> Iterator[None]:
        """Hold the right to write, and know what is there already.

        Raises busy where another command writes there, and file-differs where there is something
        that is not a file of results; `force` leaves what is there aside, to be replaced.
        """
        try:
            for path in (self.path, self.partial):
                if path.exists() and not path.is_file():
                    raise ApplianceError("file-not-written", f"{path} is not a file.")
            self.path.parent.mkdir(parents=True, exist_ok=True)
            journal = self.partial.open("ab")
        except OSError as error:
            raise _not_written(self.path, error) from error
        with journal:
            try:
                self._take(journal, force=force)
                self._journal = journal
                yield
            finally:
                self._journal = None
                with suppress(OSError):
                    if not self.partial.stat().st_size:
                        self.partial.unlink()

    def _take(self, journal: IO[bytes], *, force: bool) -> None:
        try:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ApplianceError("busy", f"Another command writes to {self.path}.") from error
        try:
            if force:
                whole = 0
            else:
                self.kept = {**_read(self.path)[0]}
                finished, whole = _read(self.partial, torn=True)
                self.kept.update(finished)
            journal.truncate(whole)
        except OSError as error:
            raise _not_written(self.path, error) from error

    def add(self, line: dict[str, Any]) -> None:
        """Keep an answer, at once."""
        assert self._journal is not None  # noqa: S101 (only within `writing`)
        data = _bytes(line)
        try:
            offset = self._journal.seek(0, os.SEEK_END)
            self._journal.write(data)
            self._journal.flush()
        except OSError as error:
            raise _not_written(self.partial, error) from error
        key = str(line[_MARK]["key"])
        self.kept[line["custom_id"]] = Kept(key, self.partial, offset, len(data))

    def finish(self, entries: list[Entry], flaws: dict[int, Flaw]) -> None:
        """Write FILE, whole and in order; `flaws` are by the number of the line."""
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.new")
        try:
            with temporary.open("xb") as file:
                sources = {path: path.open("rb") for path in (self.path, self.partial)
                           if path.exists()}  # fmt: skip
                for entry in entries:
                    flaw = flaws.get(entry.number)
                    file.write(self._copy(entry, sources) if flaw is None
                               else _bytes(error(entry, flaw)))  # fmt: skip
                for source in sources.values():
                    source.close()
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
            if self._journal is not None:
                self._journal.truncate(0)
        except OSError as failed:
            with suppress(OSError):
                temporary.unlink()
            raise _not_written(self.path, failed) from failed

    def _copy(self, entry: Entry, sources: Mapping[Path, IO[bytes]]) -> bytes:
        kept = self.kept[str(entry.custom_id)]
        sources[kept.file].seek(kept.offset)
        return sources[kept.file].read(kept.length)


def _bytes(line: dict[str, Any]) -> bytes:
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Return a line of results, `None` where it is something else."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not {"custom_id", "response", "error", _MARK} <= set(found):
        return None
    mark, custom_id = found[_MARK], found["custom_id"]
    if not isinstance(mark, dict) or not isinstance(custom_id, (str, type(None))):
        return None
    return found


def _read(path: Path, *, torn: bool = False) -> tuple[dict[str, Kept], int]:
    """Return the answers in a file, and how much of it are whole lines; raises file-differs.

    Where there is no file, there are none. `torn`: the file may end with half a line, which is
    what a crash leaves.
    """
    found: dict[str, Kept] = {}
    offset = 0
    try:
        with path.open("rb") as file:
            for line in file:
                parsed = _parsed(line)
                if parsed is None:
                    if torn and not line.endswith(b"\n") and (offset or _begun(line)):
                        break
                    raise _other(path)
                custom_id, key = parsed["custom_id"], parsed[_MARK].get("key")
                if parsed["error"] is None and custom_id is not None and isinstance(key, str):
                    found[custom_id] = Kept(key, path, offset, len(line))
                offset += len(line)
    except FileNotFoundError:
        return {}, 0
    return found, offset


def _begun(line: bytes) -> bool:
    """Tell whether this is the beginning of a line of ours, or the zeros of a lost one."""
    length = min(len(line), len(_BEGINNING))
    return line[:length] == _BEGINNING[:length] or not line.strip(b"\0")


def _other(path: Path) -> ApplianceError:
    return ApplianceError(
        "file-differs",
        f"{path} exists and is not a file of results: it is left as it is.",
        "Name another file with --output, or replace it with --force.",
    )


def _not_written(path: Path, error: OSError | RuntimeError) -> ApplianceError:
    full = isinstance(error, OSError) and error.errno in _FULL
    words = getattr(error, "strerror", None) or error
    kind = "disk-full" if full else "file-not-written"
    return ApplianceError(kind, f"{path} can't be written: {words}.")
