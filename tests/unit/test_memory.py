"""The arithmetic of NPU memory: exact where it can be, and no advice that does not hold.

What vLLM's own model class allocates was read from vLLM 0.23.0 on PyTorch's `meta` device, with
its process groups as they are; the end-to-end tests do so again, in the image.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from appliance.catalog import load as catalog
from appliance.catalog import model_configs
from appliance.plan import memory, model_sizes, reserves, weights_size
from appliance.plan.memory import Request, estimate, refusal, remedies
from appliance.plan.model_sizes import UnknownArchitecture
from appliance.plan.weights_size import ImpossibleLayout, Layout

ROOT = Path(__file__).resolve().parents[2]
GIB = 1024**3
MIB = 1024**2
# torch_npu's "total capacity" of chips of 64 and of 32 GiB.
LARGE, SMALL = int(60.97 * GIB), int(29.49 * GIB)
LIMITS = {"image": 5, "video": 2, "audio": 3}
THINKING = model_configs.config("Qwen/Qwen3-Omni-30B-A3B-Thinking")
TINY: dict[str, Any] = json.loads((ROOT / "models/tiny-omni/config.json").read_text("utf-8"))
assert THINKING is not None

# Ranks, replicas, expert parallelism: bytes of all parameters on one rank. Where experts
# divide by the ranks, whole ones take as much as slices of all.
VLLM = [
    (1, 1, False, 63_438_410_976),
    (1, 1, True, 63_438_410_976),
    (2, 1, False, 31_755_143_792),
    (2, 1, True, 31_755_143_792),
    (4, 1, False, 15_913_510_200),
    (4, 1, True, 15_913_510_200),
    (1, 2, False, 34_447_381_728),
    (1, 2, True, 34_447_381_728),
    (2, 2, False, 17_259_629_168),
    (2, 2, True, 17_259_629_168),
]
VLLM_TINY = [
    (1, 1, False, 7_663_104),
    (2, 1, True, 4_137_056),
    (4, 1, False, 2_455_952),
    (1, 2, True, 5_697_024),
    (2, 2, True, 3_154_016),
]
# Buffers on any rank, without expert parallelism and with it; the deepstack levels of a step
# of 2,048 tokens are in them.
VLLM_BUFFERS = {False: 100_545_280, True: 100_569_856}


def request(layout: Layout, usable: int = LARGE, **changes: Any) -> Request:
    """A request with the catalog's and vLLM's defaults."""
    base = Request(
        config=THINKING or {},
        layout=layout,
        usable_bytes=usable,
        utilization=0.9,
        max_model_len=32768,
        max_num_batched_tokens=2048,
        max_num_seqs=256,
        limit_mm_per_prompt=LIMITS,
        hccl_buffsize_mib=1024,
    )
    return dataclasses.replace(base, **changes)


def changed(where: str, **values: Any) -> dict[str, Any]:
    """The tiny model's config with other values in one part; None takes a key out."""
    config = copy.deepcopy(TINY)
    part = config
    for key in filter(None, where.split(".")):
        part = part[key]
    part.update(values)
    for key, value in values.items():
        if value is None:
            del part[key]
    return config


TEXT = "thinker_config.text_config"
VISION = "thinker_config.vision_config"
AUDIO = "thinker_config.audio_config"


