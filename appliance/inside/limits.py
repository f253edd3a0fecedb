"""What a request to the server may hold: refuses what one request could bring it down with.

Each limit stands here because vLLM 0.23 has none, and goes far beyond it with what was tried:
it ran out of memory, or answered nobody for minutes.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Kind = Literal["image", "audio", "video", "unknown"]

# A list in a list is read by functions that call themselves.
MAX_DEPTH = 64
# Each is an object in memory many times as large as its text.
MAX_VALUES = 1_000_000
# Two hundred times the memory is taken for a text while it is cut into tokens: /tokenize takes
# texts of any length.
MAX_TEXT = 2 * 1024 * 1024
# Answers asked for at once; each holds a place in the queue that others wait in.
MAX_ANSWERS = 256
# Of a grammar: what it may repeat, its choices, and its text. A compiler makes rules of each;
# llguidance follows at most 2000 choices at once, and ends with HTTP 500 where there are more.
MAX_REPETITIONS = 10_000
MAX_CHOICES = 1900
MAX_GRAMMAR = 256 * 1024
# Frames that a request may ask for of one video, as the model's own processor has it.
MAX_FRAMES = 768
# Pixels that the model's processor may make of an image, and those that it makes at least:
# a small image is blown up to the latter.
MAX_PIXELS = 1 << 24
MIN_PIXELS = 1 << 20

_COUNTS = frozenset(
    f"{bound}{what}"
    for bound in ("min", "max")
    for what in ("Items", "Length", "Properties", "Contains")
)
_CHOICES = {
    "enum": MAX_REPETITIONS, "choice": MAX_CHOICES, "guided_choice": MAX_CHOICES,
}  # fmt: skip
_GRAMMARS = frozenset({
    "structured_outputs", "response_format", "tools", "text", "functions", "guided_json",
    "guided_regex", "guided_choice", "guided_grammar", "structural_tag",
})  # fmt: skip
# JSON in a text, which vLLM reads.
_INNER = frozenset({"json", "guided_json", "structural_tag"})
_ANSWERS = frozenset({"n", "best_of"})
_KINDS: dict[str, Kind] = {
    "image_url": "image",
    "audio_url": "audio",
    "input_audio": "audio",
    "video_url": "video",
}
# Where media stand, as data URLs or as base64 alone.
_MEDIA = frozenset({"url", "data", *_KINDS})
_EMBEDS = ("_embeds", "_grid_thw")
# Number fields, with their least and greatest values.
_MEDIA_IO: dict[str, dict[str, tuple[float, float]]] = {
    "image": {},
    "audio": {},
    "video": {
        "num_frames": (1, MAX_FRAMES),
        "fps": (0.001, 240),
        "total_num_frames": (1, 10_000_000),
        "duration": (0, 86_400),
        "frames_indices": (0, 10_000_000),
        "do_sample_frames": (0, 1),
    },
}
_PROCESSOR: dict[str, tuple[float, float]] = {
    "use_audio_in_video": (0, 1),
    "do_sample_frames": (0, 1),
    "fps": (0.001, 240),
    "num_frames": (1, MAX_FRAMES),
    "min_frames": (1, MAX_FRAMES),
    "max_frames": (1, MAX_FRAMES),
    "min_pixels": (1, MIN_PIXELS),
    "max_pixels": (1, MAX_PIXELS),
    "shortest_edge": (1, MIN_PIXELS),
    "longest_edge": (1, MAX_PIXELS),
    "seconds_per_chunk": (0.001, 3600),
    "position_id_per_seconds": (0.001, 1000),
}


class Refused(Exception):  # noqa: N818 (a verdict on a request, not an error of this program)
    """The request goes no further: the HTTP status, and what the client is told."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Medium:
    """Media as they stand in a request: a data URL, or base64 alone."""

    kind: Kind
    text: str


@dataclass
class Found:
    """What is in a request that the rest of the checks need."""

    media: list[Medium] = field(default_factory=list)
    # How many frames of a video are read, where the request says so.
    frames: int | None = None
    characters: int = 0


def check(body: bytes) -> Found:
    """Read a JSON body; raises `Refused`. What is no JSON at all is left to vLLM to refuse."""
    if sum(body.count(sign) for sign in (b",", b"[", b"{")) > MAX_VALUES:
        raise Refused(f"The body has more than {MAX_VALUES} values.")
    try:
        document = json.loads(body, parse_constant=_no_constant)
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        return Found()
    if not isinstance(document, dict):
        raise Refused("The body is not a JSON object.")
    found = Found()
    for item in _walk(document):
        _check_item(item, found)
    _check_grammars(document)
    _check_answers(document)
    _check_media_io(document, found)
    _check_processor(document.get("mm_processor_kwargs"))
    return found


@dataclass(frozen=True)
class _Item:
    """A value of the document, the key that it stands under, and the kind of media there."""

    value: Any
    key: str
    depth: int
    kind: Kind


