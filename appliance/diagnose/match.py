"""From the lines of a log to findings: the failures that it tells of, the root of them first.

A failing start of several processes fills pages: each worker's traceback, the engine's that
waited for them, the API server's that waited for the engine, and the peers' that waited for a
rank which was dead by then. The root is what failed first in time, with two corrections: what
only says that something failed loses to what says why, within the same burst of lines; and a
known failure is preferred to an unknown one of the same burst.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from appliance.catalog.failures import failures
from appliance.plan import names

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from appliance.catalog.failures import Failure
    from appliance.diagnose.logs import Line

UNKNOWN = "unknown-error"
# One failure with the tracebacks of its ranks is told within so many lines.
BURST = 400
# An error with what its process says of it at once.
EPISODE = 40
# Of a log with more processes, or more unknown errors, the first are looked at.
PROCESSES = 256
UNKNOWN_SHOWN = 8
LINE_CHARS = 500
# Source code in a traceback, and what CANN adds to an error, is indented by so much.
CONTINUED = 4

_BEGIN = "Traceback (most recent call last)"
_FRAME = re.compile(r'^File "[^"]{1,500}", line \d+')
_SOURCE = re.compile(r"^(?:raise|return|await|with|for|if|self\.)\b|^[\^~ ]+$")
# An exception's own line. Outside of a traceback its name must say that it is one.
_NAMED = re.compile(
    r"^(?:[A-Za-z_]\w*\.){0,8}(?:[A-Z]\w*)?(?:Error|Exception|Expired|Timeout)(?::|$)"
)
_RAISED = re.compile(r"^(?:[A-Za-z_]\w*\.){0,8}[A-Z]\w*(?:: |:?$)")
# What parsers of arguments, engines, loaders and CANN say of themselves.
_STATED = re.compile(
    r"^[\w./ -]{1,80}: error: |^(?:docker: )?Error response from daemon: |^Fatal Python error: "
    r"|^(?:E[A-Z]\d{4}|E\d{5}): |\((?:E[A-Z]\d{4}|E\d{5})\): |error while loading shared libraries"
)
_WORDS = re.compile(r"\berror\b|\bfatal\b|can't be|cannot|no such file", re.IGNORECASE)
_NOTHING = re.compile(r"\b(?:no|0|without) errors?\b|\berror code is 0\b", re.IGNORECASE)
_CHAINED = ("During handling of the above", "The above exception was")
_COUNT = re.compile(r"\d+ validation errors? for \w+$")
_READY = "Application startup complete."
_BEGUN = "vLLM API server version"
_LOWEST = {"INFO": 0, "WARNING": 1, "ERROR": 2}


@dataclass(frozen=True)
class Finding:
    """A failure that a log tells of. `first` marks the root: what to act on.

    `at` is where in the line the signature begins.
    """

    id: str
    line: str
    line_number: int
    process: str
    phase: str
    cause: str
    remedy: str
    sources: tuple[str, ...]
    kind: str
    count: int = 1
    first: bool = False
    benign: bool = False
    at: int = 0

    @property
    def shown(self) -> str:
        """The line, or of a very long one the part around what was found in it."""
        if len(self.line) <= LINE_CHARS:
            return self.line
        start = max(0, min(self.at - 80, len(self.line) - LINE_CHARS))
        end = start + LINE_CHARS
        dots = "..." if start else "", "..." if end < len(self.line) else ""
        return dots[0] + self.line[start:end] + dots[1]

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as `--json` prints it."""
        fields = asdict(self)
        del fields["at"]
        return {**fields, "line": self.shown, "sources": list(self.sources)}


@dataclass
class _Hit:
    """Where a known failure was seen first. `weak`: only in the source that raises it."""

    failure: Failure
    line: Line
    at: int
    weak: bool
    benign: bool
    count: int = 0

    @property
    def kind(self) -> str:
        if self.benign:
            return "harmless"
        return "symptom" if self.failure.kind == "harmless-while-starting" else self.failure.kind

    def finding(self) -> Finding:
        return Finding(
            id=self.failure.id,
            line=self.line.text,
            line_number=self.line.number,
            process=self.line.process,
            phase=self.failure.phase,
            cause=self.failure.cause,
            remedy=self.failure.remedy,
            sources=self.failure.sources,
            kind=self.kind,
            count=max(1, self.count),
            benign=self.benign,
            at=self.at,
        )


