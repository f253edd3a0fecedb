"""Runs inside the appliance image: what vLLM's own model class allocates on one rank.

Nothing is computed and no memory is taken: the model is made on PyTorch's `meta` device, whose
tensors have shapes and no contents. There is one process, so the groups of ranks are stand-ins
that know their size; the class asks them for nothing else.

Reads a list of cases from its first argument; writes their bytes as one line of JSON, after
the mark that its second argument is: vLLM logs to the same place.
"""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

import torch
from vllm.config import set_current_vllm_config
from vllm.distributed import parallel_state
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.layers.fused_moe.expert_map_manager import ExpertMapManager
from vllm.model_executor.models.qwen3_omni_moe_thinker import (
    Qwen3OmniMoeThinkerForConditionalGeneration,
)
from vllm.model_executor.models.utils import StageMissingLayer
from vllm.utils.torch_utils import set_default_torch_dtype


def group(size: int) -> Any:
    """A group of ranks, seen from its first, the fullest where experts don't divide."""
    made: Any = object.__new__(parallel_state.GroupCoordinator)
    made.ranks = list(range(size))
    made.rank = made.rank_in_group = made.local_rank = 0
    made.world_size = size
    made.device_group = SimpleNamespace(size=lambda: size)
    return made


def split(tensor_parallel_size: int, data_parallel_size: int) -> None:
    """Set vLLM's groups: experts are spread over the ranks of all replicas."""
    parallel_state._TP = group(tensor_parallel_size)
    parallel_state._DP = group(data_parallel_size)
    parallel_state._EP = group(tensor_parallel_size * data_parallel_size)
    parallel_state._PP = parallel_state._PCP = parallel_state._DCP = group(1)


def total(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for _, tensor in tensors)


def weigh(case: dict[str, Any]) -> dict[str, float]:
    """Make the model of one case; return the bytes of what it allocates, and vLLM's share."""
    split(case["tensor_parallel_size"], case["data_parallel_size"])
    config = EngineArgs(
        model=case["model"],
        tensor_parallel_size=case["tensor_parallel_size"],
        data_parallel_size=case["data_parallel_size"],
        enable_expert_parallel=case["expert_parallel"],
        max_num_batched_tokens=case["max_num_batched_tokens"],
        limit_mm_per_prompt=case["limits"],
        max_model_len=1024,
        enforce_eager=True,
        skip_tokenizer_init=True,
        distributed_executor_backend="mp",
    ).create_engine_config()
    with (
        set_current_vllm_config(config),
        set_default_torch_dtype(torch.bfloat16),
        torch.device("meta"),
    ):
        model = Qwen3OmniMoeThinkerForConditionalGeneration(vllm_config=config)
    # No buffers to PyTorch, but kept. A tower that is left out has them on `meta` in earnest.
    seeing = not isinstance(model.visual, StageMissingLayer)
    levels = [("", level) for level in model.deepstack_input_embeds] if seeing else []
    return {
        "parameters": total(model.named_parameters()),
        "buffers": total(model.named_buffers()) + total(levels),
        "utilization": config.cache_config.gpu_memory_utilization,
    }


def main() -> None:
    # It words a line of the log, and reads the map of experts, which has no contents here.
    ExpertMapManager.get_compressed_map_string = lambda _self: ""
    cases, mark = sys.argv[1:]
    weighed = [weigh(case) for case in json.loads(cases)]
    print(f"\n{mark}{json.dumps(weighed)}")


if __name__ == "__main__":
    main()
