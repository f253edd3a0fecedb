"""`appliance bench` on the real engine: what it measures, keeps, refuses and leaves behind."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import statistics
import subprocess
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from appliance.bench import arguments
from appliance.bench.arguments import Changes, Server
from appliance.bench.run import Wanted, perform
from appliance.catalog.bench import presets
from appliance.config import load as configuration
from appliance.lifecycle.progress import Progress
from appliance.results import files
from tests.e2e.conftest import NAME, ROOT, docker, execute, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from appliance.results.model import Result
    from tests.e2e.conftest import Cli, Served

JOB = f"{NAME}-bench"
SECRET = "sk-bench-6c1f2f4d9e0b7a35"  # noqa: S105 (planted, to be looked for)
FEW = ("--num-prompts", "10", "--request-rate", "10")
# What `vllm bench serve` of 0.23 writes of a run, less its settings and its samples.
METRICS = {
    "duration", "completed", "failed", "total_input_tokens", "total_output_tokens",
    "request_throughput", "output_throughput", "total_token_throughput",
    "max_output_tokens_per_s", "max_concurrent_requests", "rtfx",
    *(
        f"{statistic}_{quantity}_ms"
        for statistic in ("mean", "median", "std", "p99")
        for quantity in ("ttft", "tpot", "itl", "e2el")
    ),
}  # fmt: skip


def containers() -> list[str]:
    return docker("ps", "--all", "--format", "{{.Names}}").split()


def read(document: dict[str, Any], cli: Cli) -> Result:
    """The result that a command has written; it is valid."""
    file = cli.state / document["file"]
    result = files.read(file)
    for run in result.runs:
        assert run.error or (file.parent / f"{arguments.slug(run.label)}.json").is_file()
    return result


# The guide's own


@pytest.fixture(scope="module")
def guide(served: Served) -> tuple[dict[str, Any], Result]:
    document = served.cli.json("bench", *FEW, "--compare", "guide")
    return document, read(document, served.cli)


def test_the_guides_benchmark(guide: tuple[dict[str, Any], Result]) -> None:
    [run] = guide[1].runs
    assert run.metrics.keys() == METRICS
    assert (run.metrics["completed"], run.metrics["failed"]) == (10, 0)
    assert run.metrics["total_output_tokens"] == 1280
    assert (run.parameters.num_prompts, run.parameters.request_rate) == (10, 10)
    assert run.error is None
    assert JOB not in containers()


def test_the_samples_are_those_that_vllm_made_its_figures_of(
    guide: tuple[dict[str, Any], Result],
) -> None:
    [run] = guide[1].runs
    assert len(run.samples["ttft_ms"]) == len(run.samples["tpot_ms"]) == 10
    # A token that ends within a character brings no text, so no chunk that could be timed.
    assert 10 * 127 - 20 < len(run.samples["itl_ms"]) <= 10 * 127
    for quantity in ("ttft", "tpot", "itl", "e2el"):
        mean = statistics.fmean(run.samples[f"{quantity}_ms"])
        assert mean == pytest.approx(run.metrics[f"mean_{quantity}_ms"], rel=0.01)


def test_the_document_tells_the_system(
    guide: tuple[dict[str, Any], Result], served: Served
) -> None:
    system = guide[1].system
    assert (system.platform, system.product, system.release) == ("cpu", "none", "v0.23.0")
    assert system.model.id == "tiny-omni"
    assert system.model.weights == "real"
    assert system.parallel.tensor_parallel_size == 1
    assert system.versions["vllm"].startswith("0.23.0")
    assert {"python", "torch", "transformers"} <= set(system.versions)
    assert system.image_id == docker("inspect", NAME, "--format", "{{.Image}}").strip()
    assert system.serve_args == served.cli.json("plan")["serve_args"]
    assert system.plan is not None
    assert system.plan["name"] == NAME
    assert system.inventory is not None
    assert system.inventory["product"] == "none"
    assert any("small test model" in note for note in guide[1].notes)


def test_it_is_compared_with_the_guide(guide: tuple[dict[str, Any], Result]) -> None:
    [comparison] = guide[0]["comparisons"]
    assert comparison["reference"] == "guide"
    # Another model, rate and number: nothing of it may be called better or worse.
    assert set(comparison["counts"]) >= {"better", "worse"}
    assert comparison["counts"]["better"] == comparison["counts"]["worse"] == 0


# The other presets


def test_every_modality(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The preset's own media, without its warm-ups: each would start vLLM's client once more."""
    preset = presets()["multimodal"]
    loads = tuple(dataclasses.replace(load, warm_up=0) for load in preset.loads)
    cold = {**presets(), "multimodal": dataclasses.replace(preset, loads=loads)}
    monkeypatch.setattr(arguments, "presets", lambda: cold)
    settings = [f"{key}={value}" for key, value in served.cli.settings.items()]
    config = configuration.load(None, {}, settings).config
    changes = Changes(num_prompts=2, output_len=8)
    wanted = Wanted("multimodal", changes, output=served.cli.state / "results")
    result = perform(config, wanted, Progress(quiet=True)).result
    found = {run.label: run for run in result.runs}
    assert set(found) == {"image", "audio", "video", "mixed"}
    for label, run in found.items():
        assert run.error is None, label
        assert run.metrics.keys() == METRICS
        assert (run.metrics["completed"], run.metrics["failed"]) == (2, 0), label
        assert run.parameters.modality == label
    tokens = {label: run.metrics["total_input_tokens"] for label, run in found.items()}
    # The media arrived, since the server counts their tokens, and all of them in the last.
    media = {label: count - 2 * 200 for label, count in tokens.items()}
    assert min(media.values()) > 20
    assert media["mixed"] > 0.9 * (media["image"] + media["audio"] + media["video"]) - 200


