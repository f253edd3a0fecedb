"""Reads of the host what only the doctor asks for.

Each function reads one thing, and may take long or never return: a dead network file system, a
daemon that hangs. Whoever calls it bounds it in time.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.errors import ApplianceError
from appliance.inventory.facts import (
    Answer,
    ClockFacts,
    ContainerFacts,
    DiskFacts,
    EngineFacts,
    ImageFacts,
    KernelFacts,
    PartsFacts,
    PortFacts,
    WeightsFacts,
)
from appliance.inventory.model import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from appliance.engine.docker import Engine
    from appliance.plan.model import ImagePlan, ModelPlan

INSTALL_INFO = Path("/etc/ascend_install.info")
_PROC = Path("/proc")
_SYS = Path("/sys")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_VERSION = re.compile(r"\bv?(\d+\.\d+[\w.+-]*)")
# linux/timex.h: the kernel's own sign that nothing keeps the clock right.
_STA_UNSYNC = 0x40
# Where `status` is in struct timex, on machines with longs of 8 bytes.
_TIMEX_STATUS = slice(40, 44)
_TIMEX_BYTES = 256
_MODELSCOPE = "https://modelscope.cn"


def kernel() -> KernelFacts:
    """Return what the running kernel says: memory, security modules, ports."""
    memory = dict(re.findall(r"^(\w+):\s+(\d+) kB", _text(_PROC / "meminfo"), re.MULTILINE))
    ports = _text(_PROC / "sys/net/ipv4/ip_local_port_range").split()
    profiles = _text(_SYS / "kernel/security/apparmor/profiles")
    enforce = _text(_SYS / "fs/selinux/enforce")
    shared = None
    with suppress(OSError):
        shared = _size(os.statvfs("/dev/shm"))  # noqa: S108 (looked at, not written to)
    return KernelFacts(
        page_size=os.sysconf("SC_PAGE_SIZE"),
        memory_total=int(memory.get("MemTotal", 0)) * 1024,
        memory_available=int(memory.get("MemAvailable", 0)) * 1024,
        shared_memory=shared,
        selinux={"1": "enforcing", "0": "permissive"}.get(enforce, "off"),
        apparmor=_text(_SYS / "module/apparmor/parameters/enabled") == "Y",
        apparmor_profiles=frozenset(re.findall(r"^(\S+) \(", profiles, re.MULTILINE)) or None,
        local_ports=(int(ports[0]), int(ports[1])) if len(ports) > 1 else None,
        reserved_ports=_text(_PROC / "sys/net/ipv4/ip_local_reserved_ports"),
    )


def _text(path: Path) -> str:
    """Return what a file of /proc or /sys holds, nothing where it is absent or not for us."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _size(found: os.statvfs_result) -> int:
    return found.f_blocks * found.f_frsize


def clock() -> ClockFacts:
    """Return the time, and whether the kernel believes that something keeps it right."""
    synchronised = None
    if ctypes.sizeof(ctypes.c_long) == 8:  # noqa: PLR2004 (bytes; else the offset is another)
        timex = ctypes.create_string_buffer(_TIMEX_BYTES)
        # `modes` is 0: it asks, and changes nothing.
        with suppress(OSError, AttributeError):
            if ctypes.CDLL(None).adjtimex(timex) >= 0:
                status = int.from_bytes(timex.raw[_TIMEX_STATUS], "little")
                synchronised = not status & _STA_UNSYNC
    return ClockFacts(time.time(), synchronised)


def disk(path: str) -> DiskFacts:
    """Return the file system of a path, or of the nearest folder above it that exists."""
    folder = Path(path)
    while not folder.is_dir():
        if folder == folder.parent:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        folder = folder.parent
    found = os.statvfs(folder)
    return DiskFacts(
        folder=str(folder),
        device=folder.stat().st_dev,
        free=found.f_bavail * found.f_frsize,
        inodes=found.f_files,
        inodes_free=found.f_favail,
        writable=os.access(folder, os.W_OK | os.X_OK),
    )


def port(address: str, number: int) -> PortFacts:
    """Try to listen on a port of the host, for no longer than it takes to try."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, number))
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "EIO")
            return PortFacts(address, number, name, error.strerror or str(error))
    return PortFacts(address, number)


def install_info(path: Path = INSTALL_INFO) -> Mapping[str, str]:
    """Return what the driver's installer wrote down; raises OSError where it did not."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return dict(re.findall(r"^\s*(\w+)\s*=\s*(\S+)", text, re.MULTILINE))


def proxies(environment: Mapping[str, str]) -> frozenset[str]:
    """Return which proxy variables are set: their names, for their values may hold passwords."""
    return frozenset(
        name for name in _PROXIES if environment.get(name) or environment.get(name.lower())
    )


# What answers over the network


def hub_address() -> str:
    """Return where weights come from, with nothing secret in it."""
    from urllib.parse import urlsplit

    parts = urlsplit(os.environ.get("MODELSCOPE_ENDPOINT") or _MODELSCOPE)
    return f"{parts.scheme or 'https'}://{parts.hostname or ''}" + (
        f":{parts.port}" if parts.port else ""
    )


