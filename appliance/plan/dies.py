"""Which dies an appliance gets: healthy, idle, nobody else's, and near each other.

Known only by what the inventory says. A die whose health or memory is unknown (npu-smi failed)
is not refused for that: the plan warns, and the engine itself will tell.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from appliance.config.model import Config
    from appliance.inventory.model import Claim, Inventory, Npu

# From the nearest to the farthest, in the words of `npu-smi info -t topo`'s legend. What is not
# in it counts as farthest.
NEARNESS = ("X", "HCCS_SW", "HCCS", "SIO", "UB", "PIX", "PXB", "PHB", "SYS")
_FAR = len(NEARNESS)


def choose(config: Config, inventory: Inventory, ranks: int, replicas: int) -> tuple[Npu, ...]:
    """Return `ranks * replicas` dies, in the order of their device numbers.

    Raises devices-missing where the host has too few, npus-unavailable with the reason for each
    die where too few can be had, and config-invalid.
    """
    needed = ranks * replicas
    present = {npu.device: npu for npu in inventory.npus if npu.device}
    if config.npus is not None:
        return _asked(config, inventory, present, needed)
    if len(present) < needed:
        raise ApplianceError(
            "devices-missing",
            f"{needed} NPUs are needed; this host has {_names(present) or 'none'} with a device "
            "node." + _said(inventory),
            _fewer(len(present), ranks, replicas)
            or "Look at `ls /dev/davinci*` and `npu-smi info`; a container must be given every "
            "NPU that it is to use.",
        )
    reasons = {node: why for node, npu in present.items() if (why := unfit(npu, config, inventory))}
    free = [npu for node, npu in present.items() if node not in reasons]
    if len(free) < needed:
        raise ApplianceError(
            "npus-unavailable",
            f"{needed} free NPUs are needed; {len(free)} of {len(present)} are free.\n"
            + "\n".join(f"{node} {why}" for node, why in reasons.items()),
            _fewer(len(free), ranks, replicas),
        )
    mine = _mine(config.name, inventory.claims)
    kept = [npu for npu in free if npu.device in mine]
    if mine and len(kept) == len(mine) == needed:
        return tuple(sorted(kept, key=number))
    chosen: list[Npu] = []
    for _ in range(replicas):
        rest = [npu for npu in free if npu not in chosen]
        chosen += _nearest(rest, ranks, inventory)
    return tuple(sorted(chosen, key=number))


def available(config: Config, inventory: Inventory) -> int:
    """Return how many dies can be had: those that are named, else all that are free."""
    if config.npus is not None:
        return len(config.npus)
    return sum(1 for npu in inventory.npus if npu.device and not unfit(npu, config, inventory))


def number(npu: Npu) -> int:
    """Return N of the die's /dev/davinciN, which it must have."""
    return int("".join(filter(str.isdigit, npu.device or "")))


def unfit(npu: Npu, config: Config, inventory: Inventory) -> str | None:
    """Return why a die can't be had, in words that follow its name; `None` where it can."""
    if why := _foreign(npu, config.product or inventory.product) or _sick(npu):
        return why
    for claim in inventory.claims:
        if npu.device in claim.devices and claim.name != config.name:
            return f"is held by the appliance {claim.name}"
    if npu.device in _mine(config.name, inventory.claims):
        return None  # What uses it is this appliance itself.
    if npu.processes:
        users = ", ".join(f"{p.name or 'a process'} (pid {p.pid})" for p in npu.processes[:3])
        return f"is in use by {users}"
    # Here and not above: a plan for the CPU asks for no chip, and is to be quick.
    from appliance.catalog import chips

    used, total = npu.hbm_used_mib, npu.hbm_total_mib
    if used is not None and total and used > chips.idle_mib(total):
        return (
            f"has {used} of {total} MiB in use, though npu-smi shows no process: another "
            "container holds it, or a process that ended badly"
        )
    return None


def _foreign(npu: Npu, product: str) -> str | None:
    from appliance.catalog import chips

    chip = chips.find(npu.name)
    if chip is not None and chip.product != product:
        return f"is a {npu.name}, which is not of {product}"
    return None


def _sick(npu: Npu) -> str | None:
    if npu.health is not None and npu.health.upper() != "OK":
        return f"is not healthy: npu-smi says {npu.health}"
    if npu.health is not None and npu.hbm_total_mib is None:
        # A query that failed leaves the OK of health as it was, and prints no memory.
        return "may not be healthy: npu-smi shows no memory of it"
    if npu.health is None and npu.hbm_total_mib is not None:
        # The driver could not tell: npu-smi then leaves out the half of its row with the health.
        return "may not be healthy: npu-smi shows its memory, and not its health"
    return None


