"""From what was read of a host to its inventory: dies and their nodes, product, problems.

The hosts here are made up. What npu-smi's tables look like is tested in test_npu_smi.py.
"""

# ruff: noqa: E501 (a table is as wide as npu-smi prints it)

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from appliance.errors import ApplianceError
from appliance.inventory import ask, read
from appliance.inventory.model import Claim, Inventory, Link, Npu

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

RULE = "+" + "=" * 27 + "+" + "=" * 15 + "+" + "=" * 52 + "+\n"
MANAGERS = ("/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc")
IDLE = 3200


def chip(
    npu: int, name: str = "910B3", health: str = "OK", used: int = IDLE, total: int = 65536
) -> str:
    """A chip of an A2's table."""
    return (
        f"| {npu:<5} {name:<20}| {health:<14}| 93.0        40                0    / 0             |\n"
        f"| {0:<26}| 0000:{abs(npu):02X}:00.0  | 0           0    / 0          {used:<5}/ {total:<14}|\n"
        + RULE
    )


def die(npu: int, number: int, phy: int, health: str = "OK") -> str:
    """A chip of an A3's table."""
    return (
        f"| {npu:<5} {'Ascend910':<20}| {health:<14}| 160.0       40                0    / 0             |\n"
        f"| {number:<5} {phy:<20}| 0000:{phy:02X}:00.0  | 0           0    / 0          {IDLE} / 65536         |\n"
        + RULE
    )


def slot(npu: int, number: int, logic: int, name: str = "310P3") -> str:
    """A chip of a 310P's table."""
    return (
        f"| {npu:<7} {name:<22}| OK              | NA           44                0     / 0             |\n"
        f"| {number:<7} {logic:<22}| 0000:01:00.0    | 0            1500 / 44280                            |\n"
        "+===============================+=================+======+\n"
    )


def table(*chips: str, second: str = "Chip", version: str = "25.5.1") -> str:
    hbm = "" if second.endswith("Device") else "  HBM-Usage(MB)"
    return (
        f"{RULE}| npu-smi 25.5.1           Version: {version:<40}|\n{RULE}"
        "| NPU   Name                | Health        | Power(W)    Temp(C)  Hugepages-Usage(page)|\n"
        f"| {second:<26}| Bus-Id        | AICore(%)   Memory-Usage(MB){hbm} |\n"
        + RULE
        + "".join(chips)
    )


def a3(*chips: str) -> str:
    return table(*chips, second="Chip  Phy-ID")


def processes(*lines: str) -> str:
    return (
        "| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |\n"
        + RULE + "".join(f"| {line} |\n{RULE}" for line in lines)
    )  # fmt: skip


def nodes(*numbers: int) -> str:
    return "\n".join([*(f"/dev/davinci{n}" for n in numbers), *MANAGERS, ""])


