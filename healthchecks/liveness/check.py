"""One verdict on a server, for a health check or a person."""

from __future__ import annotations

import json
import math
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from healthchecks.liveness.observe import Observer
from healthchecks.target import ProbeResult

if TYPE_CHECKING:
    from pathlib import Path

    from healthchecks.liveness.watch import Finding, Limits
    from healthchecks.target import Target, Verdict

PROBE = "progress"
LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Note:
    """What a watcher found last, as it leaves it in a file. ``at`` is seconds since the epoch."""

    at: float
    ok: bool
    detail: str

    def write(self, file: Path) -> None:
        """Leave the note in one step, for its owner's eyes; raises OSError."""
        temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        text = json.dumps({"at": self.at, "ok": self.ok, "detail": self.detail})
        try:
            # Never through a link, or into a file, that somebody else has put there.
            temporary.unlink(missing_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
                opened.write(text)
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)

    @staticmethod
    def read(file: Path) -> Note | None:
        """Return the note in a file, or None where there is none that can be read."""
        with suppress(OSError, ValueError, LookupError, TypeError):
            found = json.loads(file.read_text(encoding="utf-8"))
            return Note(float(found["at"]), bool(found["ok"]), str(found["detail"]))
        return None


def progress(
    target: Target, limits: Limits, watched: Path | None = None, patience: float = math.inf
) -> ProbeResult:
    """Say whether the engine makes progress, or can.

    Moving counters are enough. Where they stand still one token is asked for, and the counters
    are watched on: a server that is only busy passes as soon as they move. An engine that does
    nothing fails ``limits.idle`` seconds after its last sign of life, one with requests after
    ``limits.busy``; the time before the first look counts as ``limits.quiet``.

    After ``patience`` seconds an engine that is not judged yet counts as one that makes no
    progress.

    ``watched`` names the file in which a watcher beside the server keeps what it found; one that
    is fresh is the answer, and the server is not asked at all.
    """
    began = time.monotonic()
    note = Note.read(watched) if watched else None
    if note is not None and abs(time.time() - note.at) <= 3 * limits.interval:
        return ProbeResult(PROBE, note.ok, 0.0, note.detail, "ok" if note.ok else "timeout")
    observer = Observer(target, limits)
    observer.assume_still()
    finding = observer.look(ask=False)
    if observer.occupied:  # A request of ours would only be one more to wait for.
        observer.settle(LOOK_SECONDS)
    if not observer.unreachable:
        finding = observer.look()
    while (
        finding.state == "still"
        and not observer.unreachable
        and time.monotonic() - began < patience
    ):
        observer.settle(LOOK_SECONDS)
        finding = observer.look()
    seconds = round(time.monotonic() - began, 3)
    verdict = _verdict(finding, observer)
    detail = observer.unreachable or finding.detail
    return ProbeResult(PROBE, verdict in ("ok", "refused"), seconds, detail, verdict)


def _verdict(finding: Finding, observer: Observer) -> Verdict:
    if finding.state == "moving":
        return "refused" if observer.refused else "ok"
    return "error" if observer.unreachable else "timeout"
