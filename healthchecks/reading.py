"""What an answer says: lenient in form, strict in content.

An answer names each fact once, and without a doubt: one that lists several values, takes them
back or guesses says nothing.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import TYPE_CHECKING, Final

from healthchecks import vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

# Characters of an answer, from its end. Some of the patterns take the square of this.
MAX_READ: Final = 8_000


def complaint(wanted: Mapping[str, str], answer: str) -> str | None:
    """Return what is wrong with an answer, or None if it says what it is to say.

    `wanted` has the right value of each fact: `colour`, `shape`, `beeps` (in digits), `pitch`,
    `direction`.
    """
    text = plain(answer[-MAX_READ:])
    unknowing = re.search(vocabulary.DISCLAIMERS, text)
    if unknowing:
        return f"it does not know: {unknowing[0]!r}"
    try:
        said = facts(wanted, text)
    except GuessError as guess:
        return f"it only guesses: {str(guess)!r}"
    for fact, value in wanted.items():
        if not said[fact]:
            return f"it names no {fact}"
        if said[fact] != {value}:
            return f"the {fact} is {' and '.join(sorted(said[fact]))} in it"
    return None


class GuessError(Exception):
    """A value is said with a doubt; the message is the doubting word."""


def facts(wanted: Collection[str], text: str) -> dict[str, set[str]]:
    """Return what a plain text says of each fact; raises GuessError."""
    several = len({MEDIUM_OF[fact] for fact in wanted}) > 1

    def read(part: str) -> dict[str, set[str]]:
        return {
            fact: READERS[fact](without_foreign(fact, part) if several else part) for fact in wanted
        }

    # Where an answer is announced that is whole, what was said on the way to it does not count.
    announced = conclusion(text)
    if announced != text:
        said = read(announced)
        if all(said.values()):
            return said
    return read(text)


def plain(answer: str) -> str:
    """Return text in lower case without markup: its words, punctuation and line breaks."""
    text = unicodedata.normalize("NFKC", answer).casefold()
    text = re.sub("[\u2018\u2019]", "'", text)
    # An answer is announced by its form too: in bold on a last line of its own, or in a TeX box.
    text = re.sub(r"\n[ \t]*\*\*([^*\n:]+)\*\*[ \t.]*$", r"\nanswer: \1", text.rstrip())
    text = re.sub(r"\\boxed\b", "answer: ", text)
    text = re.sub(r"\\(?:text\w*|math\w+)\b", " ", text)
    text = re.sub(r"(?m)^\s*(?:\d+[.)]|[-*\u2022+])(?=\s+\S)", " ", text)
    text = re.sub(r"(?:^|(?<=\s))\d\)(?=\s)", " ", text)
    text = re.sub(r"[*_`#>~|${}\[\]()\"\u201c\u201d]", " ", text)
    return re.sub(r"[^\S\n]+", " ", text).strip()


def conclusion(text: str) -> str:
    """Return the text from the line on that announces the answer last, or all of it."""
    announcements = list(re.finditer(vocabulary.ANNOUNCED, text))
    if not announcements:
        return text
    return text[text.rfind("\n", 0, announcements[-1].start()) + 1 :]


def without_foreign(fact: str, text: str) -> str:
    """Return a text on several media without the clauses on those that the fact is not of."""
    kept = []
    for sentence in sentences(text):
        film = False
        for clause in re.split(r"(?<=[,\u3001;])| and (?=the |an? |in )", sentence):
            topics = {name for name, words in TOPICS.items() if words.search(clause)}
            # A film's ball has a colour too, also in the clause after the one that names it.
            film = "video" in topics or (film and not topics)
            about = topics | ({"video"} if film else set())
            own = MEDIUM_OF[fact]
            if own in topics or not about or (not topics and own != "image"):
                kept.append(clause)
        kept.append("\n")
    return " ".join(kept)


def sentences(text: str) -> list[str]:
    """Split a plain text at the ends of sentences; the point of a decimal number is none."""
    return [part for part in re.split(r"(?<=[!?;\u3002\n])|(?<=\.)(?!\d)", text) if part.strip()]


# ----------------------------------------------------------------------------- by fact


def _colours(text: str) -> set[str]:
    return _asserted(_colour_words(), re.sub(vocabulary.NOT_COLOURS, " , ", text))


def _shapes(text: str) -> set[str]:
    return _asserted(_shape_words(), re.sub(vocabulary.NOT_SHAPES, " ", text))


def _directions(text: str) -> set[str]:
    text = re.sub(vocabulary.JOURNEY, lambda m: f" {END_OF_JOURNEY.get(m[1], m[1])} ", text)
    text = re.sub(vocabulary.JOURNEY_ZH, r"向\1 ", text)
    text = re.sub(vocabulary.TOWARDS_END, lambda m: f" {END_OF_JOURNEY[m[1]]} ", text)
    text = re.sub(vocabulary.NOT_DIRECTIONS, " ", text)
    # One character alone says it where nothing else stands between two marks.
    text = re.sub(
        r"(^|[\s,:;\u3001])([左右上下])(?:边|侧|方|面)?(?=$|[\s,;.\u3001\u3002])", r"\1向\2", text
    )
    return _asserted(_direction_words(), text)


def _beeps(text: str) -> set[str]:
    text = re.sub(vocabulary.NOT_NUMBERS, " ", text)
    # Both ends of "2 to 3 beeps" are said.
    ends = rf"\b({_NUMBER})\s*(?:[-\u2013]|to|or)\s*({_NUMBER})\b"
    text = re.sub(ends, r"\1 beeps, \2 beeps, ", text)
    text = re.sub(f"({_NUMBER_ZH})({_NUMBER_ZH})", r"\1声,\2", text)
    # What counts beeps goes before other numbers, and these before the word "a".
    return _asserted(_counts(), text) or _asserted(_numbers(), text) or _asserted(_single(), text)


def _pitches(text: str) -> set[str]:
    text = re.sub(vocabulary.PITCH_CHANGE, lambda match: f" {match[1] or match[2]} ", text)
    text = re.sub(vocabulary.NOT_PITCHES, " ", text)
    said = set()
    for value, before in _found(_pitch_words(), text):
        tones = re.findall(vocabulary.TONE, before)
        subjects = [tone for compared, tone in tones if not compared]
        # "The first tone is lower" says that the second one is higher.
        of_first = bool(subjects) and subjects[-1] in vocabulary.FIRST
        said.add(vocabulary.OTHER_PITCH.get(value, value) if of_first else value)
    return said


READERS: Final[Mapping[str, Callable[[str], set[str]]]] = {
    "colour": _colours,
    "shape": _shapes,
    "beeps": _beeps,
    "pitch": _pitches,
    "direction": _directions,
}
MEDIUM_OF: Final[Mapping[str, str]] = {
    "colour": "image",
    "shape": "image",
    "beeps": "audio",
    "pitch": "audio",
    "direction": "video",
}
END_OF_JOURNEY: Final[Mapping[str, str]] = {"top": "up", "bottom": "down"}
TOPICS: Final = {name: re.compile(words) for name, words in vocabulary.TOPICS.items()}

# --------------------------------------------------------------------------- the words


def _asserted(words: re.Pattern[str], text: str) -> set[str]:
    return {value for value, _ in _found(words, text)}


def _found(words: re.Pattern[str], text: str) -> list[tuple[str, str]]:
    """Return each value that is asserted, and its sentence up to there; raises GuessError."""
    found = []
    for sentence in sentences(text):
        negated, doubt = False, ""
        for match in words.finditer(sentence):
            kind = str(match.lastgroup)
            if kind in {"negation", "reversal"}:
                negated = kind == "negation"
            elif kind == "hedge":
                doubt = match[0]
            elif not negated:
                if doubt:
                    raise GuessError(f"{doubt} {match[0]}")
                found.append((_value(kind, match[kind]), sentence[: match.start()]))
    return found


def _value(kind: str, word: str) -> str:
    if kind == "one":
        return "1"
    if kind.startswith("number"):
        return str(vocabulary.NUMBERS[word] if word in vocabulary.NUMBERS else int(word))
    return kind


_NUMBER: Final = rf"[0-9]{{1,9}}|{'|'.join(word for word in vocabulary.NUMBERS if word.isascii())}"
_NUMBER_ZH: Final = f"[{''.join(word for word in vocabulary.NUMBERS if not word.isascii())}]"


def _with_moods(values: str, hedges: str = vocabulary.HEDGES) -> re.Pattern[str]:
    return re.compile(
        f"(?P<negation>{vocabulary.NEGATIONS})|(?P<hedge>{hedges})|{values}"
        f"|(?P<reversal>{vocabulary.REVERSALS})"
    )


_NUMBER_HEDGES: Final = f"{vocabulary.HEDGES}|{vocabulary.ESTIMATES}"


def _pattern(words: vocabulary.Words) -> re.Pattern[str]:
    # No longer Chinese word is missed for a shorter one that is a part of it: it begins earlier.
    return _with_moods(
        "|".join(
            rf"(?P<{value}>\b(?:{english})\b|{chinese})"
            for value, (english, chinese) in words.items()
        )
    )


# Compiled on first use: what merely imports the probes shall not wait for it.
@cache
def _colour_words() -> re.Pattern[str]:
    return _pattern(vocabulary.COLOURS)


@cache
def _shape_words() -> re.Pattern[str]:
    return _pattern(vocabulary.SHAPES)


@cache
def _direction_words() -> re.Pattern[str]:
    return _pattern(vocabulary.DIRECTIONS)


@cache
def _pitch_words() -> re.Pattern[str]:
    return _pattern(vocabulary.PITCHES)


@cache
def _counts() -> re.Pattern[str]:
    between = rf"(?:[ -](?!and\b|{_NUMBER})[\w-]+,?){{0,3}}"
    counted = rf"(?={between}[ -](?:{vocabulary.COUNTED})\b)"
    chinese = rf"(?:\d{{1,9}}|{_NUMBER_ZH})\s?(?={vocabulary.COUNTED_ZH})"
    values = rf"\b(?P<number>{_NUMBER}){counted}|(?P<number_zh>{chinese})"
    return _with_moods(values, _NUMBER_HEDGES)


@cache
def _numbers() -> re.Pattern[str]:
    alone = rf"(?<![\u4e00-\u9fff]){_NUMBER_ZH}(?=个?(?:[^\u4e00-\u9fff]|$))"
    return _with_moods(rf"\b(?P<number>{_NUMBER})\b|(?P<number_zh>{alone})", _NUMBER_HEDGES)


@cache
def _single() -> re.Pattern[str]:
    return _with_moods(f"(?P<one>{vocabulary.SINGLE})", _NUMBER_HEDGES)
