"""Runs a job and speaks with it, line by line, and leaves nothing of it running."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import deque
from contextlib import contextmanager, suppress
from threading import Thread
from typing import IO, TYPE_CHECKING

from appliance import paths
from appliance.engine import docker
from appliance.errors import ApplianceError
from appliance.jobs.create import create
from appliance.lifecycle.logs import explain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from appliance.jobs.container import Job

KEPT_LINES = 2000
SHOWN_LINES = 15
# After its stop signal and its grace, Docker itself needs a moment to take a container away.
REMOVE_SECONDS = 15.0


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
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                env={**os.environ, **(environment or {})},
                # Ctrl-C is the launcher's: the job is then ended in its own way.
                start_new_session=True,
            )
        except OSError as error:
            raise ApplianceError("engine-missing", f"{command[0]} can't be run: {error}") from error
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
            stdin = _open(self._process.stdin)
            stdin.write(line + "\n")
            stdin.flush()
        except (BrokenPipeError, ValueError):
            return False
        return True

    def no_more(self) -> None:
        """Tell it that there is no more work."""
        with suppress(BrokenPipeError, OSError):
            _open(self._process.stdin).close()

    def lines(self) -> Iterator[str]:
        """Yield the lines of its stdout as they come, until it ends."""
        for line in _open(self._process.stdout):
            yield line.rstrip("\n")

    def wait(self) -> int:
        """Return its exit status, when its output has come to an end."""
        status = self._process.wait()
        self._reader.join(REMOVE_SECONDS)
        return status

    def signal(self, number: int) -> None:
        """Send a signal to it and to all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def close(self) -> None:
        """Let go of its pipes, whatever it is at."""
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                _open(stream).close()
        self._reader.join(REMOVE_SECONDS)
        with suppress(OSError):
            _open(self._process.stderr).close()

    def _read_stderr(self) -> None:
        with suppress(ValueError):  # Closed under it.
            for line in _open(self._process.stderr):
                self._tail.append(line.rstrip())
                self._on_line(line.rstrip())


def _open(stream: IO[str] | None) -> IO[str]:
    assert stream is not None  # noqa: S101 (all three are pipes)
    return stream


@contextmanager
def started(job: Job, on_line: Callable[[str], None], *, claims: bool = False) -> Iterator[Process]:
    """Run a job while the block lasts, and end it with the block, however that ends.

    In the appliance image, where there is no engine, the job's command runs right here.
    Raises busy where its container runs already, engine-unreachable, engine-failed.
    """
    here = paths.inside_image()
    command = list(job.container.command)
    if not here:
        engine = docker.connect()
        _make_room(engine, job)
        create(engine, job, claims=claims)
        command = ["docker", "start", "--attach", "--interactive", job.name]
    # A container has its variables from the engine.
    process = Process(command, on_line, dict(job.container.environment) if here else None)
    try:
        yield process
    finally:
        if process.running:
            _end(job, process, here=here)
        process.close()


def check(process: Process, what: str) -> None:
    """Wait for a job's end; raises job-failed with the first error of its log."""
    status = process.wait()
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
    """Take away what a job that was killed left; leave one that runs alone."""
    found = engine.container(job.name)
    if found is None:
        return
    if found.running:
        raise ApplianceError(
            "busy",
            f"The container {job.name} is at work already.",
            f"Wait for it, or end it: docker stop {job.name}",
        )
    engine.remove(found)


def _end(job: Job, process: Process, *, here: bool) -> None:
    """Ask it to end and to tidy up, give it its time for that, then make it."""
    seconds = float(job.container.stop_timeout)
    if here:
        process.signal(signal.SIGINT)
    else:
        with suppress(ApplianceError):
            engine = docker.connect()
            found = engine.container(job.name)
            if found is not None:
                engine.stop(found, job.container.stop_timeout)
    process.no_more()
    with suppress(subprocess.TimeoutExpired):
        process._process.wait(seconds if here else REMOVE_SECONDS)  # noqa: SLF001
    process.signal(signal.SIGKILL)
    process._process.wait()  # noqa: SLF001
