"""Reading logs, naming failures, and the archive that goes to others without secrets."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import yaml

from appliance.catalog.failures import Failure, failures
from appliance.config import load as config_load
from appliance.config.load import Loaded, keys
from appliance.config.model import Build, Config, Container, Server
from appliance.diagnose import bundle, logs, run, source
from appliance.diagnose.match import BURST, LINE_CHARS, UNKNOWN, Finding, diagnose, root
from appliance.diagnose.redact import MARK, Redactor, is_secret
from appliance.engine import docker
from appliance.engine.docker import ContainerState
from appliance.errors import ApplianceError
from appliance.lifecycle import state
from appliance.lifecycle.logs import explain
from appliance.lifecycle.up import Up

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("clean")

ROOT = Path(__file__).resolve().parents[2]
LOGS = ROOT / "tests" / "logs"
EXPECTED: dict[str, dict[str, Any]] = yaml.safe_load((LOGS / "expected.yaml").read_text("utf-8"))
SAMPLES: dict[str, list[str]] = yaml.safe_load((LOGS / "samples.yaml").read_text("utf-8"))
CATALOG = {failure.id: failure for failure in failures()}
NO_ENGINE = "unix:///nowhere/docker.sock"


def found(text: str) -> tuple[Finding, ...]:
    return diagnose(logs.lines(text)).findings()


def ids(text: str) -> list[str]:
    return [finding.id for finding in found(text)]


# The catalog


def test_the_catalog_is_complete_and_worded_for_people() -> None:
    assert len(CATALOG) > 100
    for failure in CATALOG.values():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", failure.id)
        assert failure.id != UNKNOWN
        assert failure.sources, failure.id
        for text in (failure.cause, failure.remedy):
            assert text.endswith("."), failure.id
            assert "\n" not in text, failure.id


@pytest.mark.parametrize("name", CATALOG)
def test_every_key_that_a_remedy_names_is_one(name: str) -> None:
    known = {key.name for key in keys()}
    sections = {key.partition(".")[0] for key in known if "." in key}
    for text in (CATALOG[name].cause, CATALOG[name].remedy):
        for word in re.findall(r"`([a-z_]+\.[a-z_]+)`", text):
            assert word in known or word.partition(".")[0] not in sections, word


@pytest.mark.parametrize("name", CATALOG)
def test_every_signature_is_told_by_a_line(name: str) -> None:
    failure = CATALOG[name]
    for pattern in failure.patterns:
        assert any(pattern.search(line) for line in SAMPLES[name]), pattern.pattern
    for line in SAMPLES[name]:
        first = found(line)[0]
        assert (first.id, first.first) == (name, True), line
        assert first.line_number == 1
        assert first.benign == failure.kind.startswith("harmless")


def test_no_sample_is_of_an_entry_that_is_gone() -> None:
    assert set(SAMPLES) == set(CATALOG)


@pytest.mark.parametrize("name", CATALOG)
def test_no_signature_takes_long(name: str) -> None:
    begun = time.monotonic()
    for text in ("error code is " * 900, "A" * 30_000, "HcclCommInitRootInfo" * 900):
        CATALOG[name].search(text)
    assert time.monotonic() - begun < 1


# Whole logs


def test_every_log_is_expected_to_say_something() -> None:
    assert {path.stem for path in LOGS.glob("*.log")} == set(EXPECTED)
    assert len(EXPECTED) >= 25


@pytest.mark.parametrize("name", EXPECTED)
def test_a_log_tells_its_root(name: str) -> None:
    wanted = EXPECTED[name]
    with (LOGS / f"{name}.log").open("rb") as stream:
        told = diagnose(logs.read(stream)).findings()
    first = root(told)
    assert (first.id if first else "none") == wanted["first"]
    assert [finding.first for finding in told] == [True] + [False] * (len(told) - 1)
    assert {finding.id for finding in told} >= set(wanted.get("also", ()))
    if first is not None:
        assert first.process == wanted.get("process", first.process)
        assert wanted.get("line", "") in first.line
        assert "\x1b" not in first.line
    else:
        assert all(finding.benign for finding in told)


# How the root is chosen

OOM = "NPU out of memory. Tried to allocate 2.00 GiB"
PEER = "EI0006: Getting socket times out."
STRANGE = "FrobnicationError: nobody knows this"


def lines(*texts: str) -> str:
    return "".join(f"{text}\n" for text in texts)


def filler(number: int) -> list[str]:
    return [f"INFO 01-01 00:00:00 [a.py:1] line {line}" for line in range(number)]


def test_a_symptom_loses_to_a_cause_nearby_and_not_to_one_far_off() -> None:
    assert ids(lines(PEER, OOM))[0] == "npu-out-of-memory"
    assert ids(lines(OOM, PEER))[0] == "npu-out-of-memory"
    assert ids(lines(PEER, *filler(BURST), OOM))[0] == "hccl-peer-timeout"


def test_of_two_causes_the_first_in_time_is_the_root() -> None:
    other = "AssertionError: 20 is not divisible by 8"
    assert ids(lines(OOM, other)) == ["npu-out-of-memory", "encoder-heads-not-divisible"]
    assert ids(lines(other, OOM)) == ["encoder-heads-not-divisible", "npu-out-of-memory"]


def test_an_unknown_error_loses_to_a_known_one_nearby_and_leads_one_far_off() -> None:
    assert ids(lines(STRANGE, OOM)) == ["npu-out-of-memory"]
    assert ids(lines(OOM, STRANGE)) == ["npu-out-of-memory"]
    apart = [f"(Worker pid=9) {line}" for line in filler(BURST + 1)]
    assert ids(lines(STRANGE, *apart, OOM)) == [UNKNOWN, "npu-out-of-memory"]
    # Its process went on as if nothing had been.
    assert ids(lines(STRANGE, *filler(BURST + 1), OOM)) == ["npu-out-of-memory", UNKNOWN]


def test_each_process_tells_its_first_unknown_error_and_ranks_tell_it_once() -> None:
    told = found(
        lines(
            f"(Worker_TP0 pid=7) {STRANGE} on 0",
            f"(Worker_TP1 pid=8) {STRANGE} on 1",
            "(EngineCore pid=5) ValueError: another thing",
            "(EngineCore pid=5) ValueError: and what came of it",
            "(APIServer pid=1) RuntimeError: Engine core initialization failed.",
        )
    )
    assert [(item.id, item.process) for item in told] == [
        (UNKNOWN, "Worker_TP0 pid=7"),
        (UNKNOWN, "EngineCore pid=5"),
        ("engine-not-started", "APIServer pid=1"),
    ]
    assert told[1].line == "ValueError: another thing"


def test_levels_decide_whether_a_line_counts() -> None:
    stamp = "01-01 00:00:00 [a.py:1]"
    assert ids(f"INFO {stamp} {OOM}") == []
    assert ids(f"DEBUG {stamp} {OOM}") == []
    assert ids(f"WARNING {stamp} {OOM}") == []
    assert ids(f"ERROR {stamp} {OOM}") == ["npu-out-of-memory"]
    assert ids(OOM) == ["npu-out-of-memory"]
    assert ids(f"WARNING {stamp} NPU card health status is not OK") == ["npu-unhealthy"]
    assert ids(f"INFO {stamp} NPU card health status is not OK") == []


def test_source_code_counts_only_where_nothing_better_follows() -> None:
    code = '    raise ValueError("No available memory for the cache blocks. "'
    frame = '  File "/vllm/v1/core/kv_cache_utils.py", line 699, in check'
    raised = "ValueError: No available memory for the cache blocks. Try more."
    (cut,) = found(lines(frame, code))
    assert (cut.id, cut.line_number) == ("no-memory-for-cache", 2)
    (whole,) = found(lines(frame, code, raised))
    assert (whole.line, whole.line_number, whole.count) == (raised, 3, 1)


def test_waiting_is_harmless_until_the_api_answers_and_again_after_a_restart() -> None:
    wait = SAMPLES["broadcast-wait"][0]
    ready = "INFO:     Application startup complete."
    anew = "INFO 01-01 00:00:00 [api_server.py:1] vLLM API server version 0.23.0"
    assert root(found(lines(wait, wait))) is None
    hang = root(found(lines(wait, ready, wait)))
    assert hang is not None
    assert (hang.id, hang.line_number, hang.kind) == ("broadcast-wait", 3, "symptom")
    assert root(found(lines(ready, anew, wait))) is None


def test_a_refused_request_is_not_why_the_engine_died() -> None:
    refused = "ValueError: At most 3 image(s) may be provided in one prompt."
    assert ids(refused) == ["too-many-media"]
    assert ids(lines(refused, *filler(9), STRANGE)) == ["too-many-media"]
    told = ids(lines(refused, *filler(BURST + 9), STRANGE))
    assert told == [UNKNOWN, "too-many-media"]
    assert ids(lines(refused, *filler(BURST + 9), OOM))[0] == "npu-out-of-memory"


def test_what_a_validation_error_counts_is_told_with_it() -> None:
    told = found(
        lines(
            "pydantic_core.ValidationError: 1 validation error for EngineArgs",
            "frob",
            "  Input should be a valid integer",
        )
    )
    assert told[0].line.endswith("for EngineArgs frob Input should be a valid integer")


def test_a_finding_is_printed_with_all_that_is_promised() -> None:
    printed = found(f"(Worker_TP0 pid=7) {OOM}")[0].as_dict()
    assert {"id", "line", "line_number", "process", "phase", "cause", "remedy", "sources", "first",
            "benign"} <= set(printed)  # fmt: skip
    assert printed["process"] == "Worker_TP0 pid=7"
    assert printed["phase"] == "load"
    json.dumps(printed)


def test_of_a_very_long_line_the_part_that_counts_is_shown() -> None:
    (told,) = found("x" * 5000 + OOM + "y" * 5000)
    assert OOM in told.as_dict()["line"]
    assert len(told.as_dict()["line"]) <= LINE_CHARS + 6


# Reading

FORMS = {
    "bare": "",
    "compose": "vllm-1  | ",
    "docker": "2026-03-11T14:48:04.123456789Z ",
    "local-time": "2026-03-11T14:48:04.123456789 +08:00 CST ",
    "containerd": "2026-03-11T14:48:04.123456789+08:00 stderr F ",
    "kubectl": "[pod/omni-0/vllm] ",
    "syslog": "Mar 11 14:48:04 host dockerd[123]: ",
    "quoted": "> > ",
    "indented": "      ",
    "colours": "\x1b[1;36m",
    "supervisor": "[mineru] ",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "^M\n"], ids=["lf", "crlf", "spelt"])
def test_a_line_is_read_in_any_dress(form: str, end: str) -> None:
    said = "ValueError: it went wrong"
    who, when = "(EngineCore_DP0 pid=84)\x1b[0;0m", "ERROR 03-05 07:15:39 [core.py:946]"
    text = f"{FORMS[form]}{who} {when} {said}{end}"
    (line,) = [line for line in logs.lines(text) if line.text]
    assert (line.process, line.level, line.text) == ("EngineCore_DP0 pid=84", "ERROR", said)


PREFIXES = {
    "ERROR 03-05 07:15:39 engine.py:387] ": ("", "ERROR"),
    "(VllmWorker rank=0 pid=357) ERROR 08-08 07:32:55 |executor.py:487] ": (
        "VllmWorker rank=0 pid=357",
        "ERROR",
    ),
    "(Worker pid=5) [Stage-0] ERROR 01-05 07:22:17 [executor.py:822] ": ("Worker pid=5", "ERROR"),
    "(EngineCore pid=84) (Worker_TP1 pid=85) WARNING 11-22 12:00:00 [x.py:1] ": (
        "Worker_TP1 pid=85",
        "WARNING",
    ),
    "2026-03-10 17:22:52,463 - vllm.v1.engine - ERROR - ": ("", "ERROR"),
    "2026-03-10 17:22:52 - INFO - vllm_ascend.worker - ": ("", "INFO"),
    "[2026-03-10 17:22:52] WARNING server.py:12: ": ("", "WARNING"),
    "[2026-05-13 02:25:58.64217] [error] [36815] ": ("", "ERROR"),
    "[rank3]: ": ("rank3", None),
    "[rank0]:[W420 14:03:02.123456789 compiler_depend.ts:133] ": ("rank0", "WARNING"),
    "[ERROR] 2025-04-08-18:07:20 (PID:1292363, Device:1, RankID:1) ": ("", "ERROR"),
    "[ERROR] HCCL(2717288,python3):2025-07-23-03:47:57.070.463 [hccl_socket.cc:100] ": (
        "pid=2717288",
        "ERROR",
    ),
    "[EVENT] TDT(42,python3):2025-11-18-09:33:13.667.596 ": ("pid=42", "INFO"),
    "INFO:     ": ("", "INFO"),
    "CRITICAL:root:": ("", "ERROR"),
    'time="2026-01-01T00:00:00Z" level=error msg="': ("", "ERROR"),
}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_who_speaks_at_which_level_is_read_from_the_prefix(prefix: str) -> None:
    (line,) = logs.lines(f"{prefix}something happened\n")
    assert (line.process, line.level) == PREFIXES[prefix]
    assert line.text.rstrip('"').endswith("something happened")


def test_rows_of_a_table_and_words_in_brackets_are_no_prefixes() -> None:
    for text in ("| 0     910B3 | OK | 92.3 |", "Chip  | Bus-Id  | AICore(%) |", "[PID: 9] said"):
        (line,) = logs.lines(text)
        assert line.text == text


def test_rubbish_is_read_and_what_stands_in_it_is_found() -> None:
    rubbish = bytes(range(256)) * 300 + b"\n" + os.urandom(200_000) + b"\n"
    stream = io.BytesIO(rubbish + OOM.encode() + b"\n" + b"\xff\xfe" * 1000)
    assert diagnose(logs.read(stream)).findings()[0].id == "npu-out-of-memory"


class Endless(io.RawIOBase):
    """A log of many lines, or of one line without an end, that is never in memory at once."""

    def __init__(self, chunk: bytes, times: int) -> None:
        super().__init__()
        self.chunk, self.left = chunk, times

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self.left:
            return 0
        self.left -= 1
        buffer[: len(self.chunk)] = self.chunk
        return len(self.chunk)


@pytest.mark.parametrize(
    "chunk", [b"(W pid=9) INFO 01-01 00:00:00 [a.py:1] text\n" * 90, b"x" * 4096]
)
def test_a_huge_log_is_read_in_little_memory(chunk: bytes) -> None:
    import tracemalloc

    tracemalloc.start()
    try:
        reader = diagnose(logs.read(io.BufferedReader(Endless(chunk, 400), 8192)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert reader.findings() == ()
    assert peak < 1_000_000


def test_processes_without_number_do_not_fill_the_memory() -> None:
    reader = diagnose(logs.lines(lines(*(f"(P pid={n}) odd {n}" for n in range(2000)))))
    assert len(reader.processes) <= 256


# The container's own log


def container(**changes: Any) -> ContainerState:
    values: dict[str, Any] = {
        "id": "c" * 64, "name": "qwen3-omni", "status": "exited", "exit_code": 1,
        "oom_killed": False, "error": "", "restarts": 0, "started_at": "", "health": None,
        "image_id": "sha256:1", "labels": {},
    }  # fmt: skip
    return ContainerState(**{**values, **changes})


class FakeEngine:
    """An engine with one container, or none."""

    def __init__(self, found: ContainerState | None, log: str = "", inspected: Any = None) -> None:
        self.found, self.log, self.inspected = found, log, inspected
        self.tails: list[int | None] = []
        self.stopped = 0
        self.kept: dict[str, bytes] = {}

    def container(self, name: str) -> ContainerState | None:
        return self.found if self.found and self.found.name == name else None

    def log_stream(self, found: ContainerState, tail: int | None) -> Iterator[bytes]:
        assert found is self.found
        self.tails.append(tail)
        data = self.log.encode()
        yield from (data[start : start + 7] for start in range(0, len(data), 7))

    def logs(self, found: ContainerState, tail: int) -> str:
        assert found is self.found
        assert tail > 0
        return self.log

    def files(self, found: ContainerState, path: str) -> dict[str, bytes]:
        assert found is self.found
        assert path.startswith("/var/cache/appliance/supervisor")
        return self.kept

    def inspect(self, name: str) -> Any:
        return self.inspected if self.container(name) else None

    def version(self) -> Any:
        return {"Version": "26.1.5"}

    def image(self, name: str) -> Any:
        assert name
        return docker.ImageState("sha256:1", 7, {"note": "HF_TOKEN=hf_imageimageimage"})

    def stop(self, found: ContainerState, timeout: int) -> None:
        assert found is self.found
        assert timeout > 0
        self.stopped += 1


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    fake = FakeEngine(container(), f"(Worker_TP0 pid=7) {OOM}\n")
    monkeypatch.setattr(docker, "connect", lambda: fake)
    return fake


def own(**wanted: Any) -> run.Diagnosis:
    return run.run(run.Wanted(**wanted), "qwen3-omni")


def test_the_container_is_asked_where_no_log_is_named(engine: FakeEngine) -> None:
    told = own(tail=50)
    assert [item.id for item in told.findings] == ["npu-out-of-memory"]
    assert told.title == "container qwen3-omni"
    assert engine.tails == [50]


def test_what_the_engine_knows_of_the_end_counts_where_the_log_is_silent(
    engine: FakeEngine,
) -> None:
    engine.log = "INFO 01-01 00:00:00 [a.py:1] Loading\n"
    for changes, first in (
        ({"oom_killed": True, "exit_code": 137}, "host-out-of-memory"),
        ({"exit_code": 137}, "container-killed"),
        ({"status": "created", "error": 'error gathering device information while adding custom '
          'device "/dev/davinci0": no such file or directory'}, "device-node-missing"),
    ):  # fmt: skip
        engine.found = container(**changes)
        told = own()
        assert told.findings[0].id == first
        assert told.last == "Loading"
    engine.log = f"(W pid=1) {STRANGE}\n"
    engine.found = container(exit_code=137)
    assert own().findings[0].id == UNKNOWN


def test_without_a_container_the_kept_log_is_read(engine: FakeEngine) -> None:
    engine.found = None
    with pytest.raises(ApplianceError) as failed:
        own()
    assert failed.value.id == "not-running"
    assert "--log" in failed.value.remedy
    state.write(state.folder("qwen3-omni") / "previous.log", OOM)
    told = own()
    assert told.findings[0].id == "npu-out-of-memory"
    assert "previous.log" in told.title


def test_of_a_file_the_last_lines_are_read_when_asked(tmp_path: Path) -> None:
    file = tmp_path / "a.log"
    file.write_text(lines(OOM, *filler(5), PEER), encoding="utf-8")
    told = run.run(run.Wanted(file, tail=3), "")
    assert [(item.id, item.line_number) for item in told.findings] == [("hccl-peer-timeout", 7)]


def test_a_stream_of_chunks_is_a_file() -> None:
    stream = source._stream(iter([b"", b"one\ntw", b"", b"o\n", b"three"]))
    assert stream.read() == b"one\ntwo\nthree"


def test_what_is_kept_of_a_log_begins_with_a_whole_line() -> None:
    kept = source.Kept(io.BytesIO(b"first secret\nsecond\nthird\n"), 20)
    while kept.readline(8):
        pass
    assert kept.text() == "second\nthird\n"
    kept = source.Kept(io.BytesIO(b"all\nof it\n"), 20)
    while kept.readline(8):
        pass
    assert kept.text() == "all\nof it\n"


# `up`


class FakeUp(Up):
    """A run of `up` for its last words only."""

    def __init__(self) -> None:
        self.name = "qwen3-omni"


def refused(engine: FakeEngine) -> ApplianceError:
    with pytest.raises(ApplianceError) as failed:
        FakeUp()._refuse_dead(engine)  # type: ignore[arg-type]
    assert engine.stopped == 1
    return failed.value


def test_up_says_why_a_start_failed_and_what_to_do(engine: FakeEngine) -> None:
    error = refused(engine)
    known = CATALOG["npu-out-of-memory"]
    assert error.id == "container-died"
    assert f"ended with exit code 1. First error: {OOM}" in error.message
    assert f"Cause [npu-out-of-memory]: {known.cause}" in error.message
    assert error.remedy == known.remedy


def test_up_gives_the_line_of_an_unknown_error(engine: FakeEngine) -> None:
    engine.log = f"(Worker_TP0 pid=7) {STRANGE}\n"
    error = refused(engine)
    assert error.message == f"The container ended with exit code 1. First error: {STRANGE}"
    assert error.remedy == error.kind.remedy


def test_up_says_what_the_supervisor_knows_of_the_end(engine: FakeEngine) -> None:
    past = {"at": 1.0, "cause": "engine-died", "detail": "the engine ended by SIGKILL", "ran": 9.5}
    engine.kept = {"state.json": json.dumps({"failures": [past]}).encode()}
    assert "The container ended: the engine ended by SIGKILL. First" in refused(engine).message
    engine.kept = {"state.json": b"garbage"}
    assert "ended with exit code 1." in refused_again(engine).message


def refused_again(engine: FakeEngine) -> ApplianceError:
    engine.stopped = 0
    return refused(engine)


def test_a_hang_is_told_by_the_supervisors_words_before_its_stacks() -> None:
    hung = SAMPLES["engine-hung"][0]
    assert ids(lines(hung, "Fatal Python error: Aborted", "", "Current thread")) == [
        "engine-hung", "engine-died",
    ]  # fmt: skip


def test_an_engine_that_stays_down_does_not_hide_why() -> None:
    down = SAMPLES["engine-stays-down"][0]
    first, *_ = found(lines(OOM, SAMPLES["engine-died"][0], down))
    assert first.id == "npu-out-of-memory"


def test_wrappers_and_harmless_lines_explain_nothing() -> None:
    wrapper = "RuntimeError: Engine core initialization failed. See root cause above."
    assert explain(wrapper) == (wrapper, None)
    assert explain("get_mempolicy: Operation not permitted\nlast words") == ("last words", None)
    assert explain("") == ("the log is empty", None)


# The command


def appliance(
    home: Path, *words: str, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "appliance", *words],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DOCKER_HOST": NO_ENGINE},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    return done


def test_a_log_is_diagnosed_as_one_document(clean: Path) -> None:
    done = appliance(clean, "diagnose", "--log", str(LOGS / "second-instance.log"), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert set(document) == {"findings"}
    first = document["findings"][0]
    assert (first["id"], first["first"]) == ("npu-memory-held-by-another", True)
    assert all(not item["first"] for item in document["findings"][1:])
    assert first["cause"]
    assert first["remedy"]


def test_standard_input_is_read(clean: Path) -> None:
    done = appliance(clean, "diagnose", "--log", "-", "--json", stdin=OOM)
    assert json.loads(done.stdout)["findings"][0]["id"] == "npu-out-of-memory"


def test_people_get_the_cause_first_and_what_to_do(clean: Path) -> None:
    log = LOGS / "one-rank-out-of-memory.log"
    out = appliance(clean, "diagnose", "--log", str(log)).stdout
    assert out.startswith("[npu-out-of-memory], while loading (line ")
    words = " ".join(out.split())
    assert CATALOG["npu-out-of-memory"].cause in words
    assert CATALOG["npu-out-of-memory"].remedy in words
    assert "vllm-project/vllm-ascend#6611" in words
    assert "hccl-peer-timeout" in words
    assert "Say only that something failed: " in words


def test_a_log_without_errors_says_so_and_where_to_look(clean: Path) -> None:
    done = appliance(clean, "diagnose", "--log", str(LOGS / "healthy-cpu.log"))
    assert done.returncode == 0
    assert done.stdout.startswith("No error that is known or looks like one in 13 lines of ")
    assert "/var/cache/appliance/ascend/log" in done.stdout
    assert "Harmless: numa-policy-refused" in done.stdout


@pytest.mark.parametrize(
    ("words", "error", "code"),
    [
        (["--log", "absent.log"], "file-not-written", 89),
        (["--log", "."], "file-not-written", 89),
        ([], "engine-unreachable", 71),
        (["--set", "no.key=1"], "config-unknown-key", 65),
        (["--log", "x", "--tail", "0"], "usage", 2),
    ],
)
def test_what_can_not_be_read_is_a_typed_error(
    clean: Path, words: list[str], error: str, code: int
) -> None:
    done = appliance(clean, "diagnose", *words, "--json")
    assert done.returncode == code
    assert json.loads(done.stdout)["error"]["id"] == error


def test_a_log_that_is_named_needs_no_configuration(clean: Path) -> None:
    (clean / "appliance.yaml").write_text("nonsense: true\n", encoding="utf-8")
    log = LOGS / "only-wrappers.log"
    assert appliance(clean, "diagnose", "--log", str(log)).returncode == 0


def test_an_archive_is_written_where_nothing_works(clean: Path) -> None:
    (clean / "appliance.yaml").write_text("nonsense: hf_nonsensenonsense\n", encoding="utf-8")
    done = appliance(clean, "diagnose", "--bundle", "b.tar.gz", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["findings"] == []
    written = document["bundle"]
    assert {"findings", "container", "container-inspect", "config", "plan", "inventory"} <= set(
        written["failed"]
    )
    files = unpacked(clean / "b.tar.gz")
    assert "config-unknown-key" in files["config.error.txt"]
    assert "engine-unreachable" in files["container-inspect.error.txt"]
    assert "hf_nonsense" not in "".join(files.values())
    assert json.loads(files["versions.json"])["appliance"]


# The archive

SECRETS = {
    "env": "hunter2-env-value",
    "spaced": "two words of secret",
    "option": "k-option-value-99",
    "second": "k-second-value-98",
    "label": "label-value-in-the-plan",
    "config": "p4ss/w0rd@cfg",
    "header": "c2VjcmV0LWJlYXJlcg",
    "hub": "hf_AbCdEfGhIjKlMnOpQrSt",
    "scope": "ms-01234567-89ab-cdef-0123-456789abcdef",
    "process": "of-this-process-itself",
    "pem": "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC",
    "prompt": "tell me of my illness",
    "answer": "you are quite well",
    "media": "iVBORw0KGgoAAAANSUhEUgAAAAUA",
    "cookie": "sid=0123456789",
    "query": "signature-of-a-link",
}
KEY = "9f&/\"Q'k+secret\\key=="


def spellings(secret: str) -> set[str]:
    """The ways in which a secret could stand in a file, as a reader would look for it."""
    encoded = base64.b64encode(secret.encode()).decode().rstrip("=")
    return {
        secret,
        quote(secret, safe=""),
        json.dumps(secret)[1:-1],
        json.dumps(json.dumps(secret))[1:-1],
        encoded[: len(encoded) // 4 * 4 - 4] or secret,
        secret.encode().hex(),
    }


def planted_log() -> str:
    basic = base64.b64encode(f"user:{KEY}".encode()).decode()
    shifted = base64.b64encode(f"u:{KEY}:x".encode()).decode()
    s = SECRETS
    start = "(APIServer pid=1) INFO 01-01 00:00:00 [logger.py:41]"
    begin, end = "-----BEGIN RSA PRIVATE KEY-----", "-----END RSA PRIVATE KEY-----"
    return lines(
        f"{start} non-default args: {{'api_key': ['{s['option']}', '{s['second']}'], 'port': 80}}",
        f"{start} Received request chatcmpl-1: prompt: '<|im_start|>user\\n{s['prompt']}', "
        "params: SamplingParams(n=1), prompt_token_ids: [151644, 872], lora_request: None.",
        f"{start} Generated response chatcmpl-1: output: '{s['answer']}', output_token_ids: [1]",
        f"INFO:     127.0.0.1 - GET /v1 Authorization: Bearer {s['header']}",
        f"curl -H 'Authorization: Basic {basic}' http://h/ and {shifted}",
        f"export MY_PASSWORD={s['env']} HF_TOKEN={s['hub']} then {s['hub']} and {s['scope']}",
        f"vllm serve --api-key {s['option']} {s['second']} --port 8000",
        f"the key itself: {KEY} and {quote(KEY, safe='')} and {json.dumps(json.dumps(KEY))}",
        f"Cookie: {s['cookie']}; other=1",
        f"GET https://store/x?token={s['query']}&y=1",
        f"image_url data:image/png;base64,{s['media']}==",
        f"messages: {{'role': 'user', 'content': '{s['prompt']}'}}",
        f"pydantic [type=value_error, input_value={{'content': '{s['prompt']}'}}, input_type=dict]",
        f"{begin}\n{s['pem']}\n{s['pem']}\n{end}",
        f"proxy http://user:{s['config']}@proxy.example:3128 failed",
        f"(Worker_TP0 pid=7) RuntimeError: {OOM} while HF_TOKEN={s['hub']} " + "z" * 600 + KEY,
        f"{s['spaced']}, {s['label']}, {s['process']} once more; Worker 192.0.2.7 stays",
    )


def planted_inspection(key_file: Path) -> dict[str, Any]:
    spec = {
        "environment": [["PLAN_SECRET", SECRETS["label"]], ["HOME", "/tmp"]],
        "command": ["vllm", "serve", "--api-key", SECRETS["option"], SECRETS["second"], "--port"],
        "mounts": [{"source": str(key_file), "target": "/run/secrets/appliance-api-key"}],
    }
    return {
        "Id": "c" * 64,
        "Args": ["serve", "--hf-token", SECRETS["hub"], f"--api-key={SECRETS['option']}"],
        "Config": {
            "Env": [
                f"MY_PASSWORD={SECRETS['env']}",
                f"DB_CREDENTIALS={SECRETS['spaced']}",
                f"HTTP_PROXY=http://user:{SECRETS['config']}@proxy.example:3128",
                "PATH=/usr/bin",
                "MAX_TOKENS=512",
            ],
            "Labels": {"appliance.plan": json.dumps(spec), "other": f"Bearer {SECRETS['header']}"},
        },
        "Mounts": [
            {"Source": str(key_file), "Destination": "/run/secrets/appliance-api-key"},
            {"Source": "/srv/models", "Destination": "/models"},
        ],
    }


def unpacked(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        files = {}
        for member in archive.getmembers():
            content = archive.extractfile(member)
            assert content is not None
            assert member.mode == 0o600
            files[member.name.partition("/")[2]] = content.read().decode()
        return files


@pytest.fixture
def planted(engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The files of an archive from a host that has a secret in every place."""
    key_file = tmp_path / "key"
    key_file.write_text(f"{KEY}\n", encoding="utf-8")
    key_file.chmod(0o600)
    monkeypatch.setenv("SOME_API_KEY", SECRETS["process"])
    config = Config(
        server=Server(api_key_file=str(key_file)),
        container=Container(environment={"MY_TOKEN": SECRETS["env"]}),
        build=Build(pip_index_url=f"https://user:{SECRETS['config']}@index.example/simple"),
    )
    engine.log = planted_log()
    engine.inspected = planted_inspection(key_file)
    engine.kept = {
        "evidence-20261122T120000Z.txt": f"[engine-hung] first\n{planted_log()}".encode(),
        "evidence-20261122T130000Z.txt": b"[engine-hung] second\n\xff",
        "state.json": b"{}",
    }
    state.write(state.folder("qwen3-omni") / "previous.log", planted_log())
    loaded = Loaded(config, {"server.api_key_file": f"flag {SECRETS['hub']}"})
    wanted = run.Wanted(bundle=tmp_path / "b.tar.gz")
    told, written = run.perform(wanted, lambda: loaded)
    assert told.findings[0].id == "npu-out-of-memory"
    assert written is not None
    return unpacked(tmp_path / "b.tar.gz")


