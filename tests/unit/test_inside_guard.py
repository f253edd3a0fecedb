"""The middleware that refuses what would bring the server down, without a server around it.

What needs decoders is tried on the real server (tests/e2e/test_2_hostile.py).
"""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from appliance.inside import burden, guard, limits
from appliance.inside.guard import Guard
from appliance.inside.limits import Medium, Refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

JSON = [(b"content-type", b"application/json")]


def through(
    *pieces: bytes,
    headers: list[tuple[bytes, bytes]] = JSON,
    path: str = "/v1/chat/completions",
    method: str = "POST",
    gone: bool = False,
) -> tuple[bytes | None, int | None]:
    """Send one request through; return the body that the server got, and the guard's refusal."""
    waiting: list[dict[str, Any]] = [
        {"type": "http.request", "body": piece, "more_body": True} for piece in pieces
    ]
    waiting[-1]["more_body"] = gone
    got: list[bytes] = []
    sent: list[dict[str, Any]] = []

    async def server(scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        del scope, send
        got.append((await receive()).get("body", b""))
        assert (await receive())["type"] == "http.disconnect"

    async def receive() -> dict[str, Any]:
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    asyncio.run(Guard(server)(scope, receive, send))
    if sent:
        error = json.loads(sent[1]["body"])["error"]
        assert error["code"] == sent[0]["status"]
        assert error["message"]
    return (got[0] if got else None), (sent[0]["status"] if sent else None)


def test_a_decent_request_arrives_as_it_was_sent() -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
    assert through(body[:10], body[10:]) == (body, None)
    assert through(b"") == (b"", None)
    # vLLM has its own words for what is no JSON, and for other methods.
    assert through(b"hello") == (b"hello", None)
    assert through(b"", method="GET")[1] is None


def test_a_client_that_goes_away_leaves_nothing() -> None:
    assert through(b'{"a"', gone=True) == (None, None)


def test_a_body_is_bounded_however_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPLIANCE_SERVER_MAX_BODY_MB", "1")
    half = b" " * 2**19
    assert through(half, half[:-2], b"{}")[1] is None
    assert through(half, half, b"{}") == (None, 413)
    length = str(2**20 + 1).encode()
    assert through(b"{}", headers=[*JSON, (b"content-length", length)]) == (None, 413)


def test_a_body_that_stops_coming_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "SILENCE", 0.05)
    sent: list[dict[str, Any]] = []

    async def silence() -> dict[str, Any]:
        await asyncio.sleep(60)
        return {}

    async def send(message: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": JSON}
    asyncio.run(Guard(_nobody)(scope, silence, send))
    assert sent[0]["status"] == 408


async def _nobody(scope: Any, receive: Any, send: Any) -> None:
    del scope, receive, send
    raise AssertionError("the request reached the server")


def test_a_request_of_two_lengths_is_refused() -> None:
    both = [*JSON, (b"content-length", b"2"), (b"transfer-encoding", b"chunked")]
    assert through(b"{}", headers=both) == (None, 400)
    assert through(b"", headers=both, method="GET") == (None, 400)


@pytest.mark.parametrize("path", ["/scale_elastic_ep", "/scale_elastic_ep/"])
def test_replicas_are_not_scaled_by_requests(path: str) -> None:
    assert through(b"{}", path=path) == (None, 404)


def nested(depth: int) -> Any:
    return {} if depth == 0 else {"a": nested(depth - 1)}


@pytest.mark.parametrize(
    "document",
    [
        [],
        None,
        nested(limits.MAX_DEPTH),
        {"temperature": float("nan")},
        {"seed": 2**70},
        {"n": 257},
        {"n": "1e6"},
        {"n": 10, "prompt": ["a"] * 30},
        {"messages": [[{}]] * 300},
        {"sampling_params": {"n": 1000}},
        {"prompt": "a" * (limits.MAX_TEXT + 1)},
        {"prompt": "data:" + "a" * limits.MAX_TEXT},
        {"metadata": {"a" * limits.MAX_TEXT: "b"}},
        {"structured_outputs": {"json": {"type": "array", "minItems": 10**9}}},
        {"structured_outputs": {"json": '{"type": "array", "minItems": 1000000000}'}},
        {"structured_outputs": {"choice": ["a"] * 2000}},
        {"guided_choice": ["a"] * 2000},
        {"response_format": {"schema": {"enum": ["a"] * 20_000}}},
        {"structured_outputs": {"regex": "a" * limits.MAX_GRAMMAR}},
        {"structured_outputs": {"structural_tag": "[" * 100_000}},
        {"media_io_kwargs": {"video": {"video_backend": "x"}}},
        {"media_io_kwargs": {"video": {"num_frames": -1}}},
        {"media_io_kwargs": {"video": {"frames_indices": [1] * 1000}}},
        {"media_io_kwargs": {"sound": {}}},
        {"mm_processor_kwargs": {"device": "cpu"}},
        {"mm_processor_kwargs": {"min_pixels": 10**8}},
        {"mm_processor_kwargs": {"size": {"longest_edge": 10**12}}},
    ],
    ids=lambda document: json.dumps(document)[:50],
)
def test_what_goes_too_far_is_refused(document: Any) -> None:
    with pytest.raises(Refused):
        limits.check(json.dumps(document).encode())


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":[' + b"1," * 1_000_001, b'{"a": 1e999}'])
def test_what_costs_too_much_to_read_is_refused(body: bytes) -> None:
    with pytest.raises(Refused):
        limits.check(body)


@pytest.mark.parametrize(
    "document",
    [
        {"prompt": "a" * 1_000_000},
        {"prompt": list(range(131_072))},
        {"n": 8, "prompt": ["a"] * 8, "logit_bias": {"1": -100}},
        {"tools": [{"function": {"parameters": {"properties": {"n": {"maximum": 1e12}}}}}]},
        {"tools": [{"function": {"parameters": {"default": {"n": 5000}}}}]},
        {"structured_outputs": {"json": '{"type": "string", "maxLength": 100}'}},
        {"response_format": {"json_schema": {"schema": nested(40)}}},
        {"media_io_kwargs": {"video": {"num_frames": 64, "fps": 2}, "image": {}}},
        {"mm_processor_kwargs": {"use_audio_in_video": True, "max_pixels": 602_112}},
        {"prompt_embeds": "A" * 3_000_000},
        {"temperature": 0.7, "seed": -(2**63), "max_tokens": None},
    ],
    ids=lambda document: json.dumps(document)[:50],
)
def test_what_people_ask_is_let_through(document: Any) -> None:
    assert limits.check(json.dumps(document).encode()).media == []


def test_media_are_found_wherever_vllm_finds_them() -> None:
    content = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,QQ=="}},
        {"type": "video_url", "video_url": "DATA:video/mp4;base64,Qg=="},
        {"type": "input_audio", "input_audio": {"data": "Qw==", "format": "wav"}},
        {"type": "image", "source": {"type": "base64", "data": "RA=="}},
        {"type": "text", "text": "data:image/png;base64,QQ=="},
    ]
    document = {"messages": [{"content": content}], "media_io_kwargs": {"video": {"num_frames": 9}}}
    found = limits.check(json.dumps(document).encode())
    assert {(medium.kind, medium.text[-4:]) for medium in found.media} == {
        ("image", "QQ=="),
        ("video", "Qg=="),
        ("audio", "Qw=="),
        ("unknown", "RA=="),
    }
    assert found.frames == 9


