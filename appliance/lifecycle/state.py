"""The appliance's folder on the host: the rendered file, and a lock on changes."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARED_LOCKS = Path("/run/lock")
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


def _lock_file(name: str) -> Path:
    """Return where the lock is: in a place that all users share, where there is one.

    Two users of one engine, root and an operator in the docker group, must not work against
    each other.
    """
    if os.access(SHARED_LOCKS, os.W_OK | os.X_OK):
        return SHARED_LOCKS / f"qwen3-omni-appliance-{name}.lock"
    return folder(name) / "lock"


def _open_lock(path: Path) -> IO[str]:
    try:
        # Never created where it is there: the kernel refuses that, even to root, for another
        # user's file in a folder that everybody may write to.
        number = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        number = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CREAT, 0o666)
        with suppress(OSError):
            os.fchmod(number, 0o666)  # Whatever the umask: it holds no secret.
    return os.fdopen(number, "r+", encoding="utf-8")


@contextmanager
def changing(name: str, action: str) -> Iterator[None]:
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
            holder = file.read().strip() or "another command"
            raise ApplianceError("busy", f"{holder} is changing the appliance {name}.")
        file.truncate(0)
        file.write(f"`appliance {action}` (process {os.getpid()})")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _locked(file: IO[str]) -> bool:
    """Take the lock, unless it is held for longer than `holder` holds it to look at it."""
    for _ in range(LOCK_TRIES):
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(LOCK_TRY_SECONDS)
    return False


def holder(name: str) -> str | None:
    """Return who is changing this appliance now, or `None`."""
    path = _lock_file(name)
    try:
        with path.open("r", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return file.read().strip() or "another command"
    except OSError:
        return None
    return None
