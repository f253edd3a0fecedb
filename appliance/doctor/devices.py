"""Checks of the NPUs, their device nodes, and their driver."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING

from appliance.catalog import drivers
from appliance.catalog.load import products
from appliance.catalog.needs import needs
from appliance.doctor.model import Finding, failed, missing, ok, skipped, unknown, warning
from appliance.errors import ApplianceError
from appliance.inventory.facts import Missing
from appliance.plan import dies, names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from appliance.catalog.drivers import Feature, Judgement
    from appliance.doctor.model import Subject
    from appliance.inventory.model import FileFacts, Inventory, Npu
    from appliance.plan.model import Plan

GIB = 1024**3
DRIVER = "/usr/local/Ascend"
_READ, _USE = 0o4, 0o6
_COMPLETE = "complete"
_REINSTALL = "Install the Ascend driver anew (its .run package with --full), then reboot."
_LISTED = 3


def _on_npus(check: Callable[[Subject, Inventory], Finding]) -> Callable[[Subject], Finding]:
    """Make a check of one that needs NPUs, and an inventory, to look at."""

    @wraps(check)
    def whole(subject: Subject) -> Finding:
        if subject.platform == "cpu":
            return skipped("the platform is cpu")
        if isinstance(subject.inventory, Missing):
            return missing(subject.inventory)
        return check(subject, subject.inventory)

    return whole


def planned(plan: Plan, host: Inventory) -> tuple[Npu, ...]:
    """Return the dies that a plan takes."""
    taken = {device.host for device in plan.container.devices}
    visible = dict(plan.container.environment).get(names.VISIBLE, "")
    taken |= {f"/dev/davinci{number}" for number in visible.split(",") if number}
    return tuple(npu for npu in host.npus if npu.device in taken)


@_on_npus
def nodes(subject: Subject, host: Inventory) -> Finding:
    """Look for the device nodes of the NPUs and of what manages them."""
    there = sorted((npu for npu in host.npus if npu.device), key=dies.number)
    unplaced = any(names.NPU_NODE.match(node) for node in host.device_nodes)
    if not there and unplaced:
        return warning(
            "There are /dev/davinciN, but which die each of them is can't be told.",
            "See what the inventory says of it: `appliance inventory`.",
        )
    if not there:
        return failed(
            "This host has no /dev/davinciN: no NPU, or no driver that is loaded.",
            "See that `lspci -d 19e5:` lists the cards and `lsmod | grep drv_davinci` the driver; "
            "then install the driver, or reboot.",
            "devices-missing",
        )
    product = subject.product or next(iter(products().values()))
    lacking = [
        manager.host[0]
        for manager in product.management_devices
        if manager.required and not any(node in host.device_nodes for node in manager.host)
    ]
    if lacking:
        return failed(
            f"{len(there)} NPUs are there, but not {', '.join(lacking)}, which each of them needs.",
            _REINSTALL,
            "devices-missing",
        )
    text = f"{len(there)} dies, {there[0].device} to {there[-1].device}, and their managers"
    if subject.made:
        chosen = [str(npu.device) for npu in planned(subject.made, host)]
        text += f"; planned: {', '.join(chosen)}"
    return ok(text)


@_on_npus
def access(subject: Subject, host: Inventory) -> Finding:
    """Tell whether the container's root, which has no capabilities, may use the nodes."""
    plan = subject.made
    if plan is None:
        return unknown("there is no plan, so no device is chosen")
    if plan.container.privileged:
        return ok("`container.privileged` is on: every node may be used")
    if not plan.container.devices:
        return skipped("Ascend Docker Runtime gives the devices")
    used = {device.host: host.files.get(device.host) for device in plan.container.devices}
    known = {node: facts for node, facts in used.items() if facts is not None}
    if not known:
        return missing(Missing(subject.facts.unsaid))
    groups = plan.container.group_add
    closed = [f"{n} ({_owner(f)})" for n, f in known.items() if not _may(f, groups, _USE)]
    if closed:
        return failed(
            f"The container's root could not read and write {', '.join(closed)}.",
            "Give the nodes a group that may use them, as the driver does by itself: "
            "`chgrp HwHiAiUser NODE && chmod g+rw NODE`. Running privileged is no remedy.",
        )
    through = f" through group {', '.join(map(str, groups))}" if groups else ""
    return ok(f"{len(known)} nodes, usable by root without capabilities{through}")


def _owner(facts: FileFacts) -> str:
    return f"uid {facts.uid}, gid {facts.gid}, mode {facts.mode:o}"


