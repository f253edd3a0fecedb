"""Result documents as files: faults in words, and nothing overwritten or cut short."""

from __future__ import annotations

import errno
import json
import math
import os
import pathlib
import stat
from typing import TYPE_CHECKING, Any

import pytest

from appliance.catalog import references
from appliance.errors import ApplianceError
from appliance.results import files
from appliance.results.model import Result
from tests import made_results as made

if TYPE_CHECKING:
    from pathlib import Path

SMALL = made.bench(made.run(asked=made.Asked(count=20)))


def document() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(files.serialised(SMALL))
    return read


def refused(path: Path, id: str = "result-invalid") -> str:  # noqa: A002
    with pytest.raises(ApplianceError) as caught:
        files.read(path)
    assert caught.value.id == id
    assert str(path) in caught.value.message
    return caught.value.message


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "made.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# Reading


def test_what_was_written_is_what_is_read(tmp_path: Path) -> None:
    for result in (SMALL, made.guide_scores()):
        path = tmp_path / result.kind / files.NAME
        files.write(result, path)
        assert files.read(path) == result
        # A run's folder stands for the document in it.
        assert files.read(path.parent) == result


def test_a_file_that_is_absent(tmp_path: Path) -> None:
    assert "there is no such file" in refused(tmp_path / "none.json")
    assert "result.json is not a result: there is no such file" in refused(tmp_path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is not JSON (line 1, column 1"),
        ('{\n  "kind": ', "it is not JSON (line 2, column 11"),
        (b"\xff\xfe\x00", "it is not text in UTF-8"),
        ("[]", "it is not a JSON object"),
        ("null", "it is not a JSON object"),
        ("{}", "it has no `schema_version`"),
        ('{"schema_version": 2}', "its schema_version is 2, and this version reads 1"),
        ('{"schema_version": "1"}', "its schema_version is '1'"),
        ('{"schema_version": true}', "its schema_version is True"),
        ('{"schema_version": [[["' + "x" * 1000 + '"]]]}', "its schema_version is [[['xxx"),
        ("[" * 100_000, "it is not JSON that can be read"),
        ('{"schema_version": ' + "9" * 10_000 + "}", "it is not JSON that can be read"),
    ],
    ids=range(12),
)
def test_what_is_no_result_at_all(tmp_path: Path, text: str | bytes, why: str) -> None:
    message = refused(written(tmp_path, text))
    assert why in message
    assert len(message) < 400 + len(str(tmp_path))


def test_a_file_that_can_not_be_read(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert "it can't be read" in refused(loop)


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "it is no regular file" in refused(pipe)
    assert "it is no regular file" in refused(pathlib.Path("/dev/zero"))


def test_infinitely_many_a_second_are_all_at_once(tmp_path: Path) -> None:
    made_so = document()
    made_so["runs"][0]["parameters"]["request_rate"] = math.inf
    found = files.read(written(tmp_path, json.dumps(made_so)))
    assert found.runs[0].parameters.request_rate is None


@pytest.mark.parametrize(
    ("place", "value", "why"),
    [
        (("nmae",), "x", "the key nmae is not known, name is"),
        (("system", "model", "weigths"), "real", "system.model.weigths is not known, weights is"),
        (("system", "parallel", "tp"), 2, "the key system.parallel.tp is not known"),
        (("runs", 0, "metric"), {}, "runs.0.metric is not known, metrics is"),
        (("runs", 0, "parameters", "request_rat"), 1, "is not known, request_rate is"),
        (("kind",), "benchmark", "kind: Input should be 'bench' or 'eval', but it is 'benchmark'"),
        (("runs", 0, "metrics", "mean_ttft_ms"), "fast", "but it is 'fast'"),
        (("runs", 0, "metrics", "mean_ttft_ms"), "12", "but it is '12'"),
        (("runs",), {}, "runs: Input should be a valid list"),
        (("system", "model", "id"), None, "system.model.id: Input should be a valid string"),
        (("name",), ["x" * 5000], "name: Input should be a valid string"),
    ],
    ids=range(11),
)
def test_a_document_with_a_fault(
    tmp_path: Path, place: tuple[str | int, ...], value: object, why: str
) -> None:
    made_wrong: Any = document()
    part = made_wrong
    for step in place[:-1]:
        part = part[step]
    part[place[-1]] = value
    message = refused(written(tmp_path, json.dumps(made_wrong)))
    assert why in message
    assert len(message) < 400 + len(str(tmp_path))


def test_missing_keys_and_many_faults(tmp_path: Path) -> None:
    wrong = document()
    del wrong["kind"]
    wrong["runs"][0]["samples"]["ttft_ms"] = ["x"] * 20
    message = refused(written(tmp_path, json.dumps(wrong)))
    assert "the key kind is missing" in message
    assert "and 16 more" in message


def test_a_file_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST_BYTES", 100)
    assert "larger than any result" in refused(written(tmp_path, json.dumps(document())))


# Writing


def test_the_umask_decides_who_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write(SMALL, tmp_path / "made.json")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "made.json").stat().st_mode) == 0o640


