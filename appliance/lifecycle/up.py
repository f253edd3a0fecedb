"""`appliance up`: from nothing, or from whatever is there, to a verified server."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.deployment import prepare
from appliance.engine import claims, command, docker, images, install
from appliance.errors import ApplianceError
from appliance.lifecycle import drift, running, state, supervised, supply
from appliance.lifecycle.decide import Action, Decision, decide
from appliance.lifecycle.logs import explain, last_line
from appliance.render import render
from appliance.secretfile import read_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.config.model import Config
    from appliance.deployment import Deployment
    from appliance.lifecycle.progress import Progress
    from healthchecks import ProbeResult, Target

POLL_SECONDS = 0.5
# Making a container and starting it, with everything on the host, is the work of seconds.
START_SECONDS = 300.0
# Tracebacks of several ranks are long, and the first error is what counts.
LOG_LINES = 5000
DEAD_STOP_SECONDS = 1
# An API that answers has an engine behind it: one that gives no token so often is stuck.
READY_TRIES = 3


@dataclass(frozen=True)
class Outcome:
    """What `up` did. `changed` is false where there was nothing to do."""

    changed: bool
    differences: tuple[str, ...]
    smoke: tuple[ProbeResult, ...]


@dataclass(frozen=True)
class Options:
    """What one run of `up` may do."""

    install_engine: bool = False
    smoke: bool = True
    recreate: bool = False


def allot(
    config: Config, options: Options, change: state.Change, on_line: Callable[[str], None]
) -> Deployment:
    """Choose dies and ports, and say so before the next `up` on this host looks.

    Where the engine must be installed or started, that comes first: only then is it known what
    other appliances hold. Raises `ApplianceError`.
    """
    if options.install_engine and (install.missing_parts() or not install.answers()):
        prepare(config)  # What can't be planned is refused before anything is installed.
        install.ensure(install=True, on_line=on_line)
    with state.allotting(config.name):
        deployment = prepare(config, to_change=True)
        change.claim(claims.of_plan(deployment.plan.container))
    return deployment


class Up:
    """One run of `up`, phase by phase."""

    def __init__(self, deployment: Deployment, options: Options, progress: Progress) -> None:
        """Prepare a run; nothing happens before `run`."""
        self.deployment = deployment
        self.plan = deployment.plan
        self.config = deployment.config
        self.options = options
        self.progress = progress
        self.name = self.plan.container.name
        # Those that the container had before: a supervisor may have had reason for some.
        self._restarts = 0

    def run(self) -> Outcome:
        """Bring the appliance up; raises `ApplianceError` with what stopped it.

        Whoever calls holds the right to change it (`state.changing`).
        """
        engine = docker.connect()
        found = engine.container(self.name)
        decision = self._decide(engine, found)
        if decision.action is Action.NOTHING:
            return Outcome(changed=False, differences=(), smoke=())
        for line in decision.reasons:
            self.progress.note(f"  change  {line}")
        if decision.action is Action.REPLACE:
            self._replace(engine, found)
        if decision.action is not Action.VERIFY:
            self._load(engine)
        results = self._smoke(engine)
        return Outcome(changed=True, differences=decision.reasons, smoke=results)

    def _decide(self, engine: docker.Engine, found: docker.ContainerState | None) -> Decision:
        changes: list[str] = []
        ready = verified = False
        down: str | None = None
        if found is not None and found.ours:
            changes = drift.differences(found, self.plan, images.current(engine, self.plan.image))
            if self.options.recreate and not changes:
                changes = ["made anew as asked"]
            # Without a difference it matters whether it works; with one it goes anyway.
            ready = (
                found.running
                and not changes
                and running.answers(self._target)
                and self._makes_progress()
            )
            verified = not self.options.smoke or state.verified(self.name) == found.id
            past = supervised.history(engine, found)
            down = past.detail if past.phase == "down" and not ready else None
            self._restarts = found.restarts
        return decide(found, changes, ready=ready, verified=verified, down=down)

    def _replace(self, engine: docker.Engine, found: docker.ContainerState | None) -> None:
        """Make the container. The old one serves until all that can be known is known."""
        supply.examine(self.deployment, engine, self.progress)
        if not self.options.install_engine:  # Else it was seen to before anything.
            install.ensure(install=False, on_line=self.progress.detail)
        supply.image(engine, self.config, self.plan.image, self.progress)
        supply.model(self.plan.model, self.progress)
        file = state.folder(self.name) / "compose.yaml"
        state.write(file, render(self.plan, "compose"))
        self.progress.begin("container", self.name)
        if found is not None:
            self._remove(engine, found)
        self._restarts = 0
        try:
            command.run(
                ["docker", "compose", "--file", str(file), "--project-name", self.name,
                 "up", "--detach", "--no-build", "--force-recreate"],
                error="container-start-failed",
                what=f"Starting {self.name}",
                timeout=START_SECONDS,
                on_line=self.progress.detail,
            )  # fmt: skip
        except ApplianceError as error:
            # What could not be started is of no use, if it is ours and was made just now.
            half = engine.container(self.name)
            if half is not None and half.ours and half.status == "created":
                engine.remove(half)
            known = explain(error.message)[1]
            if error.id != "container-start-failed" or known is None:
                raise
            message = f"{error.message}\nCause [{known.id}]: {known.cause}"
            raise ApplianceError(error.id, message, known.remedy) from error
        self.progress.end(f"{self.name} started")
        if found is not None:
            # An image that was built anew leaves the old one behind, without a name.
            engine.discard(found.image_id)

    def _remove(self, engine: docker.Engine, found: docker.ContainerState) -> None:
        if found.running:
            self.progress.detail("stopping the old container")
            engine.stop(found, self.config.timeouts.stop)
        else:
            # The log of one that failed goes with it: keep what tells why.
            log = engine.logs(found, tail=LOG_LINES)
            state.write(state.folder(self.name) / "previous.log", log)
        engine.remove(found)

    def _load(self, engine: docker.Engine) -> None:
        """Wait for the API to answer, then for a token; stop early when the container dies."""
        self.progress.begin("load", "the engine loads the model")
        deadline = time.monotonic() + self.config.timeouts.ready
        while not running.answers(self._target):
            found = self._refuse_dead(engine)
            if time.monotonic() > deadline:
                raise self._told(
                    "not-ready",
                    f"No answer after {self.config.timeouts.ready:g} s.",
                    engine.logs(found, tail=LOG_LINES),
                )
            self.progress.detail(last_line(engine.logs(found, tail=3)))
            time.sleep(POLL_SECONDS)
        self.progress.end("the API answers")
        self.progress.begin("ready", "waiting for the first token")
        for _ in range(READY_TRIES):
            result = self._ready()
            if result.ok:
                self.progress.end(result.detail)
                return
            self._refuse_dead(engine)
            if "HTTP 401" in result.detail:
                raise ApplianceError(
                    "api-key-file", f"The server takes another key: {result.detail}"
                )
            time.sleep(POLL_SECONDS)
        raise ApplianceError(
            "not-ready",
            f"The API answers, but no token came back: {result.detail}",
            "See `appliance logs`; `appliance up --recreate` makes the container anew.",
        )

    def _refuse_dead(self, engine: docker.Engine) -> docker.ContainerState:
        """Return the container if it lives and did not restart; else stop it and raise."""
        found = engine.container(self.name)
        if found is None:
            raise ApplianceError("container-died", f"The container {self.name} was removed.")
        if found.running and found.restarts <= self._restarts:
            return found
        log = engine.logs(found, tail=LOG_LINES)
        # Left alone, the restart policy would load and fail without end. Nothing that serves
        # is lost: there is no request to wait for.
        engine.stop(found, DEAD_STOP_SECONDS)
        past = supervised.history(engine, found).failures
        what = f"The container ended with exit code {found.exit_code}."
        if found.oom_killed:
            what = "The container was killed for want of memory."
        elif past:
            what = f"The container ended: {past[-1].detail}."
        raise self._told("container-died", what, log)

    @staticmethod
    def _told(error: str, what: str, log: str) -> ApplianceError:
        """Make an error of what happened and what the engine's log says of it."""
        line, known = explain(log)
        if known is None:
            died = error == "container-died"  # Else the last line is no error.
            return ApplianceError(error, f"{what} {'First error' if died else 'Log'}: {line}")
        message = f"{what} First error: {line}\nCause [{known.id}]: {known.cause}"
        return ApplianceError(error, message, known.remedy)

    def _smoke(self, engine: docker.Engine) -> tuple[ProbeResult, ...]:
        if not self.options.smoke:
            return ()
        self.progress.begin("smoke", "text, image, audio, video")
        target = dataclasses.replace(self._target, timeout=self.config.timeouts.smoke)
        results = run_smoke(target, self.progress)
        failed = [result for result in results if not result.ok]
        if failed:
            self.progress.stop()
            self._refuse_dead(engine)
            lines = "\n".join(f"{row.probe}: {row.verdict}: {row.detail}" for row in failed)
            seed = next((f" Seed {row.seed}." for row in results if row.seed), "")
            raise ApplianceError("smoke-failed", f"{len(failed)} probes failed.{seed}\n{lines}")
        found = engine.container(self.name)
        if found is not None:
            state.mark_verified(self.name, found.id)
        self.progress.end(f"{len(results)} probes passed")
        return tuple(results)

    @cached_property
    def _target(self) -> Target:
        """What the probes are to probe; raises api-key-file."""
        import healthchecks

        plan = self.plan
        key = read_key(Path(plan.api_key_file)) if plan.api_key_file else None
        timeout = self.config.timeouts.probe
        return healthchecks.Target(plan.api_url, plan.model.served_name, key, timeout)

    def _makes_progress(self) -> bool:
        """Tell whether the engine works, or could: one that is full is not made anew."""
        import healthchecks

        limits, patience = self.config.watchdog.limits(), self.config.timeouts.probe
        return healthchecks.progress(self._target, limits, patience=patience).verdict == "ok"

    def _ready(self) -> ProbeResult:
        import healthchecks

        return healthchecks.ready(self._target)


def run_smoke(target: Target, progress: Progress) -> list[ProbeResult]:
    """Run the smoke probes, each shown as it ends."""
    import healthchecks

    return healthchecks.smoke(target, on_result=lambda result: progress.detail(result.probe))
