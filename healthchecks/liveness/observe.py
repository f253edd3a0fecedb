"""Looks at a server: reads its counters, and asks for a token where they stand still."""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, final

from healthchecks import chat
from healthchecks.client import Session
from healthchecks.errors import NotServedError, ProbeError, RefusedError, UnreachableError
from healthchecks.liveness.metrics import engines
from healthchecks.liveness.watch import ANY, Finding, Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from healthchecks.liveness.metrics import Engine
    from healthchecks.liveness.watch import Limits
    from healthchecks.target import Target

RANK_HEADER = "X-data-parallel-rank"


class _Answer(NamedTuple):
    """What came of asking for a token."""

    label: str
    asked_at: float
    words: str
    good: bool


@final
class Observer:
    """Looks at one server, again and again.

    The counters and the token are asked for in threads: on a server that is only busy the
    counters move long before the token comes, and they themselves may be slow to come.
    """

    def __init__(
        self, target: Target, limits: Limits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin to watch; nothing is sent before the first look."""
        self._target = target
        self._limits = limits
        self._clock = clock
        self._watch = Watch(limits, clock())
        self._reading = False
        self._read: queue.SimpleQueue[dict[str, Engine] | ProbeError] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        # Why the last look could not connect, and whether the last token was refused.
        self.unreachable = ""
        self.refused = False

    @property
    def occupied(self) -> bool:
        """Whether requests ran or waited at the last look."""
        return self._watch.occupied

    def look(self, *, computing: bool = False, ask: bool = True) -> Finding:
        """Look once and judge; takes as long as ``/metrics`` does, at most the interval."""
        self._look_at_counters()
        self._take_answers()
        now = self._clock()
        for label in self._watch.due(now) if ask else ():
            self._start(partial(self._token, label, now))
        return self._watch.judge(self._clock(), computing=computing)

    def assume_still(self) -> None:
        """Count what is not known as a standstill: the next look may ask at once."""
        self._watch = Watch(self._limits, self._clock() - self._limits.quiet)

    def settle(self, seconds: float) -> None:
        """Wait this long, or until the token that was asked for has come."""
        try:
            self._answers.put(self._answers.get(timeout=seconds))
        except queue.Empty:
            return

    def _look_at_counters(self) -> None:
        if not self._reading:
            self._reading = True
            self._start(self._metrics)
        try:
            found = self._read.get(timeout=self._limits.interval)
        except queue.Empty:
            # A full server may be slow to tell: what comes later counts when it comes.
            self._watch.missed("no answer to GET /metrics yet", self._clock())
            return
        self._reading = False
        self.unreachable = str(found) if isinstance(found, UnreachableError) else ""
        if isinstance(found, ProbeError):
            self._watch.missed(str(found), self._clock())
        else:
            self._watch.saw(found, self._clock())

    def _take_answers(self) -> None:
        while not self._answers.empty():
            answer = self._answers.get()
            if answer.good:
                self._watch.answered(answer.label, answer.words, self._clock())
            else:
                self._watch.failed(answer.label, answer.words, answer.asked_at)

    @staticmethod
    def _start(work: Callable[[], None]) -> None:
        try:
            threading.Thread(target=work, daemon=True).start()
        except RuntimeError:
            # No thread can be had now: late, but not never.
            work()

    def _metrics(self) -> None:
        found: dict[str, Engine] | ProbeError
        patience = dataclasses.replace(self._target, timeout=self._limits.deadline)
        try:
            with Session(patience) as session:
                found = engines(session.expect_ok(session.get("/metrics")).body)
        except ProbeError as error:
            found = error
        except Exception as error:  # noqa: BLE001 (an answer must come, whatever happened)
            found = ProbeError(f"/metrics could not be read: {type(error).__name__}: {error}")
        self._read.put(found)

    def _token(self, label: str, asked_at: float) -> None:
        good = False
        try:
            words = self._ask(label)
            good, self.refused = True, False
        except (RefusedError, NotServedError) as error:
            # It answers, and will go on refusing (a key that was changed, a model's other
            # name): to end a working server for that would be the worst of all.
            words = f"it refuses to be asked for a token: {error}"
            good = self.refused = True
        except ProbeError as error:
            words = str(error)
        except Exception as error:  # noqa: BLE001 (an answer must come, whatever happened)
            words = f"no token could be asked for: {type(error).__name__}: {error}"
        self._answers.put(_Answer(label, asked_at, words, good))

    def _ask(self, label: str) -> str:
        patience = dataclasses.replace(self._target, timeout=self._watch.patience(label))
        # With several engines each is asked by itself: the others' answers say nothing of it.
        several = label != ANY and len(self._watch.labels) > 1
        headers = {RANK_HEADER: label} if several else {}
        with Session(patience, headers) as session:
            completion = chat.complete(session, chat.fresh_text(), 1)
        return f"answered one token ({completion.line})"
