"""Reads what `npu-smi info` prints. Pure: text in, plain values out; no text makes it raise.

A chip is two lines of a table with pipes, in one of four layouts (`appliance.inventory.table`).
Widths differ by product and release, and by neither alone: a line is cut at its pipes, never at a
column, and told by its place and by its cells taken together (`appliance.inventory.cells`), so
that a table is read that lost borders or headings, or of which cells were blanked out.
The figures end with `used/ total` of the memory that counts: HBM, or on 310s the only one.
The formats are those of npu_info_print.c in the driver's npu-smi, and of published outputs.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from dataclasses import dataclass, field

from appliance.inventory import cells as of
from appliance.inventory.cells import cells_of
from appliance.inventory.model import Process
from appliance.inventory.table import Holder, Layout, Row, Table
from appliance.inventory.text import BORDER, ELIDED, is_closed, lines_of

# With the driver's version; or, where that was cut off, at least inside a table. A remark can
# stand right behind a version.
_VERSION = r"([!-'*-{}~]*)"
_TITLE = re.compile(
    rf"npu-smi\s+([!-'*-{{}}~]+).*?Version\s*:[ \t]*{_VERSION}|"
    r"\|\s*npu-smi\s+(v?\d[!-'*-{}~]*)(?!.*Version)"
)
_IDS = re.compile(r"(\d+)(?:\s+(\d+))?")
_NAMED = re.compile(r"(-?\d+)(?:\s+(\S.*))?")
# Power and temperature stand beside a health; a line broken off another has something else.
_POWER = re.compile(r"(?:-?[\d.xX*#?…_]+|NA|N/A|-)\s+\S.*|[.…]*")
_IDLE = re.compile(r"No running processes(?: found)?(?: in NPU\s+(\d+))?")
_CUT = "it ends in the middle of a row"
_HEADS = re.compile(r"(?:npu|chip)(?!-\d).*|bus-id")
_FENCE = re.compile(r"\s*(?:```|~~~|</pre>|</code>)")
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
    quiet: set[int] = field(default_factory=set)
    unclear: set[int] | None = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    garbled: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    bordered: bool = False
    inside: bool = False
    # After the table and before the next border: what has pipes there can be anything, and
    # after the end of a quotation it is none of it.
    outside: bool = False
    closed: bool = False

    def take(self, lines: list[str]) -> None:
        for line in lines:
            if BORDER.fullmatch(line):
                if line.strip():
                    self.flush()
                    self.bordered, self.inside = True, False
                    self.outside = self.closed = False
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
        ended = bool(self.rows) and self.bordered and not self.inside and self.first is None
        if not line.lstrip().startswith("|") or line.count("|") < 2:  # noqa: PLR2004
            self.notes.append(line.strip())
            self.closed |= ended and _FENCE.match(line) is not None
        elif self.outside or self.closed:
            self.notes.append(line.strip())
        elif line is self.last and self.layout:
            self.gaps.append(_CUT)
        else:
            self.garbled.append(line.strip())
            self.outside = ended  # It may head another table: what follows has to prove itself.

    def flush(self) -> None:
        """Keep a chip whose second line did not come, if it can be told which it is."""
        if self.first is not None and self.first.npu_id is not None:
            self.rows.append(self.first)
        self.first = None

    def _heading(self, line: str) -> bool:
        """Take a title, the heading of a table, or the line of an NPU with no process."""
        if title := _TITLE.search(line):
            tool, driver = (
                (found or "").rstrip(",;") for found in (title[1] or title[3], title[2])
            )
            self.versions = (tool or None, driver or None)
            return True
        if idle := _IDLE.search(line):
            self.quiet |= {int(idle[1])} if idle[1] else set()
            self._asked({int(idle[1])} if idle[1] else set())
            return True
        words = [" ".join(word.split()).lower() for word in line.split("|") if word.strip()]
        # What stands before is a prompt or a time stamp; ids are a row's, whatever comes after.
        while words and not (_HEADS.fullmatch(words[0]) or _IDS.fullmatch(words[0])):
            del words[0]
        if words and words[0].startswith("npu") and "process id" in words:
            self.flush()
            self.columns = tuple(words)
            self.outside = self.closed = False
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
        self.outside = self.closed = False
        self.hbm = any(word.find("hbm-usage") >= 0 for word in words)
        found: dict[str, Layout] = {"": "chip", "phy-id": "phy-id", "device": "device"}
        second = words[0].removeprefix("chip").strip()
        self.layout = "npu" if words[0] == "bus-id" else found.get(second, self.layout)
        return True

    def _width(self) -> int | None:
        """Return how many cells a line has here; None where no heading says."""
        if self.columns is not None:
            return len(self.columns)
        if self.layout is None:
            return None
        return 4 if self.layout == "npu" else 3

    def _row(self, line: str) -> bool:
        if "|" not in line or self.closed:
            return False
        cells, whole = cells_of(line, self._width())
        cut = not whole and line is self.last
        if cut:
            cells = cells[:-1]  # Half a figure looks like a figure.
            self.gaps.append(_CUT)
        if self.columns is not None:
            return cut or (bool(cells) and self._process(cells, line, self.columns))
        if not cells:
            return cut
        if not self._is_process(cells) and self._chip(cells, line, cut=cut):
            self.inside = True
            return True
        return self._process(cells, line, None) or cut

    def _chip(self, cells: list[str], line: str, *, cut: bool) -> bool:
        """Take one of a chip's two lines: by its place where that is sure, else by its words."""
        placed = len(cells) == (self._width() or 3) and not cut and not self.outside
        if placed and (self.layout is not None or self.first is not None):
            return self._placed(cells, line)
        cells = cells[next((n for n, cell in enumerate(cells) if cell), len(cells)) :]
        return bool(cells) and (self._second(cells, cut=cut) or self._first(cells, cut=cut))

    def _placed(self, cells: list[str], line: str) -> bool:
        """Take a line that has all of its cells, whatever they hold."""
        *ids, state, figures = cells
        apart = len(ids) > 1
        columns = (ids[0], ids[1]) if apart else of.two(ids[0], line)
        count = of.votes(columns, state, figures, hbm=self.hbm)
        if apart and not any(ids):
            count -= 3
        # A first line waits for its second one, and none stands without the other.
        if count > (1 if self.first is not None else -2):
            return self._begin(columns, state, figures, line)
        chip, other = (0, None) if apart else (of.number(columns[0]), of.number(columns[1]))
        if self.layout is None:
            self.layout = _guessed(columns, figures)
        self._end(chip, other, state, figures)
        return True

    def _begin(self, columns: tuple[str, str], state: str, figures: str, line: str) -> bool:
        npu = of.number(columns[0])
        name = columns[1]
        if npu is None and not columns[1] and of.is_word(columns[0]):
            name = columns[0]
        shown = of.has_figures(figures)
        if sum((npu is not None, of.is_word(state), shown)) < 2:  # noqa: PLR2004
            return False
        # The end of a process's broken line has an id and a figure, and no name between them.
        if not (name or shown) or not _is_word(name) or not _is_word(state):
            return False
        if npu is None:
            self.garbled.append(line.strip())
        self._take_first(npu, name, state)
        return True

    def _take_first(self, npu: int | None, name: str, health: str) -> None:
        self.flush()
        named = None if name in of.NONE else name
        known = None if of.BLANKED.fullmatch(health) else health
        self.first = Row(npu, name=named, health=known, half=True)

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
        told = name not in of.NONE and health not in of.NONE
        sure = told or (figures and not self.outside)
        if not cut and not (_POWER.fullmatch(figures) and sure):
            return False
        if apart:
            self.layout = "npu"
        self._take_first(int(match[1]), name, health)
        return True

    def _second(self, cells: list[str], *, cut: bool) -> bool:
        """Take a chip's second line: ids, bus and memory."""
        ids = None
        ends_here = cut and len(cells) == 1 and self.first is not None
        if self.layout != "npu" and (_is_bus(cells, 1) or ends_here):
            ids = _IDS.fullmatch(cells[0])
        if ids is None and not (self.layout in ("npu", None) and _is_bus(cells, 0)):
            return False
        bus, figures, *_ = [*cells[1 if ids else 0 :], "", ""]
        if self.layout is None:  # The heading is lost.
            self.layout = _guessed((ids[1], ids[2] or ""), figures) if ids else "npu"
        chip = int(ids[1]) if ids else 0
        self._end(chip, int(ids[2]) if ids and ids[2] else None, bus, figures)
        return True

    def _end(self, chip: int | None, other: int | None, bus: str, figures: str) -> None:
        """Make a chip's row of both of its lines."""
        first = self.first or Row(None)
        self.first = None
        memory = of.memory(figures, hbm=self.hbm)
        alone = self.layout in ("chip", "npu")
        self.rows.append(
            Row(
                first.npu_id,
                chip_id=0 if chip is None and alone else chip,
                phy_id=other if self.layout == "phy-id" else None,
                name=first.name,
                health=first.health,
                bus_id=bus if of.BUS.fullmatch(bus) else None,
                used=memory.used,
                total=memory.total,
                ddr_total=memory.other,
            )
        )

    def _process(self, cells: list[str], line: str, columns: tuple[str, ...] | None) -> bool:
        """Take a process. A name may have pipes in it: what is too much belongs to it."""
        strict = columns is None or self.outside
        if columns is None:
            longer = len(cells) == len(_COLUMNS) + 1 and cells[3].isdigit()
            columns = (*_COLUMNS, _IN_CONTAINER) if longer else _COLUMNS
        if strict and not self._is_process(cells):
            return bool(self.gaps) and _IDS.fullmatch(cells[0]) is not None
        ids = (cells[0], "") if columns[0] == "npu id" else of.two(cells[0], line)
        npu = of.number(ids[0])
        self._asked(set() if npu is None else {npu})
        extra = max(0, len(cells) - len(columns))
        at = columns.index("process name") if "process name" in columns else 2
        values = dict(zip(columns[:at], cells[:at], strict=False))
        values |= zip(columns[at + 1 :], cells[at + 1 + extra :], strict=False)
        pid = values.get("process id", "")
        memory = next((v for k, v in values.items() if k.startswith("process memory")), None)
        ends = line is self.last and of.figure(memory or "") is None
        if npu is None or memory is None or ends:
            if npu is not None or memory is not None:
                self._unclear(npu)
            return npu is not None and bool(self.gaps)
        if pid not in of.NONE or memory not in of.NONE:  # One that could not be asked has neither.
            name = "|".join(cells[at : at + 1 + extra])
            process = Process(of.number(pid) or 0, name, of.figure(memory) or 0)
            self.holders.append(Holder(npu, of.number(ids[1]), process))
            if self.layout in ("phy-id", "device") and of.number(ids[1]) is None:
                self.garbled.append(line.strip())  # Of which of the card's chips, it is not said.
        return True

    def _is_process(self, cells: list[str]) -> bool:
        """Tell a process where no heading does: by its figures, which no chip has there."""
        if len(cells) < len(_COLUMNS) or not _IDS.fullmatch(cells[0]):
            return False
        blanked = self.layout is not None and not self.outside and of.BLANKED.fullmatch(cells[1])
        if not cells[1].isdigit() and not blanked:
            return False
        return any(of.figure(cell) is not None for cell in cells[3:])

    def _unclear(self, npu: int | None) -> None:
        """Remember that a process could not be read; None is that it can be of any NPU."""
        if npu is None or self.unclear is None:
            self.unclear = None
        else:
            self.unclear.add(npu)

    def table(self) -> Table:
        asked = self.asked or set()
        return Table(
            layout=self.layout,
            tool_version=self.versions[0],
            driver_version=self.versions[1],
            rows=tuple(self.rows),
            holders=tuple(self.holders),
            asked=None if self.asked is None else frozenset(asked),
            unclear=frozenset(asked - self.quiet if self.unclear is None else self.unclear),
            notes=tuple(self.notes),
            garbled=tuple(self.garbled),
            gaps=tuple(dict.fromkeys(self.gaps)),
        )


def _guessed(ids: tuple[str, str], figures: str) -> Layout:
    """Return the layout of a table that lost its heading."""
    if not ids[1]:
        return "chip"
    return "phy-id" if figures.replace("N/A", "NA").count("/") > 1 else "device"


def _is_bus(cells: list[str], at: int) -> bool:
    return len(cells) > at and (cells[at] in of.NONE or of.BUS.fullmatch(cells[at]) is not None)


def _is_word(text: str) -> bool:
    """Tell whether a cell can be a name or a state: no figures, no address."""
    return not any(sign in text for sign in "/:") or text in of.NONE
