"""What a report says, in order and in words; the templates only lay it out."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from appliance.catalog import load as catalog
from appliance.compare.arrivals import number
from appliance.compare.metrics import known
from appliance.diagnose.redact import Redactor
from appliance.report import numbers, plots
from appliance.report.numbers import NONE, cell, clean, interval, relative, value

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from appliance.compare.model import Comparison, Group, Row
    from appliance.report.plots import Figure
    from appliance.results.model import BenchRun, EvalScore, Result, System

# What a page can hold; a document with all of them is one command away.
MOST_RUNS, MOST_SCORES = 200, 200
_RUN_METRICS = (
    "request_throughput",
    "requests_per_second",
    "output_throughput",
    "total_token_throughput",
    "tokens_per_second",
    "mean_ttft_ms",
    "median_ttft_ms",
    "p99_ttft_ms",
    "mean_tpot_ms",
    "p99_tpot_ms",
    "mean_itl_ms",
    "p99_itl_ms",
    "avg_latency",
    "mean_latency_ms",
)
# Of that many groups only an overview is shown at first, with these metrics.
MANY_GROUPS = 3
_MAIN = (
    "success_rate",
    "output_throughput",
    "tokens_per_second",
    "median_ttft_ms",
    "median_tpot_ms",
    "avg_latency",
)
# What a reader must not overlook: a head, and what it means.
_TEST = (
    "{name} is a small model for trying the appliance. Neither its answers nor its times say "
    "anything of the model that the appliance is for."
)
_DUMMY = (
    "{name} ran with random weights. Its times are of the same work as the real model's but for "
    "the choice of experts; its answers are noise."
)
_UNKNOWN = (
    "It is not known whether {name} ran with its real weights: the server that was measured does "
    "not tell."
)
_WARNINGS = {
    "test": ("Test model", _TEST),
    "dummy": ("Dummy weights", _DUMMY),
    "unknown": ("Weights unknown", _UNKNOWN),
}
# A server's arguments may be long, and are there to be copied.
_LONGEST_LINE = 8000


@dataclass(frozen=True)
class Material:
    """What a report is made of: results, what they are compared with, and the comparisons."""

    results: tuple[Result, ...]
    references: tuple[Result, ...] = ()
    comparisons: tuple[Comparison, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table of texts. The first `words` columns hold words, the rest numbers."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    note: str = ""


@dataclass(frozen=True)
class Line:
    """One metric of a comparison, in words. `notes` are numbers of the group's notes."""

    title: str
    unit: str
    own: str
    reference: str
    change: str
    interval: str
    verdict: str
    sign: str
    word: str
    notes: tuple[int, ...]


@dataclass(frozen=True)
class Compared:
    """Two runs, or two evaluations: the metrics, and the notes that they refer to."""

    title: str
    counts: str
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    caveats: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """A comparison with one reference."""

    id: str
    title: str
    own: str
    reference: str
    source: str | None
    counts: tuple[tuple[str, str, str, int], ...]
    overview: Table | None
    groups: tuple[Compared, ...]
    caveats: tuple[str, ...]
    flaws: tuple[str, ...]
    only: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """The whole report."""

    title: str
    subtitle: str
    summary: tuple[str, ...]
    banners: tuple[tuple[str, str], ...]
    facts: Table
    sections: tuple[Section, ...]
    figures: tuple[Figure, ...]
    runs: Table | None
    scores: Table | None
    subsets: Table | None
    failed: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    details: tuple[tuple[str, tuple[str, ...]], ...] = field(default=())


