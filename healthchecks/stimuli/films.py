"""Films: a ball that crosses the picture, as AVI of PNG frames, with a sound track on request.

FFmpeg's decoders of `MPNG` and of PCM, which both OpenCV and PyAV have, are all that reading
them takes.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from healthchecks.stimuli.pictures import COLOURS, disc, ground_for, paint, png, vary
from healthchecks.stimuli.riff import chunk, listing
from healthchecks.stimuli.sounds import SAMPLE_RATE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from random import Random

DIRECTIONS: Final[Mapping[str, tuple[int, int]]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
}
BALLS: Final = ("red", "green", "blue", "black", "purple")
FILM_SIDE: Final = 128  # pixels
FRAMES: Final = 8
FRAMES_PER_SECOND: Final = 4
FILM_SECONDS: Final = FRAMES / FRAMES_PER_SECOND
# What a sound track needs for five beeps; the last picture stays for the rest.
TRACK_SECONDS: Final = 2.4


def frames(direction: str | None, random: Random) -> list[bytes]:
    """Return the pixels of each frame: a ball that moves in a direction, or stays."""
    colour = vary(COLOURS[random.choice(BALLS)], random)
    ground = ground_for(colour, random)
    radius = random.uniform(0.1, 0.16) * FILM_SIDE
    across = random.uniform(radius * 1.2, FILM_SIDE - radius * 1.2)
    margin = radius * random.uniform(1.1, 1.5)
    still = random.uniform(radius * 1.2, FILM_SIDE - radius * 1.2)
    dx, dy = DIRECTIONS[direction] if direction else (0, 0)
    pictures = []
    for index in range(FRAMES):
        way = margin + (FILM_SIDE - 2 * margin) * index / (FRAMES - 1)
        if dx + dy < 0:
            way = FILM_SIDE - way
        if direction is None:
            way = still
        centre = (across, way) if dy else (way, across)
        covers = disc(centre, radius)
        pictures.append(paint((FILM_SIDE, FILM_SIDE), ground, colour, covers))
    return pictures


def avi(pictures: Sequence[bytes], samples: Sequence[float] | None = None) -> bytes:
    """Return frames as an AVI file, with a sound track if there are samples."""
    images = [png(picture, FILM_SIDE) for picture in pictures]
    largest = max(map(len, images))
    sound = float_pcm(samples) if samples is not None else b""
    streams = _picture_stream(len(images), largest)
    if sound:
        streams += _sound_stream(len(sound))
    header = struct.pack(
        "<14I",
        1_000_000 // FRAMES_PER_SECOND, largest * FRAMES_PER_SECOND, 0, HAS_INDEX, len(images), 0,
        2 if sound else 1, largest, FILM_SIDE, FILM_SIDE, 0, 0, 0, 0,
    )  # fmt: skip
    body, index = _interleaved(images, sound)
    return chunk(
        b"RIFF",
        b"AVI "
        + listing(b"hdrl", chunk(b"avih", header) + streams)
        + listing(b"movi", body)
        + chunk(b"idx1", index),
    )


HAS_INDEX: Final = 0x10
KEY_FRAME: Final = 0x10
ANY_QUALITY: Final = 0xFFFFFFFF
IEEE_FLOAT: Final = 3
SAMPLE_BYTES: Final = 4


def float_pcm(samples: Sequence[float]) -> bytes:
    """Return samples as 32-bit floats of -1 to 1.

    vLLM 0.23 takes the sound track of a video as PyAV decodes it, and does not scale integers.
    """
    return struct.pack(f"<{len(samples)}f", *(round(sample) / 32768 for sample in samples))


def _picture_stream(count: int, largest: int) -> bytes:
    header = struct.pack(
        "<4s4sIHHIIIIIIII4H",
        b"vids", b"MPNG", 0, 0, 0, 0, 1, FRAMES_PER_SECOND, 0, count, largest, ANY_QUALITY,
        0, 0, 0, FILM_SIDE, FILM_SIDE,
    )  # fmt: skip
    bitmap = struct.pack(
        "<IiiHH4sIiiII",
        40, FILM_SIDE, FILM_SIDE, 1, 24, b"MPNG", 3 * FILM_SIDE * FILM_SIDE, 0, 0, 0, 0,
    )  # fmt: skip
    return listing(b"strl", chunk(b"strh", header) + chunk(b"strf", bitmap))


def _sound_stream(length: int) -> bytes:
    second = SAMPLE_BYTES * SAMPLE_RATE
    header = struct.pack(
        "<4s4sIHHIIIIIIII4H",
        b"auds", bytes(4), 0, 0, 0, 0, SAMPLE_BYTES, second, 0, length // SAMPLE_BYTES,
        second // FRAMES_PER_SECOND, ANY_QUALITY, SAMPLE_BYTES, 0, 0, 0, 0,
    )  # fmt: skip
    form = struct.pack("<HHIIHH", IEEE_FLOAT, 1, SAMPLE_RATE, second, SAMPLE_BYTES, 32)
    return listing(b"strl", chunk(b"strh", header) + chunk(b"strf", form))


def _interleaved(images: Sequence[bytes], sound: bytes) -> tuple[bytes, bytes]:
    """Return each picture followed by its share of the sound, and the index of all of them."""
    share = SAMPLE_BYTES * SAMPLE_RATE // FRAMES_PER_SECOND
    body, index, at = [], [], 4  # places count from the list's name on
    for number, image in enumerate(images):
        last = number == len(images) - 1
        parts = [(b"00dc", image)]
        if sound:
            parts.append((b"01wb", sound[share * number : None if last else share * (number + 1)]))
        for name, content in parts:
            piece = chunk(name, content)
            index.append(struct.pack("<4sIII", name, KEY_FRAME, at, len(content)))
            body.append(piece)
            at += len(piece)
    return b"".join(body), b"".join(index)
