"""Makes a job's container through the engine's API: nothing of it stands in a process list."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from appliance.engine.docker import translated
from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from appliance.engine.docker import Engine
    from appliance.jobs.container import Job
    from appliance.plan.model import Container


def busy(name: str) -> ApplianceError:
    """Return the error of a container that another launcher has."""
    return ApplianceError(
        "busy",
        f"The container {name} is at work already.",
        f"Wait for it, or end it: docker stop {name}",
    )


def create(engine: Engine, job: Job, *, claims: bool) -> str:
    """Make the container, with an open stdin and no log; the engine removes it when it ends.

    `claims` says to other appliances that its dies are taken. Returns its id. Raises busy where
    another launcher was faster, engine-failed, engine-unreachable.
    """
    try:
        with translated():
            return _create(engine, job, claims=claims)
    except ApplianceError as error:
        if getattr(error.__cause__, "status_code", None) == HTTPStatus.CONFLICT:
            raise busy(job.name) from error
        raise


def _create(engine: Engine, job: Job, *, claims: bool) -> str:
    it = job.container
    api = engine.client.api
    made = api.create_container(
        it.image,
        list(it.command),
        name=it.name,
        environment=dict(it.environment),
        labels=it.labels() if claims else None,
        stdin_open=True,
        stop_signal=it.stop_signal,
        stop_timeout=it.stop_timeout,
        runtime=it.runtime,
        healthcheck={"test": ["NONE"]},
        host_config=api.create_host_config(**_host(it), network_mode=job.network),
    )
    return str(made["Id"])


def _host(it: Container) -> dict[str, Any]:
    from docker.types import Mount, Ulimit

    return {
        "auto_remove": True,
        "log_config": {"Type": "none"},  # All of it comes by the pipes.
        "init": it.init,
        "read_only": it.read_only,
        "privileged": it.privileged,
        "cap_drop": list(it.cap_drop),
        "security_opt": list(it.security_opt),
        "group_add": list(it.group_add),
        "shm_size": it.shm_size_bytes,
        "mem_limit": it.memory_bytes,
        "tmpfs": {mount.target: mount.options for mount in it.tmpfs},
        "ulimits": [Ulimit(name=u.name, soft=u.soft, hard=u.hard) for u in it.ulimits],
        "devices": [f"{device.host}:{device.container}:rwm" for device in it.devices],
        "mounts": [
            Mount(mount.target, mount.source, type=mount.type, read_only=mount.read_only)
            for mount in it.mounts
        ],
    }