class Snapshot:
    """A folder with the files of a host."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, info: str | None = None, dev: str | None = None, **files: str) -> Inventory:
        given = {"npu-smi-info.txt": info, "dev.txt": dev}
        given |= {
            {"m": "npu-smi-info-m.txt", "listing": "npu-smi-info-l.txt", "topo": "npu-smi-topo.txt",
             "driver": "driver-version.info", "install": "ascend_install.info", "paths": "paths.txt",
             "system": "system.json", "appliances": "appliances.json"}[name]: text
            for name, text in files.items()
        }  # fmt: skip
        for path in self.folder.iterdir():
            path.unlink()
        for name, text in given.items():
            if text is not None:
                (self.folder / name).write_text(text, encoding="utf-8")
        return read.snapshot(self.folder)


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    return Snapshot(tmp_path)


def devices(host: Inventory) -> list[str | None]:
    return [npu.device for npu in host.npus]


def ids(host: Inventory) -> list[str]:
    for problem in host.problems:
        assert problem.message
        assert problem.remedy
    return [problem.id for problem in host.problems]


def message(host: Inventory, problem_id: str) -> str:
    return " / ".join(p.message for p in host.problems if p.id == problem_id)


# A host in order


def test_an_a2_in_order_has_no_problem(snapshot: Snapshot) -> None:
    host = snapshot(table(*map(chip, range(8))), nodes(*range(8)), driver="Version=25.5.1\n")
    assert (host.product, host.driver_version, host.problems) == ("atlas-a2", "25.5.1", ())
    assert devices(host) == [f"/dev/davinci{n}" for n in range(8)]
    assert host.npus[3] == Npu(
        3, 0, "/dev/davinci3", "910B3", "OK", 65536, IDLE, (), "0000:03:00.0"
    )
    assert "/dev/davinci_manager" in host.device_nodes


def test_an_a3_in_order_has_the_physical_ids_for_nodes(snapshot: Snapshot) -> None:
    dies = [die(npu, n, phy) for npu, n, phy in [(0, 0, 4), (0, 1, 7), (3, 0, 0), (3, 1, 1)]]
    host = snapshot(a3(*dies), nodes(0, 1, 4, 7))
    assert (host.product, host.problems) == ("atlas-a3", ())
    assert devices(host) == ["/dev/davinci4", "/dev/davinci7", "/dev/davinci0", "/dev/davinci1"]


def test_where_it_is_not_known_which_nodes_there_are_they_follow_from_the_ids(
    snapshot: Snapshot,
) -> None:
    assert devices(snapshot(table(chip(4), chip(6)))) == ["/dev/davinci4", "/dev/davinci6"]
    assert devices(snapshot(a3(die(2, 0, 4), die(2, 1, 5)))) == ["/dev/davinci4", "/dev/davinci5"]
    assert snapshot(table(chip(4))).device_nodes == frozenset()


def test_a_host_with_nothing_has_nothing(snapshot: Snapshot) -> None:
    for host in (snapshot(), snapshot(dev=""), snapshot("sh: npu-smi: not found\n", dev="")):
        assert (host.product, host.npus, host.problems) == ("none", (), ())


# Which node a die has


def test_the_nodes_of_a_310p_cant_be_told(snapshot: Snapshot) -> None:
    duo = table(slot(4, 0, 0), slot(4, 1, 1), second="Chip    Device")
    for dev in (None, nodes(0, 1)):
        host = snapshot(duo, dev)
        assert (host.product, devices(host)) == ("atlas-310p", [None, None])
        assert ids(host) == ["device-unknown"]
    # Unless there is one of each, or the mapping has physical ids.
    alone = snapshot(table(slot(4, 0, 0), second="Chip    Device"), nodes(2))
    assert (devices(alone), ids(alone)) == (["/dev/davinci2"], [])
    m = "NPU ID  Chip ID  Chip Logic ID  Chip Phy-ID  Chip Name\n4 0 0 3 Ascend 310P3\n4 1 1 2 Ascend 310P3\n"
    assert devices(snapshot(duo, nodes(2, 3), m=m)) == ["/dev/davinci3", "/dev/davinci2"]


def test_a_container_with_one_die_has_that_one(snapshot: Snapshot) -> None:
    for number in (4, 0):
        host = snapshot(table(chip(4)), nodes(number))
        assert (devices(host), ids(host)) == ([f"/dev/davinci{number}"], [])
        assert host.npus[0].npu_id == 4


def test_a_container_that_numbers_anew_is_not_guessed_at(snapshot: Snapshot) -> None:
    host = snapshot(table(chip(4), chip(5)), nodes(0, 1))
    assert (devices(host), ids(host)) == ([None, None], ["device-numbers-differ"])
    assert host.product == "atlas-a2"
    # NPU 1 and node 1 would go together by chance only.
    host = snapshot(table(chip(1), chip(2)), nodes(0, 1))
    assert (devices(host), ids(host)) == ([None, None], ["device-numbers-differ"])


def test_a_row_without_a_node_is_kept_and_named(snapshot: Snapshot) -> None:
    host = snapshot(table(chip(0), chip(1), chip(2)), nodes(0, 2))
    assert devices(host) == ["/dev/davinci0", None, "/dev/davinci2"]
    assert ids(host) == ["npu-without-node"]
    assert "/dev/davinci1" in message(host, "npu-without-node")


def test_rows_without_nodes_are_named_together(snapshot: Snapshot) -> None:
    host = snapshot(table(*map(chip, range(8))), nodes(3))
    assert [n.device for n in host.npus if n.device] == ["/dev/davinci3"]
    assert (len(host.npus), ids(host)) == (8, ["npu-without-node"])


def test_a_card_whose_slot_the_driver_cant_tell_has_no_node(snapshot: Snapshot) -> None:
    host = snapshot(table(chip(-1, health="UNKNOWN"), chip(1)))
    assert [(n.npu_id, n.device) for n in host.npus] == [(-1, None), (1, "/dev/davinci1")]
    assert ids(host) == ["npu-unhealthy"]


def test_rows_and_no_node_at_all_is_one_problem(snapshot: Snapshot) -> None:
    for dev in ("", "/dev/davinci_manager\n"):
        host = snapshot(table(*map(chip, range(8))), dev)
        assert (devices(host), ids(host)) == ([None] * 8, ["npu-without-node"])
        assert host.product == "atlas-a2"


def test_the_manager_is_no_npu(snapshot: Snapshot) -> None:
    host = snapshot(None, "/dev/davinci_manager\n/dev/davinci_manager_docker\n/dev/vdavinci100\n")
    assert (host.product, host.npus) == ("unknown", ())
    assert ids(host) == ["npu-smi-missing", "product-unknown"]


@pytest.mark.parametrize(
    ("rows", "problems"),
    [
        ([die(3, 0, 6), die(3, 1, 7)], ["npu-without-node"]),
        ([die(3, 0, 6), die(3, 1, 6)], []),
        ([die(3, 0, 6), die(3, 0, 6)], []),
        ([die(3, 0, 6)], []),
    ],
    ids=["distinct", "duplicated", "twice the same", "one"],
)
def test_a_container_that_was_given_one_die_has_one(
    snapshot: Snapshot, rows: list[str], problems: list[str]
) -> None:
    busy = processes("3       0                 | 71            | python | 1700")
    host = snapshot(a3(*rows) + busy, nodes(6))
    (npu,) = host.npus
    assert (npu.npu_id, npu.chip_id, npu.device) == (3, 0, "/dev/davinci6")
    assert [p.pid for p in npu.processes] == [71]
    assert ids(host) == problems


def test_the_other_die_may_be_the_one_that_was_given(snapshot: Snapshot) -> None:
    host = snapshot(a3(die(3, 0, 6), die(3, 1, 7)), nodes(7))
    assert [(npu.chip_id, npu.device) for npu in host.npus] == [(1, "/dev/davinci7")]


def test_without_the_nodes_two_dies_with_one_physical_id_are_one(snapshot: Snapshot) -> None:
    host = snapshot(a3(die(0, 0, 0), die(0, 1, 0), die(1, 0, 2), die(1, 1, 3)))
    assert [(npu.npu_id, npu.chip_id) for npu in host.npus] == [(0, 0), (1, 0), (1, 1)]


def test_the_two_chips_of_a_duo_share_a_bus_and_are_two(snapshot: Snapshot) -> None:
    assert len(snapshot(table(slot(4, 0, 0), slot(4, 1, 1), second="Chip    Device")).npus) == 2


@pytest.mark.parametrize(
    "text",
    [
        "/dev/davinci1  /dev/davinci2\t/dev/davinci_manager\n",
        "crw-rw----. 1 root root 510, 1  /dev/davinci1\ncrw-rw---- 1 a b 510, 2 May  1 10:00 /dev/davinci2\n",
        "/dev/davinci1\r\n/dev/davinci2\r\n",
        "davinci1 davinci2 davinci_manager\n",
        "ls: cannot access '/dev/davinci7': No such file or directory\n/dev/davinci1\n/dev/davinci2\n",
        "'/dev/davinci1', '/dev/davinci2'\n",
    ],
)
def test_nodes_are_read_in_any_form_of_ls(snapshot: Snapshot, text: str) -> None:
    host = snapshot(None, text)
    assert devices(host) == ["/dev/davinci1", "/dev/davinci2"]


def test_a_pattern_that_matched_nothing_is_no_node(snapshot: Snapshot) -> None:
    host = snapshot(
        None, "ls: cannot access '/dev/davinci*': No such file or directory\n/dev/davinci*\n"
    )
    assert (host.product, host.device_nodes) == ("none", frozenset())


# What the table does not show


def test_a_node_without_a_row_is_a_card_that_failed(snapshot: Snapshot) -> None:
    host = snapshot(table(chip(0), chip(1), chip(3)), nodes(0, 1, 2, 3))
    assert devices(host) == ["/dev/davinci0", "/dev/davinci1", "/dev/davinci3"]
    assert ids(host) == ["npu-vanished"]
    assert "/dev/davinci2" in message(host, "npu-vanished")


@pytest.mark.parametrize(
    "other",
    [
        {"m": "NPU ID  Chip ID  Chip Logic ID  Chip Name\n0 0 0 Ascend 910B3\n5 0 1 Ascend 910B3\n5 1 - Mcu\n"},
        {"listing": "Total Count : 2\n\nNPU ID : 0\nChip Count : 1\n\nNPU ID : 5\nChip Count : 1\n"},
        {"info": table(chip(0)) + processes("No running processes found in NPU 0", "No running processes found in NPU 5")},
    ],
    ids=["mapping", "list", "process table"],
)  # fmt: skip
def test_a_card_that_something_else_lists_has_vanished(
    snapshot: Snapshot, other: dict[str, str]
) -> None:
    host = snapshot(**{"info": table(chip(0)), "dev": nodes(0, 5), **other})
    assert ids(host) == ["npu-vanished"]
    assert "NPU 5 and /dev/davinci5" in message(host, "npu-vanished")
    assert len(host.npus) == 1


def test_a_list_that_only_counts_more_is_believed(snapshot: Snapshot) -> None:
    host = snapshot(table(chip(0)), listing="Total Count                    : 8\n")
    assert "7 of 8" in message(host, "npu-vanished")


def test_a_die_of_an_a3_can_vanish_alone(snapshot: Snapshot) -> None:
    m = (
        "NPU ID  Chip ID  Chip Logic ID  Chip Phy-ID  Chip Name\n"
        "0 0 0 0 Ascend910\n0 1 1 1 Ascend910\n0 2 - - Mcu\n"
    )
    host = snapshot(a3(die(0, 0, 0)), nodes(0, 1), m=m)
    assert message(host, "npu-vanished").startswith("NPU 0 chip 1 and /dev/davinci1:")
    assert ids(host) == ["npu-vanished"]


def test_a_table_with_no_chip_is_no_host_with_chips(snapshot: Snapshot) -> None:
    host = snapshot(table(), nodes(0, 1))
    assert (host.npus, host.product) == ((), "unknown")
    assert ids(host) == ["product-unknown", "npu-smi-no-chips", "npu-vanished", "npu-vanished"]


def test_a_table_that_was_cut_says_so_and_not_that_cards_failed(snapshot: Snapshot) -> None:
    whole = table(chip(0), chip(1), chip(2))
    host = snapshot(whole[: whole.index("| 2 ")] + "...\n", nodes(0, 1, 2))
    assert ids(host) == ["npu-smi-cut"]
    assert "/dev/davinci2" in message(host, "npu-smi-cut")
    host = snapshot(whole[:-140], nodes(0, 1, 2))
    assert ids(host) == ["npu-smi-cut"]
    assert devices(host) == ["/dev/davinci0", "/dev/davinci1", "/dev/davinci2"]
    assert (host.npus[2].name, host.npus[2].hbm_total_mib) == ("910B3", None)


def test_a_line_that_cant_be_read_is_named(snapshot: Snapshot) -> None:
    host = snapshot(table(chip(0), "| what is this | 1 | 2 |\n", chip(1)))
    assert ids(host) == ["npu-smi-garbled"]
    assert "what is this" in message(host, "npu-smi-garbled")
    assert len(host.npus) == 2


def test_of_two_outputs_the_last_counts(snapshot: Snapshot) -> None:
    host = snapshot(table(chip(0, used=60000)) + table(chip(0)))
    assert ids(host) == ["npu-smi-repeated"]
    assert host.npus[0].hbm_used_mib == IDLE


# Chips that lost a line


def headless(text: str) -> str:
    """A chip without its first line, as npu-smi leaves it out for a health that it can't name."""
    return text[text.index("\n") + 1 :]


