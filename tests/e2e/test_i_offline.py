"""`appliance offline` on the real engine: what it answers, what it refuses, and that it goes on.

Loading costs a minute, so one input is run three times over: interrupted, killed, and to its end.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import LONG, ROOT, Cli, docker, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "e2e-alone"
CONTAINER = f"{NAME}-offline"
MEDIA = ROOT / "healthchecks" / "media"
MODEL = ROOT / "models" / "tiny-omni"
WHAT = {"type": "text", "text": "What can you see and hear? Answer in one sentence."}
IMAGE = {"type": "image", "image": "image.jpg"}
AUDIO = {"type": "audio", "audio": "audio.wav"}
VIDEO = {"type": "video", "video": "video.mp4"}
TOKENS = 12
# Requests whose answers are compared with those of the guide's script: content, and whether the
# sound of the videos counts.
GUIDE: dict[str, tuple[list[dict[str, str]], bool]] = {
    "text": ([WHAT], False),
    "image": ([IMAGE, WHAT], False),
    "audio": ([AUDIO, WHAT], False),
    "video": ([VIDEO, WHAT], False),
    "all": ([IMAGE, AUDIO, VIDEO, WHAT], False),
    "heard": ([VIDEO, WHAT], True),
}
# Which lines can't be answered, and why; the first of them are seen without an engine.
BAD = {
    "not json": "line_invalid",
    "misspelt": "request_invalid",
    "absent": "media_missing",
    "six images": "too_many_media",
    "video and audio": "audio_video_mismatch",
    "twice": "duplicate_custom_id",
    "silent": "audio_video_mismatch",
    "no picture": "media_invalid",
    "cut short": "media_invalid",
    "too long": "request_invalid",
    "too long with image": "request_invalid",
}
LONG_ANSWERS = 40


def line(custom_id: str, content: Any, **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}]
    full = {"messages": messages, "temperature": 0, "max_tokens": TOKENS, **body}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": full}


def sound(*, used: bool) -> dict[str, Any]:
    return {"mm_processor_kwargs": {"use_audio_in_video": used}}


def data_url(part: dict[str, str], folder: Path) -> dict[str, Any]:
    """The same part as OpenAI has it, its bytes in it."""
    kind = part["type"]
    data = base64.b64encode((folder / part[kind]).read_bytes()).decode()
    return {"type": f"{kind}_url", f"{kind}_url": {"url": f"data:{kind}/any;base64,{data}"}}


def requests(folder: Path) -> list[str]:
    """The lines of the input: the guide's requests, bad ones among them, then long ones."""
    good = [line(name, parts, **sound(used=used)) for name, (parts, used) in GUIDE.items()]
    image = data_url(IMAGE, folder)
    bad = [
        line("misspelt", "x", max_token=5),
        line("absent", [{"type": "image", "image": "absent.jpg"}, WHAT]),
        line("six images", [IMAGE] * 6),
        line("video and audio", [VIDEO, AUDIO, WHAT], **sound(used=True)),
        line("silent", [{"type": "video", "video": "silent.mp4"}, WHAT], **sound(used=True)),
        line("no picture", [{"type": "image", "image": "audio.wav"}, WHAT]),
        line("cut short", [{"type": "video", "video": "cut.mp4"}, WHAT]),
        line("too long", "x " * 40_000),
        line("too long with image", [image, {"type": "text", "text": "x " * 40_000}]),
    ]
    # The same image again, which the engine was never given with the request that was refused.
    after = [line("twice", [image, WHAT]), line("twice", "again"),
             line("two", "Two", n=2, temperature=1, seed=1)]  # fmt: skip
    long = [
        line(f"long-{number}", f"Count to {number}.", max_tokens=400, ignore_eos=True)
        for number in range(LONG_ANSWERS)
    ]
    mixed = [it for pair in zip(good, bad, strict=False) for it in pair]
    mixed += bad[len(good) :]
    texts = [json.dumps(it) for it in (*mixed, *after, *long)]
    return [*texts[:3], "{not json", *texts[3:]]


@dataclass(frozen=True)
class Ran:
    """An input that was run three times: what each left, and what the last one said."""

    folder: Path
    input: list[dict[str, Any] | None]
    interrupted: subprocess.CompletedProcess[str]
    after_interrupt: list[dict[str, Any]]
    seconds_to_end: float
    after_kill: list[dict[str, Any]]
    done: subprocess.CompletedProcess[str]

    @property
    def results(self) -> list[dict[str, Any]]:
        return read(self.folder / "in.results.jsonl")

    def result(self, custom_id: str) -> dict[str, Any]:
        return next(it for it in self.results if it["custom_id"] == custom_id)


