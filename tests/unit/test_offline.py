"""`appliance offline` on the launcher's side: what is refused, what is kept, and in which order."""

from __future__ import annotations

import base64
import http.server
import json
import os
import socket
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer

from appliance.catalog import load as catalog
from appliance.cli import offline as cli
from appliance.config.model import Config, Parallel, Server
from appliance.deployment import Deployment
from appliance.errors import ApplianceError
from appliance.inventory.model import Inventory
from appliance.jobs.process import Process
from appliance.lifecycle.progress import Progress
from appliance.offline import fetch, lines, parameters, results, run, session
from appliance.offline.flaw import Flaw
from appliance.offline.media import Place
from appliance.offline.request import Request, Rules, document, request
from appliance.offline.run import Summary, Wishes, perform
from appliance.plan.make import make
from tests.unit.test_cli import document as one_document
from tests.unit.test_cli import run as command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FAKE = Path(__file__).with_name("fake_engine.py")
BYTES = b"not really a picture"
BASE64 = base64.b64encode(BYTES).decode()


def rules(folder: Path, **changes: Any) -> Rules:
    given: dict[str, Any] = {
        "place": Place(folder, ("media.example",)),
        "model": "tiny-omni",
        "names": ("served", "tiny-omni"),
        "limits": {"image": 5, "audio": 3, "video": 2},
        "sampling": {"temperature": 0.6, "top_k": 20, "max_tokens": 16384},
    }
    return Rules(**{**given, **changes})


def line(custom_id: str, content: Any = "Hello", **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}]
    return {"custom_id": custom_id, "body": {"messages": messages, **body}}


def refused(found: Any, using: Rules) -> Flaw:
    with pytest.raises(Flaw) as caught:
        request(found, using)
    return caught.value


def code(content: Any, using: Rules, **body: Any) -> str:
    return refused(line("a", content, **body), using).code


# A line, and its parts


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"{", "is not JSON (column 2"),
        (b'"text"', "is not a JSON object"),
        (b"\xff\xfe", "is not text in UTF-8"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"custom_id": ' + b"9" * 5000 + b"}", "not JSON that can be read"),
        (b'{"custom_id": "a", "body": {"temperature": NaN}}', "NaN is not a number"),
        (b'{"custom_id": 7, "body": {}}', "no `custom_id`"),
        (b'{"custom_id": "", "body": {}}', "no `custom_id`"),
        (b'{"custom_id": "\\ud800", "body": {}}', "no `custom_id`"),
        (b'{"custom_id": "a"}', "no `body`"),
        (b'{"custom_id": "a", "body": []}', "no `body`"),
        (b'{"custom_id": "a", "method": "GET", "body": {}}', "`method` must be POST"),
        (b'{"custom_id": "a", "url": "/v1/embeddings", "body": {}}', "must be /v1/chat/compl"),
        (b'{"custom_id": "a", "boby": {}, "body": {}}', "`boby` is not a key of a line"),
        (b'{"custom_id": "a", "body": {"messages": [{"role": "user", "content": "\\udc00"}]}}',
         "is not Unicode"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_request_says_why(text: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(Flaw) as caught:
        request(document(text), rules(tmp_path))
    assert caught.value.code == "line_invalid"
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"max_token": 5}, "`max_token` is not a key of a request. Did you mean `max_tokens`?"),
        ({"temperature": "hot"}, "`temperature` must be a number, at least 0, but it is 'hot'"),
        ({"temperature": -1}, "at least 0"),
        ({"temperature": True}, "must be a number"),
        ({"top_p": 1.5}, "a number from 0 to 1"),
        ({"max_tokens": 0}, "a whole number, at least 1"),
        ({"max_tokens": 1.5}, "a whole number"),
        ({"n": 1000}, "from 1 to 128"),
        ({"seed": 2**70}, "`seed` must be"),
        ({"stop": [1]}, "`stop` must be a text or a list of texts"),
        ({"stop_token_ids": ["a"]}, "a list of int"),
        ({"ignore_eos": "yes"}, "true or false"),
        ({"response_format": "json"}, "an object"),
        ({"mm_processor_kwargs": {"use_audio_in_video": "yes"}}, "must be true or false"),
        ({"stream": True}, "`stream` is not for offline"),
        ({"tools": [{}]}, "`tools` is not for offline"),
        ({"logprobs": True}, "`logprobs` is not for offline"),
        ({"chat_template": "{{ x }}"}, "The model's own is used"),
        ({"messages": []}, "at least one message"),
        ({"messages": "Hello"}, "must be a list"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "needs a `role`"),
        ({"messages": [{"role": "user"}]}, "a text or a list"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "an object with a `type`"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "needs its `text`"),
        ({"messages": [{"role": "user", "content": [{"type": "smell"}]}]}, "is not known"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "needs a path"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "needs base64"),
    ],
)  # fmt: skip
def test_a_body_with_a_fault_says_which(body: dict[str, Any], words: str, tmp_path: Path) -> None:
    flaw = refused(line("a", **body), rules(tmp_path))
    assert flaw.code == "request_invalid"
    assert words in flaw.message