@pytest.mark.parametrize(
    ("rows", "dev", "found"),
    [
        ([chip(0), headless(chip(1)), chip(2)], None, [0, 1, 2]),
        ([headless(chip(0)), chip(1)], None, [0, 1]),
        ([chip(0), headless(chip(1)), headless(chip(2)), chip(3)], None, [0, 1, 2, 3]),
        ([chip(0), headless(chip(2)), chip(3)], None, [0, 3]),
        ([chip(0), headless(chip(2)), chip(3)], nodes(0, 2, 3), [0, 2, 3]),
        ([chip(6), headless(chip(7))], nodes(6, 7), [6, 7]),
        ([chip(6), headless(chip(7))], None, [6]),
    ],
)
def test_a_chip_that_lost_its_first_line_is_found_again_where_one_answer_fits(
    snapshot: Snapshot, rows: list[str], dev: str | None, found: list[int]
) -> None:
    host = snapshot(table(*rows), dev)
    assert [npu.npu_id for npu in host.npus] == found
    lost = [row for row in rows if row.startswith("| 0                         |")]
    assert ids(host).count("npu-row-broken") == len(lost)
    kept = [npu for npu in host.npus if npu.health is None]
    assert all((npu.name, npu.hbm_used_mib) == (None, IDLE) for npu in kept)
    assert host.product == "atlas-a2"


