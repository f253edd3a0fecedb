"""The probes of content, against servers that are deaf, blind, broken, or only guess."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import healthchecks
from healthchecks import Settings, Target, exercises
from healthchecks.errors import ProbeError, RefusedError
from tests.unit.fake_vllm import (
    NOTHING_SHOWN,
    RIGHT,
    SEED,
    Answer,
    FakeServer,
    Hangup,
    Json,
    answer,
    completion,
    good_chat,
    media_of,
    modalities,
    right_answers,
    says,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from healthchecks import ProbeResult

NAMES = [modality.name for modality in exercises.MODALITIES]
CONTENT = [
    name
    for name in healthchecks.PROBE_NAMES
    if name.rpartition("-")[0] in NAMES or name in {"image-jpeg", "video-mp4"}
]
SETTINGS = Settings(seed=SEED)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as fake:
        yield fake


def probe(server: FakeServer, *names: str, timeout: float = 10) -> dict[str, ProbeResult]:
    """The results of some probes, by name; of all that are about content, when none is named."""
    target = Target(server.url, timeout=timeout)
    results = healthchecks.smoke(target, only=names or CONTENT, settings=SETTINGS)
    return {result.probe: result for result in results}


def verdicts(results: dict[str, ProbeResult]) -> set[str]:
    return {result.verdict for result in results.values()}


def fails(results: dict[str, ProbeResult], *names: str) -> bool:
    """Whether of both probes of each modality at least one does not pass."""
    return all(not (results[f"{n}-1"].ok and results[f"{n}-2"].ok) for n in names or NAMES)


def test_a_server_in_order_passes(server: FakeServer) -> None:
    results = probe(server)
    assert verdicts(results) == {"ok"}
    assert list(results) == CONTENT
    assert {result.seed for name, result in results.items() if "-" in name[-3:]} == {SEED}
    assert results["image-jpeg"].seed is None


def test_both_media_of_a_modality_come_with_the_same_words(server: FakeServer) -> None:
    probe(server)
    asked: dict[str, set[tuple[str, ...]]] = {}
    for request in server.requests:
        text = request["messages"][0]["content"][-1]["text"]
        asked.setdefault(text, set()).add(media_of(request))
    assert set(asked) == {modality.question for modality in exercises.MODALITIES}
    # Two media and none; of images and videos the file of the package too.
    assert sorted(map(len, asked.values())) == [3, 3, 3, 3, 4, 4]
    assert all(() in media for media in asked.values())
    tracks = [r for r in server.requests if "mm_processor_kwargs" in r]
    assert len(tracks) == 2
    assert {modalities(r)[0] for r in tracks} == {"video_url"}


def test_every_seed_asks_about_other_media() -> None:
    assert right_answers("1").keys() & right_answers("2").keys() == {
        tuple(m.url for m in e.media) for e in (exercises.jpeg(), exercises.mp4())
    }


@pytest.mark.parametrize(
    "constant",
    [
        "red circle",
        "2",
        "3",
        "higher",
        "left",
        "up",
        "red circle, 2, left",
        "red circle. higher. 2 beeps. left.",
        NOTHING_SHOWN,
        "I hear silence: 0 beeps.",
        "red, green, blue, black, white circle, square, triangle or star; 1, 2 or 3; left or right",
    ],
)
def test_a_server_that_answers_without_looking_is_caught(server: FakeServer, constant: str) -> None:
    server.chat = lambda _: says(constant)
    results = probe(server)
    assert fails(results)
    assert verdicts(results) <= {"wrong", "ok"}


def test_a_server_that_answers_from_the_text_alone_is_caught(server: FakeServer) -> None:
    """It even knows what one of the two right answers is."""
    first = {
        modality.question: exercises.pair(modality, SEED)[0].right
        for modality in exercises.MODALITIES
    }
    server.chat = lambda request: says(first[request["messages"][0]["content"][-1]["text"]])
    results = probe(server)
    for name in NAMES:
        assert results[f"{name}-1"].ok
        assert not results[f"{name}-2"].ok
        assert not results[f"{name}-control"].ok
        assert "answers from the text alone" in results[f"{name}-control"].detail


@pytest.mark.parametrize(
    ("missing", "names"),
    [
        ("audio_url", ["audio", "pitch", "all"]),
        ("image_url", ["image", "all"]),
        ("video_url", ["video", "track", "all"]),
    ],
)
def test_a_deaf_or_blind_server_is_caught(
    server: FakeServer, missing: str, names: list[str]
) -> None:
    def chat(request: Json) -> Answer:
        kinds = modalities(request)
        return says("black star, 0, down") if missing in kinds else good_chat(request)

    server.chat = chat
    results = probe(server)
    assert fails(results, *names)
    rest = set(NAMES) - set(names)
    assert all(result.ok for name, result in results.items() if name.rpartition("-")[0] in rest)


def test_a_server_that_ignores_the_sound_of_a_video_fails(server: FakeServer) -> None:
    def chat(request: Json) -> Answer:
        return says("0") if "mm_processor_kwargs" in request else good_chat(request)

    server.chat = chat
    results = probe(server)
    bad = {name for name, result in results.items() if not result.ok}
    assert bad == {"track-1", "track-2"}
    assert "does the server ignore use_audio_in_video?" in results["track-1"].detail


@pytest.mark.parametrize("status", [400, 415, 422])
def test_a_server_that_refuses_the_sound_of_a_video_does_not_fail(
    server: FakeServer, status: int
) -> None:
    def chat(request: Json) -> Answer:
        if "mm_processor_kwargs" in request:
            return answer(status, {"error": {"message": "no such option"}})
        return good_chat(request)

    server.chat = chat
    results = probe(server)
    assert all(result.ok for result in results.values())
    refused = [name for name, result in results.items() if result.verdict == "refused"]
    assert refused == ["track-1", "track-2"]
    assert results["track-1"].detail.startswith(f"not supported by this server: HTTP {status}")


@pytest.mark.parametrize("status", [401, 429])
def test_a_refusal_for_another_reason_is_a_failure(server: FakeServer, status: int) -> None:
    server.chat = lambda _: answer(status, {"error": {"message": "not now"}})
    result = probe(server, "track-1")["track-1"]
    assert (result.ok, result.verdict) == (False, "refused")


def test_a_server_that_refuses_images_fails(server: FakeServer) -> None:
    server.chat = lambda _: answer(400, {"error": {"message": "At most 0 image(s)"}})
    results = probe(server, "image-1", "image-control")
    assert verdicts(results) == {"refused"}
    assert not any(result.ok for result in results.values())
    assert "HTTP 400" in results["image-1"].detail


def test_an_error_of_the_server_is_one(server: FakeServer) -> None:
    server.chat = lambda _: answer(500, {"error": {"message": "EngineCore died"}})
    assert verdicts(probe(server, "image-1", "track-1")) == {"error"}


@pytest.mark.parametrize(
    "text", ["!" * 200, "the the the the the the the the the", "\ufffd\ufffd", "", " \n"]
)
def test_degenerate_output_is_named(server: FakeServer, text: str) -> None:
    server.chat = lambda _: answer(200, completion(99, {"content": text, "reasoning": None}))
    results = probe(server)
    assert verdicts(results) == {"degenerate"}
    assert all(result.detail.startswith("the output is ") for result in results.values())


def test_text_that_repeats_one_token_is_named_too(server: FakeServer) -> None:
    server.chat = lambda _: answer(200, completion(16, {"content": "!" * 16}))
    assert probe(server, "text")["text"].verdict == "degenerate"


def test_a_server_that_hangs_times_out(server: FakeServer) -> None:
    server.chat = server.hang
    result = probe(server, "image-1", timeout=0.5)["image-1"]
    assert (result.ok, result.verdict) == (False, "timeout")


def test_reasoning_that_does_not_end_is_said_to(server: FakeServer) -> None:
    thought = "Let me see what the picture has in it. There is something that"
    message = {"content": None, "reasoning": thought}
    server.chat = lambda _: answer(200, completion(2048, message, "length"))
    results = probe(server)
    right = [name for name in CONTENT if not name.endswith("-control")]
    assert all(results[name].verdict == "wrong" for name in right)
    assert "did not come to an end within the tokens" in results["image-1"].detail
    assert thought in results["image-1"].detail


def test_a_guess_without_media_is_no_failure_of_a_model_that_looks(server: FakeServer) -> None:
    """By luck the answer to no medium is right for one of the two."""
    for which in (0, 1):
        guess = exercises.pair(exercises.PITCH, SEED)[which].right

        def chat(request: Json, guess: str = guess) -> Answer:
            return says(guess) if modalities(request) == ["text"] else good_chat(request)

        server.chat = chat
        result = probe(server, "pitch-control")["pitch-control"]
        assert result.ok, result.detail
        assert f"a guess, {guess}" in result.detail


def test_an_answer_for_media_of_an_earlier_request_is_caught(server: FakeServer) -> None:
    """What a cache that is keyed on the text alone would do."""
    last = "red circle"

    def chat(request: Json) -> Answer:
        nonlocal last
        if modalities(request) == ["text"]:
            return says(last)
        last = RIGHT[media_of(request)]
        return says(last)

    server.chat = chat
    results = probe(server)
    for name in NAMES:
        assert results[f"{name}-control"].verdict == "wrong"
        assert "of the request before" in results[f"{name}-control"].detail


def test_the_answer_is_read_where_a_server_puts_it(server: FakeServer) -> None:
    def chat(request: Json) -> Answer:
        right = RIGHT.get(media_of(request), NOTHING_SHOWN)
        content = f"The user wants to know. Red? Blue? 1, 2, 3?\n</think>\n\n**{right}**"
        return answer(200, completion(9, {"content": content}, "stop"))

    server.chat = chat
    assert verdicts(probe(server)) == {"ok"}


def test_a_connection_that_breaks_is_an_error(server: FakeServer) -> None:
    def drop(_: Json) -> Answer:
        raise Hangup

    server.chat = drop
    assert probe(server, "image-1")["image-1"].verdict == "error"


def test_the_errors_know_their_verdicts() -> None:
    assert ProbeError("x").verdict == "error"
    assert RefusedError("x", 400).verdict == "refused"