def _walk(document: Any) -> Iterator[_Item]:
    stack = [_Item(document, "", 1, "unknown")]
    while stack:
        item = stack.pop()
        yield item
        value, depth = item.value, item.depth + 1
        if isinstance(value, dict):
            for key, inner in value.items():
                stack.append(_Item(inner, key, depth, _KINDS.get(key, item.kind)))
        elif isinstance(value, list):
            stack += [_Item(inner, item.key, depth, item.kind) for inner in value]


def _check_item(item: _Item, found: Found) -> None:
    value = item.value
    if item.depth > MAX_DEPTH:
        raise _too_deep()
    if isinstance(value, str):
        _check_text(item, value, found)
    elif isinstance(value, (int, float)):
        _check_number(item, value)
    elif isinstance(value, list):
        most = _CHOICES.get(item.key, MAX_VALUES)
        if len(value) > most:
            raise Refused(f"`{item.key}` has more than {most} entries.")
    elif isinstance(value, dict):
        found.characters += sum(map(len, value))


def _check_text(item: _Item, text: str, found: Found) -> None:
    if item.key in _MEDIA:
        found.media.append(Medium(item.kind, text))
        return
    if item.key in _INNER:
        _check_inner(text)
    if not item.key.endswith(_EMBEDS):
        found.characters += len(text)
    if found.characters > MAX_TEXT:
        raise Refused(f"The request has more than {MAX_TEXT} characters of text.")


def _check_inner(text: str) -> None:
    """Check JSON in a text, which is part of a grammar: the rest of its checks come later."""
    try:
        document = json.loads(text)
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        return
    for item in _walk(document):
        if not isinstance(item.value, str):
            _check_item(item, Found())


def _check_number(item: _Item, value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise Refused(f"`{item.key}` is too large.")
    # What is passed on to the engine is passed on in 64 bits.
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        raise Refused(f"`{item.key}` is too large.")
    if item.key in _COUNTS and value > MAX_REPETITIONS:
        raise Refused(f"`{item.key}` is more than {MAX_REPETITIONS}.")
    # `sampling_params` of /inference/v1/generate is one level down.
    if item.key in _ANSWERS and item.depth <= 3 and value > MAX_ANSWERS:  # noqa: PLR2004
        raise Refused(f"`{item.key}` is more than {MAX_ANSWERS}.")


def _check_grammars(document: Mapping[str, Any]) -> None:
    size = sum(len(json.dumps(value)) for key, value in document.items() if key in _GRAMMARS)
    if size > MAX_GRAMMAR:
        raise Refused(f"Schemas, grammars and tools are more than {MAX_GRAMMAR} characters.")


def _check_answers(document: Mapping[str, Any]) -> None:
    """Count the answers: prompts, times the answers to each."""
    each = 1
    for key in _ANSWERS & set(document):
        try:
            each = max(each, int(float(document[key])))
        except (TypeError, ValueError):
            continue
    prompts = 1
    for key in ("prompt", "messages"):
        several = document.get(key)
        if isinstance(several, list) and several and isinstance(several[0], (str, list)):
            prompts = len(several)
    if each * prompts > MAX_ANSWERS:
        raise Refused(f"The request asks for more than {MAX_ANSWERS} answers.")


def _check_media_io(document: Mapping[str, Any], found: Found) -> None:
    given = document.get("media_io_kwargs")
    if not isinstance(given, dict):
        return
    for kind, fields in given.items():
        if kind not in _MEDIA_IO:
            raise Refused(f"`media_io_kwargs.{kind}` is not open to requests.")
        for name, value in fields.items() if isinstance(fields, dict) else ():
            _check_field("media_io_kwargs", name, value, _MEDIA_IO[kind])
    video = given.get("video")
    if isinstance(video, dict) and isinstance(video.get("num_frames"), int):
        found.frames = video["num_frames"]


def _check_processor(given: Any) -> None:
    for name, value in given.items() if isinstance(given, dict) else ():
        if isinstance(value, dict):
            _check_processor(value)
        else:
            _check_field("mm_processor_kwargs", name, value, _PROCESSOR)


def _check_field(
    where: str, name: str, value: Any, known: Mapping[str, tuple[float, float]]
) -> None:
    if name not in known:
        raise Refused(f"`{name}` in `{where}` is not open to requests.")
    least, most = known[name]
    values = value if isinstance(value, list) else [value]
    if len(values) > MAX_FRAMES:
        raise Refused(f"`{name}` in `{where}` has more than {MAX_FRAMES} entries.")
    for one in values:
        if one is not None and not (isinstance(one, (int, float)) and least <= one <= most):
            raise Refused(f"`{name}` in `{where}` must be from {least:g} to {most:g}.")


def _no_constant(name: str) -> Any:
    raise Refused(f"{name} is no JSON.")


def _too_deep() -> Refused:
    return Refused(f"The body is nested deeper than {MAX_DEPTH} levels.")
