"""Media of a request: where they are, that they are there, and their bytes."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit

from appliance.offline import fetch
from appliance.offline.flaw import Flaw

if TYPE_CHECKING:
    from collections.abc import Collection

Kind = Literal["image", "audio", "video"]
_SHOWN = 200


@dataclass(frozen=True)
class Place:
    """From where media are read: what paths are relative to, which domains may be asked."""

    folder: Path
    allowed_domains: tuple[str, ...] = ()
    fetch_seconds: float = fetch.SECONDS


@dataclass(frozen=True)
class Medium:
    """One medium: bytes in base64, a file, or a URL. Nothing of a file or a URL is read yet.

    `identity` is what a change of it shows by: of data the bytes, of a file its size and time,
    of a URL the URL.
    """

    kind: Kind
    form: Literal["data", "file", "url"]
    value: str
    identity: str

    def load(self, place: Place) -> str:
        """Return its bytes in base64; raises `Flaw`."""
        if self.form == "data":
            return self.value
        if self.form == "url":
            content = fetch.fetch(self.value, place.allowed_domains, place.fetch_seconds)
        else:
            content = _read(Path(self.value))
        if not content:
            raise Flaw("media_invalid", f"{self.value:.{_SHOWN}} is empty.")
        return base64.b64encode(content).decode("ascii")


def medium(kind: Kind, source: str, place: Place) -> Medium:
    """Return the medium that a text stands for: a data URL, a URL, or a path; raises `Flaw`."""
    scheme = source.split(":", 1)[0].lower() if ":" in source else ""
    if scheme == "data":
        header, comma, data = source.partition(",")
        if not comma or not header.lower().endswith(";base64"):
            raise Flaw("media_invalid", f"A data URL of {kind} is not in base64.")
        return from_base64(kind, data)
    if scheme in {"http", "https"}:
        fetch.domain(source, place.allowed_domains)
        return Medium(kind, "url", source, source)
    return _file(kind, _local(source) if scheme == "file" else source, place.folder)


def from_base64(kind: Kind, data: str) -> Medium:
    """Return the medium whose bytes these are; raises `Flaw`."""
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Flaw("media_invalid", f"The base64 of {kind} can't be read: {error}.") from error
    if not content:
        raise Flaw("media_invalid", f"The data of {kind} are empty.")
    if len(content) > fetch.LARGEST_BYTES:
        raise _too_large(f"The data of {kind}")
    return Medium(kind, "data", data, hashlib.sha256(content).hexdigest())


def total_bytes(media: Collection[Medium]) -> int:
    """Return the bytes that media take in base64, as far as that is known: URLs count nothing."""
    total = 0
    for it in media:
        if it.form == "data":
            total += len(it.value)
        elif it.form == "file":
            total += int(it.identity.split(":")[0]) * 4 // 3
    return total


def _local(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise Flaw("media_invalid", f"{url:.{_SHOWN}} is no URL: {error}.") from error
    if parts.netloc not in {"", "localhost"}:
        raise Flaw("media_invalid", f"{url:.{_SHOWN}} is on another machine.")
    return unquote(parts.path)


def _file(kind: Kind, name: str, folder: Path) -> Medium:
    path = folder / name
    try:
        found = path.stat()
        readable = os.access(path, os.R_OK)
    except (OSError, ValueError) as error:
        raise _absent(name, error) from error
    if not stat.S_ISREG(found.st_mode):
        raise Flaw("media_missing", f"{name:.{_SHOWN}} is not a file.")
    if not readable:
        raise Flaw("media_missing", f"{name:.{_SHOWN}} may not be read.")
    if found.st_size > fetch.LARGEST_BYTES:
        raise _too_large(f"{name:.{_SHOWN}}")
    return Medium(kind, "file", str(path), f"{found.st_size}:{found.st_mtime_ns}:{name}")


def _read(path: Path) -> bytes:
    """Return a file's bytes: never those of a pipe or a device that took its place."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(number, "rb") as file:
            if not stat.S_ISREG(os.fstat(number).st_mode):
                raise Flaw("media_missing", f"{path} is not a file.")
            content = file.read(fetch.LARGEST_BYTES + 1)
    except OSError as error:
        raise _absent(str(path), error) from error
    if len(content) > fetch.LARGEST_BYTES:
        raise _too_large(str(path))
    return content


def _absent(name: str, error: OSError | ValueError) -> Flaw:
    words = error.strerror if isinstance(error, OSError) else str(error)
    return Flaw("media_missing", f"{name:.{_SHOWN}} can't be read: {words}.")


def _too_large(what: str) -> Flaw:
    return Flaw("media_too_large", f"{what}: more than {fetch.LARGEST_BYTES >> 20} MiB.")
