"""The generated media: valid files, with what they are said to show, the same everywhere."""

from __future__ import annotations

import hashlib
import io
import itertools
import math
import struct
import wave
import zlib
from random import Random
from typing import TYPE_CHECKING

import pytest

from healthchecks import exercises
from healthchecks.stimuli import films, pictures, sounds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIDE = pictures.PICTURE_SIDE
# Of all media of the seed "golden", in their order: a change of the generators changes what a
# seed that was noted down stands for, and what tiny-omni is trained on.
GOLDEN = "5c5356da3d0f2c6f337d8538c3de71b5e2ec38d46821737c98c3ac680f322915"


def random(seed: object) -> Random:
    return Random(str(seed))  # noqa: S311 (repeatable on purpose)


def decode_png(data: bytes) -> tuple[int, int, list[bytes]]:
    """Width, height and rows of RGB, from the chunks up."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = [], 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length)[0] == zlib.crc32(kind + body)
        chunks.append((kind, body))
        at += 12 + length
    assert [kind for kind, _ in chunks] == [b"IHDR", b"IDAT", b"IEND"]
    width, height, *form = struct.unpack(">IIBBBBB", chunks[0][1])
    assert form == [8, 2, 0, 0, 0]
    raw, line = zlib.decompress(chunks[1][1]), 1 + 3 * width
    assert len(raw) == height * line
    rows, above = [], bytes(3 * width)
    for start in range(0, len(raw), line):
        filtered, row = raw[start], bytearray(raw[start + 1 : start + line])
        for index in range(3 * width):
            left = row[index - 3] if index >= 3 else 0
            row[index] = (row[index] + (left if filtered == 1 else above[index])) % 256
        above = bytes(row)
        rows.append(above)
    return width, height, rows


def area(rows: list[bytes]) -> tuple[float, float, int]:
    """Middle and number of the pixels that are not of the ground's colour."""
    ground = rows[0][:3]
    places = [
        (x, y)
        for y, row in enumerate(rows)
        for x in range(len(row) // 3)
        if row[3 * x : 3 * x + 3] != ground
    ]
    count = len(places)
    return sum(x for x, _ in places) / count, sum(y for _, y in places) / count, count


def chunks_of(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Every chunk of a RIFF file, those of its lists too."""
    at = 0
    while at < len(data):
        name, length = struct.unpack_from("<4sI", data, at)
        body = data[at + 8 : at + 8 + length]
        assert len(body) == length
        yield name, body
        if name in {b"RIFF", b"LIST"}:
            yield from chunks_of(body[4:])
        at += 8 + length + length % 2
    assert at == len(data)


# pictures


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 10, 11, 12, 257, 258, 259, 260, 261, 262, 5000])
def test_what_is_compressed_is_zlibs(size: int) -> None:
    for data in (bytes(size), b"\xc8" * size + b"ab", random(size).randbytes(size)):
        assert zlib.decompress(pictures.compress(data)) == data


def test_every_length_of_a_repetition_has_its_code() -> None:
    for length in range(1, 700):
        data = b"x" + b"\x00" * length + b"\x91"
        assert zlib.decompress(pictures.compress(data)) == data
    with pytest.raises(ValueError, match="259"):
        pictures.repetition(259)


@pytest.mark.parametrize("shape", pictures.SHAPES)
@pytest.mark.parametrize("colour", pictures.COLOURS)
def test_a_picture_has_one_shape_of_its_colour(colour: str, shape: str) -> None:
    width, height, rows = decode_png(pictures.draw(colour, shape, random(f"{colour}{shape}")))
    assert (width, height) == (SIDE, SIDE)
    colours = {row[3 * x : 3 * x + 3] for row in rows for x in range(width)}
    assert len(colours) == 2
    ground = rows[0][:3]
    (drawn,) = colours - {ground}
    wanted = pictures.COLOURS[colour]
    assert max(abs(a - b) for a, b in zip(drawn, wanted, strict=True)) <= pictures.COLOUR_SHIFT
    # Nearer to its own colour than to any other, and grey behind.
    nearest = min(pictures.COLOURS, key=lambda name: math.dist(pictures.COLOURS[name], drawn))
    assert nearest == colour
    assert len(set(ground)) == 1
    assert math.dist(ground, drawn) > 80
    # None of it is cut off.
    edge = [*rows[0], *rows[-1], *(byte for row in rows for byte in row[:3] + row[-3:])]
    assert set(edge) == set(ground)


def test_the_shapes_are_as_large_as_such_shapes_are() -> None:
    radius = 60.0
    shares = {
        "circle": math.pi,
        "square": 4 * 0.85**2,
        "triangle": 3 * math.sqrt(3) / 4,
        "star": 10 * 0.5 * 1.05 * 0.42 * math.sin(math.pi / 5),
    }
    for shape, share in shares.items():
        covers = pictures.outline(shape, (96.0, 96.0), radius)
        spans = [span for row in range(SIDE) for span in covers(row)]
        assert sum(end - begin for begin, end in spans) == pytest.approx(
            share * radius**2, rel=0.03
        )


def test_what_leaves_the_picture_is_cut_at_its_edge() -> None:
    covers = pictures.disc((0.0, 5.0), 20.0)
    painted = pictures.paint((10, 10), (1, 1, 1), (2, 2, 2), covers)
    assert painted == b"\2" * 300


# sounds


def bursts(samples: list[int]) -> list[int]:
    """The lengths of what is not silence; 50 ms of silence end it."""
    lengths, loud, quiet = [], 0, 0
    for sample in samples:
        quiet = 0 if sample else quiet + 1
        if sample or (loud and quiet < 800):
            loud += 1
        elif loud:
            lengths.append(loud - quiet + 1)
            loud = 0
    return lengths + ([loud] if loud else [])


def pcm_of(data: bytes) -> list[int]:
    with wave.open(io.BytesIO(data)) as sound:
        assert (sound.getnchannels(), sound.getsampwidth(), sound.getframerate()) == (1, 2, 16_000)
        frames = sound.readframes(sound.getnframes())
    return list(struct.unpack(f"<{len(frames) // 2}h", frames))


@pytest.mark.parametrize("count", range(6))
@pytest.mark.parametrize("seconds", [None, 2.4])
def test_the_beeps_can_be_counted(count: int, seconds: float | None) -> None:
    for seed in range(5):
        samples = pcm_of(sounds.wav(sounds.beeps(count, random(seed), seconds)))
        lengths = bursts(samples)
        assert len(lengths) == count
        assert all(length > 1900 for length in lengths)
        assert seconds is None or len(samples) == 38_400
        assert max(map(abs, samples)) <= sounds.AMPLITUDE


@pytest.mark.parametrize("second", sounds.PITCHES)
def test_the_second_tone_is_higher_or_lower(second: str) -> None:
    for seed in range(5):
        samples = pcm_of(sounds.wav(sounds.two_tones(second, random(seed))))
        half = len(samples) // 2
        rates = []
        for part in (samples[:half], samples[half:]):
            crossings = sum(a < 0 <= b for a, b in itertools.pairwise(part))
            rates.append(crossings / (sum(map(bool, part)) / 16_000))
        assert (rates[1] > 1.5 * rates[0]) if second == "higher" else (rates[0] > 1.5 * rates[1])


# films


@pytest.mark.parametrize("direction", films.DIRECTIONS)
def test_the_ball_moves_in_its_direction(direction: str) -> None:
    dx, dy = films.DIRECTIONS[direction]
    data = films.avi(films.frames(direction, random(direction)))
    images = [body for name, body in chunks_of(data) if name == b"00dc"]
    assert len(images) == films.FRAMES
    places = [area(decode_png(image)[2]) for image in images]
    for (x0, y0, size0), (x1, y1, size1) in itertools.pairwise(places):
        assert abs(size0 - size1) < 0.1 * size0
        along = (x1 - x0) * dx + (y1 - y0) * dy
        across = (x1 - x0) * dy + (y1 - y0) * dx
        assert along > 5
        assert abs(across) < 1
    still = films.avi(films.frames(None, random(direction)))
    assert len({body for name, body in chunks_of(still) if name == b"00dc"}) == 1


def test_a_film_has_a_sound_track_on_request() -> None:
    samples = sounds.beeps(3, random(1), films.TRACK_SECONDS)
    found = list(chunks_of(films.avi(films.frames("up", random(1)), samples)))
    headers = [body[:4] for name, body in found if name == b"strh"]
    assert headers == [b"vids", b"auds"]
    track = b"".join(body for name, body in found if name == b"01wb")
    floats = struct.unpack(f"<{len(track) // 4}f", track)
    assert floats == tuple(round(sample) / 32768 for sample in samples)
    assert len(bursts([round(32768 * sample) for sample in floats])) == 3


@pytest.mark.parametrize("sounding", [False, True])
def test_the_index_of_a_film_leads_to_its_parts(sounding: bool) -> None:
    samples = sounds.silence(films.TRACK_SECONDS) if sounding else None
    data = films.avi(films.frames("left", random(1)), samples)
    index = next(body for name, body in chunks_of(data) if name == b"idx1")
    start = data.index(b"movi")
    entries = [struct.unpack_from("<4sIII", index, at) for at in range(0, len(index), 16)]
    assert len(entries) == films.FRAMES * (2 if sounding else 1)
    for name, _, offset, length in entries:
        assert struct.unpack_from("<4sI", data, start + offset) == (name, length)


# exercises


@pytest.mark.parametrize("modality", exercises.MODALITIES, ids=lambda modality: modality.name)
def test_a_pair_differs_in_every_fact_and_not_in_the_question(modality: exercises.Modality) -> None:
    seen = set()
    for seed in range(40):
        first, second = exercises.pair(modality, str(seed))
        assert first.modality is second.modality is modality
        for fact in modality.facts:
            assert first.wanted[fact] != second.wanted[fact]
            assert {first.wanted[fact], second.wanted[fact]} <= set(exercises.FACTS[fact])
        assert {m.content for m in first.media}.isdisjoint(m.content for m in second.media)
        seen.add(first.right)
    assert len(seen) > 1


def test_a_seed_stands_for_the_same_bytes_on_every_machine() -> None:
    digest = hashlib.sha256()
    for modality in exercises.MODALITIES:
        for exercise in exercises.pair(modality, "golden"):
            digest.update(exercise.right.encode())
            for medium in exercise.media:
                digest.update(medium.content)
    assert digest.hexdigest() == GOLDEN


def test_media_are_small_enough_for_a_proxy_in_front() -> None:
    for modality in exercises.MODALITIES:
        for exercise in exercises.pair(modality, "size"):
            assert sum(len(medium.url) for medium in exercise.media) < 300_000


def test_the_files_of_the_package_are_what_they_are_taken_for() -> None:
    (picture,), (film,) = exercises.jpeg().media, exercises.mp4().media
    assert picture.url.startswith("data:image/jpeg;base64,/9j/")
    assert picture.content[-2:] == b"\xff\xd9"
    assert film.content[4:8] == b"ftyp"
    assert b"avc1" in film.content


def test_the_media_of_a_seed_can_be_looked_at(tmp_path: Path) -> None:
    table = exercises.write_stimuli(tmp_path / "new", "7")
    assert len(table.splitlines()) == len(list((tmp_path / "new").iterdir())) == 16
    assert exercises.write_stimuli(tmp_path / "new", "7") == table
    with pytest.raises(FileExistsError):
        exercises.write_stimuli(tmp_path / "new", "8")
