"""The problems that an inventory's own facts show: their words, in one place.

What npu-smi itself printed as an error is in `appliance.inventory.trouble`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from appliance.catalog import chips
from appliance.catalog import load as catalog
from appliance.inventory import resolve, trouble
from appliance.inventory.model import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from appliance.inventory.mapping import Mapped
    from appliance.inventory.model import Npu, ProductName
    from appliance.inventory.table import Layout, Row, Table


def _set_product() -> str:
    return f"Set `product` to {' or '.join(catalog.listed_products())}, if that is what it is."


def no_names(nodes: int) -> Problem:
    """Device nodes, or a driver, and nothing that says which chips they are."""
    if nodes:
        message = f"{nodes} NPU device nodes are there, but not which product they are of."
        return Problem("product-unknown", message, _set_product())
    return Problem(
        "product-unknown",
        "There are signs of an NPU driver, but no NPU of which the product could be told.",
        "Where NPUs are expected: `lspci | grep -i d80` shows whether the bus has them, `dmesg` "
        f"what the driver says. {_set_product()} Or set `platform` to cpu.",
    )


def strange(names: Iterable[str | None]) -> Problem:
    """Names that the catalog does not have."""
    shown = ", ".join(sorted(str(name) for name in names))
    return Problem(
        "product-unknown", f"The chips are called {shown}, which is not known.", _set_product()
    )


def mixed(said: Mapping[ProductName, str | None]) -> Problem:
    """Chips of several products on one host."""
    shown = ", ".join(f"{name} ({product})" for product, name in sorted(said.items()))
    return Problem(
        "product-unknown",
        f"This host has chips of several products: {shown}.",
        f"{_set_product()} And name the NPUs to use with `npus`.",
    )


def unsupported(names: Iterable[str]) -> Problem:
    """Chips that vllm-ascend does not run on."""
    return Problem(
        "product-unsupported",
        f"The chips are {', '.join(sorted(names))}: vllm-ascend does not support them.",
        "Use a host with Atlas A2 or A3 NPUs; or set `platform` to cpu for a trial.",
    )


def redacted(product: ProductName, names: Iterable[str | None]) -> list[Problem]:
    """Names that say nothing, and a product that follows from the table's form, or does not."""
    shown = ", ".join(sorted({name or "blank" for name in names}))
    if product == "unknown":
        text = f"The chips' names are {shown}, and the form of the table does not tell them either."
        return [Problem("product-unknown", text, _set_product())]
    old = product == "unsupported"
    form = "of a kind that vllm-ascend does not support" if old else product
    named = Problem(
        "chip-name-unreadable",
        f"The chips' names are {shown}; by the form of npu-smi's table they are {form}.",
        f"If that is wrong: {_set_product()}",
    )
    return [named, unsupported(["of the first generation"])] if old else [named]


def versions(loaded: str | None, installed: str | None) -> tuple[str | None, list[Problem]]:
    """Return the driver's version, the loaded one first, and whether another is installed."""
    if loaded is None or installed is None:
        return loaded or installed, []
    if not re.search(r"\d", loaded):
        return installed, []
    short, long = sorted((loaded.lower(), installed.lower()), key=len)
    if short == long or re.fullmatch(re.escape(short) + r"\.b\d+", long):
        return loaded, []
    return loaded, [
        Problem(
            "driver-version-differs",
            f"The driver that is loaded is {loaded}, the one that is installed is {installed}: "
            "it was upgraded, and the host not rebooted since.",
            "Reboot the host.",
        )
    ]


def incomplete(status: str) -> Problem:
    """Say that the driver's installation did not end well."""
    known = trouble.problems(["driver package may not be completely installed"], table=True)[0]
    return Problem(
        known.id,
        f"The NPU driver is not completely installed: /etc/ascend_install.info says "
        f"Driver_Install_Status={status}.",
        known.remedy,
    )


def table(read: Table, hidden: Sequence[str]) -> list[Problem]:
    """Say how a table is incomplete."""
    found = []
    if read.gaps:
        more = f" Not shown: {', '.join(hidden)}." if hidden else ""
        found.append(
            Problem(
                "npu-smi-cut",
                f"The output of npu-smi is incomplete: {'; '.join(read.gaps)}.{more} NPUs may be "
                "missing here.",
                "Take it again: `npu-smi info > npu-smi-info.txt 2>&1`.",
            )
        )
    if read.garbled and read.layout:
        found.append(
            Problem(
                "npu-smi-garbled",
                f"{len(read.garbled)} lines of npu-smi's table can't be read, the first is: "
                f"{read.garbled[0][:120]}",
                "Take it again; if it is as npu-smi prints it, please report it.",
            )
        )
    if read.outputs > 1:
        found.append(
            Problem(
                "npu-smi-repeated",
                f"There are {read.outputs} outputs of `npu-smi info`, one after the other; this "
                "is the last that lists an NPU.",
                "Keep one output in npu-smi-info.txt.",
            )
        )
    if not read.rows and read.layout and not read.gaps:
        found.append(
            Problem(
                "npu-smi-no-chips",
                "npu-smi printed its table, but lists no NPU.",
                "`lspci | grep -i d80` shows whether the bus has them; see `dmesg`; reboot.",
            )
        )
    return found


