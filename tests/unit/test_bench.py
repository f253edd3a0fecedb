"""`appliance bench` without an engine: presets, what vLLM is told, its answers, the document."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import io
import itertools
import json
import math
import shlex
import sys
import threading
import time
import wave
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from appliance.bench import arguments, figures, run, subject, sweep
from appliance.bench import client as bench_client
from appliance.bench.arguments import Changes, Server
from appliance.bench.subject import Subject
from appliance.catalog.bench import Load, Media, Sweep, presets
from appliance.cli import bench as command
from appliance.cli import bench_view
from appliance.cli.run import complain
from appliance.config.model import Config
from appliance.engine.docker import ContainerState
from appliance.errors import ERRORS, ApplianceError
from appliance.inside import bench as inside
from appliance.inside import client
from appliance.inventory.model import Inventory
from appliance.jobs import server, systems
from appliance.jobs.kept import KeptError
from appliance.jobs.server import Elsewhere, Served
from appliance.lifecycle.progress import Progress
from appliance.plan import names
from appliance.plan.make import make
from appliance.plan.model import Mount
from appliance.results import files
from appliance.results.model import BenchParameters, BenchRun, Model, System

if TYPE_CHECKING:
    from collections.abc import Iterator

    from appliance.bench.arguments import Order
    from appliance.plan.model import Container

MODEL = "Qwen/Qwen3-Omni-30B-A3B-Thinking"
SERVER = Server("http://127.0.0.1:8000", MODEL, "/models/it")
# The guide's line, section Performance, without where it writes.
GUIDE = (
    "vllm bench serve --model $MODEL --dataset-name random --random-input 200 --num-prompt 200 "
    "--request-rate 1 --save-result"
)
TEXT = Load("text", 200, 128, num_prompts=4)


def value(words: tuple[str, ...], option: str) -> str:
    """What follows an option that stands once."""
    assert words.count(option) == 1, option
    return words[words.index(option) + 1]


# Presets and flags


def test_the_presets_are_those_that_the_help_names() -> None:
    assert set(presets()) == {"guide", "sweep", "multimodal", "latency", "throughput"}
    help_text = Path(command.__file__).read_text(encoding="utf-8")
    assert "guide, sweep, multimodal, latency or throughput." in help_text


def test_the_guides_line_stands_in_its_preset_word_for_word() -> None:
    order = arguments.serve(presets()["guide"].loads[0], SERVER, 0)
    assert shlex.join(("vllm", *order.arguments)).startswith(GUIDE.replace("$MODEL", MODEL))


def test_the_guides_arguments_exactly() -> None:
    order = arguments.serve(presets()["guide"].loads[0], SERVER, 0)
    salt = json.loads(value(order.arguments, "--extra-body"))
    assert list(salt) == ["cache_salt"]
    assert [word for word in order.arguments if word != json.dumps(salt)] == [
        "bench", "serve", "--model", MODEL, "--dataset-name", "random", "--random-input", "200",
        "--num-prompt", "200", "--request-rate", "1", "--save-result", "--random-output-len", "128",
        "--ignore-eos", "--seed", "0", "--base-url", "http://127.0.0.1:8000", "--tokenizer",
        "/models/it", "--extra-body", "--ready-check-timeout-sec", "0", "--percentile-metrics",
        "ttft,tpot,itl,e2el", "--save-detailed", "--result-dir", "/tmp/work/bench",
        "--result-filename", "guide.json",
    ]  # fmt: skip
    assert order.client is None


def test_the_prefix_cache_knows_no_run_from_another() -> None:
    salts = {value(arguments.serve(TEXT, SERVER, 0).arguments, "--extra-body") for _ in range(9)}
    assert len(salts) == 9


def test_the_media_are_what_the_preset_says() -> None:
    image, audio, video, mixed = presets()["multimodal"].loads
    found = {load.label: arguments.serve(load, SERVER, 7) for load in (image, audio, video, mixed)}
    assert value(found["image"].arguments, "--random-mm-bucket-config") == "{(720, 1280, 1): 1.0}"
    assert value(found["video"].arguments, "--random-mm-bucket-config") == "{(360, 640, 16): 1.0}"
    both = value(found["mixed"].arguments, "--random-mm-bucket-config")
    assert both == "{(720, 1280, 1): 0.5, (360, 640, 16): 0.5}"
    assert value(found["mixed"].arguments, "--random-mm-base-items-per-request") == "2"
    limits = json.loads(value(found["mixed"].arguments, "--random-mm-limit-mm-per-prompt"))
    assert limits == {"image": 1, "video": 1}
    assert value(found["audio"].arguments, "--dataset-name") == "random"
    for label in ("audio", "mixed"):
        assert found[label].client == {"sound": {"seconds": 10, "seed": 7}}
    assert found["image"].client is None
    for order in found.values():
        assert value(order.arguments, "--endpoint") == "/v1/chat/completions"
    told = [arguments.parameters("serve", load, 7) for load in (image, audio, video, mixed)]
    assert [one.modality for one in told] == ["image", "audio", "video", "mixed"]
    assert told[3].dataset == "random-mm + image 720x1280 + video 360x640x16 + sound 10 s"


def test_latency_and_throughput_exactly() -> None:
    latency = arguments.offline("latency", presets()["latency"].loads[0], ("/m", "--x"), 3)
    assert latency.arguments == (
        "bench", "latency", "--input-len", "200", "--output-len", "128", "--batch-size", "8",
        "--num-iters", "15", "--num-iters-warmup", "5", "--no-enable-prefix-caching",
        "--seed", "3", "--output-json", "/tmp/work/bench/latency.json",
    )  # fmt: skip
    assert latency.client == {"engine": ["/m", "--x"]}
    offline = arguments.offline("throughput", presets()["throughput"].loads[0], ("/m",), 0)
    assert offline.arguments == (
        "bench", "throughput", "--input-len", "200", "--output-len", "128", "--dataset-name",
        "random", "--num-prompts", "200", "--random-input-len", "200", "--random-output-len", "128",
        "--seed", "0", "--output-json", "/tmp/work/bench/throughput.json",
    )  # fmt: skip


def test_flags_win_over_the_preset() -> None:
    changes = Changes(num_prompts=5, input_len=6, output_len=7, request_rate=2.5, max_concurrency=8)
    for name in ("guide", "multimodal"):
        for load in arguments.changed(name, changes).loads:
            words = arguments.serve(load, SERVER, 9).arguments
            assert value(words, "--num-prompt") == "5"
            assert value(words, "--random-input") == "6"
            assert value(words, "--random-output-len") == "7"
            assert value(words, "--request-rate") == "2.5"
            assert value(words, "--max-concurrency") == "8"
            assert value(words, "--seed") == "9"
    changed = arguments.changed("guide", Changes(request_rate=math.inf)).loads[0]
    assert changed.request_rate is None
    assert value(arguments.serve(changed, SERVER, 0).arguments, "--request-rate") == "inf"
    latency = arguments.changed("latency", Changes(batch_size=2, num_iters=3)).loads[0]
    assert (latency.batch_size, latency.num_iters) == (2, 3)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("guide", Changes(batch_size=1), "--batch-size"),
        ("sweep", Changes(num_iters=1), "--num-iters"),
        ("latency", Changes(num_prompts=1, request_rate=1), "--num-prompts, --request-rate"),
        ("throughput", Changes(max_concurrency=1), "--max-concurrency"),
        ("speed", Changes(), "guide, sweep, multimodal, latency, throughput"),
    ],
)
def test_a_flag_without_effect_is_refused(name: str, changes: Changes, words: str) -> None:
    with pytest.raises(ApplianceError, match=words) as refused:
        arguments.changed(name, changes)
    assert refused.value.id == "input-invalid"


def test_seeds() -> None:
    image = presets()["multimodal"].loads[0]
    assert arguments.seed_of(TEXT, Changes()) == 0
    assert (
        arguments.seed_of(TEXT, Changes(seed=4)) == arguments.seed_of(image, Changes(seed=4)) == 4
    )
    assert len({arguments.seed_of(image, Changes()) for _ in range(9)}) == 9
    before = arguments.warm_up(dataclasses.replace(TEXT, warm_up=3))
    assert (before.num_prompts, before.fresh_seed) == (3, True)


@pytest.mark.parametrize("text", ["0", "-1", "fast", "nan"])
def test_a_rate_is_a_number_above_0(text: str) -> None:
    with pytest.raises(Exception, match="neither a number above 0 nor inf"):
        command._rate(text)


def test_a_rate_may_be_infinite() -> None:
    assert command._rate("inf") == math.inf


# Sweeps

RULES = Sweep(highest=64, least_gain=0.05, prompts_per_request=4)


def level(concurrency: int, throughput: float, **more: Any) -> BenchRun:
    asked = BenchParameters(dataset="random", max_concurrency=concurrency)
    figures_of = {"output_throughput": throughput, **more.pop("metrics", {})}
    return BenchRun(
        label=f"concurrency {concurrency}",
        mode="serve",
        parameters=asked,
        metrics=figures_of,
        **more,
    )


@pytest.mark.parametrize(
    ("highest", "most", "expected"),
    [
        (8, None, [1, 2, 4, 8]),
        (6, None, [1, 2, 4, 6]),
        (1, None, [1]),
        # One point beyond what the server takes at a time, and no more.
        (256, 4, [1, 2, 4, 8]),
        (256, 100, [1, 2, 4, 8, 16, 32, 64, 128]),
        (4, 100, [1, 2, 4]),
        # What was asked for is measured, unless that is far beyond the server.
        (100, 256, [1, 2, 4, 8, 16, 32, 64, 100]),
        (8, 4, [1, 2, 4, 8]),
        (9, 4, [1, 2, 4, 8]),
    ],
)
def test_the_points_of_a_sweep(highest: int, most: int | None, expected: list[int]) -> None:
    assert sweep.levels(dataclasses.replace(RULES, highest=highest), most) == expected


def test_a_point_has_prompts_enough() -> None:
    load = dataclasses.replace(TEXT, num_prompts=32)
    points = [sweep.point(load, RULES, level) for level in (1, 8, 16)]
    assert [(one.num_prompts, one.max_concurrency) for one in points] == [
        (32, 1), (32, 8), (64, 16),
    ]  # fmt: skip


def test_a_sweep_goes_on_while_more_requests_bring_more_tokens() -> None:
    runs = [level(1, 100), level(2, 195), level(4, 300)]
    assert sweep.over(runs[:1], RULES) is None
    assert sweep.over(runs[:2], RULES) is None
    assert sweep.over(runs, RULES) is None
    end = sweep.unsaturated(runs)
    assert end is not None
    assert end.concurrency is None
    assert run.told(end) == "Not saturated: 4 requests in flight still bring +53.8 % tokens/s."
    assert sweep.unsaturated(runs[:1]) is None


def test_a_sweep_ends_where_they_bring_none() -> None:
    for last, change in ((312.0, "+4.0 %"), (290.0, "-3.3 %")):
        end = sweep.over([level(4, 250), level(8, 300), level(16, last)], RULES)
        assert end is not None
        assert (end.concurrency, end.throughput) == (8, 300)
        assert change in end.reason
        assert "Saturated at 8 requests in flight (300.0 tokens/s)" in run.told(end)


def test_a_sweep_ends_where_requests_fail() -> None:
    end = sweep.over([level(1, 100), level(2, 190, metrics={"failed": 3.0})], RULES)
    assert end is not None
    assert (end.outcome, end.concurrency) == ("failed", 1)
    assert run.told(end) == (
        "Ended by failures, at 2 requests in flight: 3 requests failed. "
        "The most without: 1 (100.0 tokens/s)."
    )
    end = sweep.over([level(1, 0, error="no answer")], RULES)
    assert end is not None
    assert end.concurrency is None


# What vLLM answers

RAW: dict[str, Any] = {
    "date": "20261122-180118", "backend": "openai", "label": None, "num_prompts": 3,
    "request_rate": 5.0, "burstiness": 1.0, "max_concurrency": None, "duration": 4.0,
    "completed": 2, "failed": 1, "total_input_tokens": 400, "total_output_tokens": 5,
    "request_throughput": 0.5, "request_goodput": None, "output_throughput": 1.25,
    "total_token_throughput": 101.25, "input_lens": [200, 200, 0], "output_lens": [4, 1, 0],
    "ttfts": [0.5, 0.25, 0.0], "itls": [[0.1, 0.2, 0.3], [], []], "start_times": [1.0, 2.0, 3.0],
    "errors": ["", "", "Service Unavailable"], "max_output_tokens_per_s": 3.0,
    "max_concurrent_requests": 2, "rtfx": 0.0, "mean_ttft_ms": 375.0, "median_ttft_ms": 375.0,
    "std_ttft_ms": 125.0, "p99_ttft_ms": 497.5,
}  # fmt: skip
ASKED = BenchParameters(dataset="random")


def answered(raw: dict[str, Any]) -> BenchRun:
    return figures.run("it", "serve", ASKED, ["bench", "serve"], {"raw": raw})


def test_metrics_have_vllms_own_names() -> None:
    found = answered(RAW)
    assert found.error is None
    assert set(found.metrics) == {
        "duration", "completed", "failed", "total_input_tokens", "total_output_tokens",
        "request_throughput", "output_throughput", "total_token_throughput", "rtfx",
        "max_output_tokens_per_s", "max_concurrent_requests", "mean_ttft_ms", "median_ttft_ms",
        "std_ttft_ms", "p99_ttft_ms",
    }  # fmt: skip
    assert found.metrics["output_throughput"] == 1.25


def test_samples_are_of_the_answered_requests_in_their_order() -> None:
    samples = answered(RAW).samples
    assert samples["ttft_ms"] == [500.0, 250.0]
    assert samples["tpot_ms"] == pytest.approx([200.0])
    assert samples["itl_ms"] == pytest.approx([100.0, 200.0, 300.0])
    assert samples["e2el_ms"] == pytest.approx([1100.0, 250.0])


def test_a_request_that_came_to_nothing_is_no_sample() -> None:
    """As vLLM has one that it never got to: neither tokens, nor times, nor an error."""
    columns = {"ttfts": [0.5, 0.0, 0.0], "itls": [[], [], []], "output_lens": [1, 0, 1]}
    samples = answered({**RAW, **columns, "errors": ["", "", ""]}).samples
    assert samples["ttft_ms"] == [500.0, 0.0]
    assert len(samples["e2el_ms"]) == 2


def test_requests_that_fail_are_counted_with_their_reason() -> None:
    assert figures.failures(RAW) == "1 requests failed, the first with: Service Unavailable"
    assert figures.failures({**RAW, "failed": 0}) is None


def test_a_server_that_refuses_all_is_an_error() -> None:
    trace = "Traceback (most recent call last):\n  File x\naiohttp.ClientError: it went away\n"
    refused = answered({**RAW, "completed": 0, "failed": 3, "errors": [trace, trace, ""]})
    assert refused.error == (
        "No request was answered. 3 requests failed, the first with: aiohttp.ClientError: "
        "it went away"
    )
    assert refused.metrics == {"completed": 0, "failed": 3}
    assert refused.samples == {}


def test_what_a_server_says_can_not_steer_a_terminal(
    measure: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {**RAW, "errors": ["", "", "\x1b]0;owned\x07\x1b[2J no"]}
    assert "\x1b" not in str(figures.failures(bad))
    outcome, _ = measure("guide", {"raw": bad})
    outcome.result.notes.append("\x1b[31m of the server")
    bench_view.table(outcome)
    complain(ApplianceError("job-failed", "first\n\x1b[2Jsecond"))
    told = capsys.readouterr()
    assert "\x1b" not in told.out + told.err
    assert "first\n[2Jsecond" in told.err


def test_a_command_with_the_operators_arguments_is_kept_without_secrets() -> None:
    words = ["bench", "latency", "--hf-token", "hf_abcdefghijkl", "--seed", "0"]
    found = figures.run("latency", "latency", ASKED, words, {"raw": {"avg_latency": 1.0}})
    assert "hf_abcdefghijkl" not in json.dumps(found.command)
    assert found.command[-2:] == ["--seed", "0"]


def test_a_benchmark_that_fails_says_why() -> None:
    log = "INFO 11-22 18:01:11 [a.py:1] hello\nValueError: Unknown dataset: random-mm"
    answer = {"status": 1, "log": log, "late": False}
    failed = figures.run("it", "serve", ASKED, [], answer)
    assert failed.error is not None
    assert "exit status 1: ValueError: Unknown dataset: random-mm" in failed.error
    late = figures.run("it", "serve", ASKED, [], {"status": -9, "log": "", "late": True})
    assert late.error == "It did not end in its time, and was ended."


def test_latency_and_throughput_have_their_own_figures() -> None:
    raw = {"avg_latency": 1.5, "latencies": [1.0, 2.0], "percentiles": {"50": 1.5, "99": 1.99}}
    found = figures.run("latency", "latency", ASKED, ["a"], {"raw": raw, "command": ["b"]})
    assert found.metrics == {"avg_latency": 1.5, "p50_latency": 1.5, "p99_latency": 1.99}
    assert found.samples == {"latency_ms": [1000.0, 2000.0]}
    assert found.command == ["b"], "what was run, and not what was asked"
    raw = {"elapsed_time": 2.0, "num_requests": 4, "requests_per_second": 2.0}
    found = figures.run("throughput", "throughput", ASKED, [], {"raw": raw})
    assert found.metrics["requests_per_second"] == 2.0


# The work as a whole, with a container that is none


def plan_of(**more: Any) -> Container:
    config = Config(platform="cpu", **more)
    return make(config, Inventory("none"), "/host/models").container


class Answers:
    """A container that answers each order from a list; an exception is raised."""

    versions = {"vllm": "0.23.0"}  # noqa: RUF012

    def __init__(self, *answers: Any) -> None:
        self.answers = itertools.chain(answers, itertools.repeat(answers[-1]))
        self.orders: list[Order] = []
        self.keys: list[str | None] = []
        self.patience = 0.0

    def perform(self, order: Order, key: str | None, timeout: float) -> Any:
        assert timeout > 0
        self.orders.append(order)
        self.keys.append(key)
        answer = next(self.answers)
        if isinstance(answer, BaseException):
            raise answer
        return answer


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Measure a made-up server that gives these answers; return the outcome and the orders."""

    def go(preset: str, *answers: Any, changes: Changes | None = None, **more: Any) -> Any:
        fake = Answers(*answers)

        @contextmanager
        def ready(*_: Any, patience: float, **__: Any) -> Iterator[Answers]:
            fake.patience = patience
            yield fake

        told = System(model=Model(id="tiny-omni", weights="real"), serve_args=["/models/it"])
        about = Subject(
            **{"system": told, "job": SimpleNamespace(name="it"), "server": SERVER, **more}
        )
        monkeypatch.setattr(bench_client, "ready", ready)
        monkeypatch.setattr(subject, "own", lambda _: about)
        wanted = run.Wanted(preset, changes or Changes(), output=tmp_path / "results")
        return run.perform(Config(), wanted, Progress(quiet=True)), fake

    return go


