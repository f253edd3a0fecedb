"""`appliance bench`: measures how fast the model is served."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from appliance.cli import options
from appliance.cli.options import (
    Compare,
    ConfigFile,
    Json,
    OutputDir,
    Override,
    Url,
    UrlKeyFile,
    UrlModel,
)
from appliance.cli.run import complain, guarded, interruptible, stop_on_signals

if TYPE_CHECKING:
    from appliance.bench.run import Outcome
    from appliance.compare.model import Comparison

RATE_HELP = "Requests a second that arrive; `inf` for all at once."


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not rate > 0:
        raise typer.BadParameter(f"{text} is neither a number above 0 nor inf.")
    return rate


@guarded
def bench(
    config: ConfigFile = None,
    overrides: Override = None,
    preset: Annotated[
        str, typer.Option(help="guide, sweep, multimodal, latency or throughput.")
    ] = "guide",
    num_prompts: Annotated[
        Optional[int],  # noqa: UP045 (Typer reads this at run time, on Python 3.10 too)
        typer.Option(help="Requests to send; in a sweep, the least at each point.", min=1),
    ] = None,
    input_len: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Tokens of text in each prompt.", min=1),
    ] = None,
    output_len: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Tokens to generate for each.", min=1),
    ] = None,
    request_rate: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help=RATE_HELP, parser=_rate, metavar="RATE"),
    ] = None,
    max_concurrency: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Most requests in flight; in a sweep, where it ends.", min=1),
    ] = None,
    batch_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Requests in the batch of `latency`.", min=1),
    ] = None,
    num_iters: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="How often `latency` measures.", min=1),
    ] = None,
    seed: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            help="Seed of prompts and arrivals [default: 0; with media, a fresh one].", min=0
        ),
    ] = None,
    url: Url = None,
    model: UrlModel = None,
    tokenizer: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="DIR", help="Folder with the tokenizer of the model at --url."),
    ] = None,
    api_key_file: UrlKeyFile = None,
    timeout: Annotated[float, options.seconds("Most seconds for each run.")] = 7200.0,
    output_dir: OutputDir = Path("results"),
    compare: Compare = None,
    as_json: Json = False,
) -> None:
    """Measure throughput and latency with vLLM's own benchmarks, and keep the result."""
    from appliance.bench import run
    from appliance.bench.arguments import Changes
    from appliance.compare.run import compare as compared
    from appliance.compare.run import find
    from appliance.errors import ApplianceError
    from appliance.jobs.server import Elsewhere
    from appliance.lifecycle.progress import Progress

    stop_on_signals()
    changes = Changes(
        num_prompts=num_prompts,
        input_len=input_len,
        output_len=output_len,
        request_rate=request_rate,
        max_concurrency=max_concurrency,
        batch_size=batch_size,
        num_iters=num_iters,
        seed=seed,
    )
    if url is None and (model, tokenizer, api_key_file) != (None, None, None):
        message = "--model, --tokenizer and --api-key-file are of the server at --url."
        raise ApplianceError("usage", message)
    elsewhere = Elsewhere(url, model, api_key_file, tokenizer) if url is not None else None
    wanted = run.Wanted(preset, changes, elsewhere, output_dir, timeout)
    # What there is nothing to compare with is known before it is measured.
    references = [find(name, run.stub(preset)) for name in compare or ()]
    progress = Progress()
    loaded = options.load(config, overrides).config
    with interruptible("Nothing was measured yet.", "Run it again.", progress.stop):
        outcome = run.perform(loaded, wanted, progress)
    _show(outcome, [compared(outcome.result, one) for one in references], as_json=as_json)
    if (error := outcome.error) is not None:
        complain(error)
        raise typer.Exit(error.exit_code)


def _show(outcome: Outcome, comparisons: list[Comparison], *, as_json: bool) -> None:
    from appliance.cli import bench_view

    if as_json:
        bench_view.document(outcome, comparisons)
        return
    bench_view.table(outcome)
    if comparisons:
        from appliance.cli.compare_view import comparison_table

        for comparison in comparisons:
            comparison_table(comparison)
