"""What `up` has to do: a pure decision on what is there and what is meant to be."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from appliance.engine.docker import ContainerState


class Action(Enum):
    """What is to be done with the container."""

    REPLACE = "make it (anew)"
    WAIT = "wait until it is ready, then verify"
    VERIFY = "verify it"
    NOTHING = "leave it alone"


@dataclass(frozen=True)
class Decision:
    """The action, and for a container that is replaced the reasons, one a line."""

    action: Action
    reasons: tuple[str, ...] = ()


def decide(
    found: ContainerState | None,
    changes: Sequence[str],
    *,
    ready: bool,
    verified: bool,
    down: str | None = None,
) -> Decision:
    """Decide what to do.

    `changes` are the differences to the plan; `ready` says that the engine makes progress, `down`
    why its supervisor no longer starts it, `verified` that this very container has passed the
    smoke test. Raises container-start-failed for a container that is not an appliance's.
    """
    if found is None:
        return Decision(Action.REPLACE)
    if not found.ours:
        raise ApplianceError(
            "container-start-failed",
            f"There is a container {found.name} that is not an appliance's.",
            "Rename or remove it, or choose another `name`.",
        )
    if changes:
        return Decision(Action.REPLACE, tuple(changes))
    if ready:
        return Decision(Action.NOTHING if verified else Action.VERIFY)
    reasons = []
    if down:
        reasons.append(down)
    elif not found.running:
        reasons.append(f"the container is {found.status}")
    elif found.restarts:
        reasons.append(f"the engine makes no progress, and restarted {found.restarts} times")
    elif found.health == "unhealthy":
        reasons.append("the engine makes no progress, and the health check failed")
    return Decision(Action.REPLACE, tuple(reasons)) if reasons else Decision(Action.WAIT)
