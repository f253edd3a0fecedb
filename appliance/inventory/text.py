"""What all outputs of npu-smi need before they are read: clean lines, and rows cut at pipes."""

from __future__ import annotations

import re

BORDER = re.compile(r"[\s|+\-=_─━═┼├┤┬┴┌┐└┘╪╞╡╬╠╣╔╗╚╝╦╩]*")
ELIDED = re.compile(r"[\s|]*(?:\.{2,}|…|⋮)[\s|.…⋮]*")

# Colours and window titles; characters with no width; the mark of a file's byte order.
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\ufeff\u200b]"
)
# Pipes as word processors and chat programs have them, and blanks that are none.
_DRAWN = str.maketrans(dict.fromkeys("│┃║\uff5c", "|") | dict.fromkeys("\u00a0\u3000", " "))
_NUMBERED_BORDER = re.compile(r"\s*\d+[\s:]+\+[-=]{3}")
_NUMBER = re.compile(r"^\s*\d+[\s:]+(?=[|+])")
_FIRST_CELL = re.compile(r"-?\d+(?:\s+\S.*)?")


def lines_of(text: str) -> list[str]:
    """Split a text into lines, less colours, odd blanks and the line numbers of `cat -n`."""
    text = _ESCAPES.sub("", text).translate(_DRAWN)
    lines = [line.rstrip() for line in re.split(r"\r\n|\r|\n", text)]
    if any(_NUMBERED_BORDER.match(line) for line in lines):
        lines = [_NUMBER.sub("", line) for line in lines]
    return _unwrapped(lines)


def _unwrapped(lines: list[str]) -> list[str]:
    """Join a row that a narrow terminal broke in two."""
    joined: list[str] = []
    for line in lines:
        bare = line.lstrip()
        broken = joined and joined[-1].lstrip().startswith("|") and not joined[-1].endswith("|")
        if broken and (bare == "|" or (bare.endswith("|") and bare[:1] not in "|+")):
            joined[-1] += line
        else:
            joined.append(line)
    return joined


def cells_of(line: str, expected: int | None = None) -> tuple[list[str], bool]:
    """Split a row at its pipes: its cells, and whether a pipe closes the last one.

    What stands before the first pipe (a prompt, a time stamp, a quotation mark) is no cell,
    unless the pipe at the line's start was lost. Empty cells at the start are left out.
    """
    cells = [cell.strip() for cell in line.split("|")]
    whole = not cells[-1]
    if whole:
        cells.pop()
    outside = bool(cells) and not _FIRST_CELL.fullmatch(cells[0])
    if outside or (expected is not None and len(cells) > expected and line[:1] != "|"):
        del cells[:1]
    while cells and not cells[0]:
        del cells[0]
    return cells, whole


def is_closed(lines: list[str]) -> bool:
    """Tell whether the rows of a text still have the pipes at their ends.

    Where none has, and the headings are complete, they were trimmed by whoever published the
    text. Otherwise a row with no pipe at its end was cut, perhaps in the middle of a figure.
    """
    rows = [line for line in lines if line.count("|") > 1]
    headings = [line for line in rows if "Bus-Id" in line]
    cropped = any(not line.endswith((")", "|")) for line in headings)
    return cropped or any(line.endswith("|") for line in rows)
