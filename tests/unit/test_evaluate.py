"""`appliance eval`: what evalscope is told, which files it gets, and what comes of its reports."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from appliance import paths
from appliance.catalog import evaluation as catalog
from appliance.catalog.references import reference
from appliance.cli import evaluate as command
from appliance.compare.run import compare
from appliance.config.model import Build, Config
from appliance.engine import images
from appliance.engine.docker import ImageState
from appliance.engine.images import LABEL_BASE, LABEL_CONTEXT
from appliance.errors import ApplianceError
from appliance.evaluate import image, job, local, scores, work
from appliance.evaluate.run import perform
from appliance.evaluate.scores import Told
from appliance.evaluate.work import Wanted
from appliance.inside import evaluate as inside
from appliance.lifecycle.progress import Progress
from appliance.plan.model import Mount
from appliance.results.model import Model, Result, System

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("clean")

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "eval"
# The line of the vllm-ascend documentation, as it stands there.
GUIDE = """
evalscope eval \\
    --model /root/.cache/modelscope/hub/models/Qwen/Qwen3-Omni-30B-A3B-Thinking \\
    --api-url http://localhost:8000/v1 \\
    --api-key EMPTY \\
    --eval-type server \\
    --datasets omni_bench, gsm8k, bbh \\
    --dataset-args '{"omni_bench": { "extra_params": { "use_image": true, "use_audio": false}}}' \\
    --eval-batch-size 1 \\
    --generation-config '{"max_tokens": 10000, "temperature": 0.6}' \\
    --limit 100
