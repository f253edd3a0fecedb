"""Reads what `npu-smi info` prints. Pure: text in, plain values out; no text makes it raise.

A chip is two lines of a table with pipes, in one of four layouts (`appliance.inventory.table`).
Widths differ by product and release, and by neither alone: a line is cut at its pipes, never at a
column, and told by what its cells hold, so that a table that lost borders or headings is read.
The figures end with `used/ total` of the memory that counts: HBM, or on 310s the only one.
The formats are those of npu_info_print.c in the driver's npu-smi, and of published outputs.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from dataclasses import dataclass, field

from appliance.inventory.model import Process
from appliance.inventory.table import Holder, Layout, Row, Table
from appliance.inventory.text import BORDER, ELIDED, cells_of, is_closed, lines_of

# With the driver's version; or, where that was cut off, at least inside a table.
_TITLE = re.compile(
    r"npu-smi\s+(\S+).*?Version\s*:[ \t]*([^\s|]*)|\|\s*npu-smi\s+(v?\d\S*)(?!.*Version)"
)
_BUS = re.compile(r"[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9A-Fa-f]+")
_NONE = frozenset({"NA", "N/A", "-", ""})
_IDS = re.compile(r"(\d+)(?:\s+(\d+))?")
_NAMED = re.compile(r"(-?\d+)(?:\s+(\S.*))?")
_PAIR = re.compile(r"(-?[\dxX*]+|N/A|NA|-)\s*/\s*(-?[\dxX*]+|N/A|NA|-)")
# Power and temperature stand beside a health; a line broken off another has something else.
_POWER = re.compile(r"(?:-?[\d.xX*?]+|NA|N/A|-)\s+\S.*|[.…]*")
_IDLE = re.compile(r"No running processes(?: found)?(?: in NPU\s+(\d+))?")
_CUT = "it ends in the middle of a row"
_HEADS = ("npu", "chip", "bus-id")
_COLUMNS = ("npu chip", "process id", "process name", "process memory(mb)")
_IN_CONTAINER = "process id in container"


def read(text: str) -> Table:
    """Read an output of `npu-smi info`; of several, one after the other, the last with chips."""
    lines = lines_of(text)
    starts = [index for index, line in enumerate(lines) if _TITLE.search(line)]
    edges = [0, *starts[1:], len(lines)]
    closed = is_closed(lines)
    last = max((index for index, line in enumerate(lines) if line.strip()), default=0)
    tables = []
    for begin, end in itertools.pairwise(edges):
        cut = lines[last] if closed and begin <= last < end else None
        tables.append(_section(lines[begin:end], cut))
    best = next((table for table in reversed(tables) if table.rows), tables[-1])
    notes = tuple(note for table in tables for note in table.notes)
    return dataclasses.replace(best, notes=notes, outputs=len(starts))


def _section(lines: list[str], last: str | None) -> Table:
    """Read one output. `last` is the line where the text may have been cut off."""
    reader = _Reader(last)
    reader.take(lines)
    if reader.rows and all(row.half or row.npu_id is None for row in reader.rows):
        # A border stands between the two lines of every chip: it parts nothing.
        reader = _Reader(last)
        reader.take([line for line in lines if not BORDER.fullmatch(line)])
    return reader.table()


@dataclass
class _Reader:
    """Goes through the lines of one output."""

    last: str | None
    layout: Layout | None = None
    hbm: bool | None = None
    versions: tuple[str | None, str | None] = (None, None)
    columns: tuple[str, ...] | None = None
    first: Row | None = None
    rows: list[Row] = field(default_factory=list)
    holders: list[Holder] = field(default_factory=list)
    asked: set[int] | None = None
    notes: list[str] = field(default_factory=list)
    garbled: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    bordered: bool = False
    inside: bool = False

    def take(self, lines: list[str]) -> None:
        for line in lines:
            if BORDER.fullmatch(line):
                if line.strip():
                    self.flush()
                    self.bordered, self.inside = True, False
            elif ELIDED.fullmatch(line):
                self.flush()
                if self.layout or self.rows:
                    self.gaps.append("rows were left out")
            elif not self._heading(line) and not self._row(line):
                self._other(line)
        self.flush()
        begun = self.versions[0] and not self.layout
        if begun or (self.inside and self.bordered and self.columns is None):
            self.gaps.append("it ends in the middle of the table")

    def _other(self, line: str) -> None:
        if not line.lstrip().startswith("|") or line.count("|") < 2:  # noqa: PLR2004
            self.notes.append(line.strip())
        elif line is self.last and self.layout:
            self.gaps.append(_CUT)
        else:
            self.garbled.append(line.strip())

    def flush(self) -> None:
        """Keep a chip whose second line did not come."""
        if self.first is not None:
            self.rows.append(self.first)
            self.first = None

    def _heading(self, line: str) -> bool:
        """Take a title, the heading of a table, or the line of an NPU with no process."""
        if title := _TITLE.search(line):
            self.versions = (title[1] or title[3], title[2] or None)
            return True
        if idle := _IDLE.search(line):
            self._asked({int(idle[1])} if idle[1] else set())
            return True
        words = [word.strip().lower() for word in line.split("|") if word.strip()]
        # What stands before is a prompt or a time stamp; ids are a row's, whatever comes after.
        while words and not (words[0].startswith(_HEADS) or _IDS.fullmatch(words[0])):
            del words[0]
        if words and words[0].startswith("npu") and "process id" in words:
            self.flush()
            self.columns = tuple(words)
            self._asked(set())
            return True
        return bool(words) and self._chip_heading(words)

    def _asked(self, npus: set[int]) -> None:
        self.asked = (self.asked or set()) | npus

    def _chip_heading(self, words: list[str]) -> bool:
        if words[0].startswith("npu") and "health" in words:
            self.flush()
            self.columns = None
            if words[0] == "npu id":
                self.layout = "npu"
            return True
        if "bus-id" not in words or not words[0].startswith(("chip", "bus-id")):
            return False
        self.columns = None
        self.hbm = any(word.find("hbm-usage") >= 0 for word in words)
        found: dict[str, Layout] = {"": "chip", "phy-id": "phy-id", "device": "device"}
        second = words[0].removeprefix("chip").strip()
        self.layout = "npu" if words[0] == "bus-id" else found.get(second, self.layout)
        return True

    def _row(self, line: str) -> bool:
        if "|" not in line:
            return False
        three = self.columns is None and self.layout not in (None, "npu")
        cells, whole = cells_of(line, 3 if three else None)
        cut = not whole and line is self.last
        if cut:
            cells = cells[:-1]  # Half a figure looks like a figure.
            self.gaps.append(_CUT)
        if self.columns is not None:
            return cut or (bool(cells) and self._process(cells, self.columns))
        if not cells:
            return cut
        if self._second(cells, cut=cut) or self._first(cells, cut=cut):
            self.inside = True
            return True
        return self._process(cells, None) or cut

    def _first(self, cells: list[str], *, cut: bool) -> bool:
        """Take a chip's first line: NPU, name and health."""
        match = _NAMED.fullmatch(cells[0])
        if match is None or "".join(cells[1:2]).isdigit():
            return False
        four = len(cells) > 3  # noqa: PLR2004
        apart = self.layout == "npu" or (self.layout is None and match[2] is None and four)
        words = cells[1:4] if apart else [match[2] or "", *cells[1:3]]
        name, health, figures = [*words, "", "", ""][:3]
        if not _is_word(name) or not _is_word(health) or health[:1].isdigit():
            return False
        told = name not in _NONE and health not in _NONE
        if not cut and not (_POWER.fullmatch(figures) and (figures or told)):
            return False
        self.flush()
        if apart:
            self.layout = "npu"
        named = None if name in _NONE else name
        known = None if health in _NONE else health
        self.first = Row(int(match[1]), name=named, health=known, half=True)
        return True

    def _second(self, cells: list[str], *, cut: bool) -> bool:
        """Take a chip's second line: ids, bus and memory, and make the row of both lines."""
        ids = None
        ends_here = cut and len(cells) == 1 and self.first is not None
        if self.layout != "npu" and (_is_bus(cells, 1) or ends_here):
            ids = _IDS.fullmatch(cells[0])
        if ids is None and not (self.layout in ("npu", None) and _is_bus(cells, 0)):
            return False
        bus, figures, *_ = [*cells[1 if ids else 0 :], "", ""]
        pairs: list[tuple[str, str]] = _PAIR.findall(figures)
        if self.layout is None:  # The heading is lost.
            several: Layout = "phy-id" if len(pairs) > 1 else "device"
            self.layout = "npu" if ids is None else several if ids[2] else "chip"
        first = self.first or Row(None)
        self.first = None
        second = Row(
            first.npu_id,
            chip_id=int(ids[1]) if ids else 0,
            phy_id=int(ids[2]) if ids and ids[2] and self.layout == "phy-id" else None,
            name=first.name,
            health=first.health,
            bus_id=None if bus in _NONE else bus,
        )
        self.rows.append(self._with_memory(second, pairs))
        return True

    def _with_memory(self, row: Row, pairs: list[tuple[str, str]]) -> Row:
        """Add the memory. A total of 0 or less is what npu-smi prints when it can't ask."""
        missing = 2 if self.hbm else 1
        if len(pairs) < missing:
            return row
        ddr = _figure(pairs[0][1]) if len(pairs) > 1 else None
        total = _figure(pairs[-1][1]) or None
        used = _figure(pairs[-1][0]) if total else None
        return dataclasses.replace(row, used=used, total=total, ddr_total=ddr)

    def _process(self, cells: list[str], columns: tuple[str, ...] | None) -> bool:
        """Take a process. A name may have pipes in it: what is too much belongs to it."""
        ids = _IDS.fullmatch(cells[0])
        if ids is None or len(cells) < 2:  # noqa: PLR2004
            return False
        if columns is None:
            longer = len(cells) == len(_COLUMNS) + 1 and cells[3].isdigit()
            columns = (*_COLUMNS, _IN_CONTAINER) if longer else _COLUMNS
        self._asked({int(ids[1])})
        extra = max(0, len(cells) - len(columns))
        at = columns.index("process name") if "process name" in columns else 2
        values = dict(zip(columns[:at], cells[:at], strict=False))
        values |= zip(columns[at + 1 :], cells[at + 1 + extra :], strict=False)
        pid = values.get("process id", "")
        memory = next((v for k, v in values.items() if k.startswith("process memory")), "")
        if not pid.isdigit() or not memory.isdigit():
            return pid in _NONE or bool(self.gaps)
        process = Process(int(pid), "|".join(cells[at : at + 1 + extra]), int(memory))
        self.holders.append(Holder(int(ids[1]), int(ids[2]) if ids[2] else None, process))
        return True

    def table(self) -> Table:
        return Table(
            layout=self.layout,
            tool_version=self.versions[0],
            driver_version=self.versions[1],
            rows=tuple(self.rows),
            holders=tuple(self.holders),
            asked=None if self.asked is None else frozenset(self.asked),
            notes=tuple(self.notes),
            garbled=tuple(self.garbled),
            gaps=tuple(dict.fromkeys(self.gaps)),
        )


def _is_bus(cells: list[str], at: int) -> bool:
    return len(cells) > at and (cells[at] in _NONE or _BUS.fullmatch(cells[at]) is not None)


def _is_word(text: str) -> bool:
    """Tell whether a cell can be a name or a state: no figures, no address."""
    return not any(sign in text for sign in "/:") or text in _NONE


def _figure(text: str) -> int | None:
    """Return a figure in MiB; npu-smi prints a negative one where it could not ask."""
    return int(text) if text.isdigit() else None
