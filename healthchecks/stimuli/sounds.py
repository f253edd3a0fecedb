"""Sounds: beeps to be counted, and two tones to be compared, as WAV."""

from __future__ import annotations

import array
import math
import struct
import sys
from typing import TYPE_CHECKING, Final

from healthchecks.stimuli.riff import chunk

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

# Samples are numbers of -32768 to 32767, in mono.
SAMPLE_RATE: Final = 16_000
AMPLITUDE: Final = 12_000
FADE_SECONDS: Final = 0.01
PITCHES: Final = ("higher", "lower")


def tone(hertz: float, seconds: float) -> list[float]:
    """Return the samples of a tone, without the clicks of a hard start and end."""
    count = round(seconds * SAMPLE_RATE)
    fade = round(FADE_SECONDS * SAMPLE_RATE)
    step = math.tau * hertz / SAMPLE_RATE
    return [
        AMPLITUDE * min(1.0, index / fade, (count - index) / fade) * math.sin(step * index)
        for index in range(count)
    ]


def silence(seconds: float) -> list[float]:
    """Return samples of nothing."""
    return [0.0] * round(seconds * SAMPLE_RATE)


def beeps(count: int, random: Random, seconds: float | None = None) -> list[float]:
    """Return a sound with so many beeps of one pitch; with none it is silence.

    With `seconds` it lasts so long, and its beeps follow each other faster: five need 2.4.
    """
    hertz = random.uniform(500, 1500)
    long, pause = random.uniform(0.13, 0.22), random.uniform(0.17, 0.22)
    if seconds is None:
        long, pause = random.uniform(0.15, 0.3), random.uniform(0.2, 0.35)
    samples = silence(random.uniform(0.1, 0.3))
    for _ in range(count):
        samples += tone(hertz, long) + silence(pause)
    if not count:
        samples += silence(random.uniform(0.5, 2.0))
    if seconds is not None:
        whole = round(seconds * SAMPLE_RATE)
        samples = (samples + [0.0] * whole)[:whole]
    return samples


def two_tones(second: str, random: Random) -> list[float]:
    """Return a tone and, after a pause, one that is clearly `higher` or `lower`."""
    low = random.uniform(300, 700)
    high = low * random.uniform(1.8, 2.6)
    first, last = (low, high) if second == "higher" else (high, low)
    long = random.uniform(0.4, 0.7)
    return [
        *silence(random.uniform(0.1, 0.3)),
        *tone(first, long),
        *silence(random.uniform(0.2, 0.4)),
        *tone(last, long),
        *silence(0.1),
    ]


def wav(samples: Sequence[float]) -> bytes:
    """Return samples as a WAV file of 16 bits."""
    numbers = array.array("h", (round(sample) for sample in samples))
    if sys.byteorder == "big":
        numbers.byteswap()
    form = struct.pack("<HHIIHH", 1, 1, SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16)
    return chunk(b"RIFF", b"WAVE" + chunk(b"fmt ", form) + chunk(b"data", numbers.tobytes()))
