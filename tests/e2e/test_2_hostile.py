"""Hostile requests, and clients that go away: each ends soon, and the server answers afterwards."""

from __future__ import annotations

import http.client
import json
import re
import secrets
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

import healthchecks
from healthchecks import Settings, Target
from tests.e2e import bombs, hostile
from tests.e2e.conftest import NAME, execute, inspect, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.e2e.conftest import Served
    from tests.e2e.hostile import Attack

# For one request, of several at once on a slow machine. What hung, hung for hours.
PATIENCE = 90
# What may stay in the container's memory after all attacks of a test, and what they may take at
# most: the limit for the media of one request, twice, since two requests at a time are sent.
LEFT, PEAK = 3 * 2**30, 9 * 2**30
ENDLESS = {"max_tokens": 30_000, "ignore_eos": True}


@pytest.fixture(autouse=True)
def standing(served: Served) -> Iterator[None]:
    """After each test: the same container, idle, no larger than it may be, and right."""
    before, life = memory("usage_in_bytes", "current"), started()
    yield
    wait_until("no request runs or waits", PATIENCE, lambda: sum(requests(served)) == 0)
    names = ["image-1", "audio-1", "video-1", "all-1"]
    target, run = Target(served.url, timeout=PATIENCE), Settings(seed=secrets.token_hex(4))
    results = healthchecks.smoke(target, only=names, settings=run)
    assert [f"{it.probe}: {it.detail}" for it in results if not it.ok] == []
    assert started() == life
    assert memory("usage_in_bytes", "current") - before < LEFT
    assert memory("max_usage_in_bytes", "peak") - before < PEAK


def started() -> tuple[str, int]:
    """When the container's process began, and how often the engine has started it again."""
    found = inspect(NAME)
    return found["State"]["StartedAt"], found["RestartCount"]


def memory(first: str, second: str) -> int:
    """The container's memory in bytes, from the file of either version of cgroups."""
    folder = "/sys/fs/cgroup/memory"
    done = execute(
        NAME, "sh", "-c", f"cat {folder}/memory.{first} || cat /sys/fs/cgroup/memory.{second}"
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def requests(served: Served) -> list[float]:
    """How many requests run, and how many wait."""
    text = httpx.get(f"{served.url}/metrics", timeout=PATIENCE).text
    return [
        float(n)
        for n in re.findall(
            r"^vllm:num_requests_(?:running|waiting)\{.*\} (\S+)$", text, re.MULTILINE
        )
    ]


def address(served: Served) -> tuple[str, int]:
    url = httpx.URL(served.url)
    return url.host, url.port or 80


def wrong(served: Served, attack: Attack) -> str | None:
    """Send one request; return what is wrong with the answer."""
    connection = http.client.HTTPConnection(*address(served), timeout=PATIENCE)
    headers = {"Content-Type": "application/json", **attack.headers}
    try:
        connection.request(attack.method, attack.path, attack.body, headers)
        reply = connection.getresponse()
        status, text = reply.status, reply.read().decode()
    except (OSError, http.client.HTTPException) as error:
        return f"{attack.name}: {error!r}"
    finally:
        connection.close()
    told = f"{attack.name}: HTTP {status}: {text[:300]}"
    if status not in attack.right or "Traceback" in text:
        return told
    # The parser of HTTP has words of its own; FastAPI's `detail` is for paths and methods.
    plain = text == "Invalid HTTP request received."
    return None if status == 200 or plain or {"error", "detail"} & set(json.loads(text)) else told


@pytest.mark.parametrize(
    "group",
    [
        hostile.spoilt_media,
        hostile.bombs_of_media,
        hostile.media_fields,
        hostile.documents,
        hostile.fields,
        hostile.grammars,
        hostile.elsewhere,
    ],
    ids=lambda group: group.__name__,
)
def test_a_hostile_request_is_refused_or_answered(
    served: Served, group: Callable[[], Iterator[Attack]]
) -> None:
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda attack: wrong(served, attack), group()))
    assert len(found) > 5
    assert [it for it in found if it] == []


def answer(served: Served, sent: bytes) -> bytes:
    """Send bytes as they are; return what comes within a while, up to the end of it."""
    with socket.create_connection(address(served), timeout=10) as connection:
        connection.sendall(sent)
        received = b""
        while len(received) < 100_000:
            try:
                more = connection.recv(65536)
            except TimeoutError:
                break
            if not more:
                break
            received += more
            if sent.count(b"GET /health") == received.count(b"HTTP/1.1 200"):
                break
        return received