class TestWeights:
    @pytest.mark.parametrize(("tensor", "data", "experts", "expected"), VLLM)
    def test_parameters_are_vllms(
        self, tensor: int, data: int, experts: bool, expected: int
    ) -> None:
        layout = Layout(tensor, data, experts)
        assert weights_size.weights_bytes(THINKING or {}, layout) == expected

    @pytest.mark.parametrize(("tensor", "data", "experts", "expected"), VLLM_TINY)
    def test_tiny_parameters_are_vllms(
        self, tensor: int, data: int, experts: bool, expected: int
    ) -> None:
        assert weights_size.weights_bytes(TINY, Layout(tensor, data, experts)) == expected

    def test_tiny_parameters_are_its_shards(self) -> None:
        index = json.loads((ROOT / "models/tiny-omni/model.safetensors.index.json").read_text())
        assert weights_size.weights_bytes(TINY, Layout(1)) == index["metadata"]["total_size"]

    def test_parameters_are_the_hubs(self) -> None:
        """The count that is published for the model."""
        assert weights_size.weights_bytes(THINKING or {}, Layout(1)) == 2 * 31_719_205_488

    @pytest.mark.parametrize("experts", [False, True])
    def test_buffers_are_vllms(self, experts: bool) -> None:
        layout = Layout(2, 1, experts)
        assert weights_size.buffer_bytes(THINKING or {}, layout, 2048) == VLLM_BUFFERS[experts]

    def test_no_map_of_experts_for_one_rank(self) -> None:
        found = weights_size.buffer_bytes(THINKING or {}, Layout(1, 1, expert_parallel=True), 2048)
        assert found == VLLM_BUFFERS[False]

    def test_measured_on_two_gpus(self) -> None:
        """29.76 GiB, as vLLM reported with steps of 8,192 tokens."""
        plan = estimate(request(Layout(2, 1, expert_parallel=True), max_num_batched_tokens=8192))
        assert plan.weights_bytes_per_rank / GIB == pytest.approx(29.76, rel=0.001)

    def test_reported_from_four_npus(self) -> None:
        """14.9159 GiB, of vllm-ascend on four 910B4 (its issue 7239)."""
        plan = estimate(request(Layout(4), SMALL))
        assert plan.weights_bytes_per_rank / GIB == pytest.approx(14.9159, rel=0.0002)

    def test_fullest_rank_where_experts_do_not_divide(self) -> None:
        config = changed(TEXT, num_experts=6)
        whole = weights_size.weights_bytes(config, Layout(4, 1, expert_parallel=True))
        slices = weights_size.weights_bytes(config, Layout(4, 1, expert_parallel=False))
        one_expert = 3 * 160 * 128 * 2
        # 2 of 6 experts, instead of a quarter of all; 4 layers.
        assert whole - slices == 4 * one_expert // 2

    @pytest.mark.parametrize(
        ("limits", "audio", "vision"),
        [
            ({}, True, True),
            ({"audio": 0}, False, True),
            ({"video": 0}, True, True),
            ({"image": 0, "video": 0}, True, False),
            ({"image": 0, "video": 0, "audio": 0}, False, False),
        ],
    )
    def test_towers_without_input_are_not_loaded(
        self, limits: dict[str, int], audio: bool, vision: bool
    ) -> None:
        """Their parameters as in the tiny model's README: 386,720 and 816,320."""
        less = weights_size.weights_bytes(TINY, Layout(1)) - weights_size.weights_bytes(
            TINY, Layout(1), limits=limits
        )
        assert less == 2 * (386_720 * (not audio) + 816_320 * (not vision))

    @pytest.mark.parametrize("ranks", [3, 8])
    def test_layout_that_vllm_refuses(self, ranks: int) -> None:
        """Of 32 text and 20 audio heads, as of every width."""
        with pytest.raises(ImpossibleLayout, match=f"does not divide by {ranks}"):
            weights_size.weights_bytes(THINKING or {}, Layout(ranks))

    @pytest.mark.parametrize(
        ("root", "factor", "name"),
        [
            ({}, 1, "BF16"),
            ({"dtype": "float16"}, 1, "FP16"),
            ({"dtype": None, "torch_dtype": "torch.bfloat16"}, 1, "BF16"),
            # vLLM's `--dtype auto` does not serve in 32 bits.
            ({"dtype": "float32"}, 1, "BF16"),
        ],
    )
    def test_types(self, root: dict[str, Any], factor: int, name: str) -> None:
        config = changed("", **root)
        assert weights_size.weights_bytes(config, Layout(1)) == 7_663_104 * factor
        assert model_sizes.read(config).dtype == name

    def test_type_of_the_text_where_the_root_has_none(self) -> None:
        config = changed("", dtype=None)
        config["thinker_config"]["text_config"]["dtype"] = "float16"
        assert model_sizes.read(config).dtype == "FP16"

    def test_other_type_than_the_configurations(self) -> None:
        assert weights_size.weights_bytes(TINY, Layout(1), element_bytes=4) == 2 * 7_663_104
        assert weights_size.kv_bytes_per_token(TINY, Layout(1), element_bytes=4) == 4096
        assert model_sizes.read(TINY, 4).dtype == "4-byte"


