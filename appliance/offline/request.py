"""A line of the input as a request: everything that is known of it without an engine is checked.

A line is in the form of OpenAI's batches, with the chat completions that the server takes, and
in it media as there (`image_url`, `audio_url`, `input_audio`, `video_url`) or as in Qwen's own
examples (`{"type": "video", "video": "draw.mp4"}`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from appliance.offline import parameters
from appliance.offline.flaw import Flaw
from appliance.offline.media import Kind, Medium, Place, from_base64, medium, total_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

URL = "/v1/chat/completions"
# One request with its media goes as one line to the container.
LARGEST_BYTES = 512 * 2**20
_ROLES = ("system", "developer", "user", "assistant", "tool")
_KINDS: tuple[Kind, ...] = get_args(Kind)
_PIXELS = frozenset({"min_pixels", "max_pixels", "resized_height", "resized_width"})
# What qwen-omni-utils reads beside the medium.
_OPTIONS: Mapping[str, frozenset[str]] = {
    "image": _PIXELS,
    "audio": frozenset({"audio_start", "audio_end"}),
    "video": _PIXELS
    | {"fps", "nframes", "min_frames", "max_frames", "total_pixels", "video_start", "video_end"},
}
_SOUND = "use_audio_in_video"


@dataclass(frozen=True)
class Rules:
    """What holds for all requests of a run.

    `sampling` is what a request that does not say takes. `limits` are the plan's of media in
    one request. `names` are those by which a request may call the model; `model` is what an
    answer is of, so that one of another model does not count as done.
    """

    place: Place
    model: str
    names: tuple[str, ...]
    limits: Mapping[str, int]
    sampling: Mapping[str, Any]
    use_audio_in_video: bool = False


@dataclass(frozen=True)
class Request:
    """A request that can be tried.

    In its messages stands the number of each medium. `key` changes with all that an answer
    depends on: model, messages, media, sampling.
    """

    custom_id: str
    key: str
    body: Mapping[str, Any]
    media: tuple[Medium, ...]
    audio_in_video: bool

    def message(self, number: int, place: Place) -> str:
        """Return the line for the container, media read; raises `Flaw`."""
        media = [it.load(place) for it in self.media]
        if sum(map(len, media)) > LARGEST_BYTES:
            raise _too_large()
        return json.dumps(
            {
                "do": "request",
                "id": number,
                "body": self.body,
                "media": media,
                "audio_in_video": self.audio_in_video,
            }
        )


def identifier(document: Any) -> str | None:
    """Return the id of a line that has a usable one, whatever else is wrong with it."""
    found = document.get("custom_id") if isinstance(document, dict) else None
    return found if isinstance(found, str) and found and _encodable(found) else None


def document(line: bytes) -> Any:
    """Return the JSON of a line; raises `Flaw`."""
    try:
        return json.loads(line.decode("utf-8"), parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise Flaw("line_invalid", "The line is not text in UTF-8.") from error
    except json.JSONDecodeError as error:
        raise Flaw(
            "line_invalid", f"The line is not JSON (column {error.colno}: {error.msg})."
        ) from error
    except RecursionError as error:
        raise Flaw("line_invalid", "The line is nested too deep.") from error
    except ValueError as error:  # A number of thousands of digits; NaN.
        raise Flaw("line_invalid", f"The line is not JSON that can be read: {error}.") from error


def request(found: Any, rules: Rules) -> Request:
    """Return the request that a document is; raises `Flaw`."""
    if not isinstance(found, dict):
        raise Flaw("line_invalid", "The line is not a JSON object.")
    custom_id = identifier(found)
    if custom_id is None:
        raise Flaw("line_invalid", "The line has no `custom_id`, or it is not a text.")
    if found.get("method", "POST") != "POST":
        raise Flaw("line_invalid", f"`method` must be POST, but it is {found['method']!r:.60}.")
    if found.get("url", URL) != URL:
        raise Flaw("line_invalid", f"`url` must be {URL}, but it is {found['url']!r:.60}.")
    unknown = sorted(set(found) - {"custom_id", "method", "url", "body"})
    if unknown:
        raise Flaw("line_invalid", f"`{unknown[0]:.60}` is not a key of a line.")
    body = found.get("body")
    if not isinstance(body, dict):
        raise Flaw("line_invalid", "The line has no `body`, or it is not an object.")
    try:
        return _checked(custom_id, body, rules)
    except RecursionError as error:
        raise Flaw("line_invalid", "The line is nested too deep.") from error


def _checked(custom_id: str, body: Mapping[str, Any], rules: Rules) -> Request:
    kept = parameters.check(body)
    model = kept.pop("model", None)
    if model is not None and model not in rules.names:
        raise Flaw(
            "model_not_found",
            f"The model {model!r:.80} is not served; here it is {' or '.join(rules.names)}.",
        )
    media: list[Medium] = []
    kept["messages"] = _messages(kept.get("messages"), media, rules.place)
    sampling = {name: value for name, value in rules.sampling.items() if value is not None}
    if "max_completion_tokens" in kept:
        sampling.pop("max_tokens", None)
    kept = {**sampling, **kept}
    sound = _use_sound(kept, media, rules)
    _count(media, rules, sound=sound)
    if total_bytes(media) > LARGEST_BYTES:
        raise _too_large()
    return Request(custom_id, _key(kept, media, rules, sound=sound), kept, tuple(media), sound)


def _messages(found: Any, media: list[Medium], place: Place) -> list[dict[str, Any]]:
    if not isinstance(found, list) or not found:
        raise Flaw("request_invalid", "`messages` must be a list with at least one message.")
    return [_message(it, media, place) for it in found]


def _message(found: Any, media: list[Medium], place: Place) -> dict[str, Any]:
    if not isinstance(found, dict) or found.get("role") not in _ROLES:
        raise Flaw("request_invalid", f"A message needs a `role`: {', '.join(_ROLES)}.")
    content = found.get("content")
    if content is None and found["role"] == "assistant":
        content = ""
    if isinstance(content, list):
        content = [_part(it, media, place) for it in content]
    elif not isinstance(content, str):
        raise Flaw("request_invalid", "The `content` of a message must be a text or a list.")
    return {**found, "content": content}


def _part(found: Any, media: list[Medium], place: Place) -> dict[str, Any]:
    kind = found.get("type") if isinstance(found, dict) else None
    if not isinstance(kind, str):
        raise Flaw("request_invalid", "A part of a message must be an object with a `type`.")
    if kind == "text":
        if not isinstance(found.get("text"), str):
            raise Flaw("request_invalid", "A part of type text needs its `text`.")
        return {"type": "text", "text": found["text"]}
    if kind == "input_audio":
        return _add(_input_audio(found), {}, media)
    name: Kind | None = next((it for it in _KINDS if kind in (it, f"{it}_url")), None)
    if name is None:
        raise Flaw("request_invalid", f"A part of type {kind!r:.60} is not known.")
    source = found.get(kind)
    if kind != name and isinstance(source, dict):
        source = source.get("url")
    if not isinstance(source, str) or not source:
        raise Flaw("request_invalid", f"A part of type {kind} needs a path or a URL in `{kind}`.")
    return _add(medium(name, source, place), _options(found, name, kind), media)


def _add(it: Medium, options: dict[str, Any], media: list[Medium]) -> dict[str, Any]:
    media.append(it)
    return {"type": it.kind, it.kind: len(media) - 1, **options}


def _input_audio(found: Mapping[str, Any]) -> Medium:
    source = found.get("input_audio")
    data = source.get("data") if isinstance(source, dict) else None
    if not isinstance(data, str):
        raise Flaw("request_invalid", "A part of type input_audio needs base64 in its `data`.")
    return from_base64("audio", data)


def _options(found: Mapping[str, Any], name: Kind, kind: str) -> dict[str, Any]:
    kept = {}
    for key, value in found.items():
        # `uuid` and `detail` mean something to other servers.
        if key in {"type", kind, "uuid", "detail"} or value is None:
            continue
        if key not in _OPTIONS[name]:
            raise Flaw("request_invalid", f"`{key:.60}` is not a key of a part of type {kind}.")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
            raise Flaw("request_invalid", f"`{key}` must be a number, not {value!r:.60}.")
        kept[key] = value
    return kept


def _use_sound(body: dict[str, Any], media: list[Medium], rules: Rules) -> bool:
    """Tell whether the sound of the videos is used: what the request says, else the run."""
    said = body.get("mm_processor_kwargs", {}).get(_SOUND, rules.use_audio_in_video)
    if not isinstance(said, bool):
        raise Flaw("request_invalid", f"`{_SOUND}` must be true or false.")
    return said and any(it.kind == "video" for it in media)


def _count(media: list[Medium], rules: Rules, *, sound: bool) -> None:
    counts = {kind: sum(it.kind == kind for it in media) for kind in _KINDS}
    if sound and counts["audio"]:
        # As the guide has it: the engine pairs the videos with the audios one by one.
        raise Flaw(
            "audio_video_mismatch",
            f"{_SOUND} requires equal numbers of audio and video items, counting the sound of "
            f"each video: with {counts['video']} videos and {counts['audio']} audios there are "
            f"{counts['video'] + counts['audio']} audios. Leave one of the two out.",
        )
    if sound:
        counts["audio"] = counts["video"]
    for kind, count in counts.items():
        if count > rules.limits.get(kind, count):
            raise Flaw(
                "too_many_media",
                f"{count} of {kind} in one request; the most is {rules.limits[kind]} "
                "(`server.limit_mm_per_prompt`).",
            )


def _key(body: Mapping[str, Any], media: list[Medium], rules: Rules, *, sound: bool) -> str:
    counts = {"model": rules.model, "body": body, "sound": sound}
    counts["media"] = [(it.form, it.identity) for it in media]
    text = json.dumps(counts, sort_keys=True, ensure_ascii=False)
    try:
        return hashlib.sha256(text.encode()).hexdigest()[:32]
    except UnicodeEncodeError as error:
        raise Flaw("line_invalid", "A text in the line is not Unicode (half a pair).") from error


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def _too_large() -> Flaw:
    return Flaw("media_too_large", f"Its media are more than {LARGEST_BYTES >> 20} MiB in all.")
