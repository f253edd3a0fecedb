"""Which server a smoke test is for: this appliance's, or any other of the same API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.errors import ApplianceError
from appliance.lifecycle.up import target
from appliance.secretfile import read_key

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.deployment import Deployment
    from healthchecks import Target


def own(deployment: Deployment) -> Target:
    """Return this appliance's server."""
    return target(deployment.plan, deployment.config.timeouts.probe)


def other(url: str, model: str | None, key_file: Path | None, timeout: float) -> Target:
    """Return another server; `timeout` in seconds. Raises api-key-file, config-invalid."""
    import healthchecks

    key = read_key(key_file) if key_file else None
    try:
        return healthchecks.Target(url, model, key, timeout)
    except ValueError as error:
        raise ApplianceError("config-invalid", f"--url {url}: {error}") from error