def test_throughput_with_an_engine_of_its_own(served: Served) -> None:
    document = served.cli.json(
        "bench", "--preset", "throughput", "--num-prompts", "8", "--output-len", "8"
    )
    [run] = read(document, served.cli).runs
    assert run.mode == "throughput"
    assert run.metrics["num_requests"] == 8
    assert run.metrics["requests_per_second"] > 0
    # The engine was the appliance's, without its server.
    assert "--enforce-eager" in run.command
    assert "--host" not in run.command
    assert JOB not in containers()
    assert served.cli.status()["state"] == "ready"


def test_latency_needs_a_vocabulary(served: Served) -> None:
    done = served.cli.run("bench", "--preset", "latency", "--json")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["id"]) == (96, "input-invalid")
    assert "10000 different tokens" in error["message"]


# vLLM's own parsers


def test_vllms_parsers_take_every_preset(served: Served) -> None:
    del served
    server = Server("http://127.0.0.1:8000", "m", "/t")
    engine = [
        "/models/it", "--served-model-name", "it", "--host", "0.0.0.0", "--port", "8000",
        "--tensor-parallel-size", "2", "--max-model-len", "8000", "--enforce_eager",
        "--middleware", "appliance.inside.auth.RequireKey", "--reasoning-parser", "deepseek_r1",
        "--limit-mm-per-prompt", '{"image": 1}', "--allowed-media-domains", "a.test", "b.test",
    ]  # fmt: skip
    cases = []
    for preset in presets().values():
        for load in preset.loads:
            if preset.mode == "serve":
                order = arguments.serve(load, server, 5)
            else:
                order = arguments.offline(preset.mode, load, tuple(engine), 5)
            cases.append((preset, load, order))
    asked = [
        {"arguments": order.arguments, "engine": order.client and order.client.get("engine")}
        for _, _, order in cases
    ]
    script = (ROOT / "tests" / "e2e" / "parse_bench.py").read_text(encoding="utf-8")
    done = subprocess.run(
        ["docker", "exec", "--interactive", NAME, "python3", "-c", script],
        input=json.dumps(asked), capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    answers = json.loads(done.stdout.splitlines()[-1])
    for (preset, load, _), answer in zip(cases, answers, strict=True):
        assert "error" not in answer, (load.label, answer)
        assert answer["seed"] == 5
        if preset.mode == "serve":
            assert answer["random_input_len"] == load.input_len
            assert answer["random_output_len"] == load.output_len
            assert answer["num_prompts"] == load.num_prompts
            assert answer["ignore_eos"]
            assert answer["save_result"]
            assert [*answer["extra_body"]] == ["cache_salt"]
            media = [[*load.media.image, 1]] if load.media.image else []
            media += [list(load.media.video)] if load.media.video else []
            if media:
                assert [size for size, _ in answer["buckets"]] == media
        else:
            assert answer["model"] == "/models/it"
            assert answer["tensor_parallel_size"] == 2
            assert answer["max_model_len"] == 8000
            assert answer["enforce_eager"]
            assert not {"--host", "--port", "--middleware"} & set(answer["words"])
            assert {"--reasoning-parser", "--allowed-media-domains"} <= set(answer["words"])
        if preset.mode == "latency":
            assert answer["enable_prefix_caching"] is False
            assert (answer["batch_size"], answer["num_iters"]) == (8, 15)


# Without a network, and inside the image


def sent(name: str) -> int:
    """Bytes that a container has sent over its network card."""
    rows = execute(name, "cat", "/proc/net/dev").stdout.splitlines()[2:]
    cards = {row.split(":")[0].strip(): row.split(":")[1].split() for row in rows}
    return sum(int(columns[8]) for card, columns in cards.items() if card != "lo")


def test_inside_the_image_it_needs_no_network(served: Served) -> None:
    """The server, its client and the tokenizer are all there: nothing may leave."""
    del served
    before = sent(NAME)
    done = execute(
        NAME, "appliance", "bench", "--url", "http://127.0.0.1:8000", "--num-prompts", "2",
        "--request-rate", "inf", "--output-len", "4", "--output-dir", "/tmp/results", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["result"]["runs"][0]["metrics"]["completed"] == 2
    assert sent(NAME) - before < 1000, "that is more than the neighbours' questions"


def test_inside_the_image_it_says_what_it_can_not_do(served: Served) -> None:
    del served
    done = execute(NAME, "appliance", "bench")
    assert done.returncode == 70
    assert "--url" in done.stderr


# Other servers


class FakeServer(BaseHTTPRequestHandler):
    """A server of the same API that wants a key, and may refuse to generate."""

    refuse = False
    refused: list[str]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/health":
            self.reply(200, "text/plain", "ok")
        elif self.authorized():
            listed = [{"id": "fake", "root": "/nowhere", "max_model_len": 4096}]
            self.reply(200, "application/json", json.dumps({"data": listed}))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if not self.authorized():
            return
        if self.refuse:
            self.reply(503, "application/json", "{}")
            return
        chunks: list[dict[str, Any]] = [{"choices": [{"text": "a"}]}] * 4
        chunks.append({"choices": [], "usage": {"completion_tokens": 4, "prompt_tokens": 200}})
        lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
        self.reply(200, "text/event-stream", "".join([*lines, "data: [DONE]\n\n"]))

    def authorized(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {SECRET}":
            return True
        if self.path != "/metrics":  # Where vLLM's client sends none.
            self.refused.append(self.path)
        self.reply(401, "application/json", "{}")
        return False

    def reply(self, status: int, kind: str, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def fake(*, refuse: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Run a fake server; yield its URL, and the paths that were asked for without the key."""
    refused: list[str] = []
    handler = type("Handler", (FakeServer,), {"refuse": refuse, "refused": refused})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", refused
        finally:
            server.shutdown()


@pytest.fixture
def elsewhere(tmp_path: Path) -> tuple[str, ...]:
    """The flags for a server that has a key, but its tokenizer elsewhere."""
    key = tmp_path / "key"
    key.write_text(f"{SECRET}\n", encoding="utf-8")
    key.chmod(0o600)
    return (
        "--api-key-file", str(key), "--tokenizer", str(ROOT / "models" / "tiny-omni"),
        "--num-prompts", "3", "--request-rate", "inf",
    )  # fmt: skip


def test_another_server_gets_its_key_and_nobody_else_sees_it(
    served: Served, elsewhere: tuple[str, ...]
) -> None:
    cli = served.cli
    with (
        fake() as (url, refused),
        cli.start("bench", "--json", "--url", url, *elsewhere) as running,
    ):
        wait_until("the job runs", 60, lambda: JOB in containers())
        seen = docker("inspect", JOB, check=False) + docker("top", JOB, "-ef", check=False)
        out, log = running.communicate(timeout=120)
    assert running.returncode == 0, log
    document = json.loads(out)
    assert refused == []
    assert document["result"]["runs"][0]["metrics"]["completed"] == 3
    assert document["result"]["system"]["url"] == url
    assert document["result"]["system"]["model"]["weights"] == "unknown"
    assert document["result"]["system"]["versions"] == {}
    text = seen + out + log + (cli.state / document["file"]).read_text(encoding="utf-8")
    assert SECRET not in text


def test_a_wrong_key_is_told_at_once(served: Served) -> None:
    with fake() as (url, _):
        done = served.cli.run("bench", "--json", "--url", url)
    assert json.loads(done.stdout)["error"]["id"] == "api-key-file"
    assert "--api-key-file" in done.stderr


def test_a_server_that_refuses_everything_is_a_failure(
    served: Served, elsewhere: tuple[str, ...]
) -> None:
    with fake(refuse=True) as (url, _):
        done = served.cli.run("bench", "--json", "--url", url, *elsewhere)
    document = json.loads(done.stdout)
    assert (done.returncode, document["error"]["id"]) == (95, "job-failed")
    assert "Service Unavailable" in document["error"]["message"]
    assert "Service Unavailable" in (read(document, served.cli).runs[0].error or "")


def test_a_tokenizer_that_is_not_here_is_asked_for(
    served: Served, elsewhere: tuple[str, ...]
) -> None:
    with fake() as (url, _):
        done = served.cli.run("bench", "--json", "--url", url, *elsewhere[:2])
    error = json.loads(done.stdout)["error"]
    assert error["id"] == "input-invalid"
    assert "--tokenizer" in error["remedy"]


def test_what_does_not_run_is_told(served: Served) -> None:
    done = served.cli.run("bench", "--json", name=f"{NAME}-nobody")
    assert json.loads(done.stdout)["error"]["id"] == "not-running"


def test_what_there_is_nothing_to_compare_with_is_told_at_once(served: Served) -> None:
    done = served.cli.run("bench", "--json", "--compare", "nothing")
    assert json.loads(done.stdout)["error"]["id"] == "result-invalid"


# Endings


def results(cli: Cli) -> set[Path]:
    return set((cli.state / "results").glob("*/result.json"))


def test_what_a_sweep_measured_before_ctrl_c_is_kept(served: Served) -> None:
    cli, before = served.cli, results(served.cli)
    words = ("bench", "--preset", "sweep", "--num-prompts", "4", "--output-len", "8", "--json")
    with cli.start(*words) as running:
        assert running.stderr is not None
        lines = []
        for line in running.stderr:
            lines.append(line)
            if "concurrency 2, 8 prompts" in line:
                os.killpg(running.pid, signal.SIGINT)
                break
        out, rest = running.communicate(timeout=60)
    assert running.returncode == 130, "".join(lines) + rest
    assert any(line.startswith("[run]") for line in lines)
    [file] = results(cli) - before
    told = json.loads(out)
    assert (cli.state / told["file"], told["error"]["id"]) == (file, "interrupted")
    result = files.read(file)
    assert [run.label for run in result.runs] == ["concurrency 1"]
    assert [run.metrics["completed"] for run in result.runs] == [4]
    assert all(run.metrics.keys() == METRICS for run in result.runs)
    assert result.notes[-1] == "Interrupted after 1 runs."
    wait_until("the job is gone", 30, lambda: JOB not in containers())


def test_a_launcher_that_is_killed_leaves_nothing(served: Served) -> None:
    before = results(served.cli)
    with served.cli.start("bench", "--num-prompts", "200") as running:
        wait_until("the job runs", 60, lambda: JOB in containers())
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate(timeout=60)
    wait_until("the job is gone", 60, lambda: JOB not in containers())
    assert results(served.cli) == before
    assert served.cli.status()["state"] == "ready"
