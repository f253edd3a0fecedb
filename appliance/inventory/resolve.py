"""From the rows of npu-smi's table to dies: whose row it is, which are one, which device node.

N of `/dev/davinciN` is the driver's physical id:

- `phy-id` (A3): the table has it.
- `npu` (950): it is the NPU id.
- `chip` (910A, A2): the NPU id is the slot on the board. The two are the same on all hosts of
  which both are known, and that is all that is known: where the nodes disagree, none is named.
- `device` (310, 310P, 310B): the table has the logic id only, which tells nothing.

A physical id of `npu-smi info -m` goes before all of that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from appliance.inventory.model import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from appliance.inventory.mapping import Mapped
    from appliance.inventory.table import Layout, Row

_NODE = re.compile(r"/dev/davinci(\d+)")


def node_numbers(nodes: Iterable[str]) -> frozenset[int]:
    """Return N of each /dev/davinciN; davinci_manager and the like have none."""
    return frozenset(int(match[1]) for node in nodes if (match := _NODE.fullmatch(node)))


def device(number: int) -> str:
    """Return the device node of a physical id."""
    return f"/dev/davinci{number}"


def completed(
    rows: Sequence[Row], layout: Layout | None, mapped: Sequence[Mapped], known: Iterable[int]
) -> list[Row]:
    """Give rows the ids that they lost with one of their lines, where there is one answer.

    `known` are NPU ids that something else names: `-m`, `-l`, the process table, the nodes.
    """
    found = [_by_phy_id(row, rows, mapped) for row in rows]
    if layout in ("phy-id", "device"):
        found = _by_sibling(found)
    found = _by_gap(found, sorted(set(known)))
    whole = list(found)
    for at, row in enumerate(found):
        # Two whole rows are two chips, whatever was blanked out; a half one may come twice.
        whole[at] = _with_chip(row, found if row.half else whole, rows, mapped)
    return whole


def _by_phy_id(row: Row, rows: Sequence[Row], mapped: Sequence[Mapped]) -> Row:
    if row.npu_id is not None or row.phy_id is None or row.chip_id is None:
        return row
    for chip in mapped:
        if chip.phy_id == row.phy_id:
            return replace(row, npu_id=chip.npu_id)
    # 2 x NPU + chip, only where every whole row of this very table has it so.
    npu, odd = divmod(row.phy_id - row.chip_id, 2)
    return replace(row, npu_id=npu) if not odd and _is_regular(rows) else row


def _is_regular(rows: Sequence[Row]) -> bool:
    whole = [
        (row.npu_id, row.chip_id, row.phy_id)
        for row in rows
        if None not in (row.npu_id, row.chip_id, row.phy_id)
    ]
    return bool(whole) and all(
        phy == 2 * npu + chip for npu, chip, phy in whole if npu is not None and chip is not None
    )


def _by_sibling(rows: Sequence[Row]) -> list[Row]:
    """Use that a card's chips stand one after the other: 0, 1 and so on."""
    found = list(rows)
    for at, row in enumerate(found):
        if row.npu_id is None and row.chip_id and at and found[at - 1].chip_id == row.chip_id - 1:
            found[at] = replace(row, npu_id=found[at - 1].npu_id)
    for at, row in reversed(list(enumerate(found[:-1]))):
        after = found[at + 1]
        if row.npu_id is None and row.chip_id == 0 and after.chip_id == 1:
            found[at] = replace(row, npu_id=after.npu_id)
    return found


def _by_gap(rows: Sequence[Row], known: Sequence[int]) -> list[Row]:
    """Use that the table goes up by NPU id: what was lost is between its neighbours, if it fits."""
    found = list(rows)
    present = {row.npu_id for row in rows}
    at = 0
    while at < len(found):
        end = at
        while end < len(found) and found[end].npu_id is None:
            end += 1
        if end > at:
            low = found[at - 1].npu_id if at else -1
            high = found[end].npu_id if end < len(found) else None
            ids = _between(-1 if low is None else low, high, known, present)
            units = [n for n in range(at, end) if not found[n].chip_id or n == at]
            if ids is not None and len(ids) == len(units):
                for n in range(at, end):
                    npu = ids[sum(1 for unit in units if unit <= n) - 1]
                    found[n] = replace(found[n], npu_id=npu)
        at = end + 1
    return found


