"""Each fault: every request in flight ends, and the next right answer comes by itself."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import docker, execute, inspect, wait_until
from tests.faults.conftest import NAME, Appliance, Row
from tests.faults.flight import wait_taken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Strike = Callable[..., Row]

long = pytest.mark.long
WORKER = "VLLM::Worker"
CORE = "VLLM::EngineCore"
# Not the supervisor, nor the init, in whose arguments the words stand too.
SERVER = "bin/vllm serve"
SATURATING = 64


# A process that stops or dies


def test_a_stopped_worker_with_200_requests_in_flight(struck: Strike) -> None:
    row = struck("worker stopped (SIGSTOP)", lambda it: it.signal(WORKER, signal.SIGSTOP), 200)
    assert sum(row.lost.values()) == 200
    assert row.cause is not None
    assert row.cause.startswith("[engine-hung] VLLM::Worker")
    kept = execute(NAME, "sh", "-c", "cat /var/cache/appliance/supervisor/evidence-*").stdout
    assert "worker_busy_loop" in kept, "the stack of the worker"
    assert "process_input_sockets" in kept, "the stacks of the engine core"


@long
def test_a_hang_that_shows_by_its_lack_of_progress_alone(struck: Strike, ready: Appliance) -> None:
    ready.cli.settings["watchdog.stopped"] = "86400"
    ready.bring_up()
    row = struck("worker hangs while idle", lambda it: it.signal(WORKER, signal.SIGSTOP), flying=0)
    del ready.cli.settings["watchdog.stopped"]
    assert row.cause is not None
    assert "no progress for" in row.cause
    [failure] = ready.failures()[-1:]
    found = float(failure["detail"].partition("no progress for ")[2].split()[0])
    assert found <= 60
    ready.bring_up()


@long
def test_a_killed_worker(struck: Strike) -> None:
    row = struck("worker killed", lambda it: it.signal(WORKER, signal.SIGKILL))
    assert row.cause is not None
    assert row.cause.startswith("[engine-died]")


@long
def test_a_killed_engine_core(struck: Strike) -> None:
    row = struck("engine core killed", lambda it: it.signal(CORE, signal.SIGKILL))
    assert row.cause is not None
    assert row.cause.startswith("[engine-died]")


@long
def test_a_stopped_api_server(struck: Strike) -> None:
    row = struck("API server stopped", lambda it: it.signal(SERVER, signal.SIGSTOP))
    assert row.cause is not None
    assert row.cause.startswith("[engine-hung] vllm")


@long
def test_a_memory_limit_that_is_hit(struck: Strike) -> None:
    row = struck("memory limit hit", hog)
    assert row.cause is not None
    assert "for want of memory" in row.cause


def hog(appliance: Appliance) -> None:
    """Take what the limit leaves; the kernel is to end a worker for it, and not the taker."""
    code = (
        "import time; held=[]\n"
        "for _ in range(160): held.append(bytearray(b'x')*(64<<20)); time.sleep(0.02)\n"
    )
    Path(f"/proc/{appliance.process(WORKER)}/oom_score_adj").write_text("1000")
    command = ["docker", "exec", NAME, "python3", "-c", code]
    subprocess.run(command, check=False, timeout=120)


# The container, and the engine of containers


@long
def test_a_killed_container(struck: Strike) -> None:
    row = struck(
        "container killed", lambda _: os.kill(inspect(NAME)["State"]["Pid"], signal.SIGKILL)
    )
    assert row.cause is not None
    assert row.cause.startswith("[killed]")


@long
def test_a_restart_with_200_requests_in_flight(struck: Strike) -> None:
    row = struck("`docker restart`", lambda _: docker("restart", NAME), 200)
    assert sum(row.lost.values()) == 200
    assert row.cause is None, "an operator's restart is no failure"


@long
def test_a_docker_daemon_that_is_restarted(struck: Strike) -> None:
    row = struck("Docker daemon restarted", lambda _: restart_docker())
    assert row.cause is None


def restart_docker() -> None:
    if Path("/run/systemd/system").is_dir():
        subprocess.run(["systemctl", "restart", "docker"], check=True, timeout=180)
        return
    pid = int(Path("/run/docker.pid").read_text(encoding="ascii"))
    command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
    os.kill(pid, signal.SIGTERM)
    wait_until("the daemon ended", 150, lambda: not Path(f"/proc/{pid}").exists())
    with Path("/var/log/appliance-faults-dockerd.log").open("ab") as log:
        again = ["setsid", "--fork", *command]
        subprocess.run(again, stdout=log, stderr=log, check=True)
    answers = ["docker", "version"]
    wait_until(
        "the daemon answers",
        60,
        lambda: subprocess.run(answers, capture_output=True, check=False).returncode == 0,
    )


# Files


@pytest.fixture
def weights(appliance: Appliance) -> Iterator[Path]:
    """A file of the weights, which is whole again afterwards."""
    shard = min(appliance.model.glob("*.safetensors"))
    kept = shard.read_bytes()
    yield shard
    shard.write_bytes(kept)


@long
def test_weights_deleted_under_a_running_server(ready: Appliance, weights: Path) -> None:
    flight = ready.flight(20, tokens=200)
    weights.unlink()
    assert ready.verify()
    lost = flight.land()
    assert set(lost) == {"answered"}
    ready.rows.append(Row("weights deleted while serving", dict(lost), None, None))


@long
@pytest.mark.parametrize("how", ["truncated", "deleted"])
def test_weights_that_are_broken_when_it_starts(ready: Appliance, weights: Path, how: str) -> None:
    kept = weights.read_bytes()
    if how == "truncated":
        os.truncate(weights, len(kept) // 2)
    else:
        weights.unlink()
    known = ready.failures()
    docker("restart", NAME)
    wait_until("it fails", 200, lambda: ready.failures()[-1:] != known[-1:])
    assert ready.failures()[-1]["cause"] == "engine-died"
    told = json.loads(ready.cli.run("diagnose", "--json").stdout)
    assert told["findings"], "diagnose knows the cause"
    began = time.monotonic()
    weights.write_bytes(kept)
    wait_until("it comes back by itself", 400, ready.verify)
    row = Row(
        f"weights {how} before a start; time from their repair",
        {}, round(time.monotonic() - began, 1), "[engine-died]",
    )  # fmt: skip
    ready.rows.append(row)


@long
def test_a_full_disk_and_a_killed_worker(struck: Strike, ready: Appliance) -> None:
    filler = ready.disk / "filler"
    fill(filler)
    try:
        assert ready.verify(), "it serves on"
        row = struck(
            "cache disk full, and a worker killed", lambda it: it.signal(WORKER, signal.SIGKILL)
        )
        assert row.lost, "each of them ended"
    finally:
        filler.unlink()


def fill(file: Path) -> None:
    """Leave no byte free; root may use what a file system keeps in reserve, too."""
    with file.open("wb", buffering=0) as opened, suppress(OSError):
        while opened.write(b"\0" * (1 << 16)):
            pass
    assert shutil.disk_usage(file.parent).free == 0


@long
def test_a_port_that_is_taken(ready: Appliance) -> None:
    docker("stop", NAME)
    port = int(ready.url.rpartition(":")[2])
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", port))
        holder.listen()
        refused = ready.cli.run("up", "--json", "--no-smoke")
        assert json.loads(refused.stdout)["error"]["id"] == "port-in-use"
    began = time.monotonic()
    ready.bring_up()
    seconds = round(time.monotonic() - began, 1)
    ready.rows.append(Row("port taken; time from its release", {}, seconds, "[port-in-use]"))


# Load


def test_saturation_is_no_fault(ready: Appliance, request: pytest.FixtureRequest) -> None:
    before, known = ready.started(), ready.failures()
    seconds = request.config.getoption("--saturation")
    flight = ready.flight(SATURATING, tokens=300, again=True)
    wait_taken(flight, SATURATING)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done = execute(NAME, "python3", "-m", "healthchecks", "progress", "--json")
        assert done.returncode == 0, done.stdout
        time.sleep(2)
    lost = flight.land()
    assert (ready.started(), ready.failures()) == (before, known)
    assert lost["answered"] > SATURATING
    assert lost["answered"] > 50 * (sum(lost.values()) - lost["answered"])
    ready.rows.append(
        Row(f"{SATURATING} clients without a pause for {seconds:g} s", dict(lost), None, None)
    )


@long
def test_a_stop_lets_running_requests_end(ready: Appliance) -> None:
    flight = ready.flight(4, tokens=1500)
    wait_taken(flight, 4)
    stopping = subprocess.Popen(["docker", "stop", NAME], stdout=subprocess.DEVNULL)
    said = "appliance: SIGINT: ending"
    wait_until("it drains", 30, lambda: said in docker("logs", "--tail", "50", NAME))
    late = ready.flight(1, tokens=1)
    assert flight.land() == {"answered": 4}
    assert "answered" not in late.land()
    assert stopping.wait(120) == 0
    assert inspect(NAME)["State"]["ExitCode"] == 0
    docker("start", NAME)


# A budget


def budget(appliance: Appliance) -> Any:
    """Return what `status` says of the appliance that always fails."""
    return json.loads(appliance.cli.run("status", "--json", name=f"{NAME}-budget").stdout)


@long
def test_an_engine_that_always_fails_stays_down_and_says_so(
    ready: Appliance, tmp_path: Path
) -> None:
    docker("stop", NAME)
    script = tmp_path / "run.sh"
    more = {"server__extra_args": "[--no-such-flag]", "watchdog__window": "3600"}
    more |= {"watchdog__restarts": "1", "watchdog__backoff": "0", "name": f"{NAME}-budget"}
    script.write_text(ready.cli.run("render", "run", **more).stdout)
    try:
        subprocess.run(["sh", str(script)], check=True, capture_output=True)
        limit = 6 * ready.start_seconds
        wait_until("it stays down", limit, lambda: budget(ready)["state"] == "failed")
        found = budget(ready)
        assert [failure["cause"] for failure in found["failures"]] == ["engine-died"] * 2
        assert found["restarts"] == 2
        assert "stays down" in found["detail"]
    finally:
        docker("rm", "--force", f"{NAME}-budget", check=False)
        docker("volume", "rm", "--force", f"{NAME}-budget-cache", check=False)
        shutil.rmtree(tmp_path)
