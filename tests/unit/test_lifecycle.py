"""What a running container lacks of its plan, what its log says, and who may change it."""

from __future__ import annotations

import dataclasses
import os
import pty
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from appliance.config.model import Config, Container, Server
from appliance.engine.docker import ContainerState
from appliance.errors import ApplianceError
from appliance.inventory.model import Inventory
from appliance.lifecycle import progress as progress_room
from appliance.lifecycle import state
from appliance.lifecycle.drift import differences
from appliance.lifecycle.logs import first_error, last_line
from appliance.lifecycle.progress import Progress
from appliance.plan.make import make

if TYPE_CHECKING:
    from appliance.plan.model import Plan

pytestmark = pytest.mark.usefixtures("clean")

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "sha256:" + "1" * 64
OTHER = "sha256:" + "2" * 64


def plan(config: Config | None = None) -> Plan:
    return make(config or Config(), Inventory("none"), "/opt/models")


def running(made: Plan, **changes: object) -> ContainerState:
    """What the engine says of a container that this plan made."""
    found = ContainerState(
        name="omni",
        id="c" * 64,
        status="running",
        exit_code=0,
        oom_killed=False,
        error="",
        restarts=0,
        started_at="2026-11-22T12:00:00Z",
        health="healthy",
        image_id=IMAGE,
        labels=made.container.labels(),
    )
    return dataclasses.replace(found, **changes)  # type: ignore[arg-type]


def options(*words: str) -> Plan:
    return plan(Config(server=Server(extra_args=list(words))))


def variables(**values: str) -> Plan:
    return plan(Config(container=Container(environment=values)))


# Drift


def test_a_container_of_the_same_plan_differs_in_nothing() -> None:
    assert differences(running(plan()), plan(), IMAGE) == []


def test_another_image_is_a_difference() -> None:
    (line,) = differences(running(plan()), plan(), OTHER)
    assert line.startswith("image: 111111111111 -> 222222222222")
    (line,) = differences(running(plan()), plan(), None)
    assert line.startswith("image: ")
    assert "must be built or pulled" in line


def test_each_changed_variable_is_a_line() -> None:
    old, new = variables(A="1", B="same", C="gone"), variables(A="2", B="same", D="new")
    assert differences(running(old), new, IMAGE) == [
        "environment.A: 1 -> 2",
        "environment.C: gone -> (not set)",
        "environment.D: (not set) -> new",
    ]


def test_each_changed_option_is_a_line() -> None:
    old = options("--seed", "1", "--old")
    new = options("--seed", "2", "--new")
    assert differences(running(old), new, IMAGE) == [
        "command.--new: (not set) -> ",
        "command.--old:  -> (not set)",
        "command.--seed: 1 -> 2",
    ]


def test_a_changed_mount_names_its_target() -> None:
    new = make(Config(), Inventory("none"), "/srv/models")
    assert differences(running(plan()), new, IMAGE) == [
        "mounts./models/tiny-omni.source: /opt/models/tiny-omni -> /srv/models/tiny-omni"
    ]


def test_a_changed_port_and_restart_policy_are_told() -> None:
    new = plan(Config(server=Server(port=9000), container=Container(restart="no")))
    lines = differences(running(plan()), new, IMAGE)
    assert "restart: unless-stopped -> no" in lines
    assert "ports.8000: 127.0.0.1:8000 -> 127.0.0.1:9000" in lines


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # An option that is given twice: the first of the two changed.
        (options("--seed", "1", "--seed", "2"), options("--seed", "3", "--seed", "2")),
        # The same words in another order, and the same letters in other words.
        (options("--seed", "--disable-log-stats"), options("--disable-log-stats", "--seed")),
        (options("--seed", "x y"), options("--seed", "x", "y")),
        (variables(), variables(LATER="1")),
        (plan(), plan(Config(container=Container(ulimits={"core": 0})))),
        (plan(), plan(Config(container=Container(privileged=True)))),
    ],
    ids=["repeated", "order", "words", "first-variable", "first-limit", "privileged"],
)
def test_no_change_goes_unseen(old: Plan, new: Plan) -> None:
    assert differences(running(old), new, IMAGE)
    assert differences(running(new), old, IMAGE)


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"appliance.name": "qwen3-omni"},
        {"appliance.plan": "{", "appliance.plan-hash": "0"},
        {"appliance.plan": "null", "appliance.plan-hash": "0"},
        {"appliance.plan": '["a"]', "appliance.plan-hash": "0"},
        {"appliance.plan": '{"environment": 3, "mounts": [{}]}', "appliance.plan-hash": "0"},
    ],
    ids=range(6),
)
def test_labels_of_something_else_are_a_difference_and_no_failure(labels: dict[str, str]) -> None:
    assert differences(running(plan(), labels=labels), plan(), IMAGE)


# Logs

USAGE = """\
INFO 11-22 12:00:00 [__init__.py:216] Automatically detected platform cpu.
WARNING 11-22 12:00:01 [interface.py:171] Failed to import from vllm._C: ImportError('libnuma.so.1: cannot open shared object file: No such file or directory')
usage: vllm serve [model_tag] [options]
vllm: error: unrecognized arguments: --swap-space 4
"""  # noqa: E501

