"""`appliance eval`: evalscope against the real engine, with no way out, and against a known one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from appliance.results import files
from tests.e2e.conftest import NAME, ROOT, docker, inspect, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import Cli, Served

JOB = f"{NAME}-eval"
DATA = str(ROOT / "tests" / "data" / "eval")
SUBSETS = ("--subset", "bbh/navigate", "--subset", "bbh/temporal_sequences")
KEY = "sk-eval-2c26b46b68ffc68f"  # Planted, to be looked for.
# More than any probe asks for, and so the mark of this test's own requests.
MANY_TOKENS = 600
# Linux's ioctls on routes, with which a container is cut off and let out again.
ROUTES = """
import fcntl, socket, struct, sys
def address(text):
    return struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(text))
def change(call, gateway):
    entry = struct.pack("@L", 0) + address("0.0.0.0") + address(gateway) + address("0.0.0.0")
    entry += struct.pack("@HhLPBBhPLLH", 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as it:
        fcntl.ioctl(it, call, entry)
change({"out": 0x890B, "in": 0x890C}["in" if sys.argv[1] == "cut" else "out"], sys.argv[2])
"""


@pytest.fixture(scope="module", autouse=True)
def _volume(served: Served) -> Iterator[None]:
    del served
    yield
    assert JOB not in docker("ps", "--all", "--format", "{{.Names}}").split()
    docker("volume", "rm", "--force", JOB, check=False)


@pytest.fixture(scope="module")
def cut_off(served: Served) -> Iterator[None]:
    """Take the way out of the network that the evaluation shares; ports stay published."""
    gateway = inspect(NAME)["NetworkSettings"]["Gateway"]
    image = served.document["image"] if "image" in served.document else inspect(NAME)["Image"]

    def change(what: str) -> None:
        docker(
            "run", "--rm", "--cap-drop", "ALL", "--cap-add", "NET_ADMIN",
            "--network", f"container:{NAME}", "--entrypoint", "python3",
            image, "-c", ROUTES, what, gateway,
        )  # fmt: skip

    change("cut")
    yield
    change("mend")


def evaluate(cli: Cli, *words: str, code: int = 0) -> tuple[dict[str, Any], str]:
    """Run an evaluation; return its document, and what it said to people."""
    done = cli.run("eval", "--json", *words)
    assert done.returncode == code, done.stdout + done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document, done.stderr


@pytest.fixture(scope="module")
def first(served: Served, cut_off: None) -> tuple[dict[str, Any], str, Path]:
    """All three datasets, from files, with no way out of the network."""
    del cut_off
    words = ["--dataset-dir", DATA, *SUBSETS, "--limit", "3", "--max-tokens", "16", "--use-audio"]
    document, told = evaluate(served.cli, *words, "--name", "first", "--compare", "guide")
    return document, told, served.cli.state / document["file"]


def test_all_three_datasets_are_asked_with_no_way_out(
    first: tuple[dict[str, Any], str, Path],
) -> None:
    document, _, file = first
    result = files.read(file)
    assert result.model_dump(mode="json") == document["result"]
    shown = [(row.dataset, row.metric, row.subset, row.num) for row in result.scores]
    assert shown == [
        ("omni_bench", "mean_acc", "default", 3),
        ("gsm8k", "mean_acc", "main", 3),
        ("bbh", "mean_acc", "navigate", 3),
        ("bbh", "mean_acc", "temporal_sequences", 3),
        ("bbh", "mean_acc", "OVERALL", 6),
    ]
    assert result.scores[0].modalities == ["image", "audio"]
    assert len({row.questions_sha256 for row in result.scores}) == 5
    answers = (file.parent / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(answers) == 12


def test_the_result_says_what_was_measured_and_how(
    first: tuple[dict[str, Any], str, Path], served: Served
) -> None:
    document, told, file = first
    result = files.read(file)
    assert result.evaluation is not None
    assert result.evaluation.generation == {"max_tokens": 16, "temperature": 0.6}
    assert result.evaluation.evalscope
    assert (result.evaluation.limit, result.evaluation.batch_size) == (3, 1)
    system = result.system
    assert system.versions["vllm"].startswith("0.23.0")
    assert system.image_id == inspect(NAME)["Image"]
    assert system.plan is not None
    assert system.inventory is not None
    assert (system.platform, system.model.id) == ("cpu", served.document["model"])
    # The model answers noise, and 16 tokens are no answer: both are said.
    notes = " ".join(result.notes)
    assert "small test model" in notes
    assert "cut off at max_tokens (16)" in notes
    assert document["comparisons"][0]["counts"]["not-comparable"] == 3
    assert "[eval]" in told
    names = {path.name for path in (file.parent / "evalscope").iterdir()}
    assert {"gsm8k.json", "bbh.json", "omni_bench.json", "task_config.yaml"} <= names


def test_without_files_and_network_it_says_what_to_fetch(served: Served, cut_off: None) -> None:
    del cut_off
    document, _ = evaluate(served.cli, "--datasets", "gsm8k", "--limit", "1", code=98)
    error = document["error"]
    assert error["id"] == "dataset-missing"
    assert "modelscope download --dataset AI-ModelScope/gsm8k" in error["remedy"]


def requests_of(served: Served) -> int:
    """Return how many requests of this test's own the server has finished."""
    with urllib.request.urlopen(f"{served.url}/metrics", timeout=10) as reply:
        text = reply.read().decode()

    def bucket(limit: str) -> int:
        found = re.search(
            rf'^vllm:request_params_max_tokens_bucket{{[^}}]*le="{re.escape(limit)}"[^}}]*}} (\S+)',
            text,
            re.MULTILINE,
        )
        return round(float(found[1])) if found else 0

    return bucket("+Inf") - bucket("500.0")


def test_what_was_answered_before_ctrl_c_is_not_asked_again(served: Served) -> None:
    words = ["eval", "--dataset-dir", DATA, "--datasets", "gsm8k", "--limit", "all"]
    words += ["--max-tokens", str(MANY_TOKENS)]
    before = requests_of(served)
    with served.cli.start(*words) as started:
        wait_until("two answers", 120, lambda: requests_of(served) >= before + 2)
        options = inspect(JOB)["HostConfig"]
        os.killpg(started.pid, signal.SIGINT)
        _, told = started.communicate(timeout=60)
    assert started.returncode == 130, told
    assert "goes on from there" in told
    assert JOB not in docker("ps", "--all", "--format", "{{.Names}}").split()
    # The container's rights, while it ran.
    assert (options["CapDrop"], options["ReadonlyRootfs"]) == (["ALL"], True)
    assert not options["Privileged"]
    assert options["NetworkMode"].startswith("container:")
    time.sleep(3)  # The engine counts a request that was given up when it notices.
    between = requests_of(served)
    document, _ = evaluate(served.cli, *words[1:])
    notes = " ".join(document["result"]["notes"])
    kept = re.search(r"(\d+) answers are of an earlier try", notes)
    assert kept, notes
    assert int(kept[1]) >= 1
    assert requests_of(served) - between == 8 - int(kept[1])
    assert document["result"]["scores"][0]["num"] == 8


def test_a_killed_launcher_leaves_no_container(served: Served) -> None:
    words = ["eval", "--dataset-dir", DATA, "--datasets", "gsm8k", "--max-tokens", "5000"]
    with served.cli.start(*words) as started:
        wait_until(
            "the evaluation runs", 60, lambda: JOB in docker("ps", "--format", "{{.Names}}").split()
        )
        os.killpg(started.pid, signal.SIGKILL)
        started.communicate(timeout=60)
    wait_until(
        "the container is gone",
        60,
        lambda: JOB not in docker("ps", "--all", "--format", "{{.Names}}").split(),
    )


# A server whose answers are known


def known() -> dict[str, str]:
    """Return what a server answers to each of gsm8k's questions in the tests' data."""
    text = (Path(DATA) / "gsm8k" / "main" / "test.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return {row["question"]: row["answer"].rpartition("####")[2].strip() for row in rows}


class Known(BaseHTTPRequestHandler):
    """Answers five questions rightly, one wrongly, one too late, and refuses one."""

    answers = known()
    asked: list[int] = []  # noqa: RUF012 (shared by all requests, on purpose)

    def do_GET(self) -> None:
        self.reply(200, {"data": [{"id": "known", "max_model_len": 4096}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {KEY}":
            return self.reply(401, {"error": {"message": "no key"}})
        text = body["messages"][-1]["content"]
        number, answer = next(
            (number, answer)
            for number, (question, answer) in enumerate(self.answers.items())
            if text.rpartition("\n\n")[2].startswith(question)
        )
        self.asked.append(number)
        if number == 7:
            return self.reply(400, {"error": {"message": "refused for a reason", "code": 400}})
        content: str | None = f"So it is \\boxed{{{answer if number < 5 else '0.5'}}}."
        finish = "stop"
        if number == 6:
            content, finish = None, "length"
        message = {"role": "assistant", "content": content, "reasoning": "hm \\boxed{9}"}
        choice = {"index": 0, "message": message, "finish_reason": finish}
        usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
        head = {"id": "x", "object": "chat.completion", "created": 1, "model": "known"}
        return self.reply(200, {**head, "choices": [choice], "usage": usage})

    def reply(self, status: int, document: dict[str, Any]) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def known_server(handler: type[Known] = Known) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Seeing(Known):
    """Counts the media that come with questions, and answers each with the same letter."""

    parts: list[list[str]] = []  # noqa: RUF012

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = [message["content"] for message in body["messages"]]
        rows = [part for parts in content if isinstance(parts, list) for part in parts]
        self.parts.append(sorted(row["type"] for row in rows if row["type"] != "text"))
        message = {"role": "assistant", "content": "ANSWER: A"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
        head = {"id": "x", "object": "chat.completion", "created": 1, "model": "known"}
        self.reply(200, {**head, "choices": [choice], "usage": usage})


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--use-audio"], ["image_url", "input_audio"]),
        (["--no-use-image"], []),
    ],
)
def test_each_modality_is_sent_with_each_question(
    served: Served, tmp_path: Path, flags: list[str], expected: list[str]
) -> None:
    Seeing.parts.clear()
    words = ["--datasets", "omni_bench", "--dataset-dir", DATA, "--limit", "2", *flags]
    with known_server(Seeing) as url:
        evaluate(served.cli, *words, "--url", url, "-o", str(tmp_path))
    assert Seeing.parts == [expected] * 2


def test_the_scores_are_those_of_the_answers(served: Served, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(KEY, encoding="utf-8")
    key.chmod(0o600)
    words = ["--datasets", "gsm8k", "--dataset-dir", DATA, "--limit", "all"]
    words += ["--api-key-file", str(key), "-o", str(tmp_path / "results")]
    with known_server() as url:
        # A question that the server refuses ends it: what is missing is not to be overlooked.
        document, _ = evaluate(served.cli, *words, "--url", url, code=95)
        assert "refused for a reason" in document["error"]["message"]
        assert "--ignore-errors" in document["error"]["remedy"]
        assert sorted(Known.asked) == list(range(8))
        words += ["--url", url, "--name", "known", "--ignore-errors"]
        document, _ = evaluate(served.cli, *words, code=97)
    # Only the refused one was asked again, and it is in no score.
    assert sorted(Known.asked) == [*range(8), 7]
    (row,) = document["result"]["scores"]
    assert (row["num"], row["score"]) == (7, round(5 / 7, 4))
    assert document["result"]["system"]["url"] == url
    notes = " ".join(document["result"]["notes"])
    assert "1 of 8 answers were cut off" in notes
    assert "1 questions are in no score (gsm8k 1)" in notes
    lines = (tmp_path / "results" / "known" / "answers.jsonl").read_text(encoding="utf-8")
    told = [json.loads(line) for line in lines.splitlines()]
    assert [row["score"]["accuracy"] for row in told] == [1, 1, 1, 1, 1, 0, 0]
    # The thinking's own box is no answer.
    assert (told[6]["answer"], told[6]["stop_reason"]) == ("", "max_tokens")
    # The key is in nothing that was written.
    found = subprocess.run(
        ["grep", "-rl", KEY, str(tmp_path / "results")], capture_output=True, text=True, check=False
    )
    assert found.stdout == ""
    assert KEY not in json.dumps(document)


def test_the_data_is_what_its_script_writes(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path[:0] = [sys.argv[1]]; import make_eval_data as it, pathlib; "
        "it.lines(pathlib.Path(sys.argv[2], 'x'), [it.sum_of(n) for n in range(8)])"
    )
    words = [sys.executable, "-c", code, str(ROOT / "scripts"), str(tmp_path)]
    subprocess.run(words, check=True, timeout=60)
    assert (tmp_path / "x").read_bytes() == (Path(DATA) / "gsm8k/main/test.jsonl").read_bytes()
