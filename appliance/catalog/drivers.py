"""Judges an Ascend driver by the dated matrix: what works, what does not, what nobody has said."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from appliance import yamlfile
from appliance.catalog.load import DATA

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_NUMBER = re.compile(r"(rc|alpha|beta)?\.?(\d+)", re.IGNORECASE)
# What comes before a version counts as less than its first number.
_BEFORE = {"alpha": -3, "beta": -2, "rc": -1}


@dataclass(frozen=True)
class Row:
    """What is known of one CANN: series of drivers that work with it, and that do not."""

    works: tuple[str, ...]
    refused: tuple[str, ...]
    recommended: str
    date: str
    source: str


@dataclass(frozen=True)
class Feature:
    """Something that needs a newer driver than CANN itself does, and how to do without."""

    floor: str
    since: str
    name: str
    consequence: str
    option: str
    value: str
    unless: tuple[str, ...]
    way_out: str
    date: str
    source: str

    def used(self, vllm: str, arguments: Sequence[str]) -> bool:
        """Tell whether `vllm serve` of this version, with these arguments, uses it."""
        if any(word in self.unless for word in arguments):
            return False
        default = order(vllm) >= order(self.since)
        text = ""
        for index, word in enumerate(arguments):
            name, _, value = word.partition("=")
            if name == self.option:
                text = value or " ".join(arguments[index + 1 : index + 2])
        # The option has other settings too: without a mode in it the mode is the default.
        return self.value in text or (default and "mode" not in text)


Verdict = Literal["ok", "old", "unknown"]


@dataclass(frozen=True)
class Judgement:
    """What the matrix says of a driver: `ok`, `old`, or `unknown`; and the row that says so."""

    verdict: Verdict
    why: str
    row: Row | None


@lru_cache
def rows() -> Mapping[str, Row]:
    """Return the matrix by CANN's series."""
    return {
        name: Row(
            works=tuple(row["works"]),
            refused=tuple(row["refused"]),
            recommended=row["recommended"],
            date=str(row["date"]),
            source=row["source"],
        )
        for name, row in yamlfile.read(DATA / "drivers.yaml")["cann"].items()
    }


@lru_cache
def features() -> Mapping[str, Feature]:
    """Return what needs more of a driver than CANN does."""
    return {
        name: Feature(**{**row, "unless": tuple(row["unless"]), "date": str(row["date"])})
        for name, row in yamlfile.read(DATA / "drivers.yaml")["features"].items()
    }


def order(version: str) -> tuple[tuple[int, int], ...]:
    """Return what versions are compared by: 25.5.RC1 is before 25.5.0, and 25.5.2 after."""
    return tuple(
        (_BEFORE.get((before or "").lower(), 0), int(number))
        for before, number in _NUMBER.findall(version)
    )


def series(version: str) -> str:
    """Return a version's first two numbers."""
    return ".".join(number for _, number in _NUMBER.findall(version)[:2])


def judge(cann: str, driver: str) -> Judgement:
    """Say whether a driver serves a CANN."""
    row = rows().get(cann) or rows().get(series(cann))
    if row is None:
        return Judgement("unknown", f"the matrix has no row for CANN {cann}", None)
    return Judgement(*_place(series(driver), row, f"CANN {cann}"), row)


def _place(ours: str, row: Row, cann: str) -> tuple[Verdict, str]:
    """Return where a series of drivers stands in a row of the matrix."""
    if ours in row.works:
        return "ok", f"{cann} works with {ours}.x"
    if ours in row.refused:
        return "old", f"{cann} does not work with {ours}.x"
    newest = max(row.works, key=order)
    if ours and row.refused and order(ours) < order(max(row.refused, key=order)):
        return "old", f"{cann} does not even work with {max(row.refused, key=order)}.x"
    if ours and order(ours) > order(newest):
        return "unknown", f"it is newer than the matrix of {cann}, which ends with {newest}.x"
    return "unknown", f"the matrix of {cann} does not list it"
