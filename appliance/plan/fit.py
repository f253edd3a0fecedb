"""Whether the model fits the NPUs that were chosen, as the engine's own arguments have it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from appliance.catalog import model_configs
from appliance.errors import ApplianceError
from appliance.plan import weights_size
from appliance.plan.model import MemoryPlan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from appliance.inventory.model import Inventory, Npu
    from appliance.plan.choice import Choice

_GIB = 1024**3
# With these the sizes are not those that the arithmetic knows.
_CHANGES_SIZES = ("--quantization", "--kv-cache-dtype", "--pipeline-parallel-size", "--dtype")


@dataclass(frozen=True)
class Fit:
    """The memory plan, or why there is none."""

    memory: MemoryPlan | None
    warnings: tuple[str, ...] = ()


def check(
    choice: Choice,
    dies: Sequence[Npu],
    inventory: Inventory,
    args: Sequence[str],
    environment: Mapping[str, str],
) -> Fit:
    """Return what each rank's memory is spent on; raises memory-insufficient.

    Works on the arguments that are rendered, so that what the operator added counts. A model of
    which the sizes are not known, or an NPU of which the memory is not, gets a warning instead.
    """
    options = _options(args)
    config = inventory.model_config or model_configs.config(choice.model.id)
    if config is None:
        return _unknown(f"the configuration of {choice.model.id} is not known here")
    if changed := [name for name in _CHANGES_SIZES if name in options]:
        return _unknown(f"{', '.join(changed)} changes the sizes")
    try:
        if choice.product is None:
            return _on_cpu(choice, config, options, inventory, environment)
        return _on_npus(choice, config, dies, inventory, options, environment)
    except weights_size.ImpossibleLayout as error:
        raise ApplianceError(
            "config-invalid",
            f"The model can't be spread over {choice.ranks} ranks: {error}.",
            "Set `parallel.tensor_parallel_size` to 1, 2 or 4.",
        ) from error
    except weights_size.UnknownArchitecture as error:
        return _unknown(str(error))


def _on_npus(
    choice: Choice,
    config: Mapping[str, Any],
    dies: Sequence[Npu],
    inventory: Inventory,
    options: Mapping[str, str],
    environment: Mapping[str, str],
) -> Fit:
    # Not above: a plan for the CPU needs none of these, and is to be quick.
    from appliance.catalog import chips
    from appliance.plan import memory, reserves

    totals = [npu.hbm_total_mib for npu in dies if npu.hbm_total_mib]
    if len(totals) < len(dies):
        return _unknown("npu-smi does not say how much memory the NPUs have")
    smallest = min(dies, key=lambda npu: npu.hbm_total_mib or 0)
    usable = chips.usable_bytes(smallest.name, min(totals))
    length = int(options.get("--max-model-len", 0)) or weights_size.read(config).text.positions
    tokens, requests = reserves.default_step(usable, length)
    buffer = environment.get("HCCL_BUFFSIZE")
    request = memory.Request(
        config=config,
        layout=_layout(choice),
        usable_bytes=usable,
        utilization=float(
            options.get("--gpu-memory-utilization", choice.release.memory_utilization)
        ),
        max_model_len=length,
        max_num_batched_tokens=int(options.get("--max-num-batched-tokens", tokens)),
        max_num_seqs=int(options.get("--max-num-seqs", requests)),
        limit_mm_per_prompt=_limits(options),
        hccl_buffsize_mib=int(buffer) if buffer else None,
        npus=len(inventory.npus),
    )
    found = memory.estimate(request)
    if not found.fits:
        name = chips.variant(smallest.name, min(totals)) if smallest.name else "an NPU"
        message, remedy = memory.refusal(request, found, name)
        raise ApplianceError("memory-insufficient", message, remedy)
    return Fit(found)


def _on_cpu(
    choice: Choice,
    config: Mapping[str, Any],
    options: Mapping[str, str],
    inventory: Inventory,
    environment: Mapping[str, str],
) -> Fit:
    """Return the same of a CPU: the KV cache has the size that a variable gives it.

    What else is needed is not planned: the host's memory is shared with everything else.
    """
    layout = _layout(choice)
    weights = weights_size.weights_bytes(config, layout, limits=_limits(options))
    token = weights_size.kv_bytes_per_token(config, layout)
    cache = int(float(environment.get("VLLM_CPU_KVCACHE_SPACE", "0")) * _GIB)
    length = int(options.get("--max-model-len", 0)) or weights_size.read(config).text.positions
    usable = (inventory.system.memory_gib or 0) * _GIB
    return Fit(
        MemoryPlan(
            usable_bytes=usable,
            budget_bytes=weights + cache,
            weights_bytes_per_rank=weights,
            activation_bytes_per_rank=0,
            communication_bytes_per_rank=0,
            kv_cache_bytes_per_rank=cache,
            kv_bytes_per_token_per_rank=token,
            kv_tokens=cache // token,
            max_concurrency=round(cache / token / length, 2),
            fits=cache >= token * length and (not usable or weights + cache < usable),
        )
    )


def _layout(choice: Choice) -> weights_size.Layout:
    return weights_size.Layout(choice.ranks, choice.data_parallel_size, choice.expert_parallel)


def _limits(options: Mapping[str, str]) -> dict[str, int]:
    try:
        found = json.loads(options.get("--limit-mm-per-prompt", "{}"))
        return {name: int(count) for name, count in found.items()}
    except (ValueError, TypeError, AttributeError):
        return {}


def _unknown(why: str) -> Fit:
    return Fit(None, (f"Whether the model fits into memory was not checked: {why}.",))


def _options(args: Sequence[str]) -> dict[str, str]:
    """Return the options by their full names, the last of each, as vLLM takes them."""
    found: dict[str, str] = {}
    name = ""
    for word in args:
        if word.startswith("--"):
            name, _, value = word.partition("=")
            name = name.replace("_", "-")
            found[name] = value
        elif name and not found[name]:
            found[name] = word
    return found