def reach(url: str, seconds: float) -> Answer:
    """Say whether the host of a URL takes connections: through the proxy, where one is set."""
    from urllib.parse import urlsplit
    from urllib.request import getproxies_environment, proxy_bypass

    wanted = urlsplit(url)
    host, name = wanted.hostname or "", wanted.netloc
    proxy = getproxies_environment().get(wanted.scheme)
    if proxy and not proxy_bypass(host):
        wanted = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        name = f"{name} through the proxy {wanted.hostname}"
    number = wanted.port or {"http": 80}.get(wanted.scheme, 443)
    try:
        with socket.create_connection((wanted.hostname or "", number), timeout=seconds):
            return Answer(name, ok=True)
    except TimeoutError:
        return Answer(name, ok=False, why=f"no answer within {seconds:g} s", silent=True)
    except OSError as error:
        return Answer(name, ok=False, why=error.strerror or str(error))


def registry(engine: Engine, name: str, seconds: float) -> Answer:
    """Ask the registry of an image's name, through the engine, whether it has it."""
    began = time.monotonic()
    found = engine.ask_registry(name, seconds)
    # The engine's own answer, "no such host" or "manifest unknown", comes before the limit.
    silent = found.digest is None and time.monotonic() - began > seconds * 0.9
    return Answer(name, found.digest is not None, found.why, silent)


# What Docker says


def engine(connection: Engine) -> EngineFacts:
    """Return what the engine says of itself; raises engine-unreachable, engine-failed."""
    from appliance.engine.docker import translated

    with translated():
        found: Mapping[str, Any] = connection.client.api.info()
    options = [str(option) for option in found.get("SecurityOptions") or ()]
    names = {"HTTP_PROXY": "HttpProxy", "HTTPS_PROXY": "HttpsProxy"}
    return EngineFacts(
        version=found.get("ServerVersion"),
        root=found.get("DockerRootDir"),
        runtimes=tuple(sorted(found.get("Runtimes") or ())),
        default_runtime=found.get("DefaultRuntime"),
        # Each is `name=seccomp,profile=builtin`; engines before 17.06 said the name alone.
        security=tuple(option.removeprefix("name=") for option in options),
        cgroup=found.get("CgroupVersion"),
        limits_memory=found.get("MemoryLimit"),
        cpus=found.get("NCPU"),
        proxies=frozenset(name for name, key in names.items() if found.get(key)),
    )


def parts(seconds: float) -> PartsFacts:
    """Return the versions of compose and buildx; where one is missing, what to install."""
    from appliance.engine import install

    compose = _plugin("compose", seconds)
    buildx = _plugin("buildx", seconds)
    problem = None
    if compose is None or buildx is None:
        try:
            install.ensure(install=False, on_line=lambda _: None)
        except ApplianceError as error:
            problem = Problem(error.id, error.message, error.remedy)
    return PartsFacts(compose, buildx, problem)


def _plugin(name: str, seconds: float) -> str | None:
    """Return the version of a plugin of the docker command, `None` where there is none."""
    try:
        process = subprocess.Popen(
            ["docker", name, "version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError:
        return None
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as error:
        # The plugin is a process of its own, and would outlive the command.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise TimeoutError(f"`docker {name} version` did not end within {seconds:g} s") from error
    found = _VERSION.search(output)
    return found[1] if process.returncode == 0 and found else None


def container(connection: Engine, name: str) -> ContainerFacts | None:
    """Return the container of the appliance's name, if there is one."""
    from appliance.engine import claims

    found = connection.container(name)
    if found is None:
        return None
    ports = {number for _, number in found.ports}
    if (claim := claims.of_labels(dict(found.labels))) and claim.api_port:
        ports.add(claim.api_port)
    return ContainerFacts(name, found.status, found.ours, tuple(sorted(ports)))


def image(connection: Engine, plan: ImagePlan) -> ImageFacts:
    """Say whether the image is here, and up to date; else whether a base for it is."""
    from appliance import paths
    from appliance.engine import images

    root = paths.checkout()
    if images.current(connection, plan) is not None:
        return ImageFacts(here=True, buildable=root is not None)
    base = images.base_here(connection, plan, root) if plan.base and root else None
    return ImageFacts(here=False, base=base, buildable=root is not None)


# The model folder


def weights(model: ModelPlan) -> WeightsFacts:
    """Say whether the model folder is complete, and readable for the container."""
    from appliance.weights import manifest as manifests
    from appliance.weights.verify import require_readable, verify

    folder = Path(model.host_path)
    try:
        found = verify(folder)
        require_readable(folder)
    except ApplianceError as error:
        problem = Problem(error.id, error.message, error.remedy)
        # What can't be read by the container is complete all the same: fetching mends nothing.
        complete = error.id == "weights-unreadable"
        return WeightsFacts(complete, _bytes(folder), problem)
    listed = manifests.read(folder) if model.source == "hub" else None
    if listed is not None and listed.revision != (model.revision or "master"):
        text = f"{folder} holds revision {listed.revision}."
        return WeightsFacts(
            complete=False, bytes=found.bytes, problem=Problem("weights-incomplete", text, "")
        )
    return WeightsFacts(complete=True, bytes=found.bytes)


def _bytes(folder: Path) -> int:
    total = 0
    for top, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += Path(top, name).stat().st_size
    return total
