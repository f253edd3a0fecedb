"""The questions that have one right answer, and the media that they are about.

Each modality is asked twice, in the same words, about media with different right answers: who
does not see or hear them can't be right both times.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

from healthchecks.stimuli import films, pictures, sounds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# The values that a fact may have. More beeps than three may be hard to count for a model that
# hears very well, and this is no test of its counting.
FACTS: Final[Mapping[str, tuple[str, ...]]] = {
    "colour": tuple(pictures.COLOURS),
    "shape": pictures.SHAPES,
    "beeps": ("1", "2", "3"),
    "pitch": sounds.PITCHES,
    "direction": tuple(films.DIRECTIONS),
}


@dataclass(frozen=True)
class Medium:
    """A media file. ``kind`` is image, audio or video."""

    kind: str
    media_type: str
    suffix: str
    content: bytes = field(repr=False)

    @property
    def url(self) -> str:
        """The file as a base64 data URL."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.content).decode('ascii')}"


Facts = dict[str, str]


def _picture(wanted: Facts, random: Random) -> Medium:
    content = pictures.draw(wanted["colour"], wanted["shape"], random)
    return Medium("image", "image/png", "png", content)


def _beeps(wanted: Facts, random: Random) -> Medium:
    samples = sounds.beeps(int(wanted["beeps"]), random)
    return Medium("audio", "audio/wav", "wav", sounds.wav(samples))


def _tones(wanted: Facts, random: Random) -> Medium:
    return Medium(
        "audio", "audio/wav", "wav", sounds.wav(sounds.two_tones(wanted["pitch"], random))
    )


def _film(wanted: Facts, random: Random) -> Medium:
    content = films.avi(films.frames(wanted["direction"], random))
    return Medium("video", "video/x-msvideo", "avi", content)


def _film_with_beeps(wanted: Facts, random: Random) -> Medium:
    frames = films.frames(random.choice(FACTS["direction"]), random)
    track = sounds.beeps(int(wanted["beeps"]), random, films.TRACK_SECONDS)
    return Medium("video", "video/x-msvideo", "avi", films.avi(frames, track))


@dataclass(frozen=True)
class Modality:
    """What is asked of one kind of media.

    Attributes:
        name: the probes' name.
        question: the text; all that a right answer takes beside it is in the media.
        facts: what the answer has to name, in the order that it is asked for.
        makers: make the media from the values of the facts.
        options: what the request has more than others.
        optional: whether a server may refuse it and yet be in order.

    """

    name: str
    question: str
    facts: tuple[str, ...]
    makers: tuple[Callable[[Facts, Random], Medium], ...]
    options: Mapping[str, object] = field(default_factory=dict)
    optional: bool = False

    @property
    def answers(self) -> int:
        """How many answers there are, of which one is right."""
        return prod(len(FACTS[fact]) for fact in self.facts)


IMAGE: Final = Modality(
    "image",
    "What are the colour and the shape of the object in this image? Answer with two words: the "
    "colour, then the shape.",
    ("colour", "shape"),
    (_picture,),
)
AUDIO: Final = Modality(
    "audio", "How many beeps do you hear? Answer with a number.", ("beeps",), (_beeps,)
)
PITCH: Final = Modality(
    "pitch",
    "You hear two tones. Is the second tone higher or lower than the first? Answer with one word: "
    "higher or lower.",
    ("pitch",),
    (_tones,),
)
VIDEO: Final = Modality(
    "video",
    "In which direction does the object in this video move: left, right, up or down? Answer with "
    "one word.",
    ("direction",),
    (_film,),
)
TRACK: Final = Modality(
    "track",
    "How many beeps are in the sound of this video? Answer with a number.",
    ("beeps",),
    (_film_with_beeps,),
    {"mm_processor_kwargs": {"use_audio_in_video": True}},
    optional=True,
)
ALL: Final = Modality(
    "all",
    "Three questions. What are the colour and the shape of the object in the image? How many beeps "
    "are in the audio? In which direction does the object in the video move: left, right, up or "
    "down? Answer in this form: colour shape, number, direction.",
    ("colour", "shape", "beeps", "direction"),
    (_picture, _beeps, _film),
)
MODALITIES: Final = (IMAGE, AUDIO, PITCH, VIDEO, TRACK, ALL)


@dataclass(frozen=True)
class Exercise:
    """A question about some media, and the right value of each fact."""

    modality: Modality
    wanted: Facts
    media: tuple[Medium, ...]

    @property
    def right(self) -> str:
        """The right answer in words."""
        return ", ".join(self.wanted[fact] for fact in self.modality.facts)


def pair(modality: Modality, seed: str) -> tuple[Exercise, Exercise]:
    """Return two exercises that differ in every fact; the same ones for the same seed."""
    random = Random(f"{seed}:{modality.name}")  # noqa: S311 (repeatable on purpose)
    values = [random.sample(FACTS[fact], 2) for fact in modality.facts]

    def exercise(which: int) -> Exercise:
        wanted = {f: v[which] for f, v in zip(modality.facts, values, strict=True)}
        media = tuple(make(wanted, random) for make in modality.makers)
        return Exercise(modality, wanted, media)

    return exercise(0), exercise(1)


# ------------------------------------------------------------ files of the common formats

FOLDER: Final = Path(__file__).with_name("media")


def jpeg() -> Exercise:
    """Return the question about the JPEG file of this package; raises OSError."""
    content = (FOLDER / "image.jpg").read_bytes()
    medium = Medium("image", "image/jpeg", "jpg", content)
    return Exercise(IMAGE, {"colour": "red", "shape": "circle"}, (medium,))


def mp4() -> Exercise:
    """Return the question about the MP4 file (H.264) of this package; raises OSError."""
    content = (FOLDER / "video.mp4").read_bytes()
    medium = Medium("video", "video/mp4", "mp4", content)
    return Exercise(VIDEO, {"direction": "right"}, (medium,))


def write_stimuli(folder: Path, seed: str, *, as_json: bool = False) -> str:
    """Write the media of a seed as files, and return a table of them with the right answers.

    Raises:
        OSError: the folder can't be written, or a file of the name holds something else.

    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for modality in MODALITIES:
        for number, exercise in enumerate(pair(modality, seed), start=1):
            for medium in exercise.media:
                kind = f"-{medium.kind}" if len(exercise.media) > 1 else ""
                file = folder / f"{modality.name}-{number}{kind}.{medium.suffix}"
                if not file.exists() or file.read_bytes() != medium.content:
                    with file.open("xb") as new:
                        new.write(medium.content)
                rows.append({"file": str(file), "right": exercise.right})
    if as_json:
        return json.dumps(rows, indent=2)
    return "\n".join(f"{row['file']}  {row['right']}" for row in rows)
