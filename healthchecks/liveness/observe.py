"""Looks at a server: reads its counters, and asks for a token where they stand still."""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from typing import TYPE_CHECKING, final

from healthchecks import chat
from healthchecks.client import Session
from healthchecks.errors import ProbeError, RefusedError, UnreachableError
from healthchecks.liveness.metrics import engines
from healthchecks.liveness.watch import ANY, Finding, Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from healthchecks.liveness.metrics import Engine
    from healthchecks.liveness.watch import Limits
    from healthchecks.target import Target

RANK_HEADER = "X-data-parallel-rank"


class _Watched:
    """A clock that counts the time in which somebody looked.

    A container that was paused, or a machine that stood still, has not hung for that long.
    """

    def __init__(self, clock: Callable[[], float], most: float) -> None:
        """Between two readings count at most so many seconds."""
        self._clock, self._most = clock, most
        self._last = self._now = clock()

    def __call__(self) -> float:
        """Return the seconds that count, from some start."""
        now = self._clock()
        self._now += min(now - self._last, self._most)
        self._last = now
        return self._now


@final
class Observer:
    """Looks at one server, again and again.

    The token is asked for in a thread, so that the counters go on being read: on a server that
    is only busy they move long before the token comes.
    """

    def __init__(
        self, target: Target, limits: Limits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin to watch; nothing is sent before the first look."""
        self._target = target
        self._limits = limits
        self._clock = _Watched(clock, 3 * limits.interval)
        self._watch = Watch(limits, self._clock())
        self._answers: queue.SimpleQueue[tuple[str, str, bool]] = queue.SimpleQueue()
        self._model: str | None = target.model
        # Why the last look could not connect, and whether the last token was refused.
        self.unreachable = ""
        self.refused = False

    @property
    def occupied(self) -> bool:
        """Whether requests ran or waited at the last look."""
        return self._watch.occupied

    def look(self, *, computing: bool = False, ask: bool = True) -> Finding:
        """Look once and judge; takes as long as ``/metrics`` does, at most the interval."""
        try:
            self._watch.saw(self._metrics(), self._clock())
            self.unreachable = ""
        except ProbeError as error:
            self.unreachable = str(error) if isinstance(error, UnreachableError) else ""
            self._watch.missed(str(error), self._clock())
        self._take_answers()
        for label in self._watch.due(self._clock()) if ask else ():
            threading.Thread(target=self._ask, args=(label,), daemon=True).start()
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

    def _take_answers(self) -> None:
        while not self._answers.empty():
            label, words, good = self._answers.get()
            if good:
                self._watch.answered(label, words, self._clock())
            else:
                self._watch.failed(label, words, self._clock())

    def _metrics(self) -> dict[str, Engine]:
        patience = dataclasses.replace(self._target, timeout=self._limits.interval)
        with Session(patience) as session:
            return engines(session.expect_ok(session.get("/metrics")).body)

    def _ask(self, label: str) -> None:
        words, good = self._token(label)
        self._answers.put((label, words, good))

    def _token(self, label: str) -> tuple[str, bool]:
        patience = dataclasses.replace(
            self._target, timeout=self._limits.deadline, model=self._model
        )
        # With several engines each is asked by itself: the others' answers say nothing of it.
        several = label != ANY and len(self._watch.labels) > 1
        headers = {RANK_HEADER: label} if several else {}
        try:
            with Session(patience, headers) as session:
                completion = chat.complete(session, chat.fresh_text(), 1)
                self._model = session.model().name
            self.refused = False
        except RefusedError as error:
            self.refused = True
            # It answers, and will go on refusing (a key that was changed, a model's other
            # name): to end a working server for that would be the worst of all.
            return f"it refuses to be asked for a token: {error}", True
        except ProbeError as error:
            return str(error), False
        return f"answered one token ({completion.line})", True
