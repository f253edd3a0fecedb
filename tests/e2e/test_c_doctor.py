"""The doctor on a real host with a real engine, and before `up` changes anything."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from appliance.doctor.checks import RULES
from tests.e2e import simulated
from tests.e2e.conftest import ROOT, Cli, docker, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import Served

NAME = "e2e-doctor"


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[Cli]:
    """An appliance that nobody starts."""
    yield Cli(tmp_path, {"name": NAME, "platform": "cpu", "server.port": str(free_port())})
    docker("rm", "--force", NAME, check=False)
    docker("volume", "rm", "--force", f"{NAME}-cache", check=False)


def examined(idle: Cli, code: int, **more: str) -> dict[str, Any]:
    """Run the doctor, which must end with this exit code; return the checks by id."""
    done = idle.run("doctor", "--json", **more)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    document = json.loads(done.stdout)
    assert document["ok"] is (code == 0)
    return {check["id"]: check for check in document["checks"]}


def failing(found: dict[str, Any]) -> list[str]:
    return [name for name, check in found.items() if check["verdict"] == "failed"]


def test_this_host_is_sound_and_nothing_on_it_is_touched(idle: Cli) -> None:
    def there() -> list[str]:
        words = ("ps", "--all", "--quiet"), ("images", "--quiet"), ("volume", "ls", "--quiet")
        return [line for command in words for line in docker(*command).split() if NAME in line]

    before = there(), sorted(idle.state.rglob("*"))
    found = examined(idle, 0)
    assert (there(), sorted(idle.state.rglob("*"))) == before
    assert list(found) == [rule.id for rule in RULES]
    assert found["engine"]["evidence"].endswith(docker("info", "-f", "{{.ServerVersion}}").strip())
    for name in ("plan", "engine-version", "compose", "buildx", "disk-image", "weights", "memory"):
        assert found[name]["verdict"] == "ok", found[name]
    root = docker("info", "-f", "{{.DockerRootDir}}").strip()
    assert root in found["inodes"]["evidence"]
    assert "unknown" not in {check["verdict"] for check in found.values()}


def test_a_taken_port_is_found_and_up_keeps_its_own_exit_code_for_it(idle: Cli) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        found = examined(idle, 92, server__port=port)
        assert failing(found) == ["api-port"]
        assert port in found["api-port"]["evidence"]
        done = idle.run("up", "--json", server__port=port)
    assert done.returncode == 78, done.stderr
    assert json.loads(done.stdout)["error"]["id"] == "port-in-use"


def test_an_address_that_is_not_this_hosts_is_found(idle: Cli) -> None:
    key = idle.state / "key"
    key.write_text("secret", encoding="utf-8")
    key.chmod(0o600)
    more = {"server__bind": "192.0.2.1", "server__api_key_file": str(key)}
    assert failing(examined(idle, 92, **more)) == ["api-port"]
    assert idle.run("up", **more).returncode == 64


def test_up_stops_at_a_failed_check_before_anything_is_made(idle: Cli) -> None:
    """A limit on memory in which the server could not live: nothing else refuses it."""
    more = {"container__memory": "1g", "container__shm_size": "64m", "image__name": "x.invalid/y:1"}
    found = examined(idle, 92, **more)
    assert found["memory"]["verdict"] == "failed"
    done = idle.run("up", "--json", container__memory="1g", container__shm_size="64m")
    assert done.returncode == 92, done.stdout + done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["id"] == "doctor-failed"
    assert "memory: `container.memory` is 1.0 GiB" in error["message"]
    assert "next: Set `container.memory`" in error["message"]
    assert "[image]" not in done.stderr
    assert NAME not in docker("ps", "--all", "--format", "{{.Names}}").split()


def test_what_may_fail_does_not_stop_up(idle: Cli) -> None:
    """With that check excused, up goes on to what stops it next: an image that nobody has."""
    more = {
        "container__memory": "1g",
        "container__shm_size": "64m",
        "doctor__skip": "[memory, registry]",
        "image__name": "registry.invalid/appliance:1",
    }
    done = idle.run("up", **more)
    assert done.returncode == 72, done.stderr
    assert "[doctor]" in done.stderr
    assert "warning  memory: `container.memory` is 1.0 GiB" in done.stderr
    assert done.stderr.index("[doctor]") < done.stderr.index("[image]")


def test_an_image_that_nobody_has_is_found_through_the_engine(idle: Cli) -> None:
    found = examined(idle, 92, image__name="registry.invalid/appliance:1")
    assert failing(found) == ["registry"]
    assert "registry.invalid/appliance:1" in found["registry"]["evidence"]
    assert found["image"]["verdict"] == "ok"


def test_weights_that_are_to_be_fetched_want_room_and_a_hub(idle: Cli, tmp_path: Path) -> None:
    idle.environment = {"MODELSCOPE_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    more = {"model__id": "somebody/some-model", "cache__dir": str(tmp_path / "cache")}
    found = examined(idle, 92, **more)
    assert failing(found) == ["hub"]
    assert "127.0.0.1" in found["hub"]["evidence"]
    assert found["cache-writable"]["verdict"] == "ok"
    assert str(tmp_path) in found["disk-weights"]["evidence"]


def test_a_foreign_container_of_the_name_is_found(idle: Cli, served: Served) -> None:
    docker("create", "--name", NAME, served.cli.json("plan")["image"], "true")
    found = examined(idle, 92)
    assert failing(found) == ["container-name"]
    assert NAME in found["container-name"]["evidence"]


def test_the_port_of_its_own_container_is_no_trouble(idle: Cli, served: Served) -> None:
    """Only the label and the port of what runs count here, so that no engine has to load."""
    port = idle.settings["server.port"]
    docker(
        "run", "--detach", "--name", NAME, "--label", f"appliance.name={NAME}",
        "--publish", f"127.0.0.1:{port}:8000", served.cli.json("plan")["image"], "sleep", "300",
    )  # fmt: skip
    found = examined(idle, 0)
    assert "own container" in found["api-port"]["evidence"]
    assert found["container-name"]["verdict"] == "ok"
    # To another appliance it is a stranger's.
    idle.settings["name"] = f"{NAME}-2"
    other = examined(idle, 92)
    assert failing(other) == ["plan"]
    assert f"the appliance {NAME} holds port {port}" in other["plan"]["evidence"]


def test_a_simulated_ascend_host_is_examined_live(idle: Cli) -> None:
    """Real nodes of no device, a driver's files, and an npu-smi that prints what one printed."""
    del idle.settings["platform"]
    with simulated.host("a2-8x64-idle"):
        found = examined(idle, 0, image__name=docker_image(), model__id="tiny-omni")
        for name in (
            "device-nodes", "device-access", "driver-version", "driver-install", "driver-paths",
            "npu-smi", "npu-health", "npu-free", "container-runtime",
        ):  # fmt: skip
            assert found[name]["verdict"] == "ok", found[name]
        assert "through group 1000" in found["device-access"]["evidence"]
        Path("/dev/devmm_svm").chmod(0o600)
        found = examined(idle, 92, image__name=docker_image(), model__id="tiny-omni")
    assert failing(found) == ["device-access"]
    assert "/dev/devmm_svm (uid 1000, gid 1000, mode 600)" in found["device-access"]["evidence"]


