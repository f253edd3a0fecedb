"""`appliance up`: from nothing, or from whatever is there, to a verified server."""

from __future__ import annotations

import errno
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.engine import command, docker, images, install
from appliance.errors import ApplianceError
from appliance.lifecycle import drift, state
from appliance.lifecycle.logs import first_error, last_line
from appliance.plan import names
from appliance.render import render
from appliance.secretfile import read_key

if TYPE_CHECKING:
    from appliance.deployment import Deployment
    from appliance.lifecycle.progress import Progress
    from appliance.plan.model import ModelPlan, Plan
    from appliance.weights.verify import ModelFolder
    from healthchecks import ProbeResult, Target

POLL_SECONDS = 0.5
LIVE_SECONDS = 3.0
# Making a container and starting it, with everything on the host, is the work of seconds.
START_SECONDS = 300.0
LOG_LINES = 400
DEAD_STOP_SECONDS = 1


@dataclass(frozen=True)
class Outcome:
    """What `up` did: nothing, where everything was as planned already."""

    changed: bool
    differences: tuple[str, ...]
    smoke: tuple[ProbeResult, ...]


@dataclass(frozen=True)
class Options:
    """What one run of `up` may do."""

    install_engine: bool = False
    smoke: bool = True
    recreate: bool = False


class Up:
    """One run of `up`, phase by phase."""

    def __init__(self, deployment: Deployment, options: Options, progress: Progress) -> None:
        """Prepare a run; nothing happens before `run`."""
        self.plan = deployment.plan
        self.config = deployment.config
        self.options = options
        self.progress = progress
        self.name = self.plan.container.name

    def run(self) -> Outcome:
        """Bring the appliance up; raises `ApplianceError` with what stopped it."""
        with state.changing(self.name, "up"):
            if self.options.install_engine:
                install.ensure(install=True, on_line=self.progress.detail)
            engine = docker.connect()
            found = engine.container(self.name)
            image_id = images.current(engine, self.plan.image)
            changes = self._changes(found, image_id)
            if found and found.running and not changes and self._ready().ok:
                return Outcome(changed=False, differences=(), smoke=())
            if found is None:
                # The plugins are looked for only when they are about to be used.
                install.ensure(install=False, on_line=self.progress.detail)
            for line in changes:
                self.progress.note(f"  change  {line}")
            self._image(engine)
            self._weights()
            self._container(engine, found, changes)
            self._load(engine)
            return Outcome(changed=True, differences=tuple(changes), smoke=self._smoke())

    def _changes(self, found: docker.ContainerState | None, image_id: str | None) -> list[str]:
        if found is None:
            return []
        if names.LABEL_NAME not in found.labels:
            raise ApplianceError(
                "container-start-failed",
                f"There is a container {self.name} that is not an appliance's.",
                "Rename or remove it, or choose another `name`.",
            )
        changes = drift.differences(found, self.plan, image_id)
        return changes or (["recreated as asked"] if self.options.recreate else [])

    def _image(self, engine: docker.Engine) -> None:
        self.progress.begin("image", self.plan.image.name)
        builder = images.Builder(engine, self.config, self.progress.detail)
        image_id = builder.ensure(self.plan.image)
        self.progress.end(f"{self.plan.image.name} {image_id[7:19]}")

    def _weights(self) -> None:
        model = self.plan.model
        self.progress.begin("weights", model.id)
        folder = bring_weights(self.plan.model, self.progress)
        self.progress.end(f"{model.host_path}: {folder.files} files, {folder.bytes / 1e9:.2f} GB")

    def _container(
        self, engine: docker.Engine, found: docker.ContainerState | None, changes: list[str]
    ) -> None:
        self.progress.begin("container", self.name)
        same = found is not None and not changes
        if same and found is not None and found.running and not found.restarts:
            self.progress.end(f"{self.name} runs already, as planned")
            return
        if found is not None:
            if found.running:
                self.progress.detail("stopping the old container")
                engine.stop(self.name, self.config.timeouts.stop)
            engine.remove(self.name)
        self._refuse_taken_port()
        file = state.folder(self.name) / "compose.yaml"
        state.write(file, render(self.plan, "compose"))
        try:
            command.run(
                ["docker", "compose", "--file", str(file), "--project-name", self.name,
                 "up", "--detach", "--no-build", "--force-recreate"],
                error="container-start-failed",
                what=f"Starting {self.name}",
                timeout=START_SECONDS,
                on_line=self.progress.detail,
            )  # fmt: skip
        except ApplianceError:
            engine.remove(self.name)
            raise
        self.progress.end(f"{self.name} started")

    def _refuse_taken_port(self) -> None:
        server = self.config.server
        family = socket.AF_INET6 if ":" in server.bind else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((server.bind, server.port))
            except OSError as error:
                if isinstance(error, PermissionError):
                    return  # A low port: the engine may bind it, this user may not.
                taken = error.errno == errno.EADDRINUSE
                raise ApplianceError(
                    "port-in-use" if taken else "config-invalid",
                    f"server.bind {server.bind}, port {server.port}: {error.strerror}.",
                ) from error

    def _load(self, engine: docker.Engine) -> None:
        """Wait for the API to answer, then for a token; stop early when the container dies."""
        self.progress.begin("load", "the engine loads the model")
        deadline = time.monotonic() + self.config.timeouts.ready
        answered = False
        why = "the API has not answered"
        while time.monotonic() < deadline:
            self._refuse_dead(engine)
            if not answered and self._live().ok:
                answered = True
                self.progress.end("the API answers")
                self.progress.begin("ready", "waiting for the first token")
            if answered:
                result = self._ready()
                if result.ok:
                    self.progress.end(result.detail)
                    return
                why = result.detail
            self.progress.detail(last_line(engine.logs(self.name, tail=3)))
            time.sleep(POLL_SECONDS)
        raise ApplianceError(
            "not-ready", f"Not ready after {self.config.timeouts.ready:g} s: {why}."
        )

    def _refuse_dead(self, engine: docker.Engine) -> None:
        found = engine.container(self.name)
        if found is None:
            raise ApplianceError("container-died", f"The container {self.name} was removed.")
        if found.running and not found.restarts:
            return
        line = first_error(engine.logs(self.name, tail=LOG_LINES))
        # Left alone, the restart policy would load and fail without end. Nothing that serves
        # is lost: there is no request to wait for.
        engine.stop(self.name, DEAD_STOP_SECONDS)
        how = "was killed for want of memory" if found.oom_killed else "ended"
        code = f" with exit code {found.exit_code}" if found.exit_code else ""
        raise ApplianceError(
            "container-died", f"The container {how}{code} while loading. First error: {line}"
        )

    def _smoke(self) -> tuple[ProbeResult, ...]:
        if not self.options.smoke:
            return ()
        self.progress.begin("smoke", "text, image, audio, video")
        results = run_smoke(target(self.plan, self.config.timeouts.probe), self.progress)
        failed = [result for result in results if not result.ok]
        if failed:
            self.progress.stop()
            lines = "\n".join(f"{result.probe}: {result.detail}" for result in failed)
            raise ApplianceError("smoke-failed", f"{len(failed)} probes failed.\n{lines}")
        self.progress.end(f"{len(results)} probes passed")
        return tuple(results)

    def _live(self) -> ProbeResult:
        import healthchecks

        return healthchecks.live(target(self.plan, LIVE_SECONDS))

    def _ready(self) -> ProbeResult:
        import healthchecks

        return healthchecks.ready(target(self.plan, self.config.timeouts.probe))


def target(plan: Plan, timeout: float) -> Target:
    """Return what the probes are to probe; `timeout` in seconds. Raises api-key-file."""
    import healthchecks

    key = read_key(Path(plan.api_key_file)) if plan.api_key_file else None
    return healthchecks.Target(plan.api_url, plan.model.served_name, key, timeout)


def run_smoke(target: Target, progress: Progress) -> list[ProbeResult]:
    """Run the smoke probes, each shown as it ends."""
    import healthchecks

    return healthchecks.smoke(target, on_result=lambda result: progress.detail(result.probe))


def bring_weights(model: ModelPlan, progress: Progress) -> ModelFolder:
    """Return the complete model folder: checked where it is the operator's, else fetched."""
    from appliance.weights.fetch import Progress as Bytes
    from appliance.weights.fetch import fetch
    from appliance.weights.verify import verify

    folder = Path(model.host_path)
    if model.source != "hub":
        return verify(folder)

    def show(done: Bytes) -> None:
        progress.detail(
            f"{done.done_bytes / 1e9:.2f} of {done.total_bytes / 1e9:.2f} GB  {done.file}"
        )

    return fetch(model.id, folder, revision=model.revision, on_progress=show)
