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

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

TAIL_LINES = 400
LINE_BYTES = 4096
POLL_SECONDS = 0.1
# For one process to print the stacks of all its threads; and for output on its way.
DUMP_SECONDS = 3.0
FLUSH_SECONDS = 2.0
# Between the signal and the kill for what is left of an engine whose server is gone.
REST_SECONDS = 2.0


class Engine:
    """One run of `vllm serve`, with all processes that it makes."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it; raises OSError."""
        self.lines: deque[bytes] = deque(maxlen=TAIL_LINES)
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
            for pipe, out in ((self._child.stdout, 1), (self._child.stderr, 2))
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

    def dump(self, stuck: Sequence[processes.Process]) -> None:
        """End processes that are stuck by a signal on which Python prints all its stacks.

        It works where `ptrace` is not allowed, also on a process that was stopped.
        """
        for process in stuck:
            # Held, so that none reacts to the end of another, and prints something else.
            _signal(process.pid, signal.SIGSTOP)
            with suppress(OSError, ValueError):
                # 1 is the kernel's word for no core at all, also where cores go to a pipe:
                # one of this process would hold the weights.
                hard = resource.prlimit(process.pid, resource.RLIMIT_CORE)[1]
                limit = 1 if hard == resource.RLIM_INFINITY else min(1, hard)
                resource.prlimit(process.pid, resource.RLIMIT_CORE, (limit, hard))
        # One by one: they print into the same pipe.
        for process in stuck:
            _signal(process.pid, signal.SIGABRT)
            _signal(process.pid, signal.SIGCONT)
            deadline = time.monotonic() + DUMP_SECONDS
            while _alive(process) and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS / 4)

    def kill_rest(self, reap: Callable[[], None], grace: float) -> None:
        """End every process that is left below this one; none outlives the supervisor."""
        deadline = time.monotonic() + grace
        for process in processes.below(os.getpid()):
            _signal(process.pid, signal.SIGTERM)
            _signal(process.pid, signal.SIGCONT)
        while self._left(reap) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        deadline = time.monotonic() + REST_SECONDS
        while (left := self._left(reap)) and time.monotonic() < deadline:
            for process in left:
                _signal(process.pid, signal.SIGKILL)
            time.sleep(POLL_SECONDS)

    @staticmethod
    def _left(reap: Callable[[], None]) -> list[processes.Process]:
        reap()
        found = processes.below(os.getpid())
        return [process for process in found if process.state != processes.ZOMBIE]

    def flush(self) -> None:
        """Wait until the output of what has ended is passed on."""
        deadline = time.monotonic() + FLUSH_SECONDS
        for relay in self._relays:
            relay.join(max(0.0, deadline - time.monotonic()))

    def tail(self) -> str:
        """Return the last lines of the engine's output."""
        return b"\n".join(list(self.lines)).decode("utf-8", "replace")

    def _relay(self, source: int, out: int) -> None:
        rest, writing = b"", True
        while data := _read(source):
            if writing:
                try:
                    _write(out, data)
                except OSError:
                    # Nobody listens: an engine that can't write its log must not stand still.
                    writing = False
            *lines, rest = (rest + data).split(b"\n")
            self.lines.extend(line[:LINE_BYTES] for line in lines)
            rest = rest[:LINE_BYTES]
        if rest:
            self.lines.append(rest)


def _read(source: int) -> bytes:
    try:
        return os.read(source, 65536)
    except OSError:
        return b""


def _write(out: int, data: bytes) -> None:
    while data:
        data = data[os.write(out, data) :]


def _alive(process: processes.Process) -> bool:
    found = processes.read(process.pid)
    return found is not None and found.state != processes.ZOMBIE


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
