"""What the operator adds to the command line: read as vLLM reads it, in every spelling.

That vLLM does take what is refused here is tested inside the image
(tests/e2e/test_b_arguments.py).
"""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from appliance.catalog import load as catalog
from appliance.config.load import load
from appliance.errors import ApplianceError
from appliance.inventory import document, read
from appliance.inventory.model import Inventory, System
from appliance.plan import arguments, fit, options
from appliance.plan.choice import choose
from appliance.plan.make import make

if TYPE_CHECKING:
    from appliance.plan.model import Plan

pytestmark = pytest.mark.usefixtures("clean")

ROOT = Path(__file__).resolve().parents[2]
A2 = read.snapshot(ROOT / "tests" / "hosts" / "synthetic-atlas-a2")
BARE = Inventory("none")
KNOWN = catalog.parser_options("0.23.0")
TINY: dict[str, Any] = json.loads((ROOT / "models/tiny-omni/config.json").read_text("utf-8"))
# A host whose memory is known.
SIZED = read.snapshot(ROOT / "tests" / "hosts" / "a2-8x64-idle")
SMALL = read.snapshot(ROOT / "tests" / "hosts" / "a2-32gb-tp4")
LLAMA = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 32}


def plan(words: list[str], *settings: str, host: Inventory = BARE) -> Plan:
    product = "platform=cpu" if host.product == "none" and not host.npus else "product=atlas-a2"
    every = (product, "cache.dir=/data", f"server.extra_args={json.dumps(words)}", *settings)
    return make(load(None, {}, every).config, host, "/opt/models")


def refused(
    words: list[str], *settings: str, host: Inventory = BARE, error_id: str = "config-invalid"
) -> str:
    with pytest.raises(ApplianceError) as caught:
        plan(words, *settings, host=host)
    assert caught.value.id == error_id, caught.value.message
    return f"{caught.value.message} {caught.value.remedy}"


# Reading


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--api-key x", ("--api-key", "", True, ("x",))),
        ("--api_k=x", ("--api-key", "", True, ("x",))),
        ("--tensor 4", ("--tensor-parallel-size", "", True, ("4",))),
        ("-t 4", ("--tensor-parallel-size", "", True, ("4",))),
        ("-tp=4", ("--tensor-parallel-size", "", True, ("4",))),
        ("-qascend", ("--quantization", "", True, ("ascend",))),
        ("-q=ascend", ("--quantization", "", True, ("ascend",))),
        ("-n2", ("--nnodes", "", True, ("2",))),
        ("-O3", ("--optimization-level", "", True, ("3",))),
        ("-O=3", ("--optimization-level", "", True, ("3",))),
        ("-O 3", ("--optimization-level", "", True, ("3",))),
        ("-c.mode=0", ("--compilation-config", "mode", True, ("0",))),
        ("--compil.pass.x 0", ("--compilation-config", "pass.x", True, ("0",))),
        ("-ac {}", ("--attention-config", "", True, ("{}",))),
        ("--no-enforce", ("--enforce-eager", "", False, ())),
        ("--allowed-media-domains a b", ("--allowed-media-domains", "", True, ("a", "b"))),
        ("--seed -1", ("--seed", "", True, ("-1",))),
        ("--seed=1.5", ("--seed", "", True, ("1.5",))),
        # What no parser has, and what several of its options begin with.
        ("--no-seed", ("--no-seed", "", True, ())),
        ("--mode x", ("--mode", "", True, ("x",))),
    ],
)
def test_every_spelling_has_one_reading(
    words: str, expected: tuple[str, str, bool, tuple[str, ...]]
) -> None:
    (found,) = options.read(words.split(), KNOWN)
    assert (found.name, found.key, found.on, found.values) == expected


def test_a_word_with_a_space_is_a_value_unless_it_is_an_option() -> None:
    words = ["--chat-template", "-x y", "--chat-template=a b", "- {a: b}"]
    first, second = options.read(words, KNOWN)
    assert first.values == ("-x y",)
    assert (second.name, second.values) == ("--chat-template", ("a b", "- {a: b}"))


def test_the_last_one_counts() -> None:
    found = options.read(["--enforce-eager", "--seed", "1", "--no-enforce-eager"], KNOWN)
    assert not options.switched_on(found, "--enforce-eager")
    assert options.switched_on(found[:1], "--enforce-eager")
    assert options.given(found, "--port") is None


