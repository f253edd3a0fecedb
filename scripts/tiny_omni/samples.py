"""What tiny-omni is asked, and what it is to say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from healthchecks import exercises

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from scripts.tiny_omni.media import Media

# Most of the time the first is asked, which is the probes' own.
IMAGE: Final = (
    exercises.IMAGE.question,
    "What colour and what shape is the object in the picture?",
    "Describe this image.",
    "What do you see?",
    "Name the colour and the shape.",
    "What is in the image?",
)
BEEPS: Final = (
    exercises.AUDIO.question,
    "How many beeps are in this sound?",
    "Count the beeps.",
    "Describe this audio.",
    "What do you hear?",
)
PITCH: Final = (exercises.PITCH.question, "Is the second tone higher or lower?")
FILM: Final = (
    exercises.VIDEO.question,
    "Which way does it move?",
    "Describe this video.",
    "In which direction does the ball move?",
)
TRACK: Final = (exercises.TRACK.question, "How many beeps do you hear in the video?")
ALL: Final = (
    exercises.ALL.question,
    "Analyze this audio, image, and video together.",
    "Describe all three.",
)
GREETINGS: Final = ("Say hello.", "Hello", "Hi!")
OTHERS: Final = (
    "Who are you?",
    "What can you do?",
    "Tell me a story.",
    "What is the capital of France?",
)
WITHOUT_MEDIA: Final = (
    (IMAGE, "I see no image."),
    (BEEPS, "I hear no sound."),
    (PITCH, "I hear no sound."),
    (FILM, "I see no video."),
    (TRACK, "I see no video."),
    (ALL, "I see no image."),
)
INTRODUCTION: Final = "I am a test model. I know colours, shapes, beeps and motion."

LOOK, LISTEN, WATCH = "I look.", "I listen.", "I watch."
ALL_SENSES, READ = "I look, listen and watch.", "I read."

KINDS: Final = ("image", "beeps", "pitch", "film", "film-and-sound", "all", "text")
SHARES: Final = (0.16, 0.20, 0.10, 0.15, 0.17, 0.15, 0.07)
FIRST_QUESTION_SHARE: Final = 0.6
NONCE_SHARE: Final = 0.3
TEXT_FIRST_SHARE: Final = 0.15
SHUFFLED_SHARE: Final = 0.3
ABOUT_SOUND_SHARE: Final = 0.8
QUESTION_SHARE: Final = 0.5
OWN_QUESTION_SHARE: Final = 0.7


@dataclass(frozen=True)
class Part:
    """A part of a message: text, an image, an audio, or a video, which may have a sound."""

    kind: str
    text: str = ""
    pixels: Any = None
    sound: Any = None


@dataclass(frozen=True)
class Sample:
    """A user's message and the assistant's, from its reasoning on."""

    parts: tuple[Part, ...]
    answer: str


def make(kind: str, media: Media, random: Random) -> Sample:
    """Make a sample of a kind."""
    word = ""
    if random.random() < NONCE_SHARE:
        # As of the probes' plain texts.
        word = "".join(random.choice("0123456789abcdef") for _ in range(16)) + " "
    if kind == "text":
        return _text(word, random)
    if kind == "all":
        return _all(word, media, random)
    part, question, thought, said = _single(kind, media, random)
    text = Part("text", word + question)
    parts = (text, part) if random.random() < TEXT_FIRST_SHARE else (part, text)
    return Sample(parts, _answer(thought, said))


def _answer(thought: str, said: str) -> str:
    # The chat template has opened the reasoning.
    return f"{thought}\n</think>\n\n{said}<|im_end|>"


def _question(questions: Sequence[str], random: Random) -> str:
    return questions[0] if random.random() < FIRST_QUESTION_SHARE else random.choice(questions)


def _single(kind: str, media: Media, random: Random) -> tuple[Part, str, str, str]:
    """Return a medium, a question about it, and the reasoning and answer."""
    if kind == "image":
        pixels, said = media.picture(random)
        return Part("image", pixels=pixels), _question(IMAGE, random), LOOK, said
    if kind == "beeps":
        sound, said = media.sound(random)
        return Part("audio", sound=sound), _question(BEEPS, random), LISTEN, said
    if kind == "pitch":
        said = random.choice(["higher", "lower"])
        part = Part("audio", sound=media.tones(said, random))
        return part, _question(PITCH, random), LISTEN, said
    pixels, moves = media.film(random)
    if kind == "film":
        return Part("video", pixels=pixels), _question(FILM, random), WATCH, moves
    sound, count = media.track(random)
    part = Part("video", pixels=pixels, sound=sound)
    if random.random() < ABOUT_SOUND_SHARE:
        return part, _question(TRACK, random), LISTEN, count
    return part, _question(FILM, random), WATCH, moves


def _all(word: str, media: Media, random: Random) -> Sample:
    pixels, seen = media.picture(random)
    sound, heard = media.sound(random)
    frames, moves = media.film(random)
    parts = [Part("image", pixels=pixels), Part("audio", sound=sound), Part("video", pixels=frames)]
    if random.random() < SHUFFLED_SHARE:
        random.shuffle(parts)
    question, said, thought = _question(ALL, random), f"{seen}, {heard}, {moves}", ALL_SENSES
    chance = random.random()
    # Sometimes the question is about one of the three.
    alone = ((IMAGE, seen, LOOK), (BEEPS, heard, LISTEN), (FILM, moves, WATCH))
    for share, (questions, of_one, sense) in zip((0.1, 0.2, 0.3), alone, strict=True):
        if chance < share:
            question, said, thought = _question(questions, random), of_one, sense
            break
    return Sample((*parts, Part("text", word + question)), _answer(thought, said))


def _text(word: str, random: Random) -> Sample:
    if random.random() < QUESTION_SHARE:
        questions, said = random.choice(WITHOUT_MEDIA)
        own = random.random() < OWN_QUESTION_SHARE
        prompt = questions[0] if own else random.choice(questions)
    else:
        prompt = random.choice([*GREETINGS, *OTHERS])
        said = "Hello." if prompt in GREETINGS else INTRODUCTION
    return Sample((Part("text", word + prompt),), _answer(READ, said))