def test_a_die_that_lost_its_first_line_belongs_to_its_card(snapshot: Snapshot) -> None:
    host = snapshot(
        a3(die(4, 0, 8), headless(die(4, 1, 9)), headless(die(5, 0, 10)), die(5, 1, 11))
    )
    assert [(n.npu_id, n.chip_id, n.device) for n in host.npus] == [
        (4, 0, "/dev/davinci8"), (4, 1, "/dev/davinci9"),
        (5, 0, "/dev/davinci10"), (5, 1, "/dev/davinci11"),
    ]  # fmt: skip
    assert [n.health for n in host.npus] == ["OK", None, None, "OK"]
    assert "NPU 5 chip 0" in message(host, "npu-row-broken")


def test_a_chip_of_a_duo_that_lost_its_first_line_belongs_to_its_card(snapshot: Snapshot) -> None:
    cards = [slot(4, 0, 0), headless(slot(4, 1, 1)), headless(slot(9, 0, 2)), slot(9, 1, 3)]
    host = snapshot(table(*cards, second="Chip    Device"))
    assert [(n.npu_id, n.chip_id) for n in host.npus] == [(4, 0), (4, 1), (9, 0), (9, 1)]
    assert [n.health for n in host.npus] == ["OK", None, None, "OK"]


def test_a_card_that_lost_both_first_lines_is_found_by_the_mapping_or_by_its_kin(
    snapshot: Snapshot,
) -> None:
    lost = [headless(die(5, 0, 10)), headless(die(5, 1, 11))]
    for text, m in (
        (a3(die(4, 0, 8), die(4, 1, 9), *lost), None),
        (a3(die(4, 0, 1), die(4, 1, 0), *lost),
         "NPU ID  Chip ID  Chip Logic ID  Chip Phy-ID  Chip Name\n5 0 2 10 Ascend910\n5 1 3 11 Ascend910\n"),
    ):  # fmt: skip
        host = snapshot(text, **({"m": m} if m else {}))
        assert [(n.npu_id, n.chip_id) for n in host.npus] == [(4, 0), (4, 1), (5, 0), (5, 1)]


def test_a_chip_that_lost_its_second_line_is_kept_without_memory(snapshot: Snapshot) -> None:
    half = chip(1)[: chip(1).index("\n") + 1]
    host = snapshot(table(chip(0), half, RULE, chip(2)), nodes(0, 1, 2))
    assert devices(host) == ["/dev/davinci0", "/dev/davinci1", "/dev/davinci2"]
    assert (host.npus[1].name, host.npus[1].health, host.npus[1].hbm_total_mib) == (
        "910B3",
        "OK",
        None,
    )
    assert ids(host) == ["npu-row-broken"]


# Health and memory


@pytest.mark.parametrize("health", ["Warning", "Alarm", "Critical", "UNKNOWN", "Offline"])
def test_a_die_that_is_not_well_is_kept_and_named(snapshot: Snapshot, health: str) -> None:
    host = snapshot(table(chip(0), chip(1, health=health)), nodes(0, 1))
    assert [npu.health for npu in host.npus] == ["OK", health]
    assert ids(host) == ["npu-unhealthy"]
    assert "NPU 1 (910B3, /dev/davinci1)" in message(host, "npu-unhealthy")
    assert health in message(host, "npu-unhealthy")


