"""A folder of its own for what one piece of work leaves, and the moments that are told in it."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def now() -> datetime:
    """Return this moment."""
    return datetime.now(timezone.utc)


def iso(moment: datetime) -> str:
    """Return a moment as result documents have it."""
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


@contextmanager
def own(parent: Path, name: str, *, exactly: bool = False) -> Iterator[Path]:
    """Make a folder that nobody else has; it is taken away again if nothing came into it.

    A name that is taken gets a number, but for one that must be `exactly` so: an empty folder of
    that name is used, another one is left alone. Raises file-differs, busy, file-not-written.
    """
    folder, made = _make(parent, name, exactly=exactly)
    with _locked(folder):
        if not made and any(folder.iterdir()):
            message = f"{folder} is there already, and holds files."
            raise ApplianceError("file-differs", message, "Choose another --name.")
        try:
            yield folder
        finally:
            if made:
                with suppress(OSError):  # Something is in it.
                    folder.rmdir()


def _make(parent: Path, name: str, *, exactly: bool) -> tuple[Path, bool]:
    """Return the folder, and whether it was made now."""
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
        except FileExistsError:
            if not parent.is_dir() or (exactly and not folder.is_dir()):
                file = folder if parent.is_dir() else parent
                raise ApplianceError("file-not-written", f"{file} is a file.") from None
            if exactly:
                return folder, False
            number += 1
        except OSError as error:
            message = f"{folder} can't be made: {error.strerror}."
            raise ApplianceError("file-not-written", message) from error
        else:
            return folder, True


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder: it stays empty for hours, and so looks free to whoever is given its name."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        message = f"{folder} can't be read: {error.strerror}."
        raise ApplianceError("file-not-written", message) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"Another command is about to write into {folder}."
            raise ApplianceError("busy", message, "Choose another --name.") from None
        except OSError:
            pass  # Not every network's file system has locks.
        yield
    finally:
        os.close(handle)
