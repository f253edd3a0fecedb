"""Watches an engine from its start, in a thread, until there is a verdict."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import healthchecks
from appliance.supervisor import processes
from appliance.supervisor.output import say
from healthchecks.liveness.check import Note
from healthchecks.liveness.observe import Observer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from appliance.supervisor.history import Cause
    from appliance.supervisor.settings import Settings
    from healthchecks import Target
    from healthchecks.liveness.watch import Finding

# Processor time per second from which on processes count as computing.
COMPUTING = 0.3
LOAD_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Verdict:
    """Why an engine that still runs has to be ended. `stuck` are the processes to blame."""

    cause: Cause
    detail: str
    stuck: tuple[processes.Process, ...]


class Watcher:
    """Watches one run of an engine. The verdict is told once; then the thread ends."""

    def __init__(
        self,
        target: Target,
        settings: Settings,
        pid: int,
        on_ready: Callable[[], None],
        on_verdict: Callable[[Verdict], None],
    ) -> None:
        """`pid` is the server's process; nothing happens before `start`."""
        self._target = target
        self._settings = settings
        self._limits = settings.watchdog.limits()
        self._pid = pid
        self._on_ready, self._on_verdict = on_ready, on_verdict
        self._done = threading.Event()
        self._table = _Table(pid, settings.watchdog.stopped)
        self._trouble = ""
        self.note_file: Path | None = None

    def start(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._work, daemon=True).start()

    def stop(self) -> None:
        """End the watch without a verdict; does not wait."""
        self._done.set()

    def _work(self) -> None:
        verdict = self._load()
        if verdict is None and not self._done.is_set():
            self._on_ready()
            verdict = self._serve() if self._settings.watchdog.enabled else None
        if verdict is not None and not self._done.is_set():
            self._note(ok=False, detail=verdict.detail)
            self._on_verdict(verdict)

    def _load(self) -> Verdict | None:
        """Watch until the API answers: how long that may take depends on the model."""
        began = time.monotonic()
        while not self._done.wait(LOAD_POLL_SECONDS):
            with self._going_on():
                if self._answers():
                    return None
                if not self._settings.watchdog.enabled:
                    continue
                self._table.update()
                if words := self._table.stopped():
                    return self._verdict("engine-hung", words)
            overdue = time.monotonic() - began > self._settings.start
            if overdue and self._settings.watchdog.enabled:
                words = f"the API did not answer within {self._settings.start:g} s of the start"
                return self._verdict("not-ready", words)
        return None

    def _serve(self) -> Verdict | None:
        with self._going_on():
            self._table.remember()
        observer = Observer(self._target, self._limits)
        while not self._done.is_set():
            began = time.monotonic()
            with self._going_on():
                self._table.update()
                finding = observer.look(computing=self._table.computing)
                verdict = self._judge(finding)
                if verdict is not None:
                    return verdict
                self._note(ok=True, detail=finding.detail)
            took = time.monotonic() - began
            # A slow look is a part of the interval, so that a server that no longer answers
            # is found as early as any other.
            self._done.wait(max(self._limits.interval - took, self._limits.interval / 10))
        return None

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        """Say what went wrong in a look, once, and go on: a hang must be found all the same."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 (whatever it is)
            words = f"the watch stumbled, and goes on: {type(error).__name__}: {error}"
            if words != self._trouble:
                say(words)
            self._trouble = words

    def _judge(self, finding: Finding) -> Verdict | None:
        """Judge by the processes first, which need no waiting, then by the lack of progress."""
        if finding.still >= self._settings.watchdog.stopped:
            if words := self._table.stopped():
                return self._verdict("engine-hung", words)
            if words := self._table.lost():
                return self._verdict("engine-died", words)
        if finding.state == "hung":
            return self._verdict("engine-hung", finding.detail)
        return None

    def _verdict(self, cause: Cause, words: str) -> Verdict:
        """Blame the workers, and the server's process only where it is itself stopped."""
        found = processes.below(os.getpid())
        stuck = [process for process in found if process.name.startswith(processes.ENGINE_TITLE)]
        server = processes.read(self._pid)
        if server is not None and (server.state == processes.STOPPED or not self._answers()):
            stuck.append(server)
        return Verdict(cause, words, tuple(stuck))

    def _answers(self) -> bool:
        patience = dataclasses.replace(self._target, timeout=self._limits.interval)
        return healthchecks.live(patience).ok

    def _note(self, *, ok: bool, detail: str) -> None:
        """Leave what was found for the health check, which then need not ask itself."""
        if self.note_file is not None:
            with suppress(OSError):
                Note(time.time(), ok, detail).write(self.note_file)


class _Table:
    """The engine's processes over time."""

    def __init__(self, pid: int, patience: float) -> None:
        self._pid = pid
        self._patience = patience
        self._at = time.monotonic()
        self._before: dict[tuple[int, int], processes.Process] = {}
        self._since: dict[str, float] = {}
        self._vital: tuple[processes.Process, ...] = ()
        self.computing = False

    def remember(self) -> None:
        """Take the processes that there are now for those that serving needs."""
        found = processes.below(os.getpid())
        self._vital = tuple(it for it in found if it.name.startswith(processes.ENGINE_TITLE))

    def update(self) -> None:
        """Look at all processes once."""
        now = time.monotonic()
        # The server, what it started, and what their ends left to the supervisor.
        found = processes.below(os.getpid())
        used = self._used(found)
        self.computing = used > COMPUTING * max(now - self._at, LOAD_POLL_SECONDS)
        self._at = now
        alive = {process.key for process in found if process.state != processes.ZOMBIE}
        # A stopped helper may be nothing to the engine: whether it is, the tokens tell.
        odd = {
            f"{it} is stopped"
            for it in found
            if it.state == processes.STOPPED
            and (it.pid == self._pid or it.name.startswith(processes.ENGINE_TITLE))
        }
        odd |= {f"{it} is gone" for it in self._vital if it.key not in alive}
        self._since = {words: self._since.get(words, now) for words in sorted(odd)}

    def _used(self, found: list[processes.Process]) -> float:
        """Return the seconds of processor time that were used since the last look.

        A compiler may live for less than that: its time is its parent's, when it has ended.
        """
        before, self._before = self._before, {it.key: it for it in found}
        if not before:
            return 0.0
        used = 0.0
        for it in found:
            was = before.get(it.key)
            used += it.cpu - was.cpu if was else it.cpu
            used += it.ended - was.ended if was else it.ended
        return used

    def stopped(self) -> str:
        """Return which processes have been stopped for too long, empty where none has."""
        return self._lasting(" is stopped")

    def lost(self) -> str:
        """Return which processes have been gone for too long, empty where none has."""
        return self._lasting(" is gone")

    def _lasting(self, kind: str) -> str:
        return "; ".join(
            f"{words} for {self._at - since:.0f} s"
            for words, since in self._since.items()
            if words.endswith(kind) and self._at - since >= self._patience
        )
