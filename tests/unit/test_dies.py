"""Which dies a plan takes: healthy, idle, nobody else's, near each other; or why it takes none."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from appliance.config.load import load
from appliance.errors import ApplianceError
from appliance.inventory import read
from appliance.inventory.model import Claim, Inventory, Link, Npu, Problem, Process
from appliance.plan import dies
from appliance.plan.make import make

if TYPE_CHECKING:
    from appliance.plan.model import Plan

pytestmark = pytest.mark.usefixtures("clean")

HOST = read.snapshot(Path(__file__).resolve().parents[1] / "hosts" / "synthetic-atlas-a2")
IDLE = 3400


def card(number: int, *, used: int = IDLE, health: str = "OK", affinity: str | None = None) -> Npu:
    """A card with one die, as on an A2."""
    return Npu(
        number, 0, f"/dev/davinci{number}", "910B3", health, 65536, used, cpu_affinity=affinity
    )


def die(number: int, *, used: int = IDLE) -> Npu:
    """One of the two dies of an A3's card."""
    return Npu(number // 2, number % 2, f"/dev/davinci{number}", "Ascend910", "OK", 65536, used)


def host(*npus: Npu, links: tuple[Link, ...] = (), claims: tuple[Claim, ...] = ()) -> Inventory:
    nodes = {npu.device for npu in npus if npu.device}
    managers = {node for node in HOST.device_nodes if "davinci" not in node or "manager" in node}
    return dataclasses.replace(
        HOST,
        product="atlas-a2",
        npus=npus,
        links=links,
        claims=claims,
        device_nodes=frozenset(nodes | managers),
    )


def plan(inventory: Inventory, *overrides: str) -> Plan:
    settings = ["cache.dir=/data/modelscope", *overrides]
    return make(load(None, {}, settings).config, inventory, "/models")


def taken(inventory: Inventory, *overrides: str) -> list[int]:
    """Numbers of the dies that the plan takes."""
    nodes = [device.host for device in plan(inventory, *overrides).container.devices]
    return [int(node[12:]) for node in nodes if node[12:].isdigit()]


def refused(error_id: str, inventory: Inventory, *overrides: str) -> str:
    with pytest.raises(ApplianceError) as caught:
        plan(inventory, *overrides)
    assert caught.value.id == error_id, caught.value.message
    return caught.value.message


def test_the_first_of_an_idle_host_are_taken() -> None:
    assert taken(host(*map(card, range(8)))) == [0, 1]


def test_gaps_in_the_numbers_do_not_matter() -> None:
    assert taken(host(*map(card, (1, 2, 3, 4)))) == [1, 2]


@pytest.mark.parametrize(
    ("bad", "phrase"),
    [
        (card(0, health="Warning"), "/dev/davinci0 is not healthy: npu-smi says Warning"),
        (dataclasses.replace(card(0), health=None), "/dev/davinci0 may not be healthy"),
        (card(0, used=57000), "/dev/davinci0 has 57000 of 65536 MiB in use"),
        (
            dataclasses.replace(card(0), processes=(Process(42, "python3", 100),)),
            "/dev/davinci0 is in use by python3 (pid 42)",
        ),
        (
            dataclasses.replace(card(0), processes=(Process(42, "", 100),)),
            "/dev/davinci0 is in use by a process (pid 42)",
        ),
    ],
)
def test_a_die_that_is_not_fit_is_passed_over_and_the_reason_is_said(bad: Npu, phrase: str) -> None:
    assert taken(host(bad, card(1), card(2))) == [1, 2]
    message = refused("npus-unavailable", host(bad, card(1)))
    assert phrase in message
    assert "1 of 2 are free" in message
    assert phrase in refused("npus-unavailable", host(bad, card(1), card(2)), "npus=[0, 1]")


@pytest.mark.parametrize("used", [2800, 4175, 4608])
def test_what_the_driver_itself_holds_is_no_use(used: int) -> None:
    assert taken(host(card(0, used=used), card(1))) == [0, 1]
    small = dataclasses.replace(card(0, used=used), hbm_total_mib=32768)
    assert dies.unfit(small, load(None, {}).config, host(small)) is None


def test_what_another_appliance_holds_is_left_alone() -> None:
    claims = (Claim("other", ("/dev/davinci0", "/dev/davinci1")),)
    busy = host(*map(card, range(4)), claims=claims)
    assert taken(busy) == [2, 3]
    message = refused("npus-unavailable", busy, "npus=[1, 2]")
    assert message.splitlines()[1:] == ["/dev/davinci1 is held by the appliance other"]
    assert "held by the appliance other" in refused(
        "npus-unavailable", busy, "parallel.tensor_parallel_size=4"
    )


def test_an_appliance_keeps_the_dies_that_it_has_though_it_uses_them_itself() -> None:
    claims = (Claim("qwen3-omni", ("/dev/davinci2", "/dev/davinci3")),)
    mine = [
        dataclasses.replace(card(n, used=60000), processes=(Process(n, "VLLM::Worker", 57000),))
        for n in (2, 3)
    ]
    there = host(card(0), card(1), *mine, claims=claims)
    assert taken(there) == [2, 3]
    # Sick ones are not worth keeping.
    sick = host(card(0), card(1), mine[0], card(3, health="Alarm"), claims=claims)
    assert taken(sick) == [0, 1]


def test_neighbours_by_topology_are_preferred() -> None:
    far = tuple(Link(a, b, "SYS") for a in range(4) for b in range(a + 1, 4))
    near = tuple(
        dataclasses.replace(link, kind="HCCS") if (link.a, link.b) in {(0, 2), (1, 3)} else link
        for link in far
    )
    assert taken(host(*map(card, range(4)), links=far)) == [0, 1]
    assert taken(host(*map(card, range(4)), links=near)) == [0, 2]
    assert taken(host(*map(card, (1, 2, 3)), links=near)) == [1, 3]


def test_among_equal_links_the_first_are_taken_wherever_their_cpus_are() -> None:
    """On A2 every NPU reaches every other over HCCS."""
    affinity = {0: "144-167", 1: "0-23", 2: "144-167", 3: "0-23"}
    cards = [card(n, affinity=cpus) for n, cpus in affinity.items()]
    links = tuple(Link(a, b, "HCCS") for a in range(4) for b in range(a + 1, 4))
    assert taken(host(*cards, links=links)) == [0, 1]


def test_both_dies_of_one_card_come_before_dies_of_two() -> None:
    assert taken(host(die(0, used=60000), *map(die, range(1, 6)))) == [2, 3]
    assert taken(host(*map(die, range(8))), "parallel.tensor_parallel_size=4") == [0, 1, 2, 3]
    # The other die of a broken card is no loss; a whole card stays whole.
    one = host(die(0, used=60000), *map(die, range(1, 4)))
    assert dies.choose(load(None, {}).config, one, 1, 1)[0].device == "/dev/davinci1"


def test_dies_of_two_cards_are_better_than_none_and_it_is_said() -> None:
    half = host(die(0, used=60000), die(1), die(2), die(3, used=60000))
    assert taken(half) == [1, 2]
    assert any("dies of different cards" in line for line in plan(half).warnings)
    assert not any("different cards" in line for line in plan(host(die(0), die(1))).warnings)


def test_more_dies_give_more_replicas_only_when_asked() -> None:
    full = host(*map(card, range(8)))
    assert taken(full) == [0, 1]
    made = plan(full, "parallel.data_parallel_size=2")
    assert taken(full, "parallel.data_parallel_size=2") == [0, 1, 2, 3]
    assert made.data_parallel_size == 2
    assert "4 are needed" in refused(
        "config-invalid", full, "parallel.data_parallel_size=2", "npus=[0, 1]"
    )


def test_a_die_without_a_known_node_is_not_counted_and_what_is_known_is_said() -> None:
    lost = Npu(9, 0, None, "910B3", "OK", 65536, IDLE)
    problem = Problem("npu-without-node", "/dev/davinci9 is not here.", "")
    there = dataclasses.replace(host(card(0), lost), problems=(problem,))
    assert "/dev/davinci9 is not here." in refused("devices-missing", there)


def test_one_that_prints_no_memory_is_not_trusted_though_it_says_ok() -> None:
    dead = dataclasses.replace(card(0), hbm_total_mib=None, hbm_used_mib=None)
    assert taken(host(dead, card(1), card(2))) == [1, 2]
    assert plan(host(dead, card(1), card(2))).memory is not None
    assert "shows no memory" in refused("npus-unavailable", host(dead, card(1)), "npus=[0, 1]")


def test_chips_of_another_product_are_left_alone() -> None:
    other = Npu(0, 0, "/dev/davinci0", "310P3", "OK", 44280, 1800)
    mixed = dataclasses.replace(host(other, card(1), card(2)), product="unknown")
    assert taken(mixed, "product=atlas-a2") == [1, 2]
    message = refused("npus-unavailable", mixed, "product=atlas-a2", "npus=[0, 1]")
    assert "/dev/davinci0 is a 310P3, which is not of atlas-a2" in message


def test_one_kind_is_preferred_and_several_are_said() -> None:
    small = [dataclasses.replace(card(n), name="910B4", hbm_total_mib=32768) for n in (1, 2, 3, 4)]
    mixed = host(card(0), *small, card(5))
    assert taken(mixed) == [0, 5]
    assert taken(mixed, "parallel.tensor_parallel_size=4") == [1, 2, 3, 4]
    asked = plan(mixed, "parallel.tensor_parallel_size=4", "npus=[0, 1, 2, 3]")
    assert any("different kinds" in line for line in asked.warnings)


def test_too_many_replicas_are_told_how_many_there_can_be() -> None:
    with pytest.raises(ApplianceError) as caught:
        plan(host(*map(card, range(8))), "parallel.data_parallel_size=5")
    assert "`parallel.data_parallel_size` to 4" in caught.value.remedy


def test_a_snapshot_that_says_nothing_of_nodes_and_paths_gets_the_usual_ones() -> None:
    silent = dataclasses.replace(
        host(card(0), card(1)),
        device_nodes=frozenset(),
        paths=frozenset(),
        unread=frozenset({"dev.txt", "paths.txt"}),
    )
    made = plan(silent)
    assert {"/dev/davinci_manager", "/dev/hisi_hdc"} < {d.host for d in made.container.devices}
    assert "/usr/local/dcmi" in {mount.source for mount in made.container.mounts}
    assert sum("taken for granted" in line for line in made.warnings) == 2


def test_what_npu_smi_does_not_say_is_no_reason_against_a_die() -> None:
    blind = host(Npu(0, 0, "/dev/davinci0"), Npu(1, 0, "/dev/davinci1"))
    assert taken(blind) == [0, 1]
    assert any("whether they are free is not known" in line for line in plan(blind).warnings)