def test_another_model_is_not_found(tmp_path: Path) -> None:
    assert code("Hi", rules(tmp_path), model="other") == "model_not_found"
    assert request(line("a", model="served"), rules(tmp_path)).body.get("model") is None


def test_what_clients_write_out_without_meaning_it_is_no_fault(tmp_path: Path) -> None:
    body = {"stream": False, "tools": None, "tool_choice": "none", "logprobs": False, "stop": None,
            "user": "me", "metadata": {"a": 1}}  # fmt: skip
    assert set(request(line("a", **body), rules(tmp_path)).body) == {
        "messages", "temperature", "top_k", "max_tokens"
    }  # fmt: skip


def test_every_request_key_that_is_checked_is_known() -> None:
    assert {"messages", "model", "stop", "temperature", "max_tokens", "n"} <= parameters.KNOWN


def test_sampling_is_the_lines_own_then_the_runs_then_the_models(tmp_path: Path) -> None:
    made = request(line("a", temperature=0, min_p=0.1), rules(tmp_path))
    assert {name: made.body.get(name) for name in ("temperature", "top_k", "min_p")} == {
        "temperature": 0, "top_k": 20, "min_p": 0.1
    }  # fmt: skip
    made = request(line("a", max_completion_tokens=9), rules(tmp_path))
    assert "max_tokens" not in made.body


def test_the_catalog_has_the_guides_sampling() -> None:
    wanted = catalog.Sampling(temperature=0.6, top_p=0.95, top_k=20, max_tokens=16384)
    assert {model.sampling for model in catalog.models().values()} == {wanted}


# Media