def test_the_document_is_written_with_vllms_own_beside_it(measure: Any) -> None:
    outcome, fake = measure("guide", {"raw": {**RAW, "failed": 0}}, notes=("so it is",))
    assert outcome.error is None
    assert [file.name for file in sorted(outcome.folder.iterdir())] == ["guide.json", "result.json"]
    document = files.read(outcome.folder)
    assert document == outcome.result
    assert (document.kind, document.preset, document.name) == (
        "bench", "guide", outcome.folder.name,
    )  # fmt: skip
    assert document.started is not None
    assert document.started.endswith("Z")
    assert document.system.versions == {"vllm": "0.23.0"}
    assert document.notes == ["so it is"]
    [found] = document.runs
    assert found.command == list(fake.orders[0].arguments)
    assert found.parameters == arguments.parameters("serve", presets()["guide"].loads[0], 0)
    assert json.loads((outcome.folder / "guide.json").read_text())["completed"] == 2


def test_the_container_has_its_time_to_get_ready(measure: Any) -> None:
    from appliance.config.model import Timeouts

    _, fake = measure("guide", {"raw": RAW})
    assert fake.patience == Timeouts().ready


def test_no_result_takes_the_place_of_another(measure: Any) -> None:
    folders = {measure("guide", {"raw": RAW})[0].folder for _ in range(3)}
    assert len(folders) == 3


