"""Jobs: the container that is asked for, and the process that speaks with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from appliance.config.model import Config, Container, Server
from appliance.engine.docker import ContainerState
from appliance.errors import ApplianceError
from appliance.inventory.model import Inventory
from appliance.jobs import container, create, folder, process
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

    def create_container(self, image: str, command: list[str], **values: Any) -> dict[str, str]:
        self.asked = {"image": image, "command": command, **values}
        return {"Id": "c" * 64}


class Engine:
    """As much of an engine as making a container needs."""

    def __init__(self) -> None:
        self.api = Api()
        self.client = self


@pytest.mark.parametrize("claims", [True, False])
def test_a_jobs_container_has_no_more_rights_than_the_plans(claims: bool) -> None:
    engine = Engine()
    made = job(config=Config(container=Container(memory="8g")))
    assert create.create(engine, made, claims=claims) == "c" * 64  # type: ignore[arg-type]
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


# Silence, and pipes that somebody holds


def talker(code: str) -> Process:
    return Process([sys.executable, "-c", textwrap.dedent(code)], lambda _: None)


def test_a_job_that_says_nothing_is_not_waited_for_without_end() -> None:
    running = talker("print('up', flush=True); import time; time.sleep(600)")
    assert running.line(60, "It") == "up"
    for wait in (lambda: running.line(0.5, "It"), lambda: running.wait(0.5, "It")):
        began = time.monotonic()
        with pytest.raises(ApplianceError, match=r"It has said nothing for 0.5 s") as caught:
            wait()
        assert caught.value.id == "job-failed"
        assert time.monotonic() - began < 5
    running.end(0)
    running.close()


def test_a_job_that_says_anything_is_waited_for() -> None:
    running = talker(
        """
        import sys, time
        for _ in range(8):
            time.sleep(0.5)
            print("step", end="\\r", file=sys.stderr, flush=True)
        print("done")
        """
    )
    assert list(running.lines(2.0, "It")) == ["done"]
    assert running.wait() == 0
    running.close()
    assert running.log == "\n".join(["step"] * 8)


def test_a_line_may_be_long_and_the_last_one_without_an_end() -> None:
    running = talker("print('x' * 3_000_000); print(end='y')")
    assert [len(line) for line in running.lines(60)] == [3_000_000, 1]
    running.wait()
    running.close()


def test_whatever_holds_a_pipe_holds_up_nobody() -> None:
    # It left the group, so that no signal reaches it.
    child = "import time; time.sleep(8)"
    running = talker(
        f"""
        import subprocess, sys
        subprocess.Popen([sys.executable, "-c", {child!r}], start_new_session=True)
        """
    )
    running._process.wait(30)
    began = time.monotonic()
    running.close()
    assert time.monotonic() - began < 6


def test_a_job_that_takes_nothing_is_ended_while_a_thread_is_sending() -> None:
    running = talker("import signal, time; signal.signal(2, signal.SIG_IGN); time.sleep(600)")
    sending = threading.Thread(target=running.send, args=("x" * 10_000_000,), daemon=True)
    sending.start()
    time.sleep(0.5)
    began = time.monotonic()
    running.end(1.0)
    running.close()
    sending.join(10)
    assert not sending.is_alive()
    assert not running.running
    assert time.monotonic() - began < 10


# What is left of another


def state(status: str) -> ContainerState:
    return ContainerState(
        "c" * 64, "omni-offline", status, 0, False, "", 0, "", None, "sha256:1", {},
    )  # fmt: skip


class Left:
    """An engine with one container, made some seconds ago."""

    def __init__(self, status: str, age: float = 0) -> None:
        self.left: ContainerState | None = state(status)
        moment = datetime.now(timezone.utc) - timedelta(seconds=age)
        self.created = f"{moment:%Y-%m-%dT%H:%M:%S}.123456789Z"

    def container(self, _: str) -> ContainerState | None:
        return self.left

    def inspect(self, _: str) -> dict[str, str]:
        return {"Created": self.created}

    def remove(self, _: ContainerState) -> None:
        self.left = None


@pytest.mark.parametrize(
    ("status", "age"), [("running", 900), ("paused", 900), ("restarting", 900), ("created", 5)]
)
def test_a_job_at_work_is_left_alone(status: str, age: float) -> None:
    engine = Left(status, age)
    with pytest.raises(ApplianceError, match="is at work already") as caught:
        process._make_room(engine, job())  # type: ignore[arg-type]
    assert caught.value.id == "busy"
    assert engine.left is not None


@pytest.mark.parametrize(("status", "age"), [("exited", 1), ("dead", 1), ("created", 90)])
def test_a_dead_one_is_taken_away(status: str, age: float) -> None:
    engine = Left(status, age)
    process._make_room(engine, job())  # type: ignore[arg-type]
    assert engine.left is None


@pytest.mark.parametrize(("status", "id"), [(409, "busy"), (500, "engine-failed")])
def test_a_name_that_another_launcher_was_faster_to_take_is_busy(
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    id: str,  # noqa: A002
) -> None:
    from docker.errors import APIError
    from requests import Response

    answer = Response()
    answer.status_code = status

    def taken(*_: Any, **__: Any) -> None:
        raise APIError("no", response=answer, explanation="no")

    engine = Engine()
    monkeypatch.setattr(engine.api, "create_container", taken)
    with pytest.raises(ApplianceError) as caught:
        create.create(engine, job(), claims=False)  # type: ignore[arg-type]
    assert caught.value.id == id


def test_a_container_that_never_started_is_taken_away(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    removed: list[tuple[str, bool]] = []
    engine = Engine()
    engine.container = lambda _: None  # type: ignore[attr-defined]
    engine.api.remove_container = (  # type: ignore[attr-defined]
        lambda name, *, force: removed.append((name, force))
    )
    monkeypatch.setattr("appliance.engine.docker.connect", lambda: engine)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ApplianceError) as caught, process.started(job(), print):
        pass
    assert caught.value.id == "engine-missing"
    assert removed == [("c" * 64, True)]


# A folder of its own


def test_a_folder_is_nobody_elses(tmp_path: Path) -> None:
    with folder.own(tmp_path / "results", "it") as first, folder.own(first.parent, "it") as second:
        assert [first.name, second.name] == ["it", "it-2"]
        (second / "file").touch()
    # The first stayed empty.
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["it-2"]


def test_a_folder_by_an_exact_name_is_empty_and_nobody_elses(tmp_path: Path) -> None:
    def own() -> Any:
        return folder.own(tmp_path, "mine", exactly=True)

    (tmp_path / "mine").mkdir()
    with own() as found:
        assert found == tmp_path / "mine"
        with pytest.raises(ApplianceError) as caught, own():
            pass
        assert caught.value.id == "busy"
    assert found.is_dir(), "it was there before"
    (found / "notes.txt").touch()
    with pytest.raises(ApplianceError) as caught, own():
        pass
    assert caught.value.id == "file-differs"
    assert (found / "notes.txt").exists()
    (tmp_path / "file").touch()
    for parent, name in ((tmp_path, "file"), (tmp_path / "file", "it")):
        with pytest.raises(ApplianceError) as caught, folder.own(parent, name, exactly=True):
            pass
        assert caught.value.id == "file-not-written"
