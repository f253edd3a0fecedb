"""Probes of content: that the answer is right, and that it comes from the media."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from healthchecks import chat
from healthchecks.errors import DegenerateError, RefusedError, UnsupportedError, WrongError
from healthchecks.exercises import pair

if TYPE_CHECKING:
    from collections.abc import Callable

    from healthchecks.answers import Answer
    from healthchecks.client import Session
    from healthchecks.exercises import Exercise, Medium, Modality
    from healthchecks.target import Settings

# With as many answers as this, a wrong one may be a slip, and a right one is no guess.
HOPELESS: Final = 12
# Refusals of what is asked, and not of who asks or how often.
UNSUPPORTED: Final = (400, 415, 422)


def of_pair(modality: Modality, which: int) -> Callable[[Session, Settings], str]:
    """Return the probe with the first (0) or second (1) medium of a modality."""

    def run(session: Session, settings: Settings) -> str:
        try:
            return answer_right(session, pair(modality, settings.seed)[which], settings)
        except WrongError as wrong:
            if modality.answers < HOPELESS:
                raise
            # A model may be wrong once in a hundred times. One that does not see or hear would
            # have to guess right, which with so many answers a second try does not make likely.
            again = pair(modality, f"{settings.seed} again")[which]
            return f"{answer_right(session, again, settings)}; before, {wrong}"

    return run


def of_file(exercise: Callable[[], Exercise]) -> Callable[[Session, Settings], str]:
    """Return the probe with a file of this package."""

    def run(session: Session, settings: Settings) -> str:
        return answer_right(session, exercise(), settings)

    return run


def control(modality: Modality) -> Callable[[Session, Settings], str]:
    """Return the probe that asks without the media, where a right answer is a wrong one.

    A model may guess, and by luck be right. Then it has to prove that it looks at the media: it
    must be right with the other one too, and must not go on to answer for that one when it is
    gone.
    """

    def run(session: Session, settings: Settings) -> str:
        exercises = pair(modality, settings.seed)
        said = ask(session, modality, (), settings)
        guessed = next((e for e in exercises if complaint(e, said) is None), None)
        if guessed is None:
            return f"without media no right answer: {_quote(session, said)}"
        other = exercises[0] if guessed is exercises[1] else exercises[1]
        seen = complaint(other, ask(session, modality, other.media, settings))
        if seen is not None:
            raise WrongError(
                f"it answers from the text alone: {_quote(session, said)} without media, and with "
                f"{other.right} shown {seen}"
            )
        again = ask(session, modality, (), settings)
        if complaint(other, again) is None:
            raise WrongError(
                f"without media it answers for those of the request before: {other.right}"
            )
        return f"without media a guess, {guessed.right}; with {other.right} shown it is right"

    return run


def answer_right(session: Session, exercise: Exercise, settings: Settings) -> str:
    """Ask about the media and return a line on the answer.

    Raises:
        WrongError: it is not right, or there is none.
        DegenerateError: it is no text.
        UnsupportedError: the modality is optional, and the server refuses the request.
        ProbeError: the request failed.

    """
    modality = exercise.modality
    try:
        said = ask(session, modality, exercise.media, settings)
    except RefusedError as refused:
        if modality.optional and refused.status in UNSUPPORTED:
            raise UnsupportedError(f"not supported by this server: {refused}") from refused
        raise
    reason = complaint(exercise, said)
    if reason is not None:
        hint = " (does the server ignore use_audio_in_video?)" if modality.optional else ""
        found = session.clean(f"expected {exercise.right}, but {reason}{hint}")
        raise WrongError(f"{found}: {_quote(session, said)}")
    return f"right, {exercise.right}: {_quote(session, said)}"


def ask(
    session: Session, modality: Modality, media: tuple[Medium, ...], settings: Settings
) -> Answer:
    """Ask a modality's question about some media, or without any.

    Raises:
        DegenerateError: the answer is no text.
        ProbeError: the request failed.

    """
    content: list[dict[str, object]] = [_part(medium) for medium in media]
    content.append({"type": "text", "text": modality.question})
    budget = settings.answer_tokens
    limit = session.model().max_model_len
    if limit is not None:
        # The question and its media need room too.
        budget = min(budget, max(1, limit // 2))
    said = chat.complete(session, content, budget, modality.options if media else {}).answer
    if said.flaw is not None:
        raise DegenerateError(f"the output is {session.clean(said.flaw)}: {_quote(session, said)}")
    return said


def complaint(exercise: Exercise, said: Answer) -> str | None:
    """Return what is wrong with an answer, or None."""
    from healthchecks import reading

    if not said.text and said.cut:
        return "its reasoning did not come to an end within the tokens it was given"
    return reading.complaint(exercise.wanted, said.text)


def _part(medium: Medium) -> dict[str, object]:
    """Return a part of a message.

    vLLM caches processed media by ``uuid`` where one is given, and by content otherwise. A new
    one each time makes the encoder do its work again.
    """
    kind = f"{medium.kind}_url"
    return {"type": kind, kind: {"url": medium.url}, "uuid": chat.nonce()}


def _quote(session: Session, said: Answer) -> str:
    if said.text:
        return repr(session.clean(said.text))
    return f"no answer, only reasoning: {session.clean(said.reasoning[-200:])!r}"
