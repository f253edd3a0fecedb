"""How a comparison looks on a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from appliance.compare.model import Comparison, Group, Row
    from appliance.report.view import Table as Content

# What is wrapped for people where the output is no terminal: as in show.py.
WIDTH = 110
MOST_NAMES = 8
_STYLES = {"better": "green", "worse": "bold red", "not-comparable": "dim"}


def comparison_table(comparison: Comparison, file: TextIO | None = None) -> None:
    """Print a comparison for people, on stdout or to a file: verdicts, reasons, caveats."""
    from rich.console import Console

    from appliance.report.numbers import VERDICTS, clean
    from appliance.report.view import overview

    stream = file or sys.stdout
    console = Console(
        file=stream,
        width=None if stream.isatty() else WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
    )
    counts = [f"{n} {VERDICTS[verdict][1]}" for verdict, n in comparison.counts.items() if n]
    head = clean(f"{comparison.own} against {comparison.reference}")
    console.print(f"{head}: {', '.join(counts) or 'nothing that both have'}.")
    if comparison.source:
        _item(console, "", clean(comparison.source))
    found = overview(comparison)
    if found is not None:
        _overview(console, found)
    for group in comparison.groups if found is None else ():
        _group(console, comparison, group)
    _list(console, "What else differs", comparison.caveats)
    told = {flaw for group in comparison.groups for row in group.rows for flaw in row.flaws}
    flaws = [flaw for flaw in comparison.flaws if flaw not in told]
    _list(console, f"What is wrong with the figures of {comparison.reference}", flaws)
    for side, names in (
        (comparison.own, comparison.only_own),
        (comparison.reference, comparison.only_reference),
    ):
        if names:
            more = f" and {len(names) - MOST_NAMES} more" if names[MOST_NAMES:] else ""
            _list(console, f"Only in {side}", (f"{', '.join(names[:MOST_NAMES])}{more}",))


def _overview(console: Any, found: Content) -> None:
    """Print the main metrics of many runs; a report has the rest."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for place, name in enumerate(found.head):
        table.add_column(Text(name), justify="right" if place else "left", overflow="fold")
    for row in found.rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
    _item(console, "", f"{found.note} `appliance report` has all metrics, and the reasons.")


def _group(console: Any, comparison: Comparison, group: Group) -> None:
    """Print a table of metrics, and the reasons, which many of them share, below it."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from appliance.report.numbers import clean

    if len(comparison.groups) > 1:
        pair = dict.fromkeys((group.own, group.reference))
        console.print(f"\n{clean(' against '.join(pair))}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ("metric", comparison.own, comparison.reference, "change", "95 % interval"):
        table.add_column(
            Text(clean(name)), justify="left" if name == "metric" else "right", overflow="fold"
        )
    table.add_column("verdict", no_wrap=True)
    notes: dict[str, int] = {}
    for row in group.rows:
        texts = [row.reason, *(f"Of the reference: {flaw}" for flaw in row.flaws)]
        refers = sorted({notes.setdefault(clean(t), len(notes) + 1) for t in texts if t})
        table.add_row(
            *(Text(cell) for cell in _cells(row, refers)), style=_STYLES.get(row.verdict, "")
        )
    if group.rows:
        console.print(table)
    for text, place in notes.items():
        _item(console, f"[{place}]", text)
    for text in group.caveats:
        _item(console, "-", clean(text))


def _cells(row: Row, notes: list[int]) -> tuple[str, ...]:
    from appliance.report.numbers import VERDICTS, cell, clean, interval, relative

    sign, word = VERDICTS[row.verdict]
    return (
        clean(row.title if row.unit == "share" else f"{row.title}, {row.unit}"),
        cell(row.own, row.unit),
        cell(row.reference, row.unit),
        relative(row),
        interval(row.difference, row.unit),
        f"{sign} {word} {''.join(f'[{place}]' for place in notes)}",
    )


def _list(console: Any, head: str, texts: tuple[str, ...] | list[str]) -> None:
    from appliance.report.numbers import clean

    if texts:
        console.print(f"\n{clean(head)}")
        for text in texts:
            _item(console, "-", clean(text))


def _item(console: Any, mark: str, text: str) -> None:
    import textwrap

    lines = textwrap.wrap(text, max(40, console.width - 7)) or [""]
    for head, line in zip([mark, *[""] * (len(lines) - 1)], lines, strict=True):
        console.print(f"  {head:>4} {line}", soft_wrap=True)
