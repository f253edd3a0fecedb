"""Pictures: one shape of one colour on a plain ground, as PNG."""

from __future__ import annotations

import itertools
import math
import re
import struct
import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from random import Random

Colour = tuple[int, int, int]
Point = tuple[float, float]
# Which parts of a row of pixels a shape covers: each from a column up to another.
Spans = list[tuple[int, int]]

COLOURS: Final[Mapping[str, Colour]] = {
    "red": (220, 20, 20),
    "green": (20, 160, 40),
    "blue": (25, 50, 220),
    "yellow": (245, 220, 20),
    "orange": (250, 135, 10),
    "purple": (130, 30, 160),
    "pink": (250, 140, 190),
    "brown": (120, 65, 20),
    "black": (10, 10, 10),
    "white": (250, 250, 250),
}
SHAPES: Final = ("circle", "square", "triangle", "star")
# Greys to draw on. Grey is no answer, and every colour stands out from one of the two.
LIGHT_GROUND: Final[Colour] = (215, 215, 215)
DARK_GROUND: Final[Colour] = (70, 70, 70)
DARK_COLOUR: Final = 150  # mean of red, green and blue
GROUND_SHIFT: Final = 25
COLOUR_SHIFT: Final = 14

# Pixels. A multiple of 32, so that no server has to scale it.
PICTURE_SIDE: Final = 192


def draw(colour: str, shape: str, random: Random) -> bytes:
    """Return the PNG file of a shape of a colour, of some size, somewhere."""
    return png(pixels(colour, shape, random), PICTURE_SIDE)


def pixels(colour: str, shape: str, random: Random) -> bytes:
    """Return the rows of RGB of a square picture of PICTURE_SIDE."""
    paint_colour = vary(COLOURS[colour], random)
    radius = random.uniform(0.2, 0.36) * PICTURE_SIDE
    x, y = (random.uniform(radius * 1.1, PICTURE_SIDE - radius * 1.1) for _ in range(2))
    ground = ground_for(COLOURS[colour], random)
    covers = outline(shape, (x, y), radius)
    return paint((PICTURE_SIDE, PICTURE_SIDE), ground, paint_colour, covers)


def vary(colour: Colour, random: Random) -> Colour:
    """Return nearly the same colour."""
    shift = COLOUR_SHIFT
    red, green, blue = (max(0, min(255, c + random.randint(-shift, shift))) for c in colour)
    return (red, green, blue)


def ground_for(colour: Colour, random: Random) -> Colour:
    """Return a grey that the colour stands out from, a little different each time."""
    red, green, blue = LIGHT_GROUND if sum(colour) / 3 < DARK_COLOUR else DARK_GROUND
    shift = random.randint(-GROUND_SHIFT, GROUND_SHIFT)
    return (red + shift, green + shift, blue + shift)


def outline(shape: str, centre: Point, radius: float) -> Callable[[int], Spans]:
    """Return a function from a row of pixels to what the shape covers of it."""
    if shape == "circle":
        return disc(centre, radius)
    return polygon(corners(shape, centre, radius))


def disc(centre: Point, radius: float) -> Callable[[int], Spans]:
    """Return what a disc covers of each row."""
    x, y = centre

    def spans(row: int) -> Spans:
        square = radius * radius - (row + 0.5 - y) ** 2
        half = math.sqrt(square) if square > 0 else 0.0
        return [(round(x - half), round(x + half))] if half else []

    return spans


def corners(shape: str, centre: Point, radius: float) -> list[Point]:
    """Return the corners of a square, a triangle or a star, upright."""
    x, y = centre
    if shape == "square":
        half = radius * 0.85
        return [
            (x - half, y - half),
            (x + half, y - half),
            (x + half, y + half),
            (x - half, y + half),
        ]
    if shape == "triangle":
        lengths, turns = [radius] * 3, [-0.25 + step / 3 for step in range(3)]
    else:
        lengths, turns = [radius * 1.05, radius * 0.42] * 5, [t / 10 - 0.25 for t in range(10)]
    angles = [math.tau * turn for turn in turns]
    return [
        (x + length * math.cos(angle), y + length * math.sin(angle))
        for length, angle in zip(lengths, angles, strict=True)
    ]