def docker_image() -> str:
    """Any image that is here: what matters is that none has to be come by."""
    return docker("images", "--quiet").split()[0]


def test_an_engine_that_never_answers_is_said_and_the_rest_is_examined(
    idle: Cli, tmp_path: Path
) -> None:
    path = tmp_path / "silent.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(64)
        idle.environment = {"DOCKER_HOST": f"unix://{path}"}
        found = examined(idle, 92, doctor__timeout="0.5")
    assert "no answer within 0.5 s" in found["engine"]["evidence"]
    assert found["image"]["verdict"] == "unknown"
    # What other appliances hold is not known, and the plan says so.
    assert found["plan"]["verdict"] == "warning"
    assert found["weights"]["verdict"] == "ok"


def test_up_examines_the_host_once_and_not_where_nothing_is_to_be_done(served: Served) -> None:
    shown = served.interrupted.stderr + served.log
    assert shown.count("[doctor]") == 2, "its beginning and its end"
    assert shown.index("[doctor]") < shown.index("[image]")


def test_in_the_image_the_doctor_reads_a_snapshot(served: Served) -> None:
    image = served.cli.json("plan")["image"]
    folder = f"{ROOT}/tests/hosts/a2-8x64-idle:/host:ro"
    command = ["appliance", "doctor", "--json", "--snapshot", "/host"]
    printed = docker("run", "--rm", "--network", "none", "--volume", folder, image, *command)
    found = {check["id"]: check for check in json.loads(printed)["checks"]}
    assert found["plan"]["verdict"] == found["driver-version"]["verdict"] == "ok"


def test_in_the_image_the_host_is_not_guessed_at(served: Served) -> None:
    image = served.cli.json("plan")["image"]
    command = ["appliance", "doctor", "--json", "--set", "platform=cpu"]
    printed = docker("run", "--rm", "--network", "none", image, *command)
    found = {check["id"]: check for check in json.loads(printed)["checks"]}
    assert found["engine"]["verdict"] == found["disk-image"]["verdict"] == "unknown"
    assert "docker.sock" in found["engine"]["evidence"]
    socket_path = "/var/run/docker.sock:/var/run/docker.sock"
    printed = docker("run", "--rm", "--volume", socket_path, image, *command)
    found = {check["id"]: check for check in json.loads(printed)["checks"]}
    assert found["engine"]["verdict"] == "ok"
