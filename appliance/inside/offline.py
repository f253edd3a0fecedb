"""The container's side of `appliance offline`: the guide's script, made to run without end.

    python3 -m appliance.inside.offline

Reads messages from stdin, one JSON object a line, and writes events to stdout in the same way:

    {"do": "start", "serve_args": [...], "model": "name in the answers", "own_defaults": false}
    {"do": "request", "id": 7, "body": {...}, "media": ["base64", ...], "audio_in_video": false}
    {"do": "end"}

    {"event": "loading"} {"event": "ready"} {"event": "alive"} {"event": "done"}
    {"event": "result", "id": 7, "body": {...}}
    {"event": "flaw", "id": 7, "code": "media_invalid", "message": "..."}

The launcher sends no more at a time than may be held here, so everything is read as it comes:
an end of the input before this process has ended means that the launcher is gone, and ends it.

Why not `vllm run-batch`: one bad line ends all of it, it writes when the last request is done,
can't go on where it stopped, and reads media in its own way, not with qwen-omni-utils, which the
model's makers and the guide use. Its types of requests and answers are used.

The engine is loaded for the first request that can be run: where all are bad, none is. What
needs a decoder (is it an image at all, does this video have sound) is known before that.
"""

from __future__ import annotations

import gc
import json
import multiprocessing.connection
import os
import queue
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from typing import IO, Any

from appliance.inside.prepare import Flaw, Prepared, Preparer, words

# Decoded media of the requests that the engine holds; one request is let in whatever it has.
ENGINE_BYTES = 4 * 2**30
ALIVE_SECONDS = 1.0
# An engine that does not end in this time is left to the kernel, which ends the container's
# processes with this one.
CLEAN_UP_SECONDS = 25.0
DEAD_SECONDS = 10.0


class Channel:
    """Events to the launcher, on what was stdout: vLLM and its workers print there, too."""

    def __init__(self) -> None:
        self._out: IO[str] = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def say(self, event: str, **fields: Any) -> None:
        """Write an event. Raises BrokenPipeError where nobody listens any more."""
        with self._lock:
            self._out.write(json.dumps({"event": event, **fields}) + "\n")
            self._out.flush()


class Reader:
    """Reads the launcher's messages as they come, and sees when it is gone."""

    def __init__(self) -> None:
        self.messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        # Goes on after `end`: the launcher leaves its side open until this process ends.
        with suppress(ValueError, OSError):
            for line in sys.stdin:
                self.messages.put(json.loads(line))
        print("appliance: the launcher is gone", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGINT)


class Engine:
    """vLLM's engine, kept as full as it can be: a request that ends makes room for the next."""

    def __init__(self, preparer: Preparer, channel: Channel, model: str) -> None:
        self._prepared = preparer.prepared
        self._args = preparer.engine_args
        self._channel = channel
        self._model = model
        self._llm: Any = None
        self._running: dict[str, Prepared] = {}
        self._spoke = 0.0
        self._ended = False
        self._most = 1
        self._closing = threading.Event()

    def run(self) -> None:
        """Run all requests; raises what ends the engine, for the process to end with it."""
        while self._running or not self._ended:
            if not self._running:
                self._take(self._prepared.get())
            self._fill()
            self._step()

    def close(self) -> None:
        """Give up the engine, its processes and the device's memory, as the guide's script does."""
        self._closing.set()
        llm, self._llm = self._llm, None
        if llm is None:
            return
        from vllm.distributed.parallel_state import (
            destroy_distributed_environment,
            destroy_model_parallel,
        )
        from vllm.platforms import current_platform

        with suppress(Exception):
            llm.llm_engine.engine_core.shutdown()
        del llm
        for step in (destroy_model_parallel, destroy_distributed_environment, gc.collect):
            with suppress(Exception):
                step()
        if current_platform.device_type != "cpu":
            with suppress(Exception):  # On Ascend this is torch.npu.empty_cache.
                current_platform.empty_cache()

    def _fill(self) -> None:
        """Give the engine what is ready, while it has room."""
        while self._room() and not self._ended:
            try:
                self._take(self._prepared.get_nowait())
            except queue.Empty:
                return

    def _take(self, item: Prepared | tuple[int, Flaw] | BaseException | None) -> None:
        if isinstance(item, BaseException):
            raise item
        if item is None:
            self._ended = True
        elif isinstance(item, tuple):
            self._flaw(*item)
        else:
            self._add(item)

    def _room(self) -> bool:
        held = sum(item.bytes for item in self._running.values())
        return len(self._running) < self._most and held < ENGINE_BYTES

    def _load(self) -> None:
        from vllm import LLM

        self._channel.say("loading")
        self._llm = LLM(**vars(self._args))
        config = self._llm.llm_engine.vllm_config
        self._most = int(config.scheduler_config.max_num_seqs)
        self._reasoning = _reasoning(self._args, self._llm.get_tokenizer())
        _watch(multiprocessing.active_children(), self._closing)
        self._channel.say("ready", max_num_seqs=self._most)

    def _add(self, item: Prepared) -> None:
        if self._llm is None:
            self._load()
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            self._llm.llm_engine.add_request(str(item.id), item.inputs, item.params)
        except EngineDeadError:
            raise
        except Exception as error:  # noqa: BLE001 (too long, too many media, not to be processed)
            self._flaw(item.id, Flaw("request_invalid", words(error)))
            if item.bytes:
                # Its media were put down as known to the engine, which never got them: the next
                # request with the same ones would be sent without.
                self._llm.llm_engine.reset_mm_cache()
        else:
            item.inputs = {}  # The engine has it: a long video's frames are gigabytes.
            self._running[str(item.id)] = item

    def _step(self) -> None:
        if not self._running:
            return
        for output in self._llm.llm_engine.step():
            if output.finished:
                self._answer(self._running.pop(_own_id(output.request_id, self._running)), output)
        if time.monotonic() - self._spoke > ALIVE_SECONDS:
            self._spoke = time.monotonic()
            self._channel.say("alive")

    def _flaw(self, number: int, flaw: Flaw) -> None:
        self._channel.say("flaw", id=number, code=flaw.code, message=str(flaw))

    def _answer(self, item: Prepared, output: Any) -> None:
        if any(choice.finish_reason == "error" for choice in output.outputs):
            self._flaw(item.id, Flaw("engine_error", "The engine could not run it; see its log."))
            return
        from vllm.entrypoints.openai.run_batch import ChatCompletionResponse

        made = sum(len(choice.token_ids) for choice in output.outputs)
        asked = len(output.prompt_token_ids or ())
        choices = [self._choice(item, choice) for choice in output.outputs]
        usage = {
            "prompt_tokens": asked,
            "completion_tokens": made,
            "total_tokens": asked + made,
        }
        answer = ChatCompletionResponse(model=self._model, choices=choices, usage=usage)
        self._channel.say("result", id=item.id, body=answer.model_dump(mode="json"))

    def _choice(self, item: Prepared, choice: Any) -> dict[str, Any]:
        reasoning, content = None, choice.text
        if self._reasoning is not None:
            reasoning, content = self._reasoning(item.request, choice.text)
        if not item.request.include_reasoning:
            reasoning = None
        return {
            "index": choice.index,
            "message": {"role": "assistant", "reasoning": reasoning, "content": content},
            "finish_reason": choice.finish_reason or "stop",
            "stop_reason": choice.stop_reason,
        }


