"""Make the media files of the smoke probes. Same packages, same bytes.

Needs Pillow, NumPy and PyAV. Run it from the root of the repository:

    python3 scripts/make_media.py [FOLDER]

image.jpg  320x240, a red circle in the middle of a white ground
audio.wav  1.5 s, mono, 16 kHz, 16 bit: three beeps of 1000 Hz
video.mp4  2 s, 320x240, 12 frames a second, H.264: a blue square that moves from left to right over
           white; with an AAC sound track of the same beeps
"""

from __future__ import annotations

import array
import io
import math
import sys
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 320, 240
SAMPLE_RATE = 16_000
BEEP_HERTZ = 1_000
BEEP_PERIOD_SECONDS = 0.5
BEEP_SECONDS = 0.25
FADE_SECONDS = 0.01
AMPLITUDE = 12_000
AUDIO_SECONDS = 1.5
VIDEO_SECONDS = 2
FRAMES_PER_SECOND = 12
SQUARE = 60
MAX_TOTAL_BYTES = 100_000


def beeps(seconds: float) -> array.array[int]:
    """Return 16-bit samples with a beep at the start of every period."""
    samples = array.array("h")
    for index in range(int(seconds * SAMPLE_RATE)):
        moment = index / SAMPLE_RATE % BEEP_PERIOD_SECONDS
        # The fade keeps the ends of a beep from clicking.
        edge = min(moment, BEEP_SECONDS - moment) / FADE_SECONDS
        loudness = AMPLITUDE * max(0.0, min(1.0, edge))
        samples.append(round(loudness * math.sin(2 * math.pi * BEEP_HERTZ * moment)))
    return samples


def little_endian(samples: array.array[int]) -> bytes:
    """Return samples as little-endian bytes on any machine."""
    if sys.byteorder == "big":
        samples = samples[:]
        samples.byteswap()
    return samples.tobytes()


def make_image() -> bytes:
    """Return the image as JPEG."""
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    ImageDraw.Draw(image).ellipse((90, 50, 230, 190), fill=(220, 20, 20))
    output = io.BytesIO()
    image.save(output, "JPEG", quality=85)
    return output.getvalue()


def make_audio() -> bytes:
    """Return the sound as WAV."""
    output = io.BytesIO()
    with wave.open(output, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(SAMPLE_RATE)
        sound.writeframes(little_endian(beeps(AUDIO_SECONDS)))
    return output.getvalue()


def video_image(number: int, count: int) -> Image.Image:
    """Return one picture of the video."""
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    left = round(10 + (WIDTH - SQUARE - 20) * number / (count - 1))
    top = (HEIGHT - SQUARE) // 2
    ImageDraw.Draw(image).rectangle((left, top, left + SQUARE, top + SQUARE), fill=(20, 60, 220))
    return image


def make_video() -> bytes:
    """Return the video as MP4."""
    output = io.BytesIO()
    # bitexact leaves out versions and dates; one thread makes the encoder's choices repeatable.
    options = {"fflags": "+bitexact"}
    with av.open(output, "w", format="mp4", options=options) as container:
        video = container.add_stream(
            "libx264", FRAMES_PER_SECOND, options={"threads": "1", "preset": "medium", "crf": "26"}
        )
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound = container.add_stream("aac", SAMPLE_RATE, options={"threads": "1"}, layout="mono")
        sound.bit_rate = 32_000
        for stream in (video, sound):
            stream.codec_context.flags |= av.codec.context.Flags.bitexact
        count = VIDEO_SECONDS * FRAMES_PER_SECOND
        for number in range(count):
            pixels = np.asarray(video_image(number, count))
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, FRAMES_PER_SECOND)
            container.mux(video.encode(picture))
        samples = beeps(VIDEO_SECONDS)
        frame = av.AudioFrame(format="s16", layout="mono", samples=len(samples))
        frame.planes[0].update(samples.tobytes())
        frame.sample_rate, frame.pts = SAMPLE_RATE, 0
        container.mux(sound.encode(frame))
        for stream in (video, sound):
            container.mux(stream.encode(None))
    return output.getvalue()


def main() -> int:
    """Write the three files and return the exit status."""
    default = Path(__file__).resolve().parents[1] / "healthchecks" / "media"
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    files = {"image.jpg": make_image(), "audio.wav": make_audio(), "video.mp4": make_video()}
    total = sum(len(content) for content in files.values())
    if total > MAX_TOTAL_BYTES:
        print(f"the files have {total} bytes, more than {MAX_TOTAL_BYTES}", file=sys.stderr)
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
        print(f"{folder / name}: {len(content)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
