"""The supervisor, as a real process over real engines that hang, die and misbehave."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from appliance.supervisor import processes
from healthchecks.liveness.check import Note
from tests.unit.supervised import KEY, MODEL, Container, free_port, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.supervised import Run

HUNG = 101
# A container's own numbers of processes, with nothing of its own but them.
AS_ROOT = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
UNSHARE = ["unshare", *AS_ROOT, "--pid", "--fork", "--mount-proc", "--kill-child"]
DIED = 102


@pytest.fixture
def container(tmp_path: Path) -> Container:
    return Container(tmp_path)


def ask(run: Run, tokens: int = 1, seconds: float = 30.0) -> httpx.Response:
    payload = {"model": MODEL, "max_tokens": tokens, "messages": []}
    with httpx.Client(trust_env=False, timeout=seconds) as client:
        return client.post(f"{run.url}/v1/chat/completions", json=payload)


def named(run: Run, name: str) -> list[processes.Process]:
    return [it for it in run.below() if it.name.startswith(name)]


def zombies(run: Run) -> list[processes.Process]:
    return [it for it in run.below() if it.state == processes.ZOMBIE]


# Hangs


def test_a_hang_without_requests(container: Container) -> None:
    """Found by its lack of progress, told with the stacks, and nothing is left of it."""
    with container.start(workers=2) as run:
        run.serving().said("ready").do("hang")
        assert run.ended() == HUNG
    (failure,) = container.failures
    assert (failure["cause"], failure["code"]) == ("engine-hung", HUNG)
    assert "no progress for " in failure["detail"]
    assert "no answer to POST /v1/chat/completions" in failure["detail"]
    assert failure["evidence"].startswith(str(container.folder / "history" / "evidence-"))
    assert container.history["phase"] == "failed"
    evidence = container.evidence
    for title in ("What happened", "Processes", "Last lines", "Stacks, and what the engine"):
        assert f"\n== {title}" in f"\n{evidence}"
    assert "exit code 101" in evidence
    assert "VLLM::Worker_1" in evidence
    assert evidence.count("Fatal Python error: Aborted") == 2
    assert evidence.count("in work_of_a_rank") == 2
    assert "Fatal Python error: Aborted" in run.log
    assert "appliance: [engine-hung] no progress for " in run.log


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_worker_that_is_stopped_or_killed(container: Container, number: int) -> None:
    with container.start(workers=2) as run:
        run.serving()
        until(lambda: len(named(run, "VLLM::Worker")) == 2, "two titled workers")
        pid = next(it.pid for it in named(run, "VLLM::Worker_0"))
        os.kill(pid, number)
        assert run.ended() == (HUNG if number == signal.SIGSTOP else DIED)
    (failure,) = container.failures
    word = "stopped" if number == signal.SIGSTOP else "gone"
    assert f"VLLM::Worker_0 (pid {pid}) is {word} for " in failure["detail"]
    # Also of the process that was stopped.
    assert container.evidence.count("in work_of_a_rank") == (2 if word == "stopped" else 1)


def test_a_server_that_is_stopped(container: Container) -> None:
    with container.start(pid=str(container.folder / "pid")) as run:
        run.serving()
        os.kill(int((container.folder / "pid").read_text()), signal.SIGSTOP)
        assert run.ended() == HUNG
    assert " is stopped for " in container.failures[0]["detail"]
    assert "in serve" in container.evidence


def test_a_helper_that_is_stopped_ends_nothing(container: Container) -> None:
    """Tokens come all the same."""
    sleep = "import time; time.sleep(60)"
    with container.start(orphans=1, orphan=sleep) as run:
        run.serving()
        helpers = [it for it in run.below() if not is_server(it)]
        for helper in helpers:
            os.kill(helper.pid, signal.SIGSTOP)
        assert helpers
        time.sleep(3)
        assert run.process.poll() is None
        assert run.stopped() == 0


def is_server(process: processes.Process) -> bool:
    command = (processes.PROC / str(process.pid) / "cmdline").read_bytes()
    return b"standin_engine.py" in command


def test_a_busy_server_is_left_alone(container: Container) -> None:
    """No token ever comes, but the counters move."""
    with container.start(moving=True, hung=True, running=9) as run:
        run.serving()
        time.sleep(4)
        assert run.process.poll() is None
        note = Note.read(container.folder / "progress.json")
        assert note is not None
        assert note.ok
        assert "9 running" in note.detail
        run.send(signal.SIGTERM)
        assert run.ended() == 0


def test_a_pause_of_the_whole_container_is_no_hang(container: Container) -> None:
    with container.start() as run:
        run.serving()
        everyone = [run.process.pid, *(it.pid for it in run.below())]
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in everyone:
                os.kill(pid, number)
            time.sleep(5 if number == signal.SIGSTOP else 2)
        assert run.process.poll() is None, run.log
        assert run.stopped() == 0


def test_an_engine_that_never_loads(tmp_path: Path) -> None:
    container = Container(tmp_path, START="1.5")
    with container.start(load=60, early=True) as run:
        run.in_phase("starting")
        assert run.ended() == 81
    (failure,) = container.failures
    assert failure["cause"] == "not-ready"
    assert failure["detail"] == "the API did not answer within 1.5 s of the start"
    assert "in serve" in container.evidence


def test_an_engine_that_loads_for_long(container: Container) -> None:
    with container.start(load=4) as run:
        run.in_phase("starting")
        run.serving()
        assert run.stopped() == 0
    assert container.failures == []


def test_without_a_watchdog_nothing_is_ended(tmp_path: Path) -> None:
    container = Container(tmp_path, ENABLED=0)
    with container.start(hung=True) as run:
        # That it served is known all the same: what fails later is no failure of a start.
        run.serving()
        time.sleep(3)
        assert run.process.poll() is None
        assert not (tmp_path / "progress.json").exists()
        assert run.stopped() == 0


# Deaths


@pytest.mark.parametrize(("code", "seen"), [(3, 3), (0, DIED), (101, 101), (255, 255)])
def test_the_code_of_a_dead_engine(container: Container, code: int, seen: int) -> None:
    with container.start(exit=code) as run:
        assert run.ended() == seen
    (failure,) = container.failures
    assert failure["detail"].startswith(f"the engine ended with exit code {code}")
    assert (failure["cause"], failure["code"]) == ("engine-died", seen)
    assert "begins" in container.evidence


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_an_engine_that_a_signal_ended(container: Container, number: signal.Signals) -> None:
    with container.start(workers=1) as run:
        run.serving().do("kill", int(number))
        assert run.ended() == 128 + number
    assert container.failures[0]["detail"].startswith(f"the engine ended by {number.name}")


def test_a_command_that_is_not_there(container: Container) -> None:
    for count in (1, 2):
        with container.start(["/nowhere/vllm", "serve"]) as run:
            assert run.ended() == 127
        assert "/nowhere/vllm can't be started" in run.log
        assert len(container.failures) == count


def test_it_waits_longer_each_time_and_then_stays_down(tmp_path: Path) -> None:
    container = Container(tmp_path, RESTARTS=2, BACKOFF="0.8")
    waits = []
    for _ in range(3):
        began = time.monotonic()
        with container.start(exit=3) as run:
            assert run.ended() == 3
        waits.append(time.monotonic() - began)
    assert "restart 1 of 2 in 0 s; last: [engine-died] the engine ended with" not in run.log
    assert "restart 2 of 2 in 0.8 s; last: [engine-died] the engine ended with" in run.log
    assert waits[2] > 0.8
    with container.start(exit=3) as run:
        run.in_phase("down")
        reply = httpx.get(f"{run.url}/v1/models", trust_env=False)
        assert reply.status_code == 503
        assert "down after repeated failures" in reply.json()["error"]["message"]
        assert "retry-after" not in reply.headers
        assert "failed 3 times within 60 min and stays down" in container.history["detail"]
        # Whoever stops it has seen to it.
        assert run.stopped() == 0
        assert run.log.count("begins") == 0
    with container.start() as run:
        run.serving()
        assert run.stopped() == 0
    assert len(container.failures) == 3


def test_a_stop_while_it_waits(tmp_path: Path) -> None:
    container = Container(tmp_path, BACKOFF="60", BACKOFF_MAX="60")
    for _ in range(2):
        with container.start(exit=3) as run:
            run.ended()
    with container.start(exit=3) as run:
        run.in_phase("waiting")
        run.send(signal.SIGHUP)
        reply = httpx.get(run.url, trust_env=False)
        assert reply.status_code == 503
        assert 1 <= int(reply.headers["retry-after"]) <= 60
        assert run.send(signal.SIGINT).ended() == 0
    assert all(failure["forgiven"] for failure in container.failures)
    with container.start(exit=3) as run:
        assert run.ended() == 3
        assert "restart" not in run.log


def test_everybody_gets_an_answer_while_there_is_no_engine(tmp_path: Path) -> None:
    """A large body, one in pieces, many at once; then the port is free for the engine."""
    container = Container(tmp_path, BACKOFF="4", BACKOFF_MAX="4")
    for _ in range(2):
        with container.start(exit=3) as run:
            run.ended()
    with container.start() as run:
        run.in_phase("waiting")
        with httpx.Client(trust_env=False, timeout=30) as client:
            large = client.post(f"{run.url}/v1/chat/completions", content=b"x" * (64 << 20))
            pieces = client.post(run.url, content=(b"y" * 65536 for _ in range(200)))
            head = client.head(f"{run.url}/health")
        assert (large.status_code, pieces.status_code, head.status_code) == (503, 503, 503)
        assert large.json()["error"]["code"] == 503
        assert head.content == b""
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: httpx.get(run.url, trust_env=False), range(40)))
        assert {reply.status_code for reply in found} == {503}
        run.serving()
        assert ask(run).status_code == 200
        assert run.stopped() == 0


# Stops and other signals


def test_a_stop_lets_requests_that_run_end(container: Container) -> None:
    with (
        container.start() as run,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        run.serving()
        asked = pool.submit(ask, run, 15)
        time.sleep(0.5)
        assert run.stopped() == 0
        assert asked.result().status_code == 200
    assert "got SIGTERM" in run.log
    assert "ends in order" in run.log
    assert run.log.count("got SIG") == 1
    assert "appliance: ended\n" in run.log
    assert container.history["phase"] == "stopped"
    assert container.failures == []


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    container = Container(tmp_path, DRAIN="300")
    with container.start(deaf=True) as run:
        run.serving().send(signal.SIGTERM).said("got SIGTERM")
        assert run.process.poll() is None
        assert run.send(signal.SIGTERM).ended() == 0
    assert "a second signal: ending at once" in run.log
    assert "ended by force" in run.log


def test_the_drain_has_an_end(tmp_path: Path) -> None:
    container = Container(tmp_path, DRAIN="0.5")
    with container.start(deaf=True) as run:
        run.serving()
        assert run.stopped() == 0
    assert "running requests have 0.5 s" in run.log
    assert "ended by force" in run.log


def test_other_signals_are_passed_on_once(container: Container) -> None:
    with container.start() as run:
        run.serving().said("ready")
        for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT"):
            run.send(getattr(signal, name)).said(f"got {name}")
        time.sleep(0.3)
        assert run.log.count("got SIG") == 4
        assert run.send(signal.SIGINT).ended() == 0
    assert "got SIGINT" in run.log


def test_a_stop_while_it_loads(container: Container) -> None:
    with container.start(load=60, early=True) as run:
        run.said("begins")
        assert run.stopped() == 0
    assert container.failures == []


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.15, 0.25, 0.4])
def test_a_stop_at_any_moment_of_the_start(container: Container, delay: float) -> None:
    with container.start(load=60, early=True) as run:
        # Before it has taken over, Python itself has the signal: any other end will do.
        until(lambda: b"PYTHONPATH" in run_environment(run), "the program")
        time.sleep(delay)
        code = run.send(signal.SIGTERM).ended()
        assert code in (0, -signal.SIGTERM)
    assert not (container.folder / "history" / "state.json").exists() or container.failures == []


def run_environment(run: Run) -> bytes:
    return (processes.PROC / str(run.process.pid) / "environ").read_bytes()


def test_a_stop_while_evidence_is_collected(container: Container) -> None:
    """It goes on ending, at once, and the next start is the first again."""
    with container.start(workers=1, deaf=True) as run:
        run.serving().do("hang").said("collecting evidence")
        assert run.send(signal.SIGTERM).ended() == HUNG
    (failure,) = container.failures
    assert (failure["cause"], failure["forgiven"]) == ("engine-hung", True)
    assert container.history["phase"] == "stopped"


# What is left behind


def test_orphans_are_reaped_while_it_runs(container: Container) -> None:
    with container.start(orphans=20) as run:
        run.serving()
        until(lambda: not zombies(run), "no zombies")
        assert len(run.below()) == 1
        assert run.stopped() == 0


def test_what_the_engine_left_is_ended_too(container: Container) -> None:
    """Also what does not listen to a signal to end, and has a session of its own."""
    deaf = "import os, signal, time; os.setsid(); signal.signal(15, signal.SIG_IGN); time.sleep(99)"
    with container.start(orphans=3, orphan=deaf, workers=1) as run:
        run.serving()
        until(lambda: len(run.below()) == 5, "three orphans, a worker and the server")
        run.do("kill", int(signal.SIGKILL))
        assert run.ended() == 128 + signal.SIGKILL


def test_as_the_first_process_of_a_container(container: Container) -> None:
    """PID 1 has no handler of its own, gets all orphans, and its end is everybody's."""
    with container.start(before=UNSHARE, orphans=20, workers=1) as run:
        run.serving()
        (first,) = [it for it in run.below() if it.parent == run.process.pid]
        until(lambda: len(processes.below(first.pid)) == 2, "no zombies")
        os.kill(first.pid, signal.SIGTERM)
        assert run.ended() == 0
    assert "appliance: ended\n" in run.log


