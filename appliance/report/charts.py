"""Charts as geometry: everything that the SVG template draws, already placed.

The charts are drawn here and in templates/chart.svg.j2, and by no plotting library: pygal can't
make the x axis alone logarithmic or point at a point, and puts a random id, the day, a style sheet
and a script into each picture; matplotlib brings numpy and bakes in fonts and colours, so that
nothing follows the reader's dark mode. A chart is some lines and numbers, at a size at which its
12 px text can be read on a phone and three stand side by side on a desk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.report import numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, HEIGHT = 380, 250
# A digit of the 12 px font, and what surrounds the plot. The right margin holds half a label.
_DIGIT = 7.0
_TOP, _BOTTOM, _RIGHT = 30, 46, 22
_MOST_TICKS = 5
# From this ratio of the largest to the smallest on, an axis is logarithmic.
_LOGARITHMIC = 8
_ROW, _NAME_COLUMNS = 46, 50


@dataclass(frozen=True)
class Tick:
    """A place on an axis, in the picture's coordinates, and its label."""

    at: float
    text: str


@dataclass(frozen=True)
class Dot:
    """A measured point, with the words that a pointer over it gets."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Line:
    """A series; `colour` is the number of its colour."""

    name: str
    colour: int
    path: str
    dots: tuple[Dot, ...] = ()


@dataclass(frozen=True)
class Mark:
    """A point that is pointed out. `anchor` is where its text begins: start or end."""

    x: float
    y: float
    text: str
    text_x: float
    text_y: float
    anchor: str
    colour: int


@dataclass(frozen=True)
class Whisker:
    """A value with its interval, in a row of its own."""

    colour: int
    y: float
    low: float
    x: float
    high: float
    text: str


@dataclass(frozen=True)
class Name:
    """A label of a row."""

    y: float
    text: str


@dataclass(frozen=True)
class Chart:
    """One picture. `text` says in words what it shows, for those who can't see it."""

    id: str
    title: str
    text: str
    x_title: str
    y_title: str
    left: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...] = ()
    marks: tuple[Mark, ...] = ()
    whiskers: tuple[Whisker, ...] = ()
    names: tuple[Name, ...] = ()
    height: int = HEIGHT
    width: int = WIDTH
    top: int = _TOP

    @property
    def bottom(self) -> int:
        """Where the x axis lies."""
        return self.height - _BOTTOM

    @property
    def right(self) -> int:
        """Where the plot ends."""
        return self.width - _RIGHT


@dataclass(frozen=True)
class Series:
    """Points of a series in their own units, by x; `marked` is the one that is pointed out."""

    name: str
    points: tuple[tuple[float, float], ...]
    marked: int | None = None
    mark_text: str = ""
    dots: bool = True
    colour: int = 0


@dataclass(frozen=True)
class Words:
    """What stands around a chart. `y_percent` makes the y axis one from 0 to 100 %."""

    id: str
    title: str
    text: str
    x_title: str
    y_title: str
    y_percent: bool = False
    # An axis of levels that double has them as its labels.
    levels: bool = False


