"""`status` and `down`: what the engine and the probes say now, and the way back to nothing.

Neither needs a plan to be possible: a host whose devices or key file are gone must still be
described, and taken down.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from appliance.engine import docker, images
from appliance.errors import ApplianceError
from appliance.lifecycle import drift, running, state, supervised
from appliance.lifecycle.logs import first_error, last_line
from appliance.lifecycle.up import LOG_LINES

if TYPE_CHECKING:
    from appliance.config.model import Config
    from appliance.lifecycle.progress import Progress
    from appliance.plan.model import Plan
    from appliance.supervisor.history import Failure, History

State = Literal[
    "absent", "created", "loading", "ready", "unready", "failed", "exited", "restarting", "paused"
]


_AFTER_FAILURES = (
    "`appliance diagnose` names the first error; mend it, and `appliance up` starts it again."
)


@dataclass(frozen=True)
class Status:
    """An appliance, as it is now. `next` is what an operator can do about it.

    `endpoint` and `model` are the running container's; `differences` are what `up` would
    change, with the reason instead where no plan can be made now. `restarts` are Docker's count,
    `failures` what the supervisor knows of them, the last one last.
    """

    name: str
    state: State
    detail: str
    next: str
    changing: str | None = None
    endpoint: str | None = None
    model: str | None = None
    container: str | None = None
    started_at: str | None = None
    restarts: int = 0
    failures: tuple[Failure, ...] = ()
    health: str | None = None
    verified: bool = False
    differences: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the status as `--json` prints it."""
        return asdict(self)


def read(config: Config, plan: Plan | ApplianceError) -> Status:
    """Ask the engine and the server; raises engine-unreachable.

    `plan` is today's plan, or the error that stood in its way.
    """
    engine = docker.connect()
    found = engine.container(config.name)
    holder = state.holder(config.name)
    if found is None or not found.ours:
        detail = "There is no container."
        action = "Start it with `appliance up`."
        if found is not None:
            detail = "A container that is not an appliance's has this name."
            action = "Rename or remove it, or choose another `name`."
        return Status(config.name, "absent", detail, action, holder)
    if isinstance(plan, ApplianceError):
        differences = [f"no plan can be made: {plan.message}"]
    else:
        differences = drift.differences(found, plan, images.current(engine, plan.image))
    past = supervised.history(engine, found)
    kind, detail, action, url, model = _judge(engine, config, found, past)
    return Status(
        name=config.name,
        state=kind,
        detail=detail,
        next=action,
        changing=holder,
        endpoint=url and f"{url}/v1",
        model=model,
        container=found.id[:12],
        started_at=found.started_at,
        restarts=found.restarts,
        failures=tuple(past.failures),
        health=found.health,
        verified=state.verified(config.name) == found.id,
        differences=tuple(differences),
    )


def _judge(
    engine: docker.Engine, config: Config, found: docker.ContainerState, past: History
) -> tuple[State, str, str, str | None, str | None]:
    """Return state, detail, what to do, and the URL and model where they are known."""
    if not found.running:
        return (*_judge_stopped(engine, config.name, found), None, None)
    import healthchecks

    try:
        target = running.target(found, config.timeouts.probe)
    except ApplianceError as error:
        return "unready", error.message, error.remedy, None, None
    if not running.answers(target):
        return (*_judge_silent(engine, found, past), target.url, target.model)
    # Not a request that would wait its turn: a server that is full is ready, too.
    limits, patience = config.watchdog.limits(), config.timeouts.probe
    result = healthchecks.progress(target, limits, patience=patience)
    if result.verdict == "ok":
        action = "Use it; `appliance smoke` verifies every modality."
        return "ready", result.detail, action, target.url, target.model
    action = "See `appliance logs`; `appliance up --recreate` renews it."
    return "unready", result.detail, action, target.url, target.model


def _judge_silent(
    engine: docker.Engine, found: docker.ContainerState, past: History
) -> tuple[State, str, str]:
    """Judge a container whose API does not answer, by what its supervisor says that it does."""
    if past.phase == "down":
        return "failed", _sentence(past.detail), _AFTER_FAILURES
    if past.phase == "waiting":
        return "restarting", _sentence(past.detail), "Wait, or see `appliance diagnose`."
    line = last_line(engine.logs(found, tail=3))
    detail = f"The API does not answer yet. Last line: {line or '(none yet)'}"
    return "loading", detail, "Wait; `appliance logs --follow` shows more."


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _judge_stopped(
    engine: docker.Engine, name: str, found: docker.ContainerState
) -> tuple[State, str, str]:
    if found.status == "created":
        detail = f"The container was made but not started. {found.error}".strip()
        return "created", detail, "Run `appliance up`."
    if found.status == "paused":
        return "paused", "The container is paused.", f"docker unpause {name}, or `appliance up`."
    line = first_error(engine.logs(found, tail=LOG_LINES))
    kind: State = "restarting" if found.status == "restarting" else "exited"
    why = "Killed for want of memory. " if found.oom_killed else ""
    detail = f"{why}Exit code {found.exit_code}. {found.error or line}"
    return kind, detail, "See `appliance logs`; `appliance up` starts it again."


def down(config: Config, progress: Progress) -> bool:
    """Stop and remove the container; its caches stay. Returns whether there was one."""
    name = config.name
    with state.changing(name, "down"):
        engine = docker.connect()
        found = engine.container(name)
        if found is None:
            return False
        if not found.ours:
            raise ApplianceError(
                "engine-failed",
                f"The container {name} is not an appliance's, so it is left alone.",
                "Choose the `name` of your appliance.",
            )
        progress.begin("down", f"stopping {name}")
        if found.running:
            engine.stop(found, config.timeouts.stop)
        engine.remove(found)
        progress.end(f"{name} is gone; its caches and the weights stay")
        return True
