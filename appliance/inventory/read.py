"""Reads an inventory, from this host or from a snapshot folder.

Both ways end in `assemble`, so that a snapshot of a host gives what the host itself gives.
What `npu-smi` says is not read yet: NPUs are known by their device nodes.
"""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any

from appliance.errors import ApplianceError
from appliance.inventory.model import FileFacts, Inventory, Npu, Problem, System

if TYPE_CHECKING:
    from collections.abc import Iterable

DRIVER_VERSION_FILE = Path("/usr/local/Ascend/driver/version.info")
_NPU_NODE = re.compile(r"^/dev/davinci(\d+)$")
_VERSION = re.compile(r"^\s*Version\s*=\s*(\S+)", re.MULTILINE)
_GIB = 1024**3


def live(candidates: Iterable[str], files: Iterable[str] = ()) -> Inventory:
    """Read this host.

    `candidates` are the paths whose existence matters to a plan, `files` those of which the
    owner and mode matter: the host is asked for these and its device nodes, nothing else.
    """
    nodes = _device_nodes(Path("/dev"))
    paths = frozenset(path for path in candidates if Path(path).exists())
    version = _text(DRIVER_VERSION_FILE)
    found = assemble(nodes, paths, version, _system())
    looked_at = {*nodes, *paths, *files}
    return dataclasses.replace(found, files={name: _facts(Path(name)) for name in looked_at})


def _facts(path: Path) -> FileFacts | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return FileFacts(
        stat.st_uid,
        stat.st_gid,
        stat.st_mode & 0o777,
        stat.st_size,
        S_ISREG(stat.st_mode),
        stat.st_mtime_ns,
    )


def snapshot(folder: Path) -> Inventory:
    """Read a host's snapshot. Every file is optional; raises snapshot-invalid."""
    # Not `is_dir`, which raises on a name that is too long or may not be looked at.
    if not os.path.isdir(folder):  # noqa: PTH112
        raise ApplianceError("snapshot-invalid", f"There is no folder {folder}.")
    nodes = frozenset(_lines(folder / "dev.txt"))
    paths = frozenset(_lines(folder / "paths.txt"))
    version = _text(folder / "driver-version.info")
    return assemble(nodes, paths, version, _snapshot_system(folder / "system.json"))


def assemble(
    nodes: frozenset[str], paths: frozenset[str], version_info: str | None, system: System
) -> Inventory:
    """Make an inventory of what was read."""
    numbers = sorted(int(match[1]) for node in nodes if (match := _NPU_NODE.match(node)))
    npus = tuple(Npu(npu_id=n, chip_id=0, device=f"/dev/davinci{n}") for n in numbers)
    match = _VERSION.search(version_info or "")
    problems: tuple[Problem, ...] = ()
    if npus:
        problems = (
            Problem(
                "product-unknown",
                f"{len(npus)} NPU device nodes are there, but not which product they are of.",
                "Set `product` to atlas-a2 or atlas-a3.",
            ),
        )
    return Inventory(
        product="unknown" if npus else "none",
        driver_version=match[1] if match else None,
        npus=npus,
        problems=problems,
        device_nodes=nodes,
        paths=paths,
        system=system,
    )


def _device_nodes(folder: Path) -> frozenset[str]:
    wanted = re.compile(r"davinci|devmm_svm|hisi_hdc|dvpp|uburma|ummu")
    try:
        names = os.listdir(folder)  # noqa: PTH208 (names only: no stat of each node)
    except OSError:
        return frozenset()
    return frozenset(f"{folder}/{name}" for name in names if wanted.match(name))


def _system() -> System:
    memory = None
    if match := re.search(r"MemTotal:\s*(\d+) kB", _text(Path("/proc/meminfo")) or ""):
        memory = int(match[1]) * 1024 // _GIB
    os_id = None
    if match := re.search(r'^ID="?([^"\n]+)', _text(Path("/etc/os-release")) or "", re.MULTILINE):
        os_id = match[1]
    return System(arch=os.uname().machine, os_id=os_id, cpus=os.cpu_count(), memory_gib=memory)


def _snapshot_system(path: Path) -> System:
    text = _text(path)
    if text is None:
        return System()
    import json

    try:
        content: dict[str, Any] = json.loads(text)
        content["runtimes"] = tuple(content.get("runtimes", ()))
        return System(**content)
    except (ValueError, TypeError, AttributeError) as error:
        raise ApplianceError("snapshot-invalid", f"{path} can't be read: {error}") from error


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ApplianceError("snapshot-invalid", f"{path} can't be read: {error}") from error


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in (_text(path) or "").splitlines() if line.strip()]
