"""Ports of the host, allotted so that several appliances on it never collide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from appliance.config.model import Config
    from appliance.inventory.model import Inventory

FIRST_API_PORT = 8000
# HCCL listens from its base port on, 60000 by default (vllm-ascend issues 405 and 16205). Its
# documentation gives a host 16 of them; the stride leaves room for vLLM's own ports above.
FIRST_HCCL_PORT = 60000
HCCL_PORTS = 16
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
    def hccl(self) -> str:
        """The range that HCCL may listen on, as its variables take it."""
        base = self.hccl_base or FIRST_HCCL_PORT
        return f"{base}-{base + HCCL_PORTS - 1}"

    @property
    def vllm_base(self) -> int:
        """Where vLLM looks for the ports between its own processes."""
        return (self.hccl_base or FIRST_HCCL_PORT) + HCCL_PORTS


def allot(config: Config, inventory: Inventory) -> Ports:
    """Return the ports that no other appliance of this host holds; raises port-in-use.

    An appliance that is there keeps the ports that it has.
    """
    others = [claim for claim in inventory.claims if claim.name != config.name]
    mine = next((claim for claim in inventory.claims if claim.name == config.name), None)
    held = {claim.api_port: claim.name for claim in others if claim.api_port is not None}
    api = config.server.port
    if api is None:
        kept = (mine.api_port,) if mine and mine.api_port else ()
        api = next(port for port in (*kept, *_from(FIRST_API_PORT)) if port not in held)
    elif api in held:
        raise ApplianceError("port-in-use", f"The appliance {held[api]} holds port {api}.")
    if config.server.network != "host":
        return Ports(api, None)
    taken = {claim.hccl_base_port for claim in others}
    kept = (mine.hccl_base_port,) if mine and mine.hccl_base_port else ()
    slots = (FIRST_HCCL_PORT + slot * STRIDE for slot in range(SLOTS))
    base = next((port for port in (*kept, *slots) if port not in taken), None)
    if base is None:
        raise ApplianceError("port-in-use", "No range of ports is left for HCCL.")
    return Ports(api, base)


def _from(first: int) -> Iterator[int]:
    return iter(range(first, 65536))
