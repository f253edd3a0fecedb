"""Runs a job and speaks with it, line by line, and leaves nothing of it running."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import deque
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from threading import Thread
from typing import IO, TYPE_CHECKING

from appliance import paths
from appliance.engine import docker
from appliance.errors import ApplianceError
from appliance.jobs.create import busy, create
from appliance.jobs.pipe import Pipe
from appliance.lifecycle.logs import explain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from appliance.engine.docker import ContainerState
    from appliance.jobs.container import Job

KEPT_LINES = 2000
SHOWN_LINES = 15
# After its stop signal and its grace, Docker itself needs a moment to take a container away.
REMOVE_SECONDS = 15.0
# How long a job may say nothing once it has no more work: an engine of its own lets go of memory.
ENDING_SECONDS = 300.0
# Another launcher starts what it made at once: what is older than that was left.
STARTING_SECONDS = 60.0
_LET_GO_SECONDS = 2.0


class Process:
    """A job that runs. Its stdout is data, its stderr is for people."""

    def __init__(
        self,
        command: list[str],
        on_line: Callable[[str], None],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start it; each line of its stderr goes to `on_line`. Raises engine-missing.

        `environment` is what it is given beside this process's own.
        """
        self._on_line = on_line
        self._tail: deque[str] = deque(maxlen=KEPT_LINES)
        self._heard = time.monotonic()
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **(environment or {})},
                # Ctrl-C is the launcher's: the job is then ended in its own way.
                start_new_session=True,
            )
        except OSError as error:
            raise ApplianceError("engine-missing", f"{command[0]} can't be run: {error}") from error
        self._stdin = _open(self._process.stdin)
        self._out = Pipe(_open(self._process.stdout), self._hear)
        self._err = Pipe(_open(self._process.stderr), self._hear)
        self._reader = Thread(target=self._read_stderr, daemon=True)
        self._reader.start()

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    @property
    def log(self) -> str:
        """The last lines of its stderr."""
        return "\n".join(self._tail)

    def send(self, line: str) -> bool:
        """Give it a line of work; waits while it has no room for more. False once it ended."""
        try:
            self._stdin.write(f"{line}\n".encode(errors="replace"))
            self._stdin.flush()
        except (BrokenPipeError, ValueError):
            return False
        return True

    def no_more(self) -> None:
        """Tell it that there is no more work."""
        with suppress(OSError):
            self._stdin.close()

    def line(self, patience: float | None = None, what: str = "The job") -> str | None:
        """Return the next line of its stdout, or `None` at its end.

        Raises job-failed, in the name of `what`, after `patience` seconds without a line of its
        stdout or stderr.
        """
        began = time.monotonic()
        while True:
            try:
                return self._out.line()
            except TimeoutError:
                self._require_life(began, patience, what)

    def lines(self, patience: float | None = None, what: str = "The job") -> Iterator[str]:
        """Yield the lines of its stdout as they come, until it ends; raises as `line` does."""
        while (line := self.line(patience, what)) is not None:
            yield line

    def wait(self, patience: float = ENDING_SECONDS, what: str = "The job") -> int:
        """Return its exit status, when its output has come to an end; raises as `line` does."""
        began = time.monotonic()
        while True:
            try:
                status = self._process.wait(1)
            except subprocess.TimeoutExpired:
                self._require_life(began, patience, what)
            else:
                self._reader.join(REMOVE_SECONDS)
                return status

    def signal(self, number: int) -> None:
        """Send a signal to it and to all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def end(self, seconds: float) -> None:
        """Let it end, which it was asked for, within so many seconds; then make it."""
        # Closing waits for a thread that is sending, and that for a job that may take nothing.
        Thread(target=self.no_more, daemon=True).start()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        self.signal(signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # It may be deep in the kernel.
            self._process.wait(REMOVE_SECONDS)

    def close(self) -> None:
        """Let go of its pipes, whatever it is at."""
        self._reader.join(_LET_GO_SECONDS)
        if self._reader.is_alive():  # Something that it started holds them.
            self.signal(signal.SIGKILL)
        closing = Thread(target=self.no_more, daemon=True)
        closing.start()
        for pipe in (self._out, self._err):
            pipe.close()
        for thread in (self._reader, closing):
            thread.join(_LET_GO_SECONDS)

    def _hear(self) -> None:
        self._heard = time.monotonic()

    def _require_life(self, began: float, patience: float | None, what: str) -> None:
        if patience is None or time.monotonic() - max(began, self._heard) <= patience:
            return
        raise ApplianceError(
            "job-failed",
            f"{what} has said nothing for {patience:g} s, and was ended.",
            "What was finished is kept. Where it only was slow, raise `timeouts.ready`, or "
            "--timeout where the command has it.",
        )

    def _read_stderr(self) -> None:
        while True:
            with suppress(TimeoutError):
                if (line := self._err.line()) is None:
                    return
                self._tail.append(line.rstrip())
                self._on_line(line.rstrip())


def _open(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # noqa: S101 (all three are pipes)
    return stream


@contextmanager
def started(job: Job, on_line: Callable[[str], None], *, claims: bool = False) -> Iterator[Process]:
    """Run a job while the block lasts, and end it with the block, however that ends.

    In the appliance image, where there is no engine, the job's command runs right here.
    Raises busy where its container runs already, engine-unreachable, engine-failed.
    """
    container = job.container
    if paths.inside_image():
        # A container has its variables from the engine.
        process = Process(list(container.command), on_line, dict(container.environment))
        try:
            yield process
        finally:
            if process.running:
                process.signal(signal.SIGINT)
                process.end(container.stop_timeout)
            process.close()
        return
    engine = docker.connect()
    _make_room(engine, job)
    made = create(engine, job, claims=claims)
    try:
        process = Process(["docker", "start", "--attach", "--interactive", job.name], on_line)
        try:
            yield process
        finally:
            if process.running:
                _stop(job)
                process.end(REMOVE_SECONDS)
            process.close()
    finally:
        # The engine takes it away when it ends, but not where it was never started.
        _remove(engine, made)


def check(process: Process, what: str, patience: float = ENDING_SECONDS) -> None:
    """Wait for a job's end; raises job-failed with the first error of its log."""
    status = process.wait(patience, what)
    if status == 0:
        return
    line, known = explain(process.log)
    for shown in process.log.splitlines()[-SHOWN_LINES:]:
        process._on_line(shown)  # noqa: SLF001
    message = f"{what} ended with exit status {status}. First error: {line}"
    if known is None:
        raise ApplianceError("job-failed", message)
    raise ApplianceError(
        "job-failed", f"{message}\nCause [{known.id}]: {known.cause}", known.remedy
    )