def page(material: Material) -> Page:
    """Return what the report of these results says."""
    results = material.results
    everything = (*results, *material.references)
    kinds = {result.kind for result in results}
    title = "Results"
    if len(kinds) == 1:
        title = "Benchmark" if "bench" in kinds else "Evaluation"
    return Page(
        title=f"{title} report",
        subtitle=clean(", ".join(result.name for result in results[:6]) or "no results")
        + (f" and {len(results) - 6} more" if len(results) > 6 else ""),  # noqa: PLR2004
        summary=_summary(results[0].system) if len(results) == 1 else (),
        banners=tuple(_banners(results)),
        facts=_facts(everything),
        sections=tuple(
            _section(place, one) for place, one in enumerate(material.comparisons, start=1)
        ),
        figures=tuple(plots.figures(results, material.references)),
        runs=_runs(everything),
        scores=_scores(everything, subsets=False),
        subsets=_scores(everything, subsets=True),
        failed=tuple(_failed(results)),
        notes=tuple(_notes(results)),
        details=tuple(_details(results)),
    )


def _notes(results: Iterable[Result]) -> Iterable[str]:
    for result in results:
        if not result.runs and not result.scores:
            yield f"{clean(result.name)} holds no runs and no scores."
        for note in result.notes:
            yield f"{clean(result.name)}: {clean(note)}"


def _banners(results: Iterable[Result]) -> list[tuple[str, str]]:
    """Return the warnings of all results, each once."""
    found: dict[tuple[str, str], None] = {}
    for result in results:
        if result.source is not None:
            continue
        model = result.system.model
        name = clean(model.id)
        entry = catalog.models().get(model.id)
        heads = ["test"] if entry is not None and entry.bundled else []
        heads += [model.weights] if model.weights != "real" else []
        for head in heads:
            title, text = _WARNINGS[head]
            found[title, text.format(name=name)] = None
    return list(found)


def _facts(results: Sequence[Result]) -> Table:
    """Return what was measured: a column for each result, and no row that none can fill."""
    columns = [_described(result) for result in results]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [
        (name, *(clean(column.get(name) or NONE) for column in columns))
        for name in names
        if any(column.get(name) for column in columns)
    ]
    return Table(("", *(clean(result.name) for result in results)), tuple(rows), len(results) + 1)


def _summary(system: System) -> tuple[str, ...]:
    """Return in a few words what was measured."""
    weights = {"real": "real weights", "dummy": "dummy weights", "unknown": None}
    parts = (
        system.model.id,
        weights[system.model.weights],
        system.release,
        _hardware(system),
        _parallel(system),
    )
    return tuple(clean(part) for part in parts if part)


def _described(result: Result) -> dict[str, str | None]:
    system = result.system
    weights = {"real": "real", "dummy": "dummy (random)", "unknown": "not told"}
    found: dict[str, str | None] = {
        "model": system.model.id,
        "weights": weights[system.model.weights],
        "revision": system.model.revision,
        "release": system.release,
        "platform": system.platform,
        "hardware": _hardware(system),
        "parallel": _parallel(system),
        "image": system.image,
        "image digest": system.image_digest or system.image_id,
        "versions": ", ".join(f"{name} {text}" for name, text in sorted(system.versions.items())),
        "server": system.url,
        "launcher": system.launcher,
        "source": result.source,
        "started": result.started,
        "finished": result.finished,
        "preset": result.preset,
    }
    return found | (_asked_runs(result) if result.runs else {}) | _asked_questions(result)


def _hardware(system: System) -> str | None:
    """Return product, NPUs and driver, as far as the inventory tells."""
    inventory: dict[str, Any] = system.inventory or {}
    npus = inventory.get("npus")
    parts = [system.product or str(inventory.get("product") or "")]
    if isinstance(npus, list) and npus:
        first = npus[0] if isinstance(npus[0], dict) else {}
        parts.append(f"{len(npus)} dies {first.get('name') or ''}".strip())
    if inventory.get("driver_version"):
        parts.append(f"driver {inventory['driver_version']}")
    return ", ".join(part for part in parts if part) or None


def _parallel(system: System) -> str | None:
    layout = system.parallel
    parts = [
        f"{short}={count}"
        for short, count in (
            ("TP", layout.tensor_parallel_size),
            ("DP", layout.data_parallel_size),
        )
        if count is not None
    ]
    if layout.expert_parallel is not None:
        parts.append(f"expert parallel {'on' if layout.expert_parallel else 'off'}")
    return ", ".join(parts) or None


