"""Jobs: the container that is asked for, and the process that speaks with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

import pytest

from appliance.config.model import Config, Container, Server
from appliance.engine.docker import ContainerState
from appliance.errors import ApplianceError
from appliance.inventory.model import Inventory
from appliance.jobs import container, create, process
from appliance.jobs.process import Process
from appliance.paths import INSIDE_IMAGE
from appliance.plan import names
from appliance.plan.make import make

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.jobs.container import Job

pytestmark = pytest.mark.usefixtures("clean")
ECHO = "import sys\nfor line in sys.stdin: print('got', line.strip(), flush=True)\nprint('end')"


def job(code: str = ECHO, config: Config | None = None) -> Job:
    """A job of its own that runs Python."""
    config = config or Config()
    planned = make(container.alone(config, "offline"), Inventory("none"), "/opt/models").container
    return container.with_engine(planned, config, ("python3", "-c", code))


def here(code: str) -> Job:
    """The same, to run on this machine as in the image: with this Python, and no start command."""
    import dataclasses

    made = job()
    command = (sys.executable, "-c", textwrap.dedent(code))
    return dataclasses.replace(
        made, container=dataclasses.replace(made.container, command=command, stop_timeout=5)
    )


@pytest.fixture
def inside(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine is taken for the inside of the appliance image."""
    del clean  # Which takes the variable away.
    monkeypatch.setenv(INSIDE_IMAGE, "1")


# The container


def test_a_job_has_a_name_and_dies_of_its_own_and_the_appliances_cache() -> None:
    config = Config(name="omni", server=Server(port=9000))
    alone = container.alone(config, "offline")
    assert (alone.name, alone.server.port) == ("omni-offline", None)
    made = job(config=config)
    assert made.name == "omni-offline"
    (cache,) = [it for it in made.container.mounts if it.target == names.CACHE_DIR]
    assert cache.source == "omni-cache"
    assert made.container.command[:3] == names.START_COMMAND
    assert (made.container.ports, made.container.restart) == ((), "no")
    assert made.container.labels()[names.LABEL_NAME] == "omni-offline"


def test_a_job_beside_the_appliance_is_in_its_network() -> None:
    bridge = make(Config(), Inventory("none"), "/opt/models").container
    assert container.beside(bridge, "bench", ("x",)).network == "container:qwen3-omni"
    shared = make(Config(server=Server(network="host")), Inventory("none"), "/opt/models")
    made = container.beside(shared.container, "bench", ("x",))
    assert (made.network, made.name) == ("host", "qwen3-omni-bench")


