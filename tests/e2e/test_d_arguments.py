"""vLLM's own parser, inside the image, takes every argument list that the plan renders.

One container parses all lists. It makes vLLM's model configuration from each as well, of the
30B model's own config.json, since only there is it seen whether an override arrives.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from appliance.catalog import load as catalog
from appliance.config.load import load
from appliance.errors import ApplianceError
from appliance.inventory import read
from appliance.inventory.model import Inventory
from appliance.plan import arguments, fit, options
from appliance.plan import profile as profiles
from appliance.plan.choice import choose
from appliance.plan.make import make
from tests.e2e.conftest import ROOT, docker

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import Served

THINKING = "Qwen3-Omni-30B-A3B-Thinking"
A2 = read.snapshot(ROOT / "tests" / "hosts" / "synthetic-atlas-a2")
HOSTS = {
    "cpu": Inventory("none"),
    "atlas-a2": A2,
    "atlas-a3": read.snapshot(ROOT / "tests" / "hosts" / "synthetic-atlas-a3"),
}
PROFILES = ("default", *catalog.profiles())
YARN = {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 32768}
# What every list must come out as, unless a case says otherwise.
USUAL = {
    "reasoning_parser": "deepseek_r1",
    "limit_mm_per_prompt": {"image": 5, "video": 2, "audio": 3},
    "allowed_media_domains": ["data-urls-only.invalid"],
    "data_parallel_size": 1,
    "host": "0.0.0.0",
    "port": 8000,
    "middleware": ["appliance.inside.guard.Guard"],
    "h11_max_incomplete_event_size": 65536,
    "grammars": "guidance",
    "hf_overrides": {},
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A list of arguments, and what vLLM must make of it."""

    words: tuple[str, ...]
    expected: dict[str, Any]


def case(kind: str, *settings: str, driver: str | None = "25.5.2", **expected: Any) -> Case:
    """Render the list of one configuration; `expected` is what differs from the usual."""
    product = "platform=cpu" if kind == "cpu" else f"product={kind}"
    config = load(None, {}, (product, "cache.dir=/data", *settings)).config
    host = dataclasses.replace(HOSTS[kind], driver_version=driver)
    choice = choose(config, host, "/opt/appliance/models")
    layout = profiles.layout(config, choice.platform_name, host)
    choice = dataclasses.replace(
        choice, ranks=layout.tensor_parallel_size, expert_parallel=layout.expert_parallel
    )
    planned = {
        "served_model_name": [choice.model.served_name],
        "model_tag": choice.model.container_path,
        "tensor_parallel_size": choice.ranks,
        "enable_expert_parallel": choice.expert_parallel,
        "max_model_len": 32768,
    }
    words = arguments.serve(config, choice, host)
    return Case(words, {**USUAL, **planned, **expected})


def of_profile(name: str) -> dict[str, Any]:
    """Return what a profile's lists must come out as, as its own page has it."""
    if name == "default":
        return {}
    lengths = {"long-context": (131072, 14)}
    length, requests = lengths.get(name, (37364, 100))
    override = {"thinker_config": {"text_config": {"rope_parameters": YARN}}}
    return {
        "max_model_len": length,
        "max_num_seqs": requests,
        "max_num_batched_tokens": 16384,
        "gpu_memory_utilization": 0.95,
        "enable_prefix_caching": False,
        "async_scheduling": True,
        "cudagraph_mode": "FULL_DECODE_ONLY",
        "additional_config": {"weight_nz_mode": 2},
        "hf_overrides": override if name == "long-context" else {},
    }


def cases() -> dict[str, Case]:
    """Return every platform, product, profile and number of ranks, and each setting once."""
    table = {
        f"{kind} {name} tp={ranks}": case(
            kind,
            f"profile={name}",
            f"parallel.tensor_parallel_size={ranks}",
            tensor_parallel_size=ranks,
            distributed_executor_backend="mp",
            **of_profile(name),
        )
        for kind in ("atlas-a2", "atlas-a3")
        for name in PROFILES
        for ranks in (1, 2, 4)
    }
    for kind in HOSTS:
        table |= {f"{kind} {name}": made for name, made in settings(kind).items()}
    for driver in ("25.2.0", None):
        mode = {"cudagraph_mode": "FULL_DECODE_ONLY"}
        table[f"driver {driver}"] = case("atlas-a2", driver=driver, **mode)
    # On the CPU it has no effect.
    table["cpu low-latency"] = case("cpu", "profile=low-latency", enforce_eager=True)
    # Of a JSON option that stands twice the operator's counts, whole: hence the plan's warning.
    table["json twice"] = case(
        "atlas-a2",
        "profile=low-latency",
        "server.extra_args=[--additional-config, '{\"a\": 1}']",
        **{**of_profile("low-latency"), "additional_config": {"a": 1}},
    )
    return table