def test_some_requests_that_fail_are_told_and_are_an_exit_status(measure: Any) -> None:
    outcome, _ = measure("guide", {"raw": RAW})
    assert outcome.error.id == "partly-failed"
    assert "1 requests failed, the first with: Service Unavailable" in outcome.error.message
    assert outcome.result.notes == ["guide: 1 requests failed, the first with: Service Unavailable"]


def test_one_run_that_fails_leaves_the_others(measure: Any) -> None:
    good, bad = (
        {"raw": {**RAW, "failed": 0}},
        {"status": 2, "log": "error: no video", "late": False},
    )
    # Each is preceded by its warm-up.
    outcome, fake = measure("multimodal", good, good, good, good, good, bad, good)
    assert [found.error is None for found in outcome.result.runs] == [True, True, False, True]
    assert len(fake.orders) == 8
    assert len({value(order.arguments, "--seed") for order in fake.orders}) == 8
    assert outcome.error.id == "partly-failed"
    assert outcome.error.message.startswith("video: ")


def test_nothing_at_all_is_a_failure(measure: Any) -> None:
    outcome, _ = measure("guide", {"raw": {**RAW, "completed": 0, "failed": 3}})
    assert outcome.error.id == "job-failed"
    assert "No request was answered" in outcome.error.message
    assert files.read(outcome.folder).runs[0].error


