"""The checks in their order, each with the id by which scripts and `doctor.skip` know it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.doctor import devices, engine, network, resources
from appliance.doctor.model import Check, Finding, failed, of_problem, ok, warning
from appliance.errors import ApplianceError
from appliance.inventory.facts import Missing
from appliance.inventory.model import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from appliance.doctor.model import Subject

PLAN, NPUS, ENGINE = "Plan", "NPUs and driver", "Docker"
SPACE, NETWORK = "Room, memory, weights", "Network and clock"
# Without these `up` has nothing to go on with.
ESSENTIAL = frozenset({"plan", "engine"})
# Before the id of a problem of the inventory, of which nobody here knows them all.
HOST_PREFIX = "host-"
_NO_PRODUCT = "product-unknown"
# With these no plan can be made, and it is the host that does not allow one.
_OF_THE_HOST = frozenset({"host-unsupported", "devices-missing", "npus-unavailable"})


@dataclass(frozen=True)
class Rule:
    """One check: what it is called, and the pure function that makes it."""

    id: str
    title: str
    group: str
    check: Callable[[Subject], Finding]


def plan(subject: Subject) -> Finding:
    """Tell whether a plan can be made, and what it warns of."""
    made = subject.plan
    if isinstance(made, ApplianceError):
        return of_problem(Problem(made.id, made.message, made.remedy))
    if isinstance(made, Missing):
        if made.problem:
            return of_problem(made.problem)
        return failed(
            f"The host could not be read: {made.why}.",
            "See whether `npu-smi info` answers; if it hangs, so does the driver: reboot, or reset "
            "the card.",
        )
    text = f"platform {made.platform}, model {made.model.id}, {made.api_url}"
    if made.warnings:
        return warning(
            " ".join(made.warnings),
            "If that is not meant, change it: `appliance config show` says where a value is from.",
        )
    return ok(text)


RULES = (
    Rule("plan", "A plan can be made", PLAN, plan),
    Rule("device-nodes", "Device nodes", NPUS, devices.nodes),
    Rule("device-access", "Access to the device nodes", NPUS, devices.access),
    Rule("driver-version", "Driver version", NPUS, devices.driver_version),
    Rule("driver-install", "Driver installation", NPUS, devices.driver_install),
    Rule("driver-paths", "Driver files", NPUS, devices.driver_paths),
    Rule("npu-smi", "npu-smi", NPUS, devices.npu_smi),
    Rule("npu-health", "Health of the dies", NPUS, devices.health),
    Rule("npu-free", "Free dies", NPUS, devices.free),
    Rule("npu-memory", "Memory of the dies", NPUS, devices.memory),
    Rule("cpu-binding", "CPUs for binding", NPUS, devices.cpu_binding),
    Rule("engine", "The engine answers", ENGINE, engine.reachable),
    Rule("engine-version", "Engine version", ENGINE, engine.version),
    Rule("compose", "Compose plugin", ENGINE, engine.compose),
    Rule("buildx", "Buildx plugin", ENGINE, engine.buildx),
    Rule("container-name", "Name of the container", ENGINE, engine.container_name),
    Rule("container-runtime", "Container runtime", ENGINE, engine.runtime),
    Rule("engine-users", "Users in containers", ENGINE, engine.users),
    Rule("seccomp", "Filter of system calls", ENGINE, engine.seccomp),
    Rule("selinux", "SELinux", ENGINE, engine.selinux),
    Rule("apparmor", "AppArmor", ENGINE, engine.apparmor),
    Rule("cgroup", "Control groups", ENGINE, engine.cgroup),
    Rule("image", "Image", SPACE, resources.image),
    Rule("disk-image", "Room for the image", SPACE, resources.disk_image),
    Rule("inodes", "Files on the engine's disk", SPACE, resources.inodes),
    Rule("weights", "Weights", SPACE, resources.weights),
    Rule("disk-weights", "Room for the weights", SPACE, resources.disk_weights),
    Rule("cache-writable", "Cache of weights", SPACE, resources.cache_writable),
    Rule("memory", "Memory of the host", SPACE, resources.memory),
    Rule("shm", "Shared memory", SPACE, resources.shm),
    Rule("page-size", "Page size", SPACE, resources.page_size),
    Rule("api-port", "Port of the API", NETWORK, network.api_port),
    Rule("hccl-ports", "Ports of HCCL", NETWORK, network.hccl_ports),
    Rule("proxy", "Proxies", NETWORK, network.proxy),
    Rule("registry", "Image registry", NETWORK, network.registry),
    Rule("hub", "Model hub", NETWORK, network.hub),
    Rule("clock", "Clock", NETWORK, network.clock),
)


def examine(subject: Subject) -> tuple[Check, ...]:
    """Make all checks of a subject: a pure function of it."""
    return tuple(_excused(check, subject.config.doctor.skip) for check in _all(subject))


def _all(subject: Subject) -> Iterator[Check]:
    for rule in RULES:
        yield Check(rule.id, rule.title, rule.group, rule.check(subject))
        if rule.id == "plan":
            yield from _host_problems(subject)


def _host_problems(subject: Subject) -> Iterator[Check]:
    """Pass on what the inventory found wrong: failures where they are why there is no plan."""
    unplanned = isinstance(subject.plan, ApplianceError) and subject.plan.id in _OF_THE_HOST
    for problem in subject.host.problems if subject.host else ():
        found = (failed if unplanned else warning)(problem.message, problem.remedy)
        if problem.id == _NO_PRODUCT and subject.config.product and subject.made:
            found = ok(f"`product` says {subject.config.product}, where the host does not")
        yield Check(f"{HOST_PREFIX}{problem.id}", "The host", PLAN, found)


def _excused(check: Check, skip: Sequence[str]) -> Check:
    """Return a check that the operator lets fail as a warning."""
    if check.verdict != "failed" or check.id not in skip:
        return check
    found = check.finding
    text = f"{found.evidence} (`doctor.skip` lets this fail.)"
    return Check(check.id, check.title, check.group, warning(text, found.remedy))
