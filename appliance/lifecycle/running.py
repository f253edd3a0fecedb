"""Where the running container's API is: read from the container, not from today's plan."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.errors import ApplianceError
from appliance.plan import names
from appliance.plan.access import reachable
from appliance.secretfile import read_key

if TYPE_CHECKING:
    from appliance.engine.docker import ContainerState
    from healthchecks import Target


LIVE_SECONDS = 3.0


def answers(target: Target) -> bool:
    """Tell whether the API answers at all, within a few seconds whatever the probe's own limit."""
    import healthchecks

    return healthchecks.live(dataclasses.replace(target, timeout=LIVE_SECONDS)).ok


def target(found: ContainerState, timeout: float) -> Target:
    """Return what to probe of a container that an appliance's plan made; `timeout` in seconds.

    Raises engine-failed where its labels can't be read, and api-key-file.
    """
    import healthchecks

    try:
        spec = found.spec()
        command: list[str] = spec["command"]
        model = command[command.index("--served-model-name") + 1]
        ports = spec["ports"]
        url = dict(spec["environment"])["HEALTHCHECKS_URL"]
        if ports:
            url = f"http://{reachable(ports[0]['host_ip'])}:{ports[0]['host']}"
        keys = [m["source"] for m in spec["mounts"] if m["target"] == names.API_KEY_FILE]
    except (LookupError, TypeError, ValueError) as error:
        raise ApplianceError(
            "engine-failed",
            "The container carries no plan of this appliance: it was made by a portable file or "
            "another version.",
            "Probe it with `appliance smoke --url`; `appliance up` makes it anew.",
        ) from error
    return healthchecks.Target(url, model, read_key(Path(keys[0])) if keys else None, timeout)