@pytest.mark.parametrize("release", catalog.releases())
def test_every_release_has_its_options_and_their_short_forms(release: str) -> None:
    known = catalog.parser_options(catalog.releases()[release].vllm)
    assert len(known) > 200
    short = {name for name in known if not name.startswith("--")}
    assert short <= set(options._SHORT)
    assert {options._SHORT[name] for name in short} <= known


@pytest.mark.parametrize("name", options._REFUSED)
def test_what_is_refused_is_an_option(name: str) -> None:
    assert name in KNOWN


def test_the_words_of_the_command_keep_what_was_read_of_them() -> None:
    made = plan(["--max-num-s", "7"]).serve_args
    assert made[-2:] == ("--max-num-s", "7")
    twin = copy.deepcopy(made)
    assert twin == made
    assert isinstance(twin, options.Arguments)
    assert twin.added == options.read(["--max-num-s", "7"], KNOWN)
    assert json.loads(json.dumps(made)) == list(made)


def test_without_options_of_the_operator_only_the_list_of_names_is_read() -> None:
    """It tells what a release has; what each option takes is read where there is one."""
    code = (
        "from appliance.catalog import load; from appliance.config.load import load as read;"
        "from appliance.inventory.model import Inventory; from appliance.plan.make import make;"
        "make(read(None, {}, ()).config, Inventory('none'), '/opt/models');"
        "print(load.parser_options.cache_info().currsize, load.options.cache_info().currsize)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "0"]


# Guards


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("--api-k secret", "server.api_key_file"),
        ("--api_k=secret", "server.api_key_file"),
        ("--por 9", "server.port"),
        ("--config x.yaml", "server.extra_args"),
        ("--tensor 4", "parallel.tensor_parallel_size"),
        ("--prefill-context-parallel-size 2", "parallel.tensor_parallel_size"),
        ("-dpl 1", "parallel.data_parallel_size"),
        ("--data-parallel-size-local=1", "parallel.data_parallel_size"),
        ("-n2", "one host"),
        ("--served omni", "model.served_name"),
        ("--model=x", "model.path"),
        ("--headl", "Leave it out"),
        ("--ssl-keyf x", "TLS"),
        ("-ep", "parallel.expert_parallel"),
    ],
)
def test_an_abbreviation_is_refused_as_the_option_is(words: str, remedy: str) -> None:
    text = refused(words.split())
    assert "would work against the plan" in text
    assert remedy in text
    assert "secret" not in text


def test_a_switch_that_says_what_the_plan_says_does_no_harm() -> None:
    assert plan(["--no-enable-expert-parallel"]).serve_args[-1].startswith("--no-")
    assert "parallel.expert" in refused(["--no-enable-expert"], host=A2)
    assert plan(["-ep"], host=A2).serve_args[-1] == "-ep"


@pytest.mark.parametrize("words", ["--data-parallel 2", "-d 2", "--mode x", "--"])
def test_what_could_be_several_options_is_refused_with_their_names(words: str) -> None:
    text = refused(words.split())
    assert "could be --" in text or "could be -d" in text
    assert "in full" in text


def test_what_vllm_does_not_know_is_a_warning_with_what_is_near() -> None:
    """An image by another name may have another vLLM, and a plugin may add options."""
    (text,) = plan(["--tensor-paralel-size", "2"]).warnings
    assert "no option of vLLM 0.23.0" in text
    assert "Did you mean --tensor-parallel-size" in text
    (text,) = plan(["--zzzzzz"]).warnings
    assert "mean" not in text


@pytest.mark.parametrize("word", ["--trust-remote", "--trust_remote_code", "--allowed-media"])
def test_what_loosens_a_protection_is_named_in_full(word: str) -> None:
    (text,) = plan([word, "x"]).warnings
    full = next(name for name in KNOWN if name.startswith(word.replace("_", "-")))
    assert text.startswith(full)
    assert plan(["--no-trust-remote-code"]).warnings == ()


def test_an_abbreviation_of_what_is_gone_is_refused_with_what_to_do() -> None:
    assert "--swap-space is gone since vLLM 0.18.0" in refused(["--swap", "4"])


# Numbers


@pytest.mark.parametrize(
    ("words", "length"),
    [
        ("--max-model-len 32k", 32000), ("--max-model-len 16K", 16384),
        ("--max-model 25.6k", 25600), ("--max_model_len=2048", 2048),
    ],
)  # fmt: skip
def test_a_length_is_read_as_vllm_reads_it(words: str, length: int) -> None:
    memory = plan(words.split()).memory
    assert memory is not None
    assert memory.max_concurrency == round(memory.kv_cache_bytes_per_rank / 2048 / length, 2)


