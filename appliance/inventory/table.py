r"""The table of `npu-smi info` as values.

A chip is two lines of a table with pipes, which differ by product and driver release:

| layout   | first line             | second line               | products         |
| -------- | ---------------------- | ------------------------- | ---------------- |
| `chip`   | `NPU Name \| Health …` | `Chip \| Bus-Id …`        | 910A, 910B (A2)  |
| `phy-id` | `NPU Name \| Health …` | `Chip Phy-ID \| Bus-Id …` | 910_93 (A3)      |
| `device` | `NPU Name \| Health …` | `Chip Device \| Bus-Id …` | 310, 310P, 310B  |
| `npu`    | `NPU ID \| Name \| …`  | ` \|  \| Bus-Id …`        | 950              |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from appliance.inventory.model import Process

Layout = Literal["chip", "phy-id", "device", "npu"]


@dataclass(frozen=True)
class Row:
    """A chip as the table has it, memory in MiB. What was cut off or lost is `None`.

    With no `npu_id` the first of its two lines is missing: npu-smi leaves it out when the
    chip's health is none that it has a word for; or it was blanked out, and name or health are
    there. `half` is a chip with no second line.
    """

    npu_id: int | None
    chip_id: int | None = None
    phy_id: int | None = None
    name: str | None = None
    health: str | None = None
    bus_id: str | None = None
    used: int | None = None
    total: int | None = None
    ddr_total: int | None = None
    half: bool = False


class Holder(NamedTuple):
    """A process, and the NPU that it uses.

    `chip_id` is None where the table has no chips, or it was blanked out. A blanked out pid or
    size of memory is 0.
    """

    npu_id: int
    chip_id: int | None
    process: Process


@dataclass(frozen=True)
class Table:
    """What one output says.

    `asked` are the NPUs that the process table names, busy or not; None without that table.
    `unclear` are those of them of which it may name a process that could not be read.
    `notes` are the lines around the tables, `garbled` those inside that could not be read.
    `gaps` says how the output is incomplete. `outputs` is how many outputs the text holds;
    this is the last of them that lists a chip.
    """

    layout: Layout | None = None
    tool_version: str | None = None
    driver_version: str | None = None
    rows: tuple[Row, ...] = ()
    holders: tuple[Holder, ...] = ()
    asked: frozenset[int] | None = None
    unclear: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()
    garbled: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()
    outputs: int = 0
