"""The model in PyTorch: built from its config, made fast to train, written as on the hub.

transformers 5 has it with the weights of a layer's experts in one tensor; the hub, and vLLM
0.23, have a tensor for each.
"""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn
from torch.nn import functional
from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe as modeling
from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import (
    Qwen3OmniMoeThinkerConfig,
)

from scripts import make_tiny_omni

if TYPE_CHECKING:
    from pathlib import Path

    from scripts.tiny_omni.encoding import Encoded

IGNORED: Final = -100  # a label that costs nothing
LENGTH_STEP: Final = 64  # sequences are padded to multiples: fewer shapes, fewer kernels


def build(folder: Path) -> Any:
    """Build the untrained thinker that a model folder's config describes."""
    modeling.Qwen3OmniMoeAudioAttention.forward = _audio_attention
    modeling.Qwen3OmniMoeVisionAttention.forward = _vision_attention
    modeling.Qwen3OmniMoeThinkerTextExperts.forward = _experts
    config = Qwen3OmniMoeThinkerConfig(
        **json.loads((folder / "config.json").read_text("utf-8"))["thinker_config"]
    )
    config._attn_implementation = "sdpa"  # noqa: SLF001 (transformers has no other way)
    config.text_config.pad_token_id = None
    model = modeling.Qwen3OmniMoeThinkerForConditionalGeneration(config).float()
    for name, parameter in model.named_parameters():
        _initialise(name, parameter)
    return model


def _initialise(name: str, parameter: Any) -> None:
    """Draw the numbers of a parameter; its norms start at one, its biases at zero."""
    if parameter.ndim < 2:  # noqa: PLR2004 (dimensions)
        nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
        return
    inputs = parameter.shape[-1] if "experts" in name else math.prod(parameter.shape[1:])
    deviation = 0.5 / math.sqrt(inputs)
    if "pos_embed" in name:
        deviation = 0.1
    elif "patch_embed" in name or "conv" in name:
        deviation = 1 / math.sqrt(inputs)
    elif "embed" in name:
        deviation = 0.5
    nn.init.normal_(parameter, std=deviation)


# ------------------------------------------------------------------------------- speed


def _by_length(query: Any, key: Any, value: Any, bounds: Any, scale: float) -> Any:
    """Attend within the pieces of a sequence: one call for all pieces of a length.

    transformers makes a call for each piece, of which a batch has hundreds.
    """
    out = torch.empty_like(query)
    groups: dict[int, list[int]] = {}
    for start, end in pairwise(bounds.tolist()):
        if end > start:
            groups.setdefault(end - start, []).append(start)
    for length, starts in groups.items():
        first = torch.tensor(starts, device=query.device)[:, None]
        index = (first + torch.arange(length, device=query.device)).reshape(-1)
        pieces = [
            tensor[index].view(len(starts), length, *tensor.shape[1:]).transpose(1, 2)
            for tensor in (query, key, value)
        ]
        found = functional.scaled_dot_product_attention(*pieces, scale=scale)
        flat = found.transpose(1, 2).reshape(len(starts) * length, *query.shape[1:])
        out = out.index_copy(0, index, flat.to(out.dtype))
    return out


def _audio_attention(self: Any, hidden_states: Any, cu_seqlens: Any, **_: Any) -> Any:
    count = hidden_states.shape[0]
    query, key, value = (
        project(hidden_states).reshape(count, self.num_heads, -1)
        for project in (self.q_proj, self.k_proj, self.v_proj)
    )
    found = _by_length(query, key, value, cu_seqlens, self.scaling)
    return self.out_proj(found.reshape(count, -1))


def _vision_attention(
    self: Any, hidden_states: Any, cu_seqlens: Any, position_embeddings: Any = None, **_: Any
) -> Any:
    count = hidden_states.shape[0]
    projected = self.qkv(hidden_states).reshape(count, 3, self.num_heads, -1)
    query, key, value = projected.permute(1, 0, 2, 3).unbind(0)
    query, key = modeling.apply_rotary_pos_emb_vision(query, key, *position_embeddings)
    found = _by_length(query, key, value.to(query.dtype), cu_seqlens, self.scaling)
    return self.proj(found.reshape(count, -1))


def _experts(self: Any, hidden_states: Any, top_k_index: Any, top_k_weights: Any) -> Any:
    """Let every expert see every token, which for so small ones is quicker than sorting them."""
    count = hidden_states.shape[0]
    weights = torch.zeros(
        count, self.num_experts, device=hidden_states.device, dtype=top_k_weights.dtype
    ).scatter(1, top_k_index, top_k_weights)
    gate, up = torch.einsum("td,efd->tef", hidden_states, self.gate_up_proj).chunk(2, -1)
    shares = functional.silu(gate) * up * weights.to(gate.dtype)[..., None]
    return torch.einsum("tef,edf->td", shares, self.down_proj)


# ------------------------------------------------------------------------------- input