def test_a_sweep_is_saved_with_where_it_ended(measure: Any) -> None:
    speeds = [0.0, 100.0, 190.0, 300.0, 305.0, 999.0]  # The first is the warm-up's.
    raws = [{"raw": {**RAW, "failed": 0, "output_throughput": speed}} for speed in speeds]
    outcome, fake = measure("sweep", *raws, changes=Changes(max_concurrency=64))
    assert [found.label for found in outcome.result.runs] == [
        "concurrency 1", "concurrency 2", "concurrency 4", "concurrency 8",
    ]  # fmt: skip
    assert outcome.saturation.concurrency == 4
    assert any("Saturated at 4" in note for note in outcome.result.notes)
    assert len(fake.orders) == 5
    assert len(list(outcome.folder.iterdir())) == 5, "the warm-up leaves nothing"


def test_what_was_measured_before_an_interruption_is_kept(measure: Any, tmp_path: Path) -> None:
    good = {"raw": {**RAW, "failed": 0}}
    with pytest.raises(KeptError) as told:
        measure("sweep", good, good, KeyboardInterrupt())
    [folder] = (tmp_path / "results").iterdir()
    document = files.read(folder)
    assert [found.label for found in document.runs] == ["concurrency 1"]
    assert document.notes[-1] == "Interrupted after 1 runs."
    assert told.value.id == "interrupted"
    assert told.value.as_dict()["file"] == str(folder / "result.json")
    assert str(folder) in told.value.message
    assert "appliance up" not in told.value.remedy


