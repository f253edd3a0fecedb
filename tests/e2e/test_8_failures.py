"""Each thing that stops `up` has its own error and exit code, before anything is changed."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import ROOT, Cli, docker, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.conftest import Served

OTHER = "e2e-other"


@pytest.fixture
def other(served: Served, tmp_path: Path) -> Iterator[Cli]:
    """A second appliance, which the tests keep from starting."""
    yield Cli(tmp_path, {**served.cli.settings, "name": OTHER})
    docker("rm", "--force", OTHER, check=False)
    docker("volume", "rm", "--force", f"{OTHER}-cache", check=False)


def failed(cli: Cli, code: int, error: str, **more: str) -> str:
    """Run `up`, which must fail with this error; return what it says."""
    done = cli.run("up", "--json", **more)
    assert done.returncode == code, done.stdout + done.stderr
    document = json.loads(done.stdout)["error"]
    assert document["id"] == error
    assert document["remedy"]
    assert "Traceback" not in done.stderr
    return str(document["message"])


def test_a_port_in_use(other: Cli) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        assert port in failed(other, 78, "port-in-use", server__port=port)
    assert OTHER not in docker("ps", "--all", "--format", "{{.Names}}").split()


def test_an_engine_that_is_not_there(other: Cli, tmp_path: Path) -> None:
    other.environment = {"DOCKER_HOST": f"unix://{tmp_path}/no.sock"}
    failed(other, 71, "engine-unreachable")
    assert json.loads(other.run("status", "--json").stdout)["error"]["id"] == "engine-unreachable"


def test_an_image_that_cannot_be_had(other: Cli) -> None:
    message = failed(other, 72, "image-unavailable", image__name="registry.invalid/appliance:1")
    assert "registry.invalid/appliance:1" in message


def test_a_model_folder_that_is_incomplete(other: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(ROOT / "models" / "tiny-omni", folder)
    shard = min(folder.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1000])
    message = failed(other, 75, "weights-incomplete", model__path=str(folder))
    assert shard.name in message
    assert OTHER not in docker("ps", "--all", "--format", "{{.Names}}").split()


def test_a_foreign_container_of_the_same_name_is_left_alone(served: Served, other: Cli) -> None:
    image = served.cli.json("plan")["image"]
    docker("create", "--name", OTHER, image, "true")
    assert OTHER in failed(other, 83, "container-start-failed")
    assert OTHER in docker("ps", "--all", "--format", "{{.Names}}").split()


@pytest.fixture
def small_engine(tmp_path: Path) -> Iterator[str]:
    """A second, real engine, whose disk is a file system of 64 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], check=True)
    address = f"unix://{tmp_path}/engine.sock"
    command = [
        # In a network of its own: an engine takes an existing docker0 for its own.
        "unshare", "--net", "dockerd", "--host", address, "--data-root", str(disk / "data"),
        "--exec-root", str(tmp_path / "exec"), "--pidfile", str(tmp_path / "pid"),
        "--iptables=false", "--storage-driver", "vfs",
    ]  # fmt: skip
    with (tmp_path / "engine.log").open("w") as log:
        engine = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        ping = ["docker", "--host", address, "version"]
        wait_until(
            "the second engine answers",
            60,
            lambda: subprocess.run(ping, capture_output=True, check=False).returncode == 0,
        )
        yield address
    finally:
        engine.terminate()
        engine.wait(60)
        time.sleep(0.5)
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_disk_that_is_full(other: Cli, small_engine: str) -> None:
    other.environment = {"DOCKER_HOST": small_engine}
    message = failed(other, 77, "disk-full")
    assert "GiB are free" in message


def test_a_public_bind_without_a_key(other: Cli) -> None:
    failed(other, 66, "public-without-key", server__bind="0.0.0.0")
