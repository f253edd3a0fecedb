"""`appliance offline`: from an input to its results, with an engine only where one is needed."""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from appliance import deployment, paths
from appliance.catalog import load as catalog
from appliance.engine import docker
from appliance.errors import ApplianceError
from appliance.jobs import container, process
from appliance.lifecycle import state, supply
from appliance.lifecycle.up import Options, allot
from appliance.offline import lines, results
from appliance.offline.flaw import Flaw
from appliance.offline.media import Place
from appliance.offline.request import Rules
from appliance.offline.session import Patience, Session

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from appliance.config.model import Config
    from appliance.deployment import Deployment
    from appliance.lifecycle.progress import Progress
    from appliance.offline.lines import Entry
    from appliance.plan.model import Plan

PURPOSE = "offline"
COMMAND = ("python3", "-m", "appliance.inside.offline")


@dataclass(frozen=True)
class Wishes:
    """What one run is asked for.

    `input` is `None` for stdin. Paths of media are relative to `folder`. Of `sampling` the
    entries that are not `None` stand in for the model's defaults. Times are in seconds.
    """

    input: Path | None
    output: Path
    folder: Path
    sampling: Mapping[str, float | int | None] = field(default_factory=dict)
    use_audio_in_video: bool = False
    force: bool = False
    stall_seconds: float = 600.0
    fetch_seconds: float = 60.0


