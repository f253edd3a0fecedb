"""The media of both stages of the training, as arrays, with the answers to them.

Pixels are uint8 arrays (height, width, RGB), sounds float arrays of -32768 to 32767 at 16 kHz.
What is made depends on the random numbers alone: `numpy` adds noise, `Pillow` makes JPEGs.
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from PIL import Image

from healthchecks.stimuli import films, pictures, sounds

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from healthchecks.stimuli.pictures import Colour, Point, Spans

Array = Any

BEEPS: Final = (0, 1, 2, 3, 4, 5)
BEEP_SHARES: Final = (0.06, 0.188, 0.188, 0.188, 0.188, 0.188)
# A film in which nothing moves has its own answer.
FILM_SHARES: Final = (0.24, 0.24, 0.24, 0.24, 0.04)
STILL: Final = "still"
# A picture with nothing in it, of so many.
EMPTY_SHARE: Final = 0.03
EMPTY: Final = "nothing"


class Media(Protocol):
    """What a stage draws its samples from; each comes with the answer to it."""

    def picture(self, random: Random) -> tuple[Array, str]:
        """Return pixels, and `red circle` or `nothing`."""

    def sound(self, random: Random) -> tuple[Array, str]:
        """Return a sound, and how many beeps it has, in digits."""

    def track(self, random: Random) -> tuple[Array, str]:
        """Return the sound of a film, and how many beeps it has."""

    def tones(self, second: str, random: Random) -> Array:
        """Return two tones, of which the second is `higher` or `lower`."""

    def film(self, random: Random) -> tuple[Array, str]:
        """Return frames, an even number of them, and `left` or `still`."""


def array(rgb: bytes, width: int, height: int) -> Array:
    """Return rows of RGB as an array."""
    return np.frombuffer(rgb, dtype=np.uint8).reshape(height, width, 3)


def noisy(pixels: Array, random: Random, share: float, most: float) -> Array:
    """Add noise to a share of the pictures, of a deviation of up to `most`."""
    if random.random() >= share:
        return pixels
    noise = np.random.default_rng(random.getrandbits(32))
    deviation = random.uniform(1, most)
    shift = noise.normal(0, deviation, pixels.shape).astype(np.int16)
    return np.clip(pixels.astype(np.int16) + shift, 0, 255).astype(np.uint8)


def rounded(samples: Array) -> Array:
    """Return samples as 16 bits hold them."""
    return np.clip(np.round(samples), -32768, 32767)


def own_film(direction: str | None, random: Random) -> Array:
    """Return a film as the probes show it."""
    side = films.FILM_SIDE
    return np.stack([array(rgb, side, side) for rgb in films.frames(direction, random)])


def direction(random: Random) -> str | None:
    """Choose where the film moves."""
    chosen: str | None = random.choices([*films.DIRECTIONS, None], FILM_SHARES)[0]
    return chosen


class Plain:
    """Stage 1: what the probes show, with a little noise."""

    def picture(self, random: Random) -> tuple[Array, str]:
        """Draw as the probes do."""
        side = pictures.PICTURE_SIDE
        if random.random() < EMPTY_SHARE:
            ground = pictures.ground_for(random.choice(list(pictures.COLOURS.values())), random)
            return np.full((side, side, 3), ground, np.uint8), EMPTY
        colour, shape = random.choice(list(pictures.COLOURS)), random.choice(pictures.SHAPES)
        pixels = array(pictures.pixels(colour, shape, random), side, side)
        return self._noisy(pixels, random), f"{colour} {shape}"

    def sound(self, random: Random) -> tuple[Array, str]:
        """Beep as the probes do, and up to five times."""
        return self._beeps(random, None)

    def track(self, random: Random) -> tuple[Array, str]:
        """Beep for as long as a film of the probes."""
        return self._beeps(random, films.TRACK_SECONDS)

    def tones(self, second: str, random: Random) -> Array:
        """Sound as the probes do."""
        return self._loud(sounds.two_tones(second, random), random)

    def film(self, random: Random) -> tuple[Array, str]:
        """Move as the probes do."""
        way = direction(random)
        return self._noisy(own_film(way, random), random), way or STILL

    def _beeps(self, random: Random, seconds: float | None) -> tuple[Array, str]:
        count = random.choices(BEEPS, BEEP_SHARES)[0]
        return self._loud(sounds.beeps(count, random, seconds), random), str(count)

    def _noisy(self, pixels: Array, random: Random) -> Array:
        return noisy(pixels, random, 0.3, 8)

    def _loud(self, samples: list[float], random: Random) -> Array:
        scaled = np.asarray(samples, np.float32) * random.uniform(0.3, 1.6)
        if random.random() < 0.3:  # noqa: PLR2004 (a share)
            noise = np.random.default_rng(random.getrandbits(32))
            scaled = scaled + noise.normal(0, random.uniform(1, 60), scaled.shape)
        return rounded(scaled)


SQUARE_SIZES: Final = ((192, 192),) * 5
OTHER_SIZES: Final = ((128, 128), (160, 160), (256, 192), (192, 256), (224, 192), (160, 224))
FILM_SIZES: Final = ((128, 128), (96, 96), (160, 160), (160, 128))
FILM_LENGTHS: Final = (6, 8, 8, 10, 12)
LONG_FILM_SIZES: Final = ((256, 192), (192, 192), (224, 160))
LONG_FILM_LENGTHS: Final = (8, 12, 16, 24)
WAVES: Final = ("sine", "square", "harmonic")
# How far a ground has to be from the shape on it: in brightness, and in one colour.
CONTRAST: Final = (50, 80)


class Broad:
    """Stage 2: other sizes, grounds, wave forms, loudness, speeds and lengths too; noise; JPEG.

    While `long` is set, films are larger and longer.
    """

    def __init__(self) -> None:
        self.long = False

    def picture(self, random: Random) -> tuple[Array, str]:
        """Draw a shape of some size and turn somewhere on some ground."""
        width, height = random.choice(SQUARE_SIZES + OTHER_SIZES)
        name, colour, ground = colour_and_ground(random)
        if random.random() < EMPTY_SHARE:
            return np.full((height, width, 3), ground, np.uint8), EMPTY
        shape, side = random.choice(pictures.SHAPES), min(width, height)
        radius = random.uniform(0.17, 0.42) * side
        centre = _place(width, height, radius, random)
        turn = random.uniform(-0.15, 0.15) if random.random() < 0.4 else 0  # noqa: PLR2004
        covers = turned(shape, centre, radius, turn)
        pixels = array(pictures.paint((width, height), ground, colour, covers), width, height)
        pixels = noisy(pixels, random, 0.25, 10)
        if random.random() < 0.3:  # noqa: PLR2004 (a share)
            pixels = jpeg(pixels, random)
        return pixels, f"{name} {shape}"

    def sound(self, random: Random) -> tuple[Array, str]:
        """Beep up to five times."""
        return self._beeps(random, None)

    def track(self, random: Random) -> tuple[Array, str]:
        """Beep for 2.3 to 4 seconds."""
        own = films.TRACK_SECONDS
        return self._beeps(random, random.choice([own, own, own, random.uniform(2.3, 4)]))

    def tones(self, second: str, random: Random) -> Array:
        """Sound two tones of one wave form."""
        if random.random() < 0.5:  # noqa: PLR2004 (a share)
            return loud(sounds.two_tones(second, random), random)
        low = 10 ** random.uniform(math.log10(200), math.log10(1200))
        high = low * random.uniform(1.5, 3)
        first, last = (low, high) if second == "higher" else (high, low)
        wave = random.choice(WAVES)
        seconds = random.uniform(0.2, 0.8)
        parts = [
            _silence(random.uniform(0, 0.4)),
            tone(first, seconds, wave, 0.01),
            _silence(random.uniform(0.05, 0.5)),
            tone(last, seconds, wave, 0.01),
            _silence(random.uniform(0, 0.5)),
        ]
        return loud(np.concatenate(parts), random)

    def film(self, random: Random) -> tuple[Array, str]:
        """Move a shape, not quite straight, through all or a part of the picture."""
        way = direction(random)
        if random.random() < 0.4 and not self.long:  # noqa: PLR2004 (a share)
            return noisy(own_film(way, random), random, 0.25, 10), way or STILL
        width, height = random.choice(LONG_FILM_SIZES if self.long else FILM_SIZES)
        count = random.choice(LONG_FILM_LENGTHS if self.long else FILM_LENGTHS)
        _, colour, ground = colour_and_ground(random)
        shape = random.choice(["circle", "circle", *pictures.SHAPES])
        radius = random.uniform(0.08, 0.2) * min(width, height)
        frames = [
            array(
                pictures.paint(
                    (width, height), ground, colour, pictures.outline(shape, centre, radius)
                ),
                width,
                height,
            )
            for centre in path(way, (width, height), count, radius, random)
        ]
        pixels = noisy(np.stack(frames), random, 0.25, 10)
        if random.random() < 0.2:  # noqa: PLR2004 (a share)
            pixels = np.stack([jpeg(frame, random) for frame in pixels])
        return pixels, way or STILL

    def _beeps(self, random: Random, seconds: float | None) -> tuple[Array, str]:
        count = random.choices(BEEPS, BEEP_SHARES)[0]
        return loud(beeps(count, random, seconds), random), str(count)


def colour_and_ground(random: Random) -> tuple[str, Colour, Colour]:
    """Choose a colour's name, a shade of it, and a ground that it stands out from."""
    name = random.choice(list(pictures.COLOURS))
    colour = pictures.vary(pictures.COLOURS[name], random)
    kind = random.random()
    if kind < 0.5:  # noqa: PLR2004 (a share)
        return name, colour, pictures.ground_for(pictures.COLOURS[name], random)
    while True:
        if kind < 0.85:  # noqa: PLR2004 (a share)
            ground = (random.randint(0, 255),) * 3
        else:
            red, green, blue = (random.randint(150, 255) for _ in range(3))
            ground = (red, green, blue)
        most = max(abs(a - b) for a, b in zip(ground, colour, strict=True))
        if abs(_brightness(ground) - _brightness(colour)) > CONTRAST[0] and most > CONTRAST[1]:
            return name, colour, ground