def _may(facts: FileFacts, groups: Iterable[int], wanted: int) -> bool:
    """Tell whether root with these groups, and without capabilities, may do this to a file."""
    if facts.uid == 0:
        allowed = facts.mode >> 6
    elif facts.gid in {0, *groups}:
        allowed = facts.mode >> 3
    else:
        allowed = facts.mode
    return allowed & wanted == wanted


@_on_npus
def driver_version(subject: Subject, host: Inventory) -> Finding:
    """Compare the driver's version with what the image's CANN works with."""
    version, release = host.driver_version, subject.release
    if version is None:
        return unknown(
            f"The driver's version is not known: {DRIVER}/driver/version.info names none.",
            "See `npu-smi info`; where that shows none either: " + _REINSTALL,
        )
    if release is None:
        return unknown(f"The driver is {version}; which CANN it meets is not known.")
    return _judged(drivers.judge(release.cann, version), version, subject)


def _judged(judgement: Judgement, version: str, subject: Subject) -> Finding:
    row = judgement.row
    said = f"Driver {version}: {judgement.why}"
    if row is None:
        return unknown(f"{said}.", "Compare it with the release notes of CANN on hiascend.com.")
    source = f"({row.source}, {row.date})"
    upgrade = f"Install driver and firmware {row.recommended}, which CANN's release notes name."
    if judgement.verdict == "old":
        return failed(f"{said} {source}.", upgrade)
    if judgement.verdict == "unknown":
        return unknown(f"{said} {source}.", f"If it does not start: {upgrade}")
    notes = f"{said}, and was released with {row.recommended} {source}"
    for feature in drivers.features().values():
        if drivers.order(version) >= drivers.order(feature.floor) or subject.made is None:
            continue
        if feature.used(subject.release.vllm if subject.release else "", subject.made.serve_args):
            return _lacking(said, feature, upgrade)
        notes += f"; what needs {feature.floor} is not used: {feature.name}"
    return ok(notes)


def _lacking(said: str, feature: Feature, upgrade: str) -> Finding:
    return warning(
        f"{said}, but {feature.name} needs {feature.floor}: below that, {feature.consequence} "
        f"({feature.source}, {feature.date}).",
        f"{upgrade} Or do without: {feature.way_out}",
    )


@_on_npus
def driver_install(subject: Subject, host: Inventory) -> Finding:
    """Look at what the driver's installer wrote down."""
    del host
    info = subject.facts.install_info
    if isinstance(info, Missing):
        return missing(info)
    status = info.get("Driver_Install_Status")
    if status != _COMPLETE:
        return warning(
            f"/etc/ascend_install.info says Driver_Install_Status={status or '(nothing)'}: the "
            "installer did not come to its end.",
            _REINSTALL,
        )
    place = info.get("Driver_Install_Path_Param", DRIVER)
    if place.rstrip("/") != DRIVER:
        return warning(
            f"The driver is in {place}; the plan mounts it from {DRIVER}.",
            f"Install it in {DRIVER}, or link {DRIVER}/driver to it.",
        )
    return ok(f"Driver_Install_Status={status}, in {place}")


@_on_npus
def driver_paths(subject: Subject, host: Inventory) -> Finding:
    """Look for the driver's files, which the container is given read-only."""
    product = subject.product
    if product is None:
        return unknown("which files are needed is not known: nor is the product")
    absent = [item for item in product.driver_paths if item.path not in host.paths]
    required = [item.path for item in absent if item.required]
    if required:
        return failed(
            f"The driver's files are not all there: {', '.join(required)}.",
            _REINSTALL,
            "devices-missing",
        )
    plan = subject.made
    groups = plan.container.group_add if plan else ()
    mounted = [mount.source for mount in plan.container.mounts] if plan else []
    closed = [
        f"{path} ({_owner(facts)})"
        for path in mounted
        if (facts := host.files.get(path)) and path in host.paths and not _may(facts, groups, _READ)
    ]
    if closed:
        return failed(
            f"The container's root could not read {', '.join(closed)}.",
            "Install the driver with --install-for-all, or let its group read them.",
        )
    optional = [item.path for item in absent]
    note = f"; absent, and not needed: {', '.join(optional)}" if optional else ""
    return ok(f"{len(product.driver_paths) - len(optional)} paths{note}")


@_on_npus
def npu_smi(subject: Subject, host: Inventory) -> Finding:
    """Tell whether npu-smi is there, and says anything."""
    del subject
    paths = sorted(path for path in host.paths if path.endswith("/npu-smi"))
    speaking = [npu for npu in host.npus if npu.health is not None]
    if speaking:
        where = f" by {paths[0]}" if paths else ""
        return ok(f"{len(speaking)} of {len(host.npus)} dies told{where}")
    if not paths:
        return warning(
            "npu-smi is neither in /usr/local/bin nor in /usr/local/sbin: which dies are healthy "
            "and free can't be told, and vLLM will bind no CPUs.",
            _REINSTALL,
        )
    return unknown(
        f"{paths[0]} is there, but said nothing of any die.",
        "See what `npu-smi info` prints; -8005 usually means that a container holds the cards.",
    )


