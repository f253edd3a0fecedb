"""Reports: the page, the text and the document, of whatever a result may hold."""

from __future__ import annotations

import html.parser
import json
import math
import re
from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.testing import CliRunner

from appliance.catalog import references
from appliance.cli.report import report
from appliance.compare.run import compare, find
from appliance.report import charts, numbers, plots, view
from appliance.report.make import make
from appliance.report.view import Material
from appliance.results import files
from appliance.results.model import Model, Result
from tests import made_results as made
from tests.made_results import Asked, Server

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.compare.model import Interval

HOSTILE = "<script>alert(1)</script>\"'&|`*_[x](y)\x00\x1b[31m\u202e\n# {{ 7*7 }} $x$"
app = typer.Typer()
app.command()(report)


def material(*results: Result, against: tuple[str | Result, ...] = ()) -> Material:
    found = [find(one, results[0]) if isinstance(one, str) else one for one in against]
    return Material(
        results, tuple(found), tuple(compare(own, other) for own in results for other in found)
    )


class Page(html.parser.HTMLParser):
    """What is in a page: elements, their ids, attributes and texts."""

    VOID = frozenset({"meta", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def page(found: Material) -> Page:
    text = make(found, "html")
    read = Page(text)
    assert not {"script", "iframe", "object", "img", "form", "base"} & set(read.tags)
    assert len(read.ids) == len(set(read.ids))
    for name, value in read.attributes:
        assert not name.startswith("on")
        assert name not in {"src", "style", "action"}
        assert name != "href" or value == "data:,"
    assert "url(" not in text
    assert "@import" not in text
    for data in read.texts:
        assert not re.search(r"\bnan\b|\binf\b|\bNone\b|Undefined", data), data
    return read


def text_of(found: Material) -> str:
    return " ".join(" ".join(page(found).texts).split())


BENCH = made.bench(made.run(), name="own")
EVERYTHING: dict[str, Material] = {
    "a run against the guide": material(BENCH, against=("guide",)),
    "an evaluation against the guide": material(made.guide_scores(), against=("guide",)),
    "sweeps": material(
        made.sweep(name="new"), against=(made.sweep(Server(most=600), seed=4, name="old"),)
    ),
    "no samples": material(made.bench(made.bare(made.run())), against=("guide",)),
    "one run": material(BENCH),
    "both kinds": material(BENCH, made.guide_scores()),
    "nothing at all": material(),
    "empty results": material(made.bench(), made.evaluation()),
    "only a reference": material(references.reference("guide", "bench")),
    "only references, of both kinds": Material(
        (), (references.reference("guide", "bench"), references.reference("guide", "eval"))
    ),
    "a sweep of one point": material(
        made.bench(made.run(asked=Asked(rate=None, concurrency=8)), name="one")
    ),
    "failed runs": material(
        made.bench(
            made.run(Server(fails=7), label="some"),
            made.run().model_copy(
                update={"metrics": {}, "samples": {}, "error": "no connection", "label": "all"}
            ),
        ),
        against=("guide",),
    ),
    "nothing in common": material(made.sweep(), against=(references.reference("guide", "bench"),)),
}


@pytest.mark.parametrize("name", EVERYTHING)
def test_every_form_of_every_report(name: str) -> None:
    found = EVERYTHING[name]
    page(found)
    text = make(found, "markdown")
    assert text.startswith("# ")
    assert "\n\n\n" not in text
    read = json.loads(make(found, "json"))
    assert set(read) == {"schema_version", "results", "references", "comparisons"}
    assert len(read["results"]) == len(found.results)


def test_the_same_material_gives_the_same_text() -> None:
    for form in ("html", "markdown", "json"):
        assert make(EVERYTHING["sweeps"], form) == make(EVERYTHING["sweeps"], form)


# What it says


def test_a_comparison_is_told_in_full() -> None:
    text = text_of(EVERYTHING["a run against the guide"])
    for part in (
        "own against guide",
        "5 ▲ better 3 = same within noise 8 ○ not comparable",
        "Limited by the arrival rate",
        "It was measured with dummy weights",
        "expert parallel: on against off.",
        "Mean TPOT , ms 50.24 98.96",
        "vllm-ascend documentation, tutorial",
        "TP=2, DP=1, expert parallel on",
        "sha256:" + "ab" * 32,
        "torch 2.11.0, transformers 4.57.6, vllm 0.23.0",
    ):
        assert part in text, part
    # What is wrong with some figures is told once: beside them.
    assert text.count("Its throughput is that of the arrivals") == 1


def test_the_text_says_the_same() -> None:
    text = make(EVERYTHING["a run against the guide"], "markdown")
    line = next(line for line in text.splitlines() if line.startswith("| Mean TPOT, ms"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:3] == ["50.24", "98.96"]
    assert cells[5] == "▲ better"
    # Every table has as many cells in each row as in its head.
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        counts = {len(re.findall(r"(?<!\\)\|", row)) for row in block.splitlines()}
        assert len(counts) == 1, block


def test_the_document_has_no_samples_and_no_secrets() -> None:
    secret = "sk-" + "verysecretvalue"
    system = made.system(
        serve_args=["m", "--api-key", secret], environment={"HF_TOKEN": secret, "A": "b"}
    )
    run = made.run().model_copy(update={"command": ["bench", "--header", f"api-key={secret}"]})
    found = material(made.bench(run, system=system), against=("guide",))
    for form in ("html", "markdown", "json"):
        assert secret not in make(found, form)
    read = json.loads(make(found, "json"))
    assert read["results"][0]["runs"][0]["samples"]["ttft_ms"] == 200
    assert read["comparisons"][0]["counts"]["better"] == 5


@pytest.mark.parametrize(
    ("model", "head"),
    [
        (Model(id=made.MODEL, weights="dummy"), "Dummy weights"),
        (Model(id=made.MODEL), "Weights unknown"),
        (Model(id="tiny-omni", weights="real"), "Test model"),
    ],
)
def test_what_is_not_the_real_thing_says_so(model: Model, head: str) -> None:
    found = material(made.bench(made.run(), system=made.system(model=model)))
    assert head in text_of(found)
    assert f"> **{head.upper()}.**" in make(found, "markdown")
    assert head not in text_of(material(BENCH))


def test_a_reference_with_dummy_weights_is_no_alarm() -> None:
    assert "Dummy weights" not in text_of(EVERYTHING["a run against the guide"])
    assert "Dummy weights" not in text_of(EVERYTHING["only a reference"])


def test_hardware_is_told_as_far_as_it_is_known() -> None:
    inventory = {"npus": [{"name": "910B3"}] * 8, "driver_version": "25.5.2"}
    text = text_of(material(made.bench(made.run(), system=made.system(inventory=inventory))))
    assert "atlas-a2, 8 dies 910B3, driver 25.5.2" in text
    strange: dict[str, Any] = {"npus": ["x"], "product": 3}
    system = made.system(product=None, inventory=strange)
    assert "3, 1 dies" in text_of(material(made.bench(made.run(), system=system)))


def test_many_runs_have_an_overview() -> None:
    found = EVERYTHING["sweeps"]
    text = text_of(found)
    assert "run Requests answered Output throughput Median TTFT Median TPOT" in text
    assert re.search(r"concurrency 256 \+0\.0 points = \+\d\d\.\d % ▲", text)
    assert re.search(r"concurrency 8: (\d+ [a-z ]+,? ?)+ Metric", text)
    assert "| concurrency 256 | +0.0 points = |" in make(found, "markdown")


def test_failed_runs_are_listed() -> None:
    text = text_of(EVERYTHING["failed runs"])
    assert "some : 7 requests failed." in text
    assert "all : no connection" in text


# Strange results


def test_a_stranger_s_words_stay_words() -> None:
    run = made.run(label=HOSTILE).model_copy(update={"command": ["bench", HOSTILE]})
    system = made.system(
        model=Model(id=HOSTILE, weights="real"),
        release=HOSTILE,
        image=HOSTILE,
        versions={HOSTILE: HOSTILE},
        serve_args=[HOSTILE],
        environment={HOSTILE: HOSTILE},
        inventory={"npus": [{"name": HOSTILE}], "driver_version": HOSTILE},
    )
    own = made.bench(run, run, name=HOSTILE, system=system, notes=[HOSTILE], source=HOSTILE)
    other = made.bench(run, name=HOSTILE, system=system)
    scores = made.evaluation(
        made.score(HOSTILE, 0.5, 10, subset=HOSTILE, metric=HOSTILE), name=HOSTILE
    )
    for found in (material(own, against=(other,)), material(scores, against=(scores,))):
        text = make(found, "html")
        assert "<script" not in text
        assert "&lt;script&gt;" in text
        assert "49" not in re.findall(r"\{\{ (\S+) \}\}", text)
        page(found)
        for form in ("html", "markdown"):
            assert not re.search("[\x00\x1b\u202e]", make(found, form))
        markdown = make(found, "markdown")
        assert "<script" not in markdown
        assert not re.search(r"(?<!\\)\[x\]", markdown)
        assert all("alert" not in line for line in markdown.splitlines() if line.startswith("<"))


def test_what_is_no_number_is_no_trouble() -> None:
    run = made.run()
    for value in (math.nan, math.inf, -math.inf, 0.0, -1.0, 1e300, 1e-300):
        strange = run.model_copy(
            update={
                "metrics": dict.fromkeys(run.metrics, value),
                "samples": {name: [value] * 20 for name in run.samples},
            }
        )
        load = [
            strange.model_copy(
                update={
                    "label": str(level),
                    "parameters": run.parameters.model_copy(
                        update={"max_concurrency": level, "request_rate": None}
                    ),
                }
            )
            for level in (1, 2)
        ]
        found = material(made.bench(strange), against=("guide",))
        for one in (found, material(made.bench(*load))):
            page(one)
            json.loads(make(one, "json"), parse_constant=pytest.fail)
        score = made.evaluation(made.score("gsm8k", value, 0))
        page(material(score, against=("guide",)))


def test_hundreds_of_runs_are_a_page_still() -> None:
    runs = [
        made.run(asked=Asked(count=20, output_len=8), seed=seed, label=f"run {seed}")
        for seed in range(300)
    ]
    found = material(made.bench(*runs))
    text = text_of(found)
    assert "6 of 300 runs are drawn" in text
    assert f"{view.MOST_RUNS} of 300 runs." in text
    assert len(make(found, "html")) < 400_000
    many = material(*[made.bench(runs[place], name=f"r{place}") for place in range(9)])
    assert "and 3 more" in text_of(many)
    page(many)


def test_hundreds_of_scores_are_a_page_still() -> None:
    scores = [made.score(f"set{place}", 0.5, 10) for place in range(300)]
    text = text_of(material(made.evaluation(*scores)))
    assert f"{plots.MOST_ROWS} of 300 scores are drawn" in text
    assert f"{view.MOST_SCORES} of 300 scores." in text


def test_a_report_that_can_not_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write(BENCH, tmp_path / "own.json")
    target = tmp_path / "report.html"
    target.write_text("old")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    found = CliRunner().invoke(app, [str(tmp_path / "own.json"), "--force"])
    assert found.exit_code != 0
    assert target.read_text() == "old"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["own.json", "report.html"]


def test_both_kinds_have_one_reference_file(tmp_path: Path) -> None:
    """A reference of one kind is compared with the results of that kind alone."""
    for result, name in ((BENCH, "b.json"), (made.guide_scores(), "e.json")):
        files.write(result, tmp_path / name)
    words = [str(tmp_path / "b.json"), str(tmp_path / "e.json")]
    found = CliRunner().invoke(app, [*words, "--compare", words[0]])
    assert found.exit_code == 0, found.output


# Figures


def test_what_is_drawn() -> None:
    def titles(name: str) -> list[str]:
        found = EVERYTHING[name]
        return [c.id for f in plots.figures(found.results, found.references) for c in f.charts]

    assert titles("a run against the guide") == ["cdf-ttft-ms", "cdf-tpot-ms", "cdf-itl-ms"]
    assert titles("an evaluation against the guide") == ["accuracy"]
    assert titles("sweeps")[:3] == [
        "sweep-max-concurrency-output-throughput",
        "sweep-max-concurrency-median-ttft-ms",
        "sweep-max-concurrency-median-tpot-ms",
    ]
    assert titles("no samples") == []
    assert titles("a sweep of one point")[0] == "cdf-ttft-ms"


def test_the_point_of_saturation_is_marked() -> None:
    assert plots.saturation([(1, 10), (2, 20), (4, 39), (8, 40), (16, 38)]) == 2
    assert plots.saturation([(1, 10), (2, 20)]) == 1
    found = EVERYTHING["sweeps"]
    text = text_of(found)
    assert "new: saturated at 64 requests in flight" in text
    assert "old: saturated at 32 requests in flight" in text
    climbing = made.sweep(Server(most=1e9), name="new")
    assert "still grows at the highest load without failures, 256" in text_of(material(climbing))


def test_the_picture_and_the_sweep_have_one_rule() -> None:
    """By 4 % each: every step is too small to pay, and all together are not."""
    assert plots.saturation([(1, 100), (2, 104), (4, 108), (8, 112)]) == 2
    assert plots.saturation([(1, 100), (2, 190), (4, 300), (8, 305)]) == 2


def test_a_sweep_of_rates() -> None:
    runs = [made.run(asked=Asked(count=50, rate=rate), label=f"{rate}/s") for rate in (1.0, 2.0)]
    assert "Load: by requests/s asked for" in text_of(material(made.bench(*runs)))


def test_runs_that_failed_are_no_points() -> None:
    sweep = made.sweep(name="new")
    last = sweep.runs[-1].model_copy(update={"metrics": {**sweep.runs[-1].metrics, "failed": 3.0}})
    (found,) = plots.sweeps(sweep.model_copy(update={"runs": [*sweep.runs[:-1], last]}))
    assert [level for level, _ in found.points] == [2**k for k in range(8)]


def test_both_sides_are_drawn_at_the_same_loads() -> None:
    found = EVERYTHING["sweeps"]
    keys = next(
        figure.keys
        for figure in plots.figures(found.results, found.references)
        if figure.title == "Latency"
    )
    levels = [key.name.partition(": ")[2] for key in keys]
    assert levels[:3] == levels[3:] == ["concurrency 1", "concurrency 16", "concurrency 256"]


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (0, 0), (5, 5), (-3, 3), (0, 1e-9), (1e6, 3e7), (99.1, 101.9), (0, 1e300)],
)
def test_linear_axes_enclose_their_values(low: float, high: float) -> None:
    labels = charts.linear(low, high)
    places = [place for place, _ in labels]
    assert 2 <= len(labels) <= 8
    assert places == sorted(places)
    assert places[0] <= low + 1e-9
    assert places[-1] >= high * (1 - 1e-9)
    assert len({text for _, text in labels}) == len(labels)


@pytest.mark.parametrize(
    ("low", "high"), [(1, 100), (0.001, 1e6), (95, 1300), (1e-9, 1e9), (2, 2.1), (100, 1000)]
)
def test_logarithmic_axes_enclose_their_values(low: float, high: float) -> None:
    labels = charts.logarithmic(low, high)
    places = [place for place, _ in labels]
    assert 2 <= len(labels) <= 7
    assert places[0] <= low * (1 + 1e-9)
    assert places[-1] >= high * (1 - 1e-9)


@pytest.mark.parametrize("name", EVERYTHING)
def test_everything_lies_inside_its_chart(name: str) -> None:
    found = EVERYTHING[name]
    for figure in plots.figures(found.results, found.references):
        for chart in figure.charts:
            assert chart.text
            for line in chart.lines:
                for pair in line.path.split():
                    x, y = map(float, pair.split(","))
                    assert chart.left <= x <= chart.right
                    assert 0 <= y <= chart.bottom
            for whisker in chart.whiskers:
                assert chart.left <= whisker.low <= whisker.x <= whisker.high <= chart.right
            for tick in (*chart.x_ticks, *chart.y_ticks):
                assert len(tick.text) <= 7


# Numbers


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0.94, "0.9400"),
        (215.5, "215.5"),
        (12345.6, "12,346"),
        (120.81, "120.8"),
        (0.0001234, "0.0001234"),
        (1.5e-9, "1.500e\u221209"),
        (-3.25, "\u22123.250"),
        (1e300, "1.000e+300"),
        (200.0, "200"),
        (0.0, "0"),
        (math.nan, numbers.NONE),
    ],
)
def test_numbers(number: float, shown: str) -> None:
    assert numbers.plain(number) == shown


