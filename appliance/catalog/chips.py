"""What the catalog knows of Ascend chips, and of the ways in which npu-smi fails.

The tables are `data/chips.yaml` and `data/npu_smi_errors.yaml`; nothing here names a chip.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, cast

from appliance import yamlfile
from appliance.catalog.load import DATA

if TYPE_CHECKING:
    from collections.abc import Mapping

    from appliance.inventory.model import ProductName

_GIB = 1024**3
_MIB = 1024**2


@dataclass(frozen=True)
class Chip:
    """A chip as npu-smi names it. `hbm_mib` are the totals of a whole one, empty if they vary."""

    match: str
    product: ProductName
    hbm_mib: tuple[int, ...] = ()
    layouts: tuple[str, ...] = ()
    variants: Mapping[str, str] = field(default_factory=dict)
    usable_gib: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Layout:
    """A product that a table's layout alone gives away; `ddr` is None where it doesn't matter."""

    layout: str
    product: ProductName
    ddr: bool | None = None


@dataclass(frozen=True)
class Verdict:
    """Which product a chip makes, and what says so: its name, or only its table's layout."""

    product: ProductName
    by: Literal["name", "layout", "nothing"]


@dataclass(frozen=True)
class Signature:
    """A line that npu-smi, the loader or the shell prints when something is wrong."""

    id: str
    message: str
    remedy: str
    match: re.Pattern[str] = re.compile("$^")
    tool: bool = False
    alone: bool = False
    companion: bool = False
    retry: bool = False


@dataclass(frozen=True)
class Errors:
    """All signatures in their order, and what to say where none fits."""

    signatures: tuple[Signature, ...]
    empty: Signature
    unreadable: Signature
    caveat: str
    health: Mapping[str, str]


@lru_cache
def _chips_file() -> Mapping[str, Any]:
    content: Mapping[str, Any] = yamlfile.read(DATA / "chips.yaml")
    return content


@lru_cache
def chips() -> tuple[Chip, ...]:
    """Return the known chips in the order in which they are tried."""
    return tuple(
        Chip(
            **{
                **row,
                "hbm_mib": tuple(row["hbm_mib"]),
                "layouts": tuple(row.get("layouts", ())),
            }
        )
        for row in _chips_file()["chips"]
    )


@lru_cache
def layouts() -> tuple[Layout, ...]:
    """Return what the layout of a table with redacted names gives away."""
    return tuple(Layout(**row) for row in _chips_file()["by_layout"])


def driver_signs() -> tuple[str, ...]:
    """Return the host paths that say that a driver was installed."""
    return tuple(_chips_file()["driver_signs"])


def redacted(name: str | None) -> bool:
    """Tell whether a name says nothing: absent, blanked out, or `NA`."""
    return name is None or re.fullmatch(_chips_file()["redacted"], name) is not None


def find(name: str | None, layout: str | None = None) -> Chip | None:
    """Return the chip of that name; a chip that needs a layout counts only with it."""
    if name is None:
        return None
    bare = short(name)
    for chip in chips():
        if re.fullmatch(chip.match, bare) and (not chip.layouts or layout in chip.layouts):
            return chip
    return None


def short(name: str) -> str:
    """Return a name of `npu-smi info -m` as `npu-smi info` has it: less `Ascend` and a space."""
    return re.sub(r"^Ascend\s+", "", name.strip())


def product_of(name: str | None, layout: str | None = None, *, ddr: bool | None = None) -> Verdict:
    """Tell the product of a chip by its name; by its table's layout where the name is redacted.

    `layout` is the table's (`appliance.inventory.npu_smi.Layout`), `ddr` whether the memory
    beside the HBM has a size, None if the table does not say.
    """
    chip = find(name, layout)
    if chip is not None:
        return Verdict(chip.product, "name")
    if not redacted(name) and not ddr:
        return Verdict("unknown", "nothing")
    for row in layouts():
        if row.layout == layout and row.ddr in (None, ddr):
            return Verdict(row.product, "layout")
    return Verdict("unknown", "nothing")


def usual_layout(products: set[ProductName]) -> str | None:
    """Return the layout that the tables of a product have, where it is always the same."""
    found = {row.layout for row in layouts() if {row.product} == products}
    return found.pop() if len(found) == 1 else None


def variant(name: str, total_mib: int | None) -> str:
    """Return a chip's real name: npu-smi calls some of two sizes by one name."""
    chip = find(name)
    return chip.variants.get(str(total_mib), name) if chip else name


def idle_mib(total_mib: int) -> float:
    """Return up to how much of a die's memory is in use though nobody uses it. In MiB."""
    idle = _chips_file()["idle"]
    return max(float(idle["mib"]), float(idle["share"]) * total_mib)


def usable_bytes(name: str | None, total_mib: int) -> int:
    """Return how much of a chip's memory a process can have, as torch_npu reports it.

    `total_mib` is npu-smi's total. The figures are by total; a chip that has one of its own
    carries it in `usable_gib`.
    """
    chip = find(variant(name, total_mib)) if name else None
    own = chip.usable_gib if chip else {}
    gib = own.get(str(total_mib)) or _chips_file()["usable_gib"].get(str(total_mib))
    if gib is not None:
        return int(gib * _GIB)
    return int(total_mib * _MIB * _chips_file()["usable_ratio"])


@lru_cache
def errors() -> Errors:
    """Return the signatures of `npu-smi`'s failures."""
    content = yamlfile.read(DATA / "npu_smi_errors.yaml")
    return Errors(
        signatures=tuple(
            Signature(**{**row, "match": re.compile(row["match"], re.IGNORECASE)})
            for row in content["signatures"]
        ),
        empty=Signature(**content["empty"]),
        unreadable=Signature(**content["unreadable"]),
        caveat=content["caveat"],
        health=cast("Mapping[str, str]", content["health"]),
    )
