"""Understands what npu-smi said of a host: its dies, its product, and what is wrong. Pure."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from appliance.catalog import chips
from appliance.inventory import findings, mapping, npu_smi, resolve, topology, trouble
from appliance.inventory.model import Npu, Problem, ProductName
from appliance.inventory.table import Row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from appliance.inventory.assemble import Sources
    from appliance.inventory.mapping import Listing, Mapped
    from appliance.inventory.model import Inventory
    from appliance.inventory.table import Holder, Layout, Table
    from appliance.inventory.topology import Topology

_SETTING = re.compile(r"^\s*(\w+)\s*=\s*(.*?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class _Read:
    """The sources, understood."""

    table: Table
    mapped: tuple[Mapped, ...]
    listed: Listing
    topology: Topology
    install: Mapping[str, str]

    @property
    def group(self) -> str:
        return self.install.get("UserGroup") or trouble.GROUP

    def known(self, nodes: frozenset[str] | None) -> set[int]:
        """Return the NPU ids that anything but the table's rows names."""
        named = {chip.npu_id for chip in self.mapped} | self.listed.npus
        named |= self.table.asked or set()
        if not named and self.table.layout in ("chip", "npu"):
            named = set(resolve.node_numbers(nodes or ()))
        return named


def understood(sources: Sources, empty: Inventory) -> Inventory:
    """Fill in an inventory that has everything but what npu-smi says."""
    read = _Read(
        npu_smi.read(sources.info or ""),
        mapping.read(sources.mapping),
        mapping.listing(sources.listing),
        topology.read(sources.topology),
        dict(_SETTING.findall(sources.install_info or "")),
    )
    found = _dies(read, sources)
    # A chip of which the NPU can't be told is none to use, but it has a name.
    product, unclear = _product(
        found.rows or read.table.rows, found.layout or read.table.layout, sources.nodes
    )
    version, differing = findings.versions(read.table.driver_version, empty.driver_version)
    problems = [
        *sources.problems,
        *_failures(read, sources),
        *unclear,
        *differing,
        *findings.table(read.table, found.hidden),
        *found.problems,
        *findings.health(found.npus),
        *findings.memory(found.npus, _evidence(read.table, found)),
    ]
    return dataclasses.replace(
        empty,
        product=product,
        driver_version=version,
        npus=found.npus,
        links=topology.links(read.topology, resolve.npu_of(found.rows)),
        problems=tuple(dict.fromkeys(problems)),
    )


def _failures(read: _Read, sources: Sources) -> list[Problem]:
    """Return what npu-smi, the loader or the shell said instead of a table, or beside it."""
    table = read.table
    found = trouble.problems(table.notes, read.group, table=bool(table.rows))
    if sources.info is None:
        ids = {problem.id for problem in sources.problems}
        found += [] if ids & {"npu-smi-timeout"} else [trouble.missing(read.group)]
    elif not table.rows and table.layout is None and not table.outputs and not found:
        found.append(trouble.unread(table.notes + table.garbled, read.group))
    if not table.rows:
        more = npu_smi.read(sources.mapping or "").notes
        ids = {problem.id for problem in found}
        others = trouble.problems(more, read.group, table=bool(read.mapped))
        found += [problem for problem in others if problem.id not in ids]
    status = read.install.get("Driver_Install_Status", "complete")
    incomplete = findings.incomplete(status)
    if status.lower() != "complete" and all(p.id != incomplete.id for p in found):
        found.append(incomplete)
    return found


@dataclass(frozen=True)
class _Dies:
    """The dies, the rows that they come from, and what is to say of them.

    `hidden` are the NPUs and nodes that the table does not have, in words; `places` says which
    die an NPU's chip is, of all that the table has.
    """

    npus: tuple[Npu, ...]
    rows: tuple[Row, ...]
    layout: Layout | None
    problems: tuple[Problem, ...] = ()
    hidden: tuple[str, ...] = ()
    places: Mapping[tuple[int | None, int | None], int] = field(default_factory=dict)


def _dies(read: _Read, sources: Sources) -> _Dies:
    """Return one die for each row; without a table, for each chip of `-m`, else for each node."""
    rows, layout = list(read.table.rows), read.table.layout
    if not rows and read.mapped:
        rows, layout = _of_mapping(read.mapped)
    elif not rows:
        if read.table.layout and not read.table.gaps:
            # A table of no chip: they failed, and their nodes are of no use.
            return _empty_table(read, sources)
        numbers = resolve.by_node(sources.nodes)
        return _Dies(tuple(Npu(n, 0, resolve.device(n)) for n in numbers), (), None)
    whole = resolve.completed(rows, layout, read.mapped, read.known(sources.nodes))
    problems = findings.broken(*_incomplete(rows, whole), cut=bool(read.table.gaps))
    whole = [row for row in whole if row.npu_id is not None]
    dies, places = resolve.distinct(_named(whole, read.mapped))
    placed = resolve.placed(dies, layout, read.mapped, sources.nodes)
    npus = _npus(dies, placed.devices, places, read)
    kept = [at for at in range(len(dies)) if at not in placed.foreign]
    hidden = findings.hidden(whole, layout, read.mapped, read.known(None), placed.unlisted)
    if not read.table.gaps:
        problems += [findings.vanished(words) for words in hidden]
        if not hidden:
            problems += findings.fewer(whole, read.listed.total, layout, sources.nodes)
    return _Dies(
        tuple(npus[at] for at in kept),
        tuple(dies[at] for at in kept),
        layout,
        (*placed.problems, *problems),
        tuple(hidden),
        places,
    )


