"""Makes of a request what the guide's script gives to the engine: prompt, media, sampling."""

from __future__ import annotations

import base64
import inspect
import json
import queue
import shutil
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.inside import video

# Decoded and waiting for the engine: a long video is more than a gigabyte.
PREPARED = 2
# Of an error's text: vLLM's may quote a prompt.
WORDS = 600


class Flaw(Exception):  # noqa: N818 (of a request, not of this program)
    """What keeps one request from being run: a stable code, and words."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Prepared:
    """A request as the engine takes it, and what its answer needs later."""

    id: int
    request: Any
    params: Any
    inputs: dict[str, Any]
    bytes: int


class Preparer:
    """Makes of a request what the guide's script gives to the engine, in a thread of its own."""

    def __init__(self, start: dict[str, Any], messages: queue.SimpleQueue[dict[str, Any]]) -> None:
        """`start` is the launcher's first message."""
        self.prepared: queue.Queue[Prepared | tuple[int, Flaw] | BaseException | None] = (
            queue.Queue(PREPARED)
        )
        self._messages = messages
        self.engine_args = engine_args(start["serve_args"])
        video.install()
        self._processor = _processor(self.engine_args.model)
        self._defaults = _generation_config(self.engine_args.model) if start["own_defaults"] else {}
        self._folder = Path(tempfile.mkdtemp(prefix="media-", dir=Path.cwd()))
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        try:
            while (message := self._messages.get())["do"] != "end":
                self.prepared.put(self._one(message))
            self.prepared.put(None)
        except BaseException as error:  # noqa: BLE001 (told where it can be acted on)
            self.prepared.put(error)

    def _one(self, message: dict[str, Any]) -> Prepared | tuple[int, Flaw]:
        number = int(message["id"])
        try:
            return self._prepare(number, message)
        except Flaw as flaw:
            return number, flaw
        except MemoryError:
            return number, Flaw("media_invalid", "There is not enough memory for its media.")
        except Exception as error:  # noqa: BLE001 (whatever a decoder raises is this request's)
            return number, Flaw("request_invalid", words(error))

    def _prepare(self, number: int, message: dict[str, Any]) -> Prepared:
        body = message["body"]
        request, params = self._parameters(body)
        folder = self._folder / str(number)
        folder.mkdir()
        try:
            messages = _with_files(body["messages"], _write(message["media"], folder))
            sound = bool(message["audio_in_video"])
            if sound:
                _require_sound(messages)
            media = self._media(messages, sound)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        inputs: dict[str, Any] = {
            "prompt": self._prompt(messages, body),
            "multi_modal_data": media,
        }
        kwargs = dict(body.get("mm_processor_kwargs") or {})
        kwargs.pop("use_audio_in_video", None)
        if sound:
            kwargs["use_audio_in_video"] = True
        if kwargs:
            inputs["mm_processor_kwargs"] = kwargs
        return Prepared(number, request, params, inputs, _size(media))

    def _parameters(self, body: dict[str, Any]) -> tuple[Any, Any]:
        """Return vLLM's own request, and the sampling parameters that it makes of it."""
        # Where it is differs by release; `run_batch` has it in all of them.
        from vllm.entrypoints.openai.run_batch import BatchRequestInput

        plain = {**body, "messages": [_plain(message) for message in body["messages"]]}
        line = {"custom_id": "-", "method": "POST", "url": "/v1/chat/completions", "body": plain}
        try:
            request = BatchRequestInput.model_validate(line).body
            convert = request.to_sampling_params
            wanted = {
                # Without one, and wherever it is too high, the model's length ends the answer.
                "max_tokens": body.get("max_completion_tokens") or body.get("max_tokens"),
                "default_sampling_params": self._defaults,
            }
            if "logits_processor_pattern" in inspect.signature(convert).parameters:
                wanted["logits_processor_pattern"] = None  # vLLM 0.13
            return request, convert(**wanted)
        except ValueError as error:  # Pydantic's, too.
            raise Flaw("request_invalid", words(error)) from error

    def _media(self, messages: list[dict[str, Any]], sound: bool) -> dict[str, Any]:
        from qwen_omni_utils import process_mm_info

        try:
            audios, images, videos = process_mm_info(messages, use_audio_in_video=sound)
        except Exception as error:
            raise Flaw("media_invalid", f"Its media can't be decoded: {words(error)}") from error
        found = {"image": images, "video": videos, "audio": audios}
        return {kind: items for kind, items in found.items() if items is not None}

    def _prompt(self, messages: list[dict[str, Any]], body: dict[str, Any]) -> str:
        going_on = bool(body.get("continue_final_message", False))
        text: str = self._processor.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=bool(body.get("add_generation_prompt", not going_on)),
            continue_final_message=going_on,
            **(body.get("chat_template_kwargs") or {}),
        )
        return text


