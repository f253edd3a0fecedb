"""An Ascend host made of this one: real device nodes of no device, a driver's files, npu-smi.

The nodes, the paths and what npu-smi prints are those of a folder under tests/hosts. Everything
that is made is taken away again; a host that has any of it already is left alone.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e.conftest import docker

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTS = Path(__file__).resolve().parents[1] / "hosts"
HWHIAIUSER = 1000
# For local and experimental use (Linux, Documentation/admin-guide/devices.txt): opening such a
# node gets as far as looking for a driver.
MAJOR = 240
FOLDERS = {
    "/usr/local/Ascend/driver/lib64": "libascend_hal.so",
    "/usr/local/dcmi": "libdcmi.so",
}
FILES = {
    "/usr/local/Ascend/driver/version.info": "driver-version.info",
    "/etc/ascend_install.info": "ascend_install.info",
}
QUERIES = {
    "info": "npu-smi-info.txt",
    "info -m": "npu-smi-info-m.txt",
    "info -l": "npu-smi-info-l.txt",
    "info -t topo": "npu-smi-topo.txt",
}

# What vLLM needs on the CPU in place of an NPU; the rest is the plan's.
ON_CPU = {
    "container.environment": (
        '{VLLM_CPU_KVCACHE_SPACE: "1", VLLM_CPU_OMP_THREADS_BIND: "0|1", TORCHDYNAMO_DISABLE: "1"}'
    ),
    "server.extra_args": "[--enforce-eager]",
}


def settings(name: str, image: str, **more: str) -> dict[str, str]:
    """Return the settings of an appliance on a simulated host, served by the CPU's image."""
    return {"name": name, "image.name": image, "model.id": "tiny-omni", **ON_CPU, **more}


def clean_up(name: str) -> None:
    """Remove an appliance's container and cache, whatever became of it."""
    docker("rm", "--force", name, check=False)
    docker("volume", "rm", "--force", f"{name}-cache", check=False)


@contextmanager
def host(name: str) -> Iterator[Path]:
    """Make this machine the host of that name until the block ends; yields its folder."""
    folder = HOSTS / name
    nodes = [Path(line) for line in _lines(folder / "dev.txt")]
    paths = [Path(line) for line in _lines(folder / "paths.txt")]
    there = [str(path) for path in (*nodes, *paths) if path.exists()]
    assert not there, f"this looks like a real Ascend host, which tests leave alone: {there}"
    made: list[Path] = []
    try:
        for minor, node in enumerate(nodes):
            os.mknod(node, stat.S_IFCHR | 0o660, os.makedev(MAJOR, minor))
            made.append(node)
            # As on real hosts: HwHiAiUser's, and nobody else's.
            os.chown(node, HWHIAIUSER, HWHIAIUSER)
            node.chmod(0o660)
        for path in paths:
            _file(path / FOLDERS[str(path)] if str(path) in FOLDERS else path, folder, made)
        yield folder
    finally:
        for path in reversed(made):
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()


def answer_as(name: str) -> None:
    """Let npu-smi of the simulated host say from now on what it says on another."""
    for folder in ("bin", "sbin"):
        path = Path(f"/usr/local/{folder}/npu-smi")
        if path.is_file():
            path.write_text(_npu_smi(HOSTS / name), encoding="utf-8")


def _file(path: Path, folder: Path, made: list[Path]) -> None:
    missing = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    made += reversed(missing)
    if path.name == "npu-smi":
        path.write_text(_npu_smi(folder), encoding="utf-8")
        path.chmod(0o755)
    elif str(path) in FILES and (folder / FILES[str(path)]).is_file():
        path.write_text((folder / FILES[str(path)]).read_text(encoding="utf-8"), encoding="utf-8")
    else:
        path.write_text("stand-in\n", encoding="utf-8")
    made.append(path)


def _npu_smi(folder: Path) -> str:
    """Return a script that prints what the host's npu-smi printed; anything else is an error."""
    lines = ["#!/bin/sh", 'case "$*" in']
    for query, file in QUERIES.items():
        if (folder / file).is_file():
            text = (folder / file).read_text(encoding="utf-8").rstrip("\n")
            lines += [f"'{query}')", "cat <<'END'", text, "END", ";;"]
    return "\n".join([*lines, '*) echo "Error parameter of $*"; exit 1;;', "esac", ""])


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split()
