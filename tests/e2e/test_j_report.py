"""The report in a real browser: alone on the network, whole at every width, light and dark.

What it looked like is in `reports/`.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from appliance.results import files
from appliance.results.model import Model
from tests import made_results as made
from tests.e2e import browser as browsers
from tests.e2e.conftest import ROOT
from tests.made_results import Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

browser = browsers.browser

REPORTS = ROOT / "reports"
# The command as `appliance report` runs it.
COMMAND = "import typer; from appliance.cli.report import report; typer.run(report)"
WIDTHS = {"desk": 1280, "phone": 400}
LONG_NAME = "eine-sehr-lange-bezeichnung-" * 6
HOSTILE = "<script>document.title='broken'</script><img src=x onerror=alert(1)>"

# Where each text of a chart is on the screen, and the box that it must stay in.
CHARTS = """() => [...document.querySelectorAll('svg.chart')].map(svg => {
  const box = r => ({left: r.left, top: r.top, right: r.right, bottom: r.bottom});
  const texts = [...svg.querySelectorAll('text')].filter(t => t.textContent);
  return {
    label: svg.querySelector('title').textContent,
    described: !!svg.querySelector('desc').textContent,
    box: box(svg.getBoundingClientRect()),
    drawn: svg.querySelectorAll('polyline, .whisker').length,
    size: Math.min(...texts.map(t => t.getBoundingClientRect().height)),
    texts: texts.map(t => ({text: t.textContent, ...box(t.getBoundingClientRect())})),
  };
})"""
# Elements that stick out of the page. What scrolls inside its own box may be wider than it.
OUTSIDE = """() => [...document.querySelectorAll('main *')]
  .filter(e => !e.closest('.scroll') || e.matches('.scroll'))
  .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map(e => e.outerHTML.slice(0, 200))"""
# The contrast of each text with what is behind it, as WCAG computes it; the lowest of all.
CONTRAST = """() => {
  const rgb = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => { const [r, g, b] = rgb(c).map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (rgb(c)[3] !== 0 && c !== 'transparent') return c; }
    return 'rgb(255, 255, 255)'; };
  const found = [...document.querySelectorAll('main *')]
    .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
    .filter(e => !['title', 'desc'].includes(e.tagName) && e.getClientRects().length)
    .map(e => { const style = getComputedStyle(e);
      const ink = light(e instanceof SVGElement ? style.fill : style.color);
      const paper = light(behind(e));
      return [(Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05), e.outerHTML]; });
  found.sort((a, b) => a[0] - b[0]);
  return found[0];
}"""


@dataclass(frozen=True)
class Case:
    """Results that are reported together, and how many charts that gives."""

    results: tuple[Any, ...]
    references: tuple[Any, ...]
    charts: int


def cases() -> dict[str, Case]:
    tiny = made.system(model=Model(id="tiny-omni", weights="dummy"), release=HOSTILE)
    hostile = made.run(label=LONG_NAME)
    return {
        "guide": Case((made.bench(made.run(), name="guide-2026-11-20"),), ("guide",), 3),
        "eval": Case((made.guide_scores(),), ("guide",), 1),
        "sweep": Case(
            (made.sweep(name="sweep v0.23.0"),),
            (made.sweep(Server(most=700).slower(1.1), seed=9, name="sweep v0.22.1"),),
            6,
        ),
        "strange": Case(
            (
                made.bench(hostile, hostile, name=HOSTILE, system=tiny),
                made.evaluation(made.score(LONG_NAME, 0.5, 10, subset="中文" * 40), name="中文"),
            ),
            (made.bench(made.run(label=LONG_NAME, seed=2), name=LONG_NAME),),
            4,
        ),
        "empty": Case((made.bench(),), (), 0),
    }


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pages, as the command writes them."""
    folder = tmp_path_factory.mktemp("report")
    pages = {}
    for name, case in cases().items():
        words: list[str] = []
        for place, result in enumerate(case.results):
            files.write(result, folder / name / f"own{place}" / files.NAME)
            words.append(str(folder / name / f"own{place}"))
        for place, reference in enumerate(case.references):
            file = folder / name / f"reference{place}.json"
            if reference != "guide":
                files.write(reference, file)
            words += ["--compare", reference if reference == "guide" else str(file)]
        page = folder / name / "page.html"
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, *words, "-o", str(page)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{page}\n"
        pages[name] = page
    return pages


@dataclass
class Opened:
    """A page that is open, and what it asked for and complained of."""

    page: Page
    requests: list[str]
    complaints: list[str]