def engine_args(serve_args: list[str]) -> Any:
    """Return vLLM's engine arguments of a `vllm serve` line, read by the server's own parser.

    What only a server needs (its address, its middleware) is read with the rest, and left out.
    """
    from vllm.engine.arg_utils import EngineArgs
    from vllm.entrypoints.openai.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(serve_args)
    parsed.model = parsed.model_tag
    args = EngineArgs.from_cli_args(parsed)
    args.disable_log_stats = True
    return args


def _processor(model: str) -> Any:
    try:
        from modelscope import Qwen3OmniMoeProcessor
    except ImportError:
        from transformers import Qwen3OmniMoeProcessor
    return Qwen3OmniMoeProcessor.from_pretrained(model)


def _generation_config(model: str) -> dict[str, Any]:
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    try:
        text = (Path(model) / "generation_config.json").read_text(encoding="utf-8")
        content = json.loads(text)
    except (OSError, ValueError):
        return {}
    return {name: content[name] for name in names if content.get(name) is not None}


def _write(media: list[str], folder: Path) -> list[str]:
    """Put a request's media where the decoders read them: in memory, for as long as that takes."""
    paths = []
    for index, data in enumerate(media):
        path = folder / str(index)
        try:
            path.write_bytes(base64.b64decode(data))
        except OSError as error:
            raise Flaw("media_invalid", f"Its media are too much at once: {error}.") from error
        paths.append(str(path))
    return paths


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message with words alone, for vLLM's check of its form."""
    if not isinstance(message.get("content"), list):
        return message
    parts = [part if part["type"] == "text" else {"type": "text", "text": ""}
             for part in message["content"]]  # fmt: skip
    return {**message, "content": parts}


def _with_files(messages: list[dict[str, Any]], paths: list[str]) -> list[dict[str, Any]]:
    """Return the messages with a path for the number of each medium, as the guide has them."""

    def part(it: dict[str, Any]) -> dict[str, Any]:
        kind = it["type"]
        return it if kind == "text" else {**it, kind: paths[it[kind]]}

    return [
        {**message, "content": [part(it) for it in message["content"]]}
        if isinstance(message.get("content"), list)
        else message
        for message in messages
    ]


def _require_sound(messages: list[dict[str, Any]]) -> None:
    """Refuse a video without sound, where the sound of each video is to be used."""
    for message in messages:
        for part in message["content"] if isinstance(message["content"], list) else ():
            if part["type"] == "video" and not _sounds(part["video"]):
                raise Flaw(
                    "audio_video_mismatch",
                    "use_audio_in_video needs the sound of every video, and one has no sound "
                    "track.",
                )


def _sounds(path: str) -> bool:
    try:
        return video.has_sound(path)
    except Exception as error:
        raise Flaw("media_invalid", f"A video can't be opened: {words(error)}") from error


def _size(media: dict[str, Any]) -> int:
    """Return the bytes of decoded media: tensors and arrays know theirs, pictures do not."""

    def one(it: Any) -> int:
        if hasattr(it, "nbytes"):
            return int(it.nbytes)
        return 3 * int(it.width) * int(it.height)

    return sum(one(it) for items in media.values() for it in items)


def words(error: BaseException) -> str:
    """Return what an error says, in one line of bounded length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= WORDS else text[:WORDS] + "…"
