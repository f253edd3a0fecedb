"""The probes, against a real HTTP server that speaks the API of vLLM."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import healthchecks
from healthchecks import (
    PROBE_NAMES,
    ProbeResult,
    Settings,
    Target,
    __main__,
    environment,
    exercises,
)
from tests.unit.fake_vllm import (
    CONTEXT,
    MODEL,
    SEED,
    USAGE,
    Answer,
    FakeServer,
    Hangup,
    Json,
    answer,
    chunk,
    completion,
    events,
    good_chat,
    is_over_limit,
    modalities,
    parts,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-not-for-any-output"
SETTINGS = Settings(seed=SEED)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as fake:
        yield fake


@pytest.fixture
def closed_url() -> Iterator[str]:
    # Bound and not listening: nobody else can get the port while the test runs.
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def target(server: FakeServer, timeout: float = 5.0, model: str | None = None) -> Target:
    return Target(server.url, model, None, timeout)


def cli(*arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    dropped = ("OPENAI_API_KEY", "HEALTHCHECKS_", "PYTHONUTF8")
    clean = {name: text for name, text in os.environ.items() if not name.startswith(dropped)}
    done = subprocess.run(
        [sys.executable, "-m", "healthchecks", *map(str, arguments)],
        cwd=ROOT,
        env=clean | (env or {}),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done


def failed(results: list[ProbeResult]) -> dict[str, str]:
    return {result.probe: result.detail for result in results if not result.ok}


def one(server: FakeServer, probe: str) -> ProbeResult:
    (result,) = healthchecks.smoke(target(server), only=[probe], settings=SETTINGS)
    return result


# live and ready


def test_live_and_ready_on_a_good_server(server: FakeServer) -> None:
    assert healthchecks.live(target(server)).detail == "HTTP 200"
    result = healthchecks.ready(target(server))
    assert result.ok
    assert result.detail == f"{MODEL}: HTTP 200, 1 token, finish length, prompt 812 tokens"
    assert server.requests[0]["max_tokens"] == 1
    assert server.requests[0]["model"] == MODEL
    assert 0 < result.seconds < 5
    assert result.seconds == round(result.seconds, 3)


def test_live_fails_when_health_is_not_200(server: FakeServer) -> None:
    server.health = Answer(503, [b"engine dead"], "text/plain")
    result = healthchecks.live(target(server))
    assert (result.ok, result.detail) == (False, "HTTP 503: engine dead")


def test_live_does_not_follow_a_redirect(server: FakeServer) -> None:
    server.health = Answer(302, [], location=f"{server.url}/v1/models")
    assert healthchecks.live(target(server)).detail == "HTTP 302: (empty body)"


def test_ready_fails_when_the_model_is_not_listed(server: FakeServer) -> None:
    result = healthchecks.ready(target(server, model="other"))
    assert not result.ok
    assert result.detail == f"model other is not served; served: {MODEL}"
    assert server.requests == []


@pytest.mark.parametrize(
    "body", [{"data": []}, {"data": "x"}, {"data": [3, {"id": 1}]}, [], None], ids=str
)
def test_ready_fails_when_no_model_is_listed(server: FakeServer, body: object) -> None:
    server.models = answer(200, body)
    result = healthchecks.ready(target(server))
    assert not result.ok
    assert "lists no model: HTTP 200" in result.detail


def test_ready_asks_for_the_named_model(server: FakeServer) -> None:
    server.models = answer(200, {"data": [{"id": "first"}, {"id": "\ud800"}]})
    assert healthchecks.ready(target(server, model="\ud800")).ok
    assert server.requests[0]["model"] == "\ud800"


@pytest.mark.parametrize("probe", [healthchecks.live, healthchecks.ready])
def test_a_closed_port_is_a_failed_verdict(
    probe: Callable[[Target], ProbeResult], closed_url: str
) -> None:
    result = probe(Target(closed_url, timeout=5))
    assert not result.ok
    assert result.detail.startswith(f"cannot connect to {closed_url}: ")


def test_ready_times_out_when_only_health_answers(server: FakeServer) -> None:
    server.chat = server.hang
    assert healthchecks.live(target(server)).ok
    result = healthchecks.ready(target(server, timeout=1))
    assert not result.ok
    assert "no answer to POST /v1/chat/completions within 1 s" in result.detail
    assert result.seconds < 5


def test_a_body_that_trickles_in_times_out(server: FakeServer) -> None:
    server.chat = lambda _: Answer(200, [b"tick "] * 1000, pause=0.02)
    result = healthchecks.ready(target(server, timeout=1))
    assert not result.ok
    assert "within 1 s; received so far: tick tick" in result.detail
    assert result.seconds < 5


def test_an_endless_body_is_cut(server: FakeServer) -> None:
    server.chat = lambda _: Answer(200, [b"x" * 1_000_000] * 50)
    assert "is longer than" in healthchecks.ready(target(server)).detail


def test_a_dropped_connection_is_a_failed_verdict(server: FakeServer) -> None:
    def drop(_: Json) -> Answer:
        raise Hangup

    server.chat = drop
    assert "POST /v1/chat/completions broke off" in healthchecks.ready(target(server)).detail


def test_an_error_response_is_quoted_on_one_printable_line(server: FakeServer) -> None:
    body = "NPU out of memory\n\x1b[31m" + 1000 * "y"
    server.chat = lambda _: Answer(500, [body.encode()], "text/plain")
    detail = healthchecks.ready(target(server)).detail
    assert detail.startswith("HTTP 500: NPU out of memory \\u001b[31myyy")
    assert detail.isprintable()
    assert len(detail) < 350


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Answer(200, [b"<html>proxy</html>"]), "the answer is not JSON: HTTP 200: <html>"),
        (Answer(200, [b"[" * 200_000]), "the answer is not JSON: HTTP 200: [[["),
        (Answer(200, [b"\xff\xfe"]), "the answer is not JSON"),
        (answer(200, completion(tokens=0)), "no token was generated: HTTP 200"),
        (answer(200, completion() | {"usage": None}), "no token was generated"),
        (answer(200, completion(finish="abort")), "did not finish with stop or length"),
        (answer(200, completion(message={"role": "assistant"})), "no message in the answer"),
        (answer(200, {"choices": []}), "no message in the answer"),
        (answer(200, [1]), "no message in the answer"),
        (Answer(204, []), "HTTP 204: (empty body)"),
    ],
)
def test_what_is_no_completion_fails(server: FakeServer, reply: Answer, reason: str) -> None:
    server.chat = lambda _: reply
    result = healthchecks.ready(target(server))
    assert not result.ok
    assert reason in result.detail


@pytest.mark.parametrize("key", ["content", "reasoning", "reasoning_content"])
def test_any_answer_key_passes(server: FakeServer, key: str) -> None:
    server.chat = lambda _: answer(200, completion(1, {key: ""}, "stop"))
    assert healthchecks.ready(target(server)).ok


# smoke


def test_smoke_passes_on_a_good_server(server: FakeServer) -> None:
    seen: list[ProbeResult] = []
    results = healthchecks.smoke(target(server), seen.append, settings=SETTINGS)
    assert failed(results) == {}
    assert seen == results
    assert [result.probe for result in results] == list(PROBE_NAMES)
    details = {result.probe: result.detail for result in results}
    assert details["video-2"] == "right, up: 'up'"
    assert details["video-control"].startswith("without media no right answer: 'I see no")
    assert {result.verdict for result in results} == {"ok"}
    assert details["stream"] == ("HTTP 200, 2 tokens in 2 chunks, finish length, prompt 9 tokens")
    assert details["over-limit"].startswith("refused as it must be, HTTP 400: This model's maximum")
    assert details["text-after"].startswith("the engine survived: HTTP 200")
    assert all(request["temperature"] == 0 for request in server.requests)


def test_smoke_requests_are_fresh_and_of_the_limits(server: FakeServer) -> None:
    settings = Settings(max_tokens=3, answer_tokens=99, seed=SEED)
    healthchecks.smoke(target(server), settings=settings)
    texts = [request["messages"][0]["content"] for request in server.requests]
    plain = [text for text in texts if isinstance(text, str)]
    assert len({text.split()[0] for text in plain}) == len(plain) == 4
    together = [r for r in server.requests if len(parts(r)) == 4]
    assert [modalities(r) for r in together] == 2 * [
        ["image_url", "audio_url", "video_url", "text"]
    ]
    uuids = [part["uuid"] for r in server.requests for part in parts(r) if part["type"] != "text"]
    assert len(set(uuids)) == len(uuids) == 18
    limits: dict[bool, list[int]] = {True: [], False: []}
    for request, text in zip(server.requests, texts, strict=True):
        limits[isinstance(text, str)].append(request["max_tokens"])
    assert {kind: set(numbers) for kind, numbers in limits.items()} == {True: {3}, False: {99}}


def test_reasoning_gets_no_more_than_half_of_the_context(server: FakeServer) -> None:
    one(server, "image-1")
    assert [request["max_tokens"] for request in server.requests] == [CONTEXT // 2]


def test_smoke_runs_only_what_is_asked_in_table_order(server: FakeServer) -> None:
    results = healthchecks.smoke(target(server), only={"stream", "text"})
    assert [result.probe for result in results] == ["text", "stream"]
    with pytest.raises(ValueError, match="unknown probe: sound"):
        healthchecks.smoke(target(server), only=["sound"])
    for wrong in ("max_tokens", "answer_tokens"):
        with pytest.raises(ValueError, match=wrong):
            Settings(**{wrong: 0})  # type: ignore[arg-type]


def test_only_the_second_video_fails(server: FakeServer) -> None:
    videos = 0

    def chat(request: Json) -> Answer:
        nonlocal videos
        videos += modalities(request) == ["video_url", "text"]
        if videos == 2 and modalities(request) == ["video_url", "text"]:
            return answer(500, {"error": {"message": "EngineCore: index out of range"}})
        return good_chat(request)

    server.chat = chat
    results = healthchecks.smoke(target(server), settings=SETTINGS)
    assert list(failed(results)) == ["video-2"]
    assert failed(results)["video-2"].startswith("HTTP 500: ")
    assert "index out of range" in failed(results)["video-2"]
    assert "survived" in results[-1].detail


def test_engine_that_dies_ends_the_run_early(server: FakeServer) -> None:
    def chat(request: Json) -> Answer:
        if "image_url" in modalities(request):
            server.stop_listening()
            raise Hangup
        return good_chat(request)

    server.chat = chat
    seen: list[ProbeResult] = []
    results = healthchecks.smoke(target(server), seen.append, settings=SETTINGS)
    assert seen == results
    assert [result.probe for result in results] == list(PROBE_NAMES)
    assert results[0].ok
    assert "broke off" in results[1].detail
    assert all("cannot connect" in result.detail for result in results[2:5])
    assert {result.detail for result in results[5:]} == {"skipped: server unreachable"}
    assert not any(result.ok for result in results[1:])


def test_a_server_that_comes_back_is_probed_again() -> None:
    first = FakeServer()
    second: list[FakeServer] = []

    def restart(result: ProbeResult) -> None:
        seen.append(result.ok)
        if len(seen) == 1:
            first.__exit__(None, None, None)
        elif len(seen) == 3:
            second.append(FakeServer(port=first.httpd.server_port).__enter__())
        elif len(seen) == 4:
            second[0].__exit__(None, None, None)

    seen: list[bool] = []
    with first:
        results = healthchecks.smoke(target(first), restart, settings=SETTINGS)
    assert seen[:4] == [True, False, False, True]
    assert all("cannot connect" in result.detail for result in results[4:7])
    assert {result.detail for result in results[7:]} == {"skipped: server unreachable"}


def test_a_hung_probe_does_not_stop_the_next(server: FakeServer) -> None:
    server.chat = lambda r: server.hang(r) if "audio_url" in modalities(r) else good_chat(r)
    names = ["audio-1", "audio-2", "text-after"]
    results = healthchecks.smoke(target(server, 1), only=names, settings=SETTINGS)
    assert list(failed(results)) == ["audio-1", "audio-2"]
    assert [result.verdict for result in results] == ["timeout", "timeout", "ok"]


def test_a_server_that_hangs_ends_the_run_after_three_probes(server: FakeServer) -> None:
    server.chat = server.hang
    results = healthchecks.smoke(target(server, 0.5), settings=SETTINGS)
    assert {result.verdict for result in results} == {"timeout"}
    assert len(server.requests) == 3
    assert results[3].detail == "skipped: the server did not answer 3 probes in a row"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (events(chunk(), chunk("stop"), USAGE, done=False), "does not end with [DONE]"),
        (answer(200, completion()), "does not end with [DONE]"),
        (events(USAGE), "no delta in the stream"),
        (events(chunk("stop")), "no token was generated"),
        (events(chunk(), USAGE), "did not finish"),
        (
            events(chunk(), {"error": {"message": "EngineDead"}}, chunk("stop"), USAGE),
            'the stream holds: {"error": {"message": "EngineDead"}}',
        ),
        (Answer(200, [b"data: {x\n\ndata: [DONE]\n\n"]), "the stream holds: {x"),
        (Answer(500, [b"boom"]), "HTTP 500: boom"),
    ],
)
def test_a_broken_stream_fails(server: FakeServer, reply: Answer, reason: str) -> None:
    server.chat = lambda _: reply
    result = one(server, "stream")
    assert not result.ok
    assert reason in result.detail


@pytest.mark.parametrize(
    ("reply", "passes"),
    [
        (answer(400, {"error": {"message": "too long"}}), True),
        (answer(413, {"object": "error", "message": "too long"}), True),
        (answer(400, {"error": {"code": 400}}), False),
        (Answer(400, [b"too long"]), False),
        (answer(200, completion()), False),
        (answer(429, {"error": {"message": "slow down"}}), False),
        (answer(500, {"error": {"message": "engine died"}}), False),
    ],
)
def test_over_limit(server: FakeServer, reply: Answer, passes: bool) -> None:
    server.chat = lambda _: reply
    result = one(server, "over-limit")
    assert result.ok is passes
    assert f"HTTP {reply.status}" in result.detail
    assert is_over_limit(server.requests[0])


@pytest.mark.parametrize("length", [None, "512", 0, 10**12])
def test_over_limit_needs_the_context_length(server: FakeServer, length: object) -> None:
    server.models = answer(200, {"data": [{"id": MODEL, "max_model_len": length}]})
    assert "gives no usable max_model_len" in one(server, "over-limit").detail


def test_a_missing_media_file_is_a_failed_verdict(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(exercises, "FOLDER", tmp_path)
    result = one(server, "image-jpeg")
    assert "cannot read a file of the probe: " in result.detail
    assert result.verdict == "error"


# target


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8000", "ftp://h", "http://", "http://h:99999", "http://[", "http://h/?a=b"],
)
def test_a_bad_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        Target(url)


def test_a_password_in_the_url_is_refused_and_not_shown() -> None:
    with pytest.raises(ValueError, match="must not carry") as caught:
        Target("http://me:hunter2@h")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e12])
def test_a_bad_timeout_is_refused(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        Target(timeout=timeout)


def test_the_url_may_end_with_a_slash_or_v1() -> None:
    for url in ("http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"):
        assert Target(url).base_url == "http://h:1"


def test_the_key_is_not_in_the_repr_nor_in_errors() -> None:
    assert KEY not in repr(Target(api_key=KEY))
    with pytest.raises(ValueError, match="API key") as caught:
        Target(api_key=KEY + "\n")
    assert KEY not in str(caught.value)


# the key


def test_a_server_that_wants_a_key(server: FakeServer) -> None:
    server.key = KEY
    assert healthchecks.ready(Target(server.url, api_key=KEY)).ok
    assert "HTTP 401" in healthchecks.ready(Target(server.url)).detail
    assert "(no API key was sent)" in healthchecks.ready(Target(server.url)).detail
    wrong = healthchecks.ready(Target(server.url, api_key="wrong"))
    assert "(the API key was refused)" in wrong.detail


def test_the_key_goes_to_the_server_and_nowhere_else(server: FakeServer, tmp_path: Path) -> None:
    key_file, report = tmp_path / "key", tmp_path / "report.xml"
    key_file.write_text(KEY + "\n", encoding="ascii")

    def echo(_: Json) -> Answer:
        # The quote is cut near the key: half a key must not be shown either.
        return Answer(500, [b"z" * 270 + f"Authorization: Bearer {KEY}".encode()])

    server.key, server.chat = KEY, echo
    common = ("--url", server.url, "--api-key-file", key_file)
    outputs = [
        cli("ready", *common),
        cli("ready", *common, "--json"),
        cli("smoke", *common, "--junit", report),
    ]
    assert set(server.authorizations) == {f"Bearer {KEY}"}
    for done in outputs:
        assert done.returncode == 1
        assert "HTTP 500" in done.stdout
        assert KEY[:8] not in done.stdout + done.stderr
    assert KEY[:8] not in report.read_text(encoding="utf-8")


def test_the_sources_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = __main__.read_api_key
    named, secret, other = tmp_path / "named", tmp_path / "secret", tmp_path / "other"
    named.write_text("of-option\n", encoding="ascii")
    other.write_text("of-variable", encoding="ascii")
    monkeypatch.setattr(__main__, "SECRET_FILE", secret)
    environ = {"HEALTHCHECKS_API_KEY_FILE": str(other), "OPENAI_API_KEY": "of-openai"}
    assert read(named, environ) == "of-option"
    assert read(None, environ) == "of-variable"
    del environ["HEALTHCHECKS_API_KEY_FILE"]
    assert read(None, environ) == "of-openai"
    secret.write_text("", encoding="ascii")
    assert read(None, environ) == "of-openai"
    secret.write_text("of-secret", encoding="ascii")
    assert read(None, environ) == "of-secret"
    secret.unlink()
    assert read(None, {}) is None
    for content in (b"", b"\xff"):
        named.write_bytes(content)
        with pytest.raises(ValueError, match="API key file"):
            read(named, {})


# reports


def test_junit_is_valid_whatever_the_detail_holds(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text("old", encoding="ascii")
    healthchecks.write_junit(
        [
            ProbeResult("text", ok=True, seconds=0.25, detail="HTTP 200", verdict="ok"),
            ProbeResult("image-1", False, 1.5, "<&\"'\x00\x1b\ufffe\ud800é\n", "wrong", "7"),
            ProbeResult("track-1", True, 0.0, "not supported", "refused", "7"),
        ],
        str(report),
    )
    suite = ET.parse(report).getroot()  # noqa: S314 - our own file
    assert suite.tag == "testsuite"
    assert {k: suite.get(k) for k in ("tests", "failures", "skipped", "time")} == {
        "tests": "3",
        "failures": "1",
        "skipped": "1",
        "time": "1.750",
    }
    assert [case.get("name") for case in suite.iter("testcase")] == ["text", "image-1", "track-1"]
    (failure,) = suite.iter("failure")
    assert (failure.get("message") or "").startswith("wrong: <&\"'\\x00\\x1b\\xfffe\\xd800é")
    assert failure.get("type") == "wrong"
    assert [p.get("value") for p in suite.iter("property")] == ["7", "7"]
    assert next(suite.iter("skipped")).get("message") == "refused: not supported"
    assert [path.name for path in tmp_path.iterdir()] == ["report.xml"]


def test_a_failed_junit_write_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "report.xml").mkdir()
    with pytest.raises(OSError, match=r"report\.xml"):
        healthchecks.write_junit([], tmp_path / "report.xml")
    assert [path.name for path in tmp_path.iterdir()] == ["report.xml"]


# command line


def test_cli_smoke_prints_aligned_lines_and_a_summary(server: FakeServer, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    done = cli("smoke", "--url", server.url, "--junit", report, "--seed", SEED)
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines] == list(PROBE_NAMES)
    assert {line[:4] for line in lines} == {"ok  "}
    assert len({line.index(" s  ") for line in lines}) == 1
    first, last = done.stderr.splitlines()
    assert first == f"seed {SEED}"
    assert last.startswith(f"all {len(PROBE_NAMES)} probes passed in ")
    assert last.endswith(f"; seed {SEED}")
    tests = ET.parse(report).getroot().get("tests")  # noqa: S314 - our own file
    assert tests == str(len(PROBE_NAMES))


def test_cli_smoke_json_is_one_list(server: FakeServer) -> None:
    server.chat = lambda r: Answer(500, [b"no"]) if "video_url" in modalities(r) else good_chat(r)
    only = ("--only", "video-1", "text", "--only", "stream", "--max-tokens", 2, "--seed", SEED)
    done = cli("smoke", "--url", server.url, "--json", *only)
    assert done.returncode == 1
    assert done.stderr == f"seed {SEED}\n"
    results = json.loads(done.stdout)
    assert [result["probe"] for result in results] == ["text", "video-1", "stream"]
    assert [result["ok"] for result in results] == [True, False, True]
    keys = frozenset(("probe", "ok", "seconds", "detail", "verdict", "seed"))
    assert {frozenset(result) for result in results} == {keys}
    assert [result["verdict"] for result in results] == ["ok", "error", "ok"]
    assert [result["seed"] for result in results] == [None, SEED, None]
    assert "HTTP 500: no" in results[1]["detail"]


def test_cli_failed_smoke_names_the_probes(closed_url: str) -> None:
    done = cli("smoke", "--url", closed_url)
    assert done.returncode == 1
    count = len(PROBE_NAMES)
    assert done.stdout.count("FAIL") == count
    assert done.stdout.count("skipped: server unreachable") == count - 3
    assert done.stderr.splitlines()[1].startswith(f"{count} of {count} probes FAILED in ")


@pytest.mark.parametrize("command", ["live", "ready"])
def test_cli_exit_codes(server: FakeServer, closed_url: str, command: str) -> None:
    good = cli(command, env={"HEALTHCHECKS_URL": server.url})
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.startswith(f"ok    {command}")
    bad = cli(command, "--url", closed_url, "--json", "--timeout", 2)
    assert bad.returncode == 1
    (result,) = json.loads(bad.stdout)
    assert (result["probe"], result["ok"]) == (command, False)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("dead",),
        ("live", "--timeout", "0"),
        ("live", "--url", "nonsense"),
        ("live", "--api-key", KEY),
        ("live", "--time", "3"),
        ("ready", "--api-key-file", "/nonexistent/key"),
        ("smoke", "--only", "sound"),
        ("smoke", "--max-tokens", "0"),
        ("smoke", "--answer-tokens", "0"),
        ("stimuli", "--seed", "1"),
        ("stimuli", "--seed", "1", "--out", "/dev/null/folder"),
        ("smoke", "--junit", "/nonexistent/report.xml"),
        ("smoke", "--report", "/nonexistent/report.json"),
        ("smoke", "--report", "/"),
        ("smoke", "--wait", "-1"),
        ("smoke", "--wait", "nan"),
        ("smoke", "--wait", "soon"),
        ("ready", "--wait", "1"),
    ],
)
def test_cli_wrong_usage_exits_2(arguments: tuple[str, ...]) -> None:
    done = cli(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: python3 -m healthchecks" in done.stderr


def test_a_folder_of_reports_that_may_not_be_written_to_is_refused_before_any_probe(
    server: FakeServer,
) -> None:
    # /proc lets nobody make a file, root included.
    for option in ("--junit", "--report"):
        done = cli("smoke", "--url", server.url, option, "/proc/report")
        assert (done.returncode, done.stdout) == (2, "")
        assert f"cannot write /proc/report as user {os.geteuid()}: " in done.stderr
    assert server.paths == []


def test_one_run_gives_lines_and_both_reports(server: FakeServer, tmp_path: Path) -> None:
    xml, document = tmp_path / "smoke.xml", tmp_path / "smoke.json"
    document.write_text("of an earlier run")
    options = ("--only", "text", "image-1", "--seed", SEED, "--junit", xml, "--report", document)
    done = cli("smoke", "--url", server.url, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["text", "image-1"]
    rows = json.loads(document.read_text())
    assert [row["probe"] for row in rows] == ["text", "image-1"]
    cases = ET.parse(xml).getroot().iter("testcase")  # noqa: S314 - our own file
    assert [case.get("name") for case in cases] == ["text", "image-1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["smoke.json", "smoke.xml"]
    # The same document as on stdout, but for what differs from run to run.
    printed = json.loads(cli("smoke", "--url", server.url, *options[:5], "--json").stdout)
    assert [row | {"seconds": 0} for row in printed] == [row | {"seconds": 0} for row in rows]


def test_a_failed_run_writes_both_reports_too(closed_url: str, tmp_path: Path) -> None:
    xml, document = tmp_path / "smoke.xml", tmp_path / "smoke.json"
    done = cli("smoke", "--url", closed_url, "--junit", xml, "--report", document)
    assert done.returncode == 1
    assert not any(row["ok"] for row in json.loads(document.read_text()))
    assert ET.parse(xml).getroot().get("failures") == str(len(PROBE_NAMES))  # noqa: S314


# the environment


def test_every_option_of_a_ci_can_come_from_the_environment(server: FakeServer) -> None:
    server.models = answer(200, {"data": [{"id": "a"}, {"id": "b", "max_model_len": CONTEXT}]})
    env = {
        "HEALTHCHECKS_URL": server.url,
        "HEALTHCHECKS_MODEL": "b",
        "HEALTHCHECKS_TIMEOUT": "7.5",
        "HEALTHCHECKS_WAIT": "5",
        "HEALTHCHECKS_ONLY": "text, image-1",
        "HEALTHCHECKS_ANSWER_TOKENS": "33",
        "HEALTHCHECKS_SEED": SEED,
    }
    assert set(env) == {variable for variable, _ in environment.VARIABLES.values()}
    done = cli("smoke", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["text", "image-1"]
    assert done.stderr.startswith(f"seed {SEED}\n")
    waiting, _, image = server.requests
    assert waiting["max_tokens"] == 1
    assert {request["model"] for request in server.requests} == {"b"}
    assert image["max_tokens"] == 33
    help_text = cli("smoke", "--help").stdout
    assert all(variable in help_text for variable in env)


def test_the_command_line_goes_before_the_environment(server: FakeServer) -> None:
    env = {
        "HEALTHCHECKS_URL": "http://127.0.0.1:1",
        "HEALTHCHECKS_ONLY": "stream",
        "HEALTHCHECKS_WAIT": "nonsense",
        "HEALTHCHECKS_SEED": "other",
    }
    flags = ("--url", server.url, "--only", "text", "--wait", 0, "--seed", SEED)
    done = cli("smoke", *flags, env=env)
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["text"]
    assert done.stderr.startswith(f"seed {SEED}\n")


def test_an_empty_variable_is_not_set(server: FakeServer) -> None:
    empty = {variable: " " for variable, _ in environment.VARIABLES.values()}
    done = cli("ready", env=empty | {"HEALTHCHECKS_URL": server.url})
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("variable", "text", "reason"),
    [
        ("HEALTHCHECKS_TIMEOUT", "5m", "'5m' is no number of seconds"),
        ("HEALTHCHECKS_WAIT", "soon", "'soon' is no number of seconds"),
        ("HEALTHCHECKS_ONLY", "text,sound", "unknown probe: sound; known: text, "),
        ("HEALTHCHECKS_ANSWER_TOKENS", "0", "must be at least 1, not 0"),
        ("HEALTHCHECKS_ANSWER_TOKENS", "many", "'many' is no whole number"),
    ],
)
def test_a_bad_variable_is_named(variable: str, text: str, reason: str) -> None:
    done = cli("smoke", env={variable: text})
    assert (done.returncode, done.stdout) == (2, "")
    assert f"${variable}: {reason}" in done.stderr


# waiting


def test_a_run_waits_for_a_server_that_still_loads(tmp_path: Path) -> None:
    with FakeServer() as fake:
        port, url = fake.httpd.server_port, fake.url
    document = tmp_path / "smoke.json"
    command = [sys.executable, "-m", "healthchecks", "smoke", "--url", url, "--wait", "60",
               "--only", "text", "--report", str(document)]  # fmt: skip
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as waiting:
        assert waiting.stderr is not None
        assert waiting.stderr.readline().startswith("seed ")
        said = waiting.stderr.readline()
        with FakeServer(port=port):
            out, rest = waiting.communicate(timeout=60)
    assert said.startswith(f"waiting up to 60 s: cannot connect to {url}")
    assert waiting.returncode == 0, out + rest
    assert out.startswith("ok    text")
    assert [row["ok"] for row in json.loads(document.read_text())] == [True]


def test_a_server_that_does_not_become_ready_fails_every_probe_unasked(
    server: FakeServer, tmp_path: Path
) -> None:
    server.models = answer(503, {"error": "loading"})
    xml, document = tmp_path / "smoke.xml", tmp_path / "smoke.json"
    options = ("--url", server.url, "--wait", 2, "--only", "text", "stream")
    done = cli("smoke", *options, "--junit", xml, "--report", document)
    assert done.returncode == 1
    rows = json.loads(document.read_text())
    assert [row["probe"] for row in rows] == ["text", "stream"]
    assert rows[0]["detail"].startswith("skipped: the server is not ready: HTTP 503")
    assert rows[1]["detail"] == "skipped: the server is not ready"
    assert {(row["ok"], row["verdict"]) for row in rows} == {(False, "error")}
    assert ET.parse(xml).getroot().get("failures") == "2"  # noqa: S314 - our own file
    assert server.requests == []
    # The same reason is told once.
    assert done.stderr.count("waiting up to 2 s: HTTP 503") == 1


def test_a_refused_key_ends_the_wait(server: FakeServer) -> None:
    server.key = KEY
    began = time.monotonic()
    done = cli("smoke", "--url", server.url, "--wait", 300)
    assert time.monotonic() - began < 30
    assert done.returncode == 1
    assert "not ready: HTTP 401" in done.stdout
    assert "(no API key was sent)" in done.stdout
    assert server.paths == ["/v1/models"]


def test_a_server_that_hangs_is_asked_for_no_longer_than_the_wait(server: FakeServer) -> None:
    server.chat = server.hang
    began = time.monotonic()
    result = healthchecks.await_ready(target(server, timeout=60), 1.5)
    assert time.monotonic() - began < 10
    assert (result.ok, result.verdict) == (False, "timeout")


def test_cli_ignores_proxies_of_the_environment(server: FakeServer) -> None:
    with FakeServer() as proxy:
        names = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
        env = dict.fromkeys(names, proxy.url) | {"no_proxy": "", "NO_PROXY": ""}
        done = cli("ready", "--url", server.url, env=env)
    assert done.returncode == 0, done.stdout
    assert proxy.paths == []


def test_cli_survives_an_ascii_terminal_and_a_closed_pipe(server: FakeServer) -> None:
    server.health = Answer(500, ["内存不足".encode()])
    done = cli("live", "--url", server.url, env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 1
    assert "HTTP 500: \\u5185" in done.stdout
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as gone:
        piped = subprocess.run(
            [sys.executable, "-m", "healthchecks", "live", "--url", server.url],
            cwd=ROOT,
            stdout=gone,
            stderr=subprocess.PIPE,
            text=True,
            timeout=30,
            check=False,
        )
    assert (piped.returncode, piped.stderr) == (1, "")


def test_the_import_is_light() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import healthchecks; "
        "seconds = time.perf_counter() - start; assert 'httpx' not in sys.modules; print(seconds)"
    )
    times = [
        float(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT)) for _ in range(5)
    ]
    assert min(times) < 0.010
    with pytest.raises(AttributeError, match="nothing"):
        _ = healthchecks.nothing  # type: ignore[attr-defined]
