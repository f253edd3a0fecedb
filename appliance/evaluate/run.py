"""One evaluation, from flags to a result document in a folder of its own."""

from __future__ import annotations

import json
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from appliance.catalog import evaluation as catalog
from appliance.errors import ApplianceError
from appliance.evaluate import job as jobs
from appliance.evaluate import local, scores, work
from appliance.evaluate.scores import Told
from appliance.jobs import folder as folders
from appliance.jobs import process
from appliance.results import files
from appliance.results.model import Model, Result, System

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from appliance.config.model import Config
    from appliance.evaluate.job import Subject
    from appliance.evaluate.work import Questions, Wanted
    from appliance.jobs.process import Process
    from appliance.jobs.server import Elsewhere
    from appliance.lifecycle.progress import Progress

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# evalscope's own files, below this folder of the result's.
RAW = "evalscope"
ANSWERS = "answers.jsonl"
# How often evalscope asks a question before it gives up, each time as long as --timeout says.
TRIES = 6


@dataclass(frozen=True)
class Outcome:
    """What came of it. `folder` holds the document, the answers and evalscope's own reports."""

    result: Result
    folder: Path
    # How many questions are in no score, by dataset.
    unscored: dict[str, int]

    @property
    def file(self) -> Path:
        """The result document."""
        return self.folder / files.NAME

    @property
    def error(self) -> ApplianceError | None:
        """What kept the scores from being of all questions, or `None`."""
        if not self.unscored:
            return None
        listed = ", ".join(f"{name} {count}" for name, count in self.unscored.items())
        return ApplianceError(
            "partly-failed",
            f"{sum(self.unscored.values())} questions are in no score: {listed}. "
            f"{self.folder / RAW}/eval_log.log has the reasons.",
            None if self.result.system.url else "See `appliance logs` for the server's reasons.",
        )


def stub() -> Result:
    """Return a result without scores, to find out early what it can be compared with."""
    return Result(kind="eval", name="eval", system=System(model=Model(id="")))


def perform(
    config: Config, wanted: Wanted, elsewhere: Elsewhere | None, progress: Progress
) -> Outcome:
    """Evaluate, and write what came of it; raises `ApplianceError`."""
    jobs.refuse_inside()
    asked = work.questions(wanted, catalog.defaults())
    name = _name(wanted, asked)
    # Where it can't be made is told before hours of questions.
    with folders.own(wanted.output, name, exactly=wanted.name is not None) as folder:
        return _perform(_Order(config, wanted, elsewhere, asked, folder), progress)


@dataclass(frozen=True)
class _Order:
    """What is to be done."""

    config: Config
    wanted: Wanted
    elsewhere: Elsewhere | None
    asked: Questions
    folder: Path


def _perform(order: _Order, progress: Progress) -> Outcome:
    config, asked, defaults = order.config, order.asked, catalog.defaults()
    started = folders.now()
    datasets = jobs.absolute(order.wanted.dataset_dir)
    layouts = {}
    if datasets is not None:
        layouts = local.layouts(datasets, asked.subsets(defaults), defaults.datasets)
    subject = jobs.find(config, order.elsewhere, progress)
    image = jobs.image(config, subject, progress)
    files_seen = local.fingerprint(datasets, asked.datasets) if datasets else None
    line = {
        "task": asked.task(subject.url, subject.model),
        "run": work.key(asked, [subject.identity, subject.model], files_seen),
        "fresh": order.wanted.fresh,
        "local": layouts,
        "api_key": subject.key,
        "variables": jobs.variables(config, subject, local=datasets is not None),
    }
    listener = _Listener(asked, progress, local=datasets is not None)
    told = listener.told
    progress.begin("datasets", ", ".join(asked.datasets))
    task = jobs.job(config, subject, image, datasets)
    with process.started(task, listener.on_line) as running:
        running.send(json.dumps(line))
        listener.listen(running, config.timeouts.ready + TRIES * asked.timeout)
        result = _result(order.folder.name, started, subject, asked, told)
        outcome = Outcome(result, order.folder, scores.unscored(told))
        _write(outcome, told)
        if outcome.error is None:
            # Else the same command asks only those again that failed.
            running.send("kept")
            with suppress(ApplianceError):  # What counts is here.
                running.wait()
    return outcome


def _name(wanted: Wanted, asked: Questions) -> str:
    """Return the name of the result's folder; raises input-invalid."""
    only = f"{asked.datasets[0]}-" if len(asked.datasets) == 1 else ""
    name = wanted.name or f"eval-{only}{folders.now():%Y%m%d-%H%M%S}"
    if not _NAME.fullmatch(name):
        raise ApplianceError(
            "input-invalid", f"--name {name} is no file name of letters, digits, '.', '_' and '-'."
        )
    return name


