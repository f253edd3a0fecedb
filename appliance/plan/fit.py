"""Whether the model fits the memory that was chosen, as the engine's own arguments have it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from appliance.catalog import model_configs
from appliance.errors import ApplianceError
from appliance.plan import options, weights_size
from appliance.plan.model import MemoryPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from appliance.inventory.model import Inventory, Npu
    from appliance.plan.choice import Choice

_GIB = 1024**3
# With these the sizes are not those that the arithmetic knows.
_CHANGES_SIZES = (
    "--quantization",
    "--kv-cache-dtype",
    "--dtype",
    "--decode-context-parallel-size",
    "--kv-cache-memory-bytes",
    "--cpu-offload-gb",
)
# The options that a key of `server` stands for.
_KEYS = {
    "max_model_len": "--max-model-len",
    "max_num_seqs": "--max-num-seqs",
    "max_num_batched_tokens": "--max-num-batched-tokens",
    "memory_utilization": "--gpu-memory-utilization",
    "limit_mm_per_prompt": "--limit-mm-per-prompt",
}
_CPU_CACHE = "VLLM_CPU_KVCACHE_SPACE"
_BUFFER = "HCCL_BUFFSIZE"
# What vLLM gives the CPU's KV cache a block; it is filled in whole ones.
_CPU_BLOCK_TOKENS = 128
# As the schema of `server.max_model_len` and of `parallel.tensor_parallel_size` has them.
_SHORTEST = 256
_TENSOR_PARALLEL_SIZES = (1, 2, 4)


@dataclass(frozen=True)
class Fit:
    """The memory plan, or why there is none."""

    memory: MemoryPlan | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Asked:
    """What the engine's arguments and variables ask for, `None` where they do not say.

    `automatic` is a length that vLLM itself chooses. `by_hand` are the options that the
    operator added: what a key of `server` says would lose against them. `given` are all.
    """

    length: int | None
    automatic: bool
    tokens: int | None
    requests: int | None
    share: float | None
    limits: Mapping[str, int]
    cpu_cache_gib: int | None
    buffer_mib: int | None
    given: frozenset[str]
    by_hand: frozenset[str]
    # What stretches the positions, and the operator's word that the model's own don't count.
    overrides: Mapping[str, Any]
    any_length: bool


def check(
    choice: Choice,
    dies: Sequence[Npu],
    inventory: Inventory,
    args: options.Arguments,
    environment: Mapping[str, str],
    available: int | None = None,
) -> Fit:
    """Return what each rank's memory is spent on.

    Works on the arguments that are rendered, so that what the operator added counts. A model of
    which the sizes are not known, or an NPU of which the memory is not, gets a warning instead.
    `available` is how many dies the plan could take, by default all of the host's. Raises
    memory-insufficient, and config-invalid for a number that vLLM could not read.
    """
    asked = _asked(choice, args, environment)
    config = inventory.model_config or model_configs.config(choice.model.id)
    if config is None:
        return _unknown(f"the configuration of {choice.model.id} is not known here")
    if why := _why_unknown(asked):
        return _unknown(why)
    available = len(inventory.npus) if available is None else available
    try:
        _refuse_too_long(choice, config, asked)
        if choice.product is None:
            return _on_cpu(choice, config, asked, inventory)
        return _on_npus(choice, config, dies, asked, available)
    except weights_size.ImpossibleLayout as error:
        most = available if choice.product is not None else None
        raise ApplianceError(
            "config-invalid",
            f"The model can't be spread over {choice.ranks} ranks: {error}.",
            f"Set `parallel.tensor_parallel_size` to {_possible(config, choice, most)}.",
        ) from error
    except weights_size.UnknownArchitecture as error:
        why = str(error)
    except ArithmeticError:
        why = "the sizes in config.json, or the numbers that are set, make no sense"
    return _unknown(why)


def _refuse_too_long(choice: Choice, config: Mapping[str, Any], asked: _Asked) -> None:
    """Refuse a length beyond the model's positions, as vLLM does when it starts."""
    own = weights_size.read(config).text.positions
    rope: Any = asked.overrides
    for key in ("thinker_config", "text_config", "rope_parameters"):
        rope = rope.get(key) if isinstance(rope, dict) else None
    stretched = own
    if isinstance(rope, dict) and rope.get("rope_type") == "yarn":
        start, factor = rope.get("original_max_position_embeddings", own), rope.get("factor", 1)
        if isinstance(start, int) and isinstance(factor, (int, float)):
            stretched = int(start * factor)
    if asked.length is None or asked.length <= stretched or asked.any_length:
        return
    raise ApplianceError(
        "config-invalid",
        f"A length of {asked.length} tokens was asked for; the model knows {stretched} positions, "
        "and vLLM does not start with more.",
        _where_it_is_set(
            f"Set `server.max_model_len: {stretched}`, or less"
            + (
                "."
                if stretched > own or choice.product is None
                else "; the profile `long-context` stretches the positions."
            ),
            asked,
        ),
    )