@dataclass
class _Process:
    """What is known of a process that writes to the log, and its first error so far.

    `strength` of that: 3 an exception's or a parser's own line, 2 a line at level ERROR, 1 a
    line with the word in it, 0 none. `went_on` says that it logged at leisure afterwards.
    """

    name: str
    traceback: bool = False
    base: int = 0
    strength: int = 0
    error: Line | None = None
    text: str = ""
    more: int = 0
    went_on: bool = False

    def finding(self) -> Finding:
        assert self.error is not None  # noqa: S101 (asked of those that have one)
        return Finding(
            id=UNKNOWN,
            line=self.text,
            line_number=self.error.number,
            process=self.name,
            phase="unknown",
            cause="The catalog of known failures has nothing on this line.",
            remedy="Search for the line in the issues of vllm-ascend and vLLM; for CANN's own "
            f"errors look into {names.CANN_LOG} in the container. To ask for help, add the "
            "archive that `appliance diagnose --bundle FILE` writes.",
            sources=(),
            kind="unknown",
        )


@dataclass
class Reader:
    """Takes a log line by line, then tells what was found. Its memory is bounded."""

    hits: dict[str, _Hit] = field(default_factory=dict)
    processes: dict[str, _Process] = field(default_factory=dict)
    ready: bool = False
    last: str = ""
    lines: int = 0

    def feed(self, line: Line) -> None:
        """Take the next line."""
        self.lines = line.number
        if not line.text:
            return
        self.last = line.text
        if _READY in line.text:
            self.ready = True
        elif _BEGUN in line.text:  # The log of a container goes on over its restarts.
            self.ready = False
        process = self._process(line.process)
        if process.more:  # Pydantic's first line only counts; what is wrong stands after it.
            process.more -= 1
            process.text = f"{process.text} {line.text}"
        within = _within(process, line)
        if not self._match(line, within):
            _note(process, line, within)

    def _process(self, name: str) -> _Process:
        found = self.processes.get(name)
        if found is None:
            found = _Process(name)
            if len(self.processes) < PROCESSES:
                self.processes[name] = found
        return found

    def _match(self, line: Line, within: str) -> bool:
        """Note the known failures that a line tells of; tell whether there are any."""
        if within == "code" and "raise " not in line.text:
            return False
        found = [
            (failure, where.start())
            for failure in _counting(line.level or "ERROR")
            if (where := failure.search(line.text))
        ]
        # A line that is harmless, or says why it failed, is not told for what it says in general.
        for kinds in (("harmless", "harmless-while-starting"), ("cause",)):
            if best := [pair for pair in found if pair[0].kind in kinds]:
                found = best
                break
        for failure, start in found:
            self._hit(failure, line, start, weak=within == "code")
        return bool(found)

    def _hit(self, failure: Failure, line: Line, start: int, *, weak: bool) -> None:
        benign = failure.kind == "harmless" or (
            failure.kind == "harmless-while-starting" and not self.ready
        )
        hit = self.hits.get(failure.id)
        if hit is None or (hit.weak and not weak) or (hit.benign and not benign):
            count = hit.count if hit else 0
            hit = _Hit(failure, line, start, weak, benign, count)
            self.hits[failure.id] = hit
        hit.count += not weak

    def findings(self) -> tuple[Finding, ...]:
        """Return what was found: the root first, then in the order of time, harmless ones last."""
        unknown = self._unknown()
        found = [*(hit.finding() for hit in self.hits.values()), *unknown]
        if not found:
            return ()
        root = self._root(unknown)
        order = {"harmless": 3, "notice": 2, "wrapper": 1}
        rest = sorted(
            (item for item in found if item != root),
            key=lambda item: (order.get(item.kind, 0), item.line_number),
        )
        return (replace(root, first=True), *rest)

    def _of(self, *kinds: str) -> list[_Hit]:
        """Return the hits of these kinds in the order of time, and as the catalog has them."""
        order = {failure.id: number for number, failure in enumerate(failures())}
        hits = [hit for hit in self.hits.values() if hit.kind in kinds]
        return sorted(hits, key=lambda hit: (hit.line.number, order[hit.failure.id]))

    def _root(self, unknown: Sequence[Finding]) -> Finding:
        """Choose what failed first. There is something."""
        reasons = self._of("cause", "symptom")
        if reasons:
            last = reasons[0].line.number + BURST
            near = [hit for hit in reasons if hit.line.number <= last]
            causes = [hit for hit in near if hit.kind == "cause"]
            known = (causes[0] if causes else _telling(near)).finding()
            return unknown[0] if unknown and self._leads(unknown[0]) else known
        if unknown:
            return unknown[0]
        for kind in ("request", "wrapper", "notice"):
            if hits := self._of(kind):
                return hits[0].finding()
        return self._of("harmless")[0].finding()

    def _leads(self, unknown: Finding) -> bool:
        """Tell whether an unknown error long before the known ones ended its process."""
        process = self.processes[unknown.process]
        return process.strength > 2 and not process.went_on  # noqa: PLR2004 (see _Process)

    def _unknown(self) -> list[Finding]:
        """Return the first error of each process, but for those that a known failure explains."""
        reasons = [hit.line.number for hit in self._of("cause", "symptom")]
        requests = [hit.line.number for hit in self._of("request")]
        strongest = max((process.strength for process in self.processes.values()), default=0)
        if (reasons or requests) and strongest < 2:  # noqa: PLR2004 (see _Process)
            return []
        found: dict[str, Finding] = {}
        for process in self.processes.values():
            if process.error is None or process.strength < strongest:
                continue
            number = process.error.number
            if any(other <= number + BURST for other in reasons):
                continue
            if any(abs(other - number) <= BURST for other in requests):
                continue
            # Ranks say the same with other numbers.
            found.setdefault(re.sub(r"\d+", "0", process.text), process.finding())
        return sorted(found.values(), key=lambda item: item.line_number)[:UNKNOWN_SHOWN]


