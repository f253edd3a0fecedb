"""The inventory's types: one value, read from the live host or from a snapshot folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

ProductName = Literal[
    "atlas-a2", "atlas-a3", "atlas-310p", "ascend-950", "unsupported", "unknown", "none"
]


@dataclass(frozen=True)
class Process:
    """A process that holds memory of an NPU. Memory in MiB."""

    pid: int
    name: str
    memory_mib: int


@dataclass(frozen=True)
class Npu:
    """One die: one `/dev/davinciN`. Memory in MiB; `None` where it is not known.

    `npu_id` and `chip_id` are npu-smi's; N of the device is the driver's physical id.
    """

    npu_id: int
    chip_id: int
    device: str | None
    name: str | None = None
    health: str | None = None
    hbm_total_mib: int | None = None
    hbm_used_mib: int | None = None
    processes: tuple[Process, ...] = ()
    bus_id: str | None = None
    cpu_affinity: str | None = None


@dataclass(frozen=True)
class Link:
    """How two NPUs reach each other: `HCCS`, `PIX`, `SYS`, … as `npu-smi info -t topo` has it.

    `a` and `b` are NPU ids, `a` the lower.
    """

    a: int
    b: int
    kind: str


@dataclass(frozen=True)
class Claim:
    """What another appliance of this host holds, whether its container runs or is being made."""

    name: str
    devices: tuple[str, ...] = ()
    api_port: int | None = None
    hccl_base_port: int | None = None


@dataclass(frozen=True)
class Problem:
    """Something about the host that an operator should know."""

    id: str
    message: str
    remedy: str


@dataclass(frozen=True)
class System:
    """The host around the NPUs. `None` where it is not known."""

    arch: str | None = None
    os_id: str | None = None
    cpus: int | None = None
    memory_gib: int | None = None
    disk_free_gib: int | None = None
    docker: str | None = None
    compose: str | None = None
    runtimes: tuple[str, ...] = ()
    default_runtime: str | None = None


@dataclass(frozen=True)
class FileFacts:
    """Who owns a file, a folder or a device node of the host, and who may read it."""

    uid: int
    gid: int
    mode: int
    size: int
    regular: bool = True
    modified_ns: int = 0


@dataclass(frozen=True)
class Inventory:
    """A host: its product, its NPUs, what exists on it, and what is wrong with it.

    `files` holds who owns the device nodes, the driver's paths and the files that the
    configuration names: `None` is an absent one. A snapshot has none of them. `model_config`
    is the `config.json` of the model folder that the configuration names.
    """

    product: ProductName
    driver_version: str | None = None
    npus: tuple[Npu, ...] = ()
    links: tuple[Link, ...] = ()
    claims: tuple[Claim, ...] = ()
    # Whether all claims are known: an engine that does not answer may hold more.
    claims_known: bool = True
    # Files that a snapshot lacks, without which absent and unknown look the same.
    unread: frozenset[str] = frozenset()
    problems: tuple[Problem, ...] = ()
    device_nodes: frozenset[str] = frozenset()
    paths: frozenset[str] = frozenset()
    files: Mapping[str, FileFacts | None] = field(default_factory=dict)
    system: System = field(default_factory=System)
    model_config: Mapping[str, Any] | None = None