def test_a_storm_of_children_that_end(container: Container) -> None:
    with container.start(orphans=60) as run:
        run.serving()
        until(lambda: not zombies(run), "no zombies")
        assert ask(run).status_code == 200
        assert run.stopped() == 0


# The log


def test_a_log_of_gigabytes(container: Container) -> None:
    with container.start() as run:
        run.serving().do("log", 100)
        until(lambda: run.file.stat().st_size > 99 << 20, "the log")
        assert ask(run).status_code == 200
        status = (processes.PROC / str(run.process.pid) / "status").read_text()
        peak = int(status.partition("VmHWM:")[2].split()[0])
        assert peak < 200 << 10
        assert run.do("exit", 7).ended() == 7
        os.truncate(run.file, 0)
    assert container.evidence.count("x" * 99) <= 400


def test_a_log_that_nobody_reads(container: Container) -> None:
    """The engine serves on, a hang is found, and the end comes."""
    reading, writing = os.pipe()
    run = container.start()
    run.stdout = writing
    with run:
        os.close(writing)
        run.serving().do("log", 4)
        until(lambda: ask(run).status_code == 200, "an answer")
        run.do("hang")
        assert run.ended() == HUNG
        os.close(reading)


def test_a_log_that_nobody_can_read_any_more(container: Container) -> None:
    reading, writing = os.pipe()
    run = container.start()
    run.stdout = writing
    with run:
        os.close(writing)
        os.close(reading)
        run.serving().do("log", 4)
        assert ask(run).status_code == 200
        assert run.stopped() == 0