def _watch(children: list[Any], closing: threading.Event) -> None:
    """End this process some time after one of the engine's was killed.

    vLLM 0.23 waits for an engine without end that went away without a word, as one does that the
    kernel kills for want of memory. One that says what is wrong is told of in time.
    """

    def watch() -> None:
        if not multiprocessing.connection.wait([child.sentinel for child in children]):
            return
        if closing.wait(DEAD_SECONDS):
            return
        code = next((child.exitcode for child in children if child.exitcode is not None), None)
        print(
            f"RuntimeError: a process of the engine has ended with exit code {code} (-9: it was "
            "killed, as the kernel does for want of memory)",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)

    if children:
        threading.Thread(target=watch, daemon=True).start()


def _reasoning(args: Any, tokenizer: Any) -> Any:
    """Return the plan's parser of the thinking part as a function, as the server uses it."""
    name = getattr(args, "reasoning_parser", "")
    if not name:
        return None
    from vllm.reasoning import ReasoningParserManager

    made = ReasoningParserManager.get_reasoning_parser(name)

    def split(request: Any, text: str) -> tuple[str | None, str | None]:
        kwargs = request.chat_template_kwargs
        parser = made(tokenizer, chat_template_kwargs=kwargs) if kwargs else made(tokenizer)
        if hasattr(parser, "extract_reasoning"):
            found = parser.extract_reasoning(text, request)
        else:  # Its name up to vLLM 0.11.
            found = parser.extract_reasoning_content(text, request)
        reasoning, content = found
        return reasoning, content

    return split


def _own_id(number: str, running: dict[str, Prepared]) -> str:
    """Return our id of a request: vLLM may add an end of its own to it."""
    return number if number in running else number.split("-", 1)[0]


def main() -> int:
    """Do what stdin says; returns the exit status: 130 where it was told to stop."""
    channel = Channel()
    # Threads of the decoders may run by then: a fork would copy their locks.
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    stopping = threading.Event()

    def stop(*_: object) -> None:
        if not stopping.is_set():
            stopping.set()
            _end_within(CLEAN_UP_SECONDS, 130)
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    status, engine = 1, None
    try:
        messages = Reader().messages
        start = messages.get()
        engine = Engine(Preparer(start, messages), channel, start["model"])
        engine.run()
        channel.say("done")
        status = 0
    except (KeyboardInterrupt, BrokenPipeError):
        status = 130
    except BaseException:  # noqa: BLE001 (a parser's SystemExit as well: the log tells of it)
        traceback.print_exc()
    stopping.set()  # It is on its way out: nothing is to break into that.
    _end_within(CLEAN_UP_SECONDS, status)
    if engine is not None:
        engine.close()
    return status


def _end_within(seconds: float, status: int) -> None:
    """End this process even if what it has begun to tidy up never ends."""
    timer = threading.Timer(seconds, os._exit, (status,))
    timer.daemon = True
    timer.start()


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # Threads of libraries must not keep the container.
    os._exit(code)
