"""What of the memory's arithmetic is data: `data/memory.yaml`, where the sources are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from appliance import yamlfile
from appliance.catalog.load import DATA

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class BatchDefault:
    """The step that vLLM takes by default on devices of more than so much memory."""

    gib: float
    max_num_batched_tokens: int
    max_num_seqs: int


@dataclass(frozen=True)
class Communication:
    """Sizes of the buffers of HCCL's communicators, and what else is not PyTorch's. In MiB."""

    default_mib: int
    tensor_mib: int
    expert_mib: int
    data_mib: int
    other_mib: int


@dataclass(frozen=True)
class Activation:
    """What decides how much vLLM's first passes take."""

    image_pixels: int
    video_frames: int
    audio_seconds: int
    audio_frames_per_second: int
    padded_heads: tuple[int, int]
    text_tensors: int
    tower_tensors: int


@dataclass(frozen=True)
class Memory:
    """The constants of `data/memory.yaml`, where their sources are."""

    block_tokens: int
    batch_defaults: tuple[BatchDefault, ...]
    highest_utilization: float
    communication: Communication
    activation: Activation


@lru_cache
def numbers() -> Memory:
    """Return the constants of the memory's arithmetic."""
    content: Mapping[str, Any] = yamlfile.read(DATA / "memory.yaml")
    activation = dict(content["activation"])
    low, high = activation["padded_heads"]
    activation["padded_heads"] = (low, high)
    return Memory(
        block_tokens=content["block_tokens"],
        batch_defaults=tuple(BatchDefault(**row) for row in content["batch_defaults"]),
        highest_utilization=content["highest_utilization"],
        communication=Communication(**content["communication"]),
        activation=Activation(**activation),
    )