def test_an_engine_that_closes_its_output(container: Container) -> None:
    with container.start(silent=True) as run:
        run.serving()
        assert ask(run).status_code == 200
        assert run.stopped() == 0


def test_the_log_is_what_the_engine_said(container: Container) -> None:
    with container.start() as run:
        run.serving().do("say", "模型-done").said("ready\n")
        run.said("%E6%A8%A1%E5%9E%8B-done\n")
        assert run.stopped() == 0


# The key


def test_the_key_is_in_no_evidence(container: Container) -> None:
    (container.folder / "key").write_text(f"{KEY}\n")
    with container.start() as run:
        run.said(f"begins, key {KEY}").serving().do("say", KEY)
        run.do("say", "x" * 4090 + KEY).do("hang")
        assert run.ended() == HUNG
    assert "begins, key [API key]" in container.evidence
    for file in (container.folder / "history").iterdir():
        assert KEY[:6] not in file.read_text()
    assert KEY not in (container.folder / "progress.json").read_text()


@pytest.mark.parametrize(
    ("key", "code", "words"),
    [
        (b"", 67, "is empty"),
        (b" \n", 67, "is empty"),
        (b"\xff\xfe", 67, "can't be read"),
        (b"two words", 64, "the API key must be visible ASCII characters without spaces"),
    ],
)
def test_a_key_that_is_none(container: Container, key: bytes, code: int, words: str) -> None:
    (container.folder / "key").write_bytes(key)
    with container.start() as run:
        assert run.ended() == code
    assert words in run.log
    assert "begins" not in run.log
    assert "two words" not in run.log
    assert "Traceback" not in run.log


