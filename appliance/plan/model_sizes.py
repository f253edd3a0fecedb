"""The sizes of a model, from its `config.json`: what weights and activations are counted from.

Only of `Qwen3OmniMoeForConditionalGeneration`, and of its thinker alone: that is what is
served. A size that is absent is refused, not assumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

ARCHITECTURE = "Qwen3OmniMoeForConditionalGeneration"
# `--dtype auto` turns 32-bit weights into 16-bit ones (vllm/config/model.py).
_DTYPES = {"bfloat16": "BF16", "float16": "FP16", "float32": "BF16"}
_ELEMENT_BYTES = 2
# Far beyond every size of every model: layers are counted one by one.
_LARGEST = 10_000_000
# Where quantised weights say so; the first two are what vLLM reads.
_QUANTISED = ("quantization_config", "compression_config", "quantize", "moe_quantize")


class UnknownArchitecture(ValueError):  # noqa: N818 (it is no fault: nothing is planned then)
    """A configuration whose weights can't be counted: another architecture, or quantised."""


@dataclass(frozen=True)
class Text:
    """The language model's sizes. `sparse` and `dense` count its layers by kind."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    layers: int
    sparse: int
    dense_width: int
    experts: int
    experts_per_token: int
    expert_width: int
    shared_width: int
    vocabulary: int
    positions: int
    attention_bias: bool
    tied: bool

    @property
    def dense(self) -> int:
        """The layers with one feed-forward network instead of experts."""
        return self.layers - self.sparse


@dataclass(frozen=True)
class Vision:
    """The vision tower's sizes. `deepstack` counts the layers whose output is merged too."""

    hidden: int
    heads: int
    width: int
    depth: int
    deepstack: int
    image: int
    patch: int
    patch_values: int
    merge: int
    out: int


@dataclass(frozen=True)
class Audio:
    """The audio tower's sizes. A chunk is `2 * window` frames of sound."""

    hidden: int
    heads: int
    width: int
    layers: int
    mel_bins: int
    channels: int
    chunk_batch: int
    window: int
    positions: int
    out: int


@dataclass(frozen=True)
class Model:
    """What of a `config.json` decides sizes. `element` is bytes per number, `dtype` its name."""

    text: Text
    vision: Vision
    audio: Audio
    element: int
    dtype: str


def read(config: Mapping[str, Any], element_bytes: int | None = None) -> Model:
    """Return the sizes in a model's `config.json`.

    `element_bytes` stands for a `--dtype` other than the configuration's own. Raises
    `UnknownArchitecture` for another architecture, for quantised weights, and where a size
    is absent: a wrong figure would be worse than none.
    """
    architectures = config.get("architectures") or ()
    if not isinstance(architectures, list | tuple):
        architectures = (architectures,)
    if ARCHITECTURE not in architectures:
        found = ", ".join(map(str, architectures)) or "none"
        raise UnknownArchitecture(f"the architecture is {found}, not {ARCHITECTURE}")
    thinker = _part(config, "thinker_config")
    text = _part(thinker, "text_config")
    _refuse_quantised(config, thinker, text)
    dtype = next(
        (part[key] for part in (config, text) for key in ("dtype", "torch_dtype") if part.get(key)),
        "float32",
    )
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise UnknownArchitecture(f"the weights are of type {name}")
    return Model(
        _text(text),
        _vision(_part(thinker, "vision_config")),
        _audio(_part(thinker, "audio_config")),
        element_bytes or _ELEMENT_BYTES,
        _DTYPES[name] if element_bytes in (None, _ELEMENT_BYTES) else f"{element_bytes}-byte",
    )


def _refuse_quantised(*parts: Mapping[str, Any]) -> None:
    """Refuse weights that are not of one type: how large they are is not in the sizes."""
    for part in parts:
        for key in _QUANTISED:
            if part.get(key):
                raise UnknownArchitecture(f"the weights are quantised ({key})")


def _part(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = config.get(key)
    if not isinstance(part, dict):
        raise UnknownArchitecture(f"{key} is not in config.json")
    return part


def _sizes(part: Mapping[str, Any], *keys: str) -> list[int]:
    """Return sizes by key; each must be there and be a positive integer."""
    for key in keys:
        value = part.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _LARGEST:
            kind = part.get("model_type", "config.json")
            raise UnknownArchitecture(f"{key} of {kind} is {value!r}, which is no size")
    return [part[key] for key in keys]


def _count(part: Mapping[str, Any], key: str, default: int = 0) -> int:
    return _sizes(part, key)[0] if part.get(key) else default


def _list(part: Mapping[str, Any], key: str) -> list[Any]:
    found = part.get(key) or []
    if not isinstance(found, list):
        raise UnknownArchitecture(
            f"{key} of {part.get('model_type')} is {found!r}, which is no list"
        )
    return found


def _text(part: Mapping[str, Any]) -> Text:
    hidden, heads, kv_heads, layers, vocabulary, positions = _sizes(
        part, "hidden_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers",
        "vocab_size", "max_position_embeddings",
    )  # fmt: skip
    experts, step = _count(part, "num_experts"), _count(part, "decoder_sparse_step", 1)
    only_dense = _list(part, "mlp_only_layers")
    sparse = sum(
        experts > 0 and layer not in only_dense and (layer + 1) % step == 0
        for layer in range(layers)
    )
    return Text(
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=_count(part, "head_dim", hidden // heads),
        layers=layers,
        sparse=sparse,
        dense_width=_sizes(part, "intermediate_size")[0] if sparse < layers else 0,
        experts=experts,
        experts_per_token=_sizes(part, "num_experts_per_tok")[0] if sparse else 0,
        expert_width=_sizes(part, "moe_intermediate_size")[0] if sparse else 0,
        shared_width=_count(part, "shared_expert_intermediate_size"),
        vocabulary=vocabulary,
        positions=positions,
        attention_bias=bool(part.get("attention_bias")),
        tied=bool(part.get("tie_word_embeddings")),
    )


def _vision(part: Mapping[str, Any]) -> Vision:
    hidden, heads, width, depth, image, patch, channels, frames, merge, out = _sizes(
        part, "hidden_size", "num_heads", "intermediate_size", "depth", "image_size",
        "patch_size", "in_channels", "temporal_patch_size", "spatial_merge_size",
        "out_hidden_size",
    )  # fmt: skip
    deepstack = len(_list(part, "deepstack_visual_indexes"))
    values = channels * frames * patch**2
    return Vision(hidden, heads, width, depth, deepstack, image, patch, values, merge, out)


def _audio(part: Mapping[str, Any]) -> Audio:
    return Audio(
        *_sizes(
            part, "d_model", "encoder_attention_heads", "encoder_ffn_dim", "encoder_layers",
            "num_mel_bins", "downsample_hidden_size", "conv_chunksize", "n_window",
            "max_source_positions", "output_dim",
        )
    )  # fmt: skip
