"""Reads `npu-smi info -t topo`: how the NPUs reach each other, and the CPUs near each.

A matrix of `X`, `HCCS`, `SIO`, `SYS` and so on, with an optional column of CPUs, and rows and
columns of network cards. Rows and columns are `NPU0`, by NPU id; on an A3 `Phy-ID0`, a die's
physical id (print_npu_topo_info in the driver's npu-smi). The legend below is left alone: what
a word means is the planner's business.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from appliance.inventory.model import Link
from appliance.inventory.text import lines_of

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Topology:
    """`kinds` is by pair of ids, the lower first; `unit` says what the ids are."""

    unit: Literal["npu", "phy"] = "npu"
    kinds: Mapping[tuple[int, int], str] = field(default_factory=dict)
    affinity: Mapping[int, str] = field(default_factory=dict)


_NAME = re.compile(r"(NPU|Phy-ID)(\d+)", re.IGNORECASE)
_HEAD = re.compile(r"NIC\d+|CPU|Affinity", re.IGNORECASE)
_CARD = re.compile(r"NIC\d+", re.IGNORECASE)
_KIND = re.compile(r"[A-Za-z][A-Za-z_]*")
_CPUS = re.compile(r"\d+(?:-\d+)?(?:,\s*\d+(?:-\d+)?)*")


def read(text: str | None) -> Topology:
    """Return the matrix; an empty one where there is none."""
    columns: list[int | None] = []
    rows: dict[int, list[str]] = {}
    unit: Literal["npu", "phy"] = "npu"
    for line in lines_of(text or ""):
        words = line.replace("|", " ").split()
        names = [_NAME.fullmatch(word) for word in words]
        if not words or names[0] is None:
            continue
        unit = "phy" if names[0][1].lower() == "phy-id" else "npu"
        if all(name or _HEAD.fullmatch(word) for word, name in zip(words, names, strict=True)):
            columns = [
                int(name[2]) if name else None
                for word, name in zip(words, names, strict=True)
                if name or _CARD.fullmatch(word)
            ]
        else:
            rows[int(names[0][2])] = words[1:]
    return _topology(unit, columns or list(rows), rows)


def _topology(
    unit: Literal["npu", "phy"], columns: list[int | None], rows: Mapping[int, list[str]]
) -> Topology:
    kinds: dict[tuple[int, int], str] = {}
    affinity: dict[int, str] = {}
    for a, words in rows.items():
        for b, kind in zip(columns, words, strict=False):
            if b is not None and a != b and _KIND.fullmatch(kind):
                kinds.setdefault((min(a, b), max(a, b)), kind)
        rest = " ".join(words[len(columns) :])
        if _CPUS.fullmatch(rest):
            affinity[a] = rest
    return Topology(unit, kinds, affinity)


def links(topology: Topology, npu_of: Mapping[int, int]) -> tuple[Link, ...]:
    """Return the links between NPUs. `npu_of` gives the NPU of a physical id, for an A3.

    Two dies of one card are no link: they have the same NPU id.
    """
    found: dict[tuple[int, int], str] = {}
    for (a, b), kind in sorted(topology.kinds.items()):
        ends = {a, b} if topology.unit == "npu" else {npu_of.get(a), npu_of.get(b)}
        if len(ends) > 1 and None not in ends:
            low, high = sorted(end for end in ends if end is not None)
            found.setdefault((low, high), kind)
    return tuple(Link(a, b, kind) for (a, b), kind in found.items())
