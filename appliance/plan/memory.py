"""Whether a model fits into the NPUs' memory, how much then fits beside it, and what if not.

Exact are the weights and the KV cache's bytes a token (`weights_size`); what else is needed is
an estimate (`reserves`), and so is what follows from it: the tokens and the requests that fit.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from appliance.catalog.memory import numbers
from appliance.plan import model_sizes, reserves, weights_size
from appliance.plan.model import MemoryPlan
from appliance.plan.weights_size import ImpossibleLayout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from appliance.plan.weights_size import Layout

_GIB = 1024**3
# The ranks of one replica that `parallel.tensor_parallel_size` can be raised to.
_TENSOR_PARALLEL_SIZES = (2, 4)
# A shorter length is no use for a model that thinks before it answers.
_SHORTEST = 4096
_LENGTH_STEP = 1024
# What the Qwen3-Omni page of vllm-ascend set before it set 1024 (v0.18.0).
_SMALLER_BUFFER_MIB = 512
_MOST_PROPOSALS = 3


@dataclass(frozen=True)
class Request:
    """What is to fit. The numbers are those of vLLM's arguments, on one rank.

    `config` is the model's `config.json`. `usable_bytes` is the device's memory as the
    runtime reports it, less than npu-smi's total: what npu-smi shows as used on an idle
    device is that difference. `occupied_bytes` is what other processes hold of it. `npus` is
    how many dies there are to propose, `None` where that is not known.
    """

    config: Mapping[str, Any]
    layout: Layout
    usable_bytes: int
    utilization: float
    max_model_len: int
    max_num_batched_tokens: int
    max_num_seqs: int
    limit_mm_per_prompt: Mapping[str, int]
    hccl_buffsize_mib: int | None = None
    occupied_bytes: int = 0
    npus: int | None = None

    @property
    def step(self) -> reserves.Step:
        """What bounds one step of the engine."""
        return reserves.Step(
            self.max_model_len,
            self.max_num_batched_tokens,
            self.max_num_seqs,
            self.limit_mm_per_prompt,
        )


@dataclass(frozen=True)
class Proposal:
    """A change that makes it fit: in the operator's words, and as a request."""

    text: str
    request: Request