class _Listener:
    """Takes in what the container tells, and shows people how far it is."""

    def __init__(self, asked: Questions, progress: Progress, *, local: bool) -> None:
        self.told = Told()
        self._asked = asked
        self._progress = progress
        self._local = local
        self._began: float | None = None

    def on_line(self, line: str) -> None:
        """Show what evalscope says for people, until there is something better to show."""
        if self._began is None:
            self._progress.detail(line)

    def listen(self, running: Process, patience: float) -> None:
        """Take in all until the evaluation is done; raises job-failed and what else ended it.

        It may be silent for `patience` seconds.
        """
        for line in running.lines(patience, "The evaluation"):
            event = json.loads(line)
            kind = event.pop("event")
            if kind == "done":
                self._progress.end(f"{self.told.total} questions answered")
                return
            if kind == "failed":
                raise self._failure(event["kind"], event["text"])
            self._take(kind, event)
        process.check(running, "The evaluation")
        raise ApplianceError("job-failed", "The evaluation ended without its results.")

    def _take(self, kind: str, event: dict[str, Any]) -> None:
        told = self.told
        if kind == "versions":
            told.evalscope, told.versions = event["evalscope"], event["image"]
        elif kind == "loading":
            where = "the folder" if self._local else f"ModelScope: {event['hub']}"
            self._progress.detail(f"{event['dataset']} from {where}")
        elif kind == "dataset":
            told.asked[event["name"]] = event["subsets"]
        elif kind == "start":
            self._start(event["cached"])
        elif kind == "progress" and self._began is not None:
            self._progress.detail(self._pace(event["done"], time.monotonic() - self._began))
        elif kind == "file":
            told.files[event["path"]] = event["text"]
        elif kind == "answer":
            told.answers.append(event)

    def _start(self, cached: int) -> None:
        counts = []
        for name, subsets in self.told.asked.items():
            many = f" of {len(subsets)} subsets" if len(subsets) > 1 else ""
            counts.append(f"{name} {sum(row['num'] for row in subsets.values())}{many}")
        self._progress.end(f"{self.told.total} questions: {', '.join(counts)}")
        self.told.cached = cached
        if cached:
            self._progress.note(f"  {cached} of them were answered before an interruption.")
        self._began = time.monotonic()
        self._progress.begin("eval", f"{self._asked.batch_size} at a time")

    def _pace(self, done: int, seconds: float) -> str:
        """Say how fast it goes: what an earlier try answered is no measure of that."""
        text = f"{done} of {self.told.total} questions"
        fresh = done - self.told.cached
        if fresh <= 0 or seconds <= 0:
            return text
        left = (self.told.total - done) * seconds / fresh
        return f"{text}, {60 * fresh / seconds:.1f} a minute, {_duration(left)} to go"

    def _failure(self, kind: str, text: str) -> ApplianceError:
        if kind == "input":
            return ApplianceError("input-invalid", f"evalscope: {text}")
        if kind == "run":
            remedy = (
                "The same command goes on from there; `--ignore-errors` leaves out questions that "
                "the server refuses."
            )
            return ApplianceError("job-failed", f"evalscope: {text}", remedy)
        if self._local:
            return ApplianceError("dataset-missing", f"The files can't be loaded. {text}")
        known = catalog.defaults().datasets
        commands = [
            f"modelscope download --dataset {known[name].hub} --local_dir DIR/{name}"
            for name in self._asked.datasets
            if name in known
        ]
        lines = "\n    ".join(commands)
        return ApplianceError(
            "dataset-missing",
            f"A dataset could not be fetched from ModelScope. {text}",
            "Check the network and the proxy: even what was fetched before is looked up there. "
            f"Without a network, fetch it elsewhere and name the folder with `--dataset-dir DIR`:"
            f"\n    {lines}",
        )


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    if not hours and not minutes:
        return "less than a minute"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _result(name: str, started: datetime, subject: Subject, asked: Questions, told: Told) -> Result:
    defaults = catalog.defaults()
    media = {dataset: asked.media(dataset, defaults) for dataset in asked.datasets}
    system = subject.system
    if system.url is None:
        system = system.model_copy(update={"versions": told.versions})
    return Result(
        kind="eval",
        name=name,
        started=folders.iso(started),
        finished=folders.iso(folders.now()),
        system=system,
        evaluation=asked.settings(told.evalscope),
        scores=scores.rows(told, media),
        notes=[*subject.notes, *scores.notes(told, asked.generation, asked.limit)],
    )


def _write(outcome: Outcome, told: Told) -> None:
    """Write the raw files, and the document last: where it is, all of it is."""
    folder = outcome.folder
    try:
        for path, text in told.files.items():
            # What it is called in the container decides nothing about where it goes but this.
            file = folder / RAW / PurePosixPath(path).name
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in told.answers]
        (folder / ANSWERS).write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        message = f"{folder} can't be written: {error.strerror}."
        raise ApplianceError("file-not-written", message) from error
    files.write(outcome.result, outcome.file)
