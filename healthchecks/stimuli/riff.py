"""The container format of WAV and AVI files."""

from __future__ import annotations

import struct


def chunk(name: bytes, body: bytes) -> bytes:
    """Return a chunk with a name of four letters; the next one begins at an even place."""
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def listing(name: bytes, body: bytes) -> bytes:
    """Return a list of chunks."""
    return chunk(b"LIST", name + body)
