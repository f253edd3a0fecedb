"""`appliance eval`: how often the answers are right."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from appliance.cli import options
from appliance.cli.compare_view import WIDTH
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
from appliance.cli.run import complain, document, guarded, interruptible, stop_on_signals
from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from appliance.evaluate.run import Outcome
    from appliance.results.model import Result


@guarded
def evaluate(
    config: ConfigFile = None,
    overrides: Override = None,
    datasets: Annotated[
        Optional[str],  # noqa: UP045 (Typer reads this at run time, on Python 3.10 too)
        typer.Option(metavar="NAME,…", help="Datasets [default: omni_bench,gsm8k,bbh]."),
    ] = None,
    subset: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="DATASET/SUBSET", help="Only this subset; repeatable."),
    ] = None,
    limit: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="N|all", help="First questions of each subset [default: 100]."),
    ] = None,
    batch_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Questions in flight [default: 1]."),
    ] = None,
    max_tokens: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Longest answer, thinking included [default: 10000]."),
    ] = None,
    temperature: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(min=0.0, max=2.0, help="Of the sampling [default: 0.6]."),
    ] = None,
    use_image: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(help="omni_bench with its images, or what is in them [default: images]."),
    ] = None,
    use_audio: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(help="omni_bench with its sounds, or what is in them [default: in words]."),
    ] = None,
    dataset_args: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="JSON", help="evalscope's --dataset-args."),
    ] = None,
    dataset_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            metavar="DIR",
            help="Folder with a folder a dataset, instead of ModelScope and a network: copies of "
            "the hub's, or gsm8k/main/{test,train}.jsonl, bbh/SUBSET.json, omni_bench/data/"
            "train-*.parquet.",
        ),
    ] = None,
    timeout: Annotated[
        Optional[float],  # noqa: UP045
        options.seconds("Seconds for one answer [default: 7200]."),
    ] = None,
    ignore_errors: Annotated[
        bool, typer.Option("--ignore-errors", help="Leave out questions that fail.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew where an earlier try was interrupted.")
    ] = False,
    url: Url = None,
    model: UrlModel = None,
    api_key_file: UrlKeyFile = None,
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Name of the result's folder [default: of datasets and time]."),
    ] = None,
    output: OutputDir = Path("results"),
    compare: Compare = None,
    as_json: Json = False,
) -> None:
    """Measure accuracy with evalscope, by the guide's datasets and settings.

    An interrupted evaluation goes on where it stopped when the same command is given again.
    """
    from appliance.compare.run import find
    from appliance.evaluate.run import perform, stub
    from appliance.evaluate.work import Wanted
    from appliance.jobs.server import Elsewhere
    from appliance.lifecycle.progress import Progress

    stop_on_signals()
    if url is None and (model is not None or api_key_file is not None):
        raise ApplianceError("usage", "--model and --api-key-file belong to --url.")
    wanted = Wanted(
        datasets=tuple(part.strip() for part in datasets.split(",")) if datasets else None,
        subsets=tuple(subset or ()),
        limit=_limit(limit),
        batch_size=batch_size,
        max_tokens=max_tokens,
        temperature=temperature,
        timeout=timeout,
        use_image=use_image,
        use_audio=use_audio,
        dataset_args=_object(dataset_args),
        dataset_dir=dataset_dir,
        ignore_errors=ignore_errors,
        fresh=fresh,
        name=name,
        output=output,
    )
    # Wrong names are refused before hours of questions.
    references = [find(reference, stub()) for reference in compare or ()]
    elsewhere = Elsewhere(url, model, api_key_file) if url is not None else None
    progress = Progress()
    loaded = options.load(config, overrides).config
    same = "The same command without --fresh" if fresh else "The same command"
    remedy = f"What was answered is kept. {same} goes on from there."
    with interruptible("There is no result yet.", remedy, progress.stop):
        outcome = perform(loaded, wanted, elsewhere, progress)
    _show(outcome, references, as_json=as_json)
    if outcome.error is not None:
        sys.stdout.flush()
        complain(outcome.error)
        raise typer.Exit(outcome.error.exit_code)


def _limit(text: str | None) -> int | None:
    """Return how many questions of each subset are asked: 0 for all, `None` for the default."""
    if text is None:
        return None
    if text == "all":
        return 0
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ApplianceError("usage", f"--limit {text} is neither a number above 0 nor `all`.")
    return int(text)


def _object(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ApplianceError("input-invalid", f"--dataset-args is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ApplianceError("input-invalid", "--dataset-args is not a JSON object.")
    return value


def _show(outcome: Outcome, references: list[Result], *, as_json: bool) -> None:
    """Print the scores, what is to be said of them, and how they compare."""
    from appliance.compare.run import compare

    comparisons = [compare(outcome.result, reference) for reference in references]
    if as_json:
        told: dict[str, Any] = {
            "result": outcome.result.model_dump(mode="json"),
            "file": str(outcome.file),
        }
        if outcome.error is not None:
            told.update(outcome.error.as_dict())
        if comparisons:
            told["comparisons"] = [comparison.as_dict() for comparison in comparisons]
        document(told)
        return
    from appliance.report.numbers import clean

    _table(outcome.result)
    for note in outcome.result.notes:
        _item(clean(note))
    if comparisons:
        from appliance.cli.compare_view import comparison_table

        for comparison in comparisons:
            print()
            comparison_table(comparison)
    print(f"\n{outcome.file}")


def _table(result: Result) -> None:
    """Print the guide's table, with what chance alone may do to each score."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from appliance.compare.intervals import share
    from appliance.report.numbers import clean

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for title in ("Dataset", "Metric", "Subset"):
        table.add_column(title, overflow="fold")
    for title in ("Num", "Score", "95 % interval"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in result.scores:
        # Only a share has such an interval.
        known = row.num > 0 and 0 <= row.score <= 1
        estimate = share(row.score, row.num) if known else None
        interval = f"{estimate.low:.3f} to {estimate.high:.3f}" if estimate else ""
        names = (clean(name) for name in (row.dataset, row.metric, row.subset))
        table.add_row(*names, str(row.num), f"{row.score:.4f}", interval)
    width = None if sys.stdout.isatty() else WIDTH
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    console.print(clean(f"{result.system.model.id}, {_sampled(result)}"))
    console.print(table)


def _sampled(result: Result) -> str:
    settings = result.evaluation
    if settings is None:
        return "settings unknown"
    words = [f"{name} {value}" for name, value in settings.generation.items()]
    return ", ".join([*words, f"evalscope {settings.evalscope}"])


def _item(text: str) -> None:
    for number, line in enumerate(textwrap.wrap(text, WIDTH - 2, break_on_hyphens=False)):
        print(("  " if number else "- ") + line)