def read(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of results."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(it) for it in text.splitlines(keepends=True) if it.endswith("\n")]


def containers() -> str:
    return docker("ps", "--all", "--filter", f"name={CONTAINER}", "--format", "{{.Names}}")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """The launcher, for jobs alone: nothing of this name serves.

    One request at a time makes the engine's sums the same as in the guide's script.
    """
    settings = {"name": NAME, "platform": "cpu", "server.max_num_seqs": "1"}
    yield Cli(tmp_path_factory.mktemp("state"), settings)
    docker("rm", "--force", CONTAINER, check=False)
    docker("volume", "rm", "--force", f"{NAME}-cache", f"{CONTAINER}-cache", check=False)


@pytest.fixture(scope="module")
def folder(alone: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Media, and the input beside them."""
    found = tmp_path_factory.mktemp("offline")
    for path in MEDIA.iterdir():
        shutil.copy(path, found)
    (found / "cut.mp4").write_bytes((found / "video.mp4").read_bytes()[:3000])
    alone.run("build")
    image = alone.json("plan")["image"]
    words = [
        "ffmpeg",
        "-v",
        "error",
        "-i",
        "/media/video.mp4",
        "-an",
        "-c",
        "copy",
        "/out/silent.mp4",
    ]
    docker("run", "--rm", "-v", f"{found}:/out", "-v", f"{MEDIA}:/media:ro", image, *words)
    (found / "in.jsonl").write_text("\n".join(requests(found)) + "\n", encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def ran(alone: Cli, folder: Path) -> Ran:
    words = ("offline", "--input", str(folder / "in.jsonl"))
    partial = folder / "in.results.jsonl.partial"
    with alone.start(*words) as first:
        wait_until(
            "some answers", LONG, lambda: len(read(partial)) >= 10 or first.poll() is not None
        )
        os.killpg(first.pid, signal.SIGINT)
        out, err = first.communicate(timeout=120)
    interrupted = subprocess.CompletedProcess("offline", first.returncode, out, err)
    kept = read(partial)
    assert not containers(), "Ctrl-C leaves no container"

    with alone.start(*words) as second:
        wait_until(
            "more answers", LONG, lambda: len(read(partial)) >= len(kept) + 3 or second.poll()
        )
        second.kill()
        began = time.monotonic()
        wait_until("the container is gone", 60, lambda: not containers())
        seconds = time.monotonic() - began
        second.communicate(timeout=60)
    after_kill = read(partial)
    with partial.open("ab") as file:
        file.write(b'{"id": "batch_req_half a li')  # As a machine that goes down leaves it.
    done = alone.run(*words, "--json")
    lines = (folder / "in.jsonl").read_text(encoding="utf-8").splitlines()
    asked = [json.loads(it) if it.endswith("}") else None for it in lines]
    return Ran(folder, asked, interrupted, kept, seconds, after_kill, done)


def test_ctrl_c_says_that_the_next_run_goes_on(ran: Ran) -> None:
    assert ran.interrupted.returncode == 130, ran.interrupted.stderr
    assert "the same command goes on from there" in ran.interrupted.stderr
    assert "Traceback" not in ran.interrupted.stderr
    assert len(ran.after_interrupt) >= 10


def test_a_killed_launcher_takes_its_container_with_it(ran: Ran) -> None:
    assert ran.seconds_to_end < 30
    assert len(ran.after_kill) >= len(ran.after_interrupt) + 3
    assert len(ran.after_kill) < len(GUIDE) + 2 + LONG_ANSWERS, "it was killed in the middle"


def test_results_are_one_a_request_in_the_order_of_the_input(ran: Ran) -> None:
    asked = [it["custom_id"] if it else None for it in ran.input]
    assert [it["custom_id"] for it in ran.results] == asked
    assert not (ran.folder / "in.results.jsonl.partial").exists()


def test_nothing_was_done_twice(ran: Ran) -> None:
    final = {it["id"] for it in ran.results}
    for before in (ran.after_interrupt, ran.after_kill):
        assert {it["id"] for it in before} <= final
    summary = json.loads(ran.done.stdout)
    assert summary["kept"] == len(ran.after_kill)
    assert summary["done"] == len(GUIDE) + 2 + LONG_ANSWERS - len(ran.after_kill)


def test_bad_requests_end_nothing_but_themselves(ran: Ran) -> None:
    assert ran.done.returncode == 97, ran.done.stderr
    found = {}
    for asked, result in zip(ran.input, ran.results, strict=True):
        if result["error"]:
            assert result["response"] is None
            name = asked["custom_id"] if asked else "not json"
            found[name] = result["error"]["code"]
    assert found == BAD
    summary = json.loads(ran.done.stdout)
    assert (summary["failed"], summary["total"]) == (len(BAD), len(ran.input))
    assert sum(summary["errors"].values()) == len(BAD)


def test_an_error_says_what_is_wrong(ran: Ran) -> None:
    assert "no sound track" in ran.result("silent")["error"]["message"]
    assert "can't be decoded" in ran.result("no picture")["error"]["message"]
    assert "maximum model length" in ran.result("too long with image")["error"]["message"]


def test_answers_have_the_servers_form(ran: Ran) -> None:
    import openai

    for result in ran.results:
        if result["error"] is None:
            assert result["response"]["status_code"] == 200
            answer = openai.types.chat.ChatCompletion.model_validate(result["response"]["body"])
            assert answer.model == "tiny-omni"
            assert {it.finish_reason for it in answer.choices} <= {"stop", "length"}
    assert len(ran.result("two")["response"]["body"]["choices"]) == 2
    assert ran.result("long-1")["response"]["body"]["usage"]["completion_tokens"] == 400


@pytest.fixture(scope="module")
def guide(ran: Ran, alone: Cli) -> dict[str, Any]:
    """What the guide's script makes of the same requests."""

    def inside(part: dict[str, str]) -> dict[str, str]:
        kind = part["type"]
        return part if kind == "text" else {**part, kind: f"/media/{part[kind]}"}

    asked = {
        name: {
            "messages": [{"role": "user", "content": [inside(it) for it in parts]}],
            "sound": used,
            "max_tokens": TOKENS,
        }
        for name, (parts, used) in GUIDE.items()
    }
    plan = alone.json("plan")
    variables = [f"--env={key}={value}" for key, value in plan["environment"].items()]
    script = Path(__file__).with_name("guide_offline.py")
    printed = docker(
        "run", "--rm", "--interactive", *variables, f"--volume={MEDIA}:/media:ro",
        f"--volume={MODEL}:/model:ro", f"--volume={script}:/guide.py:ro", plan["image"],
        "python3", "/guide.py", "/model", text=json.dumps(asked),
    )  # fmt: skip
    assert len(ran.results) == len(ran.input)
    (found,) = [it for it in printed.splitlines() if it.startswith("RESULT ")]
    result: dict[str, Any] = json.loads(found.removeprefix("RESULT "))
    return result


@pytest.mark.parametrize("name", GUIDE)
def test_answers_are_those_of_the_guides_script(name: str, ran: Ran, guide: dict[str, Any]) -> None:
    body = ran.result(name)["response"]["body"]
    message = body["choices"][0]["message"]
    thought, _, said = guide[name]["text"].partition("</think>")
    assert (message["reasoning"], message["content"] or "") == (thought, said)
    assert body["usage"]["prompt_tokens"] == guide[name]["prompt_tokens"]
    assert body["usage"]["completion_tokens"] == guide[name]["tokens"]


def test_what_needs_no_engine_starts_none(alone: Cli, folder: Path) -> None:
    path = folder / "bad.jsonl"
    path.write_text('{"custom_id": "a"}\n[1]\n', encoding="utf-8")
    began = time.monotonic()
    done = alone.run("offline", "--input", str(path), "--json")
    assert done.returncode == 97
    assert json.loads(done.stdout)["errors"] == {"line_invalid": 2}
    assert "[load]" not in done.stderr
    assert time.monotonic() - began < 20


def test_a_video_without_sound_is_told_before_the_model_is_loaded(alone: Cli, folder: Path) -> None:
    silent = str(folder / "silent.mp4")
    done = alone.run("offline", "--video", silent, "--use-audio-in-video", "What is it?")
    assert done.returncode == 97, done.stderr
    assert done.stdout == ""
    assert "no sound track" in done.stderr
    assert "the engine is ready" not in done.stderr
    assert not containers()


def test_the_image_alone_answers_a_prompt(alone: Cli) -> None:
    """`docker run IMAGE appliance offline …`: the engine runs right there."""
    image = alone.json("plan")["image"]
    done = subprocess.run(
        ["docker", "run", "--rm", "--cap-drop=ALL", "--security-opt=no-new-privileges",
         f"--volume={MODEL}:/models/tiny-omni:ro", f"--volume={MEDIA}:/media:ro", image,
         "appliance", "offline", "--set=platform=cpu", "--json", "--temperature=0",
         f"--max-tokens={TOKENS}", "--image=/media/image.jpg", WHAT["text"]],
        capture_output=True, text=True, check=False, timeout=LONG,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    usage = json.loads(done.stdout)["response"]["body"]["usage"]
    assert usage["completion_tokens"] == TOKENS
    without = docker("run", "--rm", image, "appliance", "offline", "--set=platform=cpu", "Hello",
                     check=False)  # fmt: skip
    assert "error [weights-missing]" in without
    assert "docker run -v MODEL_DIR:/models/tiny-omni:ro" in without
