"""Which server a smoke test is for: this appliance's, or any other of the same API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.errors import ApplianceError
from appliance.lifecycle.up import target

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

    try:
        key = key_file.read_text(encoding="utf-8").strip() if key_file else None
    except OSError as error:
        raise ApplianceError("api-key-file", f"The API key can't be read: {error}") from error
    try:
        return healthchecks.Target(url, model, key, timeout)
    except ValueError as error:
        raise ApplianceError("config-invalid", f"--url {url}: {error}") from error
