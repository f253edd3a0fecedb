"""The conversation with the container: work goes in as there is room, events come out."""

from __future__ import annotations

import json
import queue
import time
from dataclasses import dataclass
from threading import Condition, Thread
from typing import TYPE_CHECKING, Any

from appliance.errors import ApplianceError
from appliance.offline.flaw import Flaw

if TYPE_CHECKING:
    from collections.abc import Iterator

    from appliance.jobs.process import Process

# What the container may hold: enough for the engine to choose from, little enough for its
# memory. A request that is larger goes alone.
WINDOW_REQUESTS = 512
WINDOW_BYTES = 512 * 2**20
END = '{"do": "end"}'


@dataclass(frozen=True)
class Patience:
    """How long the container may be silent, in seconds: until it is ready, and after."""

    ready: float
    stall: float


class Window:
    """How much is in the container: requests, and bytes of them."""

    def __init__(self, requests: int = WINDOW_REQUESTS, size: int = WINDOW_BYTES) -> None:
        self._most, self._size = requests, size
        self._held: dict[int, int] = {}
        self._free = Condition()
        self._closed = False

    def enter(self, number: int, size: int) -> bool:
        """Wait until there is room for a request; false where the window was closed."""
        with self._free:
            self._free.wait_for(lambda: self._closed or self._has_room(size))
            self._held[number] = size
            return not self._closed

    def leave(self, number: int) -> None:
        """Give back the room of a request that is done."""
        with self._free:
            self._held.pop(number, None)
            self._free.notify_all()

    def close(self) -> None:
        """Let in nothing more, and let go whoever waits."""
        with self._free:
            self._closed = True
            self._free.notify_all()

    @property
    def empty(self) -> bool:
        """Whether the container has nothing to do."""
        with self._free:
            return not self._held

    def _has_room(self, size: int) -> bool:
        total = sum(self._held.values()) + size
        return not self._held or (len(self._held) < self._most and total <= self._size)


class Session:
    """One run of the container's side."""

    def __init__(
        self,
        process: Process,
        start: dict[str, Any],
        work: Iterator[tuple[int, str | Flaw]],
        patience: Patience,
    ) -> None:
        """`start` is the first message; `work` yields lines by number, or why there is none.

        `work` runs in a thread of its own.
        """
        self._process = process
        self._start = start
        self._work = work
        self._patience = patience
        self._window = Window()
        self._ready = False
        self._sent = False
        self._events: queue.Queue[dict[str, Any] | BaseException | None] = queue.Queue()

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield the container's events until its output ends; raises job-failed where it hangs."""
        for thread in (self._send, self._receive):
            Thread(target=thread, daemon=True).start()
        heard = time.monotonic()
        try:
            while True:
                try:
                    event = self._events.get(timeout=1.0)
                except queue.Empty:
                    if self._window.empty and not self._sent:
                        heard = time.monotonic()  # It is this side that takes its time.
                    self._require_life(heard)
                    continue
                heard = time.monotonic()
                if event is None:
                    return
                if isinstance(event, BaseException):
                    raise event
                self._ready = self._ready or event["event"] == "ready"
                if "id" in event:
                    self._window.leave(event["id"])
                yield event
        finally:
            self._window.close()

    def _require_life(self, heard: float) -> None:
        patience = self._patience.stall if self._ready else self._patience.ready
        if time.monotonic() - heard <= patience:
            return
        if self._ready:
            raise ApplianceError(
                "job-failed",
                f"The engine has made no step for {patience:g} s.",
                "What was finished is kept; the same command goes on. --stall-timeout sets the "
                "time.",
            )
        raise ApplianceError(
            "not-ready",
            f"The engine was not loaded after {patience:g} s.",
            "Raise `timeouts.ready` if it was still loading.",
        )

    def _send(self) -> None:
        try:
            self._process.send(json.dumps(self._start))
            for number, line in self._work:
                if isinstance(line, Flaw):
                    self._events.put(flaw_event(number, line))
                elif not (self._window.enter(number, len(line)) and self._process.send(line)):
                    return
            self._process.send(END)
            self._sent = True
        except BaseException as error:  # noqa: BLE001 (raised again where it is seen)
            self._events.put(error)

    def _receive(self) -> None:
        try:
            for line in self._process.lines():
                self._events.put(json.loads(line))
            self._events.put(None)
        except BaseException as error:  # noqa: BLE001
            self._events.put(error)


def flaw_event(number: int, flaw: Flaw) -> dict[str, Any]:
    """Return the event of a request that could not be run."""
    return {"event": "flaw", "id": number, "code": flaw.code, "message": flaw.message}