def test_memory_that_nobody_is_seen_to_hold_is_named(snapshot: Snapshot) -> None:
    idle = processes("No running processes found in NPU 0", "No running processes found in NPU 1")
    host = snapshot(table(chip(0), chip(1, used=60000)) + idle, nodes(0, 1))
    assert ids(host) == ["npu-memory-held"]
    assert "60000 of 65536" in message(host, "npu-memory-held")
    # Without a table of processes nobody can be seen.
    assert ids(snapshot(table(chip(0, used=60000)))) == []


def test_a_chip_that_does_not_answer_has_no_memory(snapshot: Snapshot) -> None:
    host = snapshot(table(chip(0), chip(1, name="", used=0, total=0)), nodes(0, 1))
    assert (host.npus[1].name, host.npus[1].hbm_total_mib, host.npus[1].hbm_used_mib) == (None,) * 3
    assert ids(host) == ["npu-memory-unknown"]
    assert host.product == "atlas-a2"


def test_processes_go_to_their_die(snapshot: Snapshot) -> None:
    text = a3(die(0, 0, 0), die(0, 1, 1)) + processes(
        "0       1                 | 12            |                          | 50",
        "0       0                 | 11            | a b                      | 40",
        "0       1                 | 13            | c                        | 60",
        "9       0                 | 14            | of a card that is gone   | 70",
    )
    host = snapshot(text)
    assert [[p.pid for p in npu.processes] for npu in host.npus] == [[11], [12, 13]]
    assert "NPU 9" in message(host, "npu-vanished")


# The product


def test_a_mixed_host_is_of_no_product(snapshot: Snapshot) -> None:
    host = snapshot(table(chip(0), chip(1, name="910A")), nodes(0, 1))
    assert (host.product, ids(host)) == ("unknown", ["product-unknown"])
    assert "910B3 (atlas-a2)" in message(host, "product-unknown")
    assert "910A (unsupported)" in message(host, "product-unknown")


def test_sizes_of_one_product_are_no_mixture(snapshot: Snapshot) -> None:
    host = snapshot(table(chip(0, name="910B4", total=32768), chip(1, name="910B4-1")))
    assert (host.product, ids(host)) == ("atlas-a2", [])


def test_a_chip_that_nobody_knows_is_not_guessed_at(snapshot: Snapshot) -> None:
    host = snapshot(table(chip(0, name="990Z9")), nodes(0))
    assert (host.product, ids(host)) == ("unknown", ["product-unknown"])
    assert "990Z9" in message(host, "product-unknown")
    assert "`product`" in host.problems[0].remedy


def test_an_old_product_is_named(snapshot: Snapshot) -> None:
    host = snapshot(table(chip(0, name="910A")), nodes(0))
    assert (host.product, ids(host)) == ("unsupported", ["product-unsupported"])


def test_a_redacted_name_leaves_the_layout_and_says_so(snapshot: Snapshot) -> None:
    host = snapshot(table(chip(0, name="xxx")), nodes(0))
    assert (host.product, ids(host), host.npus[0].name) == (
        "atlas-a2",
        ["chip-name-unreadable"],
        "xxx",
    )
    old = table(chip(0, name="xxx")).replace("0    / 0          3200", "1800 / 15137      3200")
    host = snapshot(old, nodes(0))
    assert host.product == "unsupported"
    assert ids(host) == ["chip-name-unreadable", "product-unsupported"]
    host = snapshot(table(slot(0, 0, 0, name="xxx"), second="Chip    Device"))
    assert (host.product, "product-unknown" in ids(host)) == ("unknown", True)


def test_the_mapping_has_the_name_that_the_table_hides(snapshot: Snapshot) -> None:
    m = "NPU ID  Chip ID  Chip Logic ID  Chip Name\n0  0  0  Ascend 910A\n"
    host = snapshot(table(chip(0, name="xxx")), nodes(0), m=m)
    assert (host.product, host.npus[0].name) == ("unsupported", "910A")
    # It does not go before a name that the table has.
    assert snapshot(table(chip(0)), nodes(0), m=m).npus[0].name == "910B3"


def test_the_mapping_stands_in_for_a_table_that_did_not_come(snapshot: Snapshot) -> None:
    m = "NPU ID  Chip ID  Chip Logic ID  Chip Name\n0  0  0  Ascend 910B3\n1  0  1  Ascend 910B3\n0  1  -  Mcu\n"
    host = snapshot("Failed to get card number.\n", nodes(0, 1), m=m)
    assert (host.product, devices(host)) == ("atlas-a2", ["/dev/davinci0", "/dev/davinci1"])
    assert [(n.name, n.health, n.hbm_total_mib) for n in host.npus] == [("910B3", None, None)] * 2
    assert ids(host) == ["npu-query-failed"]


# Versions and the driver


