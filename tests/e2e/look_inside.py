"""Runs inside a container: prints, as JSON, what it was really given."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

NODE = re.compile(r"davinci|devmm|hisi|ummu|uburma")


def opened(path: str) -> str:
    """Return what comes of opening a device node, by name: ENXIO is a node without a driver."""
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "opened"


def written(folder: str) -> str:
    """Return what comes of writing into a folder, or to a file."""
    path = f"{folder}/probe" if os.path.isdir(folder) else folder  # noqa: PTH112
    try:
        with open(path, "a", encoding="utf-8"):  # noqa: PTH123
            pass
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "written"


def made_node() -> str:
    """Return what comes of making a node for a die that was not given."""
    try:
        os.mknod("/tmp/davinci9", 0o20666, os.makedev(240, 9))
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "made"


def engine() -> dict[str, Any]:
    """Return the arguments and variables of the process that serves."""
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda p: int(p.name)):
        words = (process / "cmdline").read_text(encoding="utf-8").split("\0")[:-1]
        if "serve" in words and process.name != "1":
            variables = (process / "environ").read_text(encoding="utf-8").split("\0")[:-1]
            status = (process / "status").read_text(encoding="utf-8")
            return {
                "arguments": words[words.index("serve") + 1 :],
                "environment": dict(item.split("=", 1) for item in variables),
                "folder": str((process / "cwd").readlink()),
                "status": dict(re.findall(r"^(\w+):\s*(.*)$", status, re.MULTILINE)),
            }
    return {}


def mounts() -> dict[str, dict[str, Any]]:
    """Return the mount points, and whether each is read-only."""
    found = {}
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        fields = line.split()
        found[fields[4]] = {"read_only": "ro" in fields[5].split(",")}
    return found


def main() -> None:
    """Print all of it."""
    nodes = {
        f"/dev/{name}": {
            "number": [os.major(os.stat(f"/dev/{name}").st_rdev),  # noqa: PTH116
                       os.minor(os.stat(f"/dev/{name}").st_rdev)],  # noqa: PTH116
            "opened": opened(f"/dev/{name}"),
        }
        for name in os.listdir("/dev")  # noqa: PTH208
        if NODE.search(name)
    }  # fmt: skip
    points = mounts()
    driver = [path for path in points if re.search(r"Ascend|dcmi|npu-smi|ascend|hccn|models", path)]
    shm = os.statvfs("/dev/shm")
    print(
        json.dumps(
            {
                "nodes": nodes,
                "made_node": made_node(),
                "mounts": points,
                "written": {path: written(path) for path in [*driver, "/", "/etc", "/tmp/work"]},
                "shm_bytes": shm.f_frsize * shm.f_blocks,
                "engine": engine(),
            }
        )
    )


if __name__ == "__main__":
    main()