def test_the_files_of_media_are_what_is_decoded() -> None:
    one = base64.b64encode(b"one").decode()

    def files(text: str) -> list[tuple[bytes, str]]:
        return list(burden._files(Medium("video", text)))

    assert files(f"data:video/mp4;base64,{one}") == [(b"one", "video")]
    assert files(one) == [(b"one", "video")]
    assert files(f"data:video/JPEG;base64,{one},{one}") == [(b"one", "image")] * 2
    # vLLM fetches it, or refuses it; and says what is wrong with base64.
    assert files("https://media.example.com/a.mp4") == []
    assert files("data:video/mp4;base64,abc") == []


@pytest.mark.parametrize("kind", ["audio", "video", "unknown"])
def test_a_text_is_no_medium(kind: limits.Kind) -> None:
    with pytest.raises(Refused, match="text"):
        burden.measure(b"#EXTM3U\nhttp://127.0.0.1/\n", kind, burden.Bounds(64, 60))


@pytest.mark.parametrize("kind", ["image", "audio", "video", "unknown"])
def test_what_no_decoder_reads_takes_nothing(kind: limits.Kind) -> None:
    """Nor does a decoder that is not there, as here: vLLM has to say so."""
    assert burden.measure(bytes(100), kind, burden.Bounds(64, 60)) == 0


def test_a_sound_is_bounded_by_its_length_and_by_its_samples() -> None:
    bounds = burden.Bounds(mib=1024, seconds=600)
    assert burden._sound_bytes(16_000 * 600, 1, 16_000, bounds) == 8 * 16_000 * 600 + 600_000_000
    for samples, channels, rate in (
        (16_000 * 601, 1, 16_000),
        (44_100 * 600, 8, 44_100),
        (2**62, 1, 1),
    ):
        with pytest.raises(Refused):
            burden._sound_bytes(samples, channels, rate, bounds)


def test_the_frames_of_the_servers_command_line_count() -> None:
    words = ["vllm", "serve", "m", "--media-io-kwargs"]
    assert guard._frames([*words, '{"video":{"num_frames":64}}']) == 64
    for value in ('{"image":{}}', "junk"):
        assert guard._frames([*words, value]) == burden.FRAMES
    assert guard._frames(words) == burden.FRAMES


def test_the_files_of_a_form_are_found() -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n'
    body += (
        b'--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\nsound\r\n--x--\r\n'
    )
    assert list(guard._files(b'multipart/form-data; Boundary="x"', body)) == [b"sound"]
    assert list(guard._files(b"multipart/form-data", body)) == []