def _incomplete(rows: list[Row], whole: list[Row]) -> tuple[list[Row], list[Row]]:
    """Leave out the chips of which only the id was blanked out: nothing is wrong with those."""
    kept = [
        (row, after)
        for row, after in zip(rows, whole, strict=True)
        if row.half or (row.name is None and row.health is None)
    ]
    return [row for row, _ in kept], [after for _, after in kept]


def _evidence(table: Table, found: _Dies) -> Table:
    """Return the table as far as it shows who holds a die's memory, and that a size is missing.

    An address that is `NA` or was blanked out leaves a row as whole as any other; and of an NPU
    with a process that could not be read it can't be said that it has none.
    """
    rows = tuple(
        dataclasses.replace(row, bus_id=row.bus_id or "NA") for row in found.rows if table.rows
    )
    unclear = table.unclear | {
        holder.npu_id for holder in table.holders if _place(holder, found.places) is None
    }
    asked = None if table.asked is None else table.asked - unclear
    return dataclasses.replace(table, rows=rows, asked=asked)


def _place(holder: Holder, places: Mapping[tuple[int | None, int | None], int]) -> int | None:
    """Return the place of the die that a process uses; with no chip named, the NPU's only one."""
    if holder.chip_id is not None:
        return places.get((holder.npu_id, holder.chip_id))
    found = {place for (npu, _), place in places.items() if npu == holder.npu_id}
    return found.pop() if len(found) == 1 else None


def _empty_table(read: _Read, sources: Sources) -> _Dies:
    hidden = findings.hidden((), "npu", (), read.known(None), resolve.by_node(sources.nodes))
    return _Dies((), (), None, tuple(findings.vanished(words) for words in hidden), tuple(hidden))


def _of_mapping(mapped: Sequence[Mapped]) -> tuple[list[Row], Layout | None]:
    """Make rows of `npu-smi info -m`, which says nothing of health and memory."""
    layout: Layout = "phy-id" if any(chip.phy_id is not None for chip in mapped) else "device"
    names = {chips.short(chip.name) for chip in mapped if chip.name}
    found = {chips.product_of(name, layout).product for name in names}
    if layout == "device" and chips.usual_layout(found) == "chip":
        layout = "chip"
    rows = [
        Row(chip.npu_id, chip.chip_id, chip.phy_id, chips.short(chip.name) if chip.name else None)
        for chip in mapped
    ]
    return rows, layout


def _named(rows: Sequence[Row], mapped: Sequence[Mapped]) -> list[Row]:
    """Take names from `-m` where the table has none, or one that was blanked out."""
    names = {(chip.npu_id, chip.chip_id): chip.name for chip in mapped}
    found = []
    for row in rows:
        name = names.get((row.npu_id or 0, row.chip_id or 0))
        better = chips.redacted(row.name) and name and not chips.redacted(chips.short(name))
        found.append(dataclasses.replace(row, name=chips.short(name or "")) if better else row)
    return found


def _npus(
    dies: Sequence[Row],
    devices: Sequence[str | None],
    places: Mapping[tuple[int | None, int | None], int],
    read: _Read,
) -> list[Npu]:
    """Make the dies' values: rows, device nodes, processes and CPUs put together."""
    holders: dict[int, dict[int, Holder]] = {}
    for number, holder in enumerate(read.table.holders):
        at = _place(holder, places)
        if at is not None:  # Processes with no pid are not the same one.
            holders.setdefault(at, {})[holder.process.pid or -number] = holder
    near = read.topology
    return [
        Npu(
            npu_id=row.npu_id or 0,
            chip_id=row.chip_id or 0,
            device=devices[at],
            name=row.name,
            health=row.health,
            hbm_total_mib=row.total,
            hbm_used_mib=row.used,
            processes=tuple(holder.process for holder in holders.get(at, {}).values()),
            bus_id=row.bus_id,
            cpu_affinity=near.affinity.get((row.npu_id if near.unit == "npu" else row.phy_id) or 0),
        )
        for at, row in enumerate(dies)
    ]


def _product(
    rows: Sequence[Row], layout: Layout | None, nodes: frozenset[str] | None
) -> tuple[ProductName, list[Problem]]:
    """Tell the product by the chips' names; by the table's layout where they are blanked out."""
    if not rows:
        return "unknown", [findings.no_names(len(resolve.by_node(nodes)))]
    verdicts = [
        chips.product_of(row.name, layout, ddr=None if row.ddr_total is None else row.ddr_total > 0)
        for row in rows
    ]
    said = {v.product: row.name for v, row in zip(verdicts, rows, strict=True) if v.by == "name"}
    strange = {
        row.name
        for v, row in zip(verdicts, rows, strict=True)
        if v.by == "nothing" and not chips.redacted(row.name)
    }
    if strange:
        return "unknown", [findings.strange(strange)]
    if len(said) > 1:
        return "unknown", [findings.mixed(said)]
    if said:
        product = next(iter(said))
        names = {row.name for row in rows if row.name}
        return product, [findings.unsupported(names)] if product == "unsupported" else []
    guessed: set[ProductName] = {v.product for v in verdicts}
    product = guessed.pop() if len(guessed) == 1 else "unknown"
    return product, findings.redacted(product, {row.name for row in rows})
