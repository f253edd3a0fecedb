"""The small media files of the smoke probes, as parts of a chat message."""

from __future__ import annotations

import base64
from pathlib import Path

from healthchecks.chat import nonce

MEDIA_TYPES = {
    "image": ("image.jpg", "image/jpeg"),
    "audio": ("audio.wav", "audio/wav"),
    "video": ("video.mp4", "video/mp4"),
}


def data_url(modality: str) -> str:
    """Return the media file of a modality (image, audio, video) as a base64 data URL.

    Raises:
        OSError: the file cannot be read.

    """
    name, media_type = MEDIA_TYPES[modality]
    content = Path(__file__).with_name("media").joinpath(name).read_bytes()
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def part(modality: str) -> dict[str, object]:
    """Return a message part that holds the media file of a modality.

    vLLM caches processed media by ``uuid`` where one is given, and by content otherwise. A new one
    each time makes the encoder do its work again: the second request tests what the first did.

    Raises:
        OSError: the file cannot be read.

    """
    kind = f"{modality}_url"
    return {"type": kind, kind: {"url": data_url(modality)}, "uuid": nonce()}