def test_another_result_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "made.json"
    files.write(SMALL, path)
    files.write(SMALL, path)  # The same: nothing to do.
    before = path.read_bytes()
    with pytest.raises(ApplianceError) as caught:
        files.write(made.guide_scores(), path)
    assert caught.value.id == "file-differs"
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["made.json"]


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(pathlib.Path, "hardlink_to", refuse)
    test_another_result_is_never_overwritten(tmp_path)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_text", full)
    with pytest.raises(ApplianceError) as caught:
        files.write(SMALL, tmp_path / "made.json")
    assert caught.value.id == "disk-full"
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for place in (tmp_path / "file" / "made.json", tmp_path / ("n" * 300)):
        with pytest.raises(ApplianceError) as caught:
            files.write(SMALL, place)
        assert caught.value.id == "file-not-written"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_what_is_no_number_is_left_out_and_said(tmp_path: Path) -> None:
    run = made.run(asked=made.Asked(count=20))
    run = run.model_copy(
        update={
            "metrics": {**run.metrics, "mean_ttft_ms": math.nan, "duration": math.inf},
            "samples": {**run.samples, "ttft_ms": [1.0, math.nan]},
        }
    )
    scores = [made.score("gsm8k", math.nan, 0)]
    result = made.bench(run).model_copy(update={"scores": scores})
    files.write(result, tmp_path / "made.json")
    text = (tmp_path / "made.json").read_text("utf-8")
    assert "NaN" not in text
    assert "Infinity" not in text
    read = files.read(tmp_path / "made.json")
    assert "mean_ttft_ms" not in read.runs[0].metrics
    assert read.runs[0].samples["ttft_ms"] == [1.0]
    assert read.notes == [
        "guide: not a number, and left out: duration, mean_ttft_ms, ttft_ms.",
        "gsm8k default: the score is not a number, and left out.",
    ]


# The published figures


def test_the_guide_s_figures_agree_with_each_other() -> None:
    guide = references.reference("guide", "bench")
    run = guide.runs[0]
    asked, metrics = run.parameters, run.metrics
    assert asked.input_len is not None
    assert asked.output_len is not None
    assert metrics["completed"] * asked.input_len == metrics["total_input_tokens"] == 40_000
    assert metrics["completed"] * asked.output_len == metrics["total_output_tokens"] == 25_600
    seconds = metrics["duration"]
    for name, count in (
        ("request_throughput", metrics["completed"]),
        ("output_throughput", 25_600),
        ("total_token_throughput", 65_600),
    ):
        assert metrics[name] == pytest.approx(count / seconds, abs=0.006)
    assert guide.system.model.weights == "dummy"
    assert guide.system.parallel.expert_parallel is False
    assert "--enable-expert-parallel" not in (guide.system.serve_args or [])


def test_the_guide_s_scores_are_shares_of_whole_questions() -> None:
    guide = references.reference("guide", "eval")
    assert guide.system.model.weights == "real"
    for score in guide.scores:
        right = score.score * score.num
        assert right == pytest.approx(round(right), abs=0.00005 * score.num)
    assert [score.num for score in guide.scores] == [100, 100, 270]


@pytest.mark.parametrize("kind", ["bench", "eval"])
def test_every_flaw_is_of_a_figure_that_is_there(kind: Any) -> None:
    guide = references.reference("guide", kind)
    known = {"*", *(score.dataset for score in guide.scores)}
    known |= {name for run in guide.runs for name in run.metrics}
    assert guide.source
    assert guide.flaws
    for flaw in guide.flaws:
        assert set(flaw.metrics) <= known
        assert flaw.text.endswith(".")
        assert "\n" not in flaw.text


def test_figures_that_are_not_there() -> None:
    with pytest.raises(ApplianceError) as caught:
        references.reference("nobody", "bench")
    assert caught.value.id == "result-invalid"


def test_the_reference_is_a_result_like_any_other(tmp_path: Path) -> None:
    for name in references.names():
        guide = references.reference(name, "bench")
        files.write(guide, tmp_path / f"{name}.json")
        assert files.read(tmp_path / f"{name}.json") == guide
        assert isinstance(guide, Result)
