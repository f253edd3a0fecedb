"""The middleware that asks for the API key, without a server around it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from appliance.inside.auth import RequireKey

KEY = "sk-unit"


def reached(kind: str, path: str, headers: list[tuple[bytes, bytes]]) -> tuple[bool, list[Any]]:
    """Send one request through; return whether it got to the server, and what was answered."""
    passed: list[str] = []
    sent: list[Any] = []

    async def server(scope: Any, receive: Any, send: Any) -> None:
        del receive, send
        passed.append(scope["type"])

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        sent.append(message)

    scope = {"type": kind, "path": path, "headers": headers}
    asyncio.run(RequireKey(server)(scope, receive, send))
    return bool(passed), sent


def bearer(key: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", f"Bearer {key}".encode())]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", KEY)


@pytest.mark.parametrize("path", ["/v1/models", "/invocations", "/", "/health/", "/HEALTH"])
def test_only_the_key_opens_a_path(path: str) -> None:
    assert reached("http", path, bearer(KEY))[0]
    for headers in ([], bearer("wrong"), bearer(""), [*bearer(KEY), *bearer("wrong")]):
        passed, sent = reached("http", path, headers)
        assert not passed
        assert sent[0]["status"] == 401


def test_liveness_needs_no_key() -> None:
    assert reached("http", "/health", [])[0]


def test_a_websocket_needs_the_key_too() -> None:
    passed, sent = reached("websocket", "/v1/realtime", [])
    assert not passed
    assert sent == [{"type": "websocket.close", "code": 1008}]
    assert reached("websocket", "/v1/realtime", bearer(KEY))[0]


def test_the_servers_own_start_passes() -> None:
    assert reached("lifespan", "", [])[0]


def test_without_a_key_nothing_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_API_KEY")
    assert not reached("http", "/v1/models", bearer(""))[0]
    assert not reached("http", "/v1/models", [])[0]
