"""What `up` decides, for each state that a container can be found in."""

from __future__ import annotations

import dataclasses

import pytest

from appliance.engine.docker import ContainerState
from appliance.errors import ApplianceError
from appliance.lifecycle.decide import Action, decide
from appliance.plan import names

FOUND = ContainerState(
    id="0123456789abcdef",
    name="omni",
    status="running",
    exit_code=0,
    oom_killed=False,
    error="",
    restarts=0,
    started_at="2026-01-01T00:00:00Z",
    health="starting",
    image_id="sha256:1",
    labels={names.LABEL_NAME: "omni"},
)


def action(*changes: str, ready: bool = False, verified: bool = False, **state: object) -> Action:
    """Decide for a container like FOUND, with some of its state changed."""
    found = dataclasses.replace(FOUND, **state)  # type: ignore[arg-type]
    return decide(found, changes, ready=ready, verified=verified).action


def test_nothing_there_is_made() -> None:
    assert decide(None, (), ready=False, verified=False).action is Action.REPLACE


def test_only_what_is_ready_and_verified_is_left_alone() -> None:
    assert action(ready=True, verified=True) is Action.NOTHING
    assert action(ready=True) is Action.VERIFY


def test_a_difference_replaces_whatever_works() -> None:
    decision = decide(FOUND, ["image: a -> b"], ready=True, verified=True)
    assert decision.action is Action.REPLACE
    assert decision.reasons == ("image: a -> b",)


@pytest.mark.parametrize("status", ["created", "exited", "dead", "paused", "restarting"])
def test_what_does_not_run_is_replaced(status: str) -> None:
    assert action(status=status) is Action.REPLACE


def test_what_loads_is_waited_for() -> None:
    assert action() is Action.WAIT
    assert action(health="healthy") is Action.WAIT


def test_what_hangs_or_crashes_again_and_again_is_replaced() -> None:
    assert action(health="unhealthy") is Action.REPLACE
    assert action(restarts=3) is Action.REPLACE


def test_a_busy_server_that_answers_is_no_reason() -> None:
    """It restarted once, and its health check fell behind: it serves, so it stays."""
    assert action(ready=True, verified=True, restarts=1, health="unhealthy") is Action.NOTHING


def test_a_foreign_container_is_refused() -> None:
    with pytest.raises(ApplianceError, match="not an appliance's"):
        action(labels={})
