"""Parity: `docker run` and compose make the same container, field by field, on the engine.

For the CPU, for an Atlas A2 whose device nodes and driver files are simulated on this host,
and with everything switched on that changes the container. The engine inside need not load.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e import simulated
from tests.e2e.conftest import ROOT, docker, execute, free_port, inspect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import Cli, Served

NAME = "e2e-parity"
NODES = ("davinci0", "davinci1", "davinci_manager", "devmm_svm", "hisi_hdc")


@pytest.fixture
def simulated_atlas() -> Iterator[None]:
    """Make an Ascend host of this one: real device nodes (of no device), a driver's files."""
    with simulated.host("synthetic-atlas-a2"):
        yield


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "api key, with a comma"
    path.write_text("sk-parity\n", encoding="utf-8")
    path.chmod(0o600)
    return path


def settings(case: str, key_file: Path, image: str) -> dict[str, str]:
    """Return what is set for a case, beyond the defaults."""
    common = {"name": NAME, "server.port": str(free_port()), "image.name": image}
    everything = {
        "platform": "cpu",
        "server.api_key_file": str(key_file),
        "server.bind": "0.0.0.0",
        "container.memory": "8g",
        "container.shm_size": "256m",
        "container.ulimits": "{nofile: 1024}",
        "container.restart": "on-failure",
        "container.environment": '{GREETING: "its $HOME, \\"quoted\\" and 100 %"}',
        "server.extra_args": '["--uvicorn-log-level", "debug"]',
        "timeouts.stop": "7",
    }
    ascend = {"platform": "ascend", "product": "atlas-a2", "model.id": "tiny-omni"}
    cases: dict[str, dict[str, str]] = {
        "cpu": {"platform": "cpu"},
        "everything": everything,
        "host-network": {"platform": "cpu", "server.network": "host"},
        "atlas-a2": ascend,
    }
    return {**common, **cases[case]}


def shape(name: str) -> dict[str, Any]:
    """Return every field of a container that the plan decides, in a form to compare."""
    found = inspect(name)
    host, config = found["HostConfig"], found["Config"]
    fields = (
        "Privileged", "CapAdd", "CapDrop", "SecurityOpt", "ReadonlyRootfs", "Tmpfs", "ShmSize",
        "Ulimits", "Init", "RestartPolicy", "NetworkMode", "PortBindings", "Devices", "Memory",
        "GroupAdd", "LogConfig", "Binds", "IpcMode", "PidMode", "UsernsMode", "Runtime",
        "DeviceCgroupRules", "ExtraHosts", "PidsLimit", "NanoCpus",
    )  # fmt: skip
    ours = {field: host[field] or None for field in fields}
    ours |= {
        field: config.get(field) or None
        for field in ("Cmd", "Entrypoint", "User", "StopSignal", "StopTimeout", "Healthcheck",
                      "WorkingDir", "ExposedPorts", "Tty", "OpenStdin")
    }  # fmt: skip
    ours["Image"] = found["Image"]
    ours["Env"] = sorted(config["Env"])
    ours["Mounts"] = sorted(
        (m["Type"], m.get("Name") or m["Source"], m["Destination"], m["RW"], m["Propagation"])
        for m in found["Mounts"]
    )
    # Compose's own labels are how it finds its containers.
    labels = config["Labels"]
    ours["Labels"] = {k: v for k, v in labels.items() if not k.startswith("com.docker.compose")}
    return ours


@pytest.fixture
def parity(cli: Cli, tmp_path: Path) -> Iterator[Any]:
    """Make the container both ways and return the shape of each."""

    def make(case: str, key_file: Path, image: str) -> tuple[dict[str, Any], dict[str, Any]]:
        cli_settings = settings(case, key_file, image)
        words = [part for k, v in cli_settings.items() for part in ("--set", f"{k}={v}")]
        shapes = []
        for form, start in (
            ("run", ["sh", str(tmp_path / "run")]),
            ("compose", ["docker", "compose", "-f", str(tmp_path / "compose"), "up", "-d"]),
        ):
            command = [*cli.arguments("render", form)[:3], "-o", str(tmp_path / form), *words]
            subprocess.run(command, check=True, cwd=cli.state, env=cli.variables(), timeout=60)
            done = subprocess.run(start, capture_output=True, text=True, check=False, timeout=120)
            assert done.returncode == 0, done.stderr
            shapes.append(shape(NAME))
            docker("rm", "--force", NAME)
        return shapes[0], shapes[1]

    yield make
    docker("rm", "--force", NAME, check=False)
    docker("volume", "rm", "--force", f"{NAME}-cache", check=False)


