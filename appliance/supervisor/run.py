"""One life of the container: wait if need be, start the engine, end with it."""

from __future__ import annotations

import ctypes
import itertools
import os
import queue
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import healthchecks
from appliance.errors import ERRORS
from appliance.plan import names
from appliance.supervisor import evidence, processes
from appliance.supervisor.engine import POLL_SECONDS, Engine
from appliance.supervisor.history import Failure, Store, pause
from appliance.supervisor.output import say
from appliance.supervisor.unavailable import Unavailable, address, url
from appliance.supervisor.watcher import Verdict, Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import FrameType

    from appliance.supervisor.history import Cause
    from appliance.supervisor.settings import Settings

STOPS = (signal.SIGTERM, signal.SIGINT)
PASSED_ON = (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER, linux/prctl.h
SHELL_SIGNALS = 128
# Beside the drain, for the rest of an orderly end.
END_SECONDS = 10.0
IDLE_SECONDS = 3600.0
# As shells say that there is no such command.
NO_COMMAND = 127


class Signal(NamedTuple):
    """A signal that the container got."""

    number: int


class Ended(NamedTuple):
    """A child ended."""


Event = Signal | Ended | Verdict | str
READY = "ready"


class Supervisor:
    """Supervises one run of the engine."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], settings: Settings
    ) -> None:
        """`environment` is the engine's, with the API key where there is one."""
        self.command = command
        self.environment = environment
        self.settings = settings
        self.key = environment.get("VLLM_API_KEY")
        # What can't be asked is refused before there is an engine.
        self.target = healthchecks.Target(
            environment.get("HEALTHCHECKS_URL") or url(command),
            dict(itertools.pairwise(command)).get("--served-model-name"),
            self.key,
        )
        self.store = Store(Path(names.SUPERVISOR_DIR))
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._engine: Engine | None = None
        self._began = time.monotonic()
        # Signals to stop that were read, and how many of them still leave time to be kind.
        self._stops = self._kind_stops = 0

    def run(self) -> int:
        """Live through one start of the container; returns its exit code."""
        self._listen()
        with suppress(OSError):  # What an earlier start left there is not true of this one.
            Path(names.PROGRESS_FILE).unlink()
        self.store.begin()
        if not self._may_start():
            self.store.forgive()
            return 0
        self._began = time.monotonic()
        self.store.enter("starting")
        self._complain()
        try:
            engine = Engine(self.command, self.environment)
        except OSError as error:
            words = f"{self.command[0]} can't be started: {error}"
            return self._fail("engine-died", words, NO_COMMAND, {})
        self._engine = engine
        watcher = Watcher(
            self.target, self.settings, engine.pid, lambda: self.events.put(READY), self.events.put
        )
        watcher.note_file = Path(names.PROGRESS_FILE)
        try:
            watcher.start()
            return self._live(engine)
        finally:
            watcher.stop()
            # Nothing is left of an engine that has ended. This is for what nobody foresaw.
            engine.kill_rest(self._pass, 0.0)

    def _listen(self) -> None:
        """Take over the duties of a container's main process, whether or not there is an init."""
        with suppress(OSError, AttributeError):
            # Orphans of the engine become children of this process, so that none is missed.
            ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)

        def note(number: int, _: FrameType | None) -> None:
            self.events.put(Ended() if number == signal.SIGCHLD else Signal(number))

        for number in (*STOPS, *PASSED_ON, signal.SIGCHLD):
            signal.signal(number, note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)

    def _may_start(self) -> bool:
        """Wait as long as the history asks for; false where a signal ended the wait."""
        limits = self.settings.watchdog
        failures = self.store.history.counted(limits.window, time.time())
        if not failures:
            return True
        last = f"[{failures[-1].cause}] {failures[-1].detail}"
        if len(failures) > limits.restarts:
            words = (
                f"the engine failed {len(failures)} times within {limits.window / 60:g} min and "
                f"stays down; last: {last}"
            )
            say(f"{words}. Mend the cause, then restart the container.")
            return self._wait("down", words, None)
        seconds = pause(len(failures), limits)
        say(f"restart {len(failures)} of {limits.restarts} in {seconds:g} s; last: {last}")
        if not seconds:
            return True
        words = f"the engine starts again in {seconds:g} s; last: {last}"
        return self._wait("waiting", words, seconds)

    def _wait(self, phase: str, words: str, seconds: float | None) -> bool:
        """Answer 503 for so long, without end where `seconds` is `None`."""
        self.store.enter("down" if phase == "down" else "waiting", words)
        self._complain()
        deadline = None if seconds is None else time.monotonic() + seconds
        message = "The engine is down after repeated failures; see the server's log."
        if seconds is not None:
            message = "The engine starts again soon."
        with Unavailable(address(self.command), message, deadline) as instead:
            if instead.trouble:
                say(f"nobody answers in the engine's place: {instead.trouble}")
            while deadline is None or time.monotonic() < deadline:
                left = IDLE_SECONDS if deadline is None else deadline - time.monotonic()
                event = self._next(max(0.0, left))
                if isinstance(event, Signal) and event.number in STOPS:
                    return False
        return True

    def _live(self, engine: Engine) -> int:
        """Wait for what ends this run."""
        while True:
            event = self._next(IDLE_SECONDS)
            if isinstance(event, Signal):
                if event.number in STOPS:
                    return self._end(engine, event.number)
                engine.send(event.number)
            elif isinstance(event, Verdict):
                return self._give_up(engine, event)
            elif event == READY:
                self.store.enter("serving")
            if not engine.running:
                return self._died(engine)

    def _next(self, seconds: float) -> Event | None:
        """Return what happens next, `None` after so many seconds; reaps what has ended."""
        try:
            event = self.events.get(timeout=seconds)
        except queue.Empty:
            event = None
        self._reap()
        if isinstance(event, Signal) and event.number in STOPS:
            self._stops += 1
        return event

    def _pass(self, seconds: float) -> bool:
        """Let some time pass; false where a signal asks to end at once."""
        self._next(seconds)
        return self._stops <= self._kind_stops

    def _wait_for(self, done: Callable[[], bool], seconds: float) -> None:
        """Wait until something is so, unless it takes too long or a signal asks to end at once."""
        deadline = time.monotonic() + seconds
        while not done() and time.monotonic() < deadline and self._pass(POLL_SECONDS):
            pass

    def _reap(self) -> None:
        """Take notice of every child that ended: the server, and orphans that became ours."""
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                if self._engine is not None and found[0] == self._engine.pid:
                    self._engine.ended(found[1])

    def _end(self, engine: Engine, number: int) -> int:
        """End as asked: requests that run may end first, a second signal ends them at once."""
        self._kind_stops = 1
        seconds = self.settings.drain
        self.store.enter("stopping")
        say(f"{signal.Signals(number).name}: ending; running requests have {seconds:g} s")
        engine.send(number)
        deadline = time.monotonic() + seconds + END_SECONDS
        while engine.running and time.monotonic() < deadline:
            event = self._next(max(0.0, deadline - time.monotonic()))
            if isinstance(event, Signal):
                if event.number in STOPS:
                    say("a second signal: ending at once")
                    break
                engine.send(event.number)
        clean = not engine.running
        engine.kill_rest(self._pass, max(0.0, deadline - time.monotonic()) if clean else 0.0)
        engine.flush()
        self.store.forgive()
        say("ended" if clean else "ended by force")
        return 0

    def _died(self, engine: Engine) -> int:
        """Tell of an engine that ended by itself."""
        status = engine.status or 0
        how = f"with exit code {status}"
        if status < 0:
            how = f"by {signal.Signals(-status).name}"
        if kills := processes.memory_kills():
            how += f"; the kernel killed {kills} of the container's processes for want of memory"
        engine.kill_rest(self._pass, END_SECONDS)
        engine.flush()
        code = SHELL_SIGNALS - status if status < 0 else status
        sections = {"Memory": processes.memory(), "Last lines": engine.tail()}
        return self._fail(
            "engine-died",
            f"the engine ended {how}",
            code or ERRORS["engine-died"].exit_code,
            sections,
        )

    def _give_up(self, engine: Engine, verdict: Verdict) -> int:
        """End an engine that hangs: evidence, then stacks, then cleanly, then by force."""
        say(f"[{verdict.cause}] {verdict.detail}; collecting evidence")
        found = [*filter(None, [processes.read(engine.pid)]), *processes.below(engine.pid)]
        sections = {
            "Processes": evidence.processes_now(found),
            "Memory": processes.memory(),
            "Last lines": engine.tail(),
        }
        before = engine.said()
        engine.dump(verdict.stuck, self._pass)
        # What is left of the server tells its clients, and ends as it would at a stop.
        engine.send(signal.SIGTERM)
        self._wait_for(lambda: not engine.running, END_SECONDS)
        engine.kill_rest(self._pass, END_SECONDS)
        engine.flush()
        sections["Stacks, and what the engine said at its end"] = engine.tail(before)
        code = ERRORS[verdict.cause].exit_code
        return self._fail(verdict.cause, verdict.detail, code, sections)

    def _fail(self, cause: Cause, detail: str, code: int, sections: dict[str, str]) -> int:
        ran = time.monotonic() - self._began
        head = f"[{cause}] {detail}\nat {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}, "
        head += f"after {ran:.0f} s; exit code {code}"
        text = evidence.report({"What happened": head, **sections}, self.key)
        kept = evidence.keep(self.store, text)
        served = self.store.history.phase == "serving"
        self.store.add(Failure(time.time(), cause, detail, ran, code, kept, served))
        if self._stops:  # Somebody stops the container anyway: the next start is the first.
            self.store.forgive()
        else:
            self.store.enter("failed")
        self._complain()
        say(f"[{cause}] {detail}; exit code {code}; evidence: {kept or 'could not be kept'}")
        return code

    def _complain(self) -> None:
        if self.store.trouble:
            say(f"the history can't be kept, so restarts are not counted: {self.store.trouble}")
