"""A simulated A3 that serves: TP=2 over both dies of a card, verified by every probe.

vLLM's CPU kernels know no expert parallelism: only that is left out of the plan.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.e2e import simulated
from tests.e2e.conftest import ROOT, Cli, docker, execute, free_port, inspect

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import Served

NAME = "e2e-ascend-a3"


def test_an_a3_serves_and_is_verified_but_for_the_chip(
    served: Served, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Both dies of one card, TP=2, all probes: only expert parallelism is left out."""
    image = served.cli.json("plan")["image"]
    more = {"parallel.expert_parallel": "false", "server.port": str(free_port())}
    cli = Cli(tmp_path_factory.mktemp("a3"), simulated.settings(NAME, image, **more))
    with simulated.host("a3-partly-busy"):
        try:
            document = cli.json("up")
            assert all(result["ok"] for result in document["smoke"])
            assert len(document["smoke"]) > 8
            nodes = [d["PathOnHost"] for d in inspect(NAME)["HostConfig"]["Devices"]]
            assert sorted(nodes)[:2] == ["/dev/davinci4", "/dev/davinci5"]
            # npu-smi shows this appliance's own use now, which is no reason to move it.
            simulated.answer_as("a3-serving")
            assert [bool(n["processes"]) for n in cli.json("inventory")["npus"]][:6] == [
                True, True, True, False, True, True,
            ]  # fmt: skip
            again = cli.json("up")
            assert again["changed"] is False
            assert cli.status()["state"] == "ready"
            assert cli.run("down").returncode == 0
        finally:
            simulated.clean_up(NAME)


def test_the_ascend_runtime_is_asked_for_instead_of_devices(served: Served, tmp_path: Path) -> None:
    """Never both: with the runtime, no node and none of the paths that it mounts is named."""
    image = served.cli.json("plan")["image"]
    cli = Cli(tmp_path, simulated.settings(NAME, image, **{"container.runtime": "ascend"}))
    with simulated.host("a2-partly-busy"):
        plan = cli.json("plan")
        assert plan["devices"] == []
        assert plan["environment"]["ASCEND_VISIBLE_DEVICES"] == "1,2"
        assert "/usr/local/dcmi" not in {mount["target"] for mount in plan["mounts"]}
        text = cli.run("render", "compose").stdout
        done = subprocess.run(
            ["docker", "compose", "--file", "-", "config", "--format", "json"],
            input=text, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        service = json.loads(done.stdout)["services"]["vllm"]
        assert service["runtime"] == "ascend"
        assert not service.get("devices")


@pytest.mark.parametrize("product", ["atlas-a2", "atlas-a3"])
def test_the_compose_file_of_a_product_runs_as_it_is(served: Served, product: str) -> None:
    """With Docker, the file, and three variables: nothing else of the project is needed."""
    image = served.cli.json("plan")["image"]
    port = str(free_port())
    file = ROOT / "compose" / f"{product}.yaml"
    command = ["docker", "compose", "--file", str(file), "--file", "-", "--project-name", NAME]
    # Only the names differ, so that an appliance of the default name may run meanwhile.
    names = f"services: {{vllm: {{container_name: {NAME}}}}}\nvolumes: {{cache: {{name: {NAME}}}}}"
    folder = str(ROOT / "models" / "tiny-omni")
    environment = {**os.environ, "IMAGE": image, "MODEL_DIR": folder, "PORT": port}
    with simulated.host(f"compose-{product}"):
        try:
            subprocess.run(
                [*command, "up", "-d"], check=True, env=environment, input=names, text=True,
                timeout=120,
            )  # fmt: skip
            found = inspect(NAME)
            assert found["State"]["Running"]
            assert found["HostConfig"]["PortBindings"]["8000/tcp"][0]["HostPort"] == port
            devices = {d["PathOnHost"] for d in found["HostConfig"]["Devices"]}
            assert {"/dev/davinci0", "/dev/davinci1", "/dev/hisi_hdc"} < devices
            assert execute(NAME, "test", "-c", "/dev/davinci1").returncode == 0
            mounts = {m["Destination"]: m for m in found["Mounts"]}
            assert mounts["/models/Qwen3-Omni-30B-A3B-Thinking"]["Source"] == folder
            assert not mounts["/usr/local/Ascend/driver/lib64"]["RW"]
        finally:
            docker("rm", "--force", NAME, check=False)
            docker("volume", "rm", "--force", NAME, check=False)