def _why_unknown(asked: _Asked) -> str:
    if changed := [name for name in _CHANGES_SIZES if name in asked.given]:
        return f"{', '.join(changed)} changes the sizes"
    return "vLLM itself chooses how long a request may be" if asked.automatic else ""


def _on_npus(
    choice: Choice,
    config: Mapping[str, Any],
    dies: Sequence[Npu],
    asked: _Asked,
    available: int,
) -> Fit:
    # Not above: a plan for the CPU needs none of these, and is to be quick.
    from appliance.catalog import chips
    from appliance.plan import memory, reserves

    totals = [npu.hbm_total_mib for npu in dies if npu.hbm_total_mib]
    if len(totals) < len(dies):
        return _unknown("npu-smi does not say how much memory the NPUs have")
    smallest = min(dies, key=lambda npu: npu.hbm_total_mib or 0)
    usable = chips.usable_bytes(smallest.name, min(totals))
    length = asked.length or weights_size.read(config).text.positions
    tokens, requests = reserves.default_step(usable, length)
    request = memory.Request(
        config=config,
        layout=_layout(choice),
        usable_bytes=usable,
        utilization=asked.share or choice.release.memory_utilization,
        max_model_len=length,
        max_num_batched_tokens=asked.tokens or tokens,
        max_num_seqs=asked.requests or requests,
        limit_mm_per_prompt=asked.limits,
        hccl_buffsize_mib=asked.buffer_mib,
        npus=available,
    )
    found = memory.estimate(request)
    if not found.fits:
        name = chips.variant(smallest.name, min(totals)) if smallest.name else "an NPU"
        message, remedy = memory.refusal(request, found, name)
        raise ApplianceError("memory-insufficient", message, _where_it_is_set(remedy, asked))
    return Fit(found)


def _on_cpu(choice: Choice, config: Mapping[str, Any], asked: _Asked, inventory: Inventory) -> Fit:
    """Return the same of a CPU: the KV cache has the size that a variable gives it.

    What else is needed is not planned: the host's memory is shared with everything else.
    """
    layout = _layout(choice)
    weights = weights_size.weights_bytes(config, layout, limits=asked.limits)
    token = weights_size.kv_bytes_per_token(config, layout)
    if not asked.cpu_cache_gib:
        return _unknown(f"without {_CPU_CACHE} vLLM itself chooses the size of the KV cache")
    cache = asked.cpu_cache_gib * _GIB
    length = asked.length or weights_size.read(config).text.positions
    usable = (inventory.system.memory_gib or 0) * _GIB
    needed = -(-length // _CPU_BLOCK_TOKENS) * _CPU_BLOCK_TOKENS * token
    if cache < needed:
        raise ApplianceError(
            "memory-insufficient",
            f"The KV cache is too small for one request of {length} tokens: it takes "
            f"{_gib(needed)}, {token} bytes a token, and {_CPU_CACHE} gives it {_gib(cache)}.",
            _where_it_is_set(_larger_cache(cache, needed, token), asked),
        )
    found = MemoryPlan(
        usable_bytes=usable,
        budget_bytes=weights + cache,
        weights_bytes_per_rank=weights,
        activation_bytes_per_rank=0,
        communication_bytes_per_rank=0,
        kv_cache_bytes_per_rank=cache,
        kv_bytes_per_token_per_rank=token,
        kv_tokens=cache // token,
        max_concurrency=round(cache / token / length, 2),
        fits=not usable or weights + cache < usable,
    )
    if found.fits:
        return Fit(found)
    short = (
        f"{_gib(weights)} of weights and a KV cache of {_gib(cache)} ({_CPU_CACHE}) are more "
        f"than the {_gib(usable)} of this host."
    )
    return Fit(found, (short,))


def _larger_cache(cache: int, needed: int, token: int) -> str:
    """Return what makes one request fit, by itself each."""
    remedy = f'Set `{_CPU_CACHE}: "{-(-needed // _GIB)}"` in `container.environment`'
    block = _CPU_BLOCK_TOKENS
    length = cache // (block * token) * block
    return (
        f"{remedy}, or `server.max_model_len: {length}`." if length >= _SHORTEST else f"{remedy}."
    )


def _asked(choice: Choice, args: options.Arguments, environment: Mapping[str, str]) -> _Asked:
    """Read what is asked for; raises config-invalid for what vLLM could not read.

    Only what the operator wrote may be so: the plan's own numbers are checked before.
    """
    every = (*args.planned, *args.added)
    length = _number(every, "--max-model-len", _length, "a number of tokens, such as 32768 or 32k")
    limits = options.last_json(every, "--limit-mm-per-prompt")
    on_cpu = choice.product is None
    return _Asked(
        length=length if length != -1 else None,
        automatic=length == -1,
        tokens=_number(every, "--max-num-batched-tokens", _tokens, "a number, such as 8192 or 8k"),
        requests=_number(every, "--max-num-seqs", _positive, "a whole number"),
        share=_number(every, "--gpu-memory-utilization", _share, "a number above 0, and 1 at most"),
        limits=_limits(limits or {}),
        cpu_cache_gib=_variable(environment, _CPU_CACHE, 0, "GiB") if on_cpu else None,
        buffer_mib=None if on_cpu else _variable(environment, _BUFFER, 1, "MiB"),
        given=frozenset(one.name for one in every),
        by_hand=frozenset(one.name for one in args.added),
        overrides=options.last_json(every, "--hf-overrides") or {},
        any_length=environment.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "0") not in ("", "0"),
    )