@pytest.mark.parametrize("secret", [*SECRETS.values(), KEY], ids=[*SECRETS, "key"])
def test_no_secret_is_in_the_archive_in_any_spelling(planted: dict[str, str], secret: str) -> None:
    for name, text in planted.items():
        for spelt in spellings(secret):
            assert spelt not in text, f"{name}: {spelt}"


def test_the_archive_has_what_helps(planted: dict[str, str]) -> None:
    evidence = planted["evidence.log"]
    assert evidence.startswith("# evidence-20261122T120000Z.txt\n[engine-hung] first\n")
    assert "# evidence-20261122T130000Z.txt\n[engine-hung] second\n\ufffd" in evidence
    assert "state.json" not in evidence
    assert {"findings.json", "container.log", "previous.log", "config.json", "versions.json",
            "container-inspect.json", "MANIFEST.json"} <= set(planted)  # fmt: skip
    for part in ("inventory", "plan"):
        assert f"{part}.json" in planted or f"{part}.error.txt" in planted
    manifest = json.loads(planted["MANIFEST.json"])
    assert set(manifest["files"]) | {"MANIFEST.json"} == set(planted)
    assert {"known-secret", "named-secret", "user-content", "token", "private-key", "media",
            "url-login", "authorization"} <= set(manifest["redacted"])  # fmt: skip
    assert manifest["redacted"]["known-secret"] > 4
    finding = json.loads(planted["findings.json"])["findings"][0]
    assert finding["id"] == "npu-out-of-memory"
    assert OOM in finding["line"]
    config = json.loads(planted["config.json"])
    assert config["values"]["server.port"] is None or config["values"]["server.port"]
    assert "server.api_key_file" in config["origins"]
    inspected = json.loads(planted["container-inspect.json"])
    assert "PATH=/usr/bin" in inspected["Config"]["Env"]
    assert "MAX_TOKENS=512" in inspected["Config"]["Env"]
    plan = json.loads(inspected["Config"]["Labels"]["appliance.plan"])
    assert plan["environment"] == [["PLAN_SECRET", f"{MARK}named-secret>"], ["HOME", "/tmp"]]
    assert "192.0.2.7 stays" in planted["container.log"]
    assert "SamplingParams(n=1)" in planted["container.log"]


