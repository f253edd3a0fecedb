"""Ports of the host, allotted so that several appliances on it never collide."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from appliance.config.model import Config
    from appliance.inventory.model import Inventory

FIRST_API_PORT = 8000
# HCCL_IF_BASE_PORT may be 1024 to 65520, and stands for 32 ports (CANN 8.5 and 9.0, reference of
# environment variables, HCCL_IF_BASE_PORT; 16 up to CANN 8.1): HCCL listens on the base plus a
# die's number. Its own base is 60000 (vllm-ascend issue 405), which is where Linux also takes the
# ports of outgoing connections from, up to 60999 (ip_local_port_range): hence Huawei's advice to
# reserve them by sysctl. Above it nobody has to.
FIRST_HCCL_PORT = 61000
HCCL_PORTS = 32
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
    """Return the ports that no other appliance of this host holds; raises port-in-use.

    An appliance that is there keeps the ports that it has.
    """
    others = [claim for claim in inventory.claims if claim.name != config.name]
    mine = next((claim for claim in inventory.claims if claim.name == config.name), None)
    held = {claim.api_port: claim.name for claim in others if claim.api_port is not None}
    api = config.server.port
    if api is None:
        kept = (mine.api_port,) if mine and mine.api_port else ()
        candidates = chain(kept, range(FIRST_API_PORT, 65536))
        api = next(port for port in candidates if port not in held)
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