def settings(kind: str) -> dict[str, Case]:
    """Return a case for each setting that becomes an option."""
    replicas = {} if kind == "cpu" else {
        "replicas": case(kind, "parallel.data_parallel_size=2", data_parallel_size=2),
    }  # fmt: skip
    return {
        **replicas,
        "plain": case(kind, enforce_eager=kind == "cpu", cudagraph_mode=None),
        "key": case(
            kind, "server.bind='::'", "server.api_key_file=/etc/key",
            middleware=["appliance.inside.guard.Guard", "appliance.inside.auth.RequireKey"],
        ),
        "domains": case(
            kind, "server.allowed_media_domains=[a.example, b.example]",
            allowed_media_domains=["a.example", "b.example"],
        ),
        "host network": case(
            kind, "server.network=host", "server.port=9123", "server.bind=127.0.0.2",
            host="127.0.0.2", port=9123,
        ),
        "limits": case(
            kind, "server.max_model_len=4096", "server.max_num_seqs=7",
            "server.max_num_batched_tokens=8192", "server.memory_utilization=0.5",
            "server.limit_mm_per_prompt={video: 1}",
            max_model_len=4096, max_num_seqs=7, max_num_batched_tokens=8192,
            gpu_memory_utilization=0.5, limit_mm_per_prompt={"video": 1},
        ),
        "no parser": case(kind, "server.reasoning_parser=none", reasoning_parser=""),
        "name": case(kind, "model.served_name=omni", served_model_name=["omni"]),
        # Of an option that stands twice, the operator's counts.
        "twice": case(kind, "server.extra_args=[--max-model-len, '2048']", max_model_len=2048),
    }  # fmt: skip


# What vLLM must refuse: were it not, the test above would prove nothing.
REFUSED = {
    "gone": (("--swap-space", "4"), "unrecognized arguments: --swap-space"),
    "json": (("--compilation-config", "{"), "--compilation-config"),
    "parser": (("--reasoning-parser", "qwen3_omni"), "Reasoning parser 'qwen3_omni' not found"),
    "length": (("--max-model-len", "131072"), "greater than the derived max_model_len"),
    # As vllm-ascend's page has it: it does not reach the text model.
    "override at the top": (
        ("--max-model-len", "131072", "--hf-overrides", json.dumps({"rope_parameters": YARN})),
        "greater than the derived max_model_len",
    ),
}


# What the plan must refuse since vLLM takes it: were it not taken, there would be no need to.
GUARDED = [
    "--api-key secret", "--api-k secret", "--api_key=secret", "--api-k=secret", "--api-key.x y",
    "--por 9000", "--hos ::", "--ud /x", "--ssl-keyf x", "--ssl-certf x", "--hf-t x",
    "--config=x.yaml", "--headl", "--grp", "--served omni", "--tensor 4", "--tensor_parallel 4",
    "-tp 4", "-tp=4", "-t 4", "--pipeline 2", "-pp 2", "--prefill 2", "-pcp 2", "-pc 2",
    "--data-parallel-size 2", "-dp 2", "--data-parallel-size-l 1", "-dpl 1", "-dpn 0",
    "--data-parallel-ra 0", "-dpr 0", "--data-parallel-st 0", "-dpe", "-dph",
    "--data-parallel-hy", "-dpm", "--data-parallel-m", "--nn 2", "-n 2", "-n2", "-r0",
    "--node-r 1", "--enable-exp", "-ep", "-e",
]  # fmt: skip
# What the plan warns of, in spellings that vLLM takes.
LOOSENING = ["--allowed-media x", "--allowed_local /", "--trust-remote"]
# What both refuse.
AMBIGUOUS = ["--data-parallel 2", "-d 2", "--mode x", "--conf=x", "--"]
# Numbers: what the plan reads must be what vLLM reads, and what it refuses what vLLM refuses.
NUMBERS = {
    "--max-model-len": (
        "4096", "32k", "32K", "25.6k", " 8k ", "1_000", "1M", "auto", "AUTO", "-1",
        "1.5K", "32kb", "0x10", "max", "4096.0",
    ),
    "--max-num-batched-tokens": ("8192", "16k", "2K", "1.5m", "auto", "k"),
    "--max-num-seqs": ("16", "1_0", "1k", "16.0", "many"),
    "--gpu-memory-utilization": ("0.9", ".5", "1", "9e-1", "max", "90%"),
}  # fmt: skip
SPELLINGS = [
    *(word.split() for word in (*GUARDED, *LOOSENING, *AMBIGUOUS)),
    *([f"{option}={text}"] for option, texts in NUMBERS.items() for text in texts),
]


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the container said: the parser's options, and what it made of each list."""

    options: list[str]
    short: dict[str, str]
    parsed: dict[str, dict[str, Any]]
    taken: list[dict[str, Any] | None]

    def of(self, *words: str) -> dict[str, Any] | None:
        """What the parser made of words, `None` where it refused them."""
        return self.taken[SPELLINGS.index(list(words))]