def _make_room(engine: docker.Engine, job: Job) -> None:
    """Take away what a job that was killed left; leave one that runs or begins alone."""
    deadline = time.monotonic() + REMOVE_SECONDS
    while (found := engine.container(job.name)) is not None:
        if not _is_left(engine, found) or time.monotonic() > deadline:
            raise busy(job.name)
        with suppress(ApplianceError):  # The engine may be taking it away itself.
            engine.remove(found)
        time.sleep(0.1)


def _is_left(engine: docker.Engine, found: ContainerState) -> bool:
    if found.status != "created":
        return found.status in {"exited", "dead", "removing"}
    row = engine.inspect(found.id)
    if row is None:
        return True
    # The engine writes nanoseconds, which Python 3.10 does not read.
    moment = datetime.fromisoformat(str(row["Created"])[:19]).replace(tzinfo=timezone.utc)
    return (datetime.now(timezone.utc) - moment).total_seconds() > STARTING_SECONDS


def _stop(job: Job) -> None:
    """Ask a container to end and to tidy up, and give it its time for that."""
    with suppress(ApplianceError):
        engine = docker.connect()
        found = engine.container(job.name)
        if found is not None:
            engine.stop(found, job.container.stop_timeout)


def _remove(engine: docker.Engine, identity: str) -> None:
    """Remove a container, if it is there yet."""
    with suppress(ApplianceError), docker.translated():
        engine.client.api.remove_container(identity, force=True)
