"""What of an Ascend host goes into the container: device nodes and driver paths."""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.catalog import load as catalog
from appliance.errors import ApplianceError
from appliance.plan import names
from appliance.plan.dies import number
from appliance.plan.model import Device, Mount

if TYPE_CHECKING:
    from collections.abc import Sequence

    from appliance.config.model import Config
    from appliance.inventory.model import Inventory, Npu

# The name under which its installer registers it with Docker (mind-cluster,
# component/ascend-docker-runtime, install/process/constant.go).
RUNTIME = "ascend"
# Files of a snapshot.
NODES, PATHS = "dev.txt", "paths.txt"


def product_name(config: Config, inventory: Inventory) -> str:
    """Return the product's name; raises host-unsupported when it is none of the catalog's."""
    found, wanted = inventory.product, config.product
    known = ", ".join(catalog.products())
    if found == "unsupported":
        chips = ", ".join(sorted({npu.name for npu in inventory.npus if npu.name}))
        raise ApplianceError(
            "host-unsupported",
            f"This host's NPUs are {chips or 'of an old kind'}: vllm-ascend does not support them.",
            "Use a host with Atlas A2 or A3; or set `platform` to cpu, for the test model.",
        )
    name = wanted or found
    if name in ("none", "unknown"):
        why = "".join(f"\n{problem.message}" for problem in inventory.problems)
        raise ApplianceError(
            "host-unsupported",
            f"The platform is ascend, but which product this host is can't be told.{why}",
            ("Mend what npu-smi says, or set" if why else "See `ls /dev/davinci*`, or set")
            + f" `product` to what the host is: {' or '.join(catalog.listed_products())}. Or set "
            "`platform` to cpu.",
        )
    if name not in catalog.products():
        raise ApplianceError("host-unsupported", f"The product {name} is not known.", known)
    if found in catalog.products() and found != name:
        raise ApplianceError(
            "host-unsupported",
            f"`product` is {name}, but this host's NPUs are those of {found}.",
            "Leave `product` out: it is for hosts whose NPUs can't be told.",
        )
    return name


def devices(
    product: catalog.Product, inventory: Inventory, dies: Sequence[Npu]
) -> tuple[Device, ...]:
    """Return the nodes of the chosen dies and of the managers that every NPU needs.

    Each NPU keeps its number in the container: CANN numbers what it sees from 0, and npu-smi
    in the container uses the host's numbers. Raises devices-missing.
    """
    chosen = [Device(npu.device, npu.device) for npu in dies if npu.device]
    missing = []
    for manager in product.management_devices:
        host = next((node for node in manager.host if node in inventory.device_nodes), None)
        if host is None and manager.required and NODES in inventory.unread:
            host = manager.host[0]
        if host is not None:
            chosen.append(Device(host, manager.container))
        elif manager.required:
            missing.append(manager.host[0])
    if missing:
        raise ApplianceError(
            "devices-missing",
            f"Device nodes that every NPU needs are not on this host: {', '.join(missing)}.",
            "The driver makes them: see `lsmod | grep drv_` and `npu-smi info`, load the driver or "
            "reboot. A container must be given them.",
        )
    return tuple(chosen)


def driver_mounts(
    product: catalog.Product, config: Config, inventory: Inventory
) -> tuple[Mount, ...]:
    """Return read-only mounts of the driver paths that exist; raises devices-missing.

    Ascend Docker Runtime mounts most of them itself: what it mounts is left to it.
    """
    needed = [item.path for item in product.driver_paths if item.required]
    present = inventory.paths.union(needed if PATHS in inventory.unread else ())
    if missing := [path for path in needed if path not in present]:
        raise ApplianceError(
            "devices-missing",
            f"Driver paths are not on this host: {', '.join(missing)}.",
            "Install the Ascend driver. Where it is in another folder (`Driver_Install_Path_Param` "
            "in /etc/ascend_install.info), link /usr/local/Ascend/driver to it.",
        )
    return tuple(
        Mount("bind", item.path, item.path, read_only=True)
        for item in product.driver_paths
        if item.path in present and not (item.injected and config.container.runtime == RUNTIME)
    )


def warnings(inventory: Inventory) -> tuple[str, ...]:
    """Return what is taken for granted because a snapshot does not say it."""
    taken = {NODES: "the usual device nodes", PATHS: "the driver's usual paths"}
    return tuple(
        f"The snapshot has no {file}: {what} are taken for granted."
        for file, what in taken.items()
        if file in inventory.unread
    )


def visible(config: Config, dies: Sequence[Npu]) -> tuple[tuple[str, str], ...]:
    """Return the variable that tells Ascend Docker Runtime which dies to give."""
    if config.container.runtime != RUNTIME:
        return ()
    return ((names.VISIBLE, ",".join(str(number(npu)) for npu in dies)),)


def candidate_paths() -> tuple[str, ...]:
    """Return every host path whose existence a plan may ask for."""
    paths = {item.path for product in catalog.products().values() for item in product.driver_paths}
    return tuple(sorted(paths))