def _between(
    low: int, high: int | None, known: Sequence[int], present: set[int | None]
) -> list[int] | None:
    """Return the ids that can be between two, or None where nothing says."""
    if known:
        return [n for n in known if n > low and (high is None or n < high) and n not in present]
    return list(range(low + 1, high)) if high is not None else None


def _with_chip(
    row: Row, rows: Sequence[Row], all_rows: Sequence[Row], mapped: Sequence[Mapped]
) -> Row:
    """Give a row that lost its second line its chip id, and a physical id where that follows."""
    chip = row.chip_id
    if chip is None:
        taken = {other.chip_id for other in rows if other.npu_id == row.npu_id}
        chip = next(n for n in range(len(rows) + 1) if n not in taken)
    phy = next((c.phy_id for c in mapped if (c.npu_id, c.chip_id) == (row.npu_id, chip)), None)
    if phy is None:
        phy = row.phy_id
    if phy is None and row.npu_id is not None and _is_regular(all_rows):
        phy = 2 * row.npu_id + chip
    return replace(row, chip_id=chip, phy_id=phy)


def distinct(rows: Sequence[Row]) -> tuple[list[Row], dict[tuple[int | None, int | None], int]]:
    """Return each die once, and for each NPU and chip of the table the place of its die.

    A container that was given one die of an A3 card can list both chips with the one physical
    id. Chips of other layouts are told apart by NPU and chip; a bus id proves nothing, for the
    two chips of a 300I Duo share it.
    """
    found: list[Row] = []
    places: dict[tuple[int | None, int | None], int] = {}
    physical: dict[int, int] = {}
    for row in rows:
        key = (row.npu_id, row.chip_id)
        twin = physical.get(row.phy_id) if row.phy_id is not None else places.get(key)
        if twin is None:
            places[key] = len(found)
            if row.phy_id is not None:
                physical[row.phy_id] = len(found)
            found.append(row)
            continue
        places[key] = twin
        if found[twin].half or (found[twin].npu_id, found[twin].chip_id) == key:
            found[twin] = row
    return found, places


@dataclass(frozen=True)
class Placed:
    """The dies' device nodes, in the rows' order; which rows are not this machine's.

    `unlisted` are the nodes that no row has.
    """

    devices: tuple[str | None, ...]
    foreign: frozenset[int] = frozenset()
    unlisted: tuple[int, ...] = ()
    problems: tuple[Problem, ...] = ()


def placed(
    rows: Sequence[Row],
    layout: Layout | None,
    mapped: Sequence[Mapped],
    nodes: frozenset[str] | None,
) -> Placed:
    """Find each die's device node. `nodes` is None where it is not known which there are."""
    numbers = [_number(row, layout) for row in rows]
    wanted = {n for n in numbers if n is not None}
    lost = () if wanted or not rows else (_unplaceable(rows),)
    if nodes is None:
        return Placed(tuple(None if n is None else device(n) for n in numbers), problems=lost)
    there = node_numbers(nodes)
    if len(rows) == 1 == len(there):
        return Placed((device(min(there)),))
    nowhere = Placed((None,) * len(rows))
    if rows and not there:
        return replace(nowhere, problems=(_no_nodes(rows),))
    if lost:
        return replace(nowhere, problems=lost)
    physical = layout in ("phy-id", "npu") or any(chip.phy_id is not None for chip in mapped)
    unlisted, absent = there - wanted, wanted - there
    if absent and (absent == wanted or (unlisted and not physical)):
        return replace(nowhere, problems=(_numbers_differ(wanted, there),))
    devices = tuple(device(n) if n is not None and n in there else None for n in numbers)
    return _without_foreign(rows, devices, tuple(sorted(unlisted)), layout)


