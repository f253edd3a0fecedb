"""What became of earlier starts: read at each start, to wait longer or to stay down.

It is kept in the cache volume, which outlives the container's restarts. Without a place to
write it (a full disk), the supervisor works on, and every start is the first.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.config.model import Watchdog

# Ids of appliance.errors, but for `killed`, after which nobody is left to end with a code.
Cause = Literal["engine-hung", "engine-died", "not-ready", "killed"]
Phase = Literal["starting", "serving", "waiting", "down", "stopping", "stopped", "failed"]
KEPT = 20
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
FILE = "state.json"
# What can still be shown as a date.
MOST_SECONDS = 1e11


@dataclass(frozen=True)
class Failure:
    """One start that ended by itself.

    `at` is when, in seconds since the epoch; `ran` for how many seconds; `code` the exit code
    that the container had for it; `evidence` the file that tells more, where one could be kept.
    `served` tells whether it got as far as to answer. `forgiven` are those that somebody has seen
    to, by stopping the container.
    """

    at: float
    cause: Cause
    detail: str
    ran: float
    code: int | None = None
    evidence: str | None = None
    served: bool = True
    forgiven: bool = False


@dataclass
class History:
    """What is known of this container's starts. `since` is when the phase began.

    `boot` is the kernel's id of the host's start, `host` the container's host name.
    """

    phase: Phase = "stopped"
    detail: str = ""
    since: float = 0.0
    boot: str = ""
    host: str = ""
    failures: list[Failure] = field(default_factory=list)

    def counted(self, window: float, now: float) -> list[Failure]:
        """Return the failures that nobody has seen to: those of the last `window` seconds.

        The last ones of an engine that has not served since count however long ago they were:
        where a start takes half an hour, an hour holds no more than two.
        """
        served = [index for index, it in enumerate(self.failures) if it.served or it.forgiven]
        unserved = served[-1] + 1 if served else 0
        # A clock that was set back puts failures into the future: as far away, they count
        # no more than those of the past.
        return [
            it
            for index, it in enumerate(self.failures)
            if not it.forgiven and (index >= unserved or abs(now - it.at) < window)
        ]

    def forgive(self) -> None:
        """Count none of the failures any more, whatever the clock says."""
        self.failures = [dataclasses.replace(it, forgiven=True) for it in self.failures]


def pause(count: int, limits: Watchdog) -> float:
    """Return the seconds to wait before a start after `count` failures: none after the first."""
    if count <= 1:
        return 0.0
    return float(min(limits.backoff * 2.0 ** min(count - 2, 30), limits.backoff_max))


class Store:
    """The history in its file. Nothing here raises: a full disk must not end a server."""

    def __init__(self, folder: Path) -> None:
        """Read what is there; what can't be read counts as nothing."""
        self.folder = folder
        self.trouble: str | None = None
        self.history = parse(_text(folder / FILE))

    def begin(self) -> None:
        """Take notice of how the last start ended, where that could not say it itself."""
        boot, host = _text(BOOT_ID).strip(), socket.gethostname()
        if self.history.host not in ("", host):
            # Another container's, whose volume this one has: it was made anew, by somebody.
            self.history = History()
        history = self.history
        if history.phase == "stopping":
            history.forgive()
        elif history.phase in ("starting", "serving") and history.boot == boot:
            words = f"while {history.phase}, from outside: out of memory, or `docker kill`"
            ran = max(0.0, time.time() - history.since)
            served = history.phase == "serving"
            self.add(Failure(time.time(), "killed", words, ran, served=served))
        history.boot, history.host = boot, host

    def add(self, failure: Failure) -> None:
        """Remember a failure."""
        self.history.failures = [*self.history.failures, failure][-KEPT:]

    def forgive(self) -> None:
        """Take that somebody stopped the container: the next start is the first again."""
        self.history.forgive()
        self.enter("stopped")

    def enter(self, phase: Phase, detail: str = "") -> None:
        """Say what the supervisor does now."""
        history = self.history
        history.phase, history.detail, history.since = phase, detail, time.time()
        self.keep(FILE, json.dumps(dataclasses.asdict(history)))

    def keep(self, name: str, text: str) -> Path | None:
        """Write a file whole or not at all; returns its path, `None` where it can't be written."""
        path = self.folder / name
        temporary = path.with_name(f".{name}.new")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
                file.write(text)
            temporary.replace(path)
        except OSError as error:
            self.trouble = str(error)
            with suppress(OSError):
                temporary.unlink()
            return None
        self.trouble = None
        return path


def parse(text: str) -> History:
    """Return the history in a text; an empty one where it is none."""
    try:
        found: dict[str, Any] = json.loads(text)
        failures = [Failure(**failure) for failure in found.pop("failures")]
        history = History(**found, failures=failures)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return History()
    return history if _valid(history) and all(map(_valid, failures)) else History()


def _valid(found: History | Failure) -> bool:
    """Tell whether all values are of the kinds that they are declared to be."""
    return all(_KINDS[it.type](getattr(found, it.name)) for it in dataclasses.fields(found))


def _is_time(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < MOST_SECONDS


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


# By the words of the declarations, which are all that is left of them at run time.
_KINDS: dict[Any, Callable[[Any], bool]] = {
    "str": _is_text,
    "str | None": lambda value: value is None or _is_text(value),
    "float": _is_time,
    "int | None": lambda value: value is None or type(value) is int,
    "bool": lambda value: isinstance(value, bool),
    "Cause": lambda value: value in get_args(Cause),
    "Phase": lambda value: value in get_args(Phase),
    "list[Failure]": lambda value: isinstance(value, list),
}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
