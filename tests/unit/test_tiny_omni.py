# SPDX-License-Identifier: Apache-2.0
"""The shipped tiny-omni: complete, consistent, small, and what its script makes."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import re
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "tiny-omni"
SCRIPT = ROOT / "scripts" / "make_tiny_omni.py"
MAX_FOLDER_BYTES = 8_000_000


def read_json(name: str) -> dict[str, Any]:
    """A JSON file of the model folder."""
    content: dict[str, Any] = json.loads((MODEL / name).read_text(encoding="utf-8"))
    return content


def read_header(shard: Path) -> tuple[dict[str, Any], int]:
    """A safetensors file's header, less its metadata, and the bytes that follow it."""
    with shard.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(length))
    assert header.pop("__metadata__") == {"format": "pt"}
    return header, shard.stat().st_size - 8 - length


@pytest.fixture(scope="module")
def shards() -> dict[str, dict[str, Any]]:
    """Each shard's header, by the shard's file name."""
    return {path.name: read_header(path)[0] for path in sorted(MODEL.glob("*.safetensors"))}


@pytest.fixture(scope="module")
def tensors(shards: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Each tensor's entry, by the tensor's name."""
    return {name: entry for header in shards.values() for name, entry in header.items()}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # A frozen dataclass looks its own module up while it is being made.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= MAX_FOLDER_BYTES


def test_folder_is_what_the_script_makes(script: ModuleType, tmp_path: Path) -> None:
    """To the byte, but for the weights."""
    assert script.main(["--out", str(tmp_path)]) == 0
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    shipped = {path.name: path.read_bytes() for path in MODEL.iterdir()}
    weights = {name for name in shipped if name.endswith(".safetensors")}
    assert made.keys() == shipped.keys() - weights
    # Names, not contents: a difference of megabytes helps nobody.
    assert [name for name in made if made[name] != shipped[name]] == []


def test_untrained_weights_are_made_for_the_same_tensors(
    script: ModuleType, tmp_path: Path, tensors: dict[str, Any]
) -> None:
    assert script.main(["--untrained", "--out", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in MODEL.iterdir()}
    made: dict[str, Any] = {}
    for path in tmp_path.glob("*.safetensors"):
        made |= read_header(path)[0]
    assert made == tensors
    assert "never" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_the_card_names_the_weights_that_are_here(script: ModuleType) -> None:
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in MODEL.glob("*.safetensors")
    }
    assert found == script.WEIGHTS_SHA256
    card = (MODEL / "README.md").read_text(encoding="utf-8")
    assert all(f"{digest}  {name}" in card for name, digest in found.items())


def test_the_weights_are_trained_ones(
    script: ModuleType, shards: dict[str, dict[str, Any]]
) -> None:
    """Nothing is as it was drawn, or broken, and what starts at one and zero has left it."""
    drawn = {tensor.name: tensor for tensor in script.model_tensors()}
    for name, header in shards.items():
        content = (MODEL / name).read_bytes()
        start = 8 + struct.unpack("<Q", content[:8])[0]
        for tensor, entry in header.items():
            begin, end = entry["data_offsets"]
            numbers = content[start + begin : start + end]
            assert list(drawn[tensor].shape) == entry["shape"]
            assert numbers != script.tensor_bytes(drawn[tensor]), tensor
            values = struct.unpack(f"<{len(numbers) // 2}H", numbers)
            # An exponent of all ones is an infinity or no number.
            assert all(value & 0x7F80 != 0x7F80 for value in values), tensor
            assert len(set(values)) > 1, tensor


def test_architecture() -> None:
    config = read_json("config.json")
    assert config["architectures"] == ["Qwen3OmniMoeForConditionalGeneration"]
    assert config["model_type"] == "qwen3_omni_moe"
    assert config["enable_audio_output"] is False
    assert config["thinker_config"]["text_config"]["max_position_embeddings"] >= 32768


@pytest.mark.parametrize("ranks", [1, 2])
def test_model_splits_over_ranks(ranks: int) -> None:
    thinker = read_json("config.json")["thinker_config"]
    text = thinker["text_config"]
    assert text["hidden_size"] % 32 == 0
    assert text["moe_intermediate_size"] % (32 * ranks) == 0
    for heads in (
        text["num_attention_heads"],
        text["num_key_value_heads"],
        thinker["vision_config"]["num_heads"],
        thinker["audio_config"]["encoder_attention_heads"],
    ):
        assert heads % ranks == 0


def test_index_agrees_with_shards(shards: dict[str, dict[str, Any]]) -> None:
    index = read_json("model.safetensors.index.json")
    held = [(tensor, shard) for shard, header in shards.items() for tensor in header]
    assert len(shards) == 2
    assert len(dict(held)) == len(held), "a tensor is in two shards"
    assert dict(held) == index["weight_map"]


def test_shards_are_whole(shards: dict[str, dict[str, Any]]) -> None:
    total = 0
    for name in shards:
        header, size = read_header(MODEL / name)
        end = 0
        for entry in sorted(header.values(), key=lambda entry: entry["data_offsets"][0]):
            start, stop = entry["data_offsets"]
            assert start == end, "the numbers have a gap or overlap"
            assert stop - start == 2 * math.prod(entry["shape"])
            end = stop
        assert end == size
        total += end
    assert read_json("model.safetensors.index.json")["metadata"]["total_size"] == total


def test_every_tensor_is_bfloat16(tensors: dict[str, Any]) -> None:
    assert {entry["dtype"] for entry in tensors.values()} == {"BF16"}


def test_experts_are_unfused_and_complete(tensors: dict[str, Any]) -> None:
    text = read_json("config.json")["thinker_config"]["text_config"]
    wide = [text["moe_intermediate_size"], text["hidden_size"]]
    shapes = {"gate_proj": wide, "up_proj": wide, "down_proj": wide[::-1]}
    expected = {
        f"thinker.model.layers.{layer}.mlp.experts.{expert}.{projection}.weight": shape
        for layer in range(text["num_hidden_layers"])
        for expert in range(text["num_experts"])
        for projection, shape in shapes.items()
    }
    found = {name: entry["shape"] for name, entry in tensors.items() if ".experts." in name}
    assert found == expected


def test_vocabulary_is_dense() -> None:
    config = read_json("config.json")["thinker_config"]
    added = read_json("tokenizer_config.json")["added_tokens_decoder"]
    ids = [*read_json("vocab.json").values(), *map(int, added)]
    assert sorted(ids) == list(range(config["text_config"]["vocab_size"]))
    merges = (MODEL / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    vocab = read_json("vocab.json")
    assert all(merge.replace(" ", "") in vocab for merge in merges)


@pytest.mark.parametrize(
    ("where", "key", "token"),
    [
        ("thinker_config", "image_token_id", "<|image_pad|>"),
        ("thinker_config", "video_token_id", "<|video_pad|>"),
        ("thinker_config", "audio_token_id", "<|audio_pad|>"),
        ("thinker_config", "vision_start_token_id", "<|vision_start|>"),
        ("thinker_config", "vision_end_token_id", "<|vision_end|>"),
        ("thinker_config", "audio_start_token_id", "<|audio_start|>"),
        ("thinker_config", "audio_end_token_id", "<|audio_end|>"),
        (None, "im_start_token_id", "<|im_start|>"),
        (None, "im_end_token_id", "<|im_end|>"),
    ],
)
def test_config_names_the_special_tokens(where: str | None, key: str, token: str) -> None:
    config = read_json("config.json")
    added = read_json("tokenizer_config.json")["added_tokens_decoder"]
    number = (config[where] if where else config)[key]
    assert added[str(number)]["content"] == token


def test_chat_template_opens_the_reasoning() -> None:
    template = read_json("chat_template.json")["chat_template"]
    assert template == read_json("tokenizer_config.json")["chat_template"]
    assert "<|im_start|>assistant\\n<think>\\n" in template
    for placeholder in ("<|image_pad|>", "<|audio_pad|>", "<|video_pad|>"):
        assert placeholder in template


def test_nothing_depends_on_where_and_when_it_was_made() -> None:
    machine = re.compile(
        rb"/(?:root|home|tmp|work|usr|opt|Users)/|\b20\d\d-\d\d-\d\d|\d\d:\d\d:\d\d"
    )
    for path in MODEL.iterdir():
        content = path.read_bytes()
        if path.suffix == ".safetensors":
            # The numbers behind the header are random: any pattern may come up in them.
            (length,) = struct.unpack("<Q", content[:8])
            content = content[8 : 8 + length]
        assert machine.search(content) is None, path.name