def _number(row: Row, layout: Layout | None) -> int | None:
    """Return the physical id of a die, as far as the table tells."""
    if row.phy_id is not None or layout in ("phy-id", "device", None):
        return row.phy_id
    # The driver's own sign of a card whose slot it can't tell is -1.
    return row.npu_id if row.npu_id is not None and row.npu_id >= 0 else None


def _without_foreign(
    rows: Sequence[Row],
    devices: tuple[str | None, ...],
    unlisted: tuple[int, ...],
    layout: Layout | None,
) -> Placed:
    """Set aside dies that a container was not given, though its npu-smi lists the whole card."""
    ours = {row.npu_id for row, node in zip(rows, devices, strict=True) if node}
    foreign, names, lacking = set(), [], []
    for at, (row, node) in enumerate(zip(rows, devices, strict=True)):
        number = _number(row, layout)
        if node is not None or number is None:
            continue
        if layout == "phy-id" and row.npu_id in ours:
            foreign.add(at)
        names.append(label(row))
        lacking.append(device(number))
    problem = Problem(
        "npu-without-node",
        f"npu-smi lists {', '.join(names)}, but {', '.join(lacking)} "
        f"{'is' if len(lacking) == 1 else 'are'} not here.",
        "In a container, only the dies that were given to it have a node: give it more "
        "(`--device`), or go on without. On the host, reload the driver or reboot.",
    )
    return Placed(devices, frozenset(foreign), unlisted, (problem,) if names else ())


def label(row: Row) -> str:
    """Name a die as npu-smi does."""
    chip = f" chip {row.chip_id}" if row.phy_id is not None or row.chip_id else ""
    return f"NPU {row.npu_id}{chip}" + (f" ({row.name})" if row.name else "")


def _unplaceable(rows: Sequence[Row]) -> Problem:
    return Problem(
        "device-unknown",
        f"npu-smi lists {_dies(rows)} by slot and logic id; which /dev/davinciN is which, its "
        "table does not say.",
        "`npu-smi info -t phyid-remap -p N` tells which NPU and chip has the physical id N.",
    )


def _no_nodes(rows: Sequence[Row]) -> Problem:
    return Problem(
        "npu-without-node",
        f"npu-smi lists {_dies(rows)}, but there is no /dev/davinciN here.",
        "In a container, give it the nodes (`--device /dev/davinci0`). On the host, the driver "
        "makes them when it loads: see `dmesg`, reinstall it or reboot.",
    )


def _dies(rows: Sequence[Row]) -> str:
    return "one die" if len(rows) == 1 else f"{len(rows)} dies"


def _numbers_differ(wanted: set[int], there: frozenset[int]) -> Problem:
    def names(numbers: Iterable[int]) -> str:
        return ", ".join(map(str, sorted(numbers)))

    return Problem(
        "device-numbers-differ",
        f"npu-smi has the NPUs {names(wanted)}, but the device nodes here are "
        f"{', '.join(device(n) for n in sorted(there))}: in a container npu-smi keeps the host's "
        "numbers, so which node is which NPU can't be told.",
        "Give the container its nodes under the host's own names "
        "(`--device /dev/davinci4:/dev/davinci4`), or run this on the host.",
    )


def by_node(nodes: frozenset[str] | None) -> list[int]:
    """Return the numbers of the nodes, for a host of which nothing else is known."""
    return sorted(node_numbers(nodes or ()))


def npu_of(rows: Iterable[Row]) -> Mapping[int, int]:
    """Return the NPU of each physical id."""
    found = {}
    for row in rows:
        if row.phy_id is not None and row.npu_id is not None:
            found[row.phy_id] = row.npu_id
    return found