def test_an_archive_is_its_owners_and_overwrites_nothing(tmp_path: Path) -> None:
    loaded = ApplianceError("config-invalid", "no configuration")
    told = run.Diagnosis("nothing", error=ApplianceError("not-running", "nothing"))
    file = tmp_path / "b.tar.gz"
    old = os.umask(0)
    try:
        bundle.write(file, "x", loaded, told, force=False)
    finally:
        os.umask(old)
    assert file.stat().st_mode & 0o777 == 0o600
    before = file.read_bytes()
    with pytest.raises(ApplianceError) as failed:
        run.perform(run.Wanted(bundle=file), lambda: Loaded(Config(), {}))
    assert failed.value.id == "file-differs"
    with pytest.raises(ApplianceError):
        bundle.write(file, "x", loaded, told, force=False)
    assert file.read_bytes() == before
    file.write_bytes(b"old")
    bundle.write(file, "x", loaded, told, force=True)
    assert "MANIFEST.json" in unpacked(file)
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("place", ["absent/b.tar.gz", "file/b.tar.gz", "folder"])
def test_a_place_that_can_not_be_written_is_a_typed_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    loaded = ApplianceError("config-invalid", "no configuration")
    told = run.Diagnosis("nothing")
    with pytest.raises(ApplianceError) as failed:
        bundle.write(tmp_path / place, "x", loaded, told, force=True)
    assert failed.value.id == "file-not-written"
    assert list(tmp_path.glob("**/.*")) == []


