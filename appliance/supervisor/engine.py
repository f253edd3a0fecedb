"""The engine as a child: started, its output passed on, its end noticed, all of it stopped."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from appliance.supervisor import processes
from appliance.supervisor.output import STDERR, STDOUT, Output

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# Kept, of which so many are shown as the last: the stacks of all ranks are some thousands.
KEPT_LINES = 6000
TAIL_LINES = 400
# So that all that is kept of all failures can be read at once (appliance/engine/docker.py).
TAIL_BYTES = 1 << 20
LINE_BYTES = 4096
POLL_SECONDS = 0.1
# For one process to print the stacks of all its threads, and for all of them: what waits for a
# device can't even be killed. And for output on its way.
DUMP_SECONDS = 3.0
DUMPS_SECONDS = 12.0
FLUSH_SECONDS = 2.0
# Between the signal and the kill for what is left of an engine whose server is gone.
REST_SECONDS = 2.0


class Engine:
    """One run of `vllm serve`, with all processes that it makes."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it; raises OSError."""
        self._lines: deque[bytes] = deque(maxlen=KEPT_LINES)
        self._count = 0
        self._keeping = threading.Lock()
        self._secret = environment.get("VLLM_API_KEY", "").encode()
        self.started = time.monotonic()
        self.status: int | None = None
        # A session of its own: what a terminal sends, the supervisor passes on once.
        self._child = subprocess.Popen(
            command,
            env={**environment, "PYTHONFAULTHANDLER": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.pid = self._child.pid
        self._relays = [
            threading.Thread(target=self._relay, args=(pipe.fileno(), out), daemon=True)
            for pipe, out in ((self._child.stdout, STDOUT), (self._child.stderr, STDERR))
            if pipe is not None
        ]
        for relay in self._relays:
            relay.start()

    @property
    def running(self) -> bool:
        """Whether the server's process has not been seen to end."""
        return self.status is None

    def ended(self, status: int) -> None:
        """Take what `waitpid` said of the server's process: its exit code, or minus a signal."""
        self.status = os.waitstatus_to_exitcode(status)
        self._child.returncode = self.status

    def send(self, number: int) -> None:
        """Send a signal to the server's process, which passes on what concerns the others."""
        if self.running:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def dump(self, stuck: Sequence[processes.Process], wait: Callable[[float], bool]) -> None:
        """End processes that are stuck by a signal on which Python prints all its stacks.

        It works where `ptrace` is not allowed, also on a process that was stopped. `wait` is that
        of `kill_rest`.
        """
        there = [process for process in stuck if _alive(process)]
        for process in there:
            # Held, so that none reacts to the end of another, and prints something else.
            _signal(process.pid, signal.SIGSTOP)
            with suppress(OSError, ValueError):
                # 1 is the kernel's word for no core at all, also where cores go to a pipe:
                # one of this process would hold the weights.
                hard = resource.prlimit(process.pid, resource.RLIMIT_CORE)[1]
                limit = 1 if hard == resource.RLIM_INFINITY else min(1, hard)
                resource.prlimit(process.pid, resource.RLIMIT_CORE, (limit, hard))
        end = time.monotonic() + DUMPS_SECONDS
        # One by one: they print into the same pipe.
        for process in there:
            _signal(process.pid, signal.SIGABRT)
            _signal(process.pid, signal.SIGCONT)
            deadline = min(end, time.monotonic() + DUMP_SECONDS)
            while _alive(process) and time.monotonic() < deadline and wait(POLL_SECONDS / 4):
                pass

    def kill_rest(self, wait: Callable[[float], bool], grace: float) -> None:
        """End every process that is left below this one; none outlives the supervisor.

        `wait` reaps what has ended, and tells whether there is still time to be kind.
        """
        deadline = time.monotonic() + grace
        for process in _left():
            _signal(process.pid, signal.SIGTERM)
            _signal(process.pid, signal.SIGCONT)
        while _left() and time.monotonic() < deadline and wait(POLL_SECONDS):
            pass
        deadline = time.monotonic() + REST_SECONDS
        while (left := _left()) and time.monotonic() < deadline:
            for process in left:
                _signal(process.pid, signal.SIGKILL)
            wait(POLL_SECONDS)
        wait(0.0)

    def flush(self) -> None:
        """Wait until the output of what has ended is passed on."""
        deadline = time.monotonic() + FLUSH_SECONDS
        for relay in self._relays:
            relay.join(max(0.0, deadline - time.monotonic()))

    def said(self) -> int:
        """Return how many lines the engine has written so far."""
        with self._keeping:
            return self._count

    def tail(self, since: int | None = None) -> str:
        """Return the last lines of the engine's output, or all after a count of them."""
        with self._keeping:
            lines = list(self._lines)
            wanted = TAIL_LINES if since is None else self._count - since
        text = b"\n".join(lines[max(0, len(lines) - wanted) :])
        if len(text) > TAIL_BYTES:  # From a whole line on.
            text = text[-TAIL_BYTES:].partition(b"\n")[2]
        return text.decode("utf-8", "replace")

    def _relay(self, source: int, out: Output) -> None:
        rest = b""
        while data := _read(source):
            *lines, rest = (rest + data).split(b"\n")
            self._keep(lines)
            rest = rest[: 2 * LINE_BYTES]
            out.write(data)
        if rest:
            self._keep([rest])

    def _keep(self, lines: Sequence[bytes]) -> None:
        if self._secret:  # Before a line is cut, which would leave half of it readable.
            lines = [line.replace(self._secret, b"[API key]") for line in lines]
        with self._keeping:
            self._lines.extend(line[:LINE_BYTES] for line in lines)
            self._count += len(lines)


def _read(source: int) -> bytes:
    try:
        return os.read(source, 65536)
    except OSError:
        return b""


def _left() -> list[processes.Process]:
    found = processes.below(os.getpid())
    return [process for process in found if process.state != processes.ZOMBIE]


def _alive(process: processes.Process) -> bool:
    found = processes.same(process)
    return found is not None and found.state != processes.ZOMBIE


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