def broken(rows: Sequence[Row], whole: Sequence[Row], *, cut: bool) -> list[Problem]:
    """Name the chips of which the table has one line of two, unless the other was cut off."""
    found = []
    for row, after in zip(rows, whole, strict=True):
        if row.npu_id is not None and (cut or not row.half):
            continue
        what = "name and health are" if row.npu_id is None else "ids and memory are"
        where = f" (bus {row.bus_id})" if row.bus_id else ""
        who = "A chip of which the NPU can't be told"
        if after.npu_id is not None:
            who = resolve.label(after)
        found.append(
            Problem(
                "npu-row-broken",
                f"{who}{where}: its {what} missing. npu-smi leaves a line out where a chip's "
                "health or ids can't be told; such a chip has probably failed.",
                "`npu-smi info -t health -i N -c 0` for each NPU; reset it (`npu-smi set -t reset "
                "-i N -c 0`) or reboot, and don't use it meanwhile.",
            )
        )
    return found


def hidden(
    rows: Sequence[Row],
    layout: Layout | None,
    mapped: Sequence[Mapped],
    known: Iterable[int],
    unlisted: Iterable[int],
) -> list[str]:
    """Name the NPUs and nodes that something has, and the table has not."""
    npus = {row.npu_id for row in rows}
    there = {(row.npu_id, row.chip_id) for row in rows}
    nodes = set(unlisted)
    found = []
    for npu in sorted(set(known) - npus):
        numbers = {chip.phy_id for chip in mapped if chip.npu_id == npu} - {None}
        numbers |= {npu} if layout in ("chip", "npu") else set()
        ours = sorted(n for n in nodes if n in numbers)
        nodes -= set(ours)
        found.append(" and ".join([f"NPU {npu}", *map(resolve.device, ours)]))
    for chip in mapped:
        if chip.npu_id in npus and (chip.npu_id, chip.chip_id) not in there:
            ours = sorted(n for n in nodes if n == chip.phy_id)
            nodes -= set(ours)
            words = [f"NPU {chip.npu_id} chip {chip.chip_id}", *map(resolve.device, ours)]
            found.append(" and ".join(words))
    return [*found, *map(resolve.device, sorted(nodes))]


def vanished(words: str) -> Problem:
    """Say that an NPU is not in the table."""
    return Problem(
        "npu-vanished",
        f"{words}: npu-smi's table does not have it. That is what a card looks like that failed.",
        "`npu-smi info -t health -i N -c 0` and `dmesg` may say why; reset it (`npu-smi set -t "
        "reset -i N -c 0`) or reboot. If it stays away, call the hardware support.",
    )


def fewer(
    rows: Sequence[Row], total: int | None, layout: Layout | None, nodes: frozenset[str] | None
) -> list[Problem]:
    """Say that there are fewer in the table than something counts."""
    count = len({row.npu_id for row in rows})
    if total is not None and total > count:
        return [vanished(f"{total - count} of {total} NPUs that `npu-smi info -l` counts")]
    there = len(resolve.node_numbers(nodes or ()))
    if layout == "device" and there > len(rows) > 1:
        return [vanished(f"{there - len(rows)} of {there} dies that have a device node")]
    return []


def health(npus: Iterable[Npu]) -> list[Problem]:
    """Name the dies that npu-smi does not call OK."""
    return [
        Problem(
            "npu-unhealthy",
            f"{_name(npu)}: npu-smi calls it {npu.health} - {trouble.meaning(npu.health)}.",
            f"`npu-smi info -t health -i {npu.npu_id} -c {npu.chip_id}` gives the error codes. "
            f"Reset it (`npu-smi set -t reset -i {npu.npu_id} -c {npu.chip_id}`) when nothing "
            "uses it, or leave it out.",
        )
        for npu in npus
        if npu.health is not None and npu.health.upper() != "OK"
    ]


def memory(npus: Iterable[Npu], read: Table) -> list[Problem]:
    """Name the dies whose memory is not known, or held by nobody that can be seen."""
    found = []
    whole = {(row.npu_id, row.chip_id) for row in read.rows if not row.half and row.bus_id}
    for npu in npus:
        used, total = npu.hbm_used_mib, npu.hbm_total_mib
        if total is None and (npu.npu_id, npu.chip_id) in whole and not read.gaps:
            found.append(
                Problem(
                    "npu-memory-unknown",
                    f"{_name(npu)}: npu-smi shows no size of its memory, which is what it does "
                    "where a chip does not answer the driver.",
                    "See `dmesg`; reset it "
                    f"(`npu-smi set -t reset -i {npu.npu_id} -c {npu.chip_id}`) or reboot.",
                )
            )
        quiet = npu.npu_id in (read.asked or ()) and not npu.processes
        if quiet and used is not None and total and used > chips.idle_mib(total):
            found.append(
                Problem(
                    "npu-memory-held",
                    f"{_name(npu)}: {used} of {total} MiB are in use, and npu-smi shows no "
                    "process: another container holds it, or a process that ended badly.",
                    "`fuser -v /dev/davinci*` on the host, and `docker ps`, show who has it open; "
                    "a reset frees what nobody does.",
                )
            )
    return found


def _name(npu: Npu) -> str:
    parts = [part for part in (npu.name, npu.device) if part]
    chip = f" chip {npu.chip_id}" if npu.chip_id else ""
    return f"NPU {npu.npu_id}{chip}" + (f" ({', '.join(parts)})" if parts else "")
