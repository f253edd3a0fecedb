"""Ports of the host, allotted so that several appliances on it never collide."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from appliance.config.model import Config
    from appliance.inventory.model import Claim, Inventory

FIRST_API_PORT = 8000
# HCCL_IF_BASE_PORT may be 1024 to 65520, and stands for 32 ports (CANN 8.5 and 9.0, reference of
# environment variables, HCCL_IF_BASE_PORT; 16 up to CANN 8.1): HCCL listens on the base plus a
# die's number. Its own base is 60000 (vllm-ascend issue 405), which is where Linux also takes the
# ports of outgoing connections from, up to 60999 (ip_local_port_range): hence Huawei's advice to
# reserve them by sysctl. Above it nobody has to.
FIRST_HCCL_PORT = 61000
HCCL_PORTS = 32
MIN_BASE, MAX_BASE = 1024, 65520 - 2 * HCCL_PORTS
# The other half is for vLLM's own ports.
STRIDE = 64
SLOTS = (65536 - FIRST_HCCL_PORT) // STRIDE


@dataclass(frozen=True)
class Ports:
    """The ports of one appliance on the host.

    `hccl_base` is `None` on a bridge network: a container there has all ports to itself.
    """

    api: int
    hccl_base: int | None

    @property
    def vllm_base(self) -> int:
        """Where vLLM looks for the ports between its own processes."""
        return (self.hccl_base or FIRST_HCCL_PORT) + HCCL_PORTS


def allot(config: Config, inventory: Inventory) -> Ports:
    """Return the ports that no other appliance of this host holds.

    An appliance that is there keeps the ports that it has. Raises port-in-use, config-invalid.
    """
    others = [claim for claim in inventory.claims if claim.name != config.name]
    mine = next((claim for claim in inventory.claims if claim.name == config.name), None)
    held = {port: claim.name for claim in others for port in _of(claim)}
    if config.server.network != "host":
        return Ports(_api(config, mine, held), None)
    # What is asked for comes first, then what the other may choose freely around it.
    wished = _wished_base(config)
    if wished is not None:
        _refuse(held, range(wished, wished + STRIDE), "HCCL_IF_BASE_PORT")
        held.update(dict.fromkeys(range(wished, wished + STRIDE), config.name))
        return Ports(_api(config, mine, held), wished)
    api = _api(config, mine, held)
    held[api] = config.name
    kept = (mine.hccl_base_port,) if mine and mine.hccl_base_port else ()
    slots = (FIRST_HCCL_PORT + slot * STRIDE for slot in range(SLOTS))
    for base in chain(kept, slots):
        if held.keys().isdisjoint(range(base, base + STRIDE)):
            return Ports(api, base)
    raise ApplianceError("port-in-use", "No range of ports is left for HCCL.")


def _of(claim: Claim) -> Iterator[int]:
    """Yield every port of the host that an appliance holds."""
    if claim.api_port is not None:
        yield claim.api_port
    if claim.hccl_base_port is not None:
        yield from range(claim.hccl_base_port, claim.hccl_base_port + STRIDE)


def _api(config: Config, mine: Claim | None, held: Mapping[int, str]) -> int:
    port = config.server.port
    if port is not None:
        _refuse(held, (port,), "server.port")
        return port
    kept = (mine.api_port,) if mine and mine.api_port else ()
    return next(port for port in chain(kept, range(FIRST_API_PORT, 65536)) if port not in held)


def _refuse(held: Mapping[int, str], ports: Iterable[int], key: str) -> None:
    for port in ports:
        if port in held:
            raise ApplianceError(
                "port-in-use", f"{key}: the appliance {held[port]} holds port {port}."
            )


def _wished_base(config: Config) -> int | None:
    """Return the base that the operator gave HCCL by hand."""
    text = config.container.environment.get("HCCL_IF_BASE_PORT")
    if text is None:
        return None
    if not text.isdecimal() or not MIN_BASE <= int(text) <= MAX_BASE:
        raise ApplianceError(
            "config-invalid",
            f"HCCL_IF_BASE_PORT in `container.environment` is {text!r}; it must be a port from "
            f"{MIN_BASE} to {MAX_BASE}.",
            "Leave it out: ports that are free are then found.",
        )
    return int(text)