@dataclass
class Summary:
    """What a run came to: counts of requests, tokens of this run, seconds."""

    output: str
    model: str
    total: int = 0
    done: int = 0
    kept: int = 0
    failed: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    output_tokens: int = 0
    load_seconds: float = 0.0
    run_seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as `--json` prints it."""
        seconds = self.run_seconds
        return {
            **dataclasses.asdict(self),
            "errors": dict(self.errors),
            "requests_per_second": self.done / seconds if seconds else None,
            "output_tokens_per_second": self.output_tokens / seconds if seconds else None,
        }


def perform(config: Config, wishes: Wishes, progress: Progress) -> Summary:
    """Run what is to be run of an input; raises `ApplianceError` with what stopped it.

    What one request is refused for is a line of the results, and counted in the summary.
    """
    alone = container.alone(config, PURPOSE)
    if alone.parallel.data_parallel_size > 1:
        one = dataclasses.replace(alone.parallel, data_parallel_size=1)
        alone = dataclasses.replace(alone, parallel=one)
        progress.note("note: offline runs one replica; parallel.data_parallel_size is for `up`.")
    with (
        lines.open_input(wishes.input) as file,
        state.changing(alone.name, PURPOSE) as change,
    ):
        if paths.inside_image():
            made = deployment.prepare(alone)
        else:
            made = allot(alone, Options(), change, progress.detail)
            for warning in made.plan.warnings:  # In the image they are about rendering for a host.
                progress.note(f"warning: {warning}")
        kept = results.Results(wishes.output)
        with kept.writing(force=wishes.force):
            return Run(made, config, wishes, kept, progress).perform(file)


class Run:
    """One run over an input, with the right to write its results."""

    def __init__(
        self,
        made: Deployment,
        serving: Config,
        wishes: Wishes,
        kept: results.Results,
        progress: Progress,
    ) -> None:
        """Prepare a run; `serving` is the configuration of the appliance that shares its caches."""
        self.made = made
        self.serving = serving
        self.wishes = wishes
        self.kept = kept
        self.progress = progress
        self.rules = _rules(made, wishes)
        self.summary = Summary(str(kept.path), made.plan.model.served_name)
        self.flaws: dict[int, Flaw] = {}
        self._loading = False

    def perform(self, file: IO[bytes]) -> Summary:
        """Check all, run what is left, write the results in order."""
        self.progress.begin("input", "checking the requests")
        entries = lines.entries(file, self.rules)
        if not self.wishes.force:
            self.kept.require_no_other({entry.custom_id or "" for entry in entries})
        todo = [it for it in entries if it.flaw is None and not self.kept.has(it)]
        self.flaws = {it.number: it.flaw for it in entries if it.flaw is not None}
        self.summary.total = len(entries)
        self.summary.kept = len(entries) - len(todo) - len(self.flaws)
        self.progress.end(
            f"{len(entries)} requests: {len(todo)} to do, {self.summary.kept} done before, "
            f"{len(self.flaws)} can't be done"
        )
        if todo:
            self._work(todo, file)
        self.kept.finish(entries, self.flaws)
        self.summary.failed = len(self.flaws)
        self.summary.errors = Counter(flaw.code for flaw in self.flaws.values())
        return self.summary

    def _work(self, todo: list[Entry], file: IO[bytes]) -> None:
        plan = self.made.plan
        self._supply(plan)
        job = container.with_engine(plan.container, self.serving, COMMAND)
        entries = {entry.number: entry for entry in todo}
        start = {
            "do": "start",
            "serve_args": list(plan.serve_args),
            "model": plan.model.served_name,
            "own_defaults": not _known_sampling(plan),
        }
        patience = Patience(self.made.config.timeouts.ready, self.wishes.stall_seconds)
        keys: dict[int, str] = {}
        self.progress.begin("load", f"{job.name}: the engine loads the model")
        self._loading, began = True, time.monotonic()
        with process.started(job, self._show, claims=True) as running:
            session = Session(running, start, self._lines(todo, file, keys), patience)
            ended = False
            with self._counting(len(todo)) as tell:
                for event in session.events():
                    ended = ended or event["event"] == "done"
                    if event["event"] == "ready":
                        self.summary.load_seconds = round(time.monotonic() - began, 3)
                    self._take(event, entries, keys)
                    tell(event)
            running.no_more()
            process.check(running, "The engine")
            if not ended:
                raise ApplianceError("job-failed", "The engine ended before its work was done.")

    def _supply(self, plan: Plan) -> None:
        """See that there is what a container needs, or in the image what the engine does."""
        if not paths.inside_image():
            engine = docker.connect()
            supply.examine(self.made, engine, self.progress)
            supply.image(engine, self.made.config, plan.image, self.progress)
            supply.model(plan.model, self.progress)
            return
        folder = plan.model.container_path
        if not (Path(folder) / "config.json").is_file():
            raise ApplianceError(
                "weights-missing",
                f"{folder} in this container is not a model.",
                f"Mount the model there: docker run -v MODEL_DIR:{folder}:ro ….",
            )

    def _lines(
        self, todo: list[Entry], file: IO[bytes], keys: dict[int, str]
    ) -> Iterator[tuple[int, str | Flaw]]:
        for entry in todo:
            try:
                found = lines.read(file, entry, self.rules)
                keys[entry.number] = found.key
                yield entry.number, found.message(entry.number, self.rules.place)
            except Flaw as flaw:
                yield entry.number, flaw

    def _take(self, event: dict[str, Any], entries: dict[int, Entry], keys: dict[int, str]) -> None:
        if event["event"] == "flaw":
            self.flaws[event["id"]] = Flaw(event["code"], event["message"])
        elif event["event"] == "result":
            entry, body = entries[event["id"]], event["body"]
            self.kept.add(results.answer(str(entry.custom_id), keys[entry.number], body))
            self.summary.done += 1
            self.summary.prompt_tokens += body["usage"]["prompt_tokens"]
            self.summary.output_tokens += body["usage"]["completion_tokens"]

    def _show(self, line: str) -> None:
        """Show what the engine says while it loads; afterwards there is a count to show."""
        if self._loading and line:
            self.progress.detail(line)

    @contextmanager
    def _counting(self, total: int) -> Iterator[Any]:
        """Give a function that counts events, and shows how far it is."""
        began = None
        failed = len(self.flaws)

        def tell(event: dict[str, Any]) -> None:
            nonlocal began
            if event["event"] == "ready":
                self._loading, began = False, time.monotonic()
                self.progress.end("the engine is ready")
                self.progress.begin("run", f"{total} requests")
            elif began is not None and event["event"] != "done":
                seconds = time.monotonic() - began
                # Without the time that the engine takes to go.
                self.summary.run_seconds = round(seconds, 3)
                self.progress.detail(_far(self.summary, len(self.flaws) - failed, total, seconds))

        try:
            yield tell
        finally:
            if began is not None:
                done = f"{self.summary.done} of {total} done"
                self.progress.end(f"{done}, {len(self.flaws) - failed} failed")
            self.progress.stop()


def _far(summary: Summary, failed: int, total: int, seconds: float) -> str:
    """Return how far a run is: counts, speed, and how long the rest takes at that speed."""
    finished = summary.done + failed
    text = f"{finished} of {total}" + (f" ({failed} failed)" if failed else "")
    if not finished or seconds <= 0:
        return text
    left = (total - finished) * seconds / finished
    return (
        f"{text}, {finished / seconds:.2f} requests/s, "
        f"{summary.output_tokens / seconds:.0f} tokens/s, {_clock(left)} left"
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _rules(made: Deployment, wishes: Wishes) -> Rules:
    plan = made.plan
    chosen = {name: value for name, value in wishes.sampling.items() if value is not None}
    return Rules(
        place=Place(
            wishes.folder, tuple(made.config.server.allowed_media_domains), wishes.fetch_seconds
        ),
        model=f"{plan.model.id}@{plan.model.revision}" if plan.model.revision else plan.model.id,
        names=tuple(dict.fromkeys((plan.model.served_name, plan.model.id))),
        limits=_limits(plan.serve_args),
        sampling={**_known_sampling(plan), **chosen},
        use_audio_in_video=wishes.use_audio_in_video,
    )


def _known_sampling(plan: Plan) -> dict[str, Any]:
    """Return the catalog's sampling parameters of a model, none for one that it does not have."""
    known = catalog.models().get(plan.model.id)
    return dataclasses.asdict(known.sampling) if known and known.sampling else {}


def _limits(serve_args: tuple[str, ...]) -> dict[str, int]:
    """Return the most media of each kind in one request, where the plan says so."""
    found = {}
    for option, value in itertools.pairwise(serve_args):
        if option == "--limit-mm-per-prompt":
            found = json.loads(value)
    counts = {
        kind: limit.get("count") if isinstance(limit, dict) else limit
        for kind, limit in found.items()
    }
    return {kind: count for kind, count in counts.items() if isinstance(count, int)}
