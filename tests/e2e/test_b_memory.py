"""The plan's arithmetic of weights, held against vLLM's own model class in the image."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from appliance.catalog import load as catalog
from appliance.catalog import model_configs
from appliance.plan import weights_size
from appliance.plan.weights_size import Layout
from tests.e2e.conftest import ROOT, docker

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import Served

THINKING = "Qwen/Qwen3-Omni-30B-A3B-Thinking"
# What the two models have none of: layers without experts, shared experts, biases, a single
# key-value head, tied embeddings, and experts and a vocabulary that don't divide.
ODD_SIZES = {
    "mlp_only_layers": [1],
    "shared_expert_intermediate_size": 192,
    "attention_bias": True,
    "num_key_value_heads": 1,
    "tie_word_embeddings": True,
    "num_experts": 6,
    "vocab_size": 500,
}
STEP = 8192
MARK = "WEIGHED "
NOTHING_LEFT_OUT: dict[str, int] = {}
CASES: list[tuple[str, Layout, dict[str, int]]] = [
    *(
        ("thinking", Layout(tensor, data, experts), NOTHING_LEFT_OUT)
        for tensor, data, experts in (
            (1, 1, False), (2, 1, False), (2, 1, True), (4, 1, False), (4, 1, True),
            (1, 2, False), (2, 2, True),
        )
    ),
    ("thinking", Layout(2, 1, expert_parallel=True), {"audio": 0, "video": 0}),
    ("thinking", Layout(4, 1, expert_parallel=False), {"image": 0, "video": 0}),
    ("tiny", Layout(1, 1, expert_parallel=False), NOTHING_LEFT_OUT),
    ("odd", Layout(1, 1, expert_parallel=False), NOTHING_LEFT_OUT),
    ("odd", Layout(4, 1, expert_parallel=True), NOTHING_LEFT_OUT),
    ("odd", Layout(2, 2, expert_parallel=False), NOTHING_LEFT_OUT),
]  # fmt: skip


@pytest.fixture(scope="module")
def configs() -> dict[str, Any]:
    tiny = (ROOT / "models" / "tiny-omni" / "config.json").read_text(encoding="utf-8")
    odd = json.loads(tiny)
    odd["thinker_config"]["text_config"].update(ODD_SIZES)
    return {
        "thinking": model_configs.config(THINKING),
        "tiny": json.loads(tiny),
        "odd": odd,
    }


@pytest.fixture(scope="module")
def weighed(
    served: Served, configs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, float]]:
    """What vLLM allocates in each case: one container for all, since its import takes longest."""
    image = str(served.cli.json("plan")["image"])
    folder = tmp_path_factory.mktemp("configs")
    for name, config in configs.items():
        write(folder / name, config)
    cases = [
        {
            "model": f"/configs/{name}",
            "tensor_parallel_size": layout.tensor_parallel_size,
            "data_parallel_size": layout.data_parallel_size,
            "expert_parallel": layout.expert_parallel,
            "max_num_batched_tokens": STEP,
            "limits": limits,
        }
        for name, layout, limits in CASES
    ]
    # Readable for the container, whose root has no rights over what others own.
    folder.chmod(0o755)
    printed = docker(
        "run", "--rm", "--network", "none", "--volume", f"{folder}:/configs:ro", "--volume",
        f"{ROOT}/tests/e2e/weigh.py:/weigh.py:ro", image, "python3", "/weigh.py",
        json.dumps(cases), MARK,
    )  # fmt: skip
    lines = [line for line in printed.splitlines() if line.startswith(MARK)]
    assert len(lines) == 1, printed
    found: list[dict[str, float]] = json.loads(lines[0].removeprefix(MARK))
    assert len(found) == len(CASES)
    return found


def write(folder: Path, config: dict[str, Any]) -> None:
    folder.mkdir(mode=0o755)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def test_weights_are_what_vllm_allocates(
    weighed: list[dict[str, float]], configs: dict[str, Any]
) -> None:
    expected = [
        weights_size.weights_bytes(configs[name], layout, limits=limits)
        for name, layout, limits in CASES
    ]
    assert [found["parameters"] for found in weighed] == expected


def test_buffers_are_what_vllm_allocates(
    weighed: list[dict[str, float]], configs: dict[str, Any]
) -> None:
    expected = [
        weights_size.buffer_bytes(configs[name], layout, STEP, limits=limits)
        for name, layout, limits in CASES
    ]
    assert [found["buffers"] for found in weighed] == expected


def test_default_share_is_vllms(weighed: list[dict[str, float]]) -> None:
    assert {found["utilization"] for found in weighed} == {
        catalog.releases()["v0.23.0"].memory_utilization
    }