def estimate(request: Request) -> MemoryPlan:
    """Return what one rank's memory is spent on, and whether that works out.

    `weights_bytes_per_rank` are all parameters and what else the model allocates, which is
    what vLLM reports after loading. `kv_tokens` and `max_concurrency` are those of one
    replica, in whole blocks, as vLLM logs them. It fits when a request of the full length
    does, and when other processes leave free what vLLM asks for: it refuses to start where
    less than its share of the *whole* is free, and does not make do with the rest.

    Raises `UnknownArchitecture` and `ImpossibleLayout`.
    """
    config, layout, limits = request.config, request.layout, request.limit_mm_per_prompt
    model = model_sizes.read(config)
    budget = int(request.usable_bytes * request.utilization)
    weights = weights_size.weights_bytes(config, layout, limits=limits)
    weights += weights_size.buffer_bytes(
        config, layout, request.max_num_batched_tokens, limits=limits
    )
    activation = reserves.activations(model, layout, request.step)
    communication = reserves.communication(layout, request.hccl_buffsize_mib)
    token = weights_size.kv_bytes_per_token(config, layout)
    block = numbers().block_tokens
    left = max(0, budget - weights - activation - communication)
    blocks = left // (token * block)
    needed = -(-request.max_model_len // block)
    return MemoryPlan(
        usable_bytes=request.usable_bytes,
        budget_bytes=budget,
        weights_bytes_per_rank=weights,
        activation_bytes_per_rank=activation,
        communication_bytes_per_rank=communication,
        kv_cache_bytes_per_rank=left,
        kv_bytes_per_token_per_rank=token,
        kv_tokens=blocks * block,
        max_concurrency=round(blocks / needed, 2),
        fits=blocks >= needed and budget <= request.usable_bytes - request.occupied_bytes,
    )


def refusal(request: Request, plan: MemoryPlan, chip: str) -> tuple[str, str]:
    """Return why a request does not fit, with the arithmetic, and what would make it fit.

    `plan` is the request's own estimate, `chip` the NPU's name. Every setting that the second
    text proposes has been estimated, and fits.
    """
    free = request.usable_bytes - request.occupied_bytes
    if plan.budget_bytes > free:
        return _occupied(request, plan, chip)
    layout = request.layout
    where = f"TP={layout.tensor_parallel_size}"
    if layout.data_parallel_size > 1:
        where += f", DP={layout.data_parallel_size}"
    if layout.expert_parallel and layout.ranks > 1:
        where += " with expert parallelism"
    full = _length_bytes(request, plan)
    fixed = (
        plan.weights_bytes_per_rank
        + plan.activation_bytes_per_rank
        + plan.communication_bytes_per_rank
    )
    dtype = model_sizes.read(request.config).dtype
    message = (
        f"The model does not fit: at {where} a rank needs {_gib(fixed + full)}: "
        f"{_gib(plan.weights_bytes_per_rank)} of {dtype} weights, about "
        f"{_gib(plan.activation_bytes_per_rank)} for activations and "
        f"{_gib(plan.communication_bytes_per_rank)} for communication, and {_gib(full)} of KV "
        f"cache for one request of {request.max_model_len} tokens. Of the "
        f"{_gib(request.usable_bytes)} that are usable of a {chip}, a memory utilization of "
        f"{request.utilization:g} leaves {_gib(plan.budget_bytes)}: "
        f"{_gib(fixed + full - plan.budget_bytes)} too little."
    )
    return message, _remedy(request, chip)


def _occupied(request: Request, plan: MemoryPlan, chip: str) -> tuple[str, str]:
    free = request.usable_bytes - request.occupied_bytes
    message = (
        f"Other processes hold {_gib(request.occupied_bytes)} of a {chip}'s "
        f"{_gib(request.usable_bytes)}, so {_gib(max(0, free))} are free; a memory utilization "
        f"of {request.utilization:g} asks for {_gib(plan.budget_bytes)}, and vLLM does not "
        "start with less."
    )
    remedy = "Stop those processes (`npu-smi info` lists them), or use other NPUs with `npus`."
    # Rounded down: what is asked for must be free.
    lower = int(free / request.usable_bytes * 100) / 100
    if lower > 0 and estimate(dataclasses.replace(request, utilization=lower)).fits:
        remedy += f" Beside them `server.memory_utilization: {lower:g}` fits."
    return message, remedy


def remedies(request: Request) -> tuple[Proposal, ...]:
    """Return changes of a request that does not fit, each of which makes it fit by itself.

    Where none does by itself, the first that does with as much of the memory as is sensible.
    Empty if there is none.
    """
    ways = (_more_ranks, _shorter, _higher, _no_experts, _smaller_buffer, _no_video)
    alone = tuple(proposal for way in ways if (proposal := way(request)))
    if alone:
        return alone[:_MOST_PROPOSALS]
    share = numbers().highest_utilization
    if share <= request.utilization:
        return ()
    most = dataclasses.replace(request, utilization=share)
    together = (proposal for way in ways if (proposal := way(most)))
    return tuple(
        Proposal(f"`server.memory_utilization: {share:g}` with {proposal.text}", proposal.request)
        for proposal in together
    )[:1]


def _remedy(request: Request, chip: str) -> str:
    if found := remedies(request):
        return f"Set {'; or '.join(proposal.text for proposal in found)}."
    enough = remedies(dataclasses.replace(request, npus=None))
    if not enough:
        return f"No setting makes it fit on a {chip}: use NPUs with more memory."
    have = "1 NPU" if request.npus == 1 else f"{request.npus} NPUs"
    ranks = enough[0].request.layout.ranks
    return f"No setting makes it fit on the {have} here: it takes {ranks} of a {chip}."


def _more_ranks(request: Request) -> Proposal | None:
    """Return the fewest ranks a replica that make it fit, of those that there are NPUs for."""
    for size in _TENSOR_PARALLEL_SIZES:
        layout = dataclasses.replace(request.layout, tensor_parallel_size=size)
        too_many = request.npus is not None and layout.ranks > request.npus
        if size <= request.layout.tensor_parallel_size or too_many:
            continue
        changed = dataclasses.replace(request, layout=layout)
        if _fits(changed):
            text = f"`parallel.tensor_parallel_size: {size}` ({layout.ranks} NPUs)"
            return Proposal(text, changed)
    return None


def _shorter(request: Request) -> Proposal | None:
    """Return a long length that fits: the longest, but where a shorter one's input is larger."""
    lengths = range(_SHORTEST, request.max_model_len, _LENGTH_STEP)

    def at(length: int) -> Request:
        return dataclasses.replace(request, max_model_len=length)

    low, high = 0, len(lengths)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if _fits(at(lengths[middle])) else (low, middle)
    if low == 0:
        return None
    length = lengths[low - 1]
    return Proposal(f"`server.max_model_len: {length}`", at(length))


def _higher(request: Request) -> Proposal | None:
    """Return the lowest share of the memory that makes it fit."""
    highest = round(numbers().highest_utilization * 100)
    for percent in range(int(request.utilization * 100) + 1, highest + 1):
        share = percent / 100
        changed = dataclasses.replace(request, utilization=share)
        if _fits(changed):
            return Proposal(f"`server.memory_utilization: {share:g}`", changed)
    return None


def _no_experts(request: Request) -> Proposal | None:
    """Return the layout without expert parallelism, which needs fewer buffers."""
    layout = dataclasses.replace(request.layout, expert_parallel=False)
    changed = dataclasses.replace(request, layout=layout)
    if layout == request.layout or not _fits(changed):
        return None
    return Proposal("`parallel.expert_parallel: false`", changed)


def _smaller_buffer(request: Request) -> Proposal | None:
    if (request.hccl_buffsize_mib or 0) <= _SMALLER_BUFFER_MIB:
        return None
    changed = dataclasses.replace(request, hccl_buffsize_mib=_SMALLER_BUFFER_MIB)
    if not _fits(changed):
        return None
    text = f'`container.environment: {{HCCL_BUFFSIZE: "{_SMALLER_BUFFER_MIB}"}}`'
    return Proposal(text, changed)


def _no_video(request: Request) -> Proposal | None:
    """Return the request without videos, the largest input of the encoders."""
    limits = {**request.limit_mm_per_prompt, "video": 0}
    changed = dataclasses.replace(request, limit_mm_per_prompt=limits)
    if request.limit_mm_per_prompt.get("video") == 0 or not _fits(changed):
        return None
    return Proposal("`server.limit_mm_per_prompt` with `video: 0`", changed)


def _fits(request: Request) -> bool:
    try:
        return estimate(request).fits
    except ImpossibleLayout:
        return False


def _length_bytes(request: Request, plan: MemoryPlan) -> int:
    """Return the KV cache's bytes for one request of the full length, in whole blocks."""
    block = numbers().block_tokens
    return -(-request.max_model_len // block) * block * plan.kv_bytes_per_token_per_rank


def _gib(count: int) -> str:
    return f"{count / _GIB:.2f} GiB"