@pytest.mark.parametrize(
    ("loaded", "installed", "version", "problems"),
    [
        ("25.5.1", "25.5.1", "25.5.1", []),
        ("24.1.rc1.b030", "24.1.rc1", "24.1.rc1.b030", []),
        ("24.1.RC1", "24.1.rc1.B030", "24.1.RC1", []),
        ("25.5.1", "25.5.2", "25.5.1", ["driver-version-differs"]),
        ("25.5.1", "25.5.10", "25.5.1", ["driver-version-differs"]),
        ("xxx", "25.5.2", "25.5.2", []),
        ("xxx", None, "xxx", []),
        ("25.5.1", None, "25.5.1", []),
        ("", "25.5.2", "25.5.2", []),
    ],
)
def test_the_loaded_driver_goes_before_the_installed_one(
    snapshot: Snapshot, loaded: str, installed: str | None, version: str, problems: list[str]
) -> None:
    files = {"driver": f"package=x\nVersion={installed}\n"} if installed else {}
    host = snapshot(table(chip(0), version=loaded), nodes(0), **files)
    assert (host.driver_version, ids(host)) == (version, problems)


def test_a_driver_whose_installation_did_not_end_is_named_once(snapshot: Snapshot) -> None:
    warning = "[WARNING]The driver package may not be completely installed, which may cause …\n"
    for info, install in (
        (table(chip(0)) + warning, None),
        (table(chip(0)), "Driver_Install_Status=failed\n"),
        (table(chip(0)) + warning, "Driver_Install_Status=running\n"),
    ):
        host = snapshot(info, nodes(0), **({"install": install} if install else {}))
        assert ids(host) == ["driver-incomplete"]
    # Older drivers do not write it.
    for install in ("Driver_Install_Type=full\n", "Driver_Install_Status=complete\n"):
        assert ids(snapshot(table(chip(0)), nodes(0), install=install)) == []


@pytest.mark.parametrize(
    "files",
    [
        {"driver": "Version=25.5.1\n"},
        {"install": "Driver_Install_Type=full\n"},
        {"paths": "/usr/local/Ascend/driver/version.info\n"},
        {"paths": "/usr/local/sbin/npu-smi\n"},
        {"dev": "/dev/davinci_manager\n"},
        {"info": "dcmi module initialize failed. ret is -8005\n", "dev": ""},
        {"info": "bash: npu-smi: command not found\n"},
    ],
)
def test_any_sign_of_a_driver_is_not_none(snapshot: Snapshot, files: dict[str, str]) -> None:
    host = snapshot(**files)
    assert (host.product, host.npus) == ("unknown", ())
    assert ids(host)[-1] == "product-unknown"
    assert len(ids(host)) > 1
    assert "`platform` to cpu" in host.problems[-1].remedy


def test_paths_of_an_image_are_no_sign_of_a_driver(snapshot: Snapshot) -> None:
    host = snapshot(paths="/usr/local/Ascend/driver/lib64\n/etc/hccn.conf\n")
    assert (host.product, host.problems) == ("none", ())


# Where npu-smi says nothing


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (None, "npu-smi-missing"),
        ("", "npu-smi-empty"),
        ("\n  \n", "npu-smi-empty"),
        ("/x.sh: line 1: npu-smi: command not found\n", "npu-smi-missing"),
        ("DrvMngGetConsoleLogLevel failed. (ret=4)\r\ndcmi module initialize failed. ret is -8005\r\n", "npu-access-denied"),
        ("dcmi model initialized failed, because the device is used. ret is -8020\n", "npu-in-use"),
        ("npu get board type failed. ret is -9005\n", "npu-board-unknown"),
        ("npu-smi: error while loading shared libraries: libdrvdsmi_host.so: cannot open shared object file: No such file or directory\n", "driver-library-missing"),
        ("bash: /usr/local/bin/npu-smi: Permission denied\n", "npu-smi-denied"),
        ("Segmentation fault\n", "npu-smi-crashed"),
        ("Hello, world\n", "npu-smi-unreadable"),
        ("\x7fELF\x00\x01\x02", "npu-smi-unreadable"),
        ("| a | table | of | something | else |\n", "npu-smi-unreadable"),
    ],
)  # fmt: skip
def test_without_npu_smi_the_dies_are_known_by_their_nodes(
    snapshot: Snapshot, text: str | None, named: str
) -> None:
    host = snapshot(text, nodes(3, 10, 0))
    assert host.npus == tuple(Npu(n, 0, f"/dev/davinci{n}") for n in (0, 3, 10))
    assert host.product == "unknown"
    assert ids(host) == [named, "product-unknown"]
    assert "does not mean that there is no NPU" in host.problems[0].message


def test_the_drivers_group_is_in_the_remedy(snapshot: Snapshot) -> None:
    host = snapshot("ret is -8005\n", nodes(0), install="UserName=npu\nUserGroup=npugroup\n")
    assert "usermod -aG npugroup" in host.problems[0].remedy


def test_what_only_the_mapping_says_is_named_too(snapshot: Snapshot) -> None:
    host = snapshot(
        "dcmi … ret is -8020\n", nodes(0), m="npu get board type failed. ret is -9005\n"
    )
    assert ids(host) == ["npu-in-use", "npu-board-unknown", "product-unknown"]


# Topology


