"""What came of a run: vLLM's own figures, under its own names, and the samples behind them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from appliance.diagnose.redact import Redactor
from appliance.lifecycle.logs import explain
from appliance.report.numbers import clean
from appliance.results.model import BenchRun

if TYPE_CHECKING:
    from collections.abc import Mapping

    from appliance.catalog.bench import Mode
    from appliance.results.model import BenchParameters

# Numbers in vLLM's document that are its settings.
_SETTINGS = frozenset({"num_prompts", "request_rate", "burstiness", "max_concurrency", "date"})
_SHOWN = 200


def run(
    label: str,
    mode: Mode,
    parameters: BenchParameters,
    command: list[str],
    answer: Mapping[str, Any],
) -> BenchRun:
    """Return a run of what the container answered: figures, or else why there are none."""
    raw = answer.get("raw")
    metrics: dict[str, float] = {}
    samples: dict[str, list[float]] = {}
    error = None
    if not isinstance(raw, dict):
        error = _why(answer)
    elif mode == "serve" and not raw.get("completed"):
        error = f"No request was answered. {_refusals(raw)}"
        metrics = {name: float(raw[name]) for name in ("completed", "failed") if name in raw}
    elif mode == "serve":
        metrics, samples = _numbers(raw), _requests(raw)
    elif mode == "latency":
        metrics, samples = _batches(raw)
    else:
        metrics = _numbers(raw)
    words = list(answer.get("command") or command)
    return BenchRun(
        label=label,
        mode=mode,
        parameters=parameters,
        # An engine of its own has the operator's arguments.
        command=words if mode == "serve" else Redactor().document(words),
        metrics=metrics,
        samples=samples,
        error=error,
    )


def failures(raw: Mapping[str, Any] | None) -> str | None:
    """Return, in words, how many requests failed and why; `None` where none did."""
    return _refusals(raw) if raw and raw.get("failed") else None


def _why(answer: Mapping[str, Any]) -> str:
    if answer.get("late"):
        return "It did not end in its time, and was ended."
    line, known = explain(str(answer.get("log", "")))
    what = f"vLLM's benchmark ended with exit status {answer.get('status')}: {line}"
    return f"{what} Cause [{known.id}]: {known.cause}" if known else what


def _refusals(raw: Mapping[str, Any]) -> str:
    errors = [str(error) for error in raw.get("errors", ()) if error]
    lines = [line for line in (errors[0] if errors else "").splitlines() if line.strip()]
    # The last line of a traceback is its error; a refusal is one line.
    first = clean(lines[-1].strip(), _SHOWN) if lines else "no reason was given"
    count = raw.get("failed") or len(errors)
    return f"{count} requests failed, the first with: {first}"


def _numbers(raw: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in raw.items()
        if isinstance(value, (int, float))
        and not isinstance(value, bool)
        and name not in _SETTINGS
        and math.isfinite(value)
    }


def _requests(raw: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return what was measured of each answered request, in ms and in the requests' order.

    TPOT is the time after the first token by the tokens after it, as vLLM computes it, but for
    the chat API, where vLLM counts the moment until the usage figures come, which is not told.
    """
    columns = [raw.get(name) for name in ("ttfts", "itls", "output_lens", "errors")]
    if not all(isinstance(column, list) for column in columns):
        return {}
    found: dict[str, list[float]] = {"ttft_ms": [], "tpot_ms": [], "itl_ms": [], "e2el_ms": []}
    for ttft, itl, tokens, error in zip(*columns, strict=False):
        if error or not (ttft or tokens):
            continue
        found["ttft_ms"].append(ttft * 1000)
        found["itl_ms"] += [gap * 1000 for gap in itl]
        found["e2el_ms"].append((ttft + math.fsum(itl)) * 1000)
        if tokens > 1:
            found["tpot_ms"].append(math.fsum(itl) * 1000 / (tokens - 1))
    return found


def _batches(raw: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Return the figures of `vllm bench latency`, in s as it has them, and each batch in ms."""
    metrics = _numbers(raw)
    for percent, seconds in raw.get("percentiles", {}).items():
        metrics[f"p{percent}_latency"] = float(seconds)
    return metrics, {"latency_ms": [seconds * 1000 for seconds in raw.get("latencies", ())]}
