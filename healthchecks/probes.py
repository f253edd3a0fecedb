"""The table of smoke probes, in the order they run."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from healthchecks import chat, media
from healthchecks.errors import ProbeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from healthchecks.client import Session

GUIDE_PROMPT = "Analyze this audio, image, and video together."
# A refusal costs the server no generation, so it may not take long.
MAX_REFUSAL_SECONDS = 30.0
MAX_CONTEXT_TOKENS = 4_000_000
HTTP_CLIENT_ERRORS = range(400, 500)
# 4xx that say something about the caller or the load, and nothing about the length of the prompt.
UNRELATED_REFUSALS = (401, 403, 404, 405, 408, 429)


@dataclass(frozen=True)
class Probe:
    """One smoke probe.

    ``run`` takes the session and the most tokens to generate, and returns the line to report; it
    raises ProbeError when the probe fails.
    """

    name: str
    run: Callable[[Session, int], str]


def _text(session: Session, max_tokens: int) -> str:
    return chat.complete(session, chat.fresh_text(), max_tokens)


def _media(modalities: tuple[str, ...], prompt: str, session: Session, max_tokens: int) -> str:
    content = [media.part(modality) for modality in modalities]
    return chat.complete(session, [*content, {"type": "text", "text": prompt}], max_tokens)


def _stream(session: Session, max_tokens: int) -> str:
    return chat.stream(session, chat.fresh_text(), max_tokens)


def _over_limit(session: Session, max_tokens: int) -> str:
    limit = session.model().max_model_len
    if limit is None or not 0 < limit <= MAX_CONTEXT_TOKENS:
        raise ProbeError(f"/v1/models gives no usable max_model_len for the model: {limit}")
    # A digit after a space is at least one token to any tokenizer, so these are more than fit.
    words = " ".join(secrets.choice("0123456789") for _ in range(limit + 1))
    payload = chat.request(session, f"{chat.nonce()} {words}", max_tokens)
    session.deadline_in(min(session.target.timeout, MAX_REFUSAL_SECONDS))
    reply = session.post(chat.COMPLETIONS_PATH, payload)
    if reply.status not in HTTP_CLIENT_ERRORS or reply.status in UNRELATED_REFUSALS:
        wanted = f"a prompt of more than {limit} tokens must be refused as too long"
        raise ProbeError(f"{wanted}, but the answer was {reply.quote}")
    message = _error_message(reply.json())
    if not message:
        raise ProbeError(f"refused, but without an error message: {reply.quote}")
    return f"refused as it must be, HTTP {reply.status}: {session.clean(message)}"


def _error_message(document: object) -> str:
    error = document.get("error", document) if isinstance(document, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return message.strip() if isinstance(message, str) else ""


def _text_after(session: Session, max_tokens: int) -> str:
    return f"the engine survived: {_text(session, max_tokens)}"


_image = partial(_media, ("image",), "Describe this image.")
_audio = partial(_media, ("audio",), "Describe this audio.")
_video = partial(_media, ("video",), "Describe this video.")
_all = partial(_media, ("image", "audio", "video"), GUIDE_PROMPT)

# Each modality twice: a second video is known to break what the first one did not.
PROBES = (
    Probe("text", _text),
    Probe("image-1", _image),
    Probe("image-2", _image),
    Probe("audio-1", _audio),
    Probe("audio-2", _audio),
    Probe("video-1", _video),
    Probe("video-2", _video),
    Probe("all-1", _all),
    Probe("all-2", _all),
    Probe("stream", _stream),
    Probe("over-limit", _over_limit),
    Probe("text-after", _text_after),
)
PROBE_NAMES = tuple(probe.name for probe in PROBES)
