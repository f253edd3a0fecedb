"""Runs the doctor: on this host, on a snapshot of one, or for `up` on what it has planned."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from appliance import deployment
from appliance.doctor import gather
from appliance.doctor.checks import examine
from appliance.doctor.model import Report, Subject
from appliance.engine.docker import REQUEST_SECONDS
from appliance.errors import ApplianceError
from appliance.inventory import ask
from appliance.inventory.facts import Missing
from appliance.plan.make import make

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.config.model import Config
    from appliance.deployment import Deployment
    from appliance.engine.docker import Engine
    from appliance.inventory.model import Inventory
    from appliance.plan.model import Plan

# npu-smi takes seconds on a host with many cards, and nothing can be planned without it. What
# asks it gives up by itself, and says why; this is for what nobody has thought of.
INVENTORY_SECONDS = ask.TIMEOUT + 4.0


def host(config: Config) -> Report:
    """Examine this host; raises config-invalid where a path of the configuration is none."""
    began = time.monotonic()
    config = deployment.absolute(config)
    gathering = gather.Gathering(config)
    found = gather.Readings(INVENTORY_SECONDS).start(lambda: _prepared(config, None))()
    if isinstance(found, Missing):
        subject = Subject(config, found, found, gathering.facts(None))
    else:
        inventory, plan = found
        made = None if isinstance(plan, ApplianceError) else plan
        subject = Subject(config, inventory, plan, gathering.facts(made))
    return Report(examine(subject), time.monotonic() - began)


def snapshot(config: Config, folder: Path) -> Report:
    """Examine what a snapshot says of a host; raises snapshot-invalid, config-invalid."""
    began = time.monotonic()
    config = deployment.absolute(config)
    inventory, plan = _prepared(config, folder)
    subject = Subject(config, inventory, plan, gather.of_snapshot(inventory, folder))
    return Report(examine(subject), time.monotonic() - began)


def before_up(found: Deployment, engine: Engine) -> Report:
    """Examine the host for a plan that is about to be carried out."""
    began = time.monotonic()
    # An engine that is busy is no reason to stop: it gets as long as any request to it.
    facts = gather.Gathering(found.config, engine, REQUEST_SECONDS).facts(found.plan)
    subject = Subject(found.config, found.inventory, found.plan, facts)
    return Report(examine(subject), time.monotonic() - began)


def _prepared(config: Config, folder: Path | None) -> tuple[Inventory, Plan | ApplianceError]:
    """Return the inventory, and the plan or why there is none."""
    # Not `prepare`: where that fails, the host would have to be read a second time.
    inventory = deployment.take(config, folder)
    try:
        return inventory, make(config, inventory, deployment.models_dir())
    except ApplianceError as error:
        return inventory, error
