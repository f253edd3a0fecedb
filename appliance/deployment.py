"""From the operator's wishes and the host to a plan: the first steps of every command."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from appliance import paths
from appliance.engine import claims
from appliance.errors import ApplianceError
from appliance.inventory import document, read
from appliance.lifecycle import state
from appliance.plan import ascend
from appliance.plan.make import make
from appliance.plan.make import sources as plan_sources

if TYPE_CHECKING:
    from appliance.config.model import Config
    from appliance.inventory.model import Inventory
    from appliance.plan.model import ImagePlan, ModelPlan, Plan


@dataclass(frozen=True)
class Deployment:
    """One appliance as it is meant to be, and what that was made of."""

    config: Config
    inventory: Inventory
    plan: Plan


@dataclass(frozen=True)
class Sources:
    """What an appliance is made of: what can be fetched before there is a host to run it."""

    config: Config
    image: ImagePlan
    model: ModelPlan


def prepare(config: Config, snapshot: Path | None = None, *, to_change: bool = False) -> Deployment:
    """Read the host, or its snapshot, and plan for it; raises `ApplianceError`.

    `to_change`: the plan is going to be carried out, so that what others hold must be known.
    """
    config = absolute(config)
    inventory = take(config, snapshot, patience=claims.PATIENT_SECONDS if to_change else None)
    if to_change and not inventory.claims_known:
        raise ApplianceError(
            "engine-unreachable",
            "The Docker engine does not say which appliances run, so NPUs and ports could be "
            "taken from one of them.",
        )
    plan = make(config, inventory, models_dir())
    host_path = plan.model.host_path
    if paths.inside_image() and plan.model.source != "bundled" and not host_path.startswith("/"):
        raise ApplianceError(
            "config-invalid",
            f"The model's folder is {host_path}, which depends on who reads it.",
            "Give `model.path` or `cache.dir` as an absolute path of the host.",
        )
    return Deployment(config, inventory, plan)


def sources(config: Config, snapshot: Path | None = None) -> Sources:
    """Plan what has to be fetched, whether or not the host could serve it now."""
    config = absolute(config)
    image, model = plan_sources(config, take(config, snapshot), models_dir())
    return Sources(config, image, model)


def models_dir() -> str | None:
    """Return the host folder of the models that ship with the launcher, where it has any."""
    models = paths.models()
    return str(models) if models else None


def take(config: Config, snapshot: Path | None = None, patience: float | None = None) -> Inventory:
    """Take the inventory that a plan for this configuration needs.

    `patience` is how many seconds the engine has to say what other appliances hold.
    """
    if snapshot is not None:
        return read.snapshot(snapshot)
    model_config = None
    if config.model.path is not None and not paths.inside_image():
        model_config = document.read(Path(config.model.path) / "config.json")
    key_file = config.server.api_key_file
    if paths.inside_image():
        key_file = None  # It is on the host, where nothing can be asked about it from here.
    found = read.live(ascend.candidate_paths(), (key_file,) if key_file else ())
    held = claims.read(patience or claims.SECONDS)
    return dataclasses.replace(
        found,
        model_config=model_config,
        claims=(*(held or ()), *state.pending(config.name)),
        claims_known=held is not None,
    )


def absolute(config: Config) -> Config:
    """Return the configuration with its host paths made absolute, `~` being the user's home.

    In the image they stay as they are written: they are the host's.
    """
    if paths.inside_image():
        return config

    def full(path: str | None) -> str | None:
        try:
            return os.path.abspath(Path(path).expanduser()) if path else path  # noqa: PTH100
        except RuntimeError as error:
            raise ApplianceError("config-invalid", f"{path}: {error}") from error

    cache = dataclasses.replace(config.cache, dir=full(config.cache.dir) or config.cache.dir)
    return dataclasses.replace(
        config,
        cache=cache,
        model=dataclasses.replace(config.model, path=full(config.model.path)),
        server=dataclasses.replace(config.server, api_key_file=full(config.server.api_key_file)),
        build=dataclasses.replace(config.build, ca_bundle=full(config.build.ca_bundle)),
    )
