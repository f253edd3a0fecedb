"""How numbers, intervals and texts of a result are shown to people."""

from __future__ import annotations

import math
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.compare.model import Interval, Row

NONE = "\u2013"
MINUS = "\u2212"  # The one that is as wide as a plus.
_DIGITS = 4
LONGEST = 600
VERDICTS = {
    "better": ("▲", "better"),
    "same": ("=", "same within noise"),
    "worse": ("▼", "worse"),
    "not-comparable": ("○", "not comparable"),
}


def value(number: float | None, unit: str = "") -> str:
    """Return a value with four digits and its unit; a share as a percentage."""
    if number is None or not math.isfinite(number):
        return NONE
    if unit == "share":
        return f"{100 * number:.1f} %"
    return f"{plain(number)} {unit}".strip()


def cell(number: float | None, unit: str) -> str:
    """Return a value for a table whose rows have the unit in their name, but for shares."""
    return value(number, "share" if unit == "share" else "")


def plain(number: float, digits: int = _DIGITS) -> str:
    """Return a number with so many digits that count; thousands stand apart."""
    if not math.isfinite(number):
        return NONE
    if number == 0:
        return "0"
    if float(number).is_integer() and abs(number) < 1e15:  # noqa: PLR2004 (exact up to here)
        return f"{int(number):,}".replace("-", MINUS)
    size = math.floor(math.log10(abs(number)))
    if not -4 <= size <= 15:  # noqa: PLR2004 (more zeros than anyone counts)
        return f"{number:.{digits - 1}e}".replace("-", MINUS)
    places = max(0, digits - 1 - size)
    return f"{number:,.{places}f}".replace("-", MINUS)


def signed(number: float | None, unit: str) -> str:
    """Return a difference; of shares in points. An end that nothing bounds has no number."""
    if number is None:
        return "unbounded"
    if unit in {"share", "%"}:
        text = f"{100 * number if unit == 'share' else number:+.1f}"
    else:
        text = plain(number, 3)
        text = f"+{text}" if number > 0 else text
    return text.replace("-", MINUS)


def interval(found: Interval | None, unit: str) -> str:
    """Return an interval of a difference, such as `-20.1 to +3.2`; of shares in points."""
    if found is None:
        return NONE
    if found.low is None and found.high is None:
        return "unbounded"
    word = " points" if unit == "share" else ""
    return f"{signed(found.low, unit)} to {signed(found.high, unit)}{word}"


def relative(row: Row) -> str:
    """Return by how much the own value differs, in percent, or in points for a share."""
    if row.own is None or row.reference is None:
        return NONE
    if row.unit == "share":
        return f"{signed(row.own - row.reference, 'share')} points"
    if row.reference == 0:
        return NONE
    return f"{signed(100 * (row.own / row.reference - 1), '%')} %"


def clean(text: object, longest: int = LONGEST) -> str:
    """Return a text without what no reader should meet in a report.

    That is: control characters, and those that turn the direction of writing around.
    """
    shown = "".join(
        " " if character in "\t\n\r" else character
        for character in str(text)
        if character in "\t\n\r" or unicodedata.category(character) not in {"Cc", "Cs"}
        if unicodedata.bidirectional(character)
        not in {"RLO", "LRO", "RLE", "LRE", "PDF", "RLI", "LRI", "FSI", "PDI"}
    )
    return shown if len(shown) <= longest else f"{shown[:longest]}…"


def width(text: str) -> int:
    """Return how many columns a text takes: signs of East Asian writing are two wide."""
    return sum(2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text)


def shortened(text: str, columns: int) -> str:
    """Return a text cut to so many columns."""
    if width(text) <= columns:
        return text
    while text and width(text) > columns - 1:
        text = text[:-1]
    return f"{text.rstrip()}…"
