"""What a model answered, apart from its reasoning, and whether that is text at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

# A model may answer without content; the name of its reasoning differs between vLLM releases.
REASONING_KEYS: Final = ("reasoning", "reasoning_content")
END_OF_REASONING: Final = "</think>"
REPLACEMENT: Final = "\ufffd"

# Characters. A shorter text may well be of one kind: "3", "......".
MIN_REPETITION: Final = 16
# A longer tail says nothing more, nor does a longer piece that is repeated.
TAIL: Final = 400
LONGEST_PIECE: Final = 60
MIN_PIECES: Final = 4
# Of the characters, how many have to be as the piece before has them: the numbers in
# "beep 1, beep 2, ..." may differ.
ALIKE: Final = 0.97


@dataclass(frozen=True)
class Answer:
    """A generated message.

    Attributes:
        text: what it says after its reasoning; empty where the reasoning did not end.
        reasoning: what it says before.
        cut: whether generation ended at the most tokens that were asked for.

    """

    text: str
    reasoning: str
    cut: bool

    @property
    def flaw(self) -> str | None:
        """What makes this no text, or None."""
        return flaw(f"{self.reasoning}\n{self.text}", cut=self.cut)


def from_message(message: Mapping[str, object], *, cut: bool) -> Answer:
    """Read a chat message, whether or not the server has set its reasoning apart."""
    reasoning = "".join(_text(message.get(key)) for key in REASONING_KEYS)
    before, mark, after = _text(message.get("content")).rpartition(END_OF_REASONING)
    if mark:
        return Answer(after.strip(), f"{reasoning}{before}".strip(), cut)
    if cut and not reasoning:
        # Nobody has set anything apart, and the end is missing: all of it may be reasoning.
        return Answer("", after.strip(), cut)
    if not after.strip() and not cut:
        # A model that does not reason, behind a parser that takes all it says for reasoning.
        before, _, rest = reasoning.rpartition(END_OF_REASONING)
        paragraphs = rest.strip().split("\n\n")
        return Answer(paragraphs[-1], "\n\n".join([before, *paragraphs[:-1]]).strip(), cut)
    return Answer(after.strip(), reasoning.strip(), cut)


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    # Content may also be a list of parts.
    parts = value if isinstance(value, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str))


def flaw(text: str, *, cut: bool) -> str | None:
    """Return what makes generated text degenerate, or None.

    Text that was `cut` at a number of tokens may end within a character.
    """
    text = text.strip()
    if not (text.rstrip(REPLACEMENT) if cut else text):
        return "nothing but special tokens or white space"
    broken = (text.rstrip(REPLACEMENT) if cut else text).count(REPLACEMENT)
    if broken:
        return f"{broken} replacement character{'s' if broken > 1 else ''}"
    piece = repeated(text)
    return f"{piece!r} again and again" if piece else None


def repeated(text: str) -> str | None:
    """Return the piece that the end of a text repeats, or None."""
    tail = text[-TAIL:]
    if len(tail) < MIN_REPETITION:
        return None
    for length in range(1, min(LONGEST_PIECE, len(tail) // MIN_PIECES) + 1):
        alike = sum(a == b for a, b in zip(tail, tail[length:], strict=False))
        if alike >= ALIKE * (len(tail) - length):
            return tail[-length:]
    return None