@_on_npus
def health(subject: Subject, host: Inventory) -> Finding:
    """Look at the health of the dies, as npu-smi has it."""
    chosen = planned(subject.made, host) if subject.made else ()
    said = [npu for npu in host.npus if npu.health is not None]
    if not said or any(npu.health is None for npu in chosen):
        return unknown("npu-smi does not say how the dies are")
    ill = [npu for npu in said if (npu.health or "").upper() != "OK"]
    if not ill:
        return ok(f"{len(said)} dies, all OK")
    listed = ", ".join(f"{_name(npu)} {npu.health}" for npu in ill)
    remedy = (
        "See `npu-smi info -t health -i NPU`, and /var/log/npu; other dies can be named in `npus`."
    )
    if any(npu in chosen for npu in ill):
        return failed(f"Dies that are planned are not healthy: {listed}.", remedy)
    if chosen:
        return ok(f"those that are planned are OK; of the others: {listed}")
    return warning(f"{len(ill)} of {len(said)} dies are not healthy: {listed}.", remedy)


def _name(npu: Npu) -> str:
    return npu.device or f"NPU {npu.npu_id} chip {npu.chip_id}"


@_on_npus
def free(subject: Subject, host: Inventory) -> Finding:
    """Tell whether the dies that are planned are nobody else's."""
    reasons = {
        _name(npu): text for npu in host.npus if (text := dies.unfit(npu, subject.config, host))
    }
    listed = "; ".join(f"{name} {text}" for name, text in list(reasons.items())[:_LISTED])
    if len(reasons) > _LISTED:
        listed += f"; and {len(reasons) - _LISTED} more"
    count = f"{len(host.npus) - len(reasons)} of {len(host.npus)} dies are free"
    if isinstance(subject.plan, ApplianceError) and subject.plan.id == "npus-unavailable":
        return failed(f"{count}. {listed}.", subject.plan.remedy)
    chosen = planned(subject.made, host) if subject.made else ()
    if not host.npus or any(npu.hbm_used_mib is None for npu in chosen or host.npus):
        return unknown("npu-smi does not say what the dies are used for")
    return ok(f"{count}{'; ' if listed else ''}{listed}")


@_on_npus
def memory(subject: Subject, host: Inventory) -> Finding:
    """Compare the dies' memory with what the plan needs."""
    plan = subject.made
    sizes = sorted({round((npu.hbm_total_mib or 0) / 1024) for npu in host.npus} - {0})
    each = " or ".join(f"{size} GiB" for size in sizes) or "unknown size"
    if isinstance(subject.plan, ApplianceError) and subject.plan.id == "memory-insufficient":
        return failed(f"Dies of {each} are too small for what is planned.", subject.plan.remedy)
    if plan is None or plan.memory is None:
        return unknown(f"dies of {each}; what the model takes of that was not worked out")
    need = plan.memory
    text = (
        f"dies of {each}; {need.budget_bytes / GIB:.1f} GiB for vLLM on each, "
        f"{need.weights_bytes_per_rank / GIB:.1f} of it weights, "
        f"{need.kv_cache_bytes_per_rank / GIB:.1f} KV cache: {need.kv_tokens} tokens"
    )
    if not need.fits:
        return failed(
            f"The model does not fit: {text}.",
            "Use more dies (`parallel.tensor_parallel_size`), or a lower `server.max_model_len`.",
        )
    return ok(text)


@_on_npus
def cpu_binding(subject: Subject, host: Inventory) -> Finding:
    """Count the CPUs: vllm-ascend binds each die's threads to some of them."""
    facts = subject.facts
    if host.system.arch not in {None, "aarch64", "arm64"}:
        return skipped(f"on {host.system.arch} vllm-ascend binds no CPUs")
    cpus = host.system.cpus
    if not isinstance(facts.engine, Missing):
        cpus = facts.engine.cpus or cpus
    if cpus is None or not host.npus:
        return unknown("how many CPUs there are for how many dies is not known")
    each, needed = cpus // len(host.npus), needs().cpus_per_npu
    text = f"{cpus} CPUs for {len(host.npus)} dies: {each} each"
    if each < needed:
        return warning(
            f"{text}, and binding needs {needed}. vLLM will warn, and bind nothing.",
            "Give the engine more CPUs (its cpuset), if latency matters.",
        )
    return ok(f"{text}; binding needs {needed}")
