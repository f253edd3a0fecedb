"""What only the doctor asks a host for, beyond its inventory; each fact can be missing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from appliance.inventory.model import Problem


@dataclass(frozen=True)
class Missing:
    """A fact that could not be had, and why, in words that follow a colon.

    `silent`: nothing answered in time. `problem` is the error that stands behind it, if one
    does; its id is one of the table of errors.
    """

    why: str
    silent: bool = False
    problem: Problem | None = None


@dataclass(frozen=True)
class KernelFacts:
    """What /proc, /sys and the system calls say of the running kernel. Memory in bytes.

    `selinux` is `enforcing`, `permissive` or `off`. `apparmor_profiles` is `None` where they
    may not be read. `reserved_ports` is the kernel's list, such as `60000-60015,61000`.
    """

    page_size: int
    memory_total: int
    memory_available: int
    shared_memory: int | None = None
    selinux: str = "off"
    apparmor: bool = False
    apparmor_profiles: frozenset[str] | None = None
    local_ports: tuple[int, int] | None = None
    reserved_ports: str = ""


@dataclass(frozen=True)
class DiskFacts:
    """The file system that a path is on, or will be on: asked of the nearest folder that exists.

    `device` tells file systems apart. `inodes` is 0 where a file system does not count them, and
    `None`, as `writable`, where that is not known.
    """

    folder: str
    device: int
    free: int
    inodes: int | None = None
    inodes_free: int = 0
    writable: bool | None = None


@dataclass(frozen=True)
class ClockFacts:
    """The time, in seconds since 1970, and whether something keeps it right."""

    now: float
    synchronised: bool | None


@dataclass(frozen=True)
class PortFacts:
    """Whether this user can listen on a port. `error` is errno's name, `None` where it can."""

    address: str
    port: int
    error: str | None = None
    text: str = ""


@dataclass(frozen=True)
class Answer:
    """Whether something answers over the network, and if not, what was said."""

    name: str
    ok: bool
    why: str = ""
    silent: bool = False


@dataclass(frozen=True)
class EngineFacts:
    """What the engine says of itself. `None` where it does not, or where it was not asked.

    `security` has its security options, such as `seccomp`, `apparmor`, `rootless`, `userns`.
    `proxies` are the names of the proxy variables that it uses.
    """

    version: str | None = None
    root: str | None = None
    runtimes: tuple[str, ...] = ()
    default_runtime: str | None = None
    security: tuple[str, ...] | None = None
    cgroup: str | None = None
    limits_memory: bool | None = None
    cpus: int | None = None
    proxies: frozenset[str] | None = None


@dataclass(frozen=True)
class PartsFacts:
    """Versions of Docker's plugins on the command line; `None` for one that is not there.

    `problem` says what to install.
    """

    compose: str | Missing | None
    buildx: str | Missing | None
    problem: Problem | None = None


@dataclass(frozen=True)
class ContainerFacts:
    """The container of the appliance's name. `ports` are those that it publishes or listens on."""

    name: str
    status: str
    ours: bool
    ports: tuple[int, ...] = ()


@dataclass(frozen=True)
class ImageFacts:
    """Whether the image is here and up to date, and else a base that it can be built on.

    `buildable`: this launcher runs from a checkout, which building needs.
    """

    here: bool
    base: str | None = None
    buildable: bool = True


@dataclass(frozen=True)
class WeightsFacts:
    """What there is of the model folder. `problem` is what keeps it from being complete."""

    complete: bool
    bytes: int
    problem: Problem | None = None


_UNASKED = Missing("not asked for")


@dataclass(frozen=True)
class HostFacts:
    """All that the doctor knows of a host beyond its inventory; each can be missing.

    `container` is `None` where there is none. `registry` is empty, and `hub` is `None`, where
    nothing has to be fetched. `proxies` are the proxy variables of this process; `disks` has
    that of the engine, `image`, and that of `weights`. `unsaid` is why a field is `None`.
    """

    kernel: KernelFacts | Missing = _UNASKED
    clock: ClockFacts | Missing = _UNASKED
    engine: EngineFacts | Missing = _UNASKED
    parts: PartsFacts | Missing = _UNASKED
    container: ContainerFacts | Missing | None = _UNASKED
    image: ImageFacts | Missing = _UNASKED
    registry: tuple[Answer, ...] | Missing = _UNASKED
    weights: WeightsFacts | Missing = _UNASKED
    hub: Answer | Missing | None = _UNASKED
    disks: Mapping[str, DiskFacts | Missing] = field(default_factory=dict)
    api_port: PortFacts | Missing = _UNASKED
    hccl_ports: tuple[PortFacts, ...] | Missing = _UNASKED
    install_info: Mapping[str, str] | Missing = _UNASKED
    proxies: frozenset[str] = frozenset()
    unsaid: str = "the engine does not say"