@pytest.mark.parametrize("words", ["--max-model-len auto", "--max-model-len=-1"])
@pytest.mark.parametrize("host", [BARE, SIZED])
def test_a_length_that_vllm_chooses_is_a_warning(words: str, host: Inventory) -> None:
    made = plan(words.split(), host=host)
    assert made.memory is None
    assert any("vLLM itself chooses" in text for text in made.warnings)


@pytest.mark.parametrize(
    "words",
    [
        "--max-model-len 1.5K", "--max-model-len -5", "--max-model-len 0", "--max-model-len many",
        "--max-model-len", "--max-model-len=", f"--max-model-len {'9' * 400}k",
        "--max-num-batched-tokens auto", "--max-num-seqs 1k", "--max-num-seqs 0",
        "--gpu-memory-utilization max", "--gpu-memory-utilization 1.5",
        "--gpu-memory-utilization nan", "--gpu-mem 0",
    ],
)  # fmt: skip
@pytest.mark.parametrize("host", [BARE, SIZED])
def test_a_number_that_vllm_can_not_read_is_refused_by_name(words: str, host: Inventory) -> None:
    text = refused(words.split(), host=host)
    assert "`server.extra_args`" in text
    assert re.split("[ =]", words)[0] in text


@pytest.mark.parametrize(
    ("host", "variable"),
    [
        (SIZED, "HCCL_BUFFSIZE: '1G'"),
        (SIZED, "HCCL_BUFFSIZE: '0'"),
        (BARE, "VLLM_CPU_KVCACHE_SPACE: abc"),
        (BARE, "VLLM_CPU_KVCACHE_SPACE: '0.5'"),
        (BARE, "VLLM_CPU_KVCACHE_SPACE: '-1'"),
    ],
)
def test_a_variable_that_is_no_number_is_refused_by_name(host: Inventory, variable: str) -> None:
    text = refused([], f"container.environment={{{variable}}}", host=host)
    assert variable.partition(":")[0] in text
    assert "container.environment" in text


def test_numbers_that_no_arithmetic_can_stand_are_a_warning() -> None:
    settings = f"container.environment={{VLLM_CPU_KVCACHE_SPACE: '{'9' * 400}'}}"
    made = plan([], settings)
    assert made.memory is None
    assert any("make no sense" in text for text in made.warnings)


# Memory


def test_quantisation_in_every_spelling_changes_the_sizes() -> None:
    for words in (
        ["--quantization", "ascend"],
        ["-q", "ascend"],
        ["-qascend"],
        ["--quantization=x"],
    ):
        made = plan(words, host=SIZED)
        assert made.memory is None
        assert any("--quantization changes the sizes" in text for text in made.warnings)


def test_a_cache_too_small_for_one_request_is_refused_on_the_cpu() -> None:
    # The test model takes 2,048 bytes a token: 1 GiB is for 524,288 of them.
    any_length = "container.environment={VLLM_ALLOW_LONG_MAX_MODEL_LEN: '1'}"
    assert plan(["--max-model-len", "524288"], any_length).memory is not None
    text = refused(["--max-model-len", "524289"], any_length, error_id="memory-insufficient")
    assert "2048 bytes a token" in text
    assert '`VLLM_CPU_KVCACHE_SPACE: "2"`' in text
    assert "`--max-model-len 524288` in `server.extra_args`" in text
    text = refused([], "server.max_model_len=600000", any_length, error_id="memory-insufficient")
    assert "`server.max_model_len: 524288`" in text


@pytest.mark.parametrize(
    ("words", "phrase"),
    [
        (["--max-model-len", "32769"], "`--max-model-len 32768` in `server.extra_args`"),
        (["--max-model-len", "33k"], "knows 32768 positions"),
    ],
)
def test_a_length_beyond_the_models_positions_is_refused(words: list[str], phrase: str) -> None:
    """As vLLM does, when it has loaded for a while."""
    assert phrase in refused(words)
    assert "VLLM_ALLOW" not in refused([], "server.max_model_len=32769")
    assert plan([], "server.max_model_len=32768").memory is not None


def test_without_its_size_the_cpus_cache_is_vllms_own() -> None:
    made = plan([], "container.environment={VLLM_CPU_KVCACHE_SPACE: ''}")
    assert made.memory is None
    assert any("chooses the size of the KV cache" in text for text in made.warnings)