@dataclass(frozen=True)
class Axis:
    """From numbers to places: linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Return the place of a value; what lies outside stands at the edge."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return round(self.start + part * (self.end - self.start), 1)


def xy(words: Words, series: Sequence[Series]) -> Chart | None:
    """Return a chart of points, or `None` where there is none."""
    drawn = [one for one in series if one.points]
    if not drawn:
        return None
    x_all = [x for one in drawn for x, _ in one.points]
    y_all = [y for one in drawn for _, y in one.points]
    y_labels = _percent() if words.y_percent else linear(0.0, max(y_all) * 1.12)
    left = 14 + _DIGIT * max(numbers.width(text) for _, text in y_labels)
    y_axis = Axis(y_labels[0][0], y_labels[-1][0], HEIGHT - _BOTTOM, _TOP)
    x_axis, x_labels = _x_axis(x_all, left, WIDTH - _RIGHT, levels=words.levels)
    return Chart(
        id=words.id,
        title=words.title,
        text=words.text,
        x_title=words.x_title,
        y_title=words.y_title,
        left=left,
        x_ticks=tuple(Tick(x_axis.at(value), text) for value, text in x_labels),
        y_ticks=tuple(Tick(y_axis.at(value), text) for value, text in y_labels),
        lines=tuple(_line(one, x_axis, y_axis) for one in drawn),
        marks=tuple(_mark(one, x_axis, y_axis) for one in drawn if one.marked is not None),
    )


def _line(one: Series, x_axis: Axis, y_axis: Axis) -> Line:
    places = [(x_axis.at(x), y_axis.at(y)) for x, y in one.points]
    path = " ".join(f"{x:g},{y:g}" for x, y in places)
    dots = [
        Dot(*place, f"{one.name}: {numbers.plain(x)}, {numbers.plain(y)}")
        for place, (x, y) in zip(places, one.points, strict=True)
    ]
    return Line(one.name, one.colour, path, tuple(dots) if one.dots else ())


def _mark(one: Series, x_axis: Axis, y_axis: Axis) -> Mark:
    x, y = one.points[one.marked or 0]
    place = x_axis.at(x)
    # Left of the point the line is lower, so there is room above it; if there is room at all.
    anchor = "end" if place - x_axis.start > _DIGIT * len(one.mark_text) else "start"
    highest = min(y_axis.at(value) for _, value in one.points)
    return Mark(place, y_axis.at(y), one.mark_text, place, highest - 10, anchor, one.colour)


def _x_axis(
    values: Sequence[float], start: float, end: float, *, levels: bool
) -> tuple[Axis, list[tuple[float, str]]]:
    low, high = min(values), max(values)
    if levels:
        return _levels(sorted(set(values)), start, end)
    if low > 0 and high / low >= _LOGARITHMIC:
        labels = logarithmic(low, high)
        return Axis(labels[0][0], labels[-1][0], start, end, logarithmic=True), labels
    labels = linear(low, high)
    return Axis(labels[0][0], labels[-1][0], start, end), labels


def _levels(values: list[float], start: float, end: float) -> tuple[Axis, list[tuple[float, str]]]:
    """Return an axis on which each level is labelled, as far as there is room."""
    spread = values[-1] / values[0] if values[0] > 0 else 0
    wide = spread >= _MOST_TICKS
    low, high = values[0], values[-1]
    if low == high:
        low, high = low / 2, high * 2
    axis = Axis(low, high, start, end, logarithmic=wide or values[0] == values[-1])
    labels: list[tuple[float, str]] = []
    free = -math.inf
    for value in values:
        text = numbers.plain(value, 3)
        half = _DIGIT * len(text) / 2 + 3
        if axis.at(value) - half >= free:
            labels.append((value, text))
            free = axis.at(value) + half
    return axis, labels


def linear(low: float, high: float) -> list[tuple[float, str]]:
    """Return labels at round numbers, of which the first and the last enclose the values."""
    if not high > low:
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if high else (0.0, 1.0)
    rough = (high - low) / _MOST_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * one for one in (1, 2, 2.5, 5, 10) if power * one >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [(step * number, _tick(step * number)) for number in range(first, last + 1)]


def logarithmic(low: float, high: float) -> list[tuple[float, str]]:
    """Return labels at 1, 2 and 5 times powers of ten, or fewer where there are many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
        below = [tick for tick in ticks if tick <= low * (1 + 1e-9)]
        above = [tick for tick in ticks if tick >= high * (1 - 1e-9)]
        inner = [tick for tick in ticks if below[-1] <= tick <= above[0]]
        if len(inner) <= _MOST_TICKS + 1:
            break
    else:
        stride = math.ceil(len(inner) / _MOST_TICKS)
        inner = sorted({*inner[::stride], inner[-1]})
    return [(tick, _tick(tick)) for tick in inner]


def _tick(value: float) -> str:
    """Return an axis's label: as short as it can be."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            scale = 1e3 if letter == "k" else size
            return f"{value / scale:.4g}{letter}".replace("-", numbers.MINUS)
    return f"{value:.4g}".replace("-", numbers.MINUS)


def _percent() -> list[tuple[float, str]]:
    return [(part / 100, f"{part} %") for part in (0, 25, 50, 75, 100)]


@dataclass(frozen=True)
class Share:
    """A share with its interval, of one side."""

    colour: int
    low: float
    value: float
    high: float
    text: str


def shares(words: Words, rows: Sequence[tuple[str, Sequence[Share]]]) -> Chart | None:
    """Return a chart of shares with intervals: a name, and below it a line for each side."""
    if not rows:
        return None
    axis = Axis(0.0, 1.0, 14.0, WIDTH - _RIGHT)
    top, y = 12, 12.0
    names, whiskers = [], []
    for name, sides in rows:
        names.append(Name(y + 12, numbers.shortened(name, _NAME_COLUMNS)))
        y += 14
        for side in sides:
            y += 14
            places = (axis.at(side.low), axis.at(side.value), axis.at(side.high))
            whiskers.append(Whisker(side.colour, y - 2, *places, side.text))
        y += _ROW - 28 - 4
    return Chart(
        id=words.id,
        title=words.title,
        text=words.text,
        x_title=words.x_title,
        y_title="",
        left=axis.start,
        x_ticks=tuple(Tick(axis.at(value), text) for value, text in _percent()),
        y_ticks=(),
        whiskers=tuple(whiskers),
        names=tuple(names),
        height=round(y + _BOTTOM),
        top=top,
    )
