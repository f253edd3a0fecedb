"""Runs the real supervisor over a stand-in engine, as real processes, and looks at both."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from appliance.supervisor import processes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from typing_extensions import Self

ROOT = Path(__file__).resolve().parents[2]
STANDIN = Path(__file__).with_name("standin_engine.py")
MODEL = "standin"
KEY = "sk-not-for-any-evidence"
MARK = "STANDIN_MARK"
# A loaded machine takes its time: no test is about being quick.
PATIENCE = 30.0
LIMITS = {
    "INTERVAL": "0.2", "QUIET": "0.5", "DEADLINE": "1", "BUSY": "4", "STOPPED": "0.6",
    "START": "20", "DRAIN": "5", "BACKOFF": "0.2", "BACKOFF_MAX": "1",
}  # fmt: skip
# The supervisor as it is in the image, but for where it keeps its files, and shorter waits where
# no setting is.
PROGRAM = """
import sys
from appliance.plan import names
folder = sys.argv[1]
names.SUPERVISOR_DIR = f"{folder}/history"
names.PROGRESS_FILE = f"{folder}/progress.json"
names.WORK_DIR = f"{folder}/work"
names.API_KEY_FILE = f"{folder}/key"
from appliance.supervisor import engine, history, output, run, watcher
run.END_SECONDS = 2.0
output.READER_SECONDS = 0.5
watcher.LOAD_POLL_SECONDS = 0.1
history.BOOT_ID = type(history.BOOT_ID)(f"{folder}/boot")
from appliance.supervisor.__main__ import main
sys.exit(main(sys.argv[2:]))
"""


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def until(done: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Wait for something to be so, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.03)
    return found


class Container:
    """What stays from start to start: the folder, the port, the settings."""

    def __init__(self, folder: Path, **limits: object) -> None:
        self.folder = folder
        self.port = free_port()
        self.mark = uuid.uuid4().hex
        self.limits = LIMITS | {name: str(value) for name, value in limits.items()}
        (folder / "boot").write_text("first boot\n")

    @property
    def history(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "history" / "state.json").read_text())
        return found

    @property
    def failures(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.history["failures"]
        return found

    @property
    def evidence(self) -> str:
        """The last evidence that was kept."""
        return max((self.folder / "history").glob("evidence-*.txt")).read_text()

    def survivors(self) -> list[str]:
        """The processes of this container that are there, by the mark in their environment."""
        found = []
        for entry in processes.PROC.iterdir():
            try:
                if entry.name.isdigit() and self.mark.encode() in (entry / "environ").read_bytes():
                    found.append((entry / "stat").read_text())
            except OSError:
                continue
        return found

    def start(
        self, command: Sequence[str] | None = None, /, *, before: Sequence[str] = (), **do: Any
    ) -> Run:
        if command is None:
            command = [
                sys.executable, str(STANDIN), "serve", "--served-model-name", MODEL,
                "--port", str(self.port), "--do", json.dumps(do),
            ]  # fmt: skip
        return Run(self, command, before)


class Run:
    """One start of the container; at the block's end nothing of it may be left."""

    def __init__(self, container: Container, command: Sequence[str], before: Sequence[str]) -> None:
        self.container = container
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
        self.environment = {
            **kept,
            MARK: container.mark,
            "PYTHONPATH": str(ROOT),
            **{f"SUPERVISOR_{name}": value for name, value in container.limits.items()},
        }
        self.command = [*before, sys.executable, "-c", PROGRAM, str(container.folder), *command]
        self.file = container.folder / f"log-{uuid.uuid4().hex}"
        self.stdout: int | None = None

    def __enter__(self) -> Self:
        with self.file.open("wb") as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log if self.stdout is None else self.stdout,
                stderr=log if self.stdout is None else self.stdout,
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            assert self.process.poll() is not None, "the supervisor was not waited for"
            until(lambda: not self.container.survivors(), "the end of all processes", 5)
            return
        print(self.log)
        self.process.kill()
        self.process.wait()
        for stat in self.container.survivors():
            os.kill(int(stat.split()[0]), signal.SIGKILL)

    @property
    def log(self) -> str:
        return self.file.read_text(errors="replace")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.container.port}"

    @property
    def phase(self) -> str | None:
        try:
            return str(self.container.history["phase"])
        except OSError:
            return None

    def said(self, words: str) -> Self:
        until(lambda: words in self.log, words)
        return self

    def in_phase(self, phase: str) -> Self:
        until(lambda: self.phase == phase, f"phase {phase}")
        return self

    def serving(self) -> Self:
        return self.in_phase("serving")

    def do(self, name: str, argument: object = "") -> Self:
        httpx.get(f"{self.url}/do/{name}/{argument}", trust_env=False)
        return self

    def send(self, number: int) -> Self:
        self.process.send_signal(number)
        return self

    def ended(self, seconds: float = PATIENCE) -> int:
        return self.process.wait(seconds)

    def stopped(self) -> int:
        return self.send(signal.SIGTERM).ended()

    def below(self) -> list[processes.Process]:
        return processes.below(self.process.pid)
