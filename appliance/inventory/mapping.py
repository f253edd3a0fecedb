"""Reads `npu-smi info -m` and `-l`: which chips there are, and their ids.

`-m` is a table of columns that differ by product; the heading says which there are. A card's
MCU and, on some, its CPU have rows too, with `-` for the ids that only chips have. `-l` is a
list of `name : value` lines. Neither makes anything raise.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from appliance.inventory.text import lines_of


@dataclass(frozen=True)
class Mapped:
    """A chip of `-m`. The physical id is in the newer tables only, of A3 and 950."""

    npu_id: int
    chip_id: int
    phy_id: int | None = None
    name: str | None = None


@dataclass(frozen=True)
class Listing:
    """The NPUs of `-l`, and how many it says there are."""

    npus: frozenset[int] = frozenset()
    total: int | None = None


_COLUMN = re.compile(
    r"NPU ID|Slot ID|Chip Logic ID|Chip Phy-?ID|Chip ID|Chip Name|Device ID", re.IGNORECASE
)
_COLUMNS = ("npu id", "chip id", "chip logic id", "chip name")
_ID = re.compile(r"-?\d+|-|NA")
_LISTED = re.compile(r"\bNPU ID\s*:\s*(\d+)")
_TOTAL = re.compile(r"\b(?:Total|Card) Count\s*:\s*(\d+)")


def read(text: str | None) -> tuple[Mapped, ...]:
    """Return the chips of `npu-smi info -m`."""
    found: dict[tuple[int, int], Mapped] = {}
    columns: tuple[str, ...] = _COLUMNS
    for line in lines_of(text or ""):
        if len(heads := _COLUMN.findall(line)) > 2:  # noqa: PLR2004
            columns = tuple(head.lower().replace("phyid", "phy-id") for head in heads)
        elif "|" not in line and (chip := _chip(line.split(), columns)):
            found[chip.npu_id, chip.chip_id] = chip
    return tuple(found.values())


def _chip(words: list[str], columns: tuple[str, ...]) -> Mapped | None:
    ids = [column for column in columns if column != "chip name"]
    if len(words) < len(ids) or not all(_ID.fullmatch(word) for word in words[: len(ids)]):
        return None
    values = dict(zip(ids, words, strict=False))
    name = " ".join(words[len(ids) :])
    numbers = {key: int(value) for key, value in values.items() if re.fullmatch(r"-?\d+", value)}
    npu, chip = numbers.get("npu id"), numbers.get("chip id")
    only_of_chips = {"chip logic id", "chip phy-id"} & values.keys()
    if npu is None or chip is None or name.lower() == "mcu" or only_of_chips - numbers.keys():
        return None
    return Mapped(npu, chip, numbers.get("chip phy-id"), name or None)


def listing(text: str | None) -> Listing:
    """Return the NPUs of `npu-smi info -l`."""
    lines = "\n".join(lines_of(text or ""))
    total = _TOTAL.search(lines)
    return Listing(frozenset(map(int, _LISTED.findall(lines))), int(total[1]) if total else None)