MEMORY = """\
\x1b[1;36m(APIServer pid=1)\x1b[0;0m INFO 11-22 12:00:00 [api_server.py:1977] vLLM API server version 0.23.0
\x1b[1;36m(EngineCore pid=84)\x1b[0;0m ERROR 11-22 12:00:10 [core.py:946] EngineCore failed to start.
(EngineCore pid=84) ERROR 11-22 12:00:10 [core.py:946] Traceback (most recent call last):
(EngineCore pid=84) ERROR 11-22 12:00:10 [core.py:946]   File "/vllm/v1/engine/core.py", line 937, in run_engine_core
(EngineCore pid=84) ERROR 11-22 12:00:10 [core.py:946]     raise ValueError("No available memory")
(EngineCore pid=84) ERROR 11-22 12:00:10 [core.py:946]           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
(EngineCore pid=84) ERROR 11-22 12:00:10 [core.py:946] ValueError: No available memory for the cache blocks.
(EngineCore pid=84) Process EngineCore:
(APIServer pid=1) Traceback (most recent call last):
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""  # noqa: E501

WORKER = """\
(EngineCore pid=84) (Worker_TP1 pid=85) ERROR 11-22 12:00:00 [multiproc_executor.py:590] WorkerProc failed to start.
(EngineCore pid=84) (Worker_TP1 pid=85) ERROR 11-22 12:00:00 [multiproc_executor.py:590] RuntimeError: Initialize: NPU function error: aclrtSetDevice, error code is 507033
(EngineCore pid=84) ERROR 11-22 12:00:01 [core.py:946] Exception: WorkerProc initialization failed due to an exception in a background process. See stack trace for root cause.
"""  # noqa: E501

RANK = """\
[rank0]: Traceback (most recent call last):
[rank0]:   File "/vllm/x.py", line 1, in f
[rank0]: torch.OutOfMemoryError: NPU out of memory. Tried to allocate 2.00 GiB
"""

LATER = """\
(EngineCore pid=84) ERROR 11-22 12:00:00 [x.py:1] OSError: [Errno 28] No space left on device
(EngineCore pid=84) ERROR 11-22 12:00:01 [x.py:1] ValueError: what came of it
(APIServer pid=1) vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.
"""

LOGS = {
    "usage": (USAGE, "vllm: error: unrecognized arguments: --swap-space 4"),
    "memory": (MEMORY, "ValueError: No available memory for the cache blocks."),
    "worker": (
        WORKER,
        "RuntimeError: Initialize: NPU function error: aclrtSetDevice, error code is 507033",
    ),
    "rank": (RANK, "torch.OutOfMemoryError: NPU out of memory. Tried to allocate 2.00 GiB"),
    "first": (LATER, "OSError: [Errno 28] No space left on device"),
    "key": (
        "appliance: the API key can't be read: [Errno 13] Permission denied: '/run/secrets/k'\n",
        "appliance: the API key can't be read: [Errno 13] Permission denied: '/run/secrets/k'",
    ),
    "no-module": (
        (
            "/usr/bin/python3: Error while finding module specification for 'appliance.inside' "
            "(ModuleNotFoundError: No module named 'appliance')\n"
        ),
        (
            "/usr/bin/python3: Error while finding module specification for 'appliance.inside' "
            "(ModuleNotFoundError: No module named 'appliance')"
        ),
    ),
    "no-error": ("INFO 11-22 12:00:00 [a.py:1] Loading\nKilled\n\n", "Killed"),
    "only-wrappers": (
        "(APIServer pid=1) RuntimeError: Engine core initialization failed.\n",
        "RuntimeError: Engine core initialization failed.",
    ),
    "empty": ("", "the log is empty"),
    "blank": ("\n \n\x1b[0m\n", "the log is empty"),
}


@pytest.mark.parametrize(("log", "line"), LOGS.values(), ids=LOGS)
def test_the_first_error_of_a_log_is_found(log: str, line: str) -> None:
    assert first_error(log) == line


def test_the_last_line_says_something_and_has_no_colours() -> None:
    assert last_line(MEMORY).startswith("RuntimeError: Engine core initialization failed.")
    assert last_line("first\n\x1b[32mLoading: 50%\x1b[0m\r\n\n  \n") == "Loading: 50%"
    assert last_line("") == ""


def test_a_line_of_any_length_is_read_in_no_time() -> None:
    begun = time.monotonic()
    for line in ("(" * 100_000, "[" * 100_000, "(a pid=1) " * 20_000, "A" * 100_000 + " 1" * 9):
        first_error(line)
    assert time.monotonic() - begun < 2


# The right to change an appliance

HOLDER = """
import sys, time
from appliance.lifecycle import state
with state.changing("omni", "up"):
    print("held", flush=True)
    time.sleep(60)