def _asked_runs(result: Result) -> dict[str, str | None]:
    def told(name: str, none: str = "") -> str | None:
        values = [getattr(run.parameters, name) for run in result.runs]
        texts = [none if one is None else f"{one:g}" for one in dict.fromkeys(values)]
        texts = [text for text in texts if text]
        return ", ".join(texts) if len(texts) <= 12 else f"{len(texts)} values"  # noqa: PLR2004

    return {
        "runs": str(len(result.runs)),
        "input, tokens": told("input_len"),
        "output, tokens": told("output_len"),
        "prompts": told("num_prompts"),
        "request rate": told("request_rate", "all at once"),
        "in flight at most": told("max_concurrency", "no limit"),
        "seeds": told("seed"),
    }


def _asked_questions(result: Result) -> dict[str, str | None]:
    settings = result.evaluation
    if settings is None:
        return {}
    return {
        "evalscope": settings.evalscope,
        "questions a subset": str(settings.limit or "all"),
        "generation": ", ".join(f"{name} {one}" for name, one in settings.generation.items()),
        "batch size": str(settings.batch_size or NONE),
    }


def _section(place: int, found: Comparison) -> Section:
    counts = [
        (verdict, *numbers.VERDICTS[verdict], count)
        for verdict, count in found.counts.items()
        if count
    ]
    # What is wrong with some figures only stands beside those.
    told = {flaw for group in found.groups for row in group.rows for flaw in row.flaws}
    only = []
    for names, side in ((found.only_own, found.own), (found.only_reference, found.reference)):
        if names:
            listed = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if names[8:] else "")
            only.append(clean(f"Only in {side}: {listed}."))
    return Section(
        id=f"comparison-{place}",
        title=clean(f"{found.own} against {found.reference}"),
        own=clean(found.own),
        reference=clean(found.reference),
        source=clean(found.source) if found.source else None,
        counts=tuple(counts),
        overview=overview(found),
        groups=tuple(_compared(group) for group in found.groups),
        caveats=tuple(clean(text) for text in found.caveats),
        flaws=tuple(clean(text) for text in found.flaws if text not in told),
        only=tuple(only),
    )


def _compared(group: Group) -> Compared:
    """Return a group with its reasons as numbered notes: most rows have the same ones."""
    notes: dict[str, int] = {}
    lines = []
    for row in group.rows:
        texts = [row.reason, *(f"Of the reference: {flaw}" for flaw in row.flaws)]
        refers = [notes.setdefault(clean(text), len(notes) + 1) for text in texts if text]
        lines.append(_line(row, tuple(sorted(refers))))
    title = group.own if group.own == group.reference else f"{group.own} against {group.reference}"
    caveats = tuple(clean(text) for text in group.caveats)
    counts = Counter[str](row.verdict for row in group.rows)
    words = ", ".join(
        f"{counts[verdict]} {word}"
        for verdict, (_, word) in numbers.VERDICTS.items()
        if counts[verdict]
    )
    return Compared(clean(title), words, tuple(lines), tuple(notes), caveats)


def overview(comparison: Comparison) -> Table | None:
    """Return the main metrics of all runs, where there are too many to read one by one."""
    if len(comparison.groups) < MANY_GROUPS:
        return None
    rows = [{row.metric: row for row in group.rows} for group in comparison.groups]
    names = [name for name in _MAIN if any(name in row for row in rows)]
    titles = {row.metric: row.title for group in comparison.groups for row in group.rows}
    return Table(
        ("run", *(clean(titles[name]) for name in names)),
        tuple(
            (clean(group.own), *(_change(row.get(name)) for name in names))
            for group, row in zip(comparison.groups, rows, strict=True)
        ),
        note="Change, and whether it is better (▲), worse (▼), the same within noise (=) or "
        "not comparable (○).",
    )


def _change(row: Row | None) -> str:
    return NONE if row is None else f"{relative(row)} {numbers.VERDICTS[row.verdict][0]}"


