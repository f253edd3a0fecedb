"""How the result of a benchmark looks: a table for people, a document for programs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from appliance.bench.run import told
from appliance.cli import run as cli
from appliance.report.numbers import clean

if TYPE_CHECKING:
    from appliance.bench.run import Outcome
    from appliance.compare.model import Comparison
    from appliance.results.model import BenchRun

# Of what vLLM measures, what a table has room for: title, metric, decimals.
_SERVE = (
    ("req/s", "request_throughput", 2),
    ("tok/s", "output_throughput", 1),
)
_TIMES = ("ttft", "tpot", "itl")
_STATISTICS = ("mean", "median", "p99")
_ENGINE = {
    "latency": (
        ("mean s", "avg_latency", 3),
        ("median s", "p50_latency", 3),
        ("p99 s", "p99_latency", 3),
    ),
    "throughput": (
        ("req/s", "requests_per_second", 2),
        ("tok/s (in and out)", "tokens_per_second", 1),
        ("s", "elapsed_time", 1),
    ),
}
WIDTH = 120
# From here on decimals say nothing.
_WHOLE = 100


def document(outcome: Outcome, comparisons: list[Comparison]) -> None:
    """Print one document: the result without its samples, which are in its file."""
    result = outcome.result.model_dump(mode="json")
    for run in result["runs"]:
        del run["samples"]
    error = outcome.error
    cli.document(
        {
            "file": str(outcome.file),
            "result": result,
            "saturation": dataclasses.asdict(outcome.saturation) if outcome.saturation else None,
            "failures": outcome.failures,
            "comparisons": [comparison.as_dict() for comparison in comparisons],
            **(error.as_dict() if error else {}),
        }
    )


def table(outcome: Outcome) -> None:
    """Print a row for each run, what is to be known of them, and where the rest is."""
    from rich.console import Console
    from rich.table import Table

    runs = outcome.result.runs
    mode = runs[0].mode
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("run")
    for title in _titles(mode):
        shown.add_column(title, justify="right")
    for run in runs:
        shown.add_row(clean(run.label), *(["failed"] if run.error else _cells(run)))
    console = Console(width=None if Console().is_terminal else WIDTH)
    console.print(shown)
    if mode == "serve":
        print("Times in ms: mean/median/99th percentile.")
    if outcome.saturation is not None:
        print(f"\n{clean(told(outcome.saturation))}")
    for note in outcome.result.notes:
        if outcome.saturation is None or note != told(outcome.saturation):
            print(f"note: {clean(note)}")
    print(f"\n{outcome.file}")


def _titles(mode: str) -> list[str]:
    if mode != "serve":
        return [title for title, _, _ in _ENGINE[mode]]
    flight = ["in flight", "ok", "failed"]
    return [*flight, *(title for title, _, _ in _SERVE), *(name.upper() for name in _TIMES)]


def _cells(run: BenchRun) -> list[str]:
    if run.mode != "serve":
        return [_figure(run, name, decimals) for _, name, decimals in _ENGINE[run.mode]]
    limit = run.parameters.max_concurrency
    cells = ["any" if limit is None else str(limit)]
    cells += [_figure(run, name, 0) for name in ("completed", "failed")]
    cells += [_figure(run, name, decimals) for _, name, decimals in _SERVE]
    for quantity in _TIMES:
        figures = [_figure(run, f"{part}_{quantity}_ms", 1) for part in _STATISTICS]
        cells.append("/".join(figures))
    return cells


def _figure(run: BenchRun, name: str, decimals: int) -> str:
    value = run.metrics.get(name)
    if value is None:
        return "-"
    return f"{value:.0f}" if decimals and value >= _WHOLE else f"{value:.{decimals}f}"
