"""Reads an inventory, from this host or from a snapshot folder.

Both ways end in `assemble`, so that a snapshot of a host gives what the host itself gives.
"""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any

from appliance.errors import ApplianceError
from appliance.inventory.assemble import Sources, assemble
from appliance.inventory.model import Claim, FileFacts, Inventory, System

if TYPE_CHECKING:
    from collections.abc import Iterable

DRIVER_VERSION_FILE = Path("/usr/local/Ascend/driver/version.info")
INSTALL_INFO_FILE = Path("/etc/ascend_install.info")
# Where drivers put npu-smi (mind-cluster's lists of files to mount have both).
NPU_SMI_FOLDERS = ("/usr/local/bin", "/usr/local/sbin")
_NODE_NAME = re.compile(r"v?davinci|devmm_svm|hisi_hdc|dvpp|uburma|ummu")
_GIB = 1024**3


def live(candidates: Iterable[str], files: Iterable[str] = ()) -> Inventory:
    """Read this host.

    `candidates` are the paths whose existence matters to a plan, `files` those of which the
    owner and mode matter: the host is asked for these, its device nodes and npu-smi.
    """
    nodes = _device_nodes(Path("/dev"))
    paths = frozenset(path for path in candidates if Path(path).exists())
    sources = Sources(
        nodes=nodes,
        paths=paths,
        system=_system(),
        driver_info=_text_if_readable(DRIVER_VERSION_FILE),
        install_info=_text_if_readable(INSTALL_INFO_FILE),
    )
    if nodes or _has_npu_smi():
        from appliance.inventory import ask

        sources = ask.asked(sources)
    found = assemble(sources)
    looked_at = {*nodes, *paths, *files}
    return dataclasses.replace(found, files={name: _facts(Path(name)) for name in looked_at})


def _has_npu_smi() -> bool:
    """Tell whether there is an npu-smi, without starting anything."""
    return any(os.path.lexists(path) for path in npu_smi_paths())


def npu_smi_paths() -> list[str]:
    """Return where npu-smi can be: on the search path, and where drivers put it."""
    folders = [*os.environ.get("PATH", "").split(os.pathsep), *NPU_SMI_FOLDERS]
    return [os.path.join(os.path.abspath(folder), "npu-smi") for folder in folders if folder]  # noqa: PTH100, PTH118


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
    nodes = _text(folder / "dev.txt")
    unread = {name for name in ("dev.txt", "paths.txt") if not os.path.lexists(folder / name)}
    found = assemble(
        Sources(
            nodes=None if nodes is None else _nodes(nodes),
            paths=frozenset(line.rstrip("/") for line in _lines(folder / "paths.txt")),
            system=_snapshot_system(folder / "system.json"),
            info=_text(folder / "npu-smi-info.txt"),
            mapping=_text(folder / "npu-smi-info-m.txt"),
            listing=_text(folder / "npu-smi-info-l.txt"),
            topology=_text(folder / "npu-smi-topo.txt"),
            driver_info=_text(folder / "driver-version.info"),
            install_info=_text(folder / "ascend_install.info"),
            claims=_claims(folder / "appliances.json"),
        )
    )
    return dataclasses.replace(found, unread=frozenset(unread))


def _nodes(text: str) -> frozenset[str]:
    """Return the device nodes of dev.txt: paths, or what `ls` prints of them in any form.

    What `ls` says that it did not find is not there.
    """
    found = set()
    for line in text.splitlines():
        if re.search(r"cannot access|No such file|没有那个文件", line):
            continue
        for word in re.split(r"[\s'\"`,;:]+", line):
            if re.fullmatch(r"/dev/[\w./+-]+", word):
                found.add(word)
            elif re.fullmatch(r"[\w+-]+", word) and _NODE_NAME.match(word):
                found.add(f"/dev/{word}")
    return frozenset(found)


def _device_nodes(folder: Path) -> frozenset[str]:
    try:
        names = os.listdir(folder)  # noqa: PTH208 (names only: no stat of each node)
    except OSError:
        return frozenset()
    return frozenset(f"{folder}/{name}" for name in names if _NODE_NAME.match(name))


def _system() -> System:
    memory = None
    if match := re.search(r"MemTotal:\s*(\d+) kB", _text_if_readable(Path("/proc/meminfo")) or ""):
        memory = int(match[1]) * 1024 // _GIB
    os_id = None
    release = _text_if_readable(Path("/etc/os-release")) or ""
    if match := re.search(r'^ID="?([^"\n]+)', release, re.MULTILINE):
        os_id = match[1]
    return System(arch=os.uname().machine, os_id=os_id, cpus=os.cpu_count(), memory_gib=memory)


def _snapshot_system(path: Path) -> System:
    content = _json(path, dict)
    if content is None:
        return System()
    values: dict[str, Any] = {}
    for item in dataclasses.fields(System):
        value = content.get(item.name)
        if value is None:
            continue
        if item.name == "runtimes":
            values[item.name] = tuple(_typed(path, item.name, name, str) for name in _list(value))
        elif "int" in str(item.type):
            values[item.name] = int(_typed(path, item.name, value, (int, float)))
        else:
            values[item.name] = _typed(path, item.name, value, str)
    return System(**values)


def _claims(path: Path) -> tuple[Claim, ...]:
    """Return what other appliances of the host hold; a snapshot's own file."""
    claims = []
    for row in _json(path, list) or ():
        _typed(path, "an appliance", row, dict)
        if extra := set(row) - {"name", "devices", "api_port", "hccl_base_port"}:
            message = f"{path} can't be read: {', '.join(sorted(extra))} is no key of an appliance."
            raise ApplianceError("snapshot-invalid", message)
        ports = {key: row.get(key) for key in ("api_port", "hccl_base_port")}
        claims.append(
            Claim(
                name=_typed(path, "name", row.get("name"), str),
                devices=tuple(_die(path, node) for node in _list(row.get("devices", []))),
                **{k: None if v is None else _typed(path, k, v, int) for k, v in ports.items()},
            )
        )
    return tuple(claims)


def _die(path: Path, node: Any) -> str:
    if re.fullmatch(r"/dev/davinci\d+", _typed(path, "devices", node, str)) is None:
        raise ApplianceError(
            "snapshot-invalid", f"{path} can't be read: {node!r} is no path such as /dev/davinci0."
        )
    return str(node)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _typed(path: Path, name: str, value: Any, kind: type | tuple[type, ...]) -> Any:
    if isinstance(value, bool) or not isinstance(value, kind):
        raise ApplianceError("snapshot-invalid", f"{path} can't be read: {name} is {value!r}.")
    return value


def _json(path: Path, kind: type) -> Any:
    text = _text(path)
    if text is None:
        return None
    import json

    try:
        return _typed(path, "the document", json.loads(text), kind)
    except (ValueError, RecursionError) as error:
        raise ApplianceError("snapshot-invalid", f"{path} can't be read: {error}") from error


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ApplianceError("snapshot-invalid", f"{path} can't be read: {error}") from error


def _text_if_readable(path: Path) -> str | None:
    """Return a file of this host; one that may not be read is as if it were not there."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in (_text(path) or "").splitlines() if line.strip()]
