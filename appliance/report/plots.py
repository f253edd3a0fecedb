"""Which charts a report has, from the runs and scores that it is about."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from appliance.catalog.bench import presets
from appliance.compare import intervals
from appliance.compare.arrivals import number
from appliance.compare.bench import NOISE
from appliance.compare.intervals import at_share
from appliance.report import charts, numbers
from appliance.report.charts import Chart, Series, Share, Words
from appliance.results.saturation import saturated

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from appliance.results.model import BenchRun, EvalScore, Result

_T = TypeVar("_T")
# More lines than this are a tangle; of more runs some are drawn, the first and the last too.
MOST_LINES = 6
MOST_ROWS = 24
# A curve of so many points is smooth; its last are closer, since that is where the story is.
_SHARES = (*(part / 100 for part in range(100)), 0.99, 0.995, 0.999, 1.0)
_LATENCIES = (
    ("ttft_ms", "Time to first token", "TTFT, ms"),
    ("tpot_ms", "Time per output token", "TPOT, ms"),
    ("itl_ms", "Inter-token latency", "ITL, ms"),
    ("latency_ms", "Latency of a batch", "latency, ms"),
)
_SWEPT = (
    ("output_throughput", "Output throughput", "tokens/s"),
    ("median_ttft_ms", "Median time to first token", "ms"),
    ("median_tpot_ms", "Median time per output token", "ms"),
)
_OVERALL = "OVERALL"


@dataclass(frozen=True)
class Key:
    """An entry of a legend."""

    name: str
    colour: int


@dataclass(frozen=True)
class Figure:
    """Charts that share a legend; `notes` say what a reader must know of them."""

    title: str
    keys: tuple[Key, ...]
    charts: tuple[Chart, ...]
    notes: tuple[str, ...] = ()


def figures(own: Sequence[Result], references: Sequence[Result]) -> list[Figure]:
    """Return all figures that these results give; those of references come second."""
    found = [
        *_sweeps([*own, *references]),
        _distributions([*own, *references]),
        _accuracy(own, references),
    ]
    return [figure for figure in found if figure is not None and figure.charts]


@dataclass(frozen=True)
class Sweep:
    """Runs of one result that differ in their load only. `axis` is what is swept."""

    name: str
    axis: str
    points: tuple[tuple[float, BenchRun], ...]


AXES = {
    "max_concurrency": "requests in flight",
    "request_rate": "requests/s asked for",
}


def sweeps(result: Result) -> Iterator[Sweep]:
    """Yield the sweeps of a result: at least two loads, of runs that are otherwise alike.

    A run with failed requests is no point: what it answered it answered under a smaller load.
    """
    alike: dict[tuple[object, ...], list[BenchRun]] = {}
    for run in result.runs:
        asked = run.parameters
        key: tuple[object, ...] = (
            run.mode,
            asked.dataset,
            asked.modality,
            asked.input_len,
            asked.output_len,
        )
        if run.mode == "serve" and not run.error and not run.metrics.get("failed"):
            alike.setdefault(key, []).append(run)
    for key, runs in alike.items():
        for axis in AXES:
            points = {
                float(level): run
                for run in runs
                if (level := getattr(run.parameters, axis)) and math.isfinite(level)
            }
            if len(points) > 1:
                name = numbers.clean(result.name)
                if len(alike) > 1:
                    name = f"{name}, {key[3]} to {key[4]} tokens"
                yield Sweep(name, axis, tuple(sorted(points.items())))
                break


def saturation(points: Sequence[tuple[float, float]]) -> int:
    """Return the first point from which more load does not pay; the last where it does.

    The rule is the one by which `bench` ends a sweep.
    """
    place = saturated([value for _, value in points], _least_gain())
    return len(points) - 1 if place is None else place


def _least_gain() -> float:
    rules = presets()["sweep"].sweep
    return NOISE if rules is None else rules.least_gain


def _sweeps(results: Sequence[Result]) -> Iterator[Figure]:
    found = [sweep for result in results for sweep in sweeps(result)]
    for axis, words in AXES.items():
        mine = [sweep for sweep in found if sweep.axis == axis]
        drawn = _picked(mine)
        if drawn:
            keys = [Key(sweep.name, colour) for colour, sweep in enumerate(drawn)]
            pictures = [_swept(axis, drawn, *each) for each in _SWEPT]
            notes = [_saturated(sweep) for sweep in drawn]
            if len(drawn) < len(mine):
                notes.append(f"{len(drawn)} of {len(mine)} sweeps are drawn.")
            title = f"Load: by {words}"
            yield Figure(
                title, tuple(keys), tuple(filter(None, pictures)), tuple(filter(None, notes))
            )


def _swept(axis: str, drawn: Sequence[Sweep], metric: str, title: str, unit: str) -> Chart | None:
    series = []
    for colour, sweep in enumerate(drawn):
        points = _values(sweep, metric)
        marked = None
        if metric == "output_throughput" and len(points) > 1:
            marked = saturation(points)
        text = "" if marked is None or colour else _mark(points, marked)
        series.append(Series(sweep.name, points, marked, text, colour=colour))
    notes = [_saturated(sweep) for sweep in drawn] if metric == "output_throughput" else []
    text = " ".join(
        [f"{title} by {AXES[axis]}, for {len(drawn)} sweeps; the table of runs has the figures."]
        + [note for note in notes if note]
    )
    words = Words(
        f"sweep-{axis}-{metric}".replace("_", "-"), title, text, AXES[axis], unit, levels=True
    )
    return charts.xy(words, series)


def _values(sweep: Sweep, metric: str) -> tuple[tuple[float, float], ...]:
    return tuple(
        (level, value)
        for level, run in sweep.points
        if (value := number(run, metric)) is not None and value >= 0
    )


def _mark(points: Sequence[tuple[float, float]], marked: int) -> str:
    level = numbers.plain(points[marked][0])
    return f"highest at {level}" if marked == len(points) - 1 else f"saturated at {level}"


def _saturated(sweep: Sweep) -> str:
    points = _values(sweep, "output_throughput")
    if len(points) < 2:  # noqa: PLR2004 (a curve)
        return ""
    place = saturation(points)
    level, value = points[place]
    figure = numbers.value(value, "tokens/s")
    if place == len(points) - 1:
        return (
            f"{sweep.name}: the throughput still grows at the highest load without failures, "
            f"{numbers.plain(level)}: {figure}."
        )
    return (
        f"{sweep.name}: saturated at {numbers.plain(level)} {AXES[sweep.axis]}: {figure}, and no "
        f"higher load gives {100 * _least_gain():.0f} % more."
    )


def _distributions(results: Sequence[Result]) -> Figure | None:
    many = len(results) > 1
    runs = [
        [
            (numbers.clean(f"{result.name}: {run.label}" if many else run.label), run)
            for run in result.runs
            if any(run.samples.get(name) for name, _, _ in _LATENCIES)
        ]
        for result in results
    ]
    drawn = _side_by_side(runs)
    if not drawn:
        return None
    pictures = [_distribution(drawn, *each) for each in _LATENCIES]
    notes = ["A curve shows which share of the values is at most so large."]
    if len(drawn) < (count := sum(map(len, runs))):
        notes.append(f"{len(drawn)} of {count} runs are drawn; the table has them all.")
    keys = tuple(Key(name, colour) for colour, (name, _) in enumerate(drawn))
    return Figure("Latency", keys, tuple(filter(None, pictures)), tuple(notes))


def _distribution(
    drawn: Sequence[tuple[str, BenchRun]], samples: str, title: str, axis: str
) -> Chart | None:
    series, told = [], []
    for colour, (name, run) in enumerate(drawn):
        values = sorted(v for v in run.samples.get(samples, ()) if math.isfinite(v) and v >= 0)
        if not values:
            continue
        points = tuple((at_share(values, share), share) for share in _SHARES)
        series.append(Series(name, points, dots=False, colour=colour))
        half, most = (numbers.value(at_share(values, at), "ms") for at in (0.5, 0.99))
        told.append(f"{name}: median {half}, 99th percentile {most}.")
    text = " ".join([f"{title}: the share of values that are at most so large.", *told])
    # Some steps take no time at all, where a reply holds several tokens: a logarithm has no
    # place for those, and a thousandth of the middle is nothing.
    middle = max((one.points[len(one.points) // 2][0] for one in series), default=0.0)
    series = [
        Series(
            one.name,
            tuple((max(x, middle / 1000), y) for x, y in one.points),
            dots=False,
            colour=one.colour,
        )
        for one in series
    ]
    words = Words(f"cdf-{samples}".replace("_", "-"), title, text, axis, "share", y_percent=True)
    return charts.xy(words, series)


def _accuracy(own: Sequence[Result], references: Sequence[Result]) -> Figure | None:
    results = [result for result in (*own, *references) if result.scores]
    drawn = _picked(results)
    if not drawn:
        return None
    rows: dict[str, list[Share]] = {}
    for colour, result in enumerate(drawn):
        for one in shown(result.scores):
            if not 0 <= one.score <= 1 or one.num < 1:
                continue
            name = score_name(one)
            found = intervals.share(one.score, one.num)
            low, high = (numbers.value(end, "share") for end in (found.low, found.high))
            middle = numbers.value(one.score, "share")
            text = f"{numbers.clean(result.name)}: {middle} ({low} to {high})"
            rows.setdefault(name, []).append(
                Share(colour, found.low, found.value, found.high, text)
            )
    kept = list(rows.items())[:MOST_ROWS]
    told = " ".join(f"{name}: {'; '.join(s.text for s in sides)}." for name, sides in kept)
    words = Words("accuracy", "Share of questions answered right", told, "score", "")
    picture = charts.shares(words, kept)
    notes = ["The lines are 95 % intervals (Wilson): where another draw of questions may have led."]
    if len(kept) < len(rows):
        notes.append(f"{len(kept)} of {len(rows)} scores are drawn; the table has them all.")
    if len(drawn) < len(results):
        notes.append(f"{len(drawn)} of {len(results)} results are drawn.")
    keys = tuple(Key(numbers.clean(result.name), colour) for colour, result in enumerate(drawn))
    return Figure("Accuracy", keys, (picture,) if picture else (), tuple(notes))


def shown(scores: Sequence[EvalScore]) -> list[EvalScore]:
    """Return the scores without subsets of a dataset that has an overall score."""
    whole = {(one.dataset, one.metric) for one in scores if one.subset == _OVERALL}
    return [
        one for one in scores if one.subset == _OVERALL or (one.dataset, one.metric) not in whole
    ]


def score_name(one: EvalScore) -> str:
    """Return how a score is called: a subset only where there may be others."""
    plain = one.subset.lower() in {"default", "main", _OVERALL.lower()}
    return numbers.clean(one.dataset if plain else f"{one.dataset}, {one.subset}")


def _picked(items: Sequence[_T], most: int = MOST_LINES) -> list[_T]:
    """Return as many as can be drawn, evenly spread over all, the first and last among them."""
    if len(items) <= most:
        return list(items)
    if most == 1:
        return [items[-1]]
    step = (len(items) - 1) / (most - 1)
    return [items[round(step * place)] for place in range(most)]


def _side_by_side(sides: Sequence[Sequence[_T]]) -> list[_T]:
    """Return as many as can be drawn, of each side the same places: they are alike in load."""
    drawn = _picked([side for side in sides if side])
    share = MOST_LINES // max(1, len(drawn))
    return [item for side in drawn for item in _picked(side, share)]