def _number(
    every: Sequence[options.Given], name: str, read: Callable[[str], Any], wanted: str
) -> Any:
    one = options.given(every, name)
    if one is None:
        return None
    try:
        return read(one.value)
    except (ValueError, OverflowError) as error:
        raise ApplianceError(
            "config-invalid",
            f"{name} in `server.extra_args` is {one.value or 'nothing'}: vLLM takes {wanted}.",
            "Correct `server.extra_args`.",
        ) from error


def _variable(environment: Mapping[str, str], name: str, least: int, unit: str) -> int | None:
    """Return a whole number that a variable holds, `None` where it is absent or empty."""
    text = environment.get(name)
    if not text:
        return None
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise ApplianceError(
            "config-invalid",
            f"{name} in `container.environment` is {text}: it is a whole number of {unit}, at "
            f"least {least}, without a unit.",
            "Correct `container.environment`.",
        )
    return number


def _tokens(text: str) -> int:
    """Read a number as vLLM's `human_readable_int` does: 1k is 1000, and 1K is 1024."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmMgGtT])", text.strip())
    if match is None:
        return _positive(text)
    number, unit = match.groups()
    power = "kmgt".index(unit.lower()) + 1
    return _checked(
        int(float(number) * 1000**power) if unit.islower() else int(number) * 1024**power
    )


def _length(text: str) -> int:
    return -1 if text.strip().lower() in ("-1", "auto") else _tokens(text)


def _positive(text: str) -> int:
    return _checked(int(text))


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share <= 1:
        raise ValueError(text)
    return share


def _checked(number: int) -> int:
    if number < 1:
        raise ValueError(number)
    return number


def _limits(found: Mapping[str, Any]) -> dict[str, int]:
    """Return how many of each kind one request may have; a kind may have more settings."""
    table = {}
    for kind, value in found.items():
        count = value.get("count") if isinstance(value, dict) else value
        try:
            table[kind] = int(count)  # type: ignore[arg-type]
        except (ValueError, TypeError):
            continue  # vLLM says what is wrong with it.
    return table


def _where_it_is_set(remedy: str, asked: _Asked) -> str:
    """Return the remedy with options in place of keys where the operator set the options."""

    def replaced(match: re.Match[str]) -> str:
        option = _KEYS.get(match[1], "")
        if option not in asked.by_hand:
            return match[0]
        value = f" {match[2]}" if match[2] else ""
        return f"`{option}{value}` in `server.extra_args`"

    return re.sub(r"`server\.(\w+)(?:: ([^`]+))?`", replaced, remedy)


def _possible(config: Mapping[str, Any], choice: Choice, most: int | None) -> str:
    """Return the sizes that the model can be spread over, of those that there are NPUs for."""
    found = []
    for size in _TENSOR_PARALLEL_SIZES:
        layout = weights_size.Layout(size, choice.data_parallel_size, choice.expert_parallel)
        if most is not None and layout.ranks > most:
            continue
        try:
            weights_size.weights_bytes(config, layout)
            weights_size.kv_bytes_per_token(config, layout)
        except weights_size.ImpossibleLayout:
            continue
        found.append(str(size))
    return " or ".join(found) or "1"


def _layout(choice: Choice) -> weights_size.Layout:
    return weights_size.Layout(choice.ranks, choice.data_parallel_size, choice.expert_parallel)


def _unknown(why: str) -> Fit:
    return Fit(None, (f"Whether the model fits into memory was not checked: {why}.",))


def _gib(count: int) -> str:
    return f"{count / _GIB:.2f} GiB"
