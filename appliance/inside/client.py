"""Becomes `vllm bench` with what its command line alone can't be told.

`python3 -m appliance.inside.client SETTINGS bench …`, where SETTINGS is a JSON object:

- `"sound": {"seconds", "seed"}` has the chat backend of `vllm bench serve` add a sound of
  its own to every request, by way of vLLM's public table of backends. (vLLM's own dataset
  `custom_audio` needs pandas, which serving does not, is not in every release, and can't be had
  together with images and videos.)
- `"engine": [...]` are arguments of `vllm serve`: those that this benchmark's parser knows are
  put before its own, the others are the server's, and are left out. So are options of its own
  that begin with `--random-` where the release has no such: it then has one name less for them.
- `"told": FILE` is where the arguments that came of it are written, as a JSON list.
"""

from __future__ import annotations

import base64
import io
import json
import random
import re
import sys
import wave
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

# vLLM sends images by a backend of this name alone, so the sounds go the same way.
BACKEND = "openai-chat"
SAMPLE_RATE = 16000
# Of a WAV file, and of the samples that are a sound's own: together they fill base64's threes.
HEAD_BYTES, OWN_BYTES = 44, 10


class Sounds:
    """WAV files of noise, 16 kHz and mono, for requests: the same ones for the same seed.

    Noise is no speech, but the model's work depends on a sound's length alone. Only the first
    samples differ from one to the next, which is enough to be in nobody's cache; to make and
    hold each one whole would take gigabytes, or the time of requests.
    """

    def __init__(self, seconds: float, seed: int) -> None:
        """Make the part that they share."""
        self._draw = random.Random(seed)  # noqa: S311
        file = io.BytesIO()
        with wave.open(file, "wb") as writer:
            writer.setnchannels(1)
            writer.setsampwidth(2)
            writer.setframerate(SAMPLE_RATE)
            writer.writeframes(self._draw.randbytes(2 * round(seconds * SAMPLE_RATE)))
        whole = file.getvalue()
        self._head = whole[:HEAD_BYTES]
        self._rest = base64.b64encode(whole[HEAD_BYTES + OWN_BYTES :]).decode()

    def take(self) -> dict[str, Any]:
        """Return the next one, as a part of a chat message."""
        first = base64.b64encode(self._head + self._draw.randbytes(OWN_BYTES)).decode()
        data = {"data": first + self._rest, "format": "wav"}
        return {"type": "input_audio", "input_audio": data}


def with_sound(request: Any, sounds: Sounds) -> Any:
    """Return a request function of vLLM's that adds a sound to what it is given."""

    async def send(request_func_input: Any, *more: Any, **named: Any) -> Any:
        content = request_func_input.multi_modal_content or []
        parts = list(content) if isinstance(content, list) else [content]
        request_func_input.multi_modal_content = [*parts, sounds.take()]
        return await request(request_func_input, *more, **named)

    return send


def add_sound(settings: dict[str, Any]) -> None:
    """Put the backend into vLLM's table."""
    table = import_module("vllm.benchmarks.lib.endpoint_request_func")
    chat = table.ASYNC_REQUEST_FUNCS[BACKEND]
    table.ASYNC_REQUEST_FUNCS[BACKEND] = with_sound(chat, Sounds(**settings))


class _Known(Exception):  # noqa: N818 (not an error of this program)
    """The parser knows the option, and misses its value."""


def with_engine(mode: str, engine: list[str], own: list[str]) -> list[str]:
    """Return the arguments of `vllm bench latency|throughput` for an engine like a server's."""
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):  # type: ignore[misc]
        def error(self, message: str) -> Any:
            raise _Known(message)

    parser = Parser(add_help=False)
    import_module(f"vllm.benchmarks.{mode}").add_cli_args(parser)

    def known(option: str) -> bool:
        try:
            return not parser.parse_known_args([option])[1]
        except _Known:
            return True

    kept = select(own, lambda name: not name.startswith("--random-") or known(name))
    return ["--model", engine[0], *select(engine[1:], known), *kept]


def select(words: list[str], wanted: Callable[[str], bool]) -> list[str]:
    """Return the options that are wanted, by their name with dashes, with their values."""
    kept, keep = [], False
    for word in words:
        if re.match(r"-{1,2}[A-Za-z]", word):
            name = word.partition("=")[0].partition(".")[0]
            keep = wanted(name.replace("_", "-"))
        if keep:
            kept.append(word)
    return kept


def main(settings: dict[str, Any], arguments: list[str]) -> None:
    """Run the benchmark in this process."""
    words = list(arguments)
    if "engine" in settings:
        words = [*words[:2], *with_engine(words[1], settings["engine"], words[2:])]
    if "sound" in settings:
        add_sound(settings["sound"])
    if "told" in settings:
        Path(settings["told"]).write_text(json.dumps(words), encoding="utf-8")
    sys.argv = ["vllm", *words]
    import_module("vllm.entrypoints.cli.main").main()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2:])
