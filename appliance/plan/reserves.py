"""What a rank needs beside weights and KV cache: activations and communication. Estimates.

vLLM measures both at start: it runs one encoder over the largest input and one step of the
language model, and takes what that needed at most, and what PyTorch has no part in, from what
the KV cache gets. Here the same is a sum of the tensors that live at the worst moment. Figures
that are not the model's own are in the catalog's `memory.yaml`, with their sources.

Held against what was measured, both are a little on the safe side. vLLM 0.23.0 on two GPUs of
139.8 GiB, with weights of 29.76 and a KV cache of 94.94 GiB a rank: its share of 0.92, which
is that release's default, leaves 3.9 GiB for both; here they are 4.3. Two logs of vllm-ascend
with expert parallelism have 3.08 and 3.15 GiB outside of PyTorch; here they are 3.2. Peaks of
activations that its logs have for other models with a vision tower are 1.5 to 1.7 GiB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.catalog.memory import numbers
from appliance.plan.weights_size import hears, sees

if TYPE_CHECKING:
    from collections.abc import Mapping

    from appliance.plan.model_sizes import Model
    from appliance.plan.weights_size import Layout

_MIB = 1024**2
_GIB = 1024**3
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Step:
    """What bounds one step of the engine, in the words of vLLM's arguments."""

    max_model_len: int
    max_num_batched_tokens: int
    max_num_seqs: int
    limit_mm_per_prompt: Mapping[str, int]


@dataclass(frozen=True)
class Input:
    """The largest input that vLLM tries an encoder with: so many items of so many tokens."""

    modality: str
    tokens: int
    items: int


def default_step(usable_bytes: int, max_model_len: int) -> tuple[int, int]:
    """Return vLLM's own `--max-num-batched-tokens` and `--max-num-seqs` for such a device."""
    for row in numbers().batch_defaults:
        if usable_bytes >= row.gib * _GIB:
            break
    return min(row.max_num_batched_tokens, row.max_num_seqs * max_model_len), row.max_num_seqs


def communication(layout: Layout, hccl_buffsize_mib: int | None) -> int:
    """Return the bytes of HCCL's buffers and of what else PyTorch has no part in, on one rank.

    `hccl_buffsize_mib` is the variable HCCL_BUFFSIZE, `None` where it is not set: of all
    communicators only MC2's goes by it.
    """
    sizes = numbers().communication
    buffers = 0
    if layout.tensor_parallel_size > 1:
        buffers += sizes.tensor_mib
    if layout.data_parallel_size > 1:
        buffers += sizes.data_mib
    if layout.expert_parallel and layout.ranks > 1:
        buffers += sizes.expert_mib + (hccl_buffsize_mib or sizes.default_mib)
    return (2 * buffers + sizes.other_mib) * _MIB


def activations(model: Model, layout: Layout, step: Step) -> int:
    """Return the bytes that live at the worst moment of vLLM's first passes, on one rank.

    That is inside the encoder, or inside the language model while the encoder's output waits.
    """
    largest = largest_input(model, step)
    text = _text(model, layout, step)
    if largest is None:
        return text
    if largest.modality == "audio":
        return max(_hearing(model, largest), text)
    tokens = largest.tokens * largest.items
    levels = 1 + model.vision.deepstack
    waiting = tokens * model.vision.out * levels * model.element
    return max(_seeing(model, layout.tensor_parallel_size, tokens), waiting + text)


def largest_input(model: Model, step: Step) -> Input | None:
    """Return what vLLM tries an encoder with; `None` where no encoder is loaded.

    A single item, of the kind with most tokens among those that are allowed; more of them
    where one does not fill a step.
    """
    limits = step.limit_mm_per_prompt
    constants = numbers().activation
    tokens = {}
    if sees(limits):
        side = model.vision.patch * model.vision.merge
        picture = constants.image_pixels // side**2
        pairs = min(max(step.max_model_len // picture, 1), constants.video_frames // 2)
        tokens = {"image": picture, "video": pairs * picture}
    if hears(limits):
        frames = constants.audio_seconds * constants.audio_frames_per_second
        # Three convolutions halve a chunk of frames.
        chunk = 2 * model.audio.window
        tokens["audio"] = frames // chunk * -(-chunk // 8)
    allowed = {kind: count for kind, count in tokens.items() if limits.get(kind) != 0}
    if not allowed:
        return None
    modality = max(allowed, key=lambda kind: (allowed[kind], kind))
    most = allowed[modality]
    prompts = max(1, min(limits.get(modality, step.max_model_len), step.max_model_len // most))
    budget = max(step.max_num_batched_tokens, most)
    items = max(1, min(budget // most, step.max_num_seqs * prompts))
    return Input(modality, most, items)


def _seeing(model: Model, ranks: int, tokens: int) -> int:
    """Return what lives in the vision tower's last layers, where the kept levels are most."""
    vision, constants = model.vision, numbers().activation
    low, high = constants.padded_heads
    head = vision.hidden // vision.heads
    padded = vision.heads * high if low < head < high else vision.hidden
    # Queries, keys and values; two of them ordered and turned; all padded; the result.
    attention = (7 * vision.hidden + 4 * padded) // ranks
    forward = 2 * vision.width // ranks
    held = vision.patch_values + vision.hidden * (vision.deepstack + constants.tower_tensors)
    return tokens * vision.merge**2 * (held + max(attention, forward)) * model.element


def _hearing(model: Model, largest: Input) -> int:
    """Return what lives in the audio tower's first convolution, the widest place."""
    audio, constants = model.audio, numbers().activation
    frames = largest.items * constants.audio_seconds * constants.audio_frames_per_second
    chunks = min(frames // (2 * audio.window), audio.chunk_batch)
    rows = -(-audio.mel_bins // 2)
    # The convolution's result, and that of the activation function.
    return 2 * chunks * audio.channels * rows * audio.window * model.element


def _text(model: Model, layout: Layout, step: Step) -> int:
    """Return what lives in the language model's widest layer, or with the logits."""
    text, constants = model.text, numbers().activation
    tokens = step.max_num_batched_tokens
    width, share = text.dense_width, layout.tensor_parallel_size
    copies = 1
    if text.sparse:
        # A token goes to several experts; with more replicas, to those of all of them.
        width, copies = text.expert_width, text.experts_per_token
        share = 1 if layout.expert_parallel else layout.ranks
        tokens *= layout.data_parallel_size
    forward = copies * (2 * text.hidden + 3 * width // share)
    layer = tokens * (constants.text_tensors * text.hidden + forward) * model.element
    # As computed, as 32-bit numbers, and their probabilities.
    logits = step.max_num_seqs * text.vocabulary * (model.element + 2 * _FLOAT_BYTES)
    return max(layer, logits)