@pytest.mark.parametrize("case", ["cpu", "everything", "host-network"])
def test_both_ways_make_the_same_container(
    served: Served, parity: Any, key_file: Path, case: str
) -> None:
    by_run, by_compose = parity(case, key_file, inspect("e2e")["Config"]["Image"])
    del served
    assert by_run == by_compose
    assert by_run["CapDrop"] == ["ALL"]
    if case == "everything":
        assert 'GREETING=its $HOME, "quoted" and 100 %' in by_run["Env"]
        assert by_run["StopTimeout"] == 7
        assert by_run["Memory"] == 8 * 1024**3


@pytest.mark.usefixtures("simulated_atlas")
def test_both_ways_make_the_same_container_on_an_atlas_a2(
    served: Served, parity: Any, key_file: Path
) -> None:
    by_run, by_compose = parity("atlas-a2", key_file, inspect("e2e")["Config"]["Image"])
    del served
    assert by_run == by_compose
    devices = {d["PathOnHost"]: d["PathInContainer"] for d in by_run["Devices"]}
    assert devices == {f"/dev/{name}": f"/dev/{name}" for name in NODES}
    driver = {mount[2] for mount in by_run["Mounts"] if mount[2] != "/var/cache/appliance"}
    assert {"/usr/local/Ascend/driver/lib64", "/usr/local/dcmi"} < driver
    assert all(not mount[3] for mount in by_run["Mounts"] if mount[0] == "bind")
    assert by_run["GroupAdd"] == [str(simulated.HWHIAIUSER)]
    command = " ".join(by_run["Cmd"])
    assert "--tensor-parallel-size 2 --enable-expert-parallel" in command


def test_the_file_in_compose_runs_as_it_is(served: Served, tmp_path: Path) -> None:
    image = inspect("e2e")["Config"]["Image"]
    del served
    port = str(free_port())
    file = ROOT / "compose" / "cpu.yaml"
    # Only the names differ, so that an appliance of the default name may run meanwhile.
    other = tmp_path / "names.yaml"
    other.write_text(
        "services: {vllm: {container_name: e2e-file}}\nvolumes: {cache: {name: e2e-file-cache}}\n",
        encoding="utf-8",
    )
    files = ["--file", str(file), "--file", str(other)]
    command = ["docker", "compose", *files, "--project-name", "e2e-file"]
    environment = {**os.environ, "IMAGE": image, "PORT": port}
    try:
        subprocess.run([*command, "up", "-d"], check=True, env=environment, timeout=120)
        found = inspect("e2e-file")
        assert found["HostConfig"]["PortBindings"]["8000/tcp"][0]["HostPort"] == port
        mounts = {m["Destination"]: m["Source"] for m in found["Mounts"]}
        assert Path(mounts["/models/tiny-omni"]) == ROOT / "models" / "tiny-omni"
        assert execute("e2e-file", "test", "-s", "/models/tiny-omni/config.json").returncode == 0
    finally:
        subprocess.run([*command, "down", "--volumes"], check=False, env=environment, timeout=120)


def test_the_image_prints_its_own_spec(served: Served) -> None:
    """An operator with Docker and no Python asks the image, and gets what the host would."""
    image = inspect("e2e")["Config"]["Image"]
    del served
    words = ["run", "--rm", image, "appliance", "render", "compose", "--set", "platform=cpu"]
    text = docker(*words)
    assert "services:" in text
    assert "./models/tiny-omni" in text
    version = json.loads(docker("run", "--rm", image, "appliance", "version", "--json"))
    assert version["version"]