# Redaction


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MYPASSWORD", "KEY", "DB_PWD", "X_AUTH_2", "api_key",
     "hf_token", "access-key", "apiKey", "Authorization", "password", "CLIENT_SECRET", "cookie",
     "x-api-key", "COOKIES", "GIT_CREDENTIALS"],
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    ["PATH", "PWD", "TOKENIZERS_PARALLELISM", "tokenizer", "max_num_batched_tokens", "eos_token",
     "token_ids", "key", "keys", "api_key_file", "APPLIANCE_SERVER_API_KEY_FILE", "author",
     "kv_cache", "monkey", "turkey", "HOME", "VLLM_PORT", "per_token"],
)  # fmt: skip
def test_names_of_other_things(name: str) -> None:
    assert not is_secret(name)


@pytest.mark.parametrize(
    "text",
    ["max_num_batched_tokens=8192, tokenizer='/models/m'", "docker.io/library/x@sha256:abc",
     "/etc/keys/k:/run/secrets/appliance-api-key:ro", "api_key=None, hf_token=''",
     "GPU KV cache size: 524,288 tokens", "--tokenizer /models/m --seed 1",
     "APPLIANCE_SERVER_API_KEY_FILE=/etc/appliance/key", "http://127.0.0.1:8000/v1/models"],
)  # fmt: skip
def test_what_is_no_secret_stays(text: str) -> None:
    assert Redactor().text(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "vllm serve --api-key SECRET SECRET2 --port 8000",
        "['--api-key', 'SECRET', '--port']",
        "unrecognized arguments: --hf-token=SECRET",
        "non-default args: {'api_key': ['SECRET', 'SECRET2'], 'port': 8000}",
        "Namespace(api_key='SECRET', host=None)",
        '{\\"HF_TOKEN\\": \\"SECRET\\", \\"x\\": 1}',
        "export DB_PASSWORD=SECRET,with;odd)signs",
        "MY_SECRET='SECRET with spaces'",
        "password: SECRET",
        "x-api-key: SECRET",
        "Authorization: Bearer SECRETSECRET",
        "authorization: Basic SECRETSECRET",
        "Proxy-Authorization: SECRET",
        "Set-Cookie: sid=SECRET; Path=/",
        "https://user:SECRET@host/simple",
        "https://user:SECRET/with@signs@host/simple",
        "https://SECRET@host/simple",
        "https://host/x?y=1&token=SECRET",
    ],
)
def test_secrets_are_hidden_where_nothing_is_known_of_them(text: str) -> None:
    redactor = Redactor()
    shown = redactor.text(text)
    assert "SECRET" not in shown.replace("MY_SECRET", "")
    assert MARK in shown
    assert sum(redactor.counts.values()) >= 1
    # What was redacted once is not redacted again.
    assert Redactor().text(shown) == shown


