"""What a host must offer beside its driver, read from `needs.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from appliance import yamlfile
from appliance.catalog.load import DATA

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Version:
    """The oldest version that serves, the oldest that is advised, and why each."""

    floor: str
    why: str
    advised: str
    advised_why: str


@dataclass(frozen=True)
class Space:
    """Room on a disk: GiB, and files."""

    gib: int
    inodes: int


@dataclass(frozen=True)
class Memory:
    """Memory of the host in GiB: for the server, and for each of its ranks; or a guess at it."""

    base: int
    rank: int
    measured: bool


@dataclass(frozen=True)
class Needs:
    """All of it. `image` and `memory` are by platform."""

    versions: Mapping[str, Version]
    image: Mapping[str, Space]
    layer: Space
    memory: Mapping[str, Memory]
    cpus_per_npu: int
    reserve_ports: str


@lru_cache
def needs() -> Needs:
    """Return what a host must offer."""
    content = yamlfile.read(DATA / "needs.yaml")
    return Needs(
        versions={name: Version(**row) for name, row in content["versions"].items()},
        image={name: Space(**row) for name, row in content["image"].items()},
        layer=Space(**content["layer"]),
        memory={name: Memory(**row) for name, row in content["memory"].items()},
        cpus_per_npu=content["cpus_per_npu"],
        reserve_ports=content["reserve_ports"],
    )
