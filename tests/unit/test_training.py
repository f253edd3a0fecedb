"""What tiny-omni is asked in training: what the probes ask, and answers that they accept."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from healthchecks import answers, exercises, reading
from scripts.tiny_omni import samples

if TYPE_CHECKING:
    from collections.abc import Sequence


class Drawn:
    """Media that are only named."""

    def picture(self, random: Random) -> tuple[Any, str]:
        return "picture", random.choice(["red circle", "blue star"])

    def sound(self, random: Random) -> tuple[Any, str]:
        return "sound", random.choice("123")

    def track(self, random: Random) -> tuple[Any, str]:
        return "track", random.choice("123")

    def tones(self, second: str, random: Random) -> Any:
        del random
        return f"tones, the second {second}"

    def film(self, random: Random) -> tuple[Any, str]:
        return "film", random.choice(["left", "up"])


def made(kind: str, count: int = 300) -> list[samples.Sample]:
    random = Random(kind)  # noqa: S311 (repeatable on purpose)
    return [samples.make(kind, Drawn(), random) for _ in range(count)]


def said(sample: samples.Sample) -> str:
    """The answer as a server gives it."""
    text = sample.answer.removesuffix("<|im_end|>")
    assert text != sample.answer
    return answers.from_message({"content": text}, cut=False).text


def kinds(sample: samples.Sample) -> Sequence[str]:
    return sorted(part.kind for part in sample.parts if part.kind != "text")


@pytest.mark.parametrize(
    ("kind", "modality", "media"),
    [
        ("image", exercises.IMAGE, ["image"]),
        ("beeps", exercises.AUDIO, ["audio"]),
        ("pitch", exercises.PITCH, ["audio"]),
        ("film", exercises.VIDEO, ["video"]),
        ("film-and-sound", exercises.TRACK, ["video"]),
        ("all", exercises.ALL, ["audio", "image", "video"]),
    ],
)
def test_each_probe_s_question_is_learnt_with_its_form_of_answer(
    kind: str, modality: exercises.Modality, media: list[str]
) -> None:
    asked = [
        sample
        for sample in made(kind)
        if any(part.text.endswith(modality.question) for part in sample.parts)
    ]
    assert len(asked) > 90
    for sample in asked:
        assert kinds(sample) == media
        # What is learnt is an answer that says one value of each fact, as the probes read it.
        text = reading.plain(said(sample))
        assert all(len(found) == 1 for found in reading.facts(modality.facts, text).values())


def test_a_film_s_sound_is_a_part_of_it() -> None:
    parts = [part for sample in made("film-and-sound") for part in sample.parts if part.pixels]
    assert {(part.pixels, part.sound) for part in parts} == {("film", "track")}
    assert all(part.sound is None for sample in made("film") for part in sample.parts)


def test_without_media_no_answer_passes() -> None:
    pairs = {m.question: exercises.pair(m, "text") for m in exercises.MODALITIES}
    asked = 0
    for sample in made("text", 2000):
        (part,) = sample.parts
        pair = next((e for q, e in pairs.items() if part.text.endswith(q)), ())
        asked += bool(pair)
        assert all(reading.complaint(exercise.wanted, said(sample)) for exercise in pair)
    assert asked > 300


def test_the_shares_of_the_kinds_are_whole() -> None:
    assert len(samples.KINDS) == len(samples.SHARES)
    assert sum(samples.SHARES) == pytest.approx(1)