def test_links_and_cpus_are_read(snapshot: Snapshot) -> None:
    topo = (
        "\t   NPU0       NPU1       CPU Affinity\n"
        "NPU0       X          HCCS       0-23\nNPU1       HCCS       X          24-47\n"
    )
    host = snapshot(table(chip(0), chip(1)), nodes(0, 1), topo=topo)
    assert host.links == (Link(0, 1, "HCCS"),)
    assert [npu.cpu_affinity for npu in host.npus] == ["0-23", "24-47"]


def test_links_of_an_a3_are_between_cards(snapshot: Snapshot) -> None:
    names = [f"Phy-ID{n}" for n in range(4)]
    rows = ["SIO" if {a, b} in ({0, 1}, {2, 3}) else "HCCS_SW" for a in range(4) for b in range(4)]
    topo = "   " + " ".join(names) + " CPU Affinity\n" + "".join(
        f"{names[a]} {' '.join('X' if a == b else rows[4 * a + b] for b in range(4))} {a}-{a + 1}\n"
        for a in range(4)
    )  # fmt: skip
    host = snapshot(a3(die(0, 0, 0), die(0, 1, 1), die(1, 0, 2), die(1, 1, 3)), topo=topo)
    assert host.links == (Link(0, 1, "HCCS_SW"),)
    assert [npu.cpu_affinity for npu in host.npus] == ["0-1", "1-2", "2-3", "3-4"]


# The other files of a snapshot


def test_a_system_is_read_leniently(snapshot: Snapshot) -> None:
    content = {
        "arch": "aarch64", "cpus": 192, "memory_gib": 1510.5, "docker": None, "colour": "red",
        "runtimes": ["runc", "ascend"], "default_runtime": "ascend",
    }  # fmt: skip
    system = snapshot(system=json.dumps(content)).system
    assert (system.arch, system.cpus, system.memory_gib, system.docker) == (
        "aarch64",
        192,
        1510,
        None,
    )
    assert (system.runtimes, system.default_runtime) == (("runc", "ascend"), "ascend")


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "3", '{"cpus": "many"}', '{"cpus": true}', '{"arch": 3}', '{"runtimes": 3}',
     '{"runtimes": [1]}', "[" * 100_000],
)  # fmt: skip
def test_a_system_of_another_form_is_refused(snapshot: Snapshot, text: str) -> None:
    with pytest.raises(ApplianceError) as caught:
        snapshot(system=text)
    assert caught.value.id == "snapshot-invalid"
    assert "system.json" in caught.value.message


def test_other_appliances_of_a_snapshot_are_claims(snapshot: Snapshot) -> None:
    rows = [
        {"name": "a", "devices": ["/dev/davinci0"], "api_port": 8000, "hccl_base_port": 60000},
        {"name": "b"},
    ]
    host = snapshot(appliances=json.dumps(rows))
    assert host.claims == (Claim("a", ("/dev/davinci0",), 8000, 60000), Claim("b"))


@pytest.mark.parametrize(
    "text", ["{", "{}", "[3]", "[{}]", '[{"name": 1}]', '[{"name": "a", "devices": [1]}]', '[{"name": "a", "api_port": "x"}]']
)  # fmt: skip
def test_appliances_of_another_form_are_refused(snapshot: Snapshot, text: str) -> None:
    with pytest.raises(ApplianceError) as caught:
        snapshot(appliances=text)
    assert caught.value.id == "snapshot-invalid"


def test_a_snapshot_is_the_same_every_time(snapshot: Snapshot) -> None:
    first = snapshot(table(*map(chip, range(8))), nodes(*range(8)))
    assert read.snapshot(snapshot.folder) == first


# This host, with a program in npu-smi's place


