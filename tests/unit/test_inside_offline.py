"""The container's side of `appliance offline`, with a stand-in for vLLM's engine."""

from __future__ import annotations

import queue
import subprocess
import sys
import textwrap
import types
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from appliance.inside import offline, prepare
from appliance.inside.offline import Engine
from appliance.inside.prepare import Flaw, Prepared

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class Dead(Exception):  # noqa: N818 (named as vLLM's)
    """As vLLM's EngineDeadError."""


@dataclass
class Choice:
    text: str
    index: int = 0
    finish_reason: str = "stop"
    stop_reason: str | None = None
    token_ids: tuple[int, ...] = (1, 2)


@dataclass
class Output:
    request_id: str
    outputs: list[Choice]
    finished: bool = True
    prompt_token_ids: tuple[int, ...] = (1, 2, 3)


@dataclass
class Request:
    include_reasoning: bool = True
    chat_template_kwargs: dict[str, Any] | None = None


@dataclass
class Llm:
    """Ends each request one step after it was added."""

    most: int = 2
    added: list[str] = field(default_factory=list)
    at_once: list[int] = field(default_factory=list)
    resets: int = 0
    shut: bool = False
    waiting: list[Output] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.llm_engine = self
        self.engine_core = self
        scheduler = types.SimpleNamespace(max_num_seqs=self.most)
        self.vllm_config = types.SimpleNamespace(scheduler_config=scheduler)

    def get_tokenizer(self) -> None:
        return None

    def add_request(self, number: str, inputs: dict[str, Any], _: object) -> None:
        if inputs["prompt"] == "too long":
            raise ValueError("longer  than\nthe model")
        if inputs["prompt"] == "dead":
            raise Dead
        self.added.append(number)
        reason = "error" if inputs["prompt"] == "broken" else "stop"
        self.waiting.append(Output(f"{number}-x1", [Choice("so</think>yes", 0, reason)]))

    def step(self) -> list[Output]:
        self.at_once.append(len(self.waiting))
        done, self.waiting = self.waiting[:1], self.waiting[1:]
        return [Output("0", [], finished=False), *done]

    def reset_mm_cache(self) -> None:
        self.resets += 1

    def shutdown(self) -> None:
        self.shut = True


class Parser:
    def __init__(self, _: object) -> None:
        pass

    def extract_reasoning(self, text: str, _: object) -> tuple[str, str]:
        reasoning, _, content = text.partition("</think>")
        return reasoning, content


class Answer(dict[str, Any]):
    def model_dump(self, mode: str) -> dict[str, Any]:
        assert mode == "json"
        return dict(self)


class Channel:
    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []

    def say(self, event: str, **fields: Any) -> None:
        if event != "alive":
            self.said.append({"event": event, **fields})


@pytest.fixture
def llm(monkeypatch: pytest.MonkeyPatch) -> Llm:
    found = Llm()
    manager = types.SimpleNamespace(get_reasoning_parser=lambda _: Parser)
    modules: dict[str, dict[str, Any]] = {
        "vllm": {"LLM": lambda **_: found},
        "vllm.v1.engine.exceptions": {"EngineDeadError": Dead},
        "vllm.entrypoints.openai.run_batch": {"ChatCompletionResponse": Answer},
        "vllm.reasoning": {"ReasoningParserManager": manager},
        "vllm.distributed.parallel_state": {
            "destroy_distributed_environment": lambda: None,
            "destroy_model_parallel": lambda: None,
        },
        "vllm.platforms": {"current_platform": types.SimpleNamespace(device_type="cpu")},
    }
    for name, content in modules.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    return found


def prepared(number: int, prompt: str = "Hi", size: int = 0) -> Prepared:
    return Prepared(number, Request(), None, {"prompt": prompt}, size)


def engine(items: Iterable[Any], parser: str = "") -> tuple[Engine, Channel]:
    """An engine with all of this prepared, and the end of it."""
    ready: queue.Queue[Any] = queue.Queue()
    for item in (*items, None):
        ready.put(item)
    args = types.SimpleNamespace(reasoning_parser=parser)
    channel = Channel()
    preparer: Any = types.SimpleNamespace(prepared=ready, engine_args=args)
    told: Any = channel
    return Engine(preparer, told, "tiny"), channel


def test_requests_go_in_as_others_end_and_come_out_as_the_server_has_them(llm: Llm) -> None:
    made, channel = engine([prepared(number) for number in range(5)], "some")
    made.run()
    assert llm.added == ["0", "1", "2", "3", "4"]
    assert max(llm.at_once) == llm.most
    assert [it["event"] for it in channel.said] == ["loading", "ready", *["result"] * 5]
    body = channel.said[2]["body"]
    assert body["choices"][0]["message"] == {
        "role": "assistant", "reasoning": "so", "content": "yes"
    }  # fmt: skip
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    made.close()
    assert llm.shut


