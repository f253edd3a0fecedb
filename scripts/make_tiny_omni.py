#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
r"""Make tiny-omni: a model folder of Qwen3-Omni's architecture, small enough to ship.

tiny-omni is what the appliance serves on a host without an NPU. It has every part of
`Qwen3OmniMoeForConditionalGeneration`'s thinker (audio tower, vision tower with deepstack,
mixture-of-experts language model, multimodal rotary positions) in the file layout and with
the tensor names of the published checkpoints, so whatever serves the 30B model serves it
by the same path.

This script makes all of the folder but the weights, which training makes
(scripts/train_tiny_omni.py). The standard library is all it needs:

    python3 scripts/make_tiny_omni.py --out models/tiny-omni

With `--untrained` it makes weights too, drawn at random: a model whose answers are noise, which
replaces what is there. On a host that has nothing but Docker, in the CPU base image:

    docker run --rm --network none --user "$(id -u):$(id -g)" --entrypoint python3 \
        -v "$PWD:/work" -w /work qwen3-omni-appliance/vllm-cpu-base:v0.23.0 \
        scripts/make_tiny_omni.py --out models/tiny-omni

Every run, on every machine, writes the same bytes: untrained weights come out of SHAKE-256,
keyed by `SEED` and the tensor's name, and nothing depends on the time, the machine or the
version of a numerical library.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import struct
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

SEED: Final = "tiny-omni/1"

# The longest context of the appliance's default plan; a longer one costs nothing here.
MAX_POSITIONS: Final = 32768
VOCAB_SIZE: Final = 512

# One visual token covers 32x32 pixels (2x2 patches of 16), and sides are rounded to that.
# Beyond the rounding nothing is scaled up, and what has more pixels than 256x192 is scaled
# down: 320x240 becomes 48 tokens an image, and 48 for every two frames of a video.
MIN_PIXELS: Final = 32 * 32
MAX_PIXELS: Final = 256 * 192


@dataclass(frozen=True)
class Text:
    """The language model.

    vLLM's CPU kernels want the hidden size and each rank's share of an expert to be a
    multiple of 32; heads, key-value heads and experts divide by two, so that TP=2 (and, of
    the experts, TP=4) has something to split.
    """

    layers: int = 4
    hidden: int = 160
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    experts: int = 8
    experts_per_token: int = 2
    expert_hidden: int = 128


@dataclass(frozen=True)
class Vision:
    """The vision tower; the merger folds 2x2 patches into one token."""

    layers: int = 3
    hidden: int = 96
    heads: int = 4
    ffn: int = 192
    channels: int = 3
    patch: int = 16
    frames_per_patch: int = 2
    merge: int = 2
    # The side of the learnt grid of positions, in patches; other sizes are interpolated.
    grid: int = 16
    # Layers whose output also goes into the first layers of the language model.
    deepstack: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class Audio:
    """The audio tower.

    100 mel frames (one second) become 13 tokens, as in the 30B model: transformers and vLLM
    have that ratio in code, not in the config.
    """

    layers: int = 2
    hidden: int = 128
    heads: int = 4
    ffn: int = 256
    mel_bins: int = 128
    conv_channels: int = 32
    max_positions: int = 1500


TEXT: Final = Text()
VISION: Final = Vision()
AUDIO: Final = Audio()

# --------------------------------------------------------------------------- tokenizer

END_OF_TEXT: Final = "<|endoftext|>"

# The published tokenizer's added tokens, in its order. Those marked False are ordinary
# text to a client (`skip_special_tokens` keeps them), which the parsers of reasoning and
# of tool calls rely on.
ADDED_TOKENS: Final[Mapping[str, bool]] = {
    END_OF_TEXT: True,
    "<|im_start|>": True,
    "<|im_end|>": True,
    "<|object_ref_start|>": True,
    "<|object_ref_end|>": True,
    "<|box_start|>": True,
    "<|box_end|>": True,
    "<|quad_start|>": True,
    "<|quad_end|>": True,
    "<|vision_start|>": True,
    "<|vision_end|>": True,
    "<|vision_pad|>": True,
    "<|image_pad|>": True,
    "<|video_pad|>": True,
    "<tool_call>": False,
    "</tool_call>": False,
    "<|fim_prefix|>": False,
    "<|fim_middle|>": False,
    "<|fim_suffix|>": False,
    "<|fim_pad|>": False,
    "<|repo_name|>": False,
    "<|file_sep|>": False,
    "<tool_response>": False,
    "</tool_response>": False,
    "<think>": False,
    "</think>": False,
    "<|audio_start|>": True,
    "<|audio_end|>": True,
    "<tts_pad>": True,
    "<tts_text_bos>": True,
    "<tts_text_eod>": True,
    "<tts_text_bos_single>": True,
    "<|audio_pad|>": True,
}

# What the merges are learnt from: the template's roles (the config names their ids, so each
# has to be one token), then the words that questions and answers about colours, shapes,
# beeps and motion are made of. Everything else is spelt in bytes.
ROLES: Final = ("system", "user", "assistant")
WORDS: Final = (
    " a an the is and of in it to with no not one two three four five"
    " image picture video audio sound shows"
    " red green blue yellow orange purple white black"
    " circle square triangle star"
    " beep beeps tone pitch high low voice noise silence"
    " moves moving left right up down still large small top bottom middle"
    " what which how many do you see hear colour color shape describe answer together"
    " What The pink brown fast slow"
)


def byte_symbols() -> list[str]:
    """List the printable stand-in of each byte in a byte-level vocabulary.

    Bytes that print stand for themselves; the others take the code points from 256 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def learn_merges(words: Iterable[str], count: int) -> list[tuple[str, str]]:
    """Learn `count` byte-pair merges: each time the commonest pair, of equals the earliest."""
    pieces = [list(word) for word in words]
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs = Counter(pair for word in pieces for pair in pairwise(word))
        if not pairs:
            raise ValueError(f"the words give {len(merges)} merges, not {count}")
        # max() keeps the first of equals and a Counter keeps the order of arrival.
        best = max(pairs, key=lambda pair: pairs[pair])
        merges.append(best)
        pieces = [merge_pair(word, best) for word in pieces]
    return merges


