"""The supervisor's limits, as the container's environment gives them."""

from __future__ import annotations

import dataclasses
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.config.model import END_SECONDS, READY_SECONDS, STOP_SECONDS, Watchdog

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "SUPERVISOR_"


@dataclass(frozen=True)
class Settings:
    """All limits. `start` and `drain` in seconds, as are the watchdog's."""

    watchdog: Watchdog = dataclasses.field(default_factory=Watchdog)
    start: float = READY_SECONDS
    drain: float = STOP_SECONDS - END_SECONDS


def variables(settings: Settings) -> dict[str, str]:
    """Return the variables that say what differs from the defaults: usually none."""
    found = {}
    usual = Settings()
    for name, value in _flat(settings).items():
        if value != _flat(usual)[name]:
            found[PREFIX + name.upper()] = f"{value:.15g}" if name != "enabled" else str(int(value))
    return found


def read(environment: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings; raises ValueError with the variable that can't be understood."""
    given: dict[str, float] = {}
    for name in _flat(Settings()):
        text = environment.get(PREFIX + name.upper(), "")
        if text:
            given[name] = _number(PREFIX + name.upper(), text)
    kinds = {name: type(value) for name, value in dataclasses.asdict(Watchdog()).items()}
    watched = {name: kinds[name](value) for name, value in given.items() if name in kinds}
    rest = {name: value for name, value in given.items() if name not in kinds}
    found = Settings(Watchdog(**watched), **rest)
    try:
        found.watchdog.limits()
    except ValueError as error:
        raise ValueError(f"{PREFIX}*: {error}") from None
    return found


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{name} is {text!r}, and no number") from None
    # A wait that is longer than a wait can be would end the supervisor in the middle of it.
    if not 0 <= number <= threading.TIMEOUT_MAX:
        raise ValueError(f"{name} is {text!r}, which is no time and no count")
    return number


def _flat(settings: Settings) -> dict[str, float]:
    found: dict[str, float] = dataclasses.asdict(settings.watchdog)
    return {**found, "start": settings.start, "drain": settings.drain}
