"""How large a model's weights and KV cache are on one rank: exact, from its `config.json`.

The shapes are those that vLLM 0.23.0 gives its model class for
`Qwen3OmniMoeForConditionalGeneration`, the thinker alone: nothing else is served.
tests/e2e/test_b_memory.py holds them against that class itself.

Split over the ranks of tensor parallelism: attention heads, feed-forward layers and patch
mergers of the text, vision and audio parts, and the vocabulary of the embedding and the head.
Replicated on every rank: norms, the routers, key-value heads where there are fewer than
ranks, the vision tower's patch and position embeddings, and the audio tower's convolutions
and its projections at both ends. Experts are split over the ranks of all replicas together:
whole ones with expert parallelism, slices of each without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from appliance.plan.model_sizes import UnknownArchitecture, read

if TYPE_CHECKING:
    from collections.abc import Mapping

    from appliance.plan.model_sizes import Audio, Text, Vision

__all__ = [
    "ImpossibleLayout",
    "Layout",
    "UnknownArchitecture",
    "buffer_bytes",
    "hears",
    "kv_bytes_per_token",
    "read",
    "sees",
    "weights_bytes",
]

_FLOAT_BYTES = 4
# vLLM pads the vocabulary to a multiple of this (vocab_parallel_embedding.py).
_VOCABULARY_STEP = 64
# Positions that vLLM's rotary tables hold: of the vision tower, and four times the longest
# text for positions in time, height and width (rotary_embedding/mrope.py).
_VISION_POSITIONS = 8192
_TEXT_POSITION_FACTOR = 4


class ImpossibleLayout(ValueError):  # noqa: N818 (of a candidate, it is no fault)
    """A layout that vLLM refuses for this model: something does not divide by the ranks."""


@dataclass(frozen=True)
class Layout:
    """How a model is spread: the ranks of one replica, the replicas, and the way of experts."""

    tensor_parallel_size: int
    data_parallel_size: int = 1
    expert_parallel: bool = False

    @property
    def ranks(self) -> int:
        """All ranks, each one NPU."""
        return self.tensor_parallel_size * self.data_parallel_size


def weights_bytes(
    config: Mapping[str, Any],
    layout: Layout,
    *,
    element_bytes: int | None = None,
    limits: Mapping[str, int] | None = None,
) -> int:
    """Return the bytes of all parameters on one rank, the fullest where experts don't divide.

    A tower is not loaded where `limits`, the `--limit-mm-per-prompt`, has 0 for all that goes
    through it. Raises `UnknownArchitecture` and `ImpossibleLayout`.
    """
    model = read(config, element_bytes)
    parameters = _text_parameters(model.text, layout)
    if sees(limits):
        parameters += _vision_parameters(model.vision, layout.tensor_parallel_size)
    if hears(limits):
        parameters += _audio_parameters(model.audio, layout.tensor_parallel_size)
    return parameters * model.element


def buffer_bytes(
    config: Mapping[str, Any],
    layout: Layout,
    max_num_batched_tokens: int,
    *,
    element_bytes: int | None = None,
    limits: Mapping[str, int] | None = None,
) -> int:
    """Return the bytes of what else the model class allocates on one rank. All replicated.

    Position tables, the map of experts, and the deepstack levels of the largest step. vLLM
    counts them into what "model loading took". Raises `UnknownArchitecture`.
    """
    model = read(config, element_bytes)
    text, vision, audio = model.text, model.vision, model.audio
    total = _TEXT_POSITION_FACTOR * text.positions * text.head_dim * model.element
    # The scales of a quantised KV cache: there, and not used, for k, v, q and probabilities.
    total += text.layers * 4 * _FLOAT_BYTES
    if layout.expert_parallel and layout.ranks > 1:
        total += text.sparse * text.experts * _FLOAT_BYTES
    if sees(limits):
        rotated = vision.hidden // vision.heads // 2
        total += _VISION_POSITIONS * rotated * model.element
        total += vision.deepstack * max_num_batched_tokens * text.hidden * model.element
    if hears(limits):
        total += audio.positions * audio.hidden * _FLOAT_BYTES
    return total


def kv_bytes_per_token(
    config: Mapping[str, Any], layout: Layout, *, element_bytes: int | None = None
) -> int:
    """Return the KV cache's bytes a token on one rank, in the weights' own type.

    Where there are more ranks than key-value heads, each rank holds one, replicated. Raises
    `UnknownArchitecture` and `ImpossibleLayout`.
    """
    model = read(config, element_bytes)
    heads = _local_kv_heads(model.text, layout.tensor_parallel_size)
    return model.text.layers * 2 * heads * model.text.head_dim * model.element


def sees(limits: Mapping[str, int] | None) -> bool:
    """Tell whether the vision tower is loaded."""
    return limits is None or limits.get("image") != 0 or limits.get("video") != 0


def hears(limits: Mapping[str, int] | None) -> bool:
    """Tell whether the audio tower is loaded."""
    return limits is None or limits.get("audio") != 0


def _text_parameters(text: Text, layout: Layout) -> int:
    ranks = layout.tensor_parallel_size
    heads = _share(text.heads, ranks, "text heads")
    qkv = (heads + 2 * _local_kv_heads(text, ranks)) * text.head_dim
    attention = text.hidden * qkv + (qkv if text.attention_bias else 0)
    attention += heads * text.head_dim * text.hidden + 2 * text.head_dim
    layer = attention + 2 * text.hidden
    vocabulary = -(-text.vocabulary // _VOCABULARY_STEP) * _VOCABULARY_STEP
    embedding = _share(vocabulary, ranks, "vocabulary") * text.hidden
    total = text.layers * layer + text.hidden + embedding * (1 if text.tied else 2)
    if text.dense:
        width = _share(text.dense_width, ranks, "feed-forward width")
        total += text.dense * 3 * text.hidden * width
    if text.sparse:
        total += text.sparse * _experts(text, layout)
    return total


def _experts(text: Text, layout: Layout) -> int:
    """Return the parameters of one layer's experts on the fullest rank, with their router."""
    if layout.expert_parallel:
        local = -(-text.experts // layout.ranks) * text.expert_width
    else:
        local = text.experts * _share(text.expert_width, layout.ranks, "expert width")
    total = 3 * text.hidden * local + text.hidden * text.experts
    if text.shared_width:
        width = _share(text.shared_width, layout.tensor_parallel_size, "shared expert width")
        total += 3 * text.hidden * width + text.hidden
    return total


def _vision_parameters(vision: Vision, ranks: int) -> int:
    hidden, wide = vision.hidden, vision.hidden * vision.merge**2
    _share(vision.heads, ranks, "vision heads")
    block = 4 * hidden + _transformer(hidden, vision.width, ranks, "vision width")
    # A merger is a norm and two layers; a deepstack level's norm is of the merged width.
    merger = _column(wide, wide, ranks, "merged patch") + wide // ranks * vision.out + vision.out
    total = vision.patch_values * hidden + hidden + (vision.image // vision.patch) ** 2 * hidden
    total += vision.depth * block + merger + 2 * hidden
    return total + vision.deepstack * (merger + 2 * wide)


def _audio_parameters(audio: Audio, ranks: int) -> int:
    hidden, channels = audio.hidden, audio.channels
    _share(audio.heads, ranks, "audio heads")
    layer = 4 * hidden + _transformer(hidden, audio.width, ranks, "audio width")
    convolutions = 9 * channels + channels + 2 * (9 * channels * channels + channels)
    rows = audio.mel_bins
    for _ in range(3):
        rows = (rows + 1) // 2
    ends = channels * rows * hidden + 2 * hidden
    ends += hidden * hidden + hidden + hidden * audio.out + audio.out
    return audio.layers * layer + convolutions + ends


def _transformer(hidden: int, width: int, ranks: int, what: str) -> int:
    """Return the parameters of a tower's attention and feed-forward, with biases."""
    attention = _column(hidden, 3 * hidden, ranks, what) + hidden // ranks * hidden + hidden
    forward = _column(hidden, width, ranks, what) + width // ranks * hidden + hidden
    return attention + forward


def _column(inputs: int, outputs: int, ranks: int, what: str) -> int:
    """Return the parameters of a layer split by its outputs, its bias split likewise."""
    return (inputs + 1) * _share(outputs, ranks, what)


def _local_kv_heads(text: Text, ranks: int) -> int:
    if text.kv_heads >= ranks:
        return _share(text.kv_heads, ranks, "key-value heads")
    _share(ranks, text.kv_heads, "ranks over key-value heads")
    return 1


def _share(total: int, ranks: int, what: str) -> int:
    if total % ranks:
        raise ImpossibleLayout(f"{what}: {total} does not divide by {ranks}")
    return total // ranks
