"""What media will take to decode, from their headers: refuses bombs before vLLM opens them.

vLLM reads whatever a file's header promises, and keeps all of it: 34 kB of FLAC are an hour of
silence and 4 GiB, 700 kB of PNG are 16 frames and 8 GiB, and a video of one frame that claims to
have two thousand million holds a thread for hours. The estimates are of vLLM 0.23 and the model's
processor, measured on the CPU.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from appliance.inside.limits import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from appliance.inside.limits import Kind, Medium

MIB = 1024 * 1024
# Bytes for each pixel of an image, and of each frame that is taken from a video; for each sample
# of a sound, and for each second of it, of which the model's own samples and spectra are made.
PIXEL, FRAME_PIXEL, SAMPLE, SECOND = 14, 9, 8, 1_000_000
# vLLM's own default.
FRAMES = 32
# What is decoded in all, taken or not: an hour of full HD. And frames for each second.
DECODED_PIXELS, RATE = 250_000_000_000, 120
# Playlists and descriptions of sessions are texts: ffmpeg would open what they name.
HEAD = 64


@dataclass(frozen=True)
class Bounds:
    """What the media of one request may take together, and how long each may be."""

    mib: int
    seconds: int
    frames: int = FRAMES


def check(media: Iterable[Medium], bounds: Bounds) -> None:
    """Raise `Refused` where the media would take too much."""
    total = 0
    for medium in media:
        for data, kind in _files(medium):
            total += measure(data, kind, bounds)
            if total > bounds.mib * MIB:
                raise Refused(
                    f"Decoding the media would take more than {bounds.mib} MiB: "
                    "send fewer, smaller or shorter ones."
                )


def measure(data: bytes, kind: Kind, bounds: Bounds) -> int:
    """Return the bytes that one medium takes; none where it can't be read, as vLLM will find."""
    if kind == "image":
        return _else(_image, data, bounds)
    if data and all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in data[:HEAD]):  # noqa: PLR2004
        raise Refused("A text is no sound and no video.")
    # A video's sound track may be asked for, and one decoder may open what another was meant for.
    taken = _else(_sound, data, bounds)
    if kind != "audio":
        taken += _else(_video, data, bounds)
    return taken + (_else(_image, data, bounds) if kind == "unknown" else 0)


def _files(medium: Medium) -> Iterator[tuple[bytes, Kind]]:
    """Yield the files in a data URL, or in base64 alone.

    Another URL is fetched from a domain that the operator trusts, or refused.
    """
    text, kind = medium.text, medium.kind
    if "://" in text[:16]:
        return
    if text[:5].lower() == "data:":
        head, _, text = text.partition(",")
        if "video/jpeg" in head.lower():
            kind = "image"  # Each frame of a video, with commas between them.
    for part in text.split(","):
        try:
            yield base64.b64decode(part), kind
        except ValueError:
            continue


def _image(data: bytes, bounds: Bounds) -> int:
    del bounds
    image = import_module("PIL.Image")
    try:
        with image.open(io.BytesIO(data)) as opened:
            return int(PIXEL * opened.width * opened.height)
    except image.DecompressionBombError as error:
        raise Refused(str(error)) from None


def _sound(data: bytes, bounds: Bounds) -> int:
    soundfile = import_module("soundfile")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            return _sound_bytes(file.frames, file.channels, file.samplerate, bounds)
    except soundfile.LibsndfileError:
        return _track(data, bounds)


def _track(data: bytes, bounds: Bounds) -> int:
    """Count the samples of what only ffmpeg reads: it decodes all, whatever the header says."""
    av = import_module("av")
    with av.open(io.BytesIO(data)) as container:
        if not container.streams.audio:
            return 0
        samples = taken = 0
        for frame in container.decode(container.streams.audio[0]):
            samples += frame.samples
            channels = len(frame.layout.channels)
            taken = _sound_bytes(samples, channels, frame.sample_rate, bounds)
        return taken


def _sound_bytes(samples: int, channels: int, rate: int, bounds: Bounds) -> int:
    seconds = samples / max(rate, 1)
    taken = SAMPLE * samples * channels + SECOND * seconds
    if seconds > bounds.seconds:
        raise Refused(f"A sound is longer than {bounds.seconds} seconds.")
    if taken > bounds.mib * MIB:
        raise Refused(f"Decoding a sound would take more than {bounds.mib} MiB.")
    return int(taken)


def _video(data: bytes, bounds: Bounds) -> int:
    """Ask the decoder that vLLM asks. It reads as many frames as the header says, and no more."""
    cv2: Any = import_module("cv2")
    # Not released, and the stream outlives it: OpenCV 5.0 lets go of a stream without holding
    # the interpreter's lock, and crashes where that was the last reference.
    stream = io.BytesIO(data)
    capture = cv2.VideoCapture(stream, _reader(cv2), [])
    if not capture.isOpened():
        return 0
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    width = capture.get(cv2.CAP_PROP_FRAME_WIDTH)
    height = capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
    rate = capture.get(cv2.CAP_PROP_FPS)
    del capture
    longest = bounds.seconds * RATE
    if count > longest or count * width * height > DECODED_PIXELS:
        raise Refused(f"A video has too many frames: {count:.0f} of {width:.0f} x {height:.0f}.")
    if rate > 0 and count / rate > bounds.seconds:
        raise Refused(f"A video is longer than {bounds.seconds} seconds.")
    taken = count if bounds.frames < 0 else min(count, bounds.frames)
    del stream
    return int(FRAME_PIXEL * max(taken, 1) * width * height)


def _reader(cv2: Any) -> int:
    registry = cv2.videoio_registry
    readers = [one for one in registry.getStreamBufferedBackends() if registry.hasBackend(one)]
    return int(readers[0])


def _else(measured: Callable[[bytes, Bounds], int], data: bytes, bounds: Bounds) -> int:
    """Return what a decoder says, and 0 where it can't read the data, or is not there.

    It may raise anything; vLLM meets the same, and tells the client.
    """
    try:
        return measured(data, bounds)
    except Refused:
        raise
    except Exception:  # noqa: BLE001
        return 0
