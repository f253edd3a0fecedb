"""Checks of Docker: the engine, its plugins, and what it lets containers do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.catalog.drivers import order
from appliance.catalog.needs import needs
from appliance.doctor.model import (
    Finding,
    failed,
    missing,
    of_problem,
    ok,
    skipped,
    unknown,
    warning,
)
from appliance.inventory.facts import EngineFacts, Missing
from appliance.plan.ascend import RUNTIME

if TYPE_CHECKING:
    from appliance.doctor.model import Subject

_START = "Start it (systemctl start docker) and see that you may use its socket."
_UPGRADE = "Upgrade Docker; openEuler: docker-ce from Docker's repository, not docker-engine."


def _said(subject: Subject) -> EngineFacts:
    """Return what the engine said; nothing where it said nothing."""
    found = subject.facts.engine
    return EngineFacts() if isinstance(found, Missing) else found


def reachable(subject: Subject) -> Finding:
    """Tell whether the engine answers."""
    found = subject.facts.engine
    if not isinstance(found, Missing):
        return ok(f"version {found.version or 'unknown'}")
    if found.problem:
        return of_problem(found.problem)
    if found.silent:
        return failed(f"The engine does not answer: {found.why}.", _START, "engine-unreachable")
    return missing(found)


def version(subject: Subject) -> Finding:
    """Compare the engine's version with what the appliance uses of it."""
    found = subject.facts.engine
    if isinstance(found, Missing) or found.version is None:
        return missing(Missing(subject.facts.unsaid))
    return _compared("docker", found.version, _UPGRADE)


def _compared(name: str, version: str, remedy: str) -> Finding:
    need = needs().versions[name]
    if order(version) < order(need.floor):
        return failed(f"{version} is older than {need.floor}: {need.why}.", remedy)
    if order(version) < order(need.advised):
        return warning(f"{version} is older than {need.advised}: {need.advised_why}.", remedy)
    return ok(f"{version}; {need.floor} or newer is needed")


def compose(subject: Subject) -> Finding:
    """Look for the compose plugin, which starts the container."""
    return _plugin(subject, "compose")


def buildx(subject: Subject) -> Finding:
    """Look for the buildx plugin, which builds the image."""
    return _plugin(subject, "buildx")


def _plugin(subject: Subject, name: str) -> Finding:
    parts = subject.facts.parts
    if isinstance(parts, Missing):
        return missing(parts)
    version = parts.compose if name == "compose" else parts.buildx
    if isinstance(version, Missing):
        return missing(version)
    if version is not None:
        return _compared(name, version, f"Upgrade Docker's {name} plugin.")
    if parts.problem:
        return of_problem(parts.problem)
    return failed(
        f"Not installed: docker {name}.", f"Install Docker's {name} plugin.", "engine-missing"
    )


def container_name(subject: Subject) -> Finding:
    """Tell whether the appliance's name is free, or its own."""
    found = subject.facts.container
    if isinstance(found, Missing):
        return missing(found)
    if found is None:
        return ok(f"no container is called {subject.config.name}")
    if found.ours:
        return ok(f"{found.name} is this appliance's own container ({found.status})")
    return failed(
        f"There is a container {found.name} that is not an appliance's.",
        "Rename or remove it, or choose another `name`.",
        "container-start-failed",
    )


def runtime(subject: Subject) -> Finding:
    """Look for the container runtime that the configuration asks for."""
    found = _said(subject)
    if subject.platform == "cpu":
        return skipped("the platform is cpu")
    wanted = subject.config.container.runtime
    if not found.runtimes:
        return missing(Missing(subject.facts.unsaid))
    listed = ", ".join(found.runtimes)
    if wanted == RUNTIME and RUNTIME not in found.runtimes:
        return failed(
            f"`container.runtime` is {RUNTIME}, and the engine has only {listed}.",
            "Install Ascend Docker Runtime (MindCluster) and restart Docker; or leave "
            "`container.runtime` out: the devices are then given one by one.",
        )
    if wanted != RUNTIME and found.default_runtime == RUNTIME:
        return ok(
            f"the default runtime is {RUNTIME}, which does nothing here: each device is given by "
            "name, and ASCEND_VISIBLE_DEVICES is not set"
        )
    return ok(f"{wanted}; the engine has {listed}")