def test_without_a_request_that_can_be_run_no_engine_is_loaded(llm: Llm) -> None:
    made, channel = engine([(1, Flaw("media_invalid", "no picture"))])
    made.run()
    made.close()
    assert channel.said == [
        {"event": "flaw", "id": 1, "code": "media_invalid", "message": "no picture"}
    ]
    assert not llm.shut


def test_a_request_that_the_engine_refuses_is_told_alone(llm: Llm) -> None:
    items = [prepared(1, "too long"), prepared(2), prepared(3, "broken"), prepared(4)]
    made, channel = engine(items)
    made.run()
    flaws = {it["id"]: (it["code"], it["message"]) for it in channel.said if it["event"] == "flaw"}
    assert flaws == {
        1: ("request_invalid", "longer than the model"),
        3: ("engine_error", "The engine could not run it; see its log."),
    }
    assert [it["id"] for it in channel.said if it["event"] == "result"] == [2, 4]
    assert llm.resets == 0, "it had no media"


def test_media_of_a_refused_request_are_forgotten_on_both_sides(llm: Llm) -> None:
    made, _ = engine([prepared(1, "too long", size=10), prepared(2)])
    made.run()
    assert llm.resets == 1


def test_large_media_go_in_one_by_one(llm: Llm) -> None:
    made, _ = engine([prepared(number, size=offline.ENGINE_BYTES) for number in range(3)])
    made.run()
    assert max(llm.at_once) == 1


@pytest.mark.parametrize("item", [prepared(1, "dead"), RuntimeError("no memory")])
def test_what_ends_the_engine_ends_the_run(llm: Llm, item: Any) -> None:
    made, _ = engine([item, prepared(2)])
    with pytest.raises((Dead, RuntimeError)):
        made.run()
    assert llm.added == []


def test_messages_are_given_the_files_of_their_media(tmp_path: Path) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "image", "image": 1, "max_pixels": 9},
                                     {"type": "audio", "audio": 0}, {"type": "text", "text": "?"}]},
    ]  # fmt: skip
    paths = prepare._write(["YQ==", "YmM="], tmp_path)
    assert [(tmp_path / it).read_bytes() for it in ("0", "1")] == [b"a", b"bc"]
    assert prepare._with_files(messages, paths)[1]["content"] == [
        {"type": "image", "image": paths[1], "max_pixels": 9},
        {"type": "audio", "audio": paths[0]},
        {"type": "text", "text": "?"},
    ]
    assert prepare._plain(messages[1])["content"] == [
        {"type": "text", "text": ""}, {"type": "text", "text": ""}, {"type": "text", "text": "?"}
    ]  # fmt: skip
    assert prepare._plain(messages[0]) == messages[0]


CONVERSATION = """
    import sys, time, types
    from appliance.inside import offline
    offline.CLEAN_UP_SECONDS = 2
    class Preparer:
        def __init__(self, start, messages): self.messages = messages
    class Engine:
        def __init__(self, preparer, channel, model): self.channel, self.it = channel, preparer
        def run(self):
            print("noise of a library")
            self.channel.say("got", it=self.it.messages.get()["do"])
            if {wait}: time.sleep(600)
        def close(self):
            print("closed", file=sys.stderr, flush=True)
            if {stuck}: time.sleep(600)
    offline.Preparer, offline.Engine = Preparer, Engine
    sys.exit(offline.main())
"""


def converse(*, wait: bool, stuck: bool) -> subprocess.Popen[str]:
    code = textwrap.dedent(CONVERSATION).format(wait=wait, stuck=stuck)
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write('{"do": "start", "model": "tiny"}\n{"do": "end"}\n')
    process.stdin.flush()
    return process


def test_stdout_has_events_alone(tmp_path: Path) -> None:
    del tmp_path
    with converse(wait=False, stuck=False) as process:
        assert process.wait(20) == 0
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read() == '{"event": "got", "it": "end"}\n{"event": "done"}\n'
        assert "noise of a library" in process.stderr.read()


@pytest.mark.parametrize("stuck", [False, True])
def test_a_launcher_that_is_gone_ends_the_work(stuck: bool) -> None:
    with converse(wait=True, stuck=stuck) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stderr is not None
        assert "got" in process.stdout.readline()
        process.stdin.close()
        assert process.wait(20) == 130
        told = process.stderr.read()
        assert "the launcher is gone" in told
        assert "closed" in told


@pytest.mark.parametrize(("closing", "status"), [(False, 1), (True, 0)])
def test_an_engine_that_is_killed_ends_the_work(closing: bool, status: int) -> None:
    code = f"""
        import multiprocessing, threading, time
        from appliance.inside import offline
        offline.DEAD_SECONDS = 0.2
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        child.start()
        over = threading.Event()
        offline._watch(multiprocessing.active_children(), over)
        {"over.set()" if closing else ""}
        child.kill()
        time.sleep(2)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert ("ended with exit code -9" in done.stderr) == (not closing)
