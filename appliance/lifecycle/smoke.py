"""Which server a smoke test is for: this appliance's, or any other of the same API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.engine import docker
from appliance.errors import ApplianceError
from appliance.lifecycle import running
from appliance.secretfile import read_key

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.config.model import Config
    from healthchecks import Target


def own(config: Config) -> tuple[Target, str]:
    """Return this appliance's running server, and the id of its container.

    Raises not-running, not-ready where it still loads, and engine-unreachable.
    """
    found = docker.connect().container(config.name)
    if found is None or not found.ours or not found.running:
        raise ApplianceError("not-running", f"There is no running appliance {config.name}.")
    target = running.target(found, config.timeouts.smoke)
    if not running.answers(target):
        raise ApplianceError(
            "not-ready", "The API does not answer.", "It may be loading: see `appliance status`."
        )
    return target, found.id


def other(url: str, model: str | None, key_file: Path | None, timeout: float) -> Target:
    """Return another server; `timeout` in seconds. Raises api-key-file, config-invalid."""
    import healthchecks

    key = read_key(key_file) if key_file else None
    try:
        return healthchecks.Target(url, model, key, timeout)
    except ValueError as error:
        raise ApplianceError("config-invalid", f"--url {url}: {error}") from error