# Settings


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("BUSY", "soon", "SUPERVISOR_BUSY is 'soon', and no number"),
        ("BUSY", "0.1", "busy (0.1 s) must be at least"),
        ("INTERVAL", "0", "interval must be more than 0"),
        ("BACKOFF", "-1", "SUPERVISOR_BACKOFF is '-1', which is no time"),
        ("BACKOFF_MAX", "nan", "SUPERVISOR_BACKOFF_MAX is 'nan'"),
        ("RESTARTS", "1e99", "SUPERVISOR_RESTARTS is '1e99'"),
    ],
)
def test_a_bad_variable(tmp_path: Path, name: str, value: str, words: str) -> None:
    container = Container(tmp_path, **{name: value})
    with container.start() as run:
        assert run.ended() == 64
    assert words in run.log
    assert "begins" not in run.log
    assert "Traceback" not in run.log


def test_no_command_is_wrong_usage() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "appliance.supervisor"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("usage:")


def test_a_stale_note_of_an_earlier_start_is_no_answer(container: Container) -> None:
    file = container.folder / "progress.json"
    Note(time.time(), ok=True, detail="an earlier start").write(file)
    with container.start(load=60, early=True) as run:
        run.said("begins")
        assert not file.exists()
        assert run.stopped() == 0


# History