def test_what_is_no_http_is_refused(served: Served) -> None:
    with ThreadPoolExecutor(len(hostile.WIRE)) as pool:
        received = dict(
            zip(
                hostile.WIRE,
                pool.map(lambda name: answer(served, hostile.WIRE[name][0]), hostile.WIRE),
                strict=True,
            )
        )
    ends = {name: text for name, (_, text) in hostile.WIRE.items()}
    assert {name: text[:12] for name, text in received.items()} == ends
    # What was smuggled behind the first request was not taken for a second.
    assert b"version" not in received["two lengths, one chunked"]
    assert received["50 requests at once"].count(b"HTTP/1.1 200") == 50


def pour(served: Served, head: bytes, block: bytes, most: int) -> tuple[int, bytes]:
    """Send a head, and a block over and over; return how often, and what came back."""
    count = 0
    with socket.create_connection(address(served), timeout=60) as connection:
        try:
            connection.sendall(head)
            while count < most:
                connection.sendall(block)
                count += 1
        except OSError:
            pass
        try:
            return count, connection.recv(65536)
        except OSError:
            return count, b""


def test_what_never_ends_is_cut_off(served: Served) -> None:
    """Headers and bodies without end; beside them, others are answered all the time."""
    post = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    mib = b"a" * 2**20
    slowest = 0.0
    with ThreadPoolExecutor(4) as pool:
        poured = [
            pool.submit(pour, served, b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: ", mib, 1000),
            pool.submit(
                pour, served, b"GET / HTTP/1.1\r\nHost: x\r\n", b"X-A: a\r\n" * 2**17, 1000
            ),
            pool.submit(pour, served, post + b"Content-Length: 1000\r\n\r\n{", b"", 0),
            pool.submit(
                pour,
                served,
                post + b"Transfer-Encoding: chunked\r\n\r\n",
                b"100000\r\n" + mib + b"\r\n",
                1500,
            ),
        ]
        while not all(it.done() for it in poured):
            began = time.monotonic()
            assert httpx.get(f"{served.url}/v1/models", timeout=PATIENCE).status_code == 200
            slowest = max(slowest, time.monotonic() - began)
            time.sleep(0.2)
    header, headers, slow, body = (it.result() for it in poured)
    assert header[0] < 100
    assert headers[0] < 100
    assert slow[1].startswith(b"HTTP/1.1 408")
    # It is read on for a while, so that the client can see the answer.
    assert body[1].startswith((b"HTTP/1.1 413", b""))
    assert slowest < 30


def test_connections_that_say_nothing_keep_nobody_out(served: Served) -> None:
    held = [socket.create_connection(address(served), timeout=30) for _ in range(300)]
    try:
        for number, connection in enumerate(held):
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX: "[: number % 35])
        assert wrong(served, hostile.ask("in between", right=(200,))) is None
    finally:
        for connection in held:
            connection.close()


def leave(served: Served, request: dict[str, Any], after: float | None) -> None:
    """Send a request, and go away: after some seconds, or with the answer's first piece."""
    connection = http.client.HTTPConnection(*address(served), timeout=PATIENCE)
    body = json.dumps(request)
    connection.request("POST", hostile.CHAT, body, {"Content-Type": "application/json"})
    if after is None:
        assert connection.getresponse().read(100)
    else:
        time.sleep(after)
    connection.close()


def test_requests_of_clients_that_went_away_are_given_up(served: Served) -> None:
    """In mid-stream, before the answer, while the prompt is read, and while media are decoded."""
    large = hostile.part("image", "image/png", bombs.png(8000, 8000))
    long = [{"role": "user", "content": "ab cd " * 5400}]
    kinds = [
        (24, hostile.question(stream=True, **ENDLESS), None),
        (12, hostile.question(**ENDLESS), 0.5),
        (12, {**hostile.question(**ENDLESS), "messages": long}, 0.05),
        (4, hostile.question(large, **ENDLESS), 0.3),
    ]
    threads = [
        threading.Thread(target=leave, args=(served, request, after))
        for count, request, after in kinds
        for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Some go away in the middle of what they send.
    for _ in range(20):
        with socket.create_connection(address(served), timeout=10) as connection:
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Length: 99\r\n\r\n{")
    wait_until("the requests are given up", PATIENCE, lambda: sum(requests(served)) == 0)
