"""One diagnosis: reads a log from wherever it is, and says what was found in it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.config.model import Config
from appliance.diagnose import logs, source
from appliance.diagnose.match import Reader, diagnose
from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from appliance.config.load import Loaded
    from appliance.diagnose.bundle import Written
    from appliance.diagnose.logs import Line
    from appliance.diagnose.match import Finding

# What a bundle takes along of a log.
KEPT_BYTES = 20_000_000


@dataclass(frozen=True)
class Diagnosis:
    """What a log told: the findings, the root first. `last` is the log's last line.

    `log` is the end of what was read, kept for a bundle only. `error` stands in the place of
    all else where there was nothing to read.
    """

    title: str
    findings: tuple[Finding, ...] = ()
    lines: int = 0
    last: str = ""
    log: str = ""
    error: ApplianceError | None = None


@dataclass(frozen=True)
class Wanted:
    """What the operator asked for: which log, how much of it, and an archive of it all."""

    log: Path | None = None
    tail: int | None = None
    bundle: Path | None = None
    force: bool = False


def perform(wanted: Wanted, load: Callable[[], Loaded]) -> tuple[Diagnosis, Written | None]:
    """Diagnose a log, and write the archive where one is wanted.

    The configuration is loaded where it is needed: a log that was named is read without one.
    Raises what `source.opened` and `bundle.write` raise.
    """
    if wanted.bundle is None:
        name = load().config.name if wanted.log is None else ""
        return run(wanted, name), None
    from appliance.diagnose import bundle

    loaded: Loaded | ApplianceError
    try:
        loaded = load()
        name = loaded.config.name
    except ApplianceError as error:
        loaded, name = error, Config().name
    bundle.refuse_existing(wanted.bundle, force=wanted.force)
    found = run(wanted, name)
    return found, bundle.write(wanted.bundle, name, loaded, found, force=wanted.force)


def run(wanted: Wanted, name: str) -> Diagnosis:
    """Diagnose a log, the appliance's `name` own one by default.

    Raises what `source.opened` does; where an archive is wanted it becomes part of the diagnosis
    instead, because what can't be read is what others will have to look at.
    """
    keep = wanted.bundle is not None
    try:
        with source.opened(wanted.log, name, wanted.tail) as found:
            stream = source.Kept(found.stream, KEPT_BYTES if keep else 0)
            read: Iterable[Line] = logs.read(stream)
            if wanted.tail and wanted.log:  # A file's last lines are known at its end.
                read = deque(read, maxlen=wanted.tail)
            reader = diagnose(read)
            seen = reader.lines
            _hear(reader, found.said)
            return Diagnosis(found.title, reader.findings(), seen, reader.last, stream.text())
    except ApplianceError as error:
        if not keep:
            raise
        return Diagnosis("no log", error=error)


def _hear(reader: Reader, said: Iterable[str]) -> None:
    """Take what the engine says of the container's end for the last lines of its log."""
    last = reader.last
    for text in said:
        reader.feed(logs.Line(reader.lines + 1, "docker", "ERROR", text))
    reader.last = last
