"""How the engine is watched and ended: for the supervisor, vLLM and Docker's health check."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from appliance.catalog import load as catalog
from appliance.config.model import END_SECONDS, Watchdog
from appliance.errors import ApplianceError
from appliance.plan import names
from appliance.supervisor.settings import Settings, variables

if TYPE_CHECKING:
    from collections.abc import Iterable

    from appliance.config.model import Config
    from appliance.plan.options import Given

DRAIN_OPTION = "--shutdown-timeout"
QUIET_OPTION = "--disable-access-log-for-endpoints"
# What the supervisor asks for every few seconds.
QUIET_PATHS = "/health,/metrics"
BLINDING = "--disable-log-stats"
BLIND = (
    f"{BLINDING} takes away the counters by which a full server is told from one that hangs: the "
    "watchdog goes by tokens alone, which have `watchdog.busy` seconds to come."
)
# Beside the token, for the check to start and to look.
HEALTH_SECONDS = 10
_LIMITS = ("interval", "quiet", "deadline", "busy")


def check(config: Config) -> None:
    """Refuse limits that contradict each other; raises config-invalid."""
    try:
        config.watchdog.limits()
    except ValueError as error:
        raise ApplianceError(
            "config-invalid", f"`watchdog`: {error}.", "Correct the keys of `watchdog`."
        ) from error
    timeouts = config.timeouts
    if timeouts.drain is not None and timeouts.drain + END_SECONDS > timeouts.stop:
        raise ApplianceError(
            "config-invalid",
            f"`timeouts.stop` ({timeouts.stop}) leaves no {END_SECONDS} s for the end itself after "
            f"`timeouts.drain` ({timeouts.drain}).",
            "Raise `timeouts.stop`, or lower `timeouts.drain`.",
        )


def drain(config: Config) -> int:
    """Return the seconds that running requests have when the container is stopped."""
    timeouts = config.timeouts
    return max(0, timeouts.stop - END_SECONDS) if timeouts.drain is None else timeouts.drain


def arguments(config: Config, release: catalog.Release) -> list[str]:
    """Return what vLLM needs to know: older releases have neither option."""
    known = catalog.parser_options(release.vllm)
    args = [DRAIN_OPTION, str(drain(config))] if DRAIN_OPTION in known else []
    return [*args, QUIET_OPTION, QUIET_PATHS] if QUIET_OPTION in known else args


def warnings(config: Config, given: Iterable[Given]) -> list[str]:
    """Return what of the operator's options leaves the supervisor without evidence."""
    blind = config.watchdog.enabled and any(it.name == BLINDING and it.on for it in given)
    return [BLIND] if blind else []


def environment(config: Config) -> dict[str, str]:
    """Return the supervisor's variables: those that differ from its defaults."""
    return variables(Settings(config.watchdog, config.timeouts.ready, float(drain(config))))


def health_timeout(config: Config) -> int:
    """Return the seconds that Docker gives the check: it may have to wait for a token."""
    return math.ceil(config.watchdog.limits().idle) + HEALTH_SECONDS


def health_command(config: Config) -> str:
    """Return Docker's health check: it asks the supervisor's notes first."""
    given = dataclasses.asdict(config.watchdog)
    usual = dataclasses.asdict(Watchdog())
    words = ["python3 -m healthchecks progress", f"--watched {names.PROGRESS_FILE}"]
    words += [f"--{name} {given[name]:.15g}" for name in _LIMITS if given[name] != usual[name]]
    return " ".join(words)