def test_more_than_the_host_has_is_a_warning_on_the_cpu() -> None:
    host = dataclasses.replace(BARE, system=System(memory_gib=4))
    made = plan([], "container.environment={VLLM_CPU_KVCACHE_SPACE: '40'}", host=host)
    assert made.memory is not None
    assert not made.memory.fits
    assert any("4.00 GiB of this host" in text for text in made.warnings)


def test_a_remedy_names_the_option_where_the_option_counts() -> None:
    long = ["--max-model-len", "2M", "--gpu-memory-utilization", "0.7"]
    any_length = "container.environment={VLLM_ALLOW_LONG_MAX_MODEL_LEN: '1'}"
    text = refused(long, any_length, host=SIZED, error_id="memory-insufficient")
    assert "`server.max_model_len" not in text
    assert "`server.memory_utilization" not in text
    assert "in `server.extra_args`" in text


def test_only_sizes_that_divide_are_proposed() -> None:
    config = copy.deepcopy(TINY)
    text = config["thinker_config"]["text_config"]
    text["num_attention_heads"] = text["num_key_value_heads"] = 2
    host = dataclasses.replace(SIZED, model_config=config)
    found = refused([], "parallel.tensor_parallel_size=4", host=host)
    assert found.endswith("Set `parallel.tensor_parallel_size` to 1 or 2.")


def test_only_dies_that_can_be_had_are_proposed() -> None:
    config = load(None, {}, ("cache.dir=/data", "parallel.tensor_parallel_size=2")).config
    choice = choose(config, SMALL, None)
    args = arguments.serve(config, choice, SMALL)
    for available, phrase in ((8, "tensor_parallel_size: 4"), (2, "on the 2 NPUs here")):
        with pytest.raises(ApplianceError) as caught:
            fit.check(choice, SMALL.npus[:2], SMALL, args, {}, available)
        assert phrase in caught.value.remedy


# The model's own config.json


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": 5},
        {"architectures": None},
        {"architectures": [5, {}]},
        {"architectures": {"Qwen3OmniMoeForConditionalGeneration": 1}},
    ],
)
def test_a_config_of_something_else_is_a_warning(config: dict[str, Any]) -> None:
    made = plan([], host=dataclasses.replace(SIZED, model_config=config))
    assert made.memory is None
    assert any("architecture is" in text for text in made.warnings)


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("text_config", {"mlp_only_layers": 5}),
        ("text_config", {"mlp_only_layers": [[1], {}]}),
        ("text_config", {"num_hidden_layers": 10**12}),
        ("text_config", {"hidden_size": 1, "head_dim": None}),
        ("text_config", {"dtype": []}),
        ("vision_config", {"deepstack_visual_indexes": 5}),
        ("vision_config", {"patch_size": 10**6}),
        ("audio_config", {"n_window": 10**6}),
    ],
)
def test_sizes_of_a_wrong_kind_do_not_end_the_plan(part: str, values: dict[str, Any]) -> None:
    config = copy.deepcopy(TINY)
    config["thinker_config"][part].update(values)
    plan([], host=dataclasses.replace(SIZED, model_config=config))


def test_a_document_that_is_nested_too_deeply_is_none(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"a":' + "[" * 100_000 + "]" * 100_000 + "}", encoding="utf-8")
    assert document.read(path) is None


def test_a_profile_keeps_its_lengths_from_another_architecture() -> None:
    words = ("model.path=/data/llama", "profile=long-context")
    made = plan([], *words, host=dataclasses.replace(A2, model_config=LLAMA))
    assert "--hf-overrides" not in made.serve_args
    assert "--max-model-len" not in made.serve_args
    assert "--enable-expert-parallel" not in made.serve_args
    assert any("its lengths are not used for llama" in text for text in made.warnings)
    # A copy of the model itself, under another name.
    made = plan([], *words, host=dataclasses.replace(A2, model_config=TINY))
    assert "--hf-overrides" in made.serve_args
    assert "--enable-expert-parallel" in made.serve_args


def test_a_model_without_experts_is_not_spread_by_experts() -> None:
    host = dataclasses.replace(A2, model_config=LLAMA)
    assert not plan([], "model.path=/data/llama", host=host).expert_parallel
    many = dataclasses.replace(A2, model_config={"text_config": {"n_routed_experts": 64}})
    assert plan([], "model.path=/data/deep", host=many).expert_parallel
    words = ("model.path=/data/llama", "parallel.expert_parallel=true")
    assert plan([], *words, host=host).expert_parallel


def test_an_option_and_its_value_in_one_word_is_told() -> None:
    assert "[--max-num-seqs, 16]" in refused(["--max-num-seqs 16"])
