"""The list of files that a fetched model folder must hold, kept in the folder itself.

The list goes where the folder goes, so a copy of it can be checked on a host with no network.
It is written before the first byte of a model is fetched: a folder that has the list and
fewer files is a fetch that was interrupted.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

NAME = ".appliance-weights.json"
READ_LIMIT = 100_000_000  # bytes of JSON that are read from a file at most


@dataclass(frozen=True)
class Entry:
    """A file of the model: its size in bytes, and its SHA-256 where the hub says it."""

    size: int
    sha256: str | None


@dataclass(frozen=True)
class Manifest:
    """What the hub listed for a model at a revision. `files` is keyed by relative path."""

    model_id: str
    revision: str
    files: dict[str, Entry]


def read_json(path: Path) -> Any:
    """Return what a JSON file holds, reading no more than `READ_LIMIT` bytes.

    Raises OSError if it can't be read, and ValueError if it is not JSON or is too long.
    """
    with path.open("rb") as file:
        data = file.read(READ_LIMIT + 1)
    if len(data) > READ_LIMIT:
        raise ValueError(f"longer than {READ_LIMIT} bytes")
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read(folder: Path) -> Manifest | None:
    """Return the folder's list of files, or `None` if it has none that can be read."""
    try:
        content = read_json(folder / NAME)
        files = {
            str(path): Entry(int(entry["size"]), entry["sha256"])
            for path, entry in content["files"].items()
        }
        return Manifest(str(content["model_id"]), str(content["revision"]), files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write(folder: Path, manifest: Manifest) -> None:
    """Put the list into the folder, whole or not at all. Raises OSError."""
    content = {
        "model_id": manifest.model_id,
        "revision": manifest.revision,
        "files": {
            path: {"size": entry.size, "sha256": entry.sha256}
            for path, entry in sorted(manifest.files.items())
        },
    }
    temporary = folder / f"{NAME}.new"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / NAME)
