"""What all outputs of npu-smi need before they are read: clean lines, as npu-smi printed them."""

from __future__ import annotations

import html
import itertools
import re
from collections import Counter

BORDER = re.compile(r"[\s|+\-=_─━═┼├┤┬┴┌┐└┘╪╞╡╬╠╣╔╗╚╝╦╩]*")
ELIDED = re.compile(r"[\s|]*(?:\.{2,}|…|⋮)[\s|.…⋮]*")

# Colours and window titles; characters with no width; the mark of a file's byte order.
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\ufeff\u200b]"
)
# Pipes as word processors and chat programs have them, and blanks that are none.
_PIPES = dict.fromkeys("│┃║\uff5c\uffe8", "|")
_BLANKS = dict.fromkeys("\u00a0\u2002\u2003\u2009\u202f\u3000", " ")
_DRAWN = str.maketrans(_PIPES | _BLANKS)
# Those that a web page or a markdown editor makes of the signs of a table, and no others: a
# process may well have an `&` in its name.
_ENTITY = re.compile(
    r"&(?:#\d{1,5}|#[xX][0-9A-Fa-f]{1,4}|nbsp|ensp|emsp|thinsp|lt|gt|amp|quot|apos|vert|verbar"
    r"|VerticalLine|plus|equals|lowbar|num|colon|sol|period|hyphen|dash);"
)
_ESCAPED_ROW = re.compile(r"^[^|\n]*\\\|", re.MULTILINE)
_ESCAPED = re.compile(r"\\(?=[|+=_*#<>()./:-])")
_AHEAD = re.compile(r"(.*?)\+[-=]{3}")
_TOP = re.compile(r"\+[-=+]+")
_REST = re.compile(r"[-=][-=+]*|\+")


def lines_of(text: str) -> list[str]:
    """Split a text into lines, less all that was added on its way: colours, prefixes, escapes."""
    lines = _without_prefix(re.split(r"\r\n|\r|\n", _plain(text)))
    return _unwrapped([line.rstrip() for line in _at_width(lines)])


def _plain(text: str) -> str:
    """Undo what made the signs of a table harmless for a web page, markdown or a string."""
    for _ in range(2):  # A page that quotes a page has `&amp;nbsp;`.
        text = _ENTITY.sub(lambda match: html.unescape(match[0]), text)
    text = _ESCAPES.sub("", text).translate(_DRAWN)
    if text.count("\\n") > text.count("\n") + 3:  # A string of a program, on one line.
        text = text.replace("\\r", "").replace("\\n", "\n").replace("\\t", "\t")
    return _ESCAPED.sub("", text) if _ESCAPED_ROW.search(text) else text


def _without_prefix(lines: list[str]) -> list[str]:
    """Take off what stands before every line: a container's name, a time stamp, a number, `>`.

    The borders show it. Such a prefix may have a pipe in it, and then looks like a cell.
    """
    ahead = [match[1] for line in lines if (match := _AHEAD.match(line))]
    shapes = Counter(_shape(prefix) for prefix in ahead if not BORDER.fullmatch(prefix))
    if not shapes:
        return lines
    shape, count = shapes.most_common(1)[0]
    return [re.sub(shape, "", line, count=1) for line in lines] if 2 * count > len(ahead) else lines


def _shape(prefix: str) -> str:
    """Return a pattern of a prefix with other figures in it; a bare one has no blanks after it."""
    bare = prefix.rstrip()
    figures = re.sub(r"(?:\\[ \t])*\d+", r"\\s*\\d+", re.escape(bare))
    return f"^{figures}\\s{{0,{len(prefix) - len(bare)}}}"


def _at_width(lines: list[str]) -> list[str]:
    """Join rows that were broken at the width of a terminal. The first border shows it."""
    at = next((n for n, line in enumerate(lines) if _TOP.fullmatch(line)), None)
    if at is None:
        return lines
    rest = list(itertools.takewhile(_REST.fullmatch, (line.rstrip() for line in lines[at + 1 :])))
    width = len(lines[at])
    if not rest or not rest[-1].endswith("+") or any(len(line) > width for line in rest):
        return lines
    return _joined(lines, width, width + sum(map(len, rest)))


def _joined(lines: list[str], width: int, total: int) -> list[str]:
    """Join what follows the start of a row until it has all of its length."""
    found: list[str] = []
    short = 0
    for line in lines:
        # No two signs of a border stand side by side: a row that ends with one was shorter.
        ends = short and found[-1].endswith(("|", "+")) and len(found[-1]) % width == 0
        if short and not (ends and line[:1] in ("|", "+")):
            found[-1] = found[-1].ljust(total - short) + line
            short = max(0, short - width)
        else:
            found.append(line)
            whole = line[:1] not in ("|", "+") or len(line.rstrip()) > width
            short = 0 if whole else total - width
    return found


def _unwrapped(lines: list[str]) -> list[str]:
    """Join a row that was broken in two with no width to tell by."""
    joined: list[str] = []
    for line in lines:
        bare = line.lstrip()
        broken = joined and joined[-1].lstrip().startswith("|") and not joined[-1].endswith("|")
        if broken and (bare == "|" or (bare.endswith("|") and bare[:1] not in "|+")):
            joined[-1] += line
        else:
            joined.append(line)
    return joined


def is_closed(lines: list[str]) -> bool:
    """Tell whether the rows of a text still have the pipes at their ends.

    Where none has, and the headings are complete, they were trimmed by whoever published the
    text. Otherwise a row with no pipe at its end was cut, perhaps in the middle of a figure.
    """
    rows = [line for line in lines if line.count("|") > 1]
    headings = [line for line in rows if "Bus-Id" in line]
    cropped = any(not line.endswith((")", "|")) for line in headings)
    return cropped or any(line.endswith("|") for line in rows)