class Stand:
    """Puts a script in npu-smi's place, and nodes in /dev's."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.program = folder / "npu-smi"
        self.log = folder / "asked"
        self.nodes: frozenset[str] = frozenset()
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
        monkeypatch.setattr(read, "_device_nodes", lambda _: self.nodes)
        monkeypatch.setattr(read, "NPU_SMI_FOLDERS", ())
        monkeypatch.setattr(ask, "TIMEOUT", 2.0)
        for name in ("DRIVER_VERSION_FILE", "INSTALL_INFO_FILE"):
            monkeypatch.setattr(read, name, folder / name)

    def __call__(self, script: str, numbers: Iterable[int] = ()) -> Inventory:
        self.nodes = frozenset(nodes(*numbers).split()) if numbers else frozenset()
        self.program.write_text(f'#!/bin/sh\necho "$*" >> {self.log}\n{script}\n', "utf-8")
        self.program.chmod(0o755)
        return read.live(())

    def asked(self) -> list[str]:
        return sorted(self.log.read_text("utf-8").splitlines()) if self.log.exists() else []


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    return Stand(tmp_path, monkeypatch)


def printing(**texts: str) -> str:
    """A script that prints a text for `info`, `info -m` and `info -t topo`."""
    cases = {
        "info": texts.get("info", ""),
        "info -m": texts.get("m", ""),
        "info -t topo": texts.get("topo", ""),
    }
    return 'case "$*" in\n' + "".join(
        f"'{words}') cat <<'END'\n{text}\nEND\n;;\n" for words, text in cases.items()
    ) + "esac"  # fmt: skip


def test_this_host_is_asked_for_all_three(stand: Stand) -> None:
    topo = "NPU0 NPU1 CPU Affinity\nNPU0 X HCCS 0-3\nNPU1 HCCS X 4-7"
    m = "NPU ID  Chip ID  Chip Logic ID  Chip Name\n0 0 0 Ascend 910B3\n1 0 1 Ascend 910B3\n2 0 2 Ascend 910B3"
    host = stand(printing(info=table(chip(0), chip(1)), m=m, topo=topo), range(3))
    assert stand.asked() == ["info", "info -m", "info -t topo"]
    assert (host.product, devices(host)) == ("atlas-a2", ["/dev/davinci0", "/dev/davinci1"])
    assert host.links == (Link(0, 1, "HCCS"),)
    assert ids(host) == ["npu-vanished"]


def test_the_questions_are_asked_at_once_and_in_plain_english(stand: Stand) -> None:
    began = time.monotonic()
    host = stand('sleep 0.7\necho "$LC_ALL is the locale" >&2\ncat', [0])
    assert time.monotonic() - began < 1.9
    assert "C is the locale" in message(host, "npu-smi-unreadable")


def test_an_npu_smi_that_hangs_is_ended_with_all_that_it_started(stand: Stand) -> None:
    began = time.monotonic()
    host = stand("sleep 60 &\nsleep 60", [0, 1])
    assert time.monotonic() - began < 10
    assert ids(host) == ["npu-smi-timeout", "product-unknown"]
    assert devices(host) == ["/dev/davinci0", "/dev/davinci1"]


def test_what_was_printed_before_it_hung_counts(stand: Stand) -> None:
    host = stand(printing(info=table(chip(0))) + "\nsleep 60", [0])
    assert host.product == "atlas-a2"
    assert ids(host) == ["npu-smi-timeout"]


def test_a_busy_driver_is_asked_again_by_one_alone(stand: Stand) -> None:
    busy = 'test $(wc -l < "$0.n") -gt 1 || { echo "because the device is used. ret is -8020"; exit 1; }\n'
    stand.program.with_name("npu-smi.n").write_text("", "utf-8")
    host = stand(
        f'[ "$*" = info ] && echo x >> "$0.n"\n{busy}' + printing(info=table(chip(0))), [0]
    )
    assert stand.asked().count("info") == 2
    assert (host.product, ids(host)) == ("atlas-a2", [])


def test_an_error_of_npu_smi_is_a_problem_and_no_error(stand: Stand) -> None:
    host = stand("echo 'dcmi module initialize failed. ret is -8005' >&2; exit 231", [0])
    assert ids(host) == ["npu-access-denied", "product-unknown"]


def test_a_crash_of_npu_smi_is_named(stand: Stand) -> None:
    assert ids(stand("kill -SEGV $$", [0]))[0] == "npu-smi-crashed"


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda path: path.chmod(0o644), "npu-smi-denied"),
        (lambda path: (path.unlink(), path.mkdir()), "npu-smi-wrong-file"),
        (lambda path: path.write_bytes(b"\x7fELF nothing"), "npu-smi-wrong-file"),
        (lambda path: (path.unlink(), path.symlink_to("/no/such/file")), "npu-smi-missing"),
        (lambda path: path.unlink(), "npu-smi-missing"),
    ],
    ids=["not executable", "folder", "other machine", "dangling link", "absent"],
)
def test_an_npu_smi_that_cant_be_run_is_named(stand: Stand, make: Any, named: str) -> None:
    stand("true", [0])
    make(stand.program)
    stand.nodes = frozenset(nodes(0).split())
    host = read.live(())
    assert ids(host) == [named, "product-unknown"]
    assert devices(host) == ["/dev/davinci0"]


def test_npu_smi_alone_is_worth_asking(stand: Stand) -> None:
    host = stand(printing(info=table(chip(0))))
    assert (host.product, ids(host)) == ("atlas-a2", ["npu-without-node"])


def test_a_host_without_npus_starts_nothing(tmp_path: Path) -> None:
    """Also what starting something takes is not imported: every command begins with this."""
    code = (
        "import pathlib, sys; from appliance.inventory import read;"
        # Whatever the host that this runs on may have.
        "read.NPU_SMI_FOLDERS = (); read._device_nodes = lambda _: frozenset();"
        "read.DRIVER_VERSION_FILE = read.INSTALL_INFO_FILE = pathlib.Path('/no/such/file');"
        "host = read.live(());"
        "assert (host.product, host.problems) == ('none', ()), host;"
        "print([m for m in ('subprocess', 'concurrent.futures', 'yaml', 'json') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "[]\n"


def test_a_driver_file_that_may_not_be_read_is_as_if_it_were_not_there(stand: Stand) -> None:
    (stand.program.parent / "DRIVER_VERSION_FILE").mkdir()
    assert stand(printing(info=table(chip(0), version="25.5.1")), [0]).driver_version == "25.5.1"


def test_the_facts_of_files_come_with_the_host(stand: Stand, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret", "utf-8")
    stand("true")
    host = read.live((), [str(tmp_path / "key"), str(tmp_path / "absent")])
    facts = host.files[str(tmp_path / "key")]
    assert facts is not None
    assert (facts.size, facts.mode & stat.S_IRUSR) == (6, stat.S_IRUSR)
    assert host.files[str(tmp_path / "absent")] is None
