"""A simulated Ascend host, end to end: everything is real but the chip.

The nodes, the driver's files and npu-smi's answers are those of folders under tests/hosts; the
launcher, the engine, the container and vLLM are what an operator gets. vLLM runs on the CPU,
since it finds no NPU behind the nodes.
"""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e import simulated
from tests.e2e.conftest import Cli, docker, free_port, inspect, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import Served

NAME = "e2e-ascend"
LOOK = Path(__file__).with_name("look_inside.py")


@dataclass(frozen=True)
class Made:
    """The container that `up` made on the simulated host, looked at from inside and outside."""

    cli: Cli
    folder: Path
    plan: dict[str, Any]
    inside: dict[str, Any]
    outside: dict[str, Any]
    log: str


@pytest.fixture(scope="module")
def made(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """`up` with the default plan for a busy A2; interrupted once the engine has its arguments.

    vLLM's CPU kernels do not know expert parallelism, so that this plan can't serve here.
    """
    image = served.cli.json("plan")["image"]
    cli = Cli(
        tmp_path_factory.mktemp("ascend"),
        simulated.settings(NAME, image, **{"server.port": str(free_port())}),
    )
    with simulated.host("a2-partly-busy") as folder:
        try:
            plan = cli.json("plan")
            with cli.start("up", "--no-smoke") as going_on:
                wait_until("the engine has its arguments", 240, lambda: "non-default args" in log())
                inside = json.loads(
                    docker("exec", "-i", NAME, "python3", "-", text=LOOK.read_text("utf-8"))
                )
                outside = inspect(NAME)
                os.killpg(going_on.pid, signal.SIGINT)
                going_on.communicate(timeout=120)
            yield Made(cli, folder, plan, inside, outside, log())
        finally:
            simulated.clean_up(NAME)


def log() -> str:
    return docker("logs", NAME, check=False)


def test_the_host_is_seen_as_its_snapshot_is(made: Made) -> None:
    live = made.cli.json("inventory")
    snapshot = made.cli.json("inventory", "--snapshot", str(made.folder))
    for key in ("product", "driver_version", "npus", "links", "device_nodes"):
        assert live[key] == snapshot[key], key
    assert live["product"] == "atlas-a2"
    assert [npu["device"] for npu in live["npus"]] == [f"/dev/davinci{n}" for n in range(8)]
    assert [bool(npu["processes"]) for npu in live["npus"]] == [n in {0, 3, 4} for n in range(8)]


def test_exactly_the_planned_nodes_are_in_the_container(made: Made) -> None:
    planned = {device["container"]: device["host"] for device in made.plan["devices"]}
    # The first two idle dies: 0, 3 and 4 serve something else.
    assert {"/dev/davinci1", "/dev/davinci2"} < set(planned)
    assert set(made.inside["nodes"]) == set(planned)
    for container, host in planned.items():
        facts = Path(host).stat()
        node = made.inside["nodes"][container]
        assert node["number"] == [os.major(facts.st_rdev), os.minor(facts.st_rdev)]
        # The kernel lets the container's root have it, and finds no driver: ENXIO. It would be
        # EPERM without the cgroup's leave, EACCES without the group of the node.
        assert node["opened"] == "ENXIO"
    assert made.inside["made_node"] == "EPERM"


def test_driver_and_weights_are_mounted_read_only(made: Made) -> None:
    planned = {m["target"]: m for m in made.plan["mounts"] if m["type"] == "bind"}
    assert {"/usr/local/Ascend/driver/lib64", "/usr/local/dcmi", "/models/tiny-omni"} < set(planned)
    driver = re.compile(r"Ascend|dcmi|npu-smi|ascend_install|hccn|^/models")
    assert {path for path in made.inside["mounts"] if driver.search(path)} == set(planned)
    for path in planned:
        assert made.inside["mounts"][path]["read_only"], path
        assert made.inside["written"][path] == "EROFS", path
    assert made.inside["written"]["/"] == made.inside["written"]["/etc"] == "EROFS"


def test_the_engine_has_the_planned_arguments_and_variables(made: Made) -> None:
    engine = made.inside["engine"]
    assert engine["arguments"] == made.plan["serve_args"]
    for name, value in made.plan["environment"].items():
        assert engine["environment"][name] == value
    assert engine["environment"]["HCCL_OP_EXPANSION_MODE"] == "AIV"
    # CANN needs to write to the folder that it starts in.
    assert engine["folder"] == "/tmp/work"
    assert made.inside["written"]["/tmp/work"] == "written"
    assert "ASCEND_RT_VISIBLE_DEVICES" not in engine["environment"]


def test_the_engine_has_no_more_rights_than_planned(made: Made) -> None:
    status = made.inside["engine"]["status"]
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert str(simulated.HWHIAIUSER) in status["Groups"].split()
    host = made.outside["HostConfig"]
    assert host["Privileged"] is False
    assert host["ReadonlyRootfs"] is True
    assert made.inside["shm_bytes"] == made.plan["shm_size_bytes"] == host["ShmSize"]


def test_the_real_parser_took_the_arguments_as_they_are_meant(made: Made) -> None:
    line = next(line for line in made.log.splitlines() if "non-default args" in line)
    for part in (
        "'tensor_parallel_size': 2",
        "'enable_expert_parallel': True",
        "'max_model_len': 32768",
        "'reasoning_parser': 'deepseek_r1'",
        "'limit_mm_per_prompt': {'audio': 3, 'image': 5, 'video': 2}",
        "'distributed_executor_backend': 'mp'",
    ):
        assert part in line


def test_a_second_appliance_gets_other_dies_and_another_port(made: Made) -> None:
    second = Cli(made.cli.state, {**made.cli.settings, "name": "e2e-ascend-2"})
    refused = second.run("plan")
    assert refused.returncode == 78
    assert f"the appliance {NAME} holds port" in refused.stderr
    del second.settings["server.port"]
    plan = second.json("plan")
    nodes = {d["host"] for d in plan["devices"] if d["host"][12:].isdigit()}
    assert len(nodes) == 2
    assert not nodes & {d["host"] for d in made.plan["devices"]}
    assert plan["ports"][0]["host"] != made.plan["ports"][0]["host"]
    # What it holds itself is no reason to look for other dies.
    assert made.cli.json("plan")["devices"] == made.plan["devices"]


@pytest.mark.parametrize(
    ("npus", "reason"),
    [
        ("[2, 5]", f"/dev/davinci2 is held by the appliance {NAME}"),
        ("[0, 1]", "/dev/davinci0 is in use by VLLM::Worker (pid 48121)"),
    ],
)
def test_dies_that_are_not_free_are_refused_with_the_reason(
    made: Made, npus: str, reason: str
) -> None:
    cli = Cli(made.cli.state, {**made.cli.settings, "name": "e2e-ascend-2"})
    done = cli.run("plan", npus=npus, server__port=str(free_port()))
    assert done.returncode == 100
    assert reason in done.stderr