@pytest.mark.parametrize(
    ("low", "high", "unit", "shown"),
    [
        (-20.123, 3.2, "ms", "\u221220.1 to +3.20"),
        (-0.0811, 0.09, "share", "\u22128.1 to +9.0 points"),
        (1.0, None, "ms", "+1 to unbounded"),
        (None, None, "ms", "unbounded"),
    ],
)
def test_intervals(low: float | None, high: float | None, unit: str, shown: str) -> None:
    from appliance.compare.model import Interval as Made

    found: Interval = Made(low, high)
    assert numbers.interval(found, unit) == shown


def test_texts() -> None:
    assert numbers.clean("a\tb\nc\x00\x7f\u202ed") == "a b cd"
    assert len(numbers.clean("x" * 10_000)) == numbers.LONGEST + 1
    assert numbers.shortened("中文中文", 5) == "中文…"
    assert numbers.shortened("short", 5) == "short"


# The command


@pytest.fixture
def results(tmp_path: Path) -> Path:
    files.write(BENCH, tmp_path / "one" / files.NAME)
    files.write(made.bench(made.run(seed=3), name="two"), tmp_path / "two.json")
    files.write(made.guide_scores(), tmp_path / "scores.json")
    return tmp_path


def called(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return done.stdout


def test_the_page_lies_beside_the_first_result(results: Path) -> None:
    out = called(results / "one", results / "scores.json", "--compare", "guide")
    file = results / "one" / "report.html"
    assert out == f"{file}\n"
    Page(file.read_text("utf-8"))
    called(results / "one" / "result.json", "--format", "markdown")
    assert (results / "one" / "report.md").read_text("utf-8").startswith("# Benchmark report")


def test_a_report_that_differs_is_not_overwritten(results: Path) -> None:
    place = results / "page.html"
    one, two = results / "one", results / "two.json"
    assert json.loads(called(one, "-o", place, "--json")) == {"file": str(place), "changed": True}
    assert json.loads(called(one, "-o", place, "--json"))["changed"] is False
    before = place.read_bytes()
    error = json.loads(called(two, "-o", place, "--json", code=87))
    assert error["error"]["id"] == "file-differs"
    assert place.read_bytes() == before
    called(two, "-o", place, "--force")
    assert place.read_bytes() != before


def test_stdout_is_for_those_who_ask(results: Path) -> None:
    printed = called(
        results / "two.json", "--compare", results / "one", "-o", "-", "--format", "json"
    )
    read = json.loads(printed)
    assert read["comparisons"][0]["reference"] == "own"
    wrapped = json.loads(called(results / "one", "-o", "-", "--json"))
    assert wrapped["text"].startswith("\n<!DOCTYPE html>") or "<!DOCTYPE html>" in wrapped["text"]


def test_what_can_not_be_read_compared_or_written(results: Path) -> None:
    (results / "bad.json").write_text("{", encoding="utf-8")
    assert "result-invalid" in called(results / "bad.json", "--json", code=94)
    assert "result-invalid" in called(results / "one", "--compare", "nobody", "--json", code=94)
    other = ("--compare", results / "scores.json", "--json")
    assert "nothing in common" in called(results / "one", *other, code=94)
    place = results / "two.json" / "page.html"
    assert "file-not-written" in called(results / "one", "-o", place, "--json", code=89)
