"""The table of smoke probes, in the order they run."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from healthchecks import chat, content, exercises
from healthchecks.client import HTTP_CLIENT_ERRORS
from healthchecks.errors import ProbeError
from healthchecks.runner import Probe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from healthchecks.client import Session
    from healthchecks.exercises import Modality
    from healthchecks.target import Settings

# A refusal costs the server no generation, so it may not take long.
MAX_REFUSAL_SECONDS = 30.0
MAX_CONTEXT_TOKENS = 4_000_000
# 4xx that say something about the caller or the load, and nothing about the length of the prompt.
UNRELATED_REFUSALS = (401, 403, 404, 405, 408, 429)


def _text(session: Session, settings: Settings) -> str:
    completion = chat.complete(session, chat.fresh_text(), settings.max_tokens)
    return chat.text_line(session, completion)


def _stream(session: Session, settings: Settings) -> str:
    completion = chat.stream(session, chat.fresh_text(), settings.max_tokens)
    return chat.text_line(session, completion)


def _over_limit(session: Session, settings: Settings) -> str:
    limit = session.model().max_model_len
    if limit is None or not 0 < limit <= MAX_CONTEXT_TOKENS:
        raise ProbeError(f"/v1/models gives no usable max_model_len for the model: {limit}")
    # A digit after a space is at least one token to any tokenizer, so these are more than fit.
    words = " ".join(secrets.choice("0123456789") for _ in range(limit + 1))
    payload = chat.request(session, f"{chat.nonce()} {words}", settings.max_tokens)
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


def _text_after(session: Session, settings: Settings) -> str:
    return f"the engine survived: {_text(session, settings)}"


def _of(modality: Modality) -> Iterator[Probe]:
    # Each modality twice: the right answers differ, and a second video is known to break what
    # the first one did not.
    yield Probe(f"{modality.name}-1", content.of_pair(modality, 0), seeded=True)
    yield Probe(f"{modality.name}-2", content.of_pair(modality, 1), seeded=True)
    yield Probe(f"{modality.name}-control", content.control(modality), seeded=True)


PROBES = (
    Probe("text", _text),
    *_of(exercises.IMAGE),
    Probe("image-jpeg", content.of_file(exercises.jpeg)),
    *_of(exercises.AUDIO),
    *_of(exercises.PITCH),
    *_of(exercises.VIDEO),
    Probe("video-mp4", content.of_file(exercises.mp4)),
    *_of(exercises.TRACK),
    *_of(exercises.ALL),
    Probe("stream", _stream),
    Probe("over-limit", _over_limit),
    Probe("text-after", _text_after),
)
PROBE_NAMES = tuple(probe.name for probe in PROBES)