def users(subject: Subject) -> Finding:
    """Tell whether root in a container has root's uid on the host."""
    found = _said(subject)
    if found.security is None:
        return missing(Missing(subject.facts.unsaid))
    kinds = {option.partition(",")[0] for option in found.security}
    if "rootless" in kinds:
        return warning(
            "The engine is rootless: groups and owners of the host mean others in a container, "
            "so device nodes of group HwHiAiUser can't be used.",
            "Use the engine that runs as root (docker context use default).",
        )
    if "userns" in kinds:
        return warning(
            "The engine maps users (userns-remap): the container's root is an unknown user to "
            "the host, so files and device nodes must be open to everybody.",
            'Take "userns-remap" out of /etc/docker/daemon.json, or use another engine.',
        )
    return ok("root in a container has root's uid, without capabilities")


def seccomp(subject: Subject) -> Finding:
    """Tell whether the engine filters system calls."""
    found = _said(subject)
    if found.security is None:
        return missing(Missing(subject.facts.unsaid))
    lines = [option for option in found.security if option.partition(",")[0] == "seccomp"]
    if not lines:
        return warning(
            "The engine filters no system calls: the kernel or the engine lacks seccomp.",
            "Use a kernel with CONFIG_SECCOMP_FILTER, and Docker's own packages.",
        )
    profile = lines[0].partition("profile=")[2] or "default"
    if profile == "unconfined":
        return warning(
            "The engine filters no system calls: its profile is unconfined.",
            'Take "seccomp-profile" out of /etc/docker/daemon.json.',
        )
    return ok(f"profile {profile}")


def selinux(subject: Subject) -> Finding:
    """Tell whether SELinux keeps containers from what is mounted into them."""
    kernel, found = subject.facts.kernel, _said(subject)
    if isinstance(kernel, Missing):
        return missing(kernel)
    if kernel.selinux != "enforcing":
        return ok(kernel.selinux)
    if found.security is None:
        return unknown(f"enforcing; whether for containers is not known: {subject.facts.unsaid}")
    if not any(option.partition(",")[0] == "selinux" for option in found.security):
        return ok("enforcing, but the engine does not confine containers with it")
    return warning(
        "SELinux is enforcing and confines containers: without a label they can't read what is "
        "mounted into them, nor use device nodes (docs.docker.com, bind mounts).",
        "`chcon -Rt container_file_t FOLDER` for the model's folder and the driver's; for the "
        "devices `setsebool -P container_use_devices on`.",
    )


def apparmor(subject: Subject) -> Finding:
    """Tell whether AppArmor's profile for containers is there."""
    kernel, found = subject.facts.kernel, _said(subject)
    if isinstance(kernel, Missing):
        return missing(kernel)
    if not kernel.apparmor:
        return ok("off")
    if found.security is None:
        return unknown(f"on; whether for containers is not known: {subject.facts.unsaid}")
    if not any(option.partition(",")[0] == "apparmor" for option in found.security):
        return ok("on, but the engine does not confine containers with it")
    profiles = kernel.apparmor_profiles
    if profiles is not None and "docker-default" not in profiles:
        return warning(
            "The engine uses AppArmor, and its profile docker-default is not loaded: containers "
            "may fail to start.",
            "Restart Docker, which loads it: `systemctl restart docker`.",
        )
    return ok("docker-default: no mounts, no writing to /proc and /sys; nothing of that is needed")


def cgroup(subject: Subject) -> Finding:
    """Look at the control groups, by which the engine limits memory."""
    found = _said(subject)
    if found.limits_memory is None:
        return missing(Missing(subject.facts.unsaid))
    limit = subject.config.container.memory
    if limit and not found.limits_memory:
        return warning(
            f"`container.memory` is {limit}, and this kernel's control groups limit no memory.",
            "Start the kernel with cgroup_enable=memory, or leave `container.memory` out.",
        )
    return ok(f"version {found.cgroup or 'unknown'}")