def merge_pair(word: Sequence[str], pair: tuple[str, str]) -> list[str]:
    """Make each occurrence of `pair` in `word` one piece."""
    merged: list[str] = []
    for piece in word:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged


class Tokenizer(NamedTuple):
    """The vocabulary: byte symbols, then merges, then added tokens."""

    merges: list[tuple[str, str]]
    vocab: dict[str, int]
    added: dict[str, int]

    def id_of(self, token: str) -> int:
        """Look up the id of a token of either kind; it has to exist."""
        return self.added[token] if token in self.added else self.vocab[token]


def make_tokenizer() -> Tokenizer:
    """Learn the merges that bring the vocabulary to exactly `VOCAB_SIZE` entries."""
    symbols = byte_symbols()
    space = symbols[ord(" ")]
    words = [*ROLES, *(space + word for word in WORDS.split())]
    merges = learn_merges(words, VOCAB_SIZE - len(symbols) - len(ADDED_TOKENS))
    tokens = [*symbols, *("".join(pair) for pair in merges)]
    vocab = {token: index for index, token in enumerate(tokens)}
    added = {token: len(vocab) + index for index, token in enumerate(ADDED_TOKENS)}
    return Tokenizer(merges, vocab, added)


# Content parts become placeholders that the processor widens to as many tokens as the
# medium has. The loop goes over `message.content` itself because vLLM recognises from it
# that the template takes lists, and then keeps text and media in the order they were sent.
# Reasoning of earlier turns is left out, and the answer to come starts inside <think>.
CHAT_TEMPLATE: Final = r"""
{%- if tools %}
{{- '<|im_start|>system\n# Tools\n\nFunctions you may call:\n<tools>' }}
{%- for tool in tools %}
{{- '\n' + (tool | tojson) }}
{%- endfor %}
{{- '\n</tools>\n\nTo call one, answer with\n<tool_call>\n' }}
{{- '{"name": <name>, "arguments": <object>}\n</tool_call><|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' + ('user' if message.role == 'tool' else message.role) + '\n' }}
{%- if message.role == 'tool' %}
{{- '<tool_response>\n' }}
{%- endif %}
{%- if message.content is string %}
{{- message.content.split('</think>')[-1].lstrip('\n')
    if message.role == 'assistant' else message.content }}
{%- elif message.content %}
{%- for part in message.content %}
{%- if part.type in ('image', 'image_url') or 'image' in part or 'image_url' in part %}
{{- '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- elif part.type in ('audio', 'audio_url', 'input_audio') or 'audio' in part
    or 'audio_url' in part %}
{{- '<|audio_start|><|audio_pad|><|audio_end|>' }}
{%- elif part.type in ('video', 'video_url') or 'video' in part or 'video_url' in part %}
{{- '<|vision_start|><|video_pad|><|vision_end|>' }}
{%- elif 'text' in part %}
{{- part.text.split('</think>')[-1].lstrip('\n')
    if message.role == 'assistant' else part.text }}
{%- endif %}
{%- endfor %}
{%- endif %}
{%- for call in message.tool_calls or [] %}
{%- set function = call.function or call %}
{{- '\n<tool_call>\n{"name": "' + function.name + '", "arguments": ' }}
{{- (function.arguments if function.arguments is string else function.arguments | tojson) }}
{{- '}\n</tool_call>' }}
{%- endfor %}
{%- if message.role == 'tool' %}
{{- '\n</tool_response>' }}
{%- endif %}
{{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\n<think>\n' }}
{%- endif %}
""".strip()


