"""What a request's body may say beside its messages, and the form that each key has.

A key that is not known is refused, unlike by the server, which leaves it out: in a run of hours
a misspelt `max_token` is an error to hear of at once.
"""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING, Any

from appliance.offline.flaw import Flaw

if TYPE_CHECKING:
    from collections.abc import Mapping

_LARGEST = 2**63 - 1
_NUMBERS: Mapping[str, tuple[float, float]] = {
    "temperature": (0, math.inf),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "repetition_penalty": (0, math.inf),
}
_INTEGERS: Mapping[str, tuple[int, int]] = {
    "top_k": (-1, _LARGEST),
    "max_tokens": (1, _LARGEST),
    "max_completion_tokens": (1, _LARGEST),
    "min_tokens": (0, _LARGEST),
    "seed": (-_LARGEST - 1, _LARGEST),
    "n": (1, 128),
}
_SWITCHES = frozenset(
    {
        "ignore_eos", "include_stop_str_in_output", "skip_special_tokens",
        "spaces_between_special_tokens", "include_reasoning", "add_generation_prompt",
        "continue_final_message",
    }
)  # fmt: skip
_OBJECTS = frozenset(
    {"response_format", "structured_outputs", "chat_template_kwargs", "mm_processor_kwargs",
     "logit_bias"}
)  # fmt: skip
_LISTS: Mapping[str, type] = {"stop_token_ids": int, "allowed_token_ids": int, "bad_words": str}
# Say who asks and how it is billed: nothing to the engine.
_IGNORED = frozenset({"user", "metadata", "store", "service_tier", "stream_options"})
_REFUSED: Mapping[str, str] = {
    "stream": "Results are written whole.",
    "tools": "Tools are for a conversation; this is one answer to each request.",
    "tool_choice": "Tools are for a conversation; this is one answer to each request.",
    "functions": "Tools are for a conversation; this is one answer to each request.",
    "logprobs": "It is not in this version.",
    "top_logprobs": "It is not in this version.",
    "prompt_logprobs": "It is not in this version.",
    "echo": "It is not in this version.",
    "use_beam_search": "It is not in this version.",
    "chat_template": "The model's own is used.",
    "media_io_kwargs": "Media are read by qwen-omni-utils: give its keys in the part itself.",
}
_MESSAGES = ("messages", "model", "stop")
KNOWN = frozenset({*_NUMBERS, *_INTEGERS, *_SWITCHES, *_OBJECTS, *_LISTS, *_IGNORED, *_MESSAGES})
# Of no effect, as clients write them out.
_HARMLESS: tuple[Any, ...] = (False, None, 0, "none", [])


def check(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the engine is to know of a body, messages included; raises `Flaw`."""
    kept = {}
    for name, value in body.items():
        if name in _REFUSED:
            if not any(value is it or value == it for it in _HARMLESS):
                raise Flaw("request_invalid", f"`{name}` is not for offline. {_REFUSED[name]}")
        elif name not in KNOWN:
            near = difflib.get_close_matches(name, KNOWN, n=1)
            hint = f" Did you mean `{near[0]}`?" if near else ""
            raise Flaw("request_invalid", f"`{name:.60}` is not a key of a request.{hint}")
        elif name not in _IGNORED and value is not None:
            _require(name, value)
            kept[name] = value
    return kept


def _require(name: str, value: Any) -> None:
    fault = None
    if name in _NUMBERS:
        fault = _number(value, *_NUMBERS[name], integer=False)
    elif name in _INTEGERS:
        fault = _number(value, *_INTEGERS[name], integer=True)
    elif name in _SWITCHES:
        fault = None if isinstance(value, bool) else "true or false"
    elif name in _OBJECTS:
        fault = None if isinstance(value, dict) else "an object"
    elif name in _LISTS:
        fault = None if _all(value, _LISTS[name]) else f"a list of {_LISTS[name].__name__}"
    elif name == "stop":
        fault = None if isinstance(value, str) or _all(value, str) else "a text or a list of texts"
    if fault is not None:
        raise Flaw("request_invalid", f"`{name}` must be {fault}, but it is {_shown(value)}.")


def _number(value: Any, low: float, high: float, *, integer: bool) -> str | None:
    kinds = (int,) if integer else (int, float)
    if isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high:
        return None
    what = "a whole number" if integer else "a number"
    if high in (math.inf, _LARGEST):
        return f"{what}, at least {low:g}"
    return f"{what} from {low:g} to {high:g}"


def _all(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(
        isinstance(it, kind) and not isinstance(it, bool) for it in value
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"  # noqa: PLR2004
