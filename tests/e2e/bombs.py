"""Small files that are large when they are opened, or that lie about what is in them."""

from __future__ import annotations

import struct
import zlib

from healthchecks.stimuli.pictures import PNG_SIGNATURE, png_chunk
from healthchecks.stimuli.riff import chunk, listing

BLOCK = 65535
RATE = 44100


def png(width: int, height: int, rows: int | None = None) -> bytes:
    """Return a black image; with fewer rows than its header says, where they are given."""
    packer = zlib.compressobj(9)
    row = bytes(1 + 3 * width)
    data = b"".join(packer.compress(row) for _ in range(height if rows is None else rows))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"".join([
        PNG_SIGNATURE,
        png_chunk(b"IHDR", header),
        png_chunk(b"IDAT", data + packer.flush()),
        png_chunk(b"IEND", b""),
    ])  # fmt: skip


def gif(side: int, frames: int) -> bytes:
    """Return an animation: each frame is one pixel on a screen of the given size."""
    head = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return head + frame * frames + b"\x3b"


def avi(side: int, frame: bytes, count: int, claimed: int | None = None) -> bytes:
    """Return a video of PNG images, all the same; its header may claim another number of them."""
    claimed = count if claimed is None else claimed
    main = struct.pack("<10I16x", 40000, 0, 0, 0x10, claimed, 0, 1, len(frame), side, side)
    times = (0, 1, 25, 0, claimed, len(frame), -1, 0)
    stream = b"vidsMPNG" + struct.pack("<IHH6IiI4h", 0, 0, 0, *times, 0, 0, 0, 0)
    size = 3 * side * side
    picture = struct.pack("<IiiHH4sIiiII", 40, side, side, 1, 24, b"MPNG", size, 0, 0, 0, 0)
    head = chunk(b"avih", main) + listing(b"strl", chunk(b"strh", stream) + chunk(b"strf", picture))
    frames = listing(b"movi", chunk(b"00dc", frame) * count)
    return chunk(b"RIFF", b"AVI " + listing(b"hdrl", head) + frames)


def wav(seconds: int, claimed: int) -> bytes:
    """Return silence whose header claims so many bytes of it."""
    form = struct.pack("<HHIIHH", 1, 1, 16000, 32000, 2, 16)
    data = b"data" + struct.pack("<I", claimed) + bytes(32000 * seconds)
    return b"RIFF" + struct.pack("<I", claimed) + b"WAVE" + chunk(b"fmt ", form) + data


def flac(seconds: float) -> bytes:
    """Return silence of CD quality, of which a second takes some 10 bytes."""
    blocks = int(seconds * RATE / BLOCK)
    total = (RATE << 44) | (15 << 36) | (blocks * BLOCK)
    info = struct.pack(">HH", BLOCK, BLOCK) + bytes(6) + total.to_bytes(8, "big") + bytes(16)
    head = b"fLaC\x80" + struct.pack(">I", len(info))[1:] + info
    return head + b"".join(map(_silence, range(blocks)))


def _silence(number: int) -> bytes:
    """One block: a header with its number and its length, and one sample that stands for all."""
    head = b"\xff\xf8\x70\x08" + chr(number).encode() + struct.pack(">H", BLOCK - 1)
    block = head + bytes([_crc(head, 8, 0x07)]) + b"\0\0\0"
    return block + struct.pack(">H", _crc(block, 16, 0x8005))


def _crc(data: bytes, bits: int, polynomial: int) -> int:
    value, top = 0, 1 << (bits - 1)
    for byte in data:
        value ^= byte << (bits - 8)
        for _ in range(8):
            value = ((value << 1) ^ polynomial) if value & top else value << 1
        value &= (1 << bits) - 1
    return value