@pytest.mark.parametrize(
    ("error", "id"), [(ApplianceError("job-failed", "gone"), "job-failed"), (KeyError(), "bug")]
)
def test_what_was_measured_before_a_failure_is_kept(
    measure: Any,
    error: Exception,
    id: str,  # noqa: A002
) -> None:
    good = {"raw": {**RAW, "failed": 0}}
    with pytest.raises(KeptError) as told:
        measure("sweep", good, good, error)
    assert told.value.id == id
    assert files.read(told.value.file).notes[-1] == "Cut short after 1 runs."


def test_an_interruption_before_anything_leaves_nothing(measure: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        measure("guide", KeyboardInterrupt())
    assert list((tmp_path / "results").iterdir()) == []


def test_what_does_not_fit_into_the_context_is_refused_before(measure: Any) -> None:
    with pytest.raises(ApplianceError, match=r"200 tokens in and 128 out are more .* 256") as told:
        measure("guide", {"raw": RAW}, max_model_len=256)
    assert told.value.id == "input-invalid"


def test_a_place_that_can_not_be_written_is_told_before(measure: Any, tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file", encoding="utf-8")
    with pytest.raises(ApplianceError) as told:
        measure("guide", {"raw": RAW})
    assert told.value.id == "file-not-written"


def test_a_preset_with_an_engine_of_its_own_asks_no_other_server() -> None:
    elsewhere = Elsewhere("http://127.0.0.1:1")
    with pytest.raises(ApplianceError, match="asks no --url"):
        run.perform(Config(), run.Wanted("latency", elsewhere=elsewhere), Progress(quiet=True))


def test_the_table_and_the_document(measure: Any, capsys: pytest.CaptureFixture[str]) -> None:
    outcome, _ = measure("guide", {"raw": RAW})
    bench_view.table(outcome)
    text = capsys.readouterr().out
    assert "375/375/498" in text
    assert str(outcome.file) in text
    bench_view.document(outcome, [])
    shown = json.loads(capsys.readouterr().out)
    assert shown["file"] == str(outcome.file)
    assert shown["result"]["runs"][0]["metrics"]["completed"] == 2
    assert "samples" not in shown["result"]["runs"][0]
    assert shown["error"]["exit_code"] == ERRORS["partly-failed"].exit_code


def test_runs_without_figures_are_shown_as_failed(
    measure: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome, _ = measure("guide", {"status": 1, "log": "no", "late": False})
    bench_view.table(outcome)
    assert "failed" in capsys.readouterr().out


# What is measured


def state_of(container: Container, **more: Any) -> ContainerState:
    told = {"status": "running", "exit_code": 0, "oom_killed": False, "error": ""}
    told |= {"restarts": 0, "started_at": "", "health": None, "image_id": "sha256:it"}
    return ContainerState(
        id="it", name=container.name, labels=container.labels(), **{**told, **more}
    )


class Images:
    """The engine's answers about images."""

    def digests(self, name: str) -> tuple[str, ...]:
        assert name == "sha256:it"
        return ("registry/it@sha256:abc",)


def test_a_running_container_tells_its_plan() -> None:
    made = plan_of()
    assert systems.container(state_of(made)) == made


def test_a_container_of_another_version_is_told() -> None:
    labels = {"appliance.name": "it", "appliance.plan": '{"name": "it", "devices": [{"a": 1}]}'}
    with pytest.raises(ApplianceError) as told:
        systems.container(dataclasses.replace(state_of(plan_of()), labels=labels))
    assert told.value.id == "engine-failed"


def described(made: Container, config: Config, monkeypatch: pytest.MonkeyPatch) -> Any:
    from appliance import deployment
    from appliance.deployment import Deployment

    host = Inventory("none", paths=frozenset({"/b", "/a"}))
    today = Deployment(config, host, make(config, host, "/host/models"))
    monkeypatch.setattr(deployment, "prepare", lambda _: today)
    args = systems.serve_args(made.command)
    return systems.running(config, Images(), state_of(made), made, args)  # type: ignore[arg-type]


def test_the_system_is_that_of_the_running_container(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = {"SERVICE_PASSWORD": "hunter2-and-more"}
    config = Config(platform="cpu")
    config = dataclasses.replace(
        config, container=dataclasses.replace(config.container, environment=secret)
    )
    made = make(config, Inventory("none"), "/host/models")
    system, notes = described(made.container, config, monkeypatch)
    assert notes == []
    assert (system.platform, system.product, system.release) == ("cpu", "none", "v0.23.0")
    assert system.model == Model(id="tiny-omni", revision=None, weights="real")
    assert (system.image_id, system.image_digest) == ("sha256:it", "sha256:abc")
    assert system.serve_args[0] == "/models/tiny-omni"
    assert system.inventory["paths"] == ["/a", "/b"]
    assert system.plan["tensor_parallel_size"] == 1
    assert "hunter2" not in system.model_dump_json()
    assert systems.caveats(system) == [
        "tiny-omni is the small test model: these figures say nothing of any other."
    ]


def test_a_plan_of_today_says_nothing_of_yesterdays_container(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = plan_of()
    command = (*made.command, "--load-format=dummy", "--max_num_seqs", "7")
    made = dataclasses.replace(made, command=command)
    system, notes = described(made, Config(platform="cpu"), monkeypatch)
    assert len(notes) == 1
    assert (system.platform, system.release, system.product) == ("cpu", None, None)
    assert system.model.weights == "dummy"
    assert system.parallel.tensor_parallel_size == 1
    assert system.parallel.expert_parallel is False
    assert len(systems.caveats(system)) == 2
    assert systems.number(systems.value(system.serve_args, "--max-num-seqs")) == 7


def test_inside_the_image_a_server_has_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPLIANCE_INSIDE_IMAGE", "1")
    with pytest.raises(ApplianceError, match="no Docker engine") as told:
        subject.own(Config())
    assert told.value.id == "engine-missing"
    assert "--url" in told.value.remedy
    with (
        pytest.raises(ApplianceError, match="no Docker engine"),
        subject.engine(Config(), "latency", Progress(quiet=True)),
    ):
        pass


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://localhost/v1", True),
        ("http://[::1]:8000", True),
        ("http://127.9.9.9", True),
        ("http://127.evil.com", False),
        ("http://localhost.evil.com", False),
        ("http://127.0.0.1@evil.com/", False),
        ("http://[::1", False),
        ("http://10.0.0.1:8000", False),
        ("127.0.0.1:8000", False),
    ],
)
def test_only_this_machine_is_this_machine(url: str, *, expected: bool) -> None:
    assert server.is_loopback(url) is expected


SERVED = Served("m", "/models/it", 4096)


def with_key() -> Container:
    key = Mount("bind", "/host/key", names.API_KEY_FILE, read_only=True)
    made = plan_of()
    return dataclasses.replace(made, mounts=(*made.mounts, key))


@pytest.fixture
def another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Another server answers, and the container that is to measure it has this one's key."""
    from healthchecks import Target

    target = Target("http://127.0.0.1:9", "m", None, 1.0)
    monkeypatch.setattr(server, "other", lambda *_: (target, SERVED))
    monkeypatch.setattr(subject, "_measuring", lambda *_: with_key())
    return tmp_path


def test_another_server_gets_nothing_of_this_ones_key(another: Path) -> None:
    wanted = Elsewhere("http://127.0.0.1:9", tokenizer=another)
    found = subject.other(Config(), wanted, Progress(quiet=True))
    targets = [mount.target for mount in found.job.container.mounts]
    assert names.API_KEY_FILE not in targets
    assert subject.TOKENIZER in targets
    assert (found.key, found.job.network) == ("", "host")


def test_a_tokenizer_that_is_no_folder_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    wanted = Elsewhere("http://127.0.0.1:9", tokenizer=tmp_path / "absent")
    with pytest.raises(ApplianceError, match="no folder that exists") as told:
        subject.other(Config(), wanted, Progress(quiet=True))
    assert told.value.id == "input-invalid"


def test_what_is_to_be_known_of_the_own_server_is_in_its_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the engine's answers to the notes, with nothing in between left out."""
    from healthchecks import Target

    made = with_key()
    engine = SimpleNamespace(container=lambda _: state_of(made), digests=Images().digests)
    monkeypatch.setattr("appliance.engine.docker.connect", lambda: engine)
    target = Target("http://127.0.0.1:9", "m", None, 1.0)
    monkeypatch.setattr("appliance.lifecycle.running.target", lambda *_: target)
    monkeypatch.setattr(server, "_ask", lambda *_: SERVED)
    found = subject.own(Config(platform="cpu"))
    assert any("small test model" in note for note in found.notes)
    assert any("Today's plan is another one" in note for note in found.notes)
    assert found.server == Server(
        dict(made.environment)["HEALTHCHECKS_URL"], "m", "/models/tiny-omni"
    )
    assert found.job.container.image == "sha256:it"
    assert found.max_model_len == 4096
    # Its own key is there for its own client.
    assert names.API_KEY_FILE in [mount.target for mount in found.job.container.mounts]


def test_replicas_are_measured_with_their_server() -> None:
    config = Config()
    config = dataclasses.replace(
        config, parallel=dataclasses.replace(config.parallel, data_parallel_size=2)
    )
    with (
        pytest.raises(ApplianceError, match="data_parallel_size is 2") as told,
        subject.engine(config, "latency", Progress(quiet=True)),
    ):
        pass
    assert told.value.id == "config-invalid"


def test_a_vocabulary_too_small_for_vllm_is_told_before_the_engine_loads(tmp_path: Path) -> None:
    plan = make(Config(platform="cpu"), Inventory("none"), str(tmp_path))
    folder = tmp_path / "tiny-omni"
    folder.mkdir()
    for size, refused in ((512, True), (152064, False)):
        thinker = {"text_config": {"vocab_size": size}}
        (folder / "config.json").write_text(json.dumps({"thinker_config": thinker}))
        if refused:
            with pytest.raises(
                ApplianceError, match="10000 different tokens, and tiny-omni has 512"
            ):
                subject._refuse_few_tokens(plan)
            other = dataclasses.replace(plan, serve_args=(*plan.serve_args, "--hf-overrides", "{}"))
            subject._refuse_few_tokens(other)
        else:
            subject._refuse_few_tokens(plan)


# The container's side


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(inside, "FOLDER", tmp_path / "bench")
    return tmp_path / "bench"


def script(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Run Python in place of vLLM."""
    monkeypatch.setattr(inside, "command", lambda _: [sys.executable, "-c", text])


def work(*orders: dict[str, Any]) -> list[Any]:
    answers = io.StringIO()
    waiting = Orders([json.dumps(order) + "\n" for order in orders])
    speaking = inside.Work(waiting, answers)  # type: ignore[arg-type]
    waiting.of(answers)
    speaking.go_on()
    return [json.loads(line) for line in answers.getvalue().splitlines()]


class Orders:
    """A stdin that ends when each order has its answer."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        self.answers: io.StringIO | None = None

    def of(self, answers: io.StringIO) -> None:
        self.answers = answers

    def __iter__(self) -> Iterator[str]:
        assert self.answers is not None
        for number, line in enumerate(self.lines, 2):
            yield line
            deadline = time.monotonic() + 30
            while self.answers.getvalue().count("\n") < number and time.monotonic() < deadline:
                time.sleep(0.01)


def order(folder: Path, **more: Any) -> dict[str, Any]:
    return {"arguments": ["bench"], "result": str(folder / "it.json"), "timeout": 30, **more}


def test_a_run_is_answered_with_the_file_that_it_wrote(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    script(monkeypatch, "print('to people'); open('it.json', 'w').write('{\"completed\": 3}')")
    told, first, second = work(order(folder), order(folder))
    assert told["protocol"] == inside.PROTOCOL == bench_client.PROTOCOL
    assert told["versions"]["python"]
    assert first == second == {"raw": {"completed": 3}, "command": None}
    assert not folder.exists()
    assert capfd.readouterr().err.count("to people") == 2


def test_a_run_that_fails_is_answered_with_its_log(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, "raise SystemExit('ValueError: no such dataset')")
    answer = work(order(folder))[1]
    assert (answer["status"], answer["log"], answer["late"]) == (
        1, "ValueError: no such dataset", False,
    )  # fmt: skip


def test_a_run_that_takes_too_long_is_ended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, "import time; time.sleep(60)")
    began = time.monotonic()
    answer = work(order(folder, timeout=0.5))[1]
    assert answer["late"]
    assert time.monotonic() - began < 20


def test_a_run_ends_with_stdin(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, "import time; time.sleep(60)")
    answers, line = io.StringIO(), json.dumps(order(folder)) + "\n"
    ended = threading.Event()

    def lines() -> Iterator[str]:
        yield line
        time.sleep(0.5)  # Then the launcher is gone.

    def go() -> None:
        inside.Work(lines(), answers).go_on()  # type: ignore[arg-type]
        ended.set()

    threading.Thread(target=go, daemon=True).start()
    assert ended.wait(20)


def test_the_key_goes_to_its_own_server_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "own")
    monkeypatch.setenv("OPENAI_API_KEY", "somebody's")
    for given, expected in (({}, "own"), ({"key": ""}, None), ({"key": "other"}, "other")):
        values = inside.environment(given)
        assert values.get("OPENAI_API_KEY") == expected
        assert "VLLM_API_KEY" not in values
        assert values["NO_PROXY"] == "*"


def test_plain_vllm_is_run_where_it_is_enough(folder: Path) -> None:
    plain = inside.command(order(folder))
    assert plain[1:] == ["-m", "vllm.entrypoints.cli.main", "bench"]
    helped = inside.command(order(folder, client={"sound": {}}))
    assert helped[1:3] == ["-m", "appliance.inside.client"]
    assert json.loads(helped[3]) == {"sound": {}, "told": str(folder / "it.json.command")}


def test_each_request_has_a_sound_of_its_own() -> None:
    sounds = client.Sounds(0.5, 7)
    parts = [sounds.take() for _ in range(3)]
    assert len({part["input_audio"]["data"] for part in parts}) == 3
    for part in parts:
        with wave.open(io.BytesIO(base64.b64decode(part["input_audio"]["data"]))) as file:
            assert file.getnframes() / file.getframerate() == 0.5
            assert len(file.readframes(file.getnframes())) == file.getnframes() * 2
    assert client.Sounds(0.5, 7).take() == parts[0]
    assert client.Sounds(0.5, 8).take() != parts[0]


def test_thousands_of_sounds_take_no_more_room_than_one() -> None:
    sounds = client.Sounds(10, 0)
    held = sum(len(part) for part in (sounds._head, sounds._rest))
    assert held < 500_000
    heads = {sounds.take()["input_audio"]["data"][:72] for _ in range(5000)}
    assert len(heads) == 5000


@pytest.mark.parametrize("content", [None, {"type": "image_url"}, [{"type": "image_url"}]])
def test_the_sound_comes_beside_what_there_is(content: Any) -> None:
    sent = []

    async def chat(given: Any, *, session: str, pbar: str) -> str:
        sent.append([part["type"] for part in given.multi_modal_content])
        return session + pbar

    send = client.with_sound(chat, client.Sounds(0.1, 0))
    given = SimpleNamespace(multi_modal_content=content)
    assert asyncio.run(send(given, session="a", pbar="b")) == "ab"
    assert sent == [[*(["image_url"] if content else []), "input_audio"]]


def test_options_are_taken_with_their_values_whatever_their_spelling() -> None:
    words = [
        "--host", "0.0.0.0", "--enable_expert_parallel", "--compilation-config.level", "3",
        "--port=8000", "-tp", "2", "--limit-mm", '{"image": 1}', "--allowed", "a", "b", "--n", "-1",
    ]  # fmt: skip
    asked = []

    def wanted(name: str) -> bool:
        asked.append(name)
        return name not in {"--host", "--port"}

    assert client.select(words, wanted) == [
        "--enable_expert_parallel", "--compilation-config.level", "3", "-tp", "2", "--limit-mm",
        '{"image": 1}', "--allowed", "a", "b", "--n", "-1",
    ]  # fmt: skip
    assert "--enable-expert-parallel" in asked
    assert "--compilation-config" in asked


def test_an_image_without_this_side_says_so() -> None:
    told = "/usr/bin/python3: No module named appliance.inside.bench"
    process = SimpleNamespace(line=lambda *_: None, log=told, wait=lambda **_: 1)
    with pytest.raises(ApplianceError, match="another version") as refused:
        bench_client.Client(process, 1)  # type: ignore[arg-type]
    assert "appliance up" in refused.value.remedy


def test_an_image_of_another_protocol_says_so() -> None:
    process = SimpleNamespace(line=lambda *_: '{"protocol": 99}', log="")
    with pytest.raises(ApplianceError, match="another version"):
        bench_client.Client(process, 1)  # type: ignore[arg-type]


def test_media_know_their_modality() -> None:
    assert Media().modality == "text"
    assert Media(image=(1, 1), sound_seconds=1).modality == "mixed"
