"""What the cells of a line of npu-smi's table say, by where they stand.

Whoever publishes an output blanks out what they like, with whatever they like. So no cell has to
hold anything in particular for the others to count: a line is told by all of its cells together
and by its place, and a figure by what stands around it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# What npu-smi prints where it has nothing to say; and what people write over a word.
NONE = frozenset({"NA", "N/A", "-", ""})
BLANKED = re.compile(r"[xX*#?.…_\s-]*|N/?A|[<\[({].*[>\])}]")
BUS = re.compile(r"(?:[0-9A-Fa-f]{4,8}:)?[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9A-Fa-f]+")
_FIRST_CELL = re.compile(r"-?\d+(?:\s+\S.*)?")
_INDENTED = re.compile(r"\s*\|\s{4,}\S")
_WORD = re.compile(r"[^\W\d_][^\d/:]*")
# A figure and its slash stand together; the column before is farther away.
_NEAR = 6
_MEMORY = re.compile(r"(\d+)(?:\.\d+)?(?:\s?Mi?B?)?")
_FIRST_FIGURES = 2


def cells_of(line: str, expected: int | None = None) -> tuple[list[str], bool]:
    """Split a row at its pipes: its cells, and whether a pipe closes the last one.

    What stands before the first pipe (a prompt, a time stamp, a quotation mark) is no cell,
    unless the pipe at the line's start was lost. An empty cell at the start is one only where
    it is known how many there are.
    """
    cells = [cell.strip() for cell in line.split("|")]
    whole = not cells[-1]
    if whole:
        cells.pop()
    led = bool(cells) and not cells[0] and line.lstrip()[:1] == "|"
    outside = bool(cells) and not _FIRST_CELL.fullmatch(cells[0]) and bool(cells[0])
    if led or outside or (expected is not None and len(cells) > expected and cells[0]):
        del cells[:1]
    while cells and not cells[0] and (expected is None or len(cells) > expected):
        del cells[0]
    return cells, whole


def two(cell: str, line: str) -> tuple[str, str]:
    """Return the two columns of a line's first cell. A lone word far to the right is the second."""
    if _INDENTED.match(line):
        return "", cell
    first, *rest = cell.split(None, 1) or [""]
    return first, rest[0] if rest else ""


def number(text: str) -> int | None:
    """Return an id, or None where it is none, or was blanked out."""
    return int(text) if re.fullmatch(r"-?\d+", text) else None


def figure(text: str) -> int | None:
    """Return a figure in MiB; npu-smi prints a negative one where it could not ask."""
    match = _MEMORY.fullmatch(text)
    return int(match[1]) if match else None


def is_word(cell: str) -> bool:
    """Tell whether a cell has a word that was not blanked out: a name, a state of health."""
    return _WORD.fullmatch(cell) is not None and not BLANKED.fullmatch(cell)


def votes(first: tuple[str, str], state: str, figures: str, *, hbm: bool | None) -> int:
    """Tell a chip's first line from its second: positive is the first, 0 can be either.

    `first` are the columns before the state of health or the address on the bus.
    """
    count = 0
    if BUS.fullmatch(state):
        count -= 4
    elif ":" in state:
        count -= 2
    elif is_word(state):
        count += 2
    if any(sign.isalpha() for sign in first[1]) and not BLANKED.fullmatch(first[1]):
        count += 2
    if all(map(str.isdigit, filter(None, first))) and any(first):
        count -= 1
    return count + _figures_vote(figures, hbm=hbm)


def _figures_vote(figures: str, *, hbm: bool | None) -> int:
    """Power, temperature and pages; or the load of the cores, and one or two `used / total`."""
    parts = figures.replace("N/A", "NA").split("/")
    before = len(parts[0].split())
    if len(parts) > 2:  # noqa: PLR2004
        return -2
    if len(parts) == 1:
        return 1 if before == _FIRST_FIGURES else 0
    if before > _FIRST_FIGURES:
        return 1
    return -1 if hbm is False else 0


def has_figures(figures: str) -> bool:
    """Tell whether a cell can be the one of power and temperature, or of memory."""
    words = figures.split()
    return "/" in figures or (len(words) >= _FIRST_FIGURES and not any(map(is_word, words)))


class Memory(NamedTuple):
    """In MiB, None where it can't be told. `other` is the total of what stands beside the HBM."""

    used: int | None = None
    total: int | None = None
    other: int | None = None


def memory(figures: str, *, hbm: bool | None) -> Memory:
    """Read `load used / total`, with `used / total` of the HBM after it where there is one.

    A total of 0 or less is what npu-smi prints when it can't ask: then nothing is known.
    """
    parts = figures.replace("N/A", "NA").split("/")
    pairs = len(parts) - 1
    after = parts[-1].split()
    if not pairs or (hbm and pairs == 1 and (len(parts[0].split()) < 3 or len(after) > 1)):  # noqa: PLR2004
        return Memory()
    left = parts[-2]
    words = left.split()
    other = None
    if pairs > 1:
        beside = left[:2].strip() != ""
        other = figure(words[0]) if words and (beside or len(words) > 1) else None
        known = len(words) > 1 or not beside
    else:
        known = len(words) > 1 or len(left) - len(left.rstrip()) < _NEAR
    used = figure(words[-1]) if words and known else None
    total = figure(after[0]) if after else None
    answered = bool(total) or not after or number(after[0]) is None
    return Memory(used if answered else None, total or None, other)
