"""The input, line by line: read twice, first to check it all, then to run what is to be run.

Nothing of it is kept but where each line is: an input with its media in data URLs is larger
than a machine's memory soon.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from appliance.errors import ApplianceError
from appliance.offline import request as requests
from appliance.offline.flaw import Flaw

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from appliance.offline.request import Request, Rules

# A line with its media in base64, and some words.
LARGEST_BYTES = requests.LARGEST_BYTES + 16 * 2**20
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Entry:
    """One request of the input: its line, counted from 1, where it is, and what was found.

    `key` is `None` where there is a flaw.
    """

    number: int
    offset: int
    length: int
    custom_id: str | None
    key: str | None
    flaw: Flaw | None = None


def open_input(path: Path | None) -> IO[bytes]:
    """Return the input, to be read more than once; `None` is stdin. Raises input-invalid."""
    if path is None:
        kept = tempfile.TemporaryFile()  # noqa: SIM115 (the caller's)
        shutil.copyfileobj(sys.stdin.buffer, kept)
        kept.seek(0)
        return kept
    try:
        if not path.is_file():
            why = "is not a file" if path.exists() else "does not exist"
            raise ApplianceError("input-invalid", f"{path} {why}.")
        return path.open("rb")
    except OSError as error:
        raise ApplianceError("input-invalid", f"{path} can't be read: {error}.") from error


def entries(file: IO[bytes], rules: Rules) -> list[Entry]:
    """Return what the input asks for, in its order, blank lines left out.

    Raises input-invalid where there is nothing.
    """
    found: list[Entry] = []
    seen: set[str] = set()
    for number, offset, line in _lines(file):
        entry = _entry(number, offset, line, rules)
        if entry.custom_id is not None and entry.custom_id in seen:
            flaw = Flaw("duplicate_custom_id", "A line before has the same `custom_id`.")
            entry = Entry(number, offset, len(line), entry.custom_id, None, flaw)
        elif entry.custom_id is not None:
            seen.add(entry.custom_id)
        found.append(entry)
    if not found:
        raise ApplianceError("input-invalid", "The input is empty: it holds no request.")
    return found


def read(file: IO[bytes], entry: Entry, rules: Rules) -> Request:
    """Return an entry's request, read again; raises `Flaw` for what has changed since."""
    file.seek(entry.offset)
    found = requests.request(requests.document(file.read(entry.length)), rules)
    if found.custom_id != entry.custom_id:
        raise Flaw("line_invalid", "The input has changed while it was worked on.")
    return found


def _lines(file: IO[bytes]) -> Iterator[tuple[int, int, bytes]]:
    """Yield number, offset and bytes of the lines that say something; a huge one is cut."""
    number = 0
    file.seek(len(_BOM) if file.read(len(_BOM)) == _BOM else 0)
    while True:
        offset = file.tell()
        line = file.readline(LARGEST_BYTES + 1)
        if not line:
            return
        number += 1
        more = line
        while not more.endswith(b"\n") and len(more) > LARGEST_BYTES:
            more = file.readline(LARGEST_BYTES + 1)
        if line.strip():
            yield number, offset, line


def _entry(number: int, offset: int, line: bytes, rules: Rules) -> Entry:
    if len(line) > LARGEST_BYTES:
        flaw = Flaw("line_invalid", f"The line is longer than {LARGEST_BYTES >> 20} MiB.")
        return Entry(number, offset, len(line), None, None, flaw)
    custom_id = None
    try:
        document = requests.document(line)
        custom_id = requests.identifier(document)
        made = requests.request(document, rules)
    except Flaw as flaw:
        return Entry(number, offset, len(line), custom_id, None, flaw)
    return Entry(number, offset, len(line), custom_id, made.key)