class TestKvCache:
    @pytest.mark.parametrize(
        ("ranks", "expected"),
        # 4 key-value heads: from 4 ranks on each has one.
        [(1, 98_304), (2, 49_152), (4, 24_576), (8, 24_576)],
    )
    def test_bytes_a_token(self, ranks: int, expected: int) -> None:
        for layout in (Layout(ranks), Layout(ranks, 2, expert_parallel=True)):
            assert weights_size.kv_bytes_per_token(THINKING or {}, layout) == expected

    def test_heads_that_do_not_divide(self) -> None:
        with pytest.raises(ImpossibleLayout):
            weights_size.kv_bytes_per_token(THINKING or {}, Layout(3))
        with pytest.raises(ImpossibleLayout):
            weights_size.kv_bytes_per_token(THINKING or {}, Layout(6))


class TestUnknown:
    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({}, "the architecture is none"),
            ({"architectures": ["LlamaForCausalLM"]}, "the architecture is LlamaForCausalLM"),
            (changed("", thinker_config=None), "thinker_config is not in config.json"),
            (changed("thinker_config", vision_config=None), "vision_config is not"),
            (changed("thinker_config", audio_config=[]), "audio_config is not"),
            (changed(TEXT, hidden_size=None), "hidden_size of qwen3_omni_moe_text is None"),
            (changed(TEXT, vocab_size="512"), "vocab_size of qwen3_omni_moe_text is '512'"),
            (changed(TEXT, num_hidden_layers=True), "num_hidden_layers"),
            (changed(TEXT, moe_intermediate_size=None), "moe_intermediate_size"),
            (changed(TEXT, mlp_only_layers=[0], intermediate_size=None), "intermediate_size"),
            (changed(VISION, image_size=None), "image_size"),
            (changed(AUDIO, d_model=0), "d_model of qwen3_omni_moe_audio_encoder is 0"),
            (changed("", dtype="float8_e4m3fn"), "of type float8_e4m3fn"),
            (changed("", quantization_config={"quant_method": "awq"}), "quantised"),
            (changed("thinker_config", compression_config={"format": "int8"}), "quantised"),
            (changed(TEXT, quantize="w8a8_dynamic"), "quantised"),
        ],
    )
    def test_no_number_is_better_than_a_wrong_one(
        self, config: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(UnknownArchitecture, match=re.escape(message)):
            weights_size.weights_bytes(config, Layout(1))
        with pytest.raises(UnknownArchitecture, match=re.escape(message)):
            estimate(request(Layout(1), config=config))

    def test_model_that_the_catalog_does_not_know(self) -> None:
        assert model_configs.config("Qwen/Qwen3-8B") is None
        assert model_configs.config("../memory") is None


class TestReserves:
    @pytest.mark.parametrize(
        ("layout", "buffsize", "mib"),
        [
            (Layout(1), 1024, 300),
            (Layout(1, 1, expert_parallel=True), 1024, 300),
            (Layout(2), 1024, 300 + 400),
            (Layout(2, 1, expert_parallel=True), 1024, 300 + 400 + 400 + 2048),
            (Layout(2, 1, expert_parallel=True), None, 300 + 400 + 400 + 400),
            (Layout(1, 2, expert_parallel=True), 512, 300 + 100 + 400 + 1024),
            (Layout(2, 2), None, 300 + 400 + 100),
        ],
    )
    def test_communicators(self, layout: Layout, buffsize: int | None, mib: int) -> None:
        assert reserves.communication(layout, buffsize) == mib * MIB

    def test_communication_of_reported_runs(self) -> None:
        """ "Non-torch memory" at DP=8 TP=2 and at DP=2 TP=8, with expert parallelism."""
        for layout, gib in ((Layout(2, 8, True), 3.08), (Layout(8, 2, True), 3.15)):
            assert reserves.communication(layout, 1024) / GIB == pytest.approx(gib, abs=0.1)

    @pytest.mark.parametrize(
        ("length", "batch", "limits", "expected"),
        [
            # Logged by vLLM: 25,088 tokens and one video; 62,720 at the whole length.
            (32768, 8192, {}, ("video", 25_088, 1)),
            (65536, 2048, {}, ("video", 62_720, 1)),
            (1024, 2048, {}, ("video", 12_544, 1)),
            # 14 frames at most.
            (262144, 2048, {}, ("video", 87_808, 1)),
            (32768, 2048, {"video": 0}, ("image", 12_544, 1)),
            (32768, 50_176, {"video": 0}, ("image", 12_544, 4)),
            (32768, 2048, {"image": 0, "video": 0}, ("audio", 390, 5)),
            (400, 2048, {"image": 0, "video": 0, "audio": 1}, ("audio", 390, 5)),
            (32768, 2048, {"image": 0, "video": 0, "audio": 0}, None),
        ],
    )
    def test_largest_input(
        self,
        length: int,
        batch: int,
        limits: dict[str, int],
        expected: tuple[str, int, int] | None,
    ) -> None:
        model = model_sizes.read(THINKING or {})
        found = reserves.largest_input(model, reserves.Step(length, batch, 256, limits))
        assert found == (reserves.Input(*expected) if expected else None)

    def test_activations_follow_what_they_are_of(self) -> None:
        model = model_sizes.read(THINKING or {})

        def at(ranks: int = 2, **values: Any) -> int:
            step = reserves.Step(
                **{
                    "max_model_len": 32768,
                    "max_num_batched_tokens": 2048,
                    "max_num_seqs": 256,
                    "limit_mm_per_prompt": {},
                    **values,
                }
            )
            return reserves.activations(model, Layout(ranks), step)

        no_vision = {"image": 0, "video": 0}
        nothing = {**no_vision, "audio": 0}
        assert at(1) > at(2) > at(4)
        assert at() > at(limit_mm_per_prompt={"video": 0}) > at(limit_mm_per_prompt=nothing)
        assert at(limit_mm_per_prompt=no_vision) > at(limit_mm_per_prompt=nothing)
        assert at(max_model_len=65536) > at()
        # Without an encoder's pass it is the step that counts, or the logits of its requests.
        assert at(limit_mm_per_prompt=nothing, max_num_seqs=1024) == 1024 * 152_064 * 10
        assert at(limit_mm_per_prompt=nothing, max_num_batched_tokens=65536) > 2 * at(
            limit_mm_per_prompt=nothing, max_num_batched_tokens=16384
        )

    def test_encoders_pass(self) -> None:
        """25,088 tokens of 4 patches; each of 1,536 values, 3 kept levels and 2 hidden states,
        and half of 7 hidden states and of 4 of heads padded from 72 to 128."""
        model = model_sizes.read(THINKING or {})
        step = reserves.Step(32768, 2048, 256, {})
        values = 1536 + 5 * 1152 + (7 * 1152 + 4 * 16 * 128) // 2
        assert reserves.activations(model, Layout(2), step) == 4 * 25_088 * values * 2

    def test_language_models_step(self) -> None:
        """Every token goes to 8 experts; with two replicas, to those of both."""
        model = model_sizes.read(THINKING or {})
        step = reserves.Step(32768, 65536, 1, {"image": 0, "video": 0, "audio": 0})
        for layout, tokens, width in (
            (Layout(2), 65536, 768 // 2),
            (Layout(2, 1, expert_parallel=True), 65536, 768),
            (Layout(2, 2), 2 * 65536, 768 // 4),
            (Layout(1, 2, expert_parallel=True), 2 * 65536, 768),
        ):
            values = 4 * 2048 + 8 * (2 * 2048 + 3 * width)
            assert reserves.activations(model, layout, step) == tokens * values * 2

    def test_dense_models_step(self) -> None:
        model = model_sizes.read(changed(TEXT, num_experts=None))
        step = reserves.Step(32768, 2048, 1, {"image": 0, "video": 0, "audio": 0})
        values = 4 * 160 + 2 * 160 + 3 * 256 // 2
        assert reserves.activations(model, Layout(2, 2), step) == 2048 * values * 2

    def test_sounds_pass(self) -> None:
        """5 sounds of 30 chunks: 480 channels of 64 rows and 50 columns, before and after."""
        model = model_sizes.read(THINKING or {})
        step = reserves.Step(32768, 2048, 1, {"image": 0, "video": 0})
        expected = 2 * 5 * 30 * 480 * 64 * 50 * 2
        assert reserves.activations(model, Layout(4), step) == expected

    def test_both_reserves_where_they_were_measured(self) -> None:
        """vLLM 0.23.0 left 94.94 GiB and 2,074,064 tokens on GPUs of 139.8 GiB, with 0.92."""
        plan = estimate(
            request(
                Layout(2, 1, expert_parallel=True),
                int(139.8 * GIB),
                utilization=catalog.releases()["v0.23.0"].memory_utilization,
                max_num_batched_tokens=8192,
                max_num_seqs=1024,
                limit_mm_per_prompt={},
                hccl_buffsize_mib=None,
            )
        )
        assert plan.kv_bytes_per_token_per_rank == 49_152
        assert plan.kv_tokens == pytest.approx(2_074_064, rel=0.01)
        assert plan.max_concurrency == pytest.approx(63.30, rel=0.01)

    @pytest.mark.parametrize(
        ("usable", "length", "expected"),
        [
            (LARGE, 32768, (2048, 256)),
            (SMALL, 32768, (2048, 256)),
            (int(139.8 * GIB), 32768, (8192, 1024)),
            (LARGE, 4, (1024, 256)),
        ],
    )
    def test_vllms_own_step(self, usable: int, length: int, expected: tuple[int, int]) -> None:
        assert reserves.default_step(usable, length) == expected


class TestEstimate:
    def test_everything_adds_up(self) -> None:
        plan = estimate(request(Layout(2, 1, expert_parallel=True)))
        assert plan.fits
        assert plan.usable_bytes == LARGE
        assert plan.budget_bytes == int(0.9 * LARGE)
        assert plan.budget_bytes == (
            plan.weights_bytes_per_rank
            + plan.activation_bytes_per_rank
            + plan.communication_bytes_per_rank
            + plan.kv_cache_bytes_per_rank
        )
        assert plan.kv_tokens % 128 == 0
        spare = plan.kv_cache_bytes_per_rank - plan.kv_tokens * plan.kv_bytes_per_token_per_rank
        assert 0 <= spare < 128 * plan.kv_bytes_per_token_per_rank
        assert plan.max_concurrency == round(plan.kv_tokens / 32768, 2)

    def test_one_request_of_the_full_length_must_fit(self) -> None:
        """At a length of whole blocks, and one token beyond."""
        tight = request(Layout(4, 1, expert_parallel=True), SMALL, utilization=0.71)
        most = estimate(tight).kv_tokens
        assert 25_088 <= most < 37_632, "the encoder's pass would change with the length"
        assert estimate(dataclasses.replace(tight, max_model_len=most)).fits
        assert not estimate(dataclasses.replace(tight, max_model_len=most + 1)).fits

    def test_nothing_left(self) -> None:
        plan = estimate(request(Layout(1)))
        assert (plan.kv_cache_bytes_per_rank, plan.kv_tokens, plan.max_concurrency) == (0, 0, 0.0)
        assert not plan.fits

    @pytest.mark.parametrize(
        ("layout", "usable", "fits"),
        [
            (Layout(1), LARGE, False),
            (Layout(2), LARGE, True),
            (Layout(4), LARGE, True),
            (Layout(1, 2, expert_parallel=True), LARGE, True),
            (Layout(2), SMALL, False),
            (Layout(4, 1, expert_parallel=True), SMALL, True),
        ],
    )
    def test_layouts(self, layout: Layout, usable: int, fits: bool) -> None:
        assert estimate(request(layout, usable)).fits is fits

    @pytest.mark.parametrize("usable", [LARGE, int(61.28 * GIB)])
    def test_one_npu_of_64_gib_is_too_small_whatever_is_set(self, usable: int) -> None:
        """The guide says TP >= 1: for a model in 16 bits that sees, that is wrong."""
        smallest = request(
            Layout(1),
            usable,
            utilization=0.98,
            max_model_len=1024,
            limit_mm_per_prompt={"image": 1, "video": 0, "audio": 0},
            max_num_seqs=1,
            max_num_batched_tokens=1024,
            hccl_buffsize_mib=None,
        )
        assert not estimate(smallest).fits

    def test_what_others_hold_counts(self) -> None:
        """vLLM wants its share of the whole to be free, and the KV cache is of the share."""
        alone = request(Layout(2))
        kept = LARGE - int(0.9 * LARGE)
        beside = dataclasses.replace(alone, occupied_bytes=kept)
        assert estimate(beside) == estimate(alone)
        crowded = dataclasses.replace(alone, occupied_bytes=kept + 1)
        assert estimate(crowded) == dataclasses.replace(estimate(alone), fits=False)

    def test_tiny_model(self) -> None:
        plan = estimate(request(Layout(2, 1, expert_parallel=True), GIB, config=TINY))
        assert plan.kv_bytes_per_token_per_rank == 4 * 2 * 1 * 64 * 2

    def test_start_is_not_slowed(self) -> None:
        code = "import sys, appliance.plan.memory; print(*sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert not {"pydantic", "numpy", "docker", "httpx"} & set(done.stdout.split())


def amounts(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"(\d+\.\d\d) GiB", text)]


class TestRefusal:
    def test_arithmetic(self) -> None:
        wanted = request(Layout(1))
        message, remedy = refusal(wanted, estimate(wanted), "910B3")
        need, weights, activation, communication, cache, usable, budget, lack = amounts(message)
        assert need == pytest.approx(weights + activation + communication + cache, abs=0.03)
        assert lack == pytest.approx(need - budget, abs=0.02)
        assert (weights, usable, budget) == (59.18, 60.97, 54.87)
        assert cache == 3.0
        assert "at TP=1 a rank needs" in message
        assert "BF16" in message
        assert "910B3" in message
        assert "32768 tokens" in message
        assert remedy == "Set `parallel.tensor_parallel_size: 2` (2 NPUs)."

    def test_32_gib(self) -> None:
        wanted = request(Layout(2, 1, expert_parallel=True), SMALL)
        message, remedy = refusal(wanted, estimate(wanted), "910B4")
        assert "at TP=2 with expert parallelism a rank needs" in message
        assert "29.67 GiB of BF16 weights" in message
        assert "the 29.49 GiB that are usable of a 910B4" in message
        assert remedy == "Set `parallel.tensor_parallel_size: 4` (4 NPUs)."

    def test_replicas_are_named(self) -> None:
        wanted = request(Layout(1, 2), SMALL)
        assert "at TP=1, DP=2 a rank needs" in refusal(wanted, estimate(wanted), "910B4")[0]

    @pytest.mark.parametrize(("npus", "have"), [(1, "1 NPU"), (2, "2 NPUs"), (3, "3 NPUs")])
    def test_too_few_npus(self, npus: int, have: str) -> None:
        wanted = request(Layout(1), SMALL, npus=npus)
        _, remedy = refusal(wanted, estimate(wanted), "910B4")
        assert remedy == f"No setting makes it fit on the {have} here: it takes 4 of a 910B4."

    def test_no_layout_is_enough(self) -> None:
        wanted = request(Layout(1), 8 * GIB, npus=8)
        _, remedy = refusal(wanted, estimate(wanted), "310P3")
        assert remedy == "No setting makes it fit on a 310P3: use NPUs with more memory."

    def test_length_share_and_experts(self) -> None:
        """On four NPUs of 32 GiB there are no more ranks to be had."""
        wanted = request(
            Layout(4, 1, expert_parallel=True),
            SMALL, utilization=0.8, max_model_len=65536, npus=4,
        )  # fmt: skip
        _, remedy = refusal(wanted, estimate(wanted), "910B4")
        assert re.search(r"`server\.max_model_len: \d+`", remedy)
        assert re.search(r"`server\.memory_utilization: 0\.\d+`", remedy)
        assert "`parallel.expert_parallel: false`" in remedy

    def test_two_settings_together(self) -> None:
        wanted = request(Layout(2, 1, expert_parallel=False), 35 * GIB, utilization=0.8, npus=2)
        (found,) = remedies(wanted)
        assert found.text.startswith("`server.memory_utilization: 0.95` with `server.max_model_len")
        assert estimate(found.request).fits

    def test_smaller_buffer_and_no_video(self) -> None:
        """The ways that come last, each where it is the only one."""
        full = request(Layout(4, 1, expert_parallel=True), SMALL, npus=4)
        for way, expected in (
            (memory._smaller_buffer, {"hccl_buffsize_mib": 512}),
            (memory._no_video, {"limit_mm_per_prompt": {**LIMITS, "video": 0}}),
        ):
            found = next(
                proposal
                for length in range(90_000, 20_000, -256)
                if not estimate(long := dataclasses.replace(full, max_model_len=length)).fits
                and (proposal := way(long))
            )
            assert {key: getattr(found.request, key) for key in expected} == expected
            assert estimate(found.request).fits

    def test_occupied(self) -> None:
        wanted = request(Layout(2), occupied_bytes=20 * GIB)
        message, remedy = refusal(wanted, estimate(wanted), "910B3")
        assert amounts(message) == [20.0, 60.97, 40.97, 54.87]
        assert "Beside them `server.memory_utilization: 0.67` fits." in remedy
        beside = dataclasses.replace(wanted, utilization=0.67)
        assert estimate(beside).fits

    def test_occupied_beyond_use(self) -> None:
        wanted = request(Layout(2), occupied_bytes=45 * GIB)
        message, remedy = refusal(wanted, estimate(wanted), "910B3")
        assert "Other processes hold 45.00 GiB" in message
        assert "memory_utilization" not in remedy

    def test_no_advice_that_does_not_hold(self) -> None:
        """Over many machines and settings: what is proposed fits, and is a change."""
        refused, proposed = 0, 0
        layouts = [Layout(1), Layout(2, 1, True), Layout(4, 1, True), Layout(1, 2, True)]
        shares = (0.7, 0.9, 0.95)
        lengths = (8192, 32768, 65536)
        for layout, usable, share, length, npus in itertools.product(
            layouts, (16, 24, 29.49, 34, 48, 60.97, 80), shares, lengths, (2, 4, 16)
        ):
            wanted = request(
                layout, int(usable * GIB), utilization=share, max_model_len=length, npus=npus
            )
            plan = estimate(wanted)
            if plan.fits:
                continue
            refused += 1
            for proposal in remedies(wanted):
                proposed += 1
                assert estimate(proposal.request).fits, (wanted, proposal)
                assert proposal.request != wanted
                assert proposal.request.layout.ranks <= max(npus, layout.ranks)
                assert proposal.text in refusal(wanted, plan, "910B")[1]
        assert refused > 100
        assert proposed > 100