def test_all_forms_of_media_are_read_alike(tmp_path: Path) -> None:
    (tmp_path / "a b.jpg").write_bytes(BYTES)
    data = f"data:image/jpeg;base64,{BASE64}"
    parts = [
        {"type": "image_url", "image_url": {"url": data, "detail": "high"}},
        {"type": "image_url", "image_url": "a b.jpg"},
        {"type": "image", "image": f"file://{tmp_path}/a%20b.jpg", "max_pixels": 784},
        {"type": "audio", "audio": str(tmp_path / "a b.jpg"), "audio_start": 0.5},
        {"type": "audio_url", "audio_url": {"url": data}},
        {"type": "input_audio", "input_audio": {"data": BASE64, "format": "wav"}},
        {"type": "video_url", "video_url": {"url": "a b.jpg"}},
        {"type": "video", "video": data, "fps": 1},
        {"type": "text", "text": "What?"},
    ]
    made = request(line("a", parts), rules(tmp_path))
    sent = json.loads(made.message(7, rules(tmp_path).place))
    assert sent["id"] == 7
    assert sent["media"] == [BASE64] * 8
    assert sent["body"]["messages"][0]["content"] == [
        {"type": "image", "image": 0},
        {"type": "image", "image": 1},
        {"type": "image", "image": 2, "max_pixels": 784},
        {"type": "audio", "audio": 3, "audio_start": 0.5},
        {"type": "audio", "audio": 4},
        {"type": "audio", "audio": 5},
        {"type": "video", "video": 6},
        {"type": "video", "video": 7, "fps": 1},
        {"type": "text", "text": "What?"},
    ]


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("absent.jpg", "media_missing", "No such file"),
        ("folder", "media_missing", "is not a file"),
        ("pipe", "media_missing", "is not a file"),
        ("/dev/zero", "media_missing", "is not a file"),
        ("circle", "media_missing", "Too many levels of symbolic links"),
        ("nul\0byte", "media_missing", "null byte"),
        ("x" * 5000, "media_missing", "File name too long"),
        ("huge", "media_too_large", "more than 256 MiB"),
        ("file://elsewhere/a.jpg", "media_invalid", "on another machine"),
        ("data:image/png;base64,@@@", "media_invalid", "can't be read"),
        ("data:image/png;base64,AAA", "media_invalid", "can't be read"),
        ("data:image/png;base64,", "media_invalid", "are empty"),
        ("data:image/png,raw", "media_invalid", "not in base64"),
        ("http://other.example/a.jpg", "media_not_allowed", "server.allowed_media_domains"),
        ("https://media.example.evil/a", "media_not_allowed", "server.allowed_media_domains"),
        ("http://media.example@evil/a", "media_invalid", "names no host, or hides it"),
        ("http://media.example\\@evil/a", "media_invalid", "names no host, or hides it"),
        ("http://[::1/a", "media_invalid", "is not one"),
        ("http://media.example:x/a", "media_invalid", "is not one"),
    ],
)
def test_media_that_can_not_be_are_refused(
    source: str, error: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    with (tmp_path / "huge").open("wb") as huge:
        huge.truncate(fetch.LARGEST_BYTES + 1)
    flaw = refused(line("a", [{"type": "image", "image": source}]), rules(tmp_path))
    assert (flaw.code, words in flaw.message) == (error, True), flaw.message


def test_a_file_that_went_away_since_is_a_fault_of_its_request(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(BYTES)
    made = request(line("a", [{"type": "image", "image": "a.jpg"}]), rules(tmp_path))
    path.unlink()
    with pytest.raises(Flaw, match="No such file"):
        made.message(1, rules(tmp_path).place)
    os.mkfifo(path)
    with pytest.raises(Flaw, match="is not a file"):
        made.message(1, rules(tmp_path).place)
    path.unlink()
    path.touch()
    with pytest.raises(Flaw, match="is empty"):
        made.message(1, rules(tmp_path).place)


def test_options_of_a_part_are_those_of_qwen_omni_utils(tmp_path: Path) -> None:
    data = f"data:video/mp4;base64,{BASE64}"
    wrong = [{"type": "image", "image": data, "fps": 2}]
    assert (
        "`fps` is not a key of a part of type image"
        in refused(line("a", wrong), rules(tmp_path)).message
    )
    # Nothing of another name reaches what would fetch it.
    hidden = [{"type": "video", "video": data, "image_url": "http://169.254.169.254/"}]
    assert code(hidden, rules(tmp_path)) == "request_invalid"
    assert code([{"type": "video", "video": data, "fps": "2"}], rules(tmp_path)) == (
        "request_invalid"
    )


def test_no_more_media_than_the_plan_has_for_one_request(tmp_path: Path) -> None:
    image = {"type": "image", "image": f"data:image/png;base64,{BASE64}"}
    request(line("a", [image] * 5), rules(tmp_path))
    assert code([image] * 6, rules(tmp_path)) == "too_many_media"
    request(line("a", [image] * 6), rules(tmp_path, limits={}))


def sounds(content: Any, using: Rules, **kwargs: Any) -> bool:
    return request(line("a", content, **kwargs), using).audio_in_video


def test_use_audio_in_video_pairs_videos_with_their_own_sound(tmp_path: Path) -> None:
    video = {"type": "video", "video": f"data:video/mp4;base64,{BASE64}"}
    audio = {"type": "audio", "audio": f"data:audio/wav;base64,{BASE64}"}
    on = {"mm_processor_kwargs": {"use_audio_in_video": True}}
    off = {"mm_processor_kwargs": {"use_audio_in_video": False}}
    plain, flag = rules(tmp_path), rules(tmp_path, use_audio_in_video=True)
    assert not sounds([video], plain)
    assert sounds([video], plain, **on)
    assert sounds([video], flag)
    assert not sounds([video], flag, **off)
    assert not sounds([audio], flag)
    assert code([video, audio], flag) == "audio_video_mismatch"
    assert code([video, video, audio], plain, **on) == "audio_video_mismatch"
    assert not sounds([video, audio], flag, **off)
    few = rules(tmp_path, limits={"video": 2, "audio": 1})
    assert code([video, video], few, **on) == "too_many_media"


# Media from the network


class Handler(http.server.BaseHTTPRequestHandler):
    """A server of media: /image, /moved, /absent, /huge, /slow."""

    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/image")
            self.end_headers()
            return
        self.send_response(404 if self.path == "/absent" else 200)
        self.end_headers()
        if self.path == "/slow":
            for _ in range(100):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)
        elif self.path == "/huge":
            for _ in range(100):
                self.wfile.write(b"x" * 1000)
        else:
            self.wfile.write(self.headers["Host"].encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port of this machine, taken for a public one."""
    monkeypatch.setattr(fetch, "_address", lambda _host, _port: "127.0.0.1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        found.daemon_threads = True
        found.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield int(found.server_address[1])
        found.shutdown()


def test_a_url_is_fetched_from_the_checked_address_under_its_own_name(server: int) -> None:
    url = f"http://media.example:{server}/image"
    assert fetch.fetch(url, ["media.example"]) == f"media.example:{server}".encode()


@pytest.mark.parametrize(
    ("path", "words"),
    [("moved", "HTTP 302; redirects are not followed"), ("absent", "HTTP 404"),
     ("huge", "more than"), ("slow", "not fetched within")],
)  # fmt: skip
def test_a_url_that_gives_no_medium_says_why(
    path: str, words: str, server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "LARGEST_BYTES", 5000)
    with pytest.raises(Flaw, match=words):
        fetch.fetch(f"http://media.example:{server}/{path}", ["media.example"], 0.5)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1",
     "224.0.0.1", "::1", "fe80::1%eth0", "fd00::1", "::ffff:127.0.0.1", "2002:7f00:1::"],
)  # fmt: skip
def test_nothing_is_fetched_from_an_address_that_is_not_public(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [(0, 0, 0, "", ("93.184.216.34", 80)), (0, 0, 0, "", (address, 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(Flaw, match="not a public address") as caught:
        fetch.fetch("http://media.example/a.jpg", ["media.example"])
    assert caught.value.code == "media_not_allowed"


def test_a_name_that_nobody_knows_is_a_fault_of_its_request() -> None:
    with pytest.raises(Flaw, match="can't be resolved"):
        fetch.fetch("http://media.invalid/a.jpg", ["media.invalid"])


# The key of an answer


def test_the_key_changes_with_all_that_an_answer_depends_on(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(BYTES)

    def key(using: Rules, *, text: str = "Hi", **body: Any) -> str:
        parts = [{"type": "image", "image": "a.jpg"}, {"type": "text", "text": text}]
        return request(line("a", parts, **body), using).key

    first = key(rules(tmp_path))
    assert first == key(rules(tmp_path))
    assert first == key(rules(tmp_path), temperature=0.6), "said or not, it is the same"
    others = {
        key(rules(tmp_path), text="Ho"),
        key(rules(tmp_path), temperature=0.7),
        key(rules(tmp_path, model="other")),
        key(rules(tmp_path, sampling={"temperature": 0.1})),
    }
    path.write_bytes(BYTES + b"!")
    assert len({first, *others, key(rules(tmp_path))}) == 6
    own = key(rules(tmp_path), temperature=1, top_k=1, max_tokens=1)
    assert own == key(
        rules(tmp_path, sampling={"temperature": 0}), temperature=1, top_k=1, max_tokens=1
    )


# The input


def entries_of(content: bytes, folder: Path) -> list[lines.Entry]:
    path = folder / "input.jsonl"
    path.write_bytes(content)
    with lines.open_input(path) as file:
        return lines.entries(file, rules(folder))


def test_blank_lines_say_nothing_and_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    first, second = (json.dumps(line(it)).encode() for it in "ab")
    found = entries_of(b"\xef\xbb\xbf" + first + b"\r\n\n   \n" + second, tmp_path)
    assert [(it.number, it.custom_id, it.flaw) for it in found] == [(1, "a", None), (4, "b", None)]


def test_a_second_line_of_the_same_id_is_a_fault(tmp_path: Path) -> None:
    text = "".join(json.dumps(line(it)) + "\n" for it in ("a", "b", "a")).encode()
    found = entries_of(text, tmp_path)
    assert [it.flaw.code if it.flaw else None for it in found] == [
        None,
        None,
        "duplicate_custom_id",
    ]
    assert found[2].key is None


def test_a_huge_line_is_a_fault_and_the_next_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "LARGEST_BYTES", 1000)
    long = [json.dumps(line("long", "x" * length)).encode() for length in (1001, 5000, 50_000)]
    found = entries_of(b"\n".join([*long, json.dumps(line("b")).encode()]), tmp_path)
    assert [(it.number, it.custom_id, it.flaw is None) for it in found] == [
        (1, None, False), (2, None, False), (3, None, False), (4, "b", True)
    ]  # fmt: skip


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_input_without_a_request_is_invalid(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ApplianceError, match="holds no request") as caught:
        entries_of(content, tmp_path)
    assert caught.value.id == "input-invalid"


# The results


def entry(number: int, custom_id: str, key: str | None = "k") -> lines.Entry:
    return lines.Entry(number, 0, 1, custom_id, key)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(it) for it in path.read_text(encoding="utf-8").splitlines()]


def test_answers_come_in_any_order_and_end_in_that_of_the_input(tmp_path: Path) -> None:
    kept = results.Results(tmp_path / "new" / "out.jsonl")
    asked = [entry(number, str(number)) for number in range(20)]
    with kept.writing():
        order = [it for it in asked if it.number != 7]
        order = order[1::2] + order[::2]
        for it in order:
            kept.add(results.answer(str(it.custom_id), "k", {"id": "x", "n": it.number, "é": "ö"}))
        assert len(read(kept.partial)) == 19
        kept.finish(asked, {7: Flaw("media_invalid", "no picture")})
    found = read(kept.path)
    assert [it["custom_id"] for it in found] == [str(number) for number in range(20)]
    assert found[7]["error"] == {"code": "media_invalid", "message": "no picture", "line": 7}
    assert found[7]["response"] is None
    assert found[8]["response"] == {
        "status_code": 200, "request_id": "x", "body": {"id": "x", "n": 8, "é": "ö"}
    }  # fmt: skip
    assert "ö" in kept.path.read_text(encoding="utf-8")
    assert not kept.partial.exists()
    again = results.Results(kept.path)
    with again.writing():
        assert again.has(asked[3])
        assert not again.has(entry(3, "3", "changed"))
        assert not again.has(asked[7])


@pytest.mark.parametrize("rest", [b'{"id": "batch_req_12', b"\0" * 100, b'{"id": "ba', b""])
@pytest.mark.parametrize("whole", [0, 2])
def test_half_a_line_of_a_crash_is_left_out(tmp_path: Path, rest: bytes, whole: int) -> None:
    kept = results.Results(tmp_path / "out.jsonl")
    with kept.writing():
        for number in range(whole):
            kept.add(results.answer(str(number), "k", {}))
    with kept.partial.open("ab") as file:
        file.write(rest)
    again = results.Results(tmp_path / "out.jsonl")
    with again.writing():
        assert list(again.kept) == [str(number) for number in range(whole)]
        again.add(results.answer("last", "k", {}))
        again.finish([*(entry(number, str(number)) for number in range(whole)),
                      entry(9, "last")], {})  # fmt: skip
    assert len(read(again.path)) == whole + 1


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.partial"])
@pytest.mark.parametrize(
    "content", [b"my thesis", b"my thesis\n", b"{}\n", b'{"custom_id": "a"}\n']
)
def test_a_file_of_something_else_stays_as_it_is(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    kept = results.Results(tmp_path / "out.jsonl")
    with pytest.raises(ApplianceError, match="left as it is") as caught, kept.writing():
        pytest.fail("it must not come to this")
    assert caught.value.id == "file-differs"
    assert path.read_bytes() == content
    with kept.writing(force=True):
        kept.finish([entry(1, "a")], {1: Flaw("a", "b")})
    assert len(read(kept.path)) == 1


def test_results_that_can_not_be_written_say_why(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "file").touch()
    for name in ("folder", "circle", "file/out", "/dev/null", "/"):
        with pytest.raises(ApplianceError) as caught, results.Results(tmp_path / name).writing():
            pytest.fail("it must not come to this")
        assert caught.value.id == "file-not-written", name


def test_a_full_disk_is_told_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = results.Results(tmp_path / "out.jsonl")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with kept.writing():
        kept.add(results.answer("a", "k", {}))
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(ApplianceError) as caught:
            kept.finish([entry(1, "a")], {})
    assert caught.value.id == "disk-full"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl.partial"]
    assert len(read(kept.partial)) == 1


def test_only_one_command_writes_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with results.Results(path).writing():
        with pytest.raises(ApplianceError) as caught, results.Results(path).writing():
            pytest.fail("it must not come to this")
        assert caught.value.id == "busy"


# The window


def test_no_more_is_sent_than_may_be_held() -> None:
    window = session.Window(requests=2, size=100)
    assert window.empty
    assert window.enter(1, 500), "one is let in, however large"
    entered = threading.Event()

    def enter() -> None:
        if window.enter(2, 1):
            entered.set()

    threading.Thread(target=enter, daemon=True).start()
    assert not entered.wait(0.1)
    window.leave(1)
    assert entered.wait(5)
    assert window.enter(3, 1)
    refusals: list[bool] = []
    waiting = threading.Thread(target=lambda: refusals.append(window.enter(4, 1)))
    waiting.start()
    window.close()
    waiting.join(5)
    assert refusals == [False]


# Whole runs, with a stand-in for the container


@pytest.fixture
def fake(clean: Path, monkeypatch: pytest.MonkeyPatch) -> list[Process]:
    """Every engine that is started; nothing is asked of Docker."""
    started: list[Process] = []

    @contextmanager
    def start(_job: object, on_line: Callable[[str], None], *, claims: bool) -> Iterator[Process]:
        assert claims
        process = Process([sys.executable, str(FAKE)], on_line)
        started.append(process)
        try:
            yield process
        finally:
            process.signal(9)
            process.wait()
            process.close()

    def allot(config: Config, *_: object) -> Deployment:
        assert config.name.endswith("-offline")
        assert config.parallel.data_parallel_size == 1
        inventory = Inventory("none")
        return Deployment(config, inventory, make(config, inventory, "/opt/models"))

    monkeypatch.setattr("appliance.jobs.process.started", start)
    monkeypatch.setattr(run, "allot", allot)
    monkeypatch.setattr(run.Run, "_supply", lambda *_: None)
    monkeypatch.setattr("appliance.lifecycle.state.SHARED_LOCKS", clean / "locks")
    return started


def offline(
    content: list[Any], *, config: Config | None = None, stall: float = 600, **sampling: Any
) -> Summary:
    """Run an input in the current folder."""
    text = "".join((it if isinstance(it, str) else json.dumps(it)) + "\n" for it in content)
    Path("in.jsonl").write_text(text, encoding="utf-8")
    force = bool(sampling.pop("force", False))
    wishes = Wishes(
        Path("in.jsonl"), Path("out.jsonl"), Path(), sampling, force=force, stall_seconds=stall
    )
    return perform(config or Config(), wishes, Progress(quiet=True))


def test_a_run_answers_each_request_in_its_place(fake: list[Process]) -> None:
    content = [line("a"), "{", line("b", "bad"), line("c"), line("a"), line("d")]
    summary = offline(content)
    found = read(Path("out.jsonl"))
    assert [it["custom_id"] for it in found] == ["a", None, "b", "c", "a", "d"]
    assert [it["error"] and it["error"]["code"] for it in found] == [
        None, "line_invalid", "media_invalid", None, "duplicate_custom_id", None
    ]  # fmt: skip
    assert (summary.total, summary.done, summary.kept, summary.failed) == (6, 3, 0, 3)
    assert summary.output_tokens == 15
    assert summary.as_dict()["errors"] == {
        "line_invalid": 1, "media_invalid": 1, "duplicate_custom_id": 1
    }  # fmt: skip
    asked = found[0]["response"]["body"]["asked"]
    assert (asked["temperature"], asked["top_p"], asked["max_tokens"]) == (0.6, 0.95, 16384)
    assert not Path("out.jsonl.partial").exists()
    assert len(fake) == 1


def test_a_second_run_does_only_what_is_left(fake: list[Process]) -> None:
    offline([line("a"), line("b", "bad"), line("c"), line("d")])
    before = read(Path("out.jsonl"))
    summary = offline([line("d"), line("b", "mended"), line("c", "edited"), line("a"), line("e")])
    after = read(Path("out.jsonl"))
    assert (summary.done, summary.kept, summary.failed) == (3, 2, 0)
    assert [it["custom_id"] for it in after] == ["d", "b", "c", "a", "e"]
    assert (after[0], after[3]) == (before[3], before[0]), "not done again"
    assert after[2]["response"]["body"]["choices"][0]["message"]["content"].startswith("edited")
    assert len(fake) == 2


def test_with_nothing_left_to_do_no_engine_is_started(fake: list[Process]) -> None:
    offline([line("a")])
    first = Path("out.jsonl").read_bytes()
    summary = offline([line("a")])
    assert (summary.done, summary.kept) == (0, 1)
    assert Path("out.jsonl").read_bytes() == first
    Path("out.jsonl").unlink()
    assert offline(["{", "[]"]).failed == 2
    assert len(fake) == 1


def test_other_sampling_asks_again_where_it_counts(fake: list[Process]) -> None:
    content = [line("a"), line("b", temperature=0)]
    offline(content)
    summary = offline(content, temperature=0.1)
    assert (summary.done, summary.kept) == (1, 1)
    assert len(fake) == 2


def test_answers_to_other_requests_are_not_lost(fake: list[Process]) -> None:
    offline([line("a"), line("b")])
    before = Path("out.jsonl").read_bytes()
    with pytest.raises(ApplianceError, match="1 answers to requests that are not in") as caught:
        offline([line("a"), line("c")])
    assert caught.value.id == "file-differs"
    assert Path("out.jsonl").read_bytes() == before
    assert offline([line("a"), line("c")], force=True).done == 2
    with pytest.raises(ApplianceError, match="the device is lost"):
        offline([line("a"), line("c"), line("d"), line("e"), line("f", "die")])
    with pytest.raises(ApplianceError, match="partial has 2 answers to requests that are not in"):
        offline([line("a"), line("c")])
    assert len(fake) == 3


def test_an_engine_that_dies_leaves_what_was_done(fake: list[Process]) -> None:
    content = [line("a"), line("b"), line("c", "die"), line("d")]
    with pytest.raises(ApplianceError) as caught:
        offline(content)
    assert caught.value.id == "job-failed"
    assert "the device is lost" in caught.value.message
    assert not Path("out.jsonl").exists()
    assert {it["custom_id"] for it in read(Path("out.jsonl.partial"))} == {"a", "b"}
    summary = offline([*content[:2], line("c"), content[3]])
    assert (summary.done, summary.kept) == (2, 2)
    assert not fake[0].running


def test_an_engine_that_hangs_is_given_up(fake: list[Process]) -> None:
    with pytest.raises(ApplianceError, match="made no step for 1 s") as caught:
        offline([line("a"), line("b"), line("c", "hang")], stall=1)
    assert caught.value.id == "job-failed"
    assert len(read(Path("out.jsonl.partial"))) == 2
    assert not fake[0].running


def test_media_that_vanish_while_it_runs_are_a_fault_of_their_request(
    fake: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("a.jpg").write_bytes(BYTES)
    real = Request.message

    def vanish(self: Request, number: int, place: Place) -> str:
        Path("a.jpg").unlink(missing_ok=True)
        return real(self, number, place)

    monkeypatch.setattr(Request, "message", vanish)
    summary = offline([line("a", [{"type": "image", "image": "a.jpg"}]), line("b")])
    assert (summary.done, summary.errors) == (1, {"media_missing": 1})
    assert len(fake) == 1


def test_a_thousand_requests_go_through_the_window(fake: list[Process]) -> None:
    summary = offline([line(str(number)) for number in range(1500)])
    assert (summary.done, summary.failed) == (1500, 0)
    assert [it["custom_id"] for it in read(Path("out.jsonl"))] == [str(it) for it in range(1500)]
    assert len(fake) == 1


def test_one_replica_and_the_operators_own_limits(fake: list[Process]) -> None:
    config = Config(
        parallel=Parallel(data_parallel_size=2),
        server=Server(limit_mm_per_prompt={"image": 1}, allowed_media_domains=["media.example"]),
    )
    image = {"type": "image", "image": f"data:image/png;base64,{BASE64}"}
    summary = offline([line("a", [image, image]), line("b", [image])], config=config)
    assert (summary.done, summary.errors) == (1, {"too_many_media": 1})
    assert len(fake) == 1


# The command line


def test_a_prompt_is_answered_on_stdout(
    fake: list[Process], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("a.jpg").write_bytes(BYTES)
    monkeypatch.setattr("appliance.cli.offline.stop_on_signals", lambda: None)
    cli.offline(prompt=["What", "is", "it?"], image=["a.jpg"], max_tokens=7)
    shown = capsys.readouterr()
    assert shown.out == f"What is it? [{len(BASE64)}]\n"
    assert "1 of 1 done" in shown.err
    cli.offline(text="-1?", video=[f"data:;base64,{BASE64}"], use_audio_in_video=True, as_json=True)
    body = one_document(capsys.readouterr().out)["response"]["body"]
    assert body["sound"]
    assert body["asked"]["messages"] == [
        {
            "role": "user",
            "content": [{"type": "video", "video": 0}, {"type": "text", "text": "-1?"}],
        }
    ]
    assert len(fake) == 2
    assert sorted(path.name for path in Path().iterdir()) == ["a.jpg"]


def test_a_prompt_that_can_not_be_answered_says_why(
    fake: list[Process], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.cli.offline.stop_on_signals", lambda: None)
    for as_json in (False, True):
        with pytest.raises(typer.Exit) as caught:
            cli.offline(prompt=["What?"], image=["absent.jpg"], as_json=as_json)
        assert caught.value.exit_code == 97
        shown = capsys.readouterr()
        assert "error [partly-failed] absent.jpg can't be read: No such file" in shown.err
        assert not as_json or one_document(shown.out)["error"]["code"] == "media_missing"
    assert fake == []


def test_an_input_ends_with_its_counts(
    fake: list[Process], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.cli.offline.stop_on_signals", lambda: None)
    folder = Path("elsewhere")
    folder.mkdir()
    (folder / "a.jpg").write_bytes(BYTES)
    image = [{"type": "image", "image": "a.jpg"}, {"type": "text", "text": "?"}]
    text = "".join(json.dumps(it) + "\n" for it in (line("a", image), line("b", "bad")))
    (folder / "in.jsonl").write_text(text)
    with pytest.raises(typer.Exit) as caught:
        cli.offline(input_file=folder / "in.jsonl", as_json=True)
    assert caught.value.exit_code == 97
    shown = capsys.readouterr()
    summary = one_document(shown.out)
    assert summary["output"] == str((folder / "in.results.jsonl").resolve())
    assert (summary["total"], summary["done"], summary["failed"]) == (2, 1, 1)
    assert "1 of 2 requests have no answer (1 media_invalid)" in shown.err
    (folder / "in.jsonl").write_text(text.replace("bad", "good"))
    cli.offline(input_file=folder / "in.jsonl", output=folder / "in.results.jsonl")
    assert "2 requests, 1 done now, 1 before, 0 failed." in capsys.readouterr().out
    assert len(fake) == 2


@pytest.mark.parametrize(
    "words",
    [(), ("Hello", "--input", "in.jsonl"), ("--input", "-"), ("--image", "a.jpg", "--input", "x")],
)
def test_either_a_prompt_or_an_input(clean: Path, words: tuple[str, ...]) -> None:
    done = command(clean, "offline", *words, "--json")
    assert done.returncode == 2
    assert one_document(done.stdout)["error"]["id"] == "usage"


@pytest.mark.parametrize("name", ["absent.jsonl", "."])
def test_an_input_that_is_not_there_is_told_before_anything_else(clean: Path, name: str) -> None:
    done = command(clean, "offline", "--input", name, "--json")
    assert done.returncode == 96
    assert one_document(done.stdout)["error"]["id"] == "input-invalid"
