"""The appliance's folder on the host: the rendered file, and a lock on changes."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import stat
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from appliance.errors import ApplianceError
from appliance.inventory.model import Claim

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARED_LOCKS = Path("/run/lock")
PREFIX = "qwen3-omni-appliance-"
# Choosing dies and ports is the work of milliseconds, npu-smi's answer that of seconds.
ALLOT_SECONDS = 60.0
LOCK_TRIES = 20
LOCK_TRY_SECONDS = 0.02
_FULL = {errno.ENOSPC, errno.EDQUOT}


def folder(name: str) -> Path:
    """Return the appliance's state folder; it may not exist yet."""
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser() / "qwen3-omni-appliance" / name


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all, for its owner's eyes."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.chmod(0o600)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise _not_written(path, error) from error


def _not_written(path: Path, error: OSError) -> ApplianceError:
    kind = "disk-full" if error.errno in _FULL else "file-not-written"
    return ApplianceError(kind, f"{path} can't be written: {error}")


def verified(name: str) -> str | None:
    """Return the id of the container that last passed the smoke test, or `None`."""
    try:
        return (folder(name) / "verified").read_text(encoding="utf-8").strip()
    except OSError:
        return None


def mark_verified(name: str, container_id: str) -> None:
    """Remember that this container has passed the smoke test."""
    write(folder(name) / "verified", container_id)


def _locks(name: str) -> Path:
    """Return the folder of the locks: one that all users share, where there is one.

    Two users of one engine, root and an operator in the docker group, must not work against
    each other.
    """
    if os.access(SHARED_LOCKS, os.W_OK | os.X_OK):
        return SHARED_LOCKS
    return folder(name).parent


def _lock_file(name: str) -> Path:
    return _locks(name) / f"{PREFIX}{name}.lock"


def _open_lock(path: Path) -> IO[str]:
    try:
        # Never created where it is there: the kernel refuses that, even to root, for another
        # user's file in a folder that everybody may write to.
        number = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        number = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CREAT, 0o666)
        with suppress(OSError):
            os.fchmod(number, 0o666)  # Whatever the umask: it holds no secret.
    return os.fdopen(number, "r+", encoding="utf-8")


@dataclasses.dataclass
class Change:
    """The right to change one appliance, held until the block ends."""

    name: str
    title: str
    file: IO[str]

    def claim(self, claim: Claim) -> None:
        """Say what the container that is being made will hold, for others to leave alone."""
        self._write(json.dumps(dataclasses.asdict(claim)))

    def _write(self, claim: str) -> None:
        self.file.seek(0)
        self.file.truncate(0)
        self.file.write(f"{self.title}\n{claim}\n")
        self.file.flush()


@contextmanager
def changing(name: str, action: str) -> Iterator[Change]:
    """Hold the right to change this appliance; raises busy where another command has it.

    The kernel lets go of the lock when the process ends, however it ends.
    """
    path = _lock_file(name)
    try:
        opened = _open_lock(path)
    except OSError as error:
        raise _not_written(path, error) from error
    with opened as file:
        if not _locked(file):
            file.seek(0)
            holder = file.readline().strip() or "another command"
            raise ApplianceError("busy", f"{holder} is changing the appliance {name}.")
        change = Change(name, f"`appliance {action}` (process {os.getpid()})", file)
        change._write("")  # noqa: SLF001
        try:
            yield change
        finally:
            file.truncate(0)


@contextmanager
def allotting(name: str) -> Iterator[None]:
    """Hold, for a moment, the right to choose dies and ports on this host; raises busy."""
    path = _locks(name) / "qwen3-omni-appliances.lock"
    try:
        opened = _open_lock(path)
    except OSError as error:
        raise _not_written(path, error) from error
    with opened as file:
        if not _locked(file, round(ALLOT_SECONDS / LOCK_TRY_SECONDS)):
            raise ApplianceError(
                "busy",
                f"Another `appliance up` has been choosing NPUs for {ALLOT_SECONDS:g} s.",
                f"Wait for it, or end it: `fuser {path}` names it.",
            )
        yield


def pending(name: str) -> tuple[Claim, ...]:
    """Return what other `appliance up` on this host have chosen and are making now.

    A claim counts while its lock is held: what a command that crashed left behind does not.
    """
    found = []
    for path in _locks(name).glob(f"{PREFIX}*.lock"):
        other = path.name[len(PREFIX) : -len(".lock")]
        lines = _held(path) if other != name else None
        with suppress(ValueError, TypeError, LookupError):
            claim = json.loads(lines[1]) if lines else None
            if claim:
                found.append(Claim(**{**claim, "devices": tuple(claim["devices"])}))
    return tuple(found)


def _locked(file: IO[str], tries: int = LOCK_TRIES) -> bool:
    """Take the lock, unless it is held for longer than `_held` holds it to look at it."""
    for _ in range(tries):
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(LOCK_TRY_SECONDS)
    return False


def holder(name: str) -> str | None:
    """Return who is changing this appliance now, or `None`."""
    lines = _held(_lock_file(name))
    if lines is None:
        return None
    return lines[0] if lines and lines[0] else "another command"


def _held(path: Path) -> list[str] | None:
    """Return the lines of a lock file that is held, or `None` where nobody holds it."""
    try:
        # Whoever may write to the folder may have put anything there: nothing that waits.
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(number, "r", encoding="utf-8") as file:
            if not stat.S_ISREG(os.fstat(number).st_mode):
                return None
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return file.read().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    return None