class Api:
    """Takes down what is asked of the engine."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def create_host_config(self, **values: Any) -> dict[str, Any]:
        return values

    def create_container(self, image: str, command: list[str], **values: Any) -> None:
        self.asked = {"image": image, "command": command, **values}


class Engine:
    """As much of an engine as making a container needs."""

    def __init__(self) -> None:
        self.api = Api()
        self.client = self


@pytest.mark.parametrize("claims", [True, False])
def test_a_jobs_container_has_no_more_rights_than_the_plans(claims: bool) -> None:
    engine = Engine()
    made = job(config=Config(container=Container(memory="8g")))
    create.create(engine, made, claims=claims)  # type: ignore[arg-type]
    asked, host = engine.api.asked, engine.api.asked["host_config"]
    assert (asked["stdin_open"], asked["stop_signal"]) == (True, "SIGINT")
    assert bool(asked["labels"]) == claims
    assert (host["auto_remove"], host["read_only"], host["privileged"]) == (True, True, False)
    assert host["cap_drop"] == ["ALL"]
    assert "no-new-privileges" in " ".join(host["security_opt"])
    assert host["mem_limit"] == 8 * 2**30
    assert "ports" not in asked
    assert "port_bindings" not in host


# The process


def test_a_process_speaks_by_lines_both_ways() -> None:
    told: list[str] = []
    code = "import sys\nfor l in sys.stdin: print('ö', l.strip()); print('note', file=sys.stderr)"
    running = Process([sys.executable, "-c", code], told.append, {"PYTHONIOENCODING": "utf-8"})
    assert running.send("é")
    assert running.send("ß")
    running.no_more()
    assert list(running.lines()) == ["ö é", "ö ß"]
    assert running.wait() == 0
    running.close()
    assert (told, running.log) == (["note", "note"], "note\nnote")
    assert not running.send("late")
    running.no_more()


def test_a_program_that_is_not_there_is_told() -> None:
    with pytest.raises(ApplianceError) as caught:
        Process(["/nowhere/docker"], print)
    assert caught.value.id == "engine-missing"


@pytest.mark.usefixtures("inside")
def test_in_the_image_a_job_runs_right_here_with_the_plans_variables() -> None:
    code = "import os; print(os.environ['HF_HUB_OFFLINE'], os.environ['VLLM_CPU_KVCACHE_SPACE'])"
    with process.started(here(code), print) as running:
        assert list(running.lines()) == ["1 1"]
        process.check(running, "It")


@pytest.mark.usefixtures("inside")
def test_a_job_that_fails_says_its_first_error(capsys: pytest.CaptureFixture[str]) -> None:
    code = "raise RuntimeError('no such die')"
    told: list[str] = []
    with process.started(here(code), told.append) as running:
        assert list(running.lines()) == []
        with pytest.raises(
            ApplianceError, match=r"exit status 1. First error: .*no such die"
        ) as it:
            process.check(running, "It")
    assert it.value.id == "job-failed"
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("inside")
def test_a_block_that_ends_early_ends_the_job_and_lets_it_tidy_up(tmp_path: Path) -> None:
    code = f"""
        import time
        try:
            print("up", flush=True)
            time.sleep(600)
        except KeyboardInterrupt:
            open({str(tmp_path / "tidy")!r}, "w").close()
    """
    with process.started(here(code), print) as running:
        assert next(running.lines()) == "up"
    assert not running.running
    assert (tmp_path / "tidy").exists()


@pytest.mark.usefixtures("inside")
def test_a_job_that_does_not_end_is_killed_with_all_that_it_started() -> None:
    code = """
        import signal, subprocess, sys, time
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import signal, time;"
            "signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)"])
        print(child.pid, flush=True)
        time.sleep(600)
    """
    began = time.monotonic()
    with process.started(here(code), print) as running:
        child = int(next(running.lines()))
    assert not running.running
    assert 4 < time.monotonic() - began < 30
    for _ in range(50):
        if not os.path.exists(f"/proc/{child}") or "Z" in _state(child):  # noqa: PTH110
            break
        time.sleep(0.1)
    else:
        pytest.fail("the child lives on")


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:  # noqa: PTH123
        return file.read().rsplit(")", 1)[1].split()[0]


def test_a_launcher_that_is_killed_closes_the_jobs_input() -> None:
    """What the job sees of it: the end of its stdin."""
    code = f"""
        import os, sys
        from appliance.jobs.process import Process
        job = Process([sys.executable, "-c", {ECHO!r}], print)
        job.send("a")
        print(next(job.lines()), job._process.pid, flush=True)
        os.kill(os.getpid(), 9)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    ) as launcher:
        assert launcher.stdout is not None
        _, _, pid = launcher.stdout.readline().split()
        assert launcher.wait(10) == -signal.SIGKILL
    for _ in range(100):
        try:
            if _state(int(pid)) == "Z":
                break
        except FileNotFoundError:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the job lives on")


# What is left of another


def state(*, running: bool) -> ContainerState:
    return ContainerState(
        "omni-offline", "c" * 64, "running" if running else "exited", 0, False, "", 0, "", None,
        "sha256:1", {},
    )  # fmt: skip


class Left:
    """An engine with one container."""

    def __init__(self, *, running: bool) -> None:
        self.left: ContainerState | None = state(running=running)

    def container(self, _: str) -> ContainerState | None:
        return self.left

    def remove(self, _: ContainerState) -> None:
        self.left = None


def test_a_job_at_work_is_left_alone_and_a_dead_one_is_taken_away() -> None:
    with pytest.raises(ApplianceError, match="is at work already") as caught:
        process._make_room(Left(running=True), job())  # type: ignore[arg-type]
    assert caught.value.id == "busy"
    engine = Left(running=False)
    process._make_room(engine, job())  # type: ignore[arg-type]
    assert engine.left is None