"""


def refused(id: str, call: Any, *args: Any) -> str:  # noqa: A002
    """The message of the error that a call must raise."""
    with pytest.raises(ApplianceError) as caught:
        call(*args)
    assert caught.value.id == id, caught.value.message
    return f"{caught.value.message} {caught.value.remedy}"


def asked(**wanted: Any) -> work.Questions:
    return work.questions(Wanted(**wanted), catalog.defaults())


# What is asked


def test_nothing_of_the_guides_line_is_lost() -> None:
    import shlex

    words = shlex.split(GUIDE.replace("\\\n", " "))
    given: dict[str, list[str]] = {}
    for word in words[2:]:
        if word.startswith("--"):
            given[word] = []
            last = given[word]
        else:
            last.append(word)
    task = asked().task("http://localhost:8000", "Qwen/Qwen3-Omni-30B-A3B-Thinking")
    assert task.pop("datasets") == [word.strip(",") for word in given.pop("--datasets")]
    assert task.pop("dataset_args") == json.loads(given.pop("--dataset-args")[0])
    assert task.pop("limit") == int(given.pop("--limit")[0])
    assert task.pop("eval_batch_size") == int(given.pop("--eval-batch-size")[0])
    assert task.pop("api_url") == given.pop("--api-url")[0]
    generation = task.pop("generation_config")
    # Not the guide's: how long to wait for an answer of 10,000 tokens.
    assert generation.pop("timeout") == 7200
    assert generation == json.loads(given.pop("--generation-config")[0])
    # Another server's name for the model, and the newer evalscope's for the API.
    assert (task.pop("model"), task.pop("eval_type")) == (
        "Qwen/Qwen3-Omni-30B-A3B-Thinking",
        "openai_api",
    )
    assert set(given) == {"--model", "--eval-type", "--api-key"}
    assert task == {"ignore_errors": False}


def test_what_is_asked_by_default_is_what_the_guide_published() -> None:
    published = reference("guide", "eval")
    assert published.evaluation is not None
    own = asked().settings("1.14.1")
    assert own.model_copy(update={"evalscope": None}) == published.evaluation
    media = {score.dataset: score.modalities for score in published.scores}
    assert media == {name: asked().media(name, catalog.defaults()) for name in asked().datasets}


def test_flags_change_what_is_asked() -> None:
    made = asked(
        datasets=("omni_bench", "bbh"),
        subsets=("bbh/navigate", "bbh/snarks"),
        limit=0,
        batch_size=8,
        max_tokens=20,
        temperature=0.0,
        timeout=5.0,
        use_audio=True,
        dataset_args={"bbh": {"few_shot_num": 0}},
    )
    assert made.dataset_args == {
        "omni_bench": {"extra_params": {"use_image": True, "use_audio": True}},
        "bbh": {"few_shot_num": 0, "subset_list": ["navigate", "snarks"]},
    }
    assert made.media("omni_bench", catalog.defaults()) == ["image", "audio"]
    assert made.generation == {"max_tokens": 20, "temperature": 0.0}
    assert (made.limit, made.batch_size, made.timeout) == (None, 8, 5.0)
    assert made.subsets(catalog.defaults())["bbh"] == ("navigate", "snarks")


def test_the_operators_own_arguments_are_merged_and_not_mixed_up() -> None:
    given = {"omni_bench": {"extra_params": {"use_image": False}, "shuffle": True}}
    made = asked(datasets=("omni_bench", "mmlu"), dataset_args=given, use_audio=True)
    assert made.dataset_args == {
        "omni_bench": {"extra_params": {"use_image": False, "use_audio": True}, "shuffle": True}
    }
    assert made.media("omni_bench", catalog.defaults()) == ["audio"]
    # A dataset that the catalog does not know is evalscope's business.
    assert made.media("mmlu", catalog.defaults()) is None
    assert catalog.defaults().datasets["omni_bench"].args["extra_params"]["use_image"] is True


@pytest.mark.parametrize(
    ("wanted", "part"),
    [
        ({"datasets": ("gsm8k", "gsm8k")}, "twice"),
        ({"datasets": ("gsm8k", "")}, "no name"),
        ({"subsets": ("navigate",)}, "DATASET/SUBSET"),
        ({"subsets": ("bbh/navigat",)}, "web_of_lies"),
        ({"datasets": ("gsm8k",), "subsets": ("bbh/navigate",)}, "DATASET/SUBSET"),
        ({"datasets": ("gsm8k",), "dataset_args": {"bbh": {}}}, "not asked"),
        ({"dataset_args": {"bbh": 1}}, "object"),
        ({"datasets": ("../../x",)}, "no name"),
        ({"datasets": ("/x",)}, "no name"),
        ({"datasets": ("**",)}, "no name"),
        ({"datasets": ("..",)}, "no name"),
        ({"dataset_args": {"gsm8k": {"subset_list": "main"}}}, "list of names"),
        ({"dataset_args": {"gsm8k": {"subset_list": None}}}, "list of names"),
        ({"dataset_args": {"gsm8k": {"subset_list": []}}}, "list of names"),
        ({"dataset_args": {"gsm8k": {"subset_list": [3]}}}, "list of names"),
        ({"dataset_args": {"gsm8k": {"subset_list": ["../x"]}}}, "has no subset"),
        ({"dataset_args": {"omni_bench": {"extra_params": 3}}}, "no object"),
        ({"dataset_args": {"omni_bench": {"extra_params": None}}}, "no object"),
        ({"datasets": ("gsm8k",), "use_audio": True}, "--use-audio is of omni_bench"),
        ({"datasets": ("gsm8k",), "use_image": False}, "--no-use-image is of omni_bench"),
    ],
)
def test_what_can_not_be_asked_is_said(wanted: dict[str, Any], part: str) -> None:
    assert part in refused("input-invalid", work.questions, Wanted(**wanted), catalog.defaults())


def test_secrets_in_the_operators_arguments_are_not_passed_on() -> None:
    made = asked(datasets=("mmlu",), dataset_args={"mmlu": {"hf_token": "hf_abcdefghijkl"}})
    assert "hf_abcdefghijkl" not in made.settings(None).model_dump_json()
    assert "hf_abcdefghijkl" in json.dumps(made.task("http://127.0.0.1:1", "m"))


def test_the_help_says_what_the_catalog_does() -> None:
    defaults = catalog.defaults()
    text = Path(command.__file__).read_text(encoding="utf-8")
    for default in (
        f"Datasets [default: {','.join(defaults.datasets)}]",
        f"First questions of each subset [default: {defaults.limit}]",
        f"Questions in flight [default: {defaults.batch_size}]",
        f"thinking included [default: {defaults.generation['max_tokens']}]",
        f"Of the sampling [default: {defaults.generation['temperature']}]",
        f"Seconds for one answer [default: {defaults.request_seconds:g}]",
    ):
        assert default in text, default


def test_a_run_goes_on_for_the_same_questions_to_the_same_server_alone() -> None:
    first = work.key(asked(), ["image", ["--tp", "2"]], None)
    assert first == work.key(asked(batch_size=9, timeout=1.0), ["image", ["--tp", "2"]], None)
    others = [
        work.key(asked(), ["image", ["--tp", "4"]], None),
        work.key(asked(), ["image", ["--tp", "2"]], [["gsm8k/main/test.jsonl", 5, 7]]),
        work.key(asked(limit=7), ["image", ["--tp", "2"]], None),
        work.key(asked(temperature=0.0), ["image", ["--tp", "2"]], None),
        work.key(asked(use_audio=True), ["image", ["--tp", "2"]], None),
        work.key(asked(datasets=("gsm8k",)), ["image", ["--tp", "2"]], None),
    ]
    assert len({first, *others}) == 7


# The files of datasets


def layouts(folder: Path, **subsets: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    return local.layouts(folder, subsets, catalog.defaults().datasets)


def put(folder: Path, *names: str, text: str = "{}\n") -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_the_projects_own_data_is_read_as_each_dataset_is_published() -> None:
    found = layouts(DATA, gsm8k=("main",), bbh=("navigate",), omni_bench=("default",))
    assert found["gsm8k"]["configs"] == [
        {
            "name": "main",
            "splits": {"test": ["main/test.jsonl"], "train": ["main/train.jsonl"]},
            "field": None,
        }
    ]
    # One object with a canary, as BIG-Bench Hard's authors have it.
    assert found["bbh"]["configs"] == [
        {"name": "navigate", "splits": {"test": ["navigate.json"]}, "field": "examples"}
    ]
    parquet = ["data/train-00000-of-00001.parquet"]
    assert found["omni_bench"]["configs"][0]["splits"] == {"train": parquet}


@pytest.mark.parametrize(
    "names",
    [
        ("main/test.jsonl", "main/train.jsonl"),
        ("test.jsonl", "train.jsonl"),
        ("data/test.json", "data/train.json"),
        ("main_test.jsonl", "main_train.jsonl"),
        ("main/test-00000-of-00001.parquet", "main/train-00000-of-00001.parquet"),
        ("main/test-00000-of-00002.jsonl", "main/test-00001-of-00002.jsonl", "main/train.jsonl"),
    ],
)
def test_the_forms_in_which_gsm8k_may_lie_there(tmp_path: Path, names: tuple[str, ...]) -> None:
    put(tmp_path / "gsm8k", *names)
    (config,) = layouts(tmp_path, gsm8k=("main",))["gsm8k"]["configs"]
    assert sorted(file for files in config["splits"].values() for file in files) == sorted(names)
    assert config["field"] is None


def test_missing_files_are_named_with_the_form_that_is_looked_for(tmp_path: Path) -> None:
    put(tmp_path / "bbh", "navigate.json")
    told = refused("dataset-missing", lambda: layouts(tmp_path, bbh=("navigate", "snarks")))
    assert "1 of the parts that bbh needs: snarks test" in told
    assert "SUBSET.{parquet,jsonl,json}" in told
    assert "modelscope download --dataset evalscope/bbh" in told
    put(tmp_path / "gsm8k", "main/test-00000-of-00002.parquet", "main/train.jsonl")
    told = refused("dataset-missing", lambda: layouts(tmp_path, gsm8k=("main",)))
    assert "main test" in told  # A shard is missing.
    put(tmp_path / "omni_bench", "data/train.jsonl")
    told = refused("dataset-missing", lambda: layouts(tmp_path, omni_bench=("default",)))
    assert "train-*-of-*.parquet" in told  # Lines of text hold no sound.
    assert "gsm8x" in refused("dataset-missing", lambda: layouts(tmp_path, gsm8x=()))
    assert "not a folder" in refused("dataset-missing", lambda: layouts(tmp_path / "absent"))


def test_a_copy_of_the_hubs_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = put(tmp_path / "bbh", "somewhere/else.jsonl")
    readme = folder / "README.md"
    readme.write_text("---\nconfigs:\n- config_name: navigate\n---\n# BBH\n", encoding="utf-8")
    assert layouts(tmp_path, bbh=("navigate",)) == {"bbh": {"as_is": True}}
    for text in ("# BBH\n", "---\nlicense: mit\n---\n", "---\n[\n---\n", "---\nonly"):
        readme.write_text(text, encoding="utf-8")
        refused("dataset-missing", lambda: layouts(tmp_path, bbh=("navigate",)))
    # Of a dataset that the catalog does not know, nothing is known to be missing.
    put(tmp_path / "mmlu", "x")
    assert layouts(tmp_path, mmlu=()) == {"mmlu": {"as_is": True}}


def test_files_that_the_container_could_not_read_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "gsm8k", "test.jsonl", "train.jsonl")
    (tmp_path / "gsm8k" / "link.jsonl").symlink_to("/etc/hostname")
    told = refused("dataset-missing", lambda: layouts(tmp_path, gsm8k=("main",)))
    assert "outside of the folder" in told


def test_a_changed_file_is_another_run(tmp_path: Path) -> None:
    put(tmp_path, "gsm8k/test.jsonl", "bbh/navigate.json")
    before = local.fingerprint(tmp_path, ["gsm8k"])
    put(tmp_path, "bbh/navigate.json", text="other")
    assert local.fingerprint(tmp_path, ["gsm8k"]) == before
    put(tmp_path, "gsm8k/test.jsonl", text="other")
    assert local.fingerprint(tmp_path, ["gsm8k"]) != before


# Scores


def report(dataset: str, subsets: dict[str, tuple[int, float]]) -> str:
    """A report of evalscope 1.14, as far as it is read."""
    num = sum(count for count, _ in subsets.values())
    right = sum(count * score for count, score in subsets.values())
    metric = {
        "identity": {"name": "accuracy", "aggregation": "mean", "dimensions": {}},
        "num": num,
        "score": round(right / num, 4) if num else 0.0,
        "categories": [
            {
                "name": ["default"],
                "subsets": [
                    {"name": name, "num": count, "score": score, "is_aggregate": False}
                    for name, (count, score) in subsets.items()
                ],
            }
        ],
    }
    return json.dumps({"dataset_name": dataset, "metrics": [metric] if num else []})


def answer(file: str, stop_reason: str, text: str = "4") -> dict[str, Any]:
    return {"file": file, "index": 0, "stop_reason": stop_reason, "answer": text}


@pytest.fixture
def told() -> Told:
    found = Told(evalscope="1.14.1")
    found.asked = {
        "bbh": {
            "snarks": {"num": 10, "sha256": "aa"},
            "navigate": {"num": 30, "sha256": "bb"},
        },
        "gsm8k": {"main": {"num": 100, "sha256": "cc"}},
    }
    found.files = {
        "reports/tiny/bbh.json": report("bbh", {"snarks": (10, 0.5), "navigate": (30, 1.0)}),
        "reports/tiny/gsm8k.json": report("gsm8k", {"main": (98, 0.75)}),
        "logs/eval_log.log": "text",
    }
    return found


def test_rows_are_those_of_the_guides_table(told: Told) -> None:
    rows = scores.rows(told, {"bbh": [], "gsm8k": []})
    shown = [(row.dataset, row.metric, row.subset, row.num, row.score) for row in rows]
    assert shown == [
        ("bbh", "mean_acc", "snarks", 10, 0.5),
        ("bbh", "mean_acc", "navigate", 30, 1.0),
        ("bbh", "mean_acc", "OVERALL", 40, 0.875),
        ("gsm8k", "mean_acc", "main", 98, 0.75),
    ]
    assert [row.category for row in rows] == ["default", "default", None, "default"]
    hashes = [row.questions_sha256 for row in rows]
    assert hashes[:2] == ["aa", "bb"]
    assert hashes[3] == "cc"
    assert hashes[2] is not None
    assert len(hashes[2]) == 64


def test_rows_can_be_compared_with_the_guides(told: Told) -> None:
    model = reference("guide", "eval").system.model
    own = Result(
        kind="eval",
        name="own",
        system=System(model=Model(id=model.id, weights="real")),
        evaluation=asked().settings("1.14.1"),
        scores=scores.rows(told, {"bbh": [], "gsm8k": []}),
    )
    (group,) = compare(own, reference("guide", "eval")).groups
    found = {row.metric: row for row in group.rows}
    assert found["gsm8k/mean_acc/main"].verdict == "worse"
    # Of two subsets, and the guide's is of all.
    assert found["bbh/mean_acc/OVERALL"].verdict == "not-comparable"


def test_notes_say_what_makes_scores_worth_less(told: Told) -> None:
    told.answers = [
        answer("gsm8k_main", "max_tokens", ""),
        answer("gsm8k_main", "max_tokens", "half of"),
        answer("bbh_snarks", "model_length", "too long"),
        answer("bbh_navigate", "stop", " "),
        answer("bbh_navigate", "stop"),
    ]
    told.cached = 3
    notes = scores.notes(told, {"max_tokens": 16}, 100)
    assert "2 of 140 answers were cut off at max_tokens (16)" in notes[0]
    assert "gsm8k 2" in notes[0]
    assert "1 of 140 questions were refused" in notes[1]
    assert notes[2] == "1 answers are empty (bbh 1)."
    assert notes[3] == "2 questions are in no score (gsm8k 2)."
    assert "100 questions of each subset" in notes[4]
    assert notes[5].startswith("3 answers are of an earlier try")
    told.cached, told.answers = 0, [answer("gsm8k_main", "stop")]
    told.files["reports/tiny/gsm8k.json"] = report("gsm8k", {"main": (100, 0.75)})
    assert scores.notes(told, {"max_tokens": 16}, None) == []


def test_a_dataset_without_any_score_is_not_forgotten(told: Told) -> None:
    told.files["reports/tiny/gsm8k.json"] = report("gsm8k", {})
    assert scores.unscored(told) == {"gsm8k": 100}
    assert {row.dataset for row in scores.rows(told, {})} == {"bbh"}
    # evalscope may report more than were asked, where an earlier try asked more.
    told.files["reports/tiny/bbh.json"] = report("bbh", {"snarks": (42, 1.0)})
    assert scores.unscored(told) == {"gsm8k": 100}
    del told.files["reports/tiny/bbh.json"]
    assert scores.unscored(told) == {"bbh": 40, "gsm8k": 100}


# The image


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("appliance:1-cpu", "appliance:1-cpu-eval"),
        ("host:5000/appliance", "host:5000/appliance:eval"),
        ("host:5000/appliance:1@sha256:ab", "host:5000/appliance:1-eval"),
        ("appliance", "appliance:eval"),
    ],
)
def test_the_evaluations_image_is_named_after_the_serving_one(name: str, wanted: str) -> None:
    assert image.name_of(name) == wanted


class FakeEngine:
    def __init__(self, **known: ImageState) -> None:
        self.images = known
        self.tagged: list[tuple[str, str]] = []
        self.untagged: list[str] = []
        self.client = self.api = self
        self.discarded: list[str] = []

    def image(self, name: str) -> ImageState | None:
        return self.images.get(name)

    def tag(self, reference: str, name: str) -> None:
        self.tagged.append((reference, name))

    def remove_image(self, name: str, *, force: bool) -> None:
        assert force  # A container runs from it.
        self.untagged.append(name)

    def discard(self, image_id: str) -> None:
        self.discarded.append(image_id)

    def data_root(self) -> str:
        return "/"


class FakeBuilder:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.built: list[tuple[str, dict[str, str]]] = []

    def buildx(self, file: Path, context: Path, tag: str, arguments: dict[str, str]) -> None:
        assert file == context / "Dockerfile.eval"
        self.built.append((tag, arguments))
        self.engine.images[tag] = ImageState("new", 1, {LABEL_CONTEXT: arguments["CONTEXT_HASH"]})


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> FakeBuilder:
    monkeypatch.setattr(images, "refuse_full_disk", lambda *_: None)
    served = ImageState("id", 1, {LABEL_BASE: "base"})
    known = {"a:1": served, "id": served, "base": ImageState("base-id", 1, {})}
    return FakeBuilder(FakeEngine(**known))


def test_the_image_is_built_once_and_again_when_what_is_below_changes(
    builder: FakeBuilder,
) -> None:
    def ensure(image_id: str) -> str:
        return image.ensure(builder, "a:1", image_id)  # type: ignore[arg-type]

    assert ensure("id") == ensure("id") == "a:1-eval"
    ((_, arguments),) = builder.built
    assert arguments["APPLIANCE_IMAGE"] == "a:1"
    # The environment is made on the base, so that it outlives a change of the launcher.
    assert arguments["ENVIRONMENT_BASE"] == "base"
    assert builder.engine.tagged == []
    # The container runs an image whose name another one has by now.
    ensure("older")
    assert builder.engine.tagged == [("older", "a:1-eval-base")]
    arguments = builder.built[1][1]
    # Nor is it known here what that was built on.
    assert arguments["APPLIANCE_IMAGE"] == arguments["ENVIRONMENT_BASE"] == "a:1-eval-base"
    assert builder.engine.discarded == ["new"]
    assert builder.engine.untagged == ["a:1-eval-base"]


def test_a_name_that_was_for_the_build_goes_with_it_even_where_it_fails(
    builder: FakeBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder.engine.images["a:1-eval-base"] = ImageState("left", 1, {})

    def fail(*_: Any) -> None:
        raise ApplianceError("image-build-failed", "no")

    monkeypatch.setattr(builder, "buildx", fail)
    refused("image-build-failed", image.ensure, builder, "a:1", "older")
    assert builder.engine.untagged == ["a:1-eval-base"]
    assert builder.engine.discarded == ["left"]


def test_without_a_checkout_the_image_is_used_and_not_built(
    builder: FakeBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "checkout", lambda: None)
    told = refused("not-a-checkout", image.ensure, builder, "a:1", "id")
    assert "only a clone of the project can build it" in told
    assert "docker save a:1-eval" in told
    builder.engine.images["a:1-eval"] = ImageState("x", 1, {})
    assert image.ensure(builder, "a:1", "id") == "a:1-eval"  # type: ignore[arg-type]
    assert builder.built == []


def test_all_that_the_image_is_made_of_is_counted() -> None:
    text = (ROOT / image.DOCKERFILE).read_text(encoding="utf-8")
    used = set(re.findall(r"source=([\w./]+)", text)) | set(re.findall(r"COPY (\S+) ", text))
    used = {name for name in used if not name.startswith("--")}
    assert used | {image.DOCKERFILE} == set(image.CONTEXT)
    # What stands after `FROM environment` must not depend on the launcher.
    first = text.partition("FROM ${APPLIANCE_IMAGE}")[0]
    assert "appliance/" not in first


def test_the_lock_file_is_the_groups_and_holds_neither_torch_nor_the_launcher() -> None:
    lock = (ROOT / "requirements" / "eval.txt").read_text(encoding="utf-8")
    pinned = set(re.findall(r"(?m)^([a-z0-9._-]+)==", lock))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    group = project.partition("[dependency-groups]")[2].partition("\n[")[0]
    version = re.search(r'"evalscope==([\d.]+)"', group)
    assert version
    assert f"\nevalscope=={version[1]} " in lock
    assert not pinned & {"torch", "docker", "vllm", "qwen-omni-utils"}
    # What builds the packages that come as sources is locked as well.
    assert "setuptools" in pinned
    entries = [line for line in lock.splitlines() if "==" in line and not line.startswith(" ")]
    assert lock.count("--hash=") >= len(entries)


# The container


def subject(**more: Any) -> job.Subject:
    values: dict[str, Any] = {
        "system": System(model=Model(id="m")),
        "url": "http://127.0.0.1:8000",
        "model": "m",
        "image": "a:1",
        "image_id": "id",
        "network": "container:qwen3-omni",
        "identity": "id",
        **more,
    }
    return job.Subject(**values)


def test_the_container_has_the_least_that_it_needs(tmp_path: Path) -> None:
    key = Mount("bind", "/key", "/run/secrets/appliance-api-key", read_only=True)
    made = job.job(Config(), subject(mounts=(key,), groups=(7,)), "a:1-eval", tmp_path)
    it = made.container
    assert made.network == "container:qwen3-omni"
    assert (it.name, it.image) == ("qwen3-omni-eval", "a:1-eval")
    assert (it.privileged, it.read_only, it.cap_drop) == (False, True, ("ALL",))
    assert it.security_opt == ("no-new-privileges:true",)
    assert (it.devices, it.ports, it.runtime, it.group_add) == ((), (), None, (7,))
    assert [(mount.target, mount.read_only) for mount in it.mounts] == [
        (job.CACHE_DIR, False),
        ("/run/secrets/appliance-api-key", True),
        (job.DATASETS_DIR, True),
    ]


def test_both_sides_of_the_container_mean_the_same_places() -> None:
    assert str(inside.ROOT) == job.CACHE_DIR
    assert str(inside.DATASETS) == job.DATASETS_DIR
    copied = (ROOT / image.DOCKERFILE).read_text(encoding="utf-8")
    assert f"COPY appliance/inside/evaluate.py {job.COMMAND[-1]}" in copied


def test_a_hub_is_reached_by_the_operators_proxy_and_the_server_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    bundle = tmp_path / "ca.pem"
    bundle.write_text("ca", encoding="utf-8")
    build = Build(ca_bundle=str(bundle), https_proxy="http://u:hunter2@proxy", no_proxy="intra")
    config = Config(build=build)
    other = subject(url="http://server.example:9000")
    found = job.variables(config, other, local=False)
    assert found["HTTPS_PROXY"] == found["https_proxy"] == "http://u:hunter2@proxy"
    assert found["NO_PROXY"] == "intra,127.0.0.1,localhost,::1,server.example"
    it = job.job(config, other, "a:1-eval", None).container
    assert "hunter2" not in str(it.environment)  # `docker inspect` would show it.
    assert Mount("bind", str(bundle), job.CA_BUNDLE, read_only=True) in it.mounts
    assert dict(it.environment)["REQUESTS_CA_BUNDLE"] == job.CA_BUNDLE
    for url, host in (
        ("http://server.example", "server.example"),
        ("http://server.example/v1", "server.example"),
        ("https://[2001:db8::1]:8443/v1", "2001:db8::1"),
        ("http://[2001:db8::1]", "2001:db8::1"),
    ):
        direct = job.variables(config, subject(url=url), local=False)["no_proxy"]
        assert direct.split(",")[-1] == host
    # With the files at hand, no hub is asked at all.
    assert "HTTPS_PROXY" not in job.variables(config, other, local=True)
    assert job.variables(config, other, local=True)["HF_HUB_OFFLINE"] == "1"


# Before anything starts


def test_in_the_image_there_is_nothing_to_evaluate_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(paths.INSIDE_IMAGE, "1")
    told = refused("engine-missing", perform, Config(), Wanted(), None, Progress(quiet=True))
    assert "on the host" in told


def test_a_result_is_never_written_over_another(clean: Path) -> None:
    put(clean, "results/mine/notes.txt")
    told = refused(
        "file-differs", perform, Config(), Wanted(name="mine"), None, Progress(quiet=True)
    )
    assert "results/mine is there already" in told
    for name in ("../x", "a/b", ".", "-x"):
        refused("input-invalid", perform, Config(), Wanted(name=name), None, Progress(quiet=True))
    assert (clean / "results" / "mine" / "notes.txt").exists()
    put(clean, "file")
    wanted = Wanted(output=clean / "file")
    refused("file-not-written", perform, Config(), wanted, None, Progress(quiet=True))


def test_an_evaluation_that_does_not_begin_leaves_no_folder(clean: Path) -> None:
    (clean / "results" / "empty").mkdir(parents=True)
    for name in ("empty", "new"):
        wanted = Wanted(name=name, dataset_dir=clean / "absent")
        refused("dataset-missing", perform, Config(), wanted, None, Progress(quiet=True))
    assert [path.name for path in (clean / "results").iterdir()] == ["empty"]


@pytest.mark.parametrize(
    ("words", "id"),
    [
        (["--limit", "0"], "usage"),
        (["--limit", "some"], "usage"),
        (["--model", "m"], "usage"),
        (["--dataset-args", "[1]"], "input-invalid"),
        (["--dataset-args", "{"], "input-invalid"),
        (["--dataset-dir", "absent"], "dataset-missing"),
        (["--compare", "absent"], "result-invalid"),
    ],
)
def test_the_command_line_refuses_before_it_starts(words: list[str], id: str) -> None:  # noqa: A002
    done = subprocess.run(
        [sys.executable, "-m", "appliance", "eval", "--json", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    error = json.loads(done.stdout)["error"]
    assert error["id"] == id
    assert done.returncode == error["exit_code"]


# In the container, without evalscope


def test_a_folder_is_arranged_as_evalscope_reads_it(tmp_path: Path) -> None:
    layout = layouts(DATA, bbh=("navigate",))["bbh"]
    inside._arrange(DATA / "bbh", layout, tmp_path / "bbh")
    text = (tmp_path / "bbh" / "README.md").read_text(encoding="utf-8")
    described = yaml.safe_load(text.split("---")[1])
    assert described == {
        "configs": [
            {
                "config_name": "navigate",
                "field": "examples",
                "data_files": [{"split": "test", "path": "navigate/test-*"}],
            }
        ]
    }
    link = tmp_path / "bbh" / "navigate" / "test-0.json"
    assert link.resolve() == DATA / "bbh" / "navigate.json"


def test_a_copy_of_a_hub_keeps_its_form_but_for_what_evalscope_would_delete(
    tmp_path: Path,
) -> None:
    source = put(tmp_path / "hub", "README.md", "data/a.jsonl", "dataset_infos.json")
    inside._arrange(source, {"as_is": True}, tmp_path / "links")
    links = {str(file.relative_to(tmp_path / "links")) for file in (tmp_path / "links").rglob("*")}
    assert links == {"README.md", "data", "data/a.jsonl"}


def test_answers_are_told_in_short_with_their_scores(tmp_path: Path) -> None:
    rows = [
        {
            "index": 0,
            "model_output": {
                "time": 1.5,
                "usage": {"output_tokens": 9},
                "choices": [
                    {
                        "stop_reason": "stop",
                        "message": {
                            "content": [
                                {"type": "reasoning", "reasoning": "two and two"},
                                {"type": "text", "text": "\\boxed{4}"},
                            ]
                        },
                    }
                ],
            },
        },
        {"index": 1, "model_output": {"choices": [{"message": {"content": "5"}}]}},
    ]
    lines = [json.dumps(row) for row in rows]
    # An interruption cut a line; the question was asked again.
    put(tmp_path, "predictions/m/gsm8k_main.jsonl", text="\n".join(['{"index": 1, "mo', *lines]))
    score = {"value": {"accuracy": 1.0}, "extracted_prediction": "4"}
    review = {"index": 0, "target": ["4"], "sample_score": {"score": score}}
    put(tmp_path, "reviews/m/gsm8k_main.jsonl", text=json.dumps(review) + "\n")
    said: list[dict[str, Any]] = []
    voice = SimpleNamespace(say=lambda event, **more: said.append({"event": event, **more}))
    inside._tell(tmp_path, voice)  # type: ignore[arg-type]
    assert said[0] == {
        "event": "answer",
        "file": "gsm8k_main",
        "index": 0,
        "stop_reason": "stop",
        "answer": "\\boxed{4}",
        "thinking": "two and two",
        "output_tokens": 9,
        "seconds": 1.5,
        "target": ["4"],
        "extracted": "4",
        "score": {"accuracy": 1.0},
    }
    assert said[1]["answer"] == "5"


FAKE = {
    "evalscope-9.9.dist-info/METADATA": "Metadata-Version: 2.1\nName: evalscope\nVersion: 9.9\n",
    "evalscope/__init__.py": "",
    "evalscope/api/__init__.py": "",
    "evalscope/api/registry.py": """
        from types import SimpleNamespace as N
        class Benchmark:
            dataset_id = "hub/id"
            def load_dataset(self):
                print("noise on stdout")
                question = N(input=[N(role="user", content="2 + 2?")])
                return {"main": [question, question], "empty": []}
        def get_benchmark(name, config):
            if name == "unknown":
                raise ValueError("not found")
            return Benchmark()
        """,
    "evalscope/config.py": """
        class TaskConfig:
            def __init__(self, **keywords):
                self.__dict__.update(keywords)
        """,
    "evalscope/run.py": """
        import json, multiprocessing, os, time
        from pathlib import Path
        def run_task(task):
            # As evalscope scores: in a fork, which closes its stdin.
            child = multiprocessing.get_context("fork").Process(target=print, args=("forked",))
            child.start(); child.join(10)
            assert child.exitcode == 0
            outputs = Path(task["work_dir"])
            (outputs / "configs").mkdir(parents=True, exist_ok=True)
            (outputs / "configs" / "task_config.yaml").write_text("api_key: '**'")
            file = outputs / "predictions" / "m" / "gsm8k_main.jsonl"
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a") as stream:
                stream.write(json.dumps({"index": 0, "key": task["api_key"] == "sk"}) + "\\n")
            print("asked with", task.get("use_cache"), "VLLM_API_KEY" in os.environ)
            if task["model"] == "slow":
                time.sleep(60)
            if task["model"] == "broken":
                raise RuntimeError("the server is gone")
        """,
}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    """Starts the container's program with an evalscope that is not one."""
    for name, text in FAKE.items():
        put(tmp_path / "fake", name, text=textwrap.dedent(text))
    code = (
        "import sys; from pathlib import Path; from appliance.inside import evaluate as it; "
        f"it.RUNS = Path({str(tmp_path / 'runs')!r}); sys.exit(it.main())"
    )
    started: list[Any] = []

    def begin(**task: Any) -> subprocess.Popen[str]:
        with (tmp_path / "stderr").open("w", encoding="utf-8") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={
                    **os.environ,
                    "PYTHONPATH": f"{tmp_path / 'fake'}:{ROOT}",
                    "VLLM_API_KEY": "sk",
                },
            )
        started.append(process)
        keywords = {"model": "m", "datasets": ["gsm8k"], "dataset_args": {}, **task}
        order = {
            "task": keywords,
            "run": "r",
            "fresh": False,
            "local": {},
            "api_key": None,
            "variables": {"X": "1"},
        }
        assert process.stdin
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        return process

    yield begin
    for process in started:
        process.kill()
        for stream in (process.stdin, process.stdout):
            with suppress(OSError):
                stream.close()
        process.wait()


