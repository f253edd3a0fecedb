"""`status` and `down`: what the engine and the probes say now, and the way back to nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from appliance.engine import docker, images
from appliance.errors import ApplianceError
from appliance.lifecycle import drift, state
from appliance.lifecycle.logs import first_error, last_line
from appliance.lifecycle.up import LIVE_SECONDS, LOG_LINES, target
from appliance.plan import names

if TYPE_CHECKING:
    from appliance.deployment import Deployment
    from appliance.lifecycle.progress import Progress

State = Literal["absent", "created", "loading", "ready", "unready", "exited", "restarting"]


@dataclass(frozen=True)
class Status:
    """An appliance, as it is now. `next` is what an operator can do about it."""

    name: str
    state: State
    detail: str
    next: str
    endpoint: str
    model: str
    changing: str | None = None
    container: str | None = None
    started_at: str | None = None
    restarts: int = 0
    health: str | None = None
    differences: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the status as `--json` prints it."""
        return asdict(self)


def read(deployment: Deployment) -> Status:
    """Ask the engine and the server; raises engine-unreachable."""
    plan = deployment.plan
    name = plan.container.name
    engine = docker.connect()
    found = engine.container(name)
    holder = state.holder(name)
    if found is None or names.LABEL_NAME not in found.labels:
        return Status(
            name,
            "absent",
            "There is no container." if found is None else "A foreign container has this name.",
            "Start it with `appliance up`.",
            plan.api_url,
            plan.model.served_name,
            holder,
        )
    kind, detail, action = _judge(engine, deployment, found)
    return Status(
        name=name,
        state=kind,
        detail=detail,
        next=action,
        endpoint=plan.api_url,
        model=plan.model.served_name,
        changing=holder,
        container=found.id[:12],
        started_at=found.started_at,
        restarts=found.restarts,
        health=found.health,
        differences=tuple(drift.differences(found, plan, images.current(engine, plan.image))),
    )


def _judge(
    engine: docker.Engine, deployment: Deployment, found: docker.ContainerState
) -> tuple[State, str, str]:
    import healthchecks

    plan, config = deployment.plan, deployment.config
    name = plan.container.name
    if found.status == "created":
        return "created", "The container was made but not started.", "Run `appliance up`."
    if not found.running:
        line = first_error(engine.logs(name, tail=LOG_LINES))
        kind: State = "restarting" if found.status == "restarting" else "exited"
        detail = f"Exit code {found.exit_code}. {found.error or line}"
        return kind, detail, "See `appliance logs`; `appliance up` starts it again."
    if not healthchecks.live(target(plan, LIVE_SECONDS)).ok:
        line = last_line(engine.logs(name, tail=3))
        return "loading", f"The API does not answer yet. Last line: {line}", "Wait: `appliance up`."
    result = healthchecks.ready(target(plan, config.timeouts.probe))
    if result.ok:
        return "ready", result.detail, "Use it; `appliance smoke` verifies every modality."
    return "unready", result.detail, "See `appliance logs`; `appliance up --recreate` renews it."


def down(deployment: Deployment, progress: Progress) -> bool:
    """Stop and remove the container; its caches stay. Returns whether there was one."""
    name = deployment.plan.container.name
    with state.changing(name, "down"):
        engine = docker.connect()
        found = engine.container(name)
        if found is None:
            return False
        if names.LABEL_NAME not in found.labels:
            raise ApplianceError(
                "engine-failed",
                f"The container {name} is not an appliance's, so it is left alone.",
                "Choose the `name` of your appliance.",
            )
        progress.begin("down", f"stopping {name}")
        if found.running:
            engine.stop(name, deployment.config.timeouts.stop)
        engine.remove(name)
        progress.end(f"{name} is gone; its caches and the weights stay")
        return True