def _line(row: Row, notes: tuple[int, ...]) -> Line:
    sign, word = numbers.VERDICTS[row.verdict]
    return Line(
        clean(row.title),
        "" if row.unit == "share" else row.unit,
        cell(row.own, row.unit),
        cell(row.reference, row.unit),
        relative(row),
        interval(row.difference, row.unit),
        row.verdict,
        sign,
        word,
        notes,
    )


def _runs(results: Sequence[Result]) -> Table | None:
    runs = [(result, run) for result in results for run in result.runs]
    if not runs:
        return None
    found = {name for _, run in runs for name in _RUN_METRICS if number(run, name) is not None}
    metrics = [one for one in known(found) if one.name in found]
    many = len(results) > 1
    head = ("result",) * many + ("run", "asked", *(f"{m.title}, {m.unit}" for m in metrics))
    rows = []
    for result, run in runs[:MOST_RUNS]:
        cells = [value(number(run, one.name)) for one in metrics]
        texts = (clean(result.name),) * many + (clean(run.label), _asked(run))
        rows.append((*texts, *cells))
    note = f"{MOST_RUNS} of {len(runs)} runs." if len(runs) > MOST_RUNS else ""
    return Table(head, tuple(rows), 2 + many, note)


def _asked(run: BenchRun) -> str:
    asked = run.parameters
    parts = [asked.dataset if asked.modality == "text" else f"{asked.dataset} ({asked.modality})"]
    if asked.input_len is not None or asked.output_len is not None:
        parts.append(f"{asked.input_len or '?'} in, {asked.output_len or '?'} out")
    if asked.num_prompts is not None:
        parts.append(f"{asked.num_prompts} prompts")
    if asked.request_rate is not None:
        parts.append(f"{asked.request_rate:g}/s")
    if asked.max_concurrency is not None:
        parts.append(f"{asked.max_concurrency} at once")
    if asked.batch_size is not None:
        parts.append(f"batch {asked.batch_size}")
    return clean(", ".join(parts))


def _scores(results: Sequence[Result], *, subsets: bool) -> Table | None:
    """Return the scores; or those of subsets, of datasets that have one for all of them."""
    scores = [
        (result, one)
        for result in results
        for one in result.scores
        if (one in plots.shown(result.scores)) != subsets
    ]
    if not scores:
        return None
    head = ("result", "dataset", "subset", "metric", "media", "questions", "score")
    rows = tuple(_score(result, one) for result, one in scores[:MOST_SCORES])
    note = f"{MOST_SCORES} of {len(scores)} scores." if len(scores) > MOST_SCORES else ""
    return Table(head, rows, 5, note)


def _score(result: Result, one: EvalScore) -> tuple[str, ...]:
    media = NONE if one.modalities is None else ", ".join(one.modalities) or "none"
    texts = (result.name, one.dataset, one.subset, one.metric, media)
    return (*(clean(text) for text in texts), str(one.num), value(one.score, "share"))


def _failed(results: Iterable[Result]) -> Iterable[tuple[str, str]]:
    for result in results:
        for run in result.runs:
            if run.error:
                yield clean(run.label), clean(run.error)
            elif failed := number(run, "failed"):
                yield clean(run.label), f"{failed:g} requests failed."


def _details(results: Iterable[Result]) -> Iterable[tuple[str, tuple[str, ...]]]:
    """Yield the commands and the environment, without secrets: a report is sent on."""
    for result in results:
        safe = Redactor()
        system = result.system
        lines = []
        if system.serve_args is not None:
            words = safe.document(["vllm", "serve", *system.serve_args])
            lines.append(shlex.join(words))
        lines += [
            shlex.join(safe.document(["vllm", *run.command]))
            for run in result.runs[:MOST_RUNS]
            if run.command
        ]
        environment = safe.document(system.environment)
        lines += [f"{name}={text}" for name, text in sorted(environment.items())]
        if lines:
            unique = dict.fromkeys(clean(line, _LONGEST_LINE) for line in lines)
            yield clean(result.name), tuple(unique)
