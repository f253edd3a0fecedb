"""What vLLM's ``/metrics`` says of each engine behind a server.

The names are those of vLLM 0.13 to 0.23 (vllm/v1/metrics/loggers.py). With data parallelism there
are several engines, told apart by the label ``engine``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

# They change only when the scheduler has finished a step: the engine sends them with its output.
# What the API server counts by itself (media in its cache, aborted requests) is no evidence.
_EVIDENCE = (
    "vllm:generation_tokens_total",
    "vllm:prompt_tokens_total",
    "vllm:iteration_tokens_total_count",
    "vllm:prefix_cache_queries_total",
    "vllm:kv_cache_usage_perc",
)
_FINISHED = "vllm:request_success_total"
_NOT_FINISHED = frozenset({"abort", "error"})
_RUNNING = "vllm:num_requests_running"
_WAITING = "vllm:num_requests_waiting"
# A label's value may hold anything, a brace too: a model may be called so.
_LINE = re.compile(
    r'^(vllm:\w+)(?:\{((?:[^"}\n]|"(?:[^"\\\n]|\\.)*")*)\})? +(\S+)(?: +-?\d+)?\r?$', re.MULTILINE
)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass
class Engine:
    """One engine at one moment.

    Attributes:
        running: requests in the current batch.
        waiting: requests that wait for a place in it.
        generated: tokens generated since the start.
        evidence: every figure that only a finished step changes, by name.

    """

    running: int = 0
    waiting: int = 0
    generated: int = 0
    evidence: dict[str, float] = field(default_factory=dict)


def engines(text: str) -> dict[str, Engine]:
    """Return the engines in a text of the Prometheus format, by label; empty where it has none.

    A server that keeps no statistics (``--disable-log-stats``) has none.
    """
    found: dict[str, Engine] = {}
    for name, labels, number in _LINE.findall(text):
        try:
            value = float(number)
        except ValueError:
            continue
        if not math.isfinite(value):  # The format has such values; they tell nothing.
            continue
        known = dict(_LABEL.findall(labels))
        _note(found.setdefault(known.get("engine", "0"), Engine()), name, known, value)
    return {label: engine for label, engine in found.items() if engine.evidence}


def _note(engine: Engine, name: str, labels: dict[str, str], value: float) -> None:
    if name == _RUNNING:
        engine.running += int(value)
    elif name == _WAITING:
        engine.waiting += int(value)
    elif name == _EVIDENCE[0]:
        engine.generated += int(value)
    if name == _FINISHED and labels.get("finished_reason") in _NOT_FINISHED:
        return
    if name in (*_EVIDENCE, _FINISHED, _RUNNING, _WAITING):
        engine.evidence[name] = engine.evidence.get(name, 0.0) + value
