"""What of an Ascend host goes into the container: device nodes and driver paths."""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.catalog import load as catalog
from appliance.errors import ApplianceError
from appliance.plan.model import Device, Mount

if TYPE_CHECKING:
    from appliance.config.model import Config
    from appliance.inventory.model import Inventory


def product_name(config: Config, inventory: Inventory) -> str:
    """Return the product's name; raises host-unsupported when it is none of the catalog's."""
    name = config.product or inventory.product
    known = ", ".join(catalog.products())
    if name in ("none", "unknown"):
        raise ApplianceError(
            "host-unsupported",
            "The platform is ascend, but which product this host is can't be told.",
            f"Set `product` to one of {known}; or `platform` to cpu.",
        )
    if name not in catalog.products():
        raise ApplianceError(
            "host-unsupported", f"The product {name} is not supported.", f"Supported: {known}."
        )
    return name


def devices(
    product: catalog.Product, config: Config, inventory: Inventory, ranks: int
) -> tuple[Device, ...]:
    """Return the nodes of `ranks` NPUs and of the managers that every NPU needs.

    Each NPU keeps its number in the container: CANN numbers what it sees from 0, and npu-smi
    in the container uses the host's numbers. Raises devices-missing.
    """
    present = [npu.device for npu in inventory.npus if npu.device]
    if config.npus is not None:
        wanted = [product.npu_device.format(n=n) for n in config.npus]
        if len(wanted) != ranks:
            raise ApplianceError(
                "config-invalid",
                f"`npus` names {len(wanted)} NPUs, but tensor_parallel_size is {ranks}.",
                "Name as many NPUs as there are ranks.",
            )
        if len(set(wanted)) != ranks:
            raise ApplianceError("config-invalid", "`npus` names an NPU twice.", "Name each once.")
    else:
        wanted = present[:ranks]
    missing = [node for node in wanted if node not in present]
    if missing or len(wanted) < ranks:
        raise ApplianceError(
            "devices-missing",
            f"{ranks} NPUs are needed; this host has {', '.join(present) or 'none'}"
            + (f", and {', '.join(missing)} is not there." if missing else "."),
        )
    chosen = [Device(node, node) for node in wanted]
    for manager in product.management_devices:
        host = next((node for node in manager.host if node in inventory.device_nodes), None)
        if host is None:
            raise ApplianceError(
                "devices-missing", f"The device node {manager.host[0]} is not on this host."
            )
        chosen.append(Device(host, manager.container))
    return tuple(chosen)


def driver_mounts(product: catalog.Product, inventory: Inventory) -> tuple[Mount, ...]:
    """Return read-only mounts of the driver paths that exist; raises devices-missing."""
    missing = [
        item.path
        for item in product.driver_paths
        if item.required and item.path not in inventory.paths
    ]
    if missing:
        raise ApplianceError(
            "devices-missing", f"Driver paths are not on this host: {', '.join(missing)}."
        )
    return tuple(
        Mount("bind", item.path, item.path, read_only=True)
        for item in product.driver_paths
        if item.path in inventory.paths
    )


def candidate_paths() -> tuple[str, ...]:
    """Return every host path whose existence a plan may ask for."""
    paths = {item.path for product in catalog.products().values() for item in product.driver_paths}
    return tuple(sorted(paths))