def polygon(points: Sequence[Point]) -> Callable[[int], Spans]:
    """Return what a polygon covers of each row: between its first two edges, and so on."""
    edges = list(zip(points, [*points[1:], points[0]], strict=True))

    def spans(row: int) -> Spans:
        level = row + 0.5
        crossings = sorted(
            x0 + (level - y0) * (x1 - x0) / (y1 - y0)
            for (x0, y0), (x1, y1) in edges
            if (y0 <= level) != (y1 <= level)
        )
        pairs = zip(crossings[::2], crossings[1::2], strict=True)
        return [(round(begin), round(end)) for begin, end in pairs]

    return spans


def paint(
    size: tuple[int, int], ground: Colour, colour: Colour, covers: Callable[[int], Spans]
) -> bytes:
    """Return the pixels of a picture of a width and height, rows of RGB."""
    width, height = size
    back, front = bytes(ground), bytes(colour)
    rows = []
    for row in range(height):
        at = 0
        for start, stop in covers(row):
            begin, end = (max(at, min(width, column)) for column in (start, stop))
            rows += [back * (begin - at), front * (end - begin)]
            at = end
        rows.append(back * (width - at))
    return b"".join(rows)


# --------------------------------------------------------------------------------- PNG

PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
FILTER_SUB, FILTER_UP = b"\1", b"\2"


def png(rgb: bytes, side: int) -> bytes:
    """Return square RGB pixels as a PNG file."""
    # Eight bits of each of three colours, and the only compression, filters and order there are.
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = b"".join(filtered_rows(rgb, 3 * side))
    chunks = ((b"IHDR", header), (b"IDAT", compress(data)), (b"IEND", b""))
    return PNG_SIGNATURE + b"".join(itertools.starmap(png_chunk, chunks))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Return one chunk of a PNG file."""
    check = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)


def filtered_rows(rgb: bytes, width: int) -> Iterator[bytes]:
    """Turn rows of so many bytes into differences, which for plain areas are zeros."""
    above = b""
    for start in range(0, len(rgb), width):
        row = rgb[start : start + width]
        if row == above:
            yield FILTER_UP + bytes(width)
        else:
            left = bytes(3) + row[:-3]
            yield FILTER_SUB + bytes((a - b) % 256 for a, b in zip(row, left, strict=True))
        above = row


# Deflate's codes for the length of a repetition (RFC 1951, 3.2.5): from a length on, one code for
# each 2 ** bits of them.
LENGTH_BITS: Final = (0,) * 8 + (1,) * 4 + (2,) * 4 + (3,) * 4 + (4,) * 4 + (5,) * 4
LONGEST: Final = 258
SHORTEST: Final = 3
FIRST_LENGTH_CODE: Final = 257
ONE_BACK: Final = "00000"


def compress(data: bytes) -> bytes:
    """Return data in zlib's format (RFC 1950), with nothing but runs of a byte made shorter.

    zlib and its replacements compress to different bytes, and the same seed is to give the same
    file everywhere.
    """
    bits = ["110"]  # the last block, and the codes that RFC 1951 fixes (3.2.6)
    for run in re.finditer(rb"(.)\1*", data, re.DOTALL):
        length = run.end() - run.start()
        byte = literal(data[run.start()])
        bits.append(byte)
        length -= 1
        while length >= SHORTEST:
            step = min(length, LONGEST)
            bits.append(repetition(step) + ONE_BACK)
            length -= step
        bits += [byte] * length
    bits.append(symbol(256))  # the end
    stream = "".join(bits)
    body = int(stream[::-1], 2).to_bytes((len(stream) + 7) // 8, "little")
    return b"\x78\x01" + body + struct.pack(">I", zlib.adler32(data))


def symbol(code: int) -> str:
    """Return the bits of a code above 255, in the order of the stream."""
    return f"{code - 256:07b}" if code < 280 else f"{0xC0 + code - 280:08b}"  # noqa: PLR2004


def literal(byte: int) -> str:
    """Return the bits of a byte."""
    return f"{0x30 + byte:08b}" if byte < 144 else f"{0x190 + byte - 144:09b}"  # noqa: PLR2004


def repetition(length: int) -> str:
    """Return the bits of a length of 3 to 258."""
    if length == LONGEST:
        return symbol(285)
    first = SHORTEST
    for index, bits in enumerate(LENGTH_BITS):
        if length < first + 2**bits:
            # Unlike codes, numbers come with their lowest bit first.
            more = f"{length - first:0{bits}b}"[::-1] if bits else ""
            return symbol(FIRST_LENGTH_CODE + index) + more
        first += 2**bits
    raise ValueError(f"no repetition is {length} bytes long")