def wait_for_failures(container: Container, count: int) -> None:
    until(lambda: len(container.failures) == count, f"{count} failures")


def test_a_supervisor_that_was_killed(container: Container) -> None:
    for count in (1, 2):
        with container.start(before=UNSHARE) as run:
            run.said("ready").serving()
            wait_for_failures(container, count - 1)
            run.send(signal.SIGKILL).ended()
            until(lambda: not container.survivors(), "the end of all")
    with container.start(exit=3) as run:
        run.ended()
    causes = [failure["cause"] for failure in container.failures]
    assert causes == ["killed", "killed", "engine-died"]
    assert container.failures[0]["detail"].startswith("while serving, from outside: out of memory")


def written(container: Container, **changes: object) -> dict[str, object]:
    """A state, as a supervisor that was killed while it served leaves it."""
    import socket

    state: dict[str, object] = {
        "phase": "serving", "detail": "", "since": time.time() - 60, "boot": "first boot",
        "host": socket.gethostname(), "failures": [],
    }  # fmt: skip
    folder = container.folder / "history"
    folder.mkdir()
    (folder / "state.json").write_text(json.dumps(state | changes))
    return state


@pytest.mark.parametrize(
    ("changes", "noted"),
    [
        ({}, True),
        ({"phase": "starting"}, True),
        ({"boot": "another boot"}, False),
        ({"host": "another-container"}, False),
        ({"phase": "stopping"}, False),
        ({"phase": "down"}, False),
        ({"since": time.time() + 1e6}, True),
    ],
)
def test_when_a_kill_is_noted(
    container: Container, changes: dict[str, object], noted: bool
) -> None:
    written(container, **changes)
    with container.start(exit=3) as run:
        assert run.ended() == 3
    assert [it["cause"] for it in container.failures] == ["killed"] * noted + ["engine-died"]
    assert all(it["ran"] >= 0 for it in container.failures)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "null", "[]", "7", '"x"', "{}", '{"failures": 7}', '{"failures": [7]}',
        '{"failures": [], "phase": "serving", "boot": "first boot", "since": "x", "host": ""}',
        '{"failures": [], "phase": "dancing"}',
        '{"failures": [{"at": "x", "cause": "killed", "detail": "", "ran": 1}]}',
        '{"failures": [{"at": NaN, "cause": "killed", "detail": "", "ran": 1}]}',
        '{"failures": [{"at": 1e300, "cause": "killed", "detail": "", "ran": 1}]}',
        '{"failures": [{"at": 1, "cause": ["killed"], "detail": "", "ran": 1}]}',
        '{"failures": [], "more": 1}', "[" * 100_000, "\0" * 1000,
    ],
)  # fmt: skip
def test_a_state_that_is_none(text: str, container: Container) -> None:
    written(container)
    (container.folder / "history" / "state.json").write_text(text)
    with container.start(["/nowhere/vllm"]) as run:
        assert run.ended() == 127
    assert "Traceback" not in run.log
    assert len(container.failures) == 1


