"""Which server is worked on, from flags: this appliance's own, or another of the same API."""

from __future__ import annotations

import dataclasses
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from appliance import paths
from appliance.engine import docker
from appliance.errors import ApplianceError
from appliance.jobs import systems
from appliance.lifecycle import running, smoke

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.config.model import Config
    from appliance.plan.model import Container
    from appliance.results.model import System
    from healthchecks import Target


@dataclass(frozen=True)
class Elsewhere:
    """Another server, as flags name it; without a model the first that it lists.

    `tokenizer` is a folder of this host.
    """

    url: str
    model: str | None = None
    key_file: Path | None = None
    tokenizer: Path | None = None


@dataclass(frozen=True)
class Served:
    """What a server says of the model that it is asked for."""

    name: str
    root: str | None
    max_model_len: int | None


@dataclass(frozen=True)
class Own:
    """This appliance's running server. `url` is where it is in its own network."""

    system: System
    container: Container
    served: Served
    url: str
    args: tuple[str, ...]
    notes: tuple[str, ...]


def refuse_inside(what: str, remedy: str) -> None:
    """Raise engine-missing in the appliance image."""
    if paths.inside_image():
        message = f"In the appliance image there is no Docker engine: {what}."
        raise ApplianceError("engine-missing", message, remedy)


def own(config: Config) -> Own:
    """Return this appliance's running server, as it was made.

    Raises not-running, not-ready where it still loads, api-key-file, engine-failed,
    engine-unreachable.
    """
    engine = docker.connect()
    found = engine.container(config.name)
    if found is None or not found.ours or not found.running:
        raise ApplianceError("not-running", f"There is no running appliance {config.name}.")
    target = running.target(found, config.timeouts.probe)
    served = _ask(target, "It may be loading: see `appliance status`.")
    made = systems.container(found)
    args = systems.serve_args(made.command)
    system, notes = systems.running(config, engine, found, made, args)
    return Own(
        system,
        dataclasses.replace(made, image=found.image_id),
        served,
        dict(made.environment)["HEALTHCHECKS_URL"],
        args,
        (*notes, *systems.caveats(system)),
    )


def other(config: Config, wanted: Elsewhere, key_file: Path | None) -> tuple[Target, Served]:
    """Return another server; raises api-key-file, config-invalid, not-ready."""
    target = smoke.other(wanted.url, wanted.model, key_file, config.timeouts.probe)
    return target, _ask(target, "Name a server that runs, with `--url`.")


def is_loopback(url: str) -> bool:
    """Tell whether a URL leads to this machine."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _ask(target: Target, remedy: str) -> Served:
    """Ask for the model; raises api-key-file where the key is refused, else not-ready."""
    from healthchecks.client import Session
    from healthchecks.errors import ProbeError

    if not running.answers(target):
        raise ApplianceError("not-ready", f"The API at {target.url} does not answer.", remedy)
    try:
        with Session(target) as session:
            name = session.model()
            listed = session.get("/v1/models").json()
    except ProbeError as error:
        message = f"{target.url} does not name its model: {error}"
        if "HTTP 401" in str(error) or "HTTP 403" in str(error):
            raise ApplianceError(
                "api-key-file",
                message,
                "Give the key that the server was started with: --api-key-file FILE at --url; "
                "`appliance up` where this appliance's was written anew since.",
            ) from error
        raise ApplianceError("not-ready", message) from error
    rows = listed.get("data", []) if isinstance(listed, dict) else []
    roots = [row.get("root") for row in rows if row.get("id") == name.name]
    root = roots[0] if roots and isinstance(roots[0], str) else None
    return Served(name.name, root, name.max_model_len)
