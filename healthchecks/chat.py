"""Chat completions: the requests, and what counts as an answer."""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from healthchecks import answers
from healthchecks.errors import DegenerateError, ProbeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from healthchecks.answers import Answer
    from healthchecks.client import Reply, Session

COMPLETIONS_PATH = "/v1/chat/completions"
FINISH_REASONS = ("stop", "length")
ANSWER_KEYS = ("content", *answers.REASONING_KEYS)


@dataclass(frozen=True)
class Completion:
    """What a server generated, and a line on how."""

    answer: Answer
    line: str


def nonce() -> str:
    """Return a word that no earlier request had."""
    return secrets.token_hex(8)


def fresh_text() -> str:
    """Return a prompt that begins with a nonce, so that no cached prefix can answer for it."""
    return f"{nonce()} Say hello."


def request(session: Session, content: object, max_tokens: int) -> dict[str, object]:
    """Return the body of a chat completion for one user message.

    Raises:
        ProbeError: the server does not list the model.

    """
    return {
        "model": session.model().name,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": max_tokens,
        "temperature": 0,
    }


def complete(
    session: Session,
    content: object,
    max_tokens: int,
    options: Mapping[str, object] | None = None,
) -> Completion:
    """Ask for one completion; `options` go into the request as they are.

    Raises:
        RefusedError: the response is HTTP 400 to 499.
        ProbeError: it is no other completion with at least one generated token.

    """
    payload = {**request(session, content, max_tokens), **(options or {})}
    reply = session.expect_ok(session.post(COMPLETIONS_PATH, payload))
    document = reply.json()
    choice = _first_choice(document)
    message = choice.get("message")
    if not isinstance(message, dict) or not any(key in message for key in ANSWER_KEYS):
        raise ProbeError(f"no message in the answer: {reply.quote}")
    finish = _finish_reason(choice.get("finish_reason"), reply)
    line = _describe(_usage(document), finish, reply, "")
    return Completion(answers.from_message(message, cut=finish == "length"), line)


def stream(session: Session, content: object, max_tokens: int) -> Completion:
    """Ask for one completion as server-sent events.

    Raises:
        ProbeError: the response is not HTTP 200 with a delta, the token usage and a final [DONE].

    """
    payload = request(session, content, max_tokens)
    payload |= {"stream": True, "stream_options": {"include_usage": True}}
    reply = session.expect_ok(session.post(COMPLETIONS_PATH, payload))
    events = _events(reply)
    if not events or events.pop() != "[DONE]":
        raise ProbeError(f"the stream does not end with [DONE]: {reply.quote}")
    deltas: list[Mapping[str, object]] = []
    finish: object = None
    usage: dict[str, object] = {}
    for event in events:
        chunk = _chunk(session, event)
        choice = _first_choice(chunk)
        delta = choice.get("delta")
        deltas += [delta] if isinstance(delta, dict) else []
        finish = choice.get("finish_reason") or finish
        usage = _usage(chunk) or usage
    if not deltas:
        raise ProbeError(f"no delta in the stream: {reply.quote}")
    reason = _finish_reason(finish, reply)
    line = _describe(usage, reason, reply, f" in {len(deltas)} chunks")
    return Completion(answers.from_message(_joined(deltas), cut=reason == "length"), line)


def text_line(session: Session, completion: Completion) -> str:
    """Return the line on a completion; raises DegenerateError if it is no text."""
    said = completion.answer
    if said.flaw is not None:
        flaw = session.clean(said.flaw)
        raise DegenerateError(f"the output is {flaw}: {completion.line}")
    return completion.line


def _joined(deltas: list[Mapping[str, object]]) -> dict[str, object]:
    message: dict[str, object] = {}
    for key in ANSWER_KEYS:
        pieces = [delta.get(key) for delta in deltas]
        message[key] = "".join(piece for piece in pieces if isinstance(piece, str))
    return message


def _events(reply: Reply) -> list[str]:
    # Not str.splitlines: it would also split at separators that stand inside JSON strings.
    lines = re.split(r"\r\n|\r|\n", reply.body)
    return [line[5:].removeprefix(" ") for line in lines if line.startswith("data:")]


def _chunk(session: Session, event: str) -> dict[str, object]:
    try:
        chunk: object = json.loads(event)
    except (ValueError, RecursionError):
        chunk = None
    if not isinstance(chunk, dict) or "error" in chunk:
        raise ProbeError(f"HTTP 200, but the stream holds: {session.clean(event)}")
    return chunk


def _first_choice(document: object) -> dict[str, object]:
    choices = document.get("choices") if isinstance(document, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def _usage(document: object) -> dict[str, object]:
    usage = document.get("usage") if isinstance(document, dict) else None
    return usage if isinstance(usage, dict) else {}


def _finish_reason(reason: object, reply: Reply) -> str:
    if isinstance(reason, str) and reason in FINISH_REASONS:
        return reason
    wanted = " or ".join(FINISH_REASONS)
    raise ProbeError(f"the answer did not finish with {wanted}: {reply.quote}")


def _describe(usage: dict[str, object], finish: str, reply: Reply, chunks: str) -> str:
    tokens = usage.get("completion_tokens")
    # Text is no evidence that there were tokens: special ones have none. Their count is.
    if type(tokens) is not int or tokens < 1:
        raise DegenerateError(f"no token was generated: {reply.quote}")
    prompt = usage.get("prompt_tokens")
    line = f"HTTP {reply.status}, {tokens} token{'s' if tokens > 1 else ''}{chunks}"
    line += f", finish {finish}"
    return f"{line}, prompt {prompt} tokens" if type(prompt) is int else line
