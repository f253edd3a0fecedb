"""Judges an engine by when it last gave a sign of life. Pure: the time is always given."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from healthchecks.liveness.metrics import Engine

# The engine of a server whose metrics name none.
ANY = ""
# From one look to the next pass an interval's wait and, at most, an interval's look. Where it is
# more than so many intervals, nobody looked.
LATE = 3

# `moving`: there was a sign of life just now. `still`: none for a while, which is no verdict yet.
State = Literal["moving", "still", "hung"]
_BADNESS: dict[State, int] = {"moving": 0, "still": 1, "hung": 2}


@dataclass(frozen=True)
class Limits:
    """When to look, when to ask and when to give up. Seconds.

    An engine without requests that hangs is found after ``quiet + deadline`` and two looks: 55
    seconds by default.

    Attributes:
        interval: from one look at the counters to the next.
        quiet: without a sign of life, until one token is asked for.
        deadline: for that token to come, where nothing else is being done.
        busy: without a sign of life while requests run or wait, or the processes compute. One
            step of a batch gives no sign before its end, and the first request of a new shape may
            compile for minutes. vLLM itself gives a step so long
            (VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS in its envs.py).

    Raises:
        ValueError: a limit is not positive, or ``busy`` is less than the three others.

    """

    interval: float = 5.0
    quiet: float = 15.0
    deadline: float = 30.0
    busy: float = 300.0

    def __post_init__(self) -> None:
        """Refuse what would judge a working engine."""
        for limit in fields(self):
            value = getattr(self, limit.name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{limit.name} must be more than 0 seconds, not {value!r}")
        if self.busy < self.idle:
            raise ValueError(
                f"busy ({self.busy:g} s) must be at least quiet + deadline + interval "
                f"({self.idle:g} s)"
            )

    @property
    def idle(self) -> float:
        """Without a sign of life, until an engine that has nothing to do is taken to hang."""
        return self.quiet + self.interval + self.deadline


@dataclass(frozen=True)
class Finding:
    """What is known of a server: of its worst engine, where there are several.

    Attributes:
        state: the verdict.
        still: seconds since the last sign of life.
        detail: one line for people.

    """

    state: State
    still: float
    detail: str


@dataclass
class _Seen:
    """What is remembered of one engine.

    `asked_at` is when the token was asked for that is still awaited, and `failed` whether one
    that was asked for since the last sign of life did not come.
    """

    sign_at: float
    sign: str = "just begun"
    last: Engine | None = None
    asked_at: float | None = None
    failed: bool = False
    trouble: str = ""
    # The server keeps no statistics, so whether requests run is not known.
    blind: bool = False

    @property
    def requests(self) -> int:
        return self.last.running + self.last.waiting if self.last else 0

    def alive(self, sign: str, now: float) -> None:
        self.sign_at, self.sign, self.trouble = now, sign, ""
        # Whatever is still awaited was asked for before: it can say nothing of what follows.
        self.asked_at, self.failed = None, False


class Watch:
    """Collects signs of life, and judges by them."""

    def __init__(self, limits: Limits, now: float) -> None:
        """Begin at ``now``, which counts as a sign of life: what went before is not known."""
        self.limits = limits
        self._began = now
        self._looked_at: float | None = None
        self._computed_at = -math.inf
        self._seen: dict[str, _Seen] = {}

    @property
    def labels(self) -> list[str]:
        """The engines that are watched."""
        return sorted(self._seen)

    @property
    def occupied(self) -> bool:
        """Whether requests ran or waited when the metrics last came."""
        return any(seen.requests for seen in self._seen.values())

    def saw(self, engines: Mapping[str, Engine], now: float) -> None:
        """Take what the metrics say at ``now``; no engines are one whose state is not known."""
        if not engines:
            self.missed("the metrics name no engine", now)
            if ANY in self._seen:
                self._seen[ANY].blind = True
            return
        self._looked(now)
        # An engine that the metrics no longer name is no longer there to hang.
        seen_before, self._seen = self._seen, {}
        since = now if seen_before else self._began
        if ANY in seen_before:
            since = seen_before[ANY].sign_at
        for label, engine in engines.items():
            seen = self._seen[label] = seen_before.get(label) or _Seen(since)
            sign = _difference(seen.last, engine) if seen.last is not None else ""
            if sign:
                seen.alive(sign, now)
            seen.last = engine

    def missed(self, reason: str, now: float) -> None:
        """Take that the metrics were asked for and did not come."""
        self._looked(now)
        if not self._seen:
            self._seen[ANY] = _Seen(self._began)
        for seen in self._seen.values():
            seen.trouble = reason

    def due(self, now: float) -> list[str]:
        """Return the engines that are to be asked for a token, and take them as asked."""
        labels = []
        for label, seen in self._seen.items():
            if seen.asked_at is None and now - seen.sign_at >= self.limits.quiet:
                seen.asked_at = now
                labels.append(label)
        return labels

    def patience(self, label: str) -> float:
        """Return the seconds in which the token has to come.

        Without counters nothing tells a full server from one that hangs: its queue may be long.
        """
        return self.limits.busy if label == ANY else self.limits.deadline

    def answered(self, label: str, sign: str, now: float) -> None:
        """Take that the token came, or an answer that shows there is nothing to be asked."""
        found = self._seen.get(label)
        if found is None and label == ANY and len(self._seen) == 1:
            found = next(iter(self._seen.values()))
        if found is not None:
            found.alive(sign, now)

    def failed(self, label: str, reason: str, asked_at: float) -> None:
        """Take that the token asked for at ``asked_at`` did not come; another one is due."""
        seen = self._seen.get(label)
        if seen is not None and seen.asked_at == asked_at:
            seen.asked_at, seen.failed, seen.trouble = None, True, reason

    def judge(self, now: float, *, computing: bool = False) -> Finding:
        """Judge the server; ``computing`` says that its processes use the processor now."""
        if computing:
            self._computed_at = now
        if not self._seen:
            return Finding("moving", now - self._began, "not looked at yet")
        # Of several engines the worst: one that hangs has requests which wait for it.
        return max(
            (self._judge(label, seen, now) for label, seen in self._seen.items()),
            key=lambda finding: (_BADNESS[finding.state], finding.still),
        )

    def _judge(self, label: str, seen: _Seen, now: float) -> Finding:
        limits = self.limits
        still = now - seen.sign_at
        name = f"engine {label}: " if len(self._seen) > 1 else ""
        if still < limits.quiet:
            return Finding("moving", still, f"{name}{seen.sign}; {_load(seen)}")
        # A first request may compile for minutes, and is not in the counters before it is done.
        idle = now - max(seen.sign_at, self._computed_at)
        nothing_to_do = seen.last is not None and not seen.requests
        # Without statistics, processes that compute are all that tells full from hung.
        standstill = idle if seen.blind else still
        over = standstill >= limits.busy or (nothing_to_do and idle >= limits.idle)
        words = f"{name}no progress for {still:.0f} s; {_load(seen)}"
        if now == self._computed_at:
            words += "; its processes compute"
        if seen.trouble:
            words += f"; {seen.trouble}"
        # Never without having asked: only the token that does not come tells hung from idle.
        return Finding("hung" if over and seen.failed else "still", still, words)

    def _looked(self, now: float) -> None:
        """Leave out a time in which nobody looked: the server was paused, or the watcher."""
        gap = now - self._looked_at if self._looked_at is not None else 0.0
        self._looked_at = now
        if gap <= LATE * self.limits.interval:
            return
        self._computed_at += gap
        for seen in self._seen.values():
            seen.sign_at += gap
            # What was asked for before was asked of a server that stood still for another reason.
            seen.asked_at, seen.failed = None, False


def _load(seen: _Seen) -> str:
    if seen.last is None:
        return "its load is not known"
    return f"{seen.last.running} running, {seen.last.waiting} waiting"


def _difference(before: Engine, after: Engine) -> str:
    """Return what happened between two looks in words, empty where nothing did."""
    if after.evidence == before.evidence:
        return ""
    tokens = after.generated - before.generated
    return f"{tokens} tokens generated" if tokens > 0 else "steps done"
