"""Running docker's commands: bounded, typed, with no child left behind. No engine is needed."""

from __future__ import annotations

import dataclasses
import gc
import os
import shutil
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from appliance.config.model import Build, Config
from appliance.engine import command, docker, images, install
from appliance.errors import ApplianceError
from appliance.plan.model import ImagePlan

PLAN = ImagePlan("appliance:test", "base:test")
ROOT = Path(__file__).resolve().parents[2]


def run(script: str, timeout: float = 30.0, error: str = "engine-failed") -> list[str]:
    """Run a shell script as if it were docker; return the lines shown."""
    lines: list[str] = []
    command.run(
        ["sh", "-c", script], error=error, what="Trying", timeout=timeout, on_line=lines.append
    )
    return lines


def test_the_command_is_shown_before_its_output() -> None:
    lines = run("echo one; echo two >&2")
    assert lines[0].startswith("$ sh -c")
    assert lines[1:] == ["one", "two"]


@pytest.mark.parametrize(
    ("output", "error_id"),
    [
        ("write /x: no space left on device", "disk-full"),
        ("Bind for 127.0.0.1:8000 failed: port is already allocated", "port-in-use"),
        ("Cannot connect to the Docker daemon at unix:///x.", "engine-unreachable"),
        ("something else failed", "image-build-failed"),
    ],
)
def test_a_failure_is_told_by_its_output(output: str, error_id: str) -> None:
    with pytest.raises(ApplianceError) as failed:
        run(f"echo '{output}'; echo later; exit 3", error="image-build-failed")
    assert failed.value.id == error_id
    assert output in failed.value.message


def test_an_end_by_a_signal_is_a_failure() -> None:
    with pytest.raises(ApplianceError, match="exit status -9"):
        run("kill -9 $$")


def test_a_command_that_hangs_ends_with_its_children() -> None:
    """The child keeps the pipe open, as a plugin of docker's would."""
    began = time.monotonic()
    marker = f"30.{os.getpid()}"
    with pytest.raises(ApplianceError, match=r"not done after 0\.3 s"):
        run(f"sleep {marker} & wait", timeout=0.3)
    assert time.monotonic() - began < 15
    listing = subprocess.run(["ps", "axww"], capture_output=True, text=True, check=True)
    assert f"sleep {marker}" not in listing.stdout


def test_a_command_that_ignores_the_first_signal_is_killed() -> None:
    with pytest.raises(ApplianceError, match="not done after"):
        run("trap '' TERM; sleep 30 & wait; wait", timeout=0.3)


def test_a_command_that_is_not_there() -> None:
    with pytest.raises(ApplianceError) as failed:
        command.run(["no-such-docker"], error="engine-failed", what="x", timeout=1, on_line=print)
    assert failed.value.id == "engine-missing"


def test_the_images_hash_follows_what_it_is_made_of(tmp_path: Path) -> None:
    for name in images.CONTEXT:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    first = images.context_hash(tmp_path, PLAN)
    (tmp_path / "README.md").write_text("not in the image", encoding="utf-8")
    (tmp_path / "appliance" / "__pycache__").mkdir(exist_ok=True)
    (tmp_path / "appliance" / "__pycache__" / "x.pyc").write_bytes(b"x")
    assert images.context_hash(tmp_path, PLAN) == first
    (tmp_path / "templates" / "run.sh.j2").write_text("changed", encoding="utf-8")
    changed = images.context_hash(tmp_path, PLAN)
    assert changed != first
    cleared = dataclasses.replace(PLAN, base_entrypoint="cleared")
    assert images.context_hash(tmp_path, cleared) != changed


def test_every_file_that_the_dockerfile_takes_is_hashed_and_sent() -> None:
    """What `.dockerignore` lets through is what the hash covers, and the other way round."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line[1:] for line in lines if line.startswith("!")}
    assert sent - {"README.md"} == set(images.CONTEXT) - {".dockerignore", "Dockerfile"}


def test_a_ca_bundle_that_is_not_there_is_refused(tmp_path: Path) -> None:
    config = dataclasses.replace(Config(), build=Build(ca_bundle=str(tmp_path / "none.pem")))
    with pytest.raises(ApplianceError, match=r"build\.ca_bundle"):
        images.ca_bundle(config)


def test_without_docker_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ApplianceError) as failed:
        install.ensure(install=False, on_line=print)
    assert failed.value.id == "engine-missing"
    assert "docker compose" in failed.value.message
    assert "buildx" in failed.value.remedy


def test_the_container_becomes_the_engine() -> None:
    """No process stands between the container's init and vLLM."""
    script = "import os; print(os.getpid())"
    process = subprocess.Popen(
        [sys.executable, "-m", "appliance.inside", sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    out, _ = process.communicate(timeout=30)
    assert int(out) == process.pid


def test_an_engine_that_is_not_there_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "appliance.inside", "no-such-engine"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        cwd=ROOT,
    )
    assert done.returncode == 127
    assert "no-such-engine can't be started" in done.stderr


@pytest.mark.parametrize("left_behind", [False, True], ids=["no socket", "a stopped engine's"])
def test_no_engine_is_a_typed_error_and_leaves_no_open_socket(
    left_behind: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "docker.sock"
    if left_behind:  # As after a kill: the file is there, and nobody listens.
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(ApplianceError) as caught:
            docker.connect()
        assert caught.value.id == "engine-unreachable"
        del caught
        gc.collect()
    assert [str(warning.message) for warning in seen] == []
