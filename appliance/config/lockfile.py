"""The lock file: which content each image name stands for. Written for people to commit."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from appliance import yamlfile
from appliance.config.load import DIGEST
from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from collections.abc import Mapping

_KEYS = {"digest", "locked", "verified_with"}
_HEAD = """\
# Which content each image name stands for. `appliance images lock` writes this file; commit it.
# What is named here is pulled by its digest alone. Take an entry out to let go of its digest.
"""


@dataclass(frozen=True)
class Entry:
    """One locked image: its digest, the day it was locked, and who agreed on it."""

    digest: str
    locked: str | None = None
    verified_with: tuple[str, ...] = ()


def read(path: Path) -> dict[str, Entry]:
    """Return what is locked, by image name; raises config-invalid."""
    try:
        content = yamlfile.read(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise _invalid(path, f"it can't be read: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise _invalid(path, "it must be a mapping of image names.")
    return {str(name): _entry(path, name, row) for name, row in content.items()}


def _entry(path: Path, name: Any, row: Any) -> Entry:
    if not isinstance(row, dict) or not set(row) <= _KEYS:
        raise _invalid(path, f"{name} must have the keys {', '.join(sorted(_KEYS))} alone.")
    digest, witnesses = row.get("digest"), row.get("verified_with") or []
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise _invalid(path, f"{name}: {digest!r} is no digest such as sha256:…, 64 digits long.")
    if not isinstance(witnesses, list):
        raise _invalid(path, f"{name}: verified_with must be a list.")
    locked = row.get("locked")
    return Entry(digest, str(locked) if locked else None, tuple(str(item) for item in witnesses))


def text(entries: Mapping[str, Entry]) -> str:
    """Return a lock file's text."""
    rows: dict[str, dict[str, Any]] = {}
    for name, entry in sorted(entries.items()):
        rows[name] = {"digest": entry.digest}
        if entry.locked:
            rows[name]["locked"] = entry.locked
        if entry.verified_with:
            rows[name]["verified_with"] = list(entry.verified_with)
    return _HEAD + yaml.safe_dump(rows, sort_keys=False, allow_unicode=True, width=1000)


def write(path: Path, entries: Mapping[str, Entry]) -> None:
    """Write a lock file, in one step: nobody reads half of it. Raises file-not-written."""
    target = Path(os.path.realpath(path))  # A link to the file stays a link.
    temporary = None
    try:
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o644
        number, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text(entries))
        os.chmod(temporary, mode)  # noqa: PTH101 (mkstemp gives a name)
        os.replace(temporary, target)  # noqa: PTH105
    except OSError as error:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108
        raise ApplianceError("file-not-written", f"{path}: {error.strerror}.") from error


def _invalid(path: Path, why: str) -> ApplianceError:
    return ApplianceError(
        "config-invalid",
        f"{path}: {why}",
        "Correct the file, or take it away and make it anew with `appliance images lock`.",
    )
