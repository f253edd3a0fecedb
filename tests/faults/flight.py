"""Requests in flight, each followed to its end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx

# An answer to a request in flight when a fault struck must have come, or failed, by then.
END_SECONDS = 240.0
CONNECTION = (httpx.NetworkError, httpx.RemoteProtocolError)


def ask(model: str, tokens: int) -> dict[str, object]:
    """Return a request for exactly so many tokens."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": "Go on."}],
        "max_tokens": tokens,
        "ignore_eos": True,
    }


@dataclass
class Flight:
    """A number of requests that are sent at once, and sent again where `again` says so."""

    url: str
    model: str
    count: int
    tokens: int
    again: bool = False
    ends: Counter[str] = field(default_factory=Counter)
    unclear: list[str] = field(default_factory=list)
    _landing: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> Flight:
        """Send them all."""
        self._thread = threading.Thread(target=lambda: asyncio.run(self._fly()), daemon=True)
        self._thread.start()
        return self

    def taken(self) -> int:
        """Return how many the engine has: it runs them, or they wait for their turn."""
        text = httpx.get(f"{self.url}/metrics", timeout=30, trust_env=False).text
        lines = [
            line
            for line in text.splitlines()
            if line.startswith(("vllm:num_requests_running{", "vllm:num_requests_waiting{"))
        ]
        return sum(int(float(line.rpartition(" ")[2])) for line in lines)

    def land(self) -> Counter[str]:
        """Wait until every request has ended; none may hang."""
        self._landing.set()
        assert self._thread is not None
        self._thread.join(END_SECONDS)
        assert not self._thread.is_alive(), f"some hang; ended so far: {dict(self.ends)}"
        assert not self.unclear, self.unclear[:3]
        return self.ends

    async def _fly(self) -> None:
        # A kept connection may be closed by the server just as the next request goes out.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(timeout=END_SECONDS, limits=limits, trust_env=False) as client:
            await asyncio.gather(*(self._one(client) for _ in range(self.count)))

    async def _one(self, client: httpx.AsyncClient) -> None:
        while True:
            end = await self._end(client)
            self.ends[end] += 1
            if not self.again or self._landing.is_set():
                return
            if end != "answered":
                await asyncio.sleep(0.5)

    async def _end(self, client: httpx.AsyncClient) -> str:
        """Return how a request ended: answered, or the error that its client saw."""
        try:
            reply = await client.post(
                f"{self.url}/v1/chat/completions", json=ask(self.model, self.tokens)
            )
        except CONNECTION:
            return "connection closed"
        if reply.status_code != httpx.codes.OK:
            return self._refusal(reply)
        choice = reply.json()["choices"][0]
        if choice["finish_reason"] not in ("stop", "length"):
            self.unclear.append(f"HTTP 200 that ended with {choice['finish_reason']}")
        return "answered"

    def _refusal(self, reply: httpx.Response) -> str:
        try:
            message = reply.json()["error"]["message"]
        except (ValueError, LookupError, TypeError):
            message = ""
        if not message:
            self.unclear.append(f"HTTP {reply.status_code}: {reply.text[:200]}")
        return f"HTTP {reply.status_code}"


def wait_taken(flight: Flight, count: int, seconds: float = 60.0) -> None:
    """Wait until the engine has so many requests of a flight."""
    deadline = time.monotonic() + seconds
    while flight.taken() < count:
        assert time.monotonic() < deadline, f"only {flight.taken()} of {count} arrived"
        time.sleep(0.2)