def collate(batch: list[Encoded], padding: int) -> dict[str, Any]:
    """Put encoded samples together, padded to one length."""
    longest = max(len(sample.ids) for sample in batch)
    length = -(-longest // LENGTH_STEP) * LENGTH_STEP
    ids = torch.full((len(batch), length), padding)
    labels = torch.full((len(batch), length), IGNORED)
    positions = torch.zeros((3, len(batch), length), dtype=torch.long)
    mask = torch.zeros((len(batch), length), dtype=torch.long)
    for row, sample in enumerate(batch):
        count = len(sample.ids)
        ids[row, :count] = torch.tensor(sample.ids)
        positions[:, row, :count] = torch.tensor(sample.positions).T
        mask[row, :count] = 1
        labels[row, sample.answer_from : count] = ids[row, sample.answer_from : count]
    made = {"ids": ids, "labels": labels, "positions": positions, "mask": mask}
    made["images"] = [torch.tensor(image) for sample in batch for image in sample.images]
    made["films"] = [torch.tensor(film) for sample in batch for film in sample.films]
    sounds = [sound for sample in batch for sound in sample.sounds]
    if sounds:
        widest = max(sound.shape[1] for sound in sounds)
        made["mel"] = torch.zeros((len(sounds), sounds[0].shape[0], widest))
        made["mel_mask"] = torch.zeros((len(sounds), widest), dtype=torch.long)
        for row, sound in enumerate(sounds):
            made["mel"][row, :, : sound.shape[1]] = torch.from_numpy(sound)
            made["mel_mask"][row, : sound.shape[1]] = 1
    return made


def arguments(batch: dict[str, Any], device: str) -> dict[str, Any]:
    """Return a batch as the arguments of the model's forward pass."""
    made: dict[str, Any] = {
        "input_ids": batch["ids"].to(device),
        "attention_mask": batch["mask"].to(device),
        "position_ids": batch["positions"].to(device),
        "use_cache": False,
    }
    if batch["images"]:
        # An image is two equal frames.
        images = [image[None].expand(2, -1, -1, -1) for image in batch["images"]]
        made["pixel_values"], made["image_grid_thw"] = patches(images, device)
    if batch["films"]:
        made["pixel_values_videos"], made["video_grid_thw"] = patches(batch["films"], device)
    if "mel" in batch:
        made["input_features"] = batch["mel"].to(device)
        made["feature_attention_mask"] = batch["mel_mask"].to(device)
    return made


def patches(films: list[Any], device: str) -> tuple[Any, Any]:
    """Return the patches of films of several sizes, as the processor orders them, and grids."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, film in enumerate(films):
        groups.setdefault(tuple(film.shape), []).append(number)
    pieces: list[Any] = [None] * len(films)
    for numbers in groups.values():
        stacked = torch.stack([films[number] for number in numbers]).to(device)
        chunks = _patches(stacked).chunk(len(numbers))
        for number, piece in zip(numbers, chunks, strict=True):
            pieces[number] = piece
    grids = [[f.shape[0] // 2, f.shape[1] // 16, f.shape[2] // 16] for f in films]
    return torch.cat(pieces), torch.tensor(grids, device=device)


def _patches(films: Any) -> Any:
    """Cut films (number, frames, height, width, RGB) into patches of two frames of 16x16 pixels."""
    number, frames, height, width, _ = films.shape
    scaled = (films.float() / 255 - 0.5) / 0.5
    cut = scaled.permute(0, 1, 4, 2, 3).reshape(
        number, frames // 2, 2, 3, height // 32, 2, 16, width // 32, 2, 16
    )
    return cut.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9).reshape(-1, 3 * 2 * 16 * 16)


# ------------------------------------------------------------------------------- files


def hub_tensors(state: dict[str, Any]) -> dict[str, Any]:
    """Return the weights in bfloat16 by their names on the hub."""
    found: dict[str, Any] = {}
    for name, tensor in state.items():
        numbers = tensor.to(torch.bfloat16).cpu()
        prefix, _, kind = f"thinker.{name}".rpartition(".")
        if kind == "gate_up_proj":
            for expert, both in enumerate(numbers):
                gate, up = both.chunk(2, 0)
                found[f"{prefix}.{expert}.gate_proj.weight"] = gate
                found[f"{prefix}.{expert}.up_proj.weight"] = up
        elif kind == "down_proj":
            for expert, down in enumerate(numbers):
                found[f"{prefix}.{expert}.down_proj.weight"] = down
        else:
            found[f"thinker.{name}"] = numbers
    return found


def weight_files(state: dict[str, Any]) -> dict[str, bytes]:
    """Return the weights as the files of the model folder.

    Raises:
        ValueError: the tensors are not those of the folder.

    """
    tensors = hub_tensors(state)
    wanted = {tensor.name: tensor.shape for tensor in make_tiny_omni.model_tensors()}
    odd = {n for n in wanted.keys() | tensors.keys() if wanted.get(n) != _shape(tensors.get(n))}
    if odd:
        raise ValueError(f"not as the folder has them: {', '.join(sorted(odd))}")

    def numbers(tensor: make_tiny_omni.Tensor) -> bytes:
        content: bytes = tensors[tensor.name].contiguous().view(torch.int16).numpy().tobytes()
        return content

    return make_tiny_omni.weight_files(numbers)


def _shape(tensor: Any) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)