CASES = cases()


@pytest.fixture(scope="module")
def answer(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Answer:
    """Have one container parse all lists."""
    return ask(str(served.cli.json("plan")["image"]), tmp_path_factory.mktemp("models"))


def ask(image: str, folder: Path) -> Answer:
    """Run the parser in an image, beside the 30B model's configuration and tiny-omni."""
    tiny = ROOT / "models" / "tiny-omni"
    shutil.copytree(tiny, folder / "tiny-omni")
    shutil.copytree(tiny, folder / THINKING, ignore=shutil.ignore_patterns("*.safetensors"))
    known = ROOT / "appliance" / "catalog" / "data" / "model_configs" / f"{THINKING}.json"
    shutil.copy(known, folder / THINKING / "config.json")
    lists = {name: made.words for name, made in CASES.items()}
    lists |= {name: (f"/models/{THINKING}", *words) for name, (words, _) in REFUSED.items()}
    script = ROOT / "tests" / "e2e" / "parse_arguments.py"
    printed = docker(
        "run", "--rm", "--interactive", "--network", "none", "--env", "HF_HUB_OFFLINE=1",
        "--volume", f"{folder}:/models:ro", "--volume", f"{script}:/parse.py:ro",
        image, "python3", "/parse.py", text=json.dumps({"lists": lists, "words": SPELLINGS}),
    )  # fmt: skip
    document = next(line for line in printed.splitlines() if line.startswith('{"options"'))
    return Answer(**json.loads(document))


@pytest.mark.parametrize("name", CASES)
def test_vllm_takes_every_list_and_means_what_the_plan_means(answer: Answer, name: str) -> None:
    found, expected = answer.parsed[name], CASES[name].expected
    assert "error" not in found, found
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize("name", REFUSED)
def test_vllm_refuses_what_it_should(answer: Answer, name: str) -> None:
    assert REFUSED[name][1] in answer.parsed[name]["error"]


def test_the_long_contexts_override_reaches_the_text_model(answer: Answer) -> None:
    scaled = answer.parsed["atlas-a2 long-context tp=4"]["text_model"]
    plain = answer.parsed["atlas-a2 default tp=2"]["text_model"]
    assert scaled["max_model_len"] == 131072
    # What was there stays: without the sections images and videos would lose their places.
    assert scaled["uses_mrope"]
    assert scaled["rope_parameters"] == {**plain["rope_parameters"], **YARN}
    assert plain["rope_parameters"]["mrope_section"] == [24, 20, 20]
    assert plain["rope_parameters"]["rope_type"] == "default"


def test_the_stored_names_of_options_are_the_parsers(answer: Answer) -> None:
    """The plan and the unit tests hold the argument lists against the stored names."""
    assert sorted(catalog.parser_options("0.23.0")) == answer.options
    assert answer.short == options._SHORT


def planned(words: list[str], kind: str = "cpu") -> tuple[str, ...]:
    """The plan's warnings, with words of the operator."""
    product = "platform=cpu" if kind == "cpu" else f"product={kind}"
    settings = (product, "cache.dir=/data", f"server.extra_args={json.dumps(words)}")
    return make(load(None, {}, settings).config, HOSTS[kind], "/opt/models").warnings


@pytest.mark.parametrize("text", GUARDED)
def test_what_the_plan_refuses_vllm_would_have_taken(answer: Answer, text: str) -> None:
    assert answer.of(*text.split()) is not None
    with pytest.raises(ApplianceError) as caught:
        planned(text.split())
    assert "would work against the plan" in caught.value.message


@pytest.mark.parametrize("text", LOOSENING)
def test_what_the_plan_warns_of_vllm_takes(answer: Answer, text: str) -> None:
    assert answer.of(*text.split()) is not None
    assert any("may undo a protection" in warning for warning in planned(text.split()))


@pytest.mark.parametrize("text", AMBIGUOUS)
def test_what_could_be_several_options_both_refuse(answer: Answer, text: str) -> None:
    # Behind `--` alone vLLM has no words to refuse.
    assert text == "--" or answer.of(*text.split()) is None
    with pytest.raises(ApplianceError, match="could be"):
        planned(text.split())


@pytest.mark.parametrize(
    ("option", "text"), [(option, text) for option, texts in NUMBERS.items() for text in texts]
)
def test_a_number_is_what_vllm_reads(answer: Answer, option: str, text: str) -> None:
    taken = answer.of(f"{option}={text}")
    read = {
        "--max-model-len": fit._length,
        "--max-num-batched-tokens": fit._tokens,
        "--max-num-seqs": fit._positive,
        "--gpu-memory-utilization": fit._share,
    }[option]
    if taken is None:
        with pytest.raises(ApplianceError, match=option):
            planned([option, text], "atlas-a2")
    else:
        assert read(text) == taken[option[2:].replace("-", "_")]
