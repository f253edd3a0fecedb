"""The doctor: each check where all is well and where it is not; facts that do not come; `up`."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest

from appliance.catalog import drivers
from appliance.catalog import load as catalog
from appliance.catalog.needs import needs
from appliance.config.model import CheckId, Config, Container, Doctor, Model, Server
from appliance.doctor import checks, gather, run
from appliance.doctor.model import Check, Finding, Report, Subject, failed, ok, warning
from appliance.errors import ERRORS, ApplianceError
from appliance.inventory import ask, read, system
from appliance.inventory.facts import (
    Answer,
    ClockFacts,
    ContainerFacts,
    DiskFacts,
    EngineFacts,
    HostFacts,
    ImageFacts,
    KernelFacts,
    Missing,
    PartsFacts,
    PortFacts,
    WeightsFacts,
)
from appliance.inventory.model import FileFacts, Inventory, Problem
from appliance.plan.make import make

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

pytestmark = pytest.mark.usefixtures("clean")

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ROOT / "tests" / "hosts"
GIB = 1024**3
A2 = "a2-8x64-idle"
NOTHING = "nothing"

KERNEL = KernelFacts(
    page_size=4096,
    memory_total=1510 * GIB,
    memory_available=1400 * GIB,
    shared_memory=755 * GIB,
    local_ports=(32768, 60999),
    reserved_ports="60000-60015",
)
ENGINE = EngineFacts(
    version="28.3.0",
    root="/var/lib/docker",
    runtimes=("ascend", "runc"),
    default_runtime="runc",
    security=("seccomp,profile=builtin", "cgroupns"),
    cgroup="2",
    limits_memory=True,
    cpus=192,
    proxies=frozenset(),
)
DISK = DiskFacts("/data", 1, 500 * GIB, 10**7, 9 * 10**6, writable=True)
OTHER_DISK = dataclasses.replace(DISK, folder="/models", device=2)
# A host on which all is well, and all is here.
WELL = HostFacts(
    kernel=KERNEL,
    clock=ClockFacts(1.8e9, synchronised=True),
    engine=ENGINE,
    parts=PartsFacts("2.38.1", "0.25.0"),
    container=None,
    image=ImageFacts(here=True),
    registry=(),
    weights=WeightsFacts(complete=True, bytes=60 * GIB),
    hub=None,
    disks={"image": DISK, "weights": OTHER_DISK},
    api_port=PortFacts("127.0.0.1", 8000),
    hccl_ports=(),
    install_info={"Driver_Install_Status": "complete"},
)
NODE = FileFacts(1000, 1000, 0o660, 0, regular=False)
FILE = FileFacts(0, 0, 0o755, 1)
ABSENT = ImageFacts(here=False)
TO_FETCH = WeightsFacts(complete=False, bytes=0, problem=Problem("weights-missing", "none", "x"))


def inventory(host: str = A2, **changes: Any) -> Inventory:
    """A snapshot as if it had been read on the host itself: with the owners of its files."""
    found = read.snapshot(HOSTS / host)
    files = {**dict.fromkeys(found.device_nodes, NODE), **dict.fromkeys(found.paths, FILE)}
    return dataclasses.replace(found, **{"files": files, **changes})


def subject(found: Inventory | None = None, config: Config | None = None, **facts: Any) -> Subject:
    """What the doctor looks at; by default an Atlas A2 on which all is well."""
    found, config = found or inventory(), config or Config()
    try:
        plan: Any = make(config, found, "/opt/models")
    except ApplianceError as error:
        plan = error
    return Subject(config, found, plan, dataclasses.replace(WELL, **facts))


def finding(check: str, examined: Subject) -> Finding:
    """The finding of the one check of this id."""
    (found,) = [made.finding for made in checks.examine(examined) if made.id == check]
    return found


# All of them


def test_on_a_sound_ascend_host_nothing_is_found() -> None:
    verdicts = {check.id: check.verdict for check in checks.examine(subject())}
    assert set(verdicts.values()) == {"ok", "skipped"}, verdicts
    assert {name for name, verdict in verdicts.items() if verdict == "skipped"} == {
        "hccl-ports", "cache-writable", "proxy", "registry", "hub",
    }  # fmt: skip


def test_on_a_sound_cpu_host_nothing_is_found() -> None:
    found = checks.examine(subject(inventory(NOTHING)))
    assert {check.verdict for check in found} == {"ok", "skipped"}
    npus = {check.id for check in found if check.group == checks.NPUS}
    skipped = {check.id for check in found if check.finding.evidence == "the platform is cpu"}
    assert skipped == {*npus, "container-runtime", "hccl-ports"}


def test_ids_are_stable_words_and_each_is_there_once() -> None:
    ids = [rule.id for rule in checks.RULES]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", name) for name in ids)
    # The configuration has a literal copy, for its schema.
    assert set(get_args(CheckId)) == set(ids) - checks.ESSENTIAL


def bad_subjects() -> Iterator[Subject]:
    for row in BAD.values():
        yield row[1]
    for host in sorted(HOSTS.iterdir()):
        found = read.snapshot(host)
        yield dataclasses.replace(subject(found), facts=gather.of_snapshot(found, host))
    yield Subject(Config(), Missing("dead"), Missing("dead", silent=True), HostFacts())


def test_every_finding_says_what_was_seen_and_bad_ones_what_to_do() -> None:
    seen = set()
    for examined in bad_subjects():
        for check in checks.examine(examined):
            seen.add(check.verdict)
            assert check.finding.evidence, check.id
            if check.verdict in {"ok", "skipped"}:
                assert not check.finding.remedy, check.id
            elif check.verdict in {"warning", "failed"}:
                assert check.finding.remedy, check.id
            if check.finding.problem:
                assert check.finding.problem.id in ERRORS, check.id
    assert len(seen) == 5


def test_every_check_is_seen_to_go_well_and_to_go_ill() -> None:
    well = {check.id for check in checks.examine(subject()) if check.verdict == "ok"}
    well |= {row[0] for row in GOOD.values()}
    ill = {row[0] for row in BAD.values()}
    ids = {rule.id for rule in checks.RULES}
    assert ids - well == set()
    assert ids - ill == set()


def test_a_host_that_can_not_be_read_is_said_and_the_rest_is_examined() -> None:
    silent = Missing("no answer within 14 s", silent=True)
    examined = Subject(Config(), silent, silent, dataclasses.replace(WELL, image=Missing("x")))
    assert finding("plan", examined).verdict == "failed"
    assert "no answer within 14 s" in finding("plan", examined).evidence
    assert finding("device-nodes", examined).verdict == "unknown"
    assert finding("engine", examined).verdict == "ok"


# Each of them, where something is wrong


def npu(found: Inventory, index: int, **changes: Any) -> Inventory:
    npus = list(found.npus)
    npus[index] = dataclasses.replace(npus[index], **changes)
    return dataclasses.replace(found, npus=tuple(npus))


def without(path: str) -> Inventory:
    found = inventory()
    return dataclasses.replace(
        found, paths=found.paths - {path}, device_nodes=found.device_nodes - {path}
    )


def with_files(**changes: FileFacts) -> Inventory:
    found = inventory()
    files = {
        path: next((facts for word, facts in changes.items() if word in path), old)
        for path, old in found.files.items()
    }
    return dataclasses.replace(found, files=files)


def engine(**changes: Any) -> EngineFacts:
    return dataclasses.replace(ENGINE, **changes)


def kernel(**changes: Any) -> KernelFacts:
    return dataclasses.replace(KERNEL, **changes)


def box(**keys: Any) -> Config:
    return Config(container=Container(**keys))


def arguments(*words: str) -> Config:
    return Config(server=Server(extra_args=list(words)))


HOST_NETWORK = Config(server=Server(network="host"))
HCCL = tuple(PortFacts("0.0.0.0", number) for number in range(60000, 60016))
SMALL = dataclasses.replace(DISK, free=5 * GIB)
LOCAL = inventory(NOTHING)
NO_SUCH_HOST = Answer("quay.io/x:1", ok=False, why="no such host")
SILENT = Answer("quay.io/x:1", ok=False, why="no answer within 2 s", silent=True)
PROXY = frozenset({"HTTPS_PROXY"})
FOREIGN = ContainerFacts("qwen3-omni", "running", ours=False, ports=(8000,))
OWN = ContainerFacts("qwen3-omni", "running", ours=True, ports=(8000,))
BUSY = PortFacts("127.0.0.1", 8000, "EADDRINUSE", "Address already in use")
JEMALLOC = box(environment={"LD_PRELOAD": "/usr/lib/libjemalloc.so.2"})
HUB_DOWN = Answer("modelscope.cn", ok=False, why="Name or service not known")
UNREADABLE = WeightsFacts(True, 9, Problem("weights-unreadable", "x can't be read", "chmod"))

# name: (check, subject, verdict, words of the evidence, id of the error that `up` ends with)
BAD: Mapping[str, tuple[str, Subject, str, str, str | None]] = {
    "no plan": (
        "plan", subject(inventory("910a")), "failed", "does not support", "host-unsupported",
    ),
    "a loosened plan": (
        "plan", subject(config=box(privileged=True)), "warning", "privileged", None,
    ),
    "no NPU": (
        "device-nodes",
        subject(inventory(npus=(), device_nodes=frozenset()), Config(product="atlas-a2")),
        "failed", "no /dev/davinciN", "devices-missing",
    ),
    "nodes that are no die's": (
        "device-nodes", subject(inventory(npus=()), Config(product="atlas-a2")), "warning",
        "can't be told", None,
    ),
    "no manager": (
        "device-nodes", subject(without("/dev/hisi_hdc")), "failed", "/dev/hisi_hdc",
        "devices-missing",
    ),
    "a node for its owner alone": (
        "device-access", subject(with_files(davinci0=FileFacts(1000, 1000, 0o600, 0, False))),
        "failed", "/dev/davinci0 (uid 1000, gid 1000, mode 600)", None,
    ),
    "a node that can only be read": (
        "device-access", subject(with_files(hisi=FileFacts(0, 0, 0o444, 0, False))),
        "failed", "/dev/hisi_hdc", None,
    ),
    "nobody says who owns the nodes": (
        "device-access", subject(inventory(files={})), "unknown", "not known", None,
    ),
    "a refused driver": (
        "driver-version", subject(inventory(driver_version="25.0.2")), "failed",
        "does not work with 25.0.x", None,
    ),
    "an ancient driver": (
        "driver-version", subject(inventory(driver_version="24.1.0.3")), "failed", "24.1.0.3", None,
    ),
    "a driver without graphs, which are asked for": (
        "driver-version",
        subject(
            inventory(driver_version="25.5.0"),
            arguments("--compilation-config", '{"cudagraph_mode": "FULL_AND_PIECEWISE"}'),
        ),
        "warning", "needs 25.5.1", None,
    ),
    "a driver from the future": (
        "driver-version", subject(inventory(driver_version="27.1.0")), "unknown",
        "newer than the matrix", None,
    ),
    "no driver version": (
        "driver-version", subject(inventory(driver_version=None)), "unknown", "version.info", None,
    ),
    "half a driver": (
        "driver-install", subject(install_info={"Driver_Install_Path_Param": "/usr/local/Ascend"}),
        "warning", "(nothing)", None,
    ),
    "a driver elsewhere": (
        "driver-install",
        subject(install_info={
            "Driver_Install_Status": "complete", "Driver_Install_Path_Param": "/opt/Ascend",
        }),
        "warning", "/opt/Ascend", None,
    ),
    "no driver files": (
        "driver-paths", subject(without("/usr/local/dcmi")), "failed", "/usr/local/dcmi",
        "devices-missing",
    ),
    "driver files for their owner alone": (
        "driver-paths", subject(with_files(lib64=FileFacts(1000, 1000, 0o700, 1))), "failed",
        "lib64", None,
    ),
    "no npu-smi": (
        "npu-smi",
        subject(inventory(
            "synthetic-atlas-a2", paths=inventory().paths - {"/usr/local/bin/npu-smi"},
        ), Config(product="atlas-a2")),
        "warning", "neither in /usr/local/bin", None,
    ),
    "a silent npu-smi": (
        "npu-smi", subject(inventory("a2-npu-smi-fails")), "unknown", "said nothing", None,
    ),
    "a planned die is ill": (
        "npu-health",
        dataclasses.replace(subject(), inventory=npu(inventory(), 0, health="Alarm")),
        "failed", "/dev/davinci0 Alarm", None,
    ),
    "dies are ill and none is planned": (
        "npu-health",
        dataclasses.replace(
            subject(inventory("a2-unhealthy")), plan=ApplianceError("npus-unavailable", "x")
        ),
        "warning", "3 of 8", None,
    ),
    "too few free dies": (
        "npu-free", subject(inventory("a3-busy")), "failed", "1 of 16 dies are free", None,
    ),
    "dies too small": (
        "npu-memory", subject(inventory("a2-32gb")), "failed", "32 GiB", None,
    ),
    "few CPUs": (
        "cpu-binding", subject(engine=engine(cpus=32)), "warning", "32 CPUs for 8 dies: 4", None,
    ),
    "no engine": (
        "engine",
        subject(engine=Missing("x", problem=Problem("engine-unreachable", "It is off.", "On."))),
        "failed", "It is off.", "engine-unreachable",
    ),
    "an engine that hangs": (
        "engine", subject(engine=Missing("no answer within 2 s", silent=True)), "failed",
        "no answer within 2 s", "engine-unreachable",
    ),
    "openEuler's engine": (
        "engine-version", subject(engine=engine(version="18.09.0")), "failed", "pthread_create",
        None,
    ),
    "an engine of 2021": (
        "engine-version", subject(engine=engine(version="20.10.9")), "failed", "20.10.10", None,
    ),
    "an engine of 2022": (
        "engine-version", subject(engine=engine(version="20.10.24+dfsg1")), "warning", "23.0", None,
    ),
    "no compose": (
        "compose",
        subject(parts=PartsFacts(None, "0.1", Problem("engine-missing", "No compose.", "apt"))),
        "failed", "No compose.", "engine-missing",
    ),
    "an old buildx": (
        "buildx", subject(parts=PartsFacts("2.38.1", "0.5.1-docker")), "failed", "0.6", None,
    ),
    "a foreign container": (
        "container-name", subject(container=FOREIGN), "failed", "not an appliance's",
        "container-start-failed",
    ),
    "no such runtime": (
        "container-runtime",
        subject(config=box(runtime="ascend"), engine=engine(runtimes=("runc",))),
        "failed", "has only runc", None,
    ),
    "a rootless engine": (
        "engine-users", subject(engine=engine(security=("seccomp", "rootless"))), "warning",
        "rootless", None,
    ),
    "mapped users": (
        "engine-users", subject(engine=engine(security=("userns", "seccomp"))), "warning",
        "userns-remap", None,
    ),
    "no seccomp": (
        "seccomp", subject(engine=engine(security=("apparmor",))), "warning", "filters no", None,
    ),
    "seccomp unconfined": (
        "seccomp", subject(engine=engine(security=("seccomp,profile=unconfined",))), "warning",
        "unconfined", None,
    ),
    "selinux": (
        "selinux",
        subject(kernel=kernel(selinux="enforcing"), engine=engine(security=("seccomp", "selinux"))),
        "warning", "confines containers", None,
    ),
    "apparmor without its profile": (
        "apparmor",
        subject(
            kernel=kernel(apparmor=True, apparmor_profiles=frozenset({"other"})),
            engine=engine(security=("apparmor",)),
        ),
        "warning", "docker-default is not loaded", None,
    ),
    "no limit on memory": (
        "cgroup", subject(config=box(memory="64g"), engine=engine(limits_memory=False)), "warning",
        "64g", None,
    ),
    "no image and no checkout": (
        "image", subject(image=ImageFacts(here=False, buildable=False)), "failed", "not here",
        "not-a-checkout",
    ),
    "no room for the image": (
        "disk-image", subject(image=ABSENT, disks={"image": SMALL}), "failed",
        "needs 30 GiB; 5.0 GiB are free in /data", "disk-full",
    ),
    "no room for an image that may be here": (
        "disk-image", subject(image=Missing("x"), disks={"image": SMALL}), "warning", "5.0", None,
    ),
    "no room for the layer": (
        "disk-image",
        subject(
            image=ImageFacts(here=False, base="b"),
            disks={"image": dataclasses.replace(DISK, free=GIB // 2)},
        ),
        "failed", "needs 1 GiB", "disk-full",
    ),
    "no inodes": (
        "inodes",
        subject(image=ABSENT, disks={"image": dataclasses.replace(DISK, inodes_free=900)}),
        "failed", "900 of 10000000", "disk-full",
    ),
    "a folder that is incomplete": (
        "weights",
        subject(
            config=Config(model=Model(path="/data/Qwen3-Omni-30B-A3B-Thinking")),
            weights=WeightsFacts(False, 9, Problem("weights-incomplete", "shard 3", "again")),
        ),
        "failed", "shard 3", "weights-incomplete",
    ),
    "weights that the container can't read": (
        "weights", subject(weights=UNREADABLE), "failed", "can't be read", "weights-unreadable",
    ),
    "no room for the weights": (
        "disk-weights", subject(weights=TO_FETCH, disks={"image": DISK, "weights": SMALL}),
        "failed", "59.4 GiB of weights", "disk-full",
    ),
    "room for either, not for both": (
        "disk-weights",
        subject(
            image=ABSENT,
            weights=TO_FETCH,
            disks=dict.fromkeys(("image", "weights"), dataclasses.replace(DISK, free=80 * GIB)),
        ),
        "failed", "30 GiB for the image go to the same disk", "disk-full",
    ),
    "a cache of another user": (
        "cache-writable",
        subject(
            weights=TO_FETCH,
            disks={"weights": dataclasses.replace(DISK, writable=False)},
        ),
        "failed", "not for this user to write", "weights-fetch-failed",
    ),
    "a host too small": (
        "memory", subject(LOCAL, kernel=kernel(memory_total=2 * GIB)), "failed", "2.0 GiB", None,
    ),
    "a host that may be too small": (
        "memory", subject(kernel=kernel(memory_total=8 * GIB)), "warning", "8.0 GiB", None,
    ),
    "memory in use": (
        "memory", subject(kernel=kernel(memory_available=4 * GIB)), "warning", "4.0 GiB", None,
    ),
    "a limit too low": (
        "memory", subject(LOCAL, box(memory="2g")), "failed", "would kill it", None,
    ),
    "KV cache beyond the memory": (
        "memory",
        subject(
            LOCAL,
            box(environment={"VLLM_CPU_KVCACHE_SPACE": "40"}),
            kernel=kernel(memory_total=32 * GIB),
        ),
        "failed", "about 42.0 GiB", None,
    ),
    "shm beyond the limit": (
        "shm", subject(config=box(shm_size="32g", memory="32g")), "failed", "32.0 GiB", None,
    ),
    "shm beyond the memory": (
        "shm", subject(config=box(shm_size="900g")), "warning", "900.0 GiB", None,
    ),
    "large pages": (
        "page-size", subject(config=JEMALLOC, kernel=kernel(page_size=65536)), "warning",
        "Unsupported system page size", None,
    ),
    "a port in use": (
        "api-port", subject(api_port=BUSY), "failed", "127.0.0.1, port 8000", "port-in-use",
    ),
    "a port in use by another's container": (
        "api-port", subject(api_port=BUSY, container=FOREIGN), "failed", "8000", "port-in-use",
    ),
    "a port in use by nobody knows whom": (
        "api-port", subject(api_port=BUSY, container=Missing("x")), "unknown", "in use", None,
    ),
    "an address of another host": (
        "api-port", subject(api_port=PortFacts("10.9.9.9", 80, "EADDRNOTAVAIL", "No such.")),
        "failed", "10.9.9.9", "config-invalid",
    ),
    "HCCL's ports in use": (
        "hccl-ports",
        subject(
            config=HOST_NETWORK,
            hccl_ports=(*HCCL[:3], PortFacts("0.0.0.0", 60003, "EADDRINUSE", "x"), *HCCL[4:]),
        ),
        "failed", "in use: 60003", None,
    ),
    "HCCL's ports not reserved": (
        "hccl-ports",
        subject(config=HOST_NETWORK, hccl_ports=HCCL, kernel=kernel(reserved_ports="60000-60014")),
        "warning", "60000-60015", None,
    ),
    "a proxy here alone": (
        "proxy", subject(image=ABSENT, proxies=PROXY), "warning", "HTTPS_PROXY", None,
    ),
    "a proxy for the engine alone": (
        "proxy", subject(weights=TO_FETCH, engine=engine(proxies=PROXY)), "warning", "weights",
        None,
    ),
    "no registry": (
        "registry", subject(image=ABSENT, registry=(NO_SUCH_HOST,)), "failed",
        "quay.io/x:1: no such host", "image-unavailable",
    ),
    "a silent registry": (
        "registry", subject(image=ABSENT, registry=(SILENT, NO_SUCH_HOST)), "warning",
        "waits for 5 s", None,
    ),
    "no registry, and a base can be made": (
        "registry", subject(LOCAL, image=ABSENT, registry=(NO_SUCH_HOST,)), "warning",
        "no such host", None,
    ),
    "no hub": (
        "hub", subject(weights=TO_FETCH, hub=HUB_DOWN), "failed", "Name or service not known",
        "weights-fetch-failed",
    ),
    "a silent hub": (
        "hub", subject(weights=TO_FETCH, hub=dataclasses.replace(HUB_DOWN, silent=True)),
        "warning", "modelscope.cn", None,
    ),
    "a clock of 1970, and nothing to fetch": (
        "clock", subject(clock=ClockFacts(0, synchronised=True)), "warning", "1970-01-01", None,
    ),
    "a clock of 1970, and TLS to come": (
        "clock", subject(image=ABSENT, clock=ClockFacts(0, synchronised=True)), "failed",
        "certificate", None,
    ),
    "a clock that nobody keeps, and TLS to come": (
        "clock", subject(image=ABSENT, clock=ClockFacts(1.8e9, synchronised=False)), "warning",
        "keeps the clock right", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_found(name: str) -> None:
    check, examined, verdict, words, error = BAD[name]
    found = finding(check, examined)
    assert (found.verdict, found.problem.id if found.problem else None) == (verdict, error)
    assert words in found.evidence


# name: (check, subject, words of the evidence): ok, though it is near to what is not
GOOD: Mapping[str, tuple[str, Subject, str]] = {
    "all nodes through root's own": (
        "device-access", subject(with_files(d=FileFacts(0, 0, 0o600, 0, False))), "usable",
    ),
    "privileged": (
        "device-access",
        subject(with_files(d=FileFacts(9, 9, 0, 0, False)), box(privileged=True)),
        "privileged",
    ),
    "an old driver, and a plan that minds it": (
        "driver-version", subject(inventory(driver_version="25.5.0")), "is not used",
    ),
    "an old driver, and no such graphs": (
        "driver-version",
        subject(inventory(driver_version="25.5.0"), arguments("--enforce-eager")), "25.5.x",
    ),
    "an old driver, and another mode": (
        "driver-version",
        subject(
            inventory(driver_version="25.5.0"),
            arguments("--compilation-config", '{"cudagraph_mode": "FULL_DECODE_ONLY"}'),
        ),
        "25.5.x",
    ),
    "an old driver, and an old release": (
        "driver-version", subject(inventory(driver_version="25.5.0"), Config(release="v0.18.0")),
        "CANN 8.5.1",
    ),
    "a release candidate": (
        "driver-version", subject(inventory(driver_version="26.0.rc1")), "26.0.x",
    ),
    "ill dies that are not planned": (
        "npu-health", subject(inventory("a2-unhealthy")), "/dev/davinci5 Critical",
    ),
    "dies of others": (
        "npu-free", subject(inventory("a2-partly-busy")), "5 of 8 dies are free",
    ),
    "this appliance's own container": ("container-name", subject(container=OWN), "own container"),
    "the default runtime is Ascend's": (
        "container-runtime", subject(engine=engine(default_runtime="ascend")), "does nothing here",
    ),
    "Ascend's runtime, asked for": (
        "container-runtime", subject(config=box(runtime="ascend")), "ascend; the engine has",
    ),
    "selinux, but not in containers": (
        "selinux", subject(kernel=kernel(selinux="enforcing")), "does not confine",
    ),
    "apparmor with its profile": (
        "apparmor",
        subject(
            kernel=kernel(apparmor=True, apparmor_profiles=frozenset({"docker-default"})),
            engine=engine(security=("apparmor", "seccomp")),
        ),
        "docker-default",
    ),
    "profiles that may not be read": (
        "apparmor", subject(kernel=kernel(apparmor=True), engine=engine(security=("apparmor",))),
        "docker-default",
    ),
    "a limit on memory that the kernel keeps": (
        "cgroup", subject(config=box(memory="64g")), "version 2",
    ),
    "HCCL's ports, held by this appliance itself": (
        "hccl-ports",
        subject(
            config=HOST_NETWORK,
            hccl_ports=[PortFacts("0.0.0.0", port.port, "EADDRINUSE", "x") for port in HCCL],
            container=OWN,
        ),
        "60000-60015",
    ),
    "HCCL's ports, and nothing is known of the kernel": (
        "hccl-ports",
        subject(config=HOST_NETWORK, hccl_ports=HCCL, kernel=Missing("x")),
        "60000-60015: free",
    ),
    "no proxy anywhere": ("proxy", subject(image=ABSENT), "here: none; the engine: none"),
    "an image to be built on a base that is here": (
        "image", subject(image=ImageFacts(here=False, base="the-base")), "the-base",
    ),
    "an image that is used as it is": ("disk-image", subject(disks={}), "no more room"),
    "no inodes are counted": (
        "inodes", subject(disks={"image": dataclasses.replace(DISK, inodes=0)}), "does not count",
    ),
    "weights to fetch": ("weights", subject(weights=TO_FETCH), "the rest is fetched"),
    "room for weights on another disk": (
        "disk-weights",
        subject(
            image=ABSENT,
            weights=TO_FETCH,
            disks={
                "image": dataclasses.replace(DISK, free=31 * GIB),
                "weights": dataclasses.replace(OTHER_DISK, free=60 * GIB),
            },
        ),
        "59.4 GiB",
    ),
    "room for what is left of the weights": (
        "disk-weights",
        subject(
            weights=dataclasses.replace(TO_FETCH, bytes=58 * GIB),
            disks={"image": DISK, "weights": dataclasses.replace(OTHER_DISK, free=2 * GIB)},
        ),
        "1.4 GiB of weights",
    ),
    "a cache that can be written": (
        "cache-writable", subject(weights=TO_FETCH), "/models can be written",
    ),
    "memory that this appliance itself uses": (
        "memory", subject(kernel=kernel(memory_available=GIB), container=OWN), "1510.0 GiB",
    ),
    "weights larger than the memory": (
        "memory",
        subject(kernel=kernel(memory_total=48 * GIB, memory_available=40 * GIB)),
        "every start reads them from disk",
    ),
    "large pages without jemalloc": (
        "page-size", subject(kernel=kernel(page_size=65536)), "64 KiB; no jemalloc",
    ),
    "jemalloc on usual pages": ("page-size", subject(config=JEMALLOC), "libjemalloc"),
    "this appliance's own port": (
        "api-port", subject(api_port=BUSY, container=OWN), "own container",
    ),
    "a low port": (
        "api-port", subject(api_port=PortFacts("127.0.0.1", 80, "EACCES", "x")), "the engine",
    ),
    "HCCL's ports": ("hccl-ports", subject(config=HOST_NETWORK, hccl_ports=HCCL), "kept from"),
    "HCCL's ports beyond the range": (
        "hccl-ports",
        subject(
            config=HOST_NETWORK,
            hccl_ports=HCCL,
            kernel=kernel(local_ports=(32768, 59999), reserved_ports=""),
        ),
        "kept from",
    ),
    "proxies for both": (
        "proxy",
        subject(image=ABSENT, weights=TO_FETCH, proxies=PROXY, engine=engine(proxies=PROXY)),
        "HTTPS_PROXY",
    ),
    "a mirror answers": (
        "registry",
        subject(image=ABSENT, registry=(NO_SUCH_HOST, Answer("m.example/x:1", ok=True))),
        "m.example/x:1",
    ),
    "the hub answers": (
        "hub", subject(weights=TO_FETCH, hub=Answer("modelscope.cn", ok=True)), "modelscope.cn",
    ),
    "a clock that nobody keeps": (
        "clock", subject(clock=ClockFacts(1.8e9, synchronised=False)), "nothing that keeps",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_what_is_not_wrong_is_not_found(name: str) -> None:
    check, examined, words = GOOD[name]
    found = finding(check, examined)
    assert found.verdict == "ok", found
    assert words in found.evidence


HALF_TOLD = npu(npu(inventory(), 0, health=None), 2, health=None)
# name: (check, subject, words of the evidence): it can't be told
DARK: Mapping[str, tuple[str, Subject, str]] = {
    "a planned die of unknown health": (
        "npu-health", dataclasses.replace(subject(), inventory=HALF_TOLD), "does not say how",
    ),
    "a planned die of unknown use": (
        "npu-free",
        dataclasses.replace(subject(), inventory=npu(inventory(), 0, hbm_used_mib=None)),
        "used for",
    ),
    "a model of unknown size": (
        "disk-weights",
        subject(LOCAL, Config(model=Model(id="somebody/some-model")), weights=TO_FETCH),
        "how large somebody/some-model is",
    ),
    "weights of which nothing is known": (
        "weights", subject(weights=Missing("no answer within 2 s", silent=True)), "no answer",
    ),
    "a cache on a dead disk": (
        "cache-writable",
        subject(weights=TO_FETCH, disks={"weights": Missing("no answer within 2 s")}),
        "no answer",
    ),
    "a cache of which a snapshot says nothing": (
        "cache-writable",
        subject(
            weights=TO_FETCH, disks={"weights": dataclasses.replace(DISK, writable=None)},
        ),
        "does not say",
    ),
    "a host of unknown memory": (
        "memory",
        subject(
            dataclasses.replace(LOCAL, system=dataclasses.replace(LOCAL.system, memory_gib=None)),
            kernel=Missing("x"),
        ),
        "how much memory",
    ),
    "HCCL without ports": ("hccl-ports", subject(config=HOST_NETWORK, hccl_ports=()), "no ports"),
}  # fmt: skip


@pytest.mark.parametrize("name", DARK)
def test_what_can_not_be_told_is_unknown(name: str) -> None:
    check, examined, words = DARK[name]
    found = finding(check, examined)
    assert found.verdict == "unknown", found
    assert words in found.evidence


def test_of_many_dies_that_are_taken_some_are_named() -> None:
    evidence = finding("npu-free", subject(inventory("a3-busy"))).evidence
    assert evidence.count("in use by") == 3
    assert "and 12 more" in evidence


def test_what_the_inventory_found_is_passed_on() -> None:
    found = finding("host-npu-memory-held", subject(npu_held()))
    assert (found.verdict, found.remedy) == ("warning", "See who.")
    unplanned = subject(inventory("a2-npu-smi-fails"))
    assert finding("host-product-unknown", unplanned).verdict == "failed"
    named = subject(inventory("synthetic-atlas-a2"), Config(product="atlas-a2"))
    assert finding("host-product-unknown", named).verdict == "ok"


def npu_held() -> Inventory:
    return inventory(problems=(Problem("npu-memory-held", "Somebody has it.", "See who."),))


# What may fail, and what `up` says


def test_a_check_that_may_fail_is_a_warning_and_says_so() -> None:
    config = Config(doctor=Doctor(skip=["api-port"]))
    found = finding("api-port", subject(config=config, api_port=BUSY))
    assert found.verdict == "warning"
    assert "doctor.skip" in found.evidence
    assert found.problem is None
    other = finding("disk-image", subject(config=config, image=ABSENT, disks={"image": SMALL}))
    assert other.verdict == "failed"


def report(*findings: Finding) -> Report:
    made = [Check(f"check-{n}", "Title", "Group", found) for n, found in enumerate(findings)]
    return Report(tuple(made), 1.0)


def test_without_a_failure_there_is_no_error() -> None:
    made = report(ok("x"), warning("y", "z"), Finding("unknown", "x"), Finding("skipped", "x"))
    assert made.error is None
    assert made.as_dict()["ok"] is True


def test_a_failure_without_an_error_of_its_own_is_doctor_failed() -> None:
    error = report(failed("too old", "upgrade"), ok("x"), failed("too small", "grow")).error
    assert error is not None
    assert (error.id, error.exit_code) == ("doctor-failed", 92)
    for words in ("check-0: too old", "next: upgrade", "check-2: too small", "next: grow"):
        assert words in error.message
    assert "check-1" not in error.message


def test_an_error_with_an_id_of_its_own_wins_and_the_others_are_named() -> None:
    made = report(failed("too old", "upgrade"), failed("taken", "stop it", "port-in-use"))
    error = made.error
    assert error is not None
    assert (error.id, error.exit_code, error.remedy) == ("port-in-use", 78, "stop it")
    assert error.message.startswith("taken\n")
    assert "check-0: too old" in error.message
    alone = report(failed("taken", "stop it", "port-in-use")).error
    assert alone is not None
    assert alone.message == "taken"


def test_a_report_is_one_document_with_what_each_check_found() -> None:
    document = report(failed("too old", "upgrade"), ok("fine")).as_dict()
    assert document == {
        "ok": False,
        "seconds": 1.0,
        "checks": [
            {
                "id": "check-0", "title": "Title", "verdict": "failed", "evidence": "too old",
                "remedy": "upgrade",
            },
            {"id": "check-1", "title": "Title", "verdict": "ok", "evidence": "fine", "remedy": ""},
        ],
    }  # fmt: skip


# The dated matrix of drivers


@pytest.mark.parametrize(
    ("cann", "driver", "verdict"),
    [
        ("9.1.0", "25.0.1", "old"),
        ("9.1.0", "24.1.0.3", "old"),
        ("9.1.0", "23.0.rc1", "old"),
        ("9.1.0", "25.2.0", "ok"),
        ("9.1.0", "25.5.2", "ok"),
        ("9.1.0", "26.0.rc1", "ok"),
        ("9.1.1", "26.1.0", "ok"),
        ("9.1.0", "25.4.0", "unknown"),
        ("9.1.0", "26.2.0", "unknown"),
        ("9.1.0", "unheard of", "unknown"),
        ("8.5.0", "25.5.0", "ok"),
        # Nobody says that it does not work: it is unknown, however old.
        ("8.5.0", "24.1.0", "unknown"),
        ("8.5.2", "25.0.1", "ok"),
        ("10.0.0", "25.5.2", "unknown"),
    ],
)
def test_drivers_are_judged_by_what_is_written(cann: str, driver: str, verdict: str) -> None:
    judgement = drivers.judge(cann, driver)
    assert judgement.verdict == verdict
    assert judgement.why


def test_a_driver_that_is_not_listed_is_told_from_one_that_is_too_new() -> None:
    assert "newer than the matrix" in drivers.judge("9.1.0", "26.2.0").why
    assert "does not list it" in drivers.judge("9.1.0", "25.4.0").why
    assert "does not list it" in drivers.judge("8.5.0", "24.1.0").why


def test_every_statement_has_a_source_and_a_date() -> None:
    stated: list[Any] = [*drivers.rows().values(), *drivers.features().values()]
    assert stated
    for row in stated:
        assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", row.date)
        assert "github.com/" in row.source


def test_every_release_of_the_catalog_is_in_the_matrix() -> None:
    for name, release in catalog.releases().items():
        row = drivers.judge(release.cann, "25.5.1").row
        assert row is not None, name
        assert drivers.judge(release.cann, row.recommended).verdict == "ok", name


def test_versions_are_compared_as_versions() -> None:
    mixed = ["26.0.rc1", "25.5.1", "9.1", "25.5.RC1", "20.10.10+dfsg1", "25.5.0", "20.10.9"]
    assert sorted(mixed, key=drivers.order) == [
        "9.1", "20.10.9", "20.10.10+dfsg1", "25.5.RC1", "25.5.0", "25.5.1", "26.0.rc1",
    ]  # fmt: skip


def test_needs_are_for_every_platform() -> None:
    assert set(needs().image) == set(needs().memory) == set(catalog.platforms())
    for need in needs().versions.values():
        assert drivers.order(need.floor) <= drivers.order(need.advised)


# Facts, and those that do not come


def test_a_read_that_hangs_keeps_nothing_waiting() -> None:
    forever = threading.Event()
    readings = gather.Readings(0.2)
    hanging = readings.start(forever.wait)
    quick = readings.start(lambda: 7)
    found = hanging()
    assert isinstance(found, Missing)
    assert found.silent
    assert "0.2 s" in found.why
    assert quick() == 7
    assert not forever.is_set()
    forever.set()


@pytest.mark.parametrize(
    ("error", "words", "silent"),
    [
        (FileNotFoundError(2, "No such file", "/x/y"), "/x/y: No such file", False),
        (TimeoutError("not within 2 s"), "not within 2 s", True),
        (RuntimeError("unforeseen"), "RuntimeError: unforeseen", False),
    ],
)
def test_a_read_that_fails_says_why(error: Exception, words: str, silent: bool) -> None:
    def fail() -> int:
        raise error

    found = gather.Readings(5).start(fail)()
    assert isinstance(found, Missing)
    assert (found.why, found.silent) == (words, silent)


def test_a_read_that_ends_with_an_error_keeps_its_id() -> None:
    def fail() -> int:
        raise ApplianceError("engine-unreachable", "It is off.")

    found = gather.Readings(5).start(fail)()
    assert isinstance(found, Missing)
    assert found.problem == Problem(
        "engine-unreachable", "It is off.", ERRORS["engine-unreachable"].remedy
    )


@pytest.fixture
def silent_socket(tmp_path: Path) -> Iterator[str]:
    """A socket that takes connections and never answers, as an engine that hangs."""
    path = str(tmp_path / "s.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(64)
        yield f"unix://{path}"


def cli(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "appliance", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def verdicts(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, str]]:
    assert "Traceback" not in done.stderr
    return {check["id"]: check for check in json.loads(done.stdout)["checks"]}


def test_an_engine_that_never_answers_does_not_hang_the_doctor(silent_socket: str) -> None:
    done = cli(
        "doctor", "--json", "--set", "platform=cpu", "--set", "doctor.timeout=0.5",
        DOCKER_HOST=silent_socket,
    )  # fmt: skip
    assert done.returncode == 92
    found = verdicts(done)
    assert found["engine"]["verdict"] == "failed"
    assert "no answer within 0.5 s" in found["engine"]["evidence"]
    assert found["image"]["verdict"] == found["disk-image"]["verdict"] == "unknown"
    # What other appliances hold is not known, and the plan says so.
    assert found["plan"]["verdict"] == "warning"
    assert found["memory"]["verdict"] == "ok"


def test_an_npu_smi_that_never_answers_does_not_hang_the_doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "npu-smi"
    program.write_text("#!/bin/sh\nexec sleep 300\n", encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    monkeypatch.setattr(gather.Gathering, "_connect", lambda _: Missing("not asked"))
    monkeypatch.setattr(ask, "TIMEOUT", 0.3)
    made = {check.id: check for check in run.host(Config(platform="ascend")).checks}
    assert "did not answer in time" in made["host-npu-smi-timeout"].finding.evidence
    assert made["plan"].verdict == "failed"
    assert made["clock"].verdict == "ok"


def test_an_engine_that_is_not_there_is_said_and_the_rest_is_examined() -> None:
    code, found = documents("--set", "platform=cpu")
    assert code == 92
    assert found["engine"]["verdict"] == "failed"
    assert "does not answer" in found["engine"]["evidence"]
    assert found["engine"]["remedy"] == ERRORS["engine-unreachable"].remedy
    assert "does not answer" in found["container-name"]["evidence"]
    assert found["plan"]["verdict"] == found["clock"]["verdict"] == "ok"


def test_where_nothing_is_to_be_fetched_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Answer:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(system, "reach", refuse)
    monkeypatch.setattr(system, "registry", refuse)
    monkeypatch.setattr(system, "image", lambda *_: ImageFacts(here=True))
    plan = make(Config(), inventory(NOTHING), str(ROOT / "models"))
    facts = gather.Gathering(Config(), FakeEngine()).facts(plan)  # type: ignore[arg-type]
    assert (facts.registry, facts.hub) == ((), None)


class FakeEngine:
    """Stands for a connection, of which these tests ask nothing."""

    client = None

    def container(self, name: str) -> None:
        del name


def test_every_registry_is_asked_where_the_image_must_be_pulled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answer(_: object, name: str, seconds: float) -> Answer:
        assert seconds <= Config().timeouts.registry
        return Answer(name, ok=name.startswith("m."))

    monkeypatch.setattr(system, "registry", answer)
    monkeypatch.setattr(system, "image", lambda *_: ABSENT)
    plan = make(Config(), inventory(), None)
    facts = gather.Gathering(Config(), FakeEngine()).facts(plan)  # type: ignore[arg-type]
    assert not isinstance(facts.registry, Missing)
    assert [found.name for found in facts.registry] == list(plan.image.names)
    assert any(found.ok for found in facts.registry)


def test_in_the_image_the_host_is_not_guessed_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPLIANCE_INSIDE_IMAGE", "1")
    monkeypatch.setattr("appliance.engine.address.DEFAULT_SOCKET", "/nowhere/docker.sock")
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    made = {check.id: check for check in run.host(Config(platform="cpu")).checks}
    for name in ("engine", "compose", "disk-image", "weights", "api-port"):
        assert made[name].verdict == "unknown", name
        assert "in the image" in made[name].finding.evidence


# Reading the host


def test_the_kernel_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        "meminfo": "MemTotal: 1024 kB\nMemFree: 1 kB\nMemAvailable:   512 kB\n",
        "sys/net/ipv4/ip_local_port_range": "32768\t60999\n",
        "sys/net/ipv4/ip_local_reserved_ports": "60000-60015\n",
        "fs/selinux/enforce": "1",
        "module/apparmor/parameters/enabled": "Y\n",
        "kernel/security/apparmor/profiles": "docker-default (enforce)\nother (complain)\n",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(system, "_PROC", tmp_path)
    monkeypatch.setattr(system, "_SYS", tmp_path)
    found = system.kernel()
    assert (found.memory_total, found.memory_available) == (1024**2, 512 * 1024)
    assert (found.local_ports, found.reserved_ports) == ((32768, 60999), "60000-60015")
    assert found.selinux == "enforcing"
    assert found.apparmor
    assert found.apparmor_profiles == frozenset({"docker-default", "other"})
    monkeypatch.setattr(system, "_PROC", tmp_path / "absent")
    monkeypatch.setattr(system, "_SYS", tmp_path / "absent")
    bare = system.kernel()
    assert (bare.memory_total, bare.selinux, bare.apparmor, bare.local_ports) == (
        0, "off", False, None,
    )  # fmt: skip


def test_a_disk_is_that_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    found = system.disk(str(tmp_path / "a" / "b"))
    assert found.folder == str(tmp_path)
    assert found.device == tmp_path.stat().st_dev
    assert found.free > 0
    assert found.writable is True
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    assert system.disk(str(file / "below")).folder == str(tmp_path)


def test_a_port_is_free_or_it_is_said_why_not() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        number = holder.getsockname()[1]
        taken = system.port("127.0.0.1", number)
        assert (taken.error, bool(taken.text)) == ("EADDRINUSE", True)
    assert system.port("127.0.0.1", number).error is None
    # RFC 5737: an address of documentation, which no host has.
    assert system.port("192.0.2.1", number).error == "EADDRNOTAVAIL"


def test_the_installers_notes_are_read(tmp_path: Path) -> None:
    file = tmp_path / "ascend_install.info"
    file.write_text("UserName=HwHiAiUser\nDriver_Install_Status=complete\n", encoding="utf-8")
    assert system.install_info(file)["Driver_Install_Status"] == "complete"
    with pytest.raises(FileNotFoundError):
        system.install_info(tmp_path / "absent")


def test_the_clock_is_read() -> None:
    assert system.clock().now > 1.7e9


def test_of_proxies_only_the_names_are_kept() -> None:
    found = system.proxies({"https_proxy": "http://user:secret@proxy:1", "HTTP_PROXY": ""})
    assert found == {"HTTPS_PROXY"}


def test_the_hubs_address_holds_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "https://user:secret@hub.example:8443/x")
    assert system.hub_address() == "https://hub.example:8443"
    monkeypatch.delenv("MODELSCOPE_ENDPOINT")
    assert system.hub_address() == "https://modelscope.cn"


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.mark.usefixtures("no_proxies")
def test_a_host_takes_connections_or_it_is_said_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        number = server.getsockname()[1]
        assert system.reach(f"http://127.0.0.1:{number}", 5).ok
        # Through a proxy, the proxy is all that can be tried.
        monkeypatch.setenv("http_proxy", f"http://user:secret@127.0.0.1:{number}")
        through = system.reach("http://hub.invalid", 5)
        assert through.ok
        assert "proxy 127.0.0.1" in through.name
        assert "secret" not in str(through)
    monkeypatch.delenv("http_proxy")
    refused = system.reach(f"http://127.0.0.1:{number}", 5)
    assert (refused.ok, refused.silent, bool(refused.why)) == (False, False, True)


def test_plugins_that_are_not_there_are_said_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = tmp_path / "docker"
    docker.write_text(
        '#!/bin/sh\n[ "$1" = compose ] && echo "Docker Compose version v2.26.1-4" && exit 0\n'
        "exit 1\n",
        encoding="utf-8",
    )
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = system.parts(5)
    assert (found.compose, found.buildx) == ("2.26.1-4", None)
    assert found.problem is not None
    assert found.problem.id == "engine-missing"
    assert "docker buildx" in found.problem.message


def test_a_plugin_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker, pid = tmp_path / "docker", tmp_path / "pid"
    docker.write_text(f"#!/bin/sh\nsleep 300 &\necho $! > {pid}\nwait\n", encoding="utf-8")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(TimeoutError, match="docker compose version"):
        system.parts(0.5)
    # Gone, or waiting for whoever adopted it to say that it has seen it end.
    child = Path("/proc", pid.read_text(encoding="utf-8").strip(), "stat")
    deadline = time.monotonic() + 10
    while child.exists() and child.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_bundled_model_is_complete_and_an_absent_one_is_not(tmp_path: Path) -> None:
    plan = make(Config(), inventory(NOTHING), str(ROOT / "models"))
    there = system.weights(plan.model)
    assert there.complete
    assert there.bytes > 10**6
    gone = system.weights(dataclasses.replace(plan.model, host_path=str(tmp_path / "x")))
    assert (gone.complete, gone.bytes) == (False, 0)
    assert gone.problem is not None
    assert gone.problem.id == "weights-missing"


# Snapshots, and the command


def documents(*words: str) -> tuple[int, dict[str, dict[str, str]]]:
    done = cli("doctor", "--json", *words, DOCKER_HOST="unix:///nowhere/docker.sock")
    return done.returncode, verdicts(done)


def test_a_snapshot_is_examined_for_what_it_says() -> None:
    code, found = documents("--snapshot", str(HOSTS / A2))
    assert code == 0
    assert set(found) == {rule.id for rule in checks.RULES}
    for name in ("engine-version", "compose", "driver-version", "driver-install", "npu-free"):
        assert found[name]["verdict"] == "ok", name
    for name in ("device-access", "buildx", "selinux", "weights", "api-port", "clock"):
        assert found[name]["verdict"] == "unknown", name
        assert "a snapshot does not say" in found[name]["evidence"]
    assert "900.0 GiB" in found["disk-image"]["evidence"]
    assert "30 GiB for the image" in found["disk-weights"]["evidence"]


def test_a_failure_ends_with_the_exit_code_and_the_others_are_examined() -> None:
    code, found = documents("--snapshot", str(HOSTS / "a2-old-driver"))
    assert code == ERRORS["doctor-failed"].exit_code == 92
    assert [name for name, check in found.items() if check["verdict"] == "failed"] == [
        "driver-version"
    ]
    code, found = documents(
        "--snapshot", str(HOSTS / "a2-old-driver"), "--set", "doctor.skip=[driver-version]"
    )
    assert code == 0
    assert found["driver-version"]["verdict"] == "warning"


def test_no_plan_is_a_failed_check_with_its_own_words() -> None:
    code, found = documents("--snapshot", str(HOSTS / "a3-busy"))
    assert code == 92
    assert "in use by" in found["plan"]["evidence"]
    assert found["plan"]["remedy"] == ERRORS["npus-unavailable"].remedy
    assert found["engine-version"]["verdict"] == "ok"


def test_people_get_groups_marks_and_what_to_do_next() -> None:
    done = cli("doctor", "--snapshot", str(HOSTS / "a2-old-driver"))
    assert done.returncode == 92
    lines = done.stdout.splitlines()
    assert [line for line in lines if line and not line.startswith(" ")][:5] == [
        checks.PLAN, checks.NPUS, checks.ENGINE, checks.SPACE, checks.NETWORK,
    ]  # fmt: skip
    (row,) = [index for index, line in enumerate(lines) if line.startswith("  FAIL ")]
    assert "driver-version" in lines[row]
    assert any("next: Install driver" in line for line in lines[row : row + 5])
    assert max(map(len, lines)) <= 110
    assert re.search(r"^\d+ checks in [\d.]+ s: .*1 failed", done.stdout, re.MULTILINE)
    assert "error [doctor-failed] Failed: driver-version." in done.stderr
    assert "\x1b" not in done.stdout


def test_where_nothing_failed_that_is_said_last() -> None:
    done = cli("doctor", "--snapshot", str(HOSTS / NOTHING))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith("No check failed")


@pytest.mark.parametrize("words", [["--help"], ["render", "compose"], ["plan", "--json"]])
def test_other_commands_do_not_load_the_doctor(words: Sequence[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "appliance", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert "appliance.cli" in done.stderr
    assert "appliance.doctor" not in done.stderr
    assert "appliance.inventory.system" not in done.stderr