def test_failures_of_a_clock_that_was_set_back(tmp_path: Path) -> None:
    container = Container(tmp_path, RESTARTS=1)
    later = {"at": time.time() + 5e6, "cause": "killed", "detail": "", "ran": 1.0}
    written(container, phase="failed", failures=[later] * 5)
    with container.start() as run:
        run.serving()
        assert run.stopped() == 0


@pytest.mark.parametrize("trouble", ["a file", "full", "read-only"])
def test_a_history_that_cannot_be_kept(container: Container, trouble: str) -> None:
    folder = container.folder / "history"
    if trouble == "a file":
        folder.write_text("")
    elif trouble == "full":
        folder.symlink_to("/dev/full/none")
    else:
        folder.symlink_to("/proc/self")
    with container.start() as run:
        run.said("ready")
        until(lambda: ask(run).status_code == 200, "an answer")
        assert run.do("exit", 3).ended() == 3
    assert "the history can't be kept, so restarts are not counted: " in run.log
    assert "evidence: could not be kept" in run.log
    assert "Traceback" not in run.log


def test_only_the_last_evidence_is_kept(container: Container) -> None:
    folder = container.folder / "history"
    folder.mkdir()
    for number in range(7):
        (folder / f"evidence-2020010{number}T000000Z.txt").write_text("old")
    with container.start(exit=3) as run:
        run.ended()
    kept = sorted(path.name for path in folder.glob("evidence-*"))
    assert len(kept) == 5
    assert kept[0] == "evidence-20200103T000000Z.txt"
    assert {(folder / name).stat().st_mode & 0o777 for name in (kept[-1], "state.json")} == {0o600}


def test_the_address_is_the_commands(tmp_path: Path) -> None:
    """The server is asked where `--port` puts it, whatever stands in no variable."""
    container = Container(tmp_path)
    container.port = free_port()
    with container.start() as run:
        run.serving()
        note = until(lambda: Note.read(tmp_path / "progress.json"), "a note")
        assert note.ok
        assert run.stopped() == 0