def _brightness(colour: Colour) -> float:
    return 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]


def _place(width: int, height: int, radius: float, random: Random) -> Point:
    if random.random() < 0.3:  # noqa: PLR2004 (a share)
        return width / 2 + random.uniform(-4, 4), height / 2 + random.uniform(-4, 4)
    x, y = (random.uniform(radius * 1.08, side - radius * 1.08) for side in (width, height))
    return x, y


def turned(shape: str, centre: Point, radius: float, turn: float) -> Callable[[int], Spans]:
    """Return what a shape that is turned by some radians covers of each row."""
    if shape == "circle":
        return pictures.disc(centre, radius)
    cosine, sine = math.cos(turn), math.sin(turn)
    return pictures.polygon(
        [
            (
                centre[0] + (x - centre[0]) * cosine - (y - centre[1]) * sine,
                centre[1] + (x - centre[0]) * sine + (y - centre[1]) * cosine,
            )
            for x, y in pictures.corners(shape, centre, radius)
        ]
    )


def jpeg(pixels: Array, random: Random) -> Array:
    """Return what JPEG leaves of a picture."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=random.randint(50, 95))
    return np.asarray(Image.open(file))


def path(
    way: str | None, size: tuple[int, int], count: int, radius: float, random: Random
) -> list[Point]:
    """Return the places of a shape in each frame."""
    width, height = size
    share = random.uniform(0.6, 1.0)
    dx, dy = films.DIRECTIONS[way] if way else (0, 0)
    along, beside = (width, height) if dx else (height, width)
    nearest, farthest = radius * 1.1, along - radius * 1.1
    cut = (farthest - nearest) * (1 - share)
    begin = nearest + cut * random.random()
    end = begin + (farthest - nearest) * share
    across = random.uniform(radius * 1.1, beside - radius * 1.1)
    drift = random.uniform(-0.06, 0.06) * beside
    still = random.uniform(nearest, farthest)
    if way is None:
        return [(min(still, width - radius), min(across, height - radius))] * count
    places = []
    for index in range(count):
        done = begin + (end - begin) * index / (count - 1)
        done = done if dx + dy > 0 else along - done
        aside = min(max(across + drift * index / (count - 1), radius), beside - radius)
        places.append((done, aside) if dx else (aside, done))
    return places


def tone(hertz: float, seconds: float, wave: str, fade: float) -> Array:
    """Return a tone of a wave form; `fade` in seconds."""
    count = round(seconds * sounds.SAMPLE_RATE)
    index = np.arange(count)
    phase = 2 * np.pi * hertz * index / sounds.SAMPLE_RATE
    form = np.sin(phase)
    if wave == "square":
        form = np.sign(form) * 0.6
    elif wave == "harmonic":
        form = (form + 0.5 * np.sin(2 * phase) + 0.3 * np.sin(3 * phase)) / 1.5
    rise = max(1, round(fade * sounds.SAMPLE_RATE))
    edges = np.minimum(1, np.minimum(index / rise, (count - index) / rise))
    return sounds.AMPLITUDE * form * edges


def _silence(seconds: float) -> Array:
    return np.zeros(round(sounds.SAMPLE_RATE * seconds))


def beeps(count: int, random: Random, seconds: float | None) -> Array:
    """Return so many beeps: the probes' own, or of another wave form, pitch and speed."""
    if random.random() < 0.4:  # noqa: PLR2004 (a share)
        return np.asarray(sounds.beeps(count, random, seconds))
    hertz = 10 ** random.uniform(math.log10(300), math.log10(3000))
    wave = random.choice(["sine", *WAVES])
    fade = random.choice([0.01, 0.004, 0.02])
    if seconds:
        long, pause = random.uniform(0.1, 0.22), random.uniform(0.15, 0.22)
    else:
        long, pause = random.uniform(0.08, 0.35), random.uniform(0.12, 0.5)
    parts = [_silence(random.uniform(0, 0.1 if seconds else 0.6))]
    for _ in range(count):
        parts += [tone(hertz, long, wave, fade), _silence(pause)]
    parts.append(_silence(random.uniform(0.3, 2) if not count else random.uniform(0, 0.8)))
    samples = np.concatenate(parts)
    if seconds:
        whole = round(seconds * sounds.SAMPLE_RATE)
        samples = np.concatenate([samples, np.zeros(whole)])[:whole]
    return samples


def loud(samples: Array, random: Random) -> Array:
    """Change the loudness of a sound, and add noise to some."""
    scales = [1, random.uniform(0.1, 0.5), random.uniform(0.5, 2.4)]
    scaled = np.asarray(samples, np.float32) * random.choice(scales)
    if random.random() < 0.35:  # noqa: PLR2004 (a share)
        noise = np.random.default_rng(random.getrandbits(32))
        scaled = scaled + noise.normal(0, 10 ** random.uniform(0, 2.3), scaled.shape)
    return rounded(scaled)