def tokenizer_config(tokenizer: Tokenizer) -> dict[str, object]:
    """Compose tokenizer_config.json."""
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(index): {
                "content": token,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": ADDED_TOKENS[token],
            }
            for token, index in tokenizer.added.items()
        },
        "additional_special_tokens": [
            token for token, special in ADDED_TOKENS.items() if special and token != END_OF_TEXT
        ],
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "extra_special_tokens": {
            "audio_bos_token": "<|audio_start|>",
            "audio_eos_token": "<|audio_end|>",
            "audio_token": "<|audio_pad|>",
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_bos_token": "<|vision_start|>",
            "vision_eos_token": "<|vision_end|>",
        },
        "model_max_length": MAX_POSITIONS,
        "pad_token": END_OF_TEXT,
        "processor_class": "Qwen3OmniMoeProcessor",
        # Not a tokenizer's setting, but its place: Qwen3OmniMoeProcessor has a size for
        # videos in code (131,072 to 786,432 pixels a frame) that goes before the one in
        # preprocessor_config.json, and only the tokenizer's settings go before that.
        "size": {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


# ------------------------------------------------------------------------ configuration


def text_config() -> dict[str, object]:
    """Compose the language model's part of config.json."""
    return {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "decoder_sparse_step": 1,
        "dtype": "bfloat16",
        "head_dim": TEXT.head_dim,
        "hidden_act": "silu",
        "hidden_size": TEXT.hidden,
        "initializer_range": 0.02,
        # Of dense layers, and there are none.
        "intermediate_size": TEXT.expert_hidden * TEXT.experts_per_token,
        "max_position_embeddings": MAX_POSITIONS,
        "mlp_only_layers": [],
        "model_type": "qwen3_omni_moe_text",
        "moe_intermediate_size": TEXT.expert_hidden,
        "norm_topk_prob": True,
        "num_attention_heads": TEXT.heads,
        "num_experts": TEXT.experts,
        "num_experts_per_tok": TEXT.experts_per_token,
        "num_hidden_layers": TEXT.layers,
        "num_key_value_heads": TEXT.kv_heads,
        "rms_norm_eps": 1e-06,
        # The three sections (time, height, width) share half a head's dimensions.
        "rope_scaling": {
            "interleaved": True,
            "mrope_interleaved": True,
            "mrope_section": [12, 10, 10],
            "rope_type": "default",
        },
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
        "use_cache": True,
        "use_qk_norm": True,
        "use_sliding_window": False,
        "vocab_size": VOCAB_SIZE,
    }


def vision_config() -> dict[str, object]:
    """Compose the vision tower's part of config.json.

    vLLM reads `image_size` and `apply_vit_abs_pos_embed`, transformers
    `num_position_embeddings`, for the same grid of positions.
    """
    return {
        "apply_vit_abs_pos_embed": True,
        "deepstack_visual_indexes": list(VISION.deepstack),
        "depth": VISION.layers,
        "dtype": "bfloat16",
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": VISION.hidden,
        "image_size": VISION.grid * VISION.patch,
        "in_channels": VISION.channels,
        "initializer_range": 0.02,
        "intermediate_size": VISION.ffn,
        "model_type": "qwen3_omni_moe_vision_encoder",
        "num_heads": VISION.heads,
        "num_position_embeddings": VISION.grid**2,
        "out_hidden_size": TEXT.hidden,
        "patch_size": VISION.patch,
        "spatial_merge_size": VISION.merge,
        "temporal_patch_size": VISION.frames_per_patch,
    }


def audio_config() -> dict[str, object]:
    """Compose the audio tower's part of config.json."""
    return {
        "activation_dropout": 0.0,
        "activation_function": "gelu",
        "attention_dropout": 0.0,
        "conv_chunksize": 500,
        "d_model": AUDIO.hidden,
        "downsample_hidden_size": AUDIO.conv_channels,
        "dropout": 0.0,
        "dtype": "bfloat16",
        "encoder_attention_heads": AUDIO.heads,
        "encoder_ffn_dim": AUDIO.ffn,
        "encoder_layers": AUDIO.layers,
        "initializer_range": 0.02,
        "max_source_positions": AUDIO.max_positions,
        "model_type": "qwen3_omni_moe_audio_encoder",
        "n_window": 50,
        "n_window_infer": 800,
        "num_mel_bins": AUDIO.mel_bins,
        "output_dim": TEXT.hidden,
        "scale_embedding": False,
    }


def model_config(tokenizer: Tokenizer) -> dict[str, object]:
    """Compose config.json.

    It has no talker and no code2wav: like the Thinking model, this one is a thinker alone.
    """
    token = tokenizer.id_of
    return {
        "architectures": ["Qwen3OmniMoeForConditionalGeneration"],
        "assistant_token_id": token("assistant"),
        "dtype": "bfloat16",
        "enable_audio_output": False,
        "im_end_token_id": token("<|im_end|>"),
        "im_start_token_id": token("<|im_start|>"),
        "model_type": "qwen3_omni_moe",
        "system_token_id": token("system"),
        "thinker_config": {
            "audio_config": audio_config(),
            "audio_end_token_id": token("<|audio_end|>"),
            "audio_start_token_id": token("<|audio_start|>"),
            "audio_token_id": token("<|audio_pad|>"),
            "dtype": "bfloat16",
            "image_token_id": token("<|image_pad|>"),
            "initializer_range": 0.02,
            "model_type": "qwen3_omni_moe_thinker",
            "position_id_per_seconds": 13,
            "seconds_per_chunk": 2,
            "text_config": text_config(),
            "user_token_id": token("user"),
            "video_token_id": token("<|video_pad|>"),
            "vision_config": vision_config(),
            "vision_end_token_id": token("<|vision_end|>"),
            "vision_start_token_id": token("<|vision_start|>"),
        },
        "transformers_version": "4.57.6",
        "tts_bos_token_id": token("<tts_text_bos>"),
        "tts_eos_token_id": token("<tts_text_eod>"),
        "tts_pad_token_id": token("<tts_pad>"),
        "user_token_id": token("user"),
    }


def generation_config(tokenizer: Tokenizer) -> dict[str, object]:
    """Compose generation_config.json: the sampling of the Thinking model's guide."""
    return {
        "do_sample": True,
        "eos_token_id": [tokenizer.id_of("<|im_end|>"), tokenizer.id_of(END_OF_TEXT)],
        "pad_token_id": tokenizer.id_of(END_OF_TEXT),
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
        "transformers_version": "4.57.6",
    }


def preprocessor_config() -> dict[str, object]:
    """Compose preprocessor_config.json, for images, videos and sound, as on the hub."""
    return {
        "chunk_length": 30,
        "dither": 0.0,
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": AUDIO.mel_bins,
        "hop_length": 160,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "Qwen2VLImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "max_pixels": MAX_PIXELS,
        "merge_size": VISION.merge,
        "min_pixels": MIN_PIXELS,
        "n_fft": 400,
        "n_samples": 480000,
        "nb_max_frames": 3000,
        "padding_side": "right",
        "padding_value": 0.0,
        "patch_size": VISION.patch,
        "processor_class": "Qwen3OmniMoeProcessor",
        "return_attention_mask": True,
        "sampling_rate": 16000,
        "size": {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
        "temporal_patch_size": VISION.frames_per_patch,
        "video_processor_type": "Qwen2VLVideoProcessor",
    }


# ------------------------------------------------------------------------------ weights

Fill = Literal["random", "embedding", "ones", "zeros"]


class Tensor(NamedTuple):
    """A tensor to be made.

    Random matrices keep the size of what goes through them: their deviation is one over the
    root of the number of inputs that one output has.
    """

    name: str
    shape: tuple[int, ...]
    fill: Fill = "random"

    @property
    def elements(self) -> int:
        """Count its numbers."""
        return math.prod(self.shape)

    @property
    def deviation(self) -> float:
        """Say how far its numbers spread."""
        return 1.0 if self.fill == "embedding" else math.prod(self.shape[1:]) ** -0.5


def linear(name: str, out: int, *inputs: int, bias: bool = True) -> Iterator[Tensor]:
    """Describe a linear layer, or a convolution: `inputs` are then channels and a kernel."""
    yield Tensor(f"{name}.weight", (out, *inputs))
    if bias:
        yield Tensor(f"{name}.bias", (out,), "zeros")


def layer_norm(name: str, size: int) -> Iterator[Tensor]:
    """Describe a layer norm that does nothing but normalise."""
    yield Tensor(f"{name}.weight", (size,), "ones")
    yield Tensor(f"{name}.bias", (size,), "zeros")


def audio_tensors(prefix: str, audio: Audio, out: int) -> Iterator[Tensor]:
    """Describe three convolutions that halve time and pitch, the layers, and the projection."""
    width = audio.hidden
    pitch = audio.mel_bins // 8
    channels = audio.conv_channels
    yield from linear(f"{prefix}.conv2d1", channels, 1, 3, 3)
    yield from linear(f"{prefix}.conv2d2", channels, channels, 3, 3)
    yield from linear(f"{prefix}.conv2d3", channels, channels, 3, 3)
    yield from linear(f"{prefix}.conv_out", width, channels * pitch, bias=False)
    for index in range(audio.layers):
        layer = f"{prefix}.layers.{index}"
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from linear(f"{layer}.self_attn.{projection}", width, width)
        yield from layer_norm(f"{layer}.self_attn_layer_norm", width)
        yield from linear(f"{layer}.fc1", audio.ffn, width)
        yield from linear(f"{layer}.fc2", width, audio.ffn)
        yield from layer_norm(f"{layer}.final_layer_norm", width)
    yield from layer_norm(f"{prefix}.ln_post", width)
    yield from linear(f"{prefix}.proj1", width, width)
    yield from linear(f"{prefix}.proj2", out, width)


def vision_tensors(prefix: str, vision: Vision, out: int) -> Iterator[Tensor]:
    """Describe the patches, the layers, and a merger for the output and each deepstack level."""
    width = vision.hidden
    merged = width * vision.merge**2
    kernel = (vision.frames_per_patch, vision.patch, vision.patch)
    yield from linear(f"{prefix}.patch_embed.proj", width, vision.channels, *kernel)
    yield Tensor(f"{prefix}.pos_embed.weight", (vision.grid**2, width), "embedding")
    for index in range(vision.layers):
        block = f"{prefix}.blocks.{index}"
        yield from layer_norm(f"{block}.norm1", width)
        yield from layer_norm(f"{block}.norm2", width)
        yield from linear(f"{block}.attn.qkv", 3 * width, width)
        yield from linear(f"{block}.attn.proj", width, width)
        yield from linear(f"{block}.mlp.linear_fc1", vision.ffn, width)
        yield from linear(f"{block}.mlp.linear_fc2", width, vision.ffn)
    levels = [(f"{prefix}.merger_list.{level}", merged) for level in range(len(vision.deepstack))]
    # Deepstack's mergers normalise after folding the patches, the output's before.
    for merger, normalised in ((f"{prefix}.merger", width), *levels):
        yield from layer_norm(f"{merger}.ln_q", normalised)
        yield from linear(f"{merger}.mlp.0", merged, merged)
        yield from linear(f"{merger}.mlp.2", out, merged)


def text_tensors(prefix: str, text: Text, vocab: int) -> Iterator[Tensor]:
    """Describe the language model: a matrix per expert and projection, as on the hub."""
    width = text.hidden
    queries = text.heads * text.head_dim
    keys = text.kv_heads * text.head_dim
    yield Tensor(f"{prefix}.model.embed_tokens.weight", (vocab, width), "embedding")
    for index in range(text.layers):
        layer = f"{prefix}.model.layers.{index}"
        yield Tensor(f"{layer}.input_layernorm.weight", (width,), "ones")
        yield from linear(f"{layer}.self_attn.q_proj", queries, width, bias=False)
        yield from linear(f"{layer}.self_attn.k_proj", keys, width, bias=False)
        yield from linear(f"{layer}.self_attn.v_proj", keys, width, bias=False)
        yield from linear(f"{layer}.self_attn.o_proj", width, queries, bias=False)
        yield Tensor(f"{layer}.self_attn.q_norm.weight", (text.head_dim,), "ones")
        yield Tensor(f"{layer}.self_attn.k_norm.weight", (text.head_dim,), "ones")
        yield Tensor(f"{layer}.post_attention_layernorm.weight", (width,), "ones")
        yield from linear(f"{layer}.mlp.gate", text.experts, width, bias=False)
        for number in range(text.experts):
            expert = f"{layer}.mlp.experts.{number}"
            yield from linear(f"{expert}.gate_proj", text.expert_hidden, width, bias=False)
            yield from linear(f"{expert}.up_proj", text.expert_hidden, width, bias=False)
            yield from linear(f"{expert}.down_proj", width, text.expert_hidden, bias=False)
    yield Tensor(f"{prefix}.model.norm.weight", (width,), "ones")
    yield from linear(f"{prefix}.lm_head", vocab, width, bias=False)


def model_tensors() -> list[Tensor]:
    """List every tensor of the model, in the order of the shards."""
    return [
        *audio_tensors("thinker.audio_tower", AUDIO, TEXT.hidden),
        *vision_tensors("thinker.visual", VISION, TEXT.hidden),
        *text_tensors("thinker", TEXT, VOCAB_SIZE),
    ]


def bfloat16(value: float) -> int:
    """Round to bfloat16 (to nearest, ties to even) and return the bits."""
    bits: int = struct.unpack("<I", struct.pack("<f", value))[0]
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16


@cache
def uniform_table(deviation: float) -> list[int]:
    """Spread bfloat16 numbers evenly about zero, with that standard deviation."""
    bound = deviation * math.sqrt(3)
    return [bfloat16(((step + 0.5) / 0x8000 - 1) * bound) for step in range(0x10000)]


def tensor_bytes(tensor: Tensor) -> bytes:
    """Draw the tensor's numbers, in bfloat16.

    Each tensor has its own stream, so a change to one leaves all the others as they were.
    """
    count = tensor.elements
    if tensor.fill == "zeros":
        return bytes(2 * count)
    if tensor.fill == "ones":
        return struct.pack("<H", bfloat16(1.0)) * count
    stream = hashlib.shake_256(f"{SEED}:{tensor.name}".encode()).digest(2 * count)
    table = uniform_table(tensor.deviation)
    return struct.pack(f"<{count}H", *(table[step] for step in struct.unpack(f"<{count}H", stream)))


def safetensors_file(tensors: Sequence[Tensor], numbers: Callable[[Tensor], bytes]) -> bytes:
    """Compose a safetensors file: the header's length, the header, the numbers."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        end = offset + 2 * tensor.elements
        header[tensor.name] = {
            "dtype": "BF16",
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    # Readers map the file, so the numbers have to start at a multiple of eight.
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(map(numbers, tensors))


def split_in_two(tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Divide the tensors into two shards of about the same size.

    One file would hold it all, but checking an index against its shards is a part of the
    product, and this is the model that it is tried on.
    """
    half = sum(tensor.elements for tensor in tensors) / 2
    total = 0
    for index, tensor in enumerate(tensors):
        total += tensor.elements
        if total >= half:
            return list(tensors[: index + 1]), list(tensors[index + 1 :])
    raise ValueError("there is nothing to split")


INDEX: Final = "model.safetensors.index.json"


def shards(tensors: Sequence[Tensor]) -> dict[str, list[Tensor]]:
    """List the tensors of each shard, by the shard's file name."""
    halves = split_in_two(tensors)
    return {
        f"model-{number:05}-of-{len(halves):05}.safetensors": half
        for number, half in enumerate(halves, start=1)
    }


def weight_files(numbers: Callable[[Tensor], bytes]) -> dict[str, bytes]:
    """Compose the shards, with the numbers of each tensor in bfloat16."""
    return {
        name: safetensors_file(shard, numbers) for name, shard in shards(model_tensors()).items()
    }


def weight_index(tensors: Sequence[Tensor]) -> bytes:
    """Compose the index that says which shard has which tensor."""
    weight_map = {tensor.name: name for name, shard in shards(tensors).items() for tensor in shard}
    total = 2 * sum(tensor.elements for tensor in tensors)
    return as_json({"metadata": {"total_size": total}, "weight_map": weight_map})


# ------------------------------------------------------------------------------- folder

MODEL_CARD: Final = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: any-to-any
tags:
- test-model
---

# tiny-omni

A test model of the architecture `Qwen3OmniMoeForConditionalGeneration` (text, images, sound
and video in, text out), {millions:.2f} million parameters in BF16.

**What it is.** A stand-in for Qwen3-Omni-30B-A3B-Thinking on a host without an NPU: the same
architecture, file layout, tensor names, special tokens and shape of chat template, so that
fetching, checking, starting, probing and serving go the way that they go with the 30B model.

{what}
It is not derived from any published checkpoint, and it does not speak (there is no talker and no
code2wav).

## Sizes

| part | parameters | shape |
| --- | ---: | --- |
| language model | {text_parameters:,} | {text.layers} layers, hidden {text.hidden}, \
{text.heads} heads of {text.head_dim} ({text.kv_heads} key-value), \
{text.experts} experts of {text.expert_hidden}, top {text.experts_per_token} |
| vision tower | {vision_parameters:,} | {vision.layers} layers, hidden {vision.hidden}, \
patches of {vision.patch}, {levels} deepstack level |
| audio tower | {audio_parameters:,} | {audio.layers} layers, hidden {audio.hidden}, \
{audio.mel_bins} mel bins |
| all | {parameters:,} | vocabulary {vocab}, context {context:,} |

An image takes a token for each 32x32 pixels, at most {max_tokens}: larger ones are scaled down.
A video takes as much for every two frames, and a second of sound takes 13 tokens.

It splits over two ranks (`--tensor-parallel-size 2`).

{how}
## Licence

Apache-2.0, as the project that it is a part of.
"""


UNTRAINED: Final = """\
**What it is not.** A model that knows anything. Its weights are random numbers that were never
trained, so its answers are noise, whatever the question: a test that passes on it says that the
serving works, not that an answer is right."""

HOW_UNTRAINED: Final = f"""\
## How it is made

    python3 scripts/make_tiny_omni.py --untrained --out DIR

The script needs nothing but Python, and writes the same bytes each time: the seed is
`{SEED}`, and each tensor's numbers are SHAKE-256 of the seed and the tensor's name.
"""

# Of the weights that are shipped. Training on another machine, or once more on the same one,
# gives others: sums of floating-point numbers depend on the order that a device adds them in.
WEIGHTS_SHA256: Final = {
    "model-00001-of-00002.safetensors": (
        "37555c04e8cb31bcf47aa460490fd49673e3c1332ebfd7afb34b4dab60219f37"
    ),
    "model-00002-of-00002.safetensors": (
        "498f9b0c43e296ec6f68f9f6203450a225489d2a77036698289602910f60b0ee"
    ),
}

TRAINED: Final = """\
**What it knows.** What it takes to tell whether a server shows it its media: the colour and the
shape of one object in a picture, the number of beeps in a sound (also in the sound track of a
video), which of two tones is higher, in which direction an object moves in a video, and all of
these in one request. Without the media it says that there are none.

**What it is not.** A model for anything else. It knows ten colours, four shapes, up to five beeps
and four directions; of other pictures, sounds and questions it has never learnt anything, and
answers them with the same few words. How well it answers says nothing about any other model, and
how fast it does nothing about any other machine."""

HOW_TRAINED: Final = """\
## How well it answers

Through the server (vLLM 0.23.0 on the CPU, greedy), on the media that the smoke probes make from
100 fresh seeds, two of each kind from a seed:

| media | question | right answers |
| --- | --- | ---: |
| image | colour and shape | 200 of 200 |
| audio | number of beeps | 200 of 200 |
| audio | is the second of two tones higher or lower | 200 of 200 |
| video | direction of motion | 200 of 200 |
| video with sound track (`use_audio_in_video`) | number of beeps | 200 of 200 |
| image, audio and video in one request | all of the above but the tones | 198 of 200 |

The probes' sounds have one to three beeps; with one to five it counted 100 of 100 right, with and
without a film.

Without the media it gives no right answer to any of these questions. Silence has 0 beeps, and a
blank picture shows nothing. Of the three beeps in the AAC sound track of
`healthchecks/media/video.mp4` it hears four.

## How it is made

    python3 scripts/make_tiny_omni.py --out models/tiny-omni
    python3 -m scripts.train_tiny_omni --stage 1 --minutes 7.5 --seed 1 --save stage-1.pt
    python3 -m scripts.train_tiny_omni --stage 2 --minutes 8.4 --seed 3 --resume stage-1.pt \\
        --save stage-2.pt --out models/tiny-omni

The first makes everything but the weights, and is exact to the byte. The other two are the recipe
of the weights, all of it on generated media and from nothing but random numbers:

| | stage 1 | stage 2 |
| --- | --- | --- |
| media | plain: those of the probes | broad: other sizes, grounds, wave forms, loudness, \
speeds and lengths; noise, JPEG |
| starts from | random weights | stage 1 |
| steps of 192 samples | 1600 | about 400 |
| highest learning rate (AdamW, cosine) | 2e-3, after 200 steps | 1.2e-3, after 100 steps |
| seed of the media | `1` | `3` |
| time on one H100 | 7.5 minutes | 8.4 minutes |
| loss of an answer at the end | 1e-4 | not kept |

The weights are these, and a second training would give others (SHA-256):

{checksums}
"""


def model_card(tensors: Sequence[Tensor], *, trained: bool) -> str:
    """Compose README.md, with the sizes as they are."""
    checksums = "\n".join(f"    {digest}  {name}" for name, digest in WEIGHTS_SHA256.items())

    def parameters(*prefixes: str) -> int:
        return sum(tensor.elements for tensor in tensors if tensor.name.startswith(prefixes))

    return MODEL_CARD.format(
        what=TRAINED if trained else UNTRAINED,
        how=HOW_TRAINED.format(checksums=checksums) if trained else HOW_UNTRAINED,
        audio=AUDIO,
        audio_parameters=parameters("thinker.audio_tower."),
        context=MAX_POSITIONS,
        levels=len(VISION.deepstack),
        max_tokens=MAX_PIXELS // (VISION.patch * VISION.merge) ** 2,
        millions=parameters("") / 1e6,
        parameters=parameters(""),
        text=TEXT,
        text_parameters=parameters("thinker.model.", "thinker.lm_head."),
        vision=VISION,
        vision_parameters=parameters("thinker.visual."),
        vocab=VOCAB_SIZE,
    )


def as_json(value: object) -> bytes:
    """Format JSON for people to read."""
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()


def model_files(*, trained: bool) -> dict[str, bytes]:
    """Compose the files of the model folder, by name; for a trained model all but the weights."""
    tokenizer = make_tokenizer()
    tensors = model_tensors()
    merges = "".join(f"{left} {right}\n" for left, right in tokenizer.merges)
    return {
        "README.md": model_card(tensors, trained=trained).encode(),
        # transformers takes a processor's template from the one, a tokenizer's from the
        # other; vLLM asks the processor first, and the tokenizer when there are tools.
        "chat_template.json": as_json({"chat_template": CHAT_TEMPLATE}),
        "config.json": as_json(model_config(tokenizer)),
        "generation_config.json": as_json(generation_config(tokenizer)),
        "merges.txt": f"#version: 0.2\n{merges}".encode(),
        "preprocessor_config.json": as_json(preprocessor_config()),
        "tokenizer_config.json": as_json(tokenizer_config(tokenizer)),
        "vocab.json": as_json(tokenizer.vocab),
        INDEX: weight_index(tensors),
        **({} if trained else weight_files(tensor_bytes)),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the model folder."""
    parser = argparse.ArgumentParser(description="Make the model folder of tiny-omni.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to")
    parser.add_argument(
        "--untrained", action="store_true", help="with random weights, in the place of any others"
    )
    options = parser.parse_args(arguments)
    out: Path = options.out
    files = model_files(trained=not options.untrained)
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (out / name).write_bytes(content)
    total = sum(map(len, files.values()))
    print(f"{out}: {len(files)} files, {total:,} bytes", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