def diagnose(lines: Iterable[Line]) -> Reader:
    """Read a whole log."""
    reader = Reader()
    for line in lines:
        reader.feed(line)
    return reader


def root(found: Iterable[Finding]) -> Finding | None:
    """Return the finding to act on; `None` where nothing is wrong."""
    return next((item for item in found if item.first and not item.benign), None)


@lru_cache
def _counting(level: str) -> tuple[Failure, ...]:
    """Return the failures that a line of this level may tell of. Of INFO it is few."""
    return tuple(
        failure
        for failure in failures()
        if _LOWEST.get(level, -1)
        >= (0 if failure.kind.startswith("harmless") else _LOWEST[failure.level])
    )


def _telling(symptoms: Sequence[_Hit]) -> _Hit:
    """Return the symptom that says most among the first one and those right after it."""
    order = {failure.id: number for number, failure in enumerate(failures())}
    first = symptoms[0].line
    near = [hit for hit in symptoms if hit.line.number <= first.number + EPISODE]
    own = [hit for hit in near if hit.line.process in (first.process, "")]
    return min(own, key=lambda hit: order[hit.failure.id])


def _within(process: _Process, line: Line) -> str:
    """Return what a line is to its process's traceback: `code`, `raised`, or neither."""
    if line.text.startswith(_BEGIN):
        process.traceback, process.base = True, line.indent
        return "code"
    if _FRAME.match(line.text):
        if not process.traceback:  # A log that was cut off within a traceback.
            process.traceback, process.base = True, max(0, line.indent - 2)
        return "code"
    if _NAMED.match(line.text):
        process.traceback = False
        return "raised"
    if not process.traceback:
        return "code" if line.indent >= CONTINUED and _SOURCE.match(line.text) else ""
    if line.indent > process.base or _SOURCE.match(line.text):
        return "code"
    process.traceback = False
    return "raised" if _RAISED.match(line.text) else ""


def _note(process: _Process, line: Line, within: str) -> None:
    """Note the first real error of a process, where it is none that is known."""
    strength = _strength(line, within)
    if strength > process.strength:
        process.strength, process.error = strength, line
        process.text, process.went_on = line.text, False
        process.more = 2 if _COUNT.search(line.text) else 0
    elif process.error is not None and line.level == "INFO":
        process.went_on = True


def _strength(line: Line, within: str) -> int:
    if within == "code" or line.level in ("DEBUG", "INFO", "WARNING"):
        return 0
    if line.text.startswith(_CHAINED) or _NOTHING.search(line.text):
        return 0
    if within == "raised" or _STATED.search(line.text):
        return 3
    if line.level == "ERROR" and line.indent < CONTINUED:  # Else it goes on with another one.
        return 2
    return 1 if _WORDS.search(line.text) else 0