def warnings(chosen: Sequence[Npu], inventory: Inventory) -> list[str]:
    """Return what an operator should know of the chosen dies."""
    found = []
    blind = [npu for npu in chosen if npu.health is None and npu.hbm_used_mib is None]
    if blind:
        names = ", ".join(str(npu.device) for npu in blind)
        found.append(f"npu-smi says nothing of {names}: whether they are free is not known.")
    if len(kinds := _kinds(chosen)) > 1:
        names = ", ".join(f"{name} with {total} MiB" for name, total in sorted(kinds, key=str))
        found.append(f"The ranks are on NPUs of different kinds ({names}): the least one counts.")
    split = [npu for npu in chosen if len(_card(npu, inventory.npus)) > 1]
    lone = [npu for npu in split if not set(_card(npu, inventory.npus)) <= set(chosen)]
    if len(lone) > 1:
        names = ", ".join(str(npu.device) for npu in lone)
        found.append(f"{names} are dies of different cards: ranks talk over the slower way.")
    return found


def _asked(
    config: Config, inventory: Inventory, present: Mapping[str, Npu], needed: int
) -> tuple[Npu, ...]:
    """Return the dies that the configuration names; raises with the reason, die by die."""
    wanted = [f"/dev/davinci{n}" for n in config.npus or ()]
    if len(set(wanted)) != len(wanted):
        raise ApplianceError("config-invalid", "`npus` names an NPU twice.", "Name each once.")
    if len(wanted) != needed:
        raise ApplianceError(
            "config-invalid",
            f"`npus` names {len(wanted)} NPUs, but {needed} are needed (tensor_parallel_size x "
            "data_parallel_size).",
            "Name as many NPUs as there are ranks, or set `parallel.tensor_parallel_size`.",
        )
    if missing := [node for node in wanted if node not in present]:
        raise ApplianceError(
            "devices-missing",
            f"{', '.join(missing)} is not there, or npu-smi does not show it; this host has "
            f"{_names(present) or 'none'}." + _said(inventory),
            "Name others with `npus`, or mend what npu-smi says of those.",
        )
    reasons = [
        f"{node} {why}" for node in wanted if (why := unfit(present[node], config, inventory))
    ]
    if reasons:
        raise ApplianceError(
            "npus-unavailable", "NPUs that `npus` names can't be had.\n" + "\n".join(reasons)
        )
    return tuple(sorted((present[node] for node in wanted), key=number))


def _nearest(free: Sequence[Npu], count: int, inventory: Inventory) -> tuple[Npu, ...]:
    """Return the `count` dies that reach each other best, and break up the least."""
    kinds = {(link.a, link.b): link.kind for link in inventory.links}

    def rank(group: Iterable[Npu]) -> tuple[int, int, int, list[int]]:
        dies = tuple(group)
        cards = {npu.npu_id: _card(npu, inventory.npus) for npu in dies}
        # Free dies that are left alone on a card of several: such a card serves no pair.
        broken = sum(
            1 for card in cards.values() if any(npu in free and npu not in dies for npu in card)
        )
        distance = sum(_distance(a, b, kinds) for a, b in combinations(dies, 2))
        # The CPUs near them don't count: ranks are bound to CPUs each for itself, and two on
        # one CPU node share its cores.
        return (len(_kinds(dies)), len(cards) + broken, distance, sorted(map(number, dies)))

    return min(combinations(sorted(free, key=number), count), key=rank)


def _distance(a: Npu, b: Npu, kinds: Mapping[tuple[int, int], str]) -> int:
    if a.npu_id == b.npu_id:
        return 0
    kind = kinds.get((min(a.npu_id, b.npu_id), max(a.npu_id, b.npu_id)))
    return NEARNESS.index(kind) if kind in NEARNESS else _FAR


def _kinds(dies: Iterable[Npu]) -> set[tuple[str | None, int | None]]:
    return {(npu.name, npu.hbm_total_mib) for npu in dies}


def _card(npu: Npu, npus: Iterable[Npu]) -> tuple[Npu, ...]:
    """Return the dies of one card: they share npu-smi's NPU id."""
    return tuple(other for other in npus if other.npu_id == npu.npu_id)


def _mine(name: str, claims: Iterable[Claim]) -> frozenset[str]:
    return frozenset(node for claim in claims if claim.name == name for node in claim.devices)


def _names(present: Mapping[str, Npu]) -> str:
    return ", ".join(sorted(present, key=lambda node: number(present[node])))


def _said(inventory: Inventory) -> str:
    """Return what the inventory found wrong, which is why a die is not where it is looked for."""
    return "".join(f"\n{problem.message}" for problem in inventory.problems)


def _fewer(have: int, ranks: int, replicas: int) -> str | None:
    """Return the remedy where fewer replicas would do."""
    if replicas == 1 or have < ranks:
        return None
    return f"Set `parallel.data_parallel_size` to {have // ranks}, or free more NPUs."