def events(process: subprocess.Popen[str], last: str) -> list[dict[str, Any]]:
    found = []
    assert process.stdout
    for line in process.stdout:
        found.append(json.loads(line))  # Nothing but events: what a library prints is not there.
        if found[-1]["event"] == last:
            return found
    pytest.fail(f"no {last} in {found}")


def test_it_tells_what_happens_and_forgets_only_when_all_is_kept(
    start: Any, tmp_path: Path
) -> None:
    process = start()
    said = events(process, "done")
    by_name = {event["event"]: event for event in said}
    assert by_name["versions"]["evalscope"] == "9.9"
    assert by_name["dataset"]["subsets"]["main"]["num"] == 2
    assert set(by_name["dataset"]["subsets"]) == {"main"}
    assert by_name["start"] == {"event": "start", "total": 2, "cached": 0}
    assert by_name["file"]["path"] == "configs/task_config.yaml"
    assert by_name["answer"]["file"] == "gsm8k_main"
    stderr = (tmp_path / "stderr").read_text(encoding="utf-8")
    assert "noise on stdout" in stderr
    assert "asked with None False" in stderr  # The key went on in no variable.
    time.sleep(0.2)
    assert (tmp_path / "runs" / "r-9.9").exists()
    process.communicate("kept\n", timeout=20)
    assert process.returncode == 0
    assert not (tmp_path / "runs" / "r-9.9").exists()


def test_it_ends_with_whoever_waits_for_it_and_goes_on_the_next_time(
    start: Any, tmp_path: Path
) -> None:
    process = start(model="slow")
    events(process, "progress")
    process.stdin.close()
    assert process.wait(20) == 130
    process = start()
    said = {event["event"]: event for event in events(process, "done")}
    assert said["start"]["cached"] == 1
    outputs = tmp_path / "runs" / "r-9.9" / "outputs"
    assert f"asked with {outputs}" in (tmp_path / "stderr").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("task", "kind", "text"),
    [
        ({"datasets": ["unknown"]}, "input", "ValueError: not found"),
        ({"model": "broken"}, "run", "RuntimeError: the server is gone"),
    ],
)
def test_a_failure_is_told_in_a_line(start: Any, task: Any, kind: str, text: str) -> None:
    process = start(**task)
    failure = events(process, "failed")[-1]
    assert (failure["kind"], failure["text"]) == (kind, text)
    assert process.wait(20) == 3
