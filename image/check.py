"""Decodes one image, one sound and one video with the image's own libraries.

Runs as the last step of `docker build`: a decoder that is missing must fail the build, not
the first request after an hour of loading weights. The decoders tried are the ones that
vLLM 0.23 uses (Pillow; soundfile and PyAV; OpenCV or PyAV), the ones that
qwen-omni-utils uses, and the `ffmpeg` command.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# The folder of the probes' own media: image.jpg, audio.wav, video.mp4.
MEDIA = Path(sys.argv[1] if len(sys.argv) > 1 else "healthchecks/media")


def decode_image() -> str:
    """Decode the JPEG with Pillow."""
    from PIL import Image

    with Image.open(MEDIA / "image.jpg") as image:
        image.load()
        return f"{image.width}x{image.height} {image.mode}"


def decode_sound() -> str:
    """Decode the WAV with soundfile, and again as qwen-omni-utils does, with librosa."""
    import librosa
    import soundfile

    samples, rate = soundfile.read(MEDIA / "audio.wav")
    resampled, _ = librosa.load(str(MEDIA / "audio.wav"), sr=16000)
    if not len(samples) or not len(resampled):
        raise ValueError("no samples")
    return f"{len(samples)} samples at {rate} Hz"


def decode_video() -> str:
    """Decode every frame of the MP4, and its sound track, with PyAV."""
    import av

    with av.open(str(MEDIA / "video.mp4")) as container:
        frames = sum(1 for _ in container.decode(video=0))
    with av.open(str(MEDIA / "video.mp4")) as container:
        sounds = sum(1 for _ in container.decode(audio=0))
    if not frames or not sounds:
        raise ValueError(f"{frames} video frames, {sounds} audio frames")
    return f"{frames} video frames, {sounds} audio frames"


def decode_video_opencv() -> str:
    """Decode the first frame of the MP4 with OpenCV, vLLM's default video backend."""
    import cv2

    capture = cv2.VideoCapture(str(MEDIA / "video.mp4"))
    ok, frame = capture.read()
    capture.release()
    if not ok:
        raise ValueError("OpenCV read no frame")
    return "x".join(str(size) for size in frame.shape)


def run_ffmpeg() -> str:
    """Decode the sound track of the MP4 with the `ffmpeg` command."""
    command = ["ffmpeg", "-v", "error", "-i", str(MEDIA / "video.mp4"), "-f", "s16le", "-"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    if not done.stdout:
        raise ValueError("ffmpeg decoded nothing")
    return f"{len(done.stdout)} bytes of PCM"


def process_sound_of_video() -> str:
    """Read the sound track of the MP4 the way the guide's offline script does."""
    from qwen_omni_utils import process_audio_info

    content = [{"type": "video", "video": str(MEDIA / "video.mp4")}]
    audios = process_audio_info([{"role": "user", "content": content}], use_audio_in_video=True)
    return f"{len(audios[0])} samples"


CHECKS: tuple[tuple[str, Callable[[], str]], ...] = (
    ("image: Pillow", decode_image),
    ("sound: soundfile, librosa", decode_sound),
    ("video: PyAV", decode_video),
    ("video: OpenCV", decode_video_opencv),
    ("sound of a video: ffmpeg", run_ffmpeg),
    ("sound of a video: qwen-omni-utils", process_sound_of_video),
)


def main() -> int:
    """Run every check; return the number of those that failed."""
    failed = 0
    for name, check in CHECKS:
        try:
            print(f"ok   {name}: {check()}")
        except Exception as error:  # noqa: BLE001 (whatever a decoder throws is the finding)
            failed += 1
            print(f"FAIL {name}: {type(error).__name__}: {error}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main())