def test_half_a_private_key_is_taken_out_too() -> None:
    body = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC"
    for text in (
        f"before\n{body}\n{body}==\n-----END PRIVATE KEY-----\nafter",
        f"before\n-----BEGIN EC PRIVATE KEY-----\n{body}\n{body}\nafter it",
    ):
        shown = Redactor().text(text)
        assert body not in shown
        assert "before" in shown
        assert "after" in shown


def test_short_secrets_are_hidden_as_words() -> None:
    redactor = Redactor()
    redactor.learn("abc", certain=True)
    redactor.learn("def")
    assert redactor.text("abc abcd def") == f"{MARK}known-secret> abcd def"


@pytest.mark.parametrize(
    "text",
    ["(" * 60_000, "a" * 60_000, "\\" * 60_000, "http://" + "a:" * 30_000, "a=[" * 20_000,
     "--a " * 20_000, '"' + '\\"' * 30_000, "token=[" + "'a'," * 20_000, "prompt: '" * 9_000,
     "-----END PRIVATE KEY-----\n" * 900, "-----BEGIN PRIVATE KEY-----\n" * 900],
    ids=range(11),
)  # fmt: skip
def test_any_text_is_redacted_in_no_time(text: str) -> None:
    redactor = Redactor()
    redactor.learn("a secret of some length")
    begun = time.monotonic()
    redactor.log(text)
    assert time.monotonic() - begun < 3


def test_the_catalog_is_read_once_and_patterns_when_needed() -> None:
    assert failures() is failures()
    made = Failure("x", ("a", "b"), "start", "c.", "r.", ("s",))
    assert "patterns" not in vars(made)
    assert made.search("xb") is not None
    assert "patterns" in vars(made)
    assert config_load.RESERVED  # The room that the launcher reads first needs none of this.