"""


def hold() -> subprocess.Popen[str]:
    """Another process that is changing the appliance `omni`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_only_one_command_changes_an_appliance_at_a_time() -> None:
    with hold() as process:
        try:
            with pytest.raises(ApplianceError) as caught, state.changing("omni", "down"):
                pytest.fail("two hold the same lock")
            assert caught.value.id == "busy"
            assert f"`appliance up` (process {process.pid})" in caught.value.message
            assert state.holder("omni") == f"`appliance up` (process {process.pid})"
            # Another appliance is another matter.
            with state.changing("other", "up"):
                pass
        finally:
            process.kill()


def test_a_command_that_was_killed_holds_nothing() -> None:
    with hold() as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert state.holder("omni") is None
        with state.changing("omni", "down"):
            assert state.holder("omni") == f"`appliance down` (process {os.getpid()})"


def test_the_lock_is_let_go_of_on_success_and_on_failure() -> None:
    assert state.holder("omni") is None
    with state.changing("omni", "up"):
        pass
    with pytest.raises(ZeroDivisionError), state.changing("omni", "up"):
        raise ZeroDivisionError
    assert state.holder("omni") is None
    with state.changing("omni", "up"):
        pass


def test_a_program_that_a_command_starts_does_not_keep_the_lock() -> None:
    with state.changing("omni", "up"):
        child = subprocess.Popen(["sleep", "60"])
    try:
        assert state.holder("omni") is None
        with state.changing("omni", "down"):
            pass
    finally:
        child.kill()
        child.wait()


def test_asking_who_holds_the_lock_keeps_nobody_from_taking_it() -> None:
    """`status` in a loop, as monitoring does it, must not make `up` fail."""
    asking = textwrap.dedent(
        """
        import time
        from appliance.lifecycle import state
        print("asking", flush=True)
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            state.holder("omni")
        """
    )
    with state.changing("omni", "up"):
        pass
    with subprocess.Popen(
        [sys.executable, "-c", asking],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(200):
            with state.changing("omni", "up"):
                pass


def test_a_state_folder_that_can_not_be_made_is_a_typed_error(
    clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (clean / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("XDG_STATE_HOME", str(clean / "file"))
    monkeypatch.setattr(state, "SHARED_LOCKS", clean / "nowhere")
    with pytest.raises(ApplianceError) as caught, state.changing("omni", "up"):
        pass
    assert caught.value.id == "file-not-written"
    assert state.holder("omni") is None
    assert state.verified("omni") is None
    with pytest.raises(ApplianceError) as caught:
        state.write(state.folder("omni") / "compose.yaml", "x")
    assert caught.value.id == "file-not-written"


def test_what_is_kept_is_for_its_owner_alone_and_whole() -> None:
    file = state.folder("omni") / "compose.yaml"
    for text in ("one\n", "two\n"):
        state.write(file, text)
        assert file.read_text(encoding="utf-8") == text
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(file.parent.iterdir()) == [file]


# Progress


def test_progress_in_a_file_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Progress()
    shown.begin("image", "some-image:1")
    shown.detail("not yet: this is no heartbeat")
    shown.end("some-image:1 is here")
    shown.note("  change  x")
    shown.stop()
    captured = capsys.readouterr()
    assert captured.out == ""
    first, second, third = captured.err.splitlines()
    assert first == "[image]     some-image:1"
    assert second.startswith("[image]     some-image:1 is here  (0.")
    assert third == "  change  x"


def test_a_phase_that_lasts_gives_signs_of_life(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_room, "HEARTBEAT_SECONDS", 0.05)
    shown = Progress()
    shown.begin("load", "loading")
    for _ in range(10):
        shown.detail("\x1b[1;36m(EngineCore pid=84)\x1b[0m \rLoading\x07 weights " + "x" * 500)
        time.sleep(0.02)
    lines = capsys.readouterr().err.splitlines()
    # Fewer than details: this is a sign of life, and not the log.
    assert 3 <= len(lines) <= 6
    for line in lines[1:]:
        assert line.startswith("[load]      … 0 s  (EngineCore pid=84) Loading weights")
        assert len(line) < 130
        assert line.isprintable()


def test_quiet_progress_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Progress(quiet=True)
    shown.begin("image", "x")
    shown.detail("x")
    shown.note("x")
    shown.end("x")
    assert capsys.readouterr() == ("", "")


# Square brackets are Rich's markup, and `[/x]` without its opening an error of Rich's.
ON_TERMINAL = """
import time
from appliance.lifecycle.progress import Progress
shown = Progress()
shown.begin("image", "of [/a] and [b]")
time.sleep(0.3)
shown.detail("building [/c] and [d]")
time.sleep(0.3)
shown.end("done [/e]")
"""


def test_progress_on_a_terminal_shows_every_text_as_it_is() -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", ON_TERMINAL],
        stderr=theirs,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:
        pass  # This is how a terminal whose last program ended is read.
    finally:
        os.close(ours)
    assert process.wait(timeout=20) == 0, shown.decode()
    for text in ("[image]", "of [/a] and [b]", "building [/c] and [d]", "done [/e]"):
        assert text in shown.decode(), text
