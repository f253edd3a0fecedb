"""Reads videos for qwen-omni-utils where its own reader does not work.

Its reader for machines with neither torchcodec nor decord calls `torchvision.io.read_video`,
which torchvision 0.26 no longer has. PyAV is what that function used, and is in the image.
"""

from __future__ import annotations

from typing import Any


def install() -> None:
    """Put the reader below in the place of one that can't work; leave others as they are."""
    from qwen_omni_utils.v2_5 import vision_process

    if not hasattr(vision_process.io, "read_video"):  # torchvision's `io`
        vision_process.VIDEO_READER_BACKENDS["torchvision"] = read


def read(element: dict[str, Any]) -> tuple[Any, dict[str, Any], float]:
    """Return frames (T, C, H, W), their metadata, and how many frames a second were taken.

    As the reader that it stands for, but it holds the frames that are taken, not the whole video.
    """
    import torch
    from qwen_omni_utils.v2_5.vision_process import smart_nframes

    path, span = element["video"], (element.get("video_start"), element.get("video_end"))
    total, per_second = _count(path, span)
    if not total:
        raise ValueError("the video has no frame there")
    wanted = smart_nframes(element, total_frames=total, video_fps=per_second)
    indices = torch.linspace(0, total - 1, wanted).round().long()
    frames = _frames(path, span, set(indices.tolist()))
    video = torch.stack([torch.from_numpy(frames[index]) for index in indices.tolist()])
    metadata = {
        "fps": per_second,
        "frames_indices": indices,
        "total_num_frames": total,
        "video_backend": "torchvision",
    }
    return video.permute(0, 3, 1, 2), metadata, wanted / total * per_second


def _count(path: str, span: tuple[float | None, float | None]) -> tuple[int, float]:
    """Return how many frames there are and how many are shown a second."""
    import av

    with av.open(path) as container:
        if not container.streams.video:
            raise ValueError("the file has no video track")
        rate = container.streams.video[0].average_rate
        # Headers are wrong too often, so the frames themselves are counted.
        total = sum(1 for frame in container.decode(video=0) if _inside(frame, span))
    return total, float(rate) if rate else 24.0


def _frames(
    path: str, span: tuple[float | None, float | None], indices: set[int]
) -> dict[int, Any]:
    import av

    found = {}
    with av.open(path) as container:
        shown = (frame for frame in container.decode(video=0) if _inside(frame, span))
        for index, frame in enumerate(shown):
            if index in indices:
                found[index] = frame.to_ndarray(format="rgb24")
    return found


def _inside(frame: Any, span: tuple[float | None, float | None]) -> bool:
    start, end = span
    moment = frame.time or 0.0
    return (start is None or moment >= start) and (end is None or moment <= end)


def has_sound(path: str) -> bool:
    """Tell whether a video has a sound track; raises what PyAV raises where it is no video."""
    import av

    with av.open(path) as container:
        return bool(container.streams.audio)
