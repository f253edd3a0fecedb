"""One measurement, from flags to a result document in a folder of its own."""

from __future__ import annotations

import json
import secrets
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.bench import arguments, client, figures, sweep
from appliance.bench import subject as subjects
from appliance.bench.arguments import Changes
from appliance.errors import ApplianceError
from appliance.jobs import folder as folders
from appliance.jobs.kept import KeptError
from appliance.results import files
from appliance.results.model import Model, Result, System

if TYPE_CHECKING:
    from collections.abc import Iterator

    from appliance.bench.client import Client
    from appliance.bench.subject import Subject
    from appliance.bench.sweep import Saturation
    from appliance.catalog.bench import Load, Preset
    from appliance.config.model import Config
    from appliance.jobs.server import Elsewhere
    from appliance.lifecycle.progress import Progress
    from appliance.results.model import BenchRun


@dataclass(frozen=True)
class Wanted:
    """What flags ask for. `timeout` in seconds, of one run; `output` is where results go."""

    preset: str
    changes: Changes = field(default_factory=Changes)
    elsewhere: Elsewhere | None = None
    output: Path = Path("results")
    timeout: float = 7200.0


@dataclass
class Outcome:
    """What came of it, as far as it went. `folder` holds the document and vLLM's own files."""

    result: Result
    folder: Path
    saturation: Saturation | None = None
    # By the run's label: how many requests failed, and why.
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """The result document."""
        return self.folder / files.NAME

    @property
    def error(self) -> ApplianceError | None:
        """What kept it from being whole, or `None`."""
        remedy = "Act on the reason; with --json it stands beside its run."
        if self.result.runs[0].mode == "serve" and self.result.system.url is None:
            remedy = "The server's own reasons are in `appliance logs` and `appliance diagnose`."
        failed = [run.label for run in self.result.runs if run.error]
        if failed and len(failed) == len(self.result.runs):
            message = f"Nothing could be measured. {failed[0]}: {self.result.runs[0].error}"
            return ApplianceError("job-failed", message, remedy)
        parts = [f"{label}: {text}" for label, text in self.failures.items()]
        parts += [f"{run.label}: {run.error}" for run in self.result.runs if run.error]
        if not parts:
            return None
        return ApplianceError("partly-failed", "\n".join(parts), remedy)


def stub(preset: str) -> Result:
    """Return a result without figures, to find out early what it can be compared with."""
    return Result(kind="bench", name=preset, preset=preset, system=System(model=Model(id="")))


def perform(config: Config, wanted: Wanted, progress: Progress) -> Outcome:
    """Measure, and write what came of it; raises `ApplianceError`.

    What was measured before an interruption, or before the server went away, is written too.
    """
    preset = arguments.changed(wanted.preset, wanted.changes)
    if preset.mode != "serve" and wanted.elsewhere is not None:
        message = f"The preset {wanted.preset} makes an engine of its own, and asks no --url."
        raise ApplianceError("input-invalid", message)
    with _subject(config, preset, wanted, progress) as subject:
        _refuse_too_long(preset, subject)
        stem = f"bench-{wanted.preset}-{folders.now():%Y%m%d-%H%M%S}"
        with folders.own(wanted.output, stem) as folder:
            work = _Work(preset, wanted, subject, folder, progress)
            return work.go_on(config.timeouts.ready)


@contextmanager
def _subject(
    config: Config, preset: Preset, wanted: Wanted, progress: Progress
) -> Iterator[Subject]:
    if preset.mode != "serve":
        with subjects.engine(config, preset.mode, progress) as found:
            yield found
    elif wanted.elsewhere is not None:
        yield subjects.other(config, wanted.elsewhere, progress)
    else:
        yield subjects.own(config)


def _refuse_too_long(preset: Preset, subject: Subject) -> None:
    limit = subject.max_model_len
    for load in preset.loads:
        if limit is not None and load.input_len + load.output_len > limit:
            raise ApplianceError(
                "input-invalid",
                f"{load.label}: {load.input_len} tokens in and {load.output_len} out are more "
                f"than the server's context of {limit}.",
                "Lower --input-len or --output-len, or serve with a longer server.max_model_len.",
            )


