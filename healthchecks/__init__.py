"""Probes for an OpenAI-compatible server that runs an omni model under vLLM.

``live`` asks whether the server process answers, ``ready`` whether the engine generates,
``progress`` whether it goes on with what it has to do, and ``smoke`` whether questions about
images, sounds and videos get the right answers.

The names below are loaded on first use: a program that merely imports this package pays neither
for httpx nor for the probes.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without the cost of importing typing
if TYPE_CHECKING:
    from healthchecks.health import await_ready, live, ready
    from healthchecks.liveness.check import progress
    from healthchecks.liveness.watch import Limits
    from healthchecks.probes import PROBE_NAMES
    from healthchecks.report import write_json, write_junit
    from healthchecks.suite import fresh_seed, smoke
    from healthchecks.target import ProbeResult, Settings, Target

__all__ = [
    "PROBE_NAMES",
    "Limits",
    "ProbeResult",
    "Settings",
    "Target",
    "await_ready",
    "fresh_seed",
    "live",
    "progress",
    "ready",
    "smoke",
    "write_json",
    "write_junit",
]

_HOMES = {
    "PROBE_NAMES": "probes",
    "Limits": "liveness.watch",
    "ProbeResult": "target",
    "Settings": "target",
    "Target": "target",
    "await_ready": "health",
    "fresh_seed": "suite",
    "live": "health",
    "progress": "liveness.check",
    "ready": "health",
    "smoke": "suite",
    "write_json": "report",
    "write_junit": "report",
}

if not TYPE_CHECKING:  # a type checker would take every name for granted

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