@pytest.fixture
def opened(
    browser: Browser, reported: dict[str, Path], request: pytest.FixtureRequest
) -> Iterator[Opened]:
    """A page in a window of a width and a colour scheme: (name, width, scheme)."""
    name, width, scheme = request.param
    context = browser.new_context(
        viewport={"width": WIDTHS[width], "height": 900},
        color_scheme=scheme,
        device_scale_factor=2 if width == "phone" else 1,
        offline=True,
    )
    page = context.new_page()
    found = Opened(page, [], [])
    page.on("request", lambda one: found.requests.append(one.url))
    page.on("console", lambda one: found.complaints.append(one.text))
    page.on("pageerror", lambda one: found.complaints.append(str(one)))
    page.on("dialog", lambda one: found.complaints.append(one.message))
    page.goto(reported[name].as_uri(), wait_until="networkidle")
    yield found
    context.close()


EACH = [
    (name, width, scheme) for name in cases() for width in WIDTHS for scheme in ("light", "dark")
]
each = pytest.mark.parametrize("opened", EACH, ids="-".join, indirect=True)


def overlap(a: dict[str, float], b: dict[str, float]) -> bool:
    """Tell whether two texts lie on each other, by more than their empty margins."""
    width = min(a["right"], b["right"]) - max(a["left"], b["left"])
    height = min(a["bottom"], b["bottom"]) - max(a["top"], b["top"])
    return width > 1 and height > 4


@each
def test_a_page_is_whole(opened: Opened, request: pytest.FixtureRequest) -> None:
    page = opened.page
    name, width, scheme = request.node.callspec.params["opened"]
    REPORTS.mkdir(exist_ok=True)
    picture = page.screenshot(full_page=True, path=REPORTS / f"{name}-{width}-{scheme}.png")

    # Alone: one request, which is the file.
    assert opened.requests == [page.url]
    assert opened.complaints == []
    assert page.title() != "broken"
    assert page.evaluate("document.scripts.length") == 0

    # Nothing sticks out at the side.
    assert page.evaluate("document.documentElement.scrollWidth") == WIDTHS[width]
    assert page.evaluate(OUTSIDE) == []

    charts = page.evaluate(CHARTS)
    assert len(charts) == cases()[name].charts
    for chart in charts:
        check(chart, WIDTHS[width])

    # Not blank, and in the colours that were asked for: a corner is paper, and there is ink.
    colours = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colours == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 24, 29)")
    assert len(picture) > 10_000
    lowest, element = page.evaluate(CONTRAST)
    assert lowest >= 4.5, element


def check(chart: dict[str, Any], width: int) -> None:
    """A chart is to be seen, described, and all of its texts are in it and apart."""
    box = chart["box"]
    assert chart["described"]
    assert chart["drawn"] > 0
    assert box["right"] - box["left"] > min(300, 0.8 * width)
    assert box["bottom"] - box["top"] > 80
    assert 0 <= box["left"] < box["right"] <= width
    # 10 px letters, with the line's height around them.
    assert chart["size"] >= 12
    for text in chart["texts"]:
        inside = box["left"] - 1 <= text["left"] and text["right"] <= box["right"] + 1
        inside = inside and box["top"] - 1 <= text["top"] and text["bottom"] <= box["bottom"] + 1
        assert inside, (chart["label"], text, box)
    for place, one in enumerate(chart["texts"]):
        for other in chart["texts"][place + 1 :]:
            assert not overlap(one, other), (chart["label"], one["text"], other["text"])


@pytest.mark.parametrize(
    "opened", [("guide", "desk", "light"), ("eval", "phone", "dark")], ids="-".join, indirect=True
)
def test_the_picture_is_not_blank(opened: Opened) -> None:
    """Each chart's own picture has its lines' colours in it."""
    page = opened.page
    for chart in page.query_selector_all("svg.chart"):
        drawn = len(chart.screenshot())
        page.evaluate("(e) => [...e.children].forEach(c => c.remove())", chart)
        assert drawn > 3 * len(chart.screenshot())


@pytest.mark.parametrize("opened", [("strange", "desk", "light")], ids="-".join, indirect=True)
def test_dummy_weights_can_not_be_overlooked(opened: Opened) -> None:
    page = opened.page
    heads = [banner.inner_text() for banner in page.query_selector_all(".banner strong")]
    assert heads == ["TEST MODEL", "DUMMY WEIGHTS"]
    box = page.locator(".banner").first.bounding_box()
    assert box is not None
    # On the first screen, and as wide as the page.
    assert box["y"] + box["height"] < 900
    assert box["width"] > 1000


@pytest.mark.parametrize("opened", [("sweep", "desk", "light")], ids="-".join, indirect=True)
def test_it_prints(opened: Opened) -> None:
    printed = opened.page.pdf(path=REPORTS / "sweep.pdf", format="A4")
    assert printed.startswith(b"%PDF-")
    assert len(printed) > 20_000