class _Work:
    """The runs of one measurement, one after the other."""

    def __init__(
        self,
        preset: Preset,
        wanted: Wanted,
        subject: Subject,
        folder: Path,
        progress: Progress,
    ) -> None:
        self._preset = preset
        self._wanted = wanted
        self._subject = subject
        self._folder = folder
        self._progress = progress
        self._started = folders.now()
        self._runs: list[BenchRun] = []
        self._notes = list(subject.notes)
        self._versions: dict[str, str] = {}
        self._saturation: Saturation | None = None
        self._failures: dict[str, str] = {}

    def go_on(self, patience: float) -> Outcome:
        """Do all runs, and write what came of them, however they end.

        The container has `patience` seconds until it is ready.
        """
        self._progress.begin("bench", "starting the container")
        job, note = self._subject.job, self._progress.detail
        claims = self._subject.server is None
        try:
            with client.ready(job, note, claims=claims, patience=patience) as found:
                self._progress.end(f"vLLM {found.versions.get('vllm', '(unknown)')}")
                self._versions = found.versions
                self._all(found)
        except (Exception, KeyboardInterrupt) as error:
            if not self._runs:
                raise
            raise self._cut(error) from error
        return self._outcome()

    def _cut(self, error: BaseException) -> KeptError:
        """Write what was measured so far; return the error that says where."""
        why = "Interrupted" if isinstance(error, KeyboardInterrupt) else "Cut short"
        self._notes.append(f"{why} after {len(self._runs)} runs.")
        if isinstance(error, KeyboardInterrupt):
            found = ApplianceError("interrupted", "Interrupted.", "Run it again to measure all.")
        elif isinstance(error, ApplianceError):
            found = error
        else:
            found = ApplianceError("bug", f"{type(error).__name__}: {error}")
        return KeptError(found, self._outcome().file)

    def _all(self, found: Client) -> None:
        if self._preset.sweep is None:
            total = len(self._preset.loads)
            for number, load in enumerate(self._preset.loads, 1):
                self._before(found, load)
                self._one(found, load, f"{number} of {total}")
        else:
            for load in self._preset.loads:
                self._sweep(found, load)

    def _sweep(self, found: Client, load: Load) -> None:
        rules = self._preset.sweep
        assert rules is not None  # noqa: S101 (the caller asked)
        self._before(found, load)
        steps = sweep.levels(rules, self._subject.max_num_seqs)
        for number, concurrency in enumerate(steps, 1):
            point = sweep.point(load, rules, concurrency)
            self._one(found, point, f"{number} of at most {len(steps)}")
            self._saturation = sweep.over(self._runs, rules)
            if self._saturation is not None:
                break
        else:
            self._saturation = sweep.unsaturated(self._runs)
        if self._saturation is not None:
            self._notes.append(told(self._saturation))

    def _before(self, found: Client, load: Load) -> None:
        if load.warm_up:
            # With a seed of its own even where one was asked for: nothing of it may be known.
            order = self._order(arguments.warm_up(load), secrets.randbelow(arguments.SEEDS))
            self._progress.begin("warm-up", f"{load.label}, {load.warm_up} prompts")
            found.perform(order, self._subject.key, self._wanted.timeout)
            self._progress.end("not counted")

    def _one(self, found: Client, load: Load, place: str) -> None:
        seed = arguments.seed_of(load, self._wanted.changes)
        order = self._order(load, seed)
        what = f"{load.num_prompts} prompts" if load.num_prompts else f"{load.num_iters} times"
        self._progress.begin("run", f"{place}: {load.label}, {what}")
        answer = found.perform(order, self._subject.key, self._wanted.timeout)
        run = figures.run(
            load.label,
            self._preset.mode,
            arguments.parameters(self._preset.mode, load, seed),
            list(order.arguments),
            answer,
        )
        self._runs.append(run)
        self._keep(load, answer)
        failed = self._failures.get(load.label)
        self._progress.end(f"{load.label}: {run.error or failed or _summary(run)}")

    def _order(self, load: Load, seed: int) -> arguments.Order:
        if self._subject.server is not None:
            return arguments.serve(load, self._subject.server, seed)
        return arguments.offline(self._preset.mode, load, self._subject.engine, seed)

    def _keep(self, load: Load, answer: dict[str, Any]) -> None:
        raw = answer.get("raw")
        if raw is None:
            return
        if (why := figures.failures(raw)) is not None and raw.get("completed"):
            self._failures[load.label] = why
            self._notes.append(f"{load.label}: {why}")
        file = self._folder / f"{arguments.slug(load.label)}.json"
        try:
            file.write_text(json.dumps(raw), encoding="utf-8")
        except OSError as error:
            message = f"{file} can't be written: {error.strerror}."
            raise ApplianceError("file-not-written", message) from error

    def _outcome(self) -> Outcome:
        system = self._subject.system
        if system.url is None:
            system = system.model_copy(update={"versions": self._versions})
        elif "vllm" in self._versions:
            self._notes.append(f"Measured with the client of vLLM {self._versions['vllm']}.")
        result = Result(
            kind="bench",
            name=self._folder.name,
            preset=self._wanted.preset,
            started=folders.iso(self._started),
            finished=folders.iso(folders.now()),
            system=system,
            runs=self._runs,
            notes=self._notes,
        )
        files.write(result, self._folder / files.NAME)
        return Outcome(result, self._folder, self._saturation, self._failures)


def told(found: Saturation) -> str:
    """Say in a line how a sweep ended."""
    if found.outcome == "limit":
        return f"Not saturated: {found.reason}."
    speed = f" ({found.throughput:.1f} tokens/s)" if found.throughput is not None else ""
    if found.outcome == "failed":
        before = f" The most without: {found.concurrency}{speed}." if found.concurrency else ""
        return f"Ended by failures, {found.reason.rstrip('.')}.{before}"
    return f"Saturated at {found.concurrency} requests in flight{speed}: {found.reason}."


def _summary(run: BenchRun) -> str:
    parts = [
        f"{run.metrics[name]:.4g} {unit}"
        for name, unit in (
            ("output_throughput", "tokens/s"),
            ("tokens_per_second", "tokens/s"),
            ("avg_latency", "s a batch"),
            ("mean_ttft_ms", "ms TTFT"),
            ("mean_tpot_ms", "ms TPOT"),
        )
        if name in run.metrics
    ]
    return ", ".join(parts) or "done"
