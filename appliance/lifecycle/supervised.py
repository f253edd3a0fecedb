"""What the container's supervisor remembers: how often the engine failed, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.plan import names
from appliance.supervisor.history import FILE, History, parse

if TYPE_CHECKING:
    from appliance.engine.docker import ContainerState, Engine


def history(engine: Engine, found: ContainerState) -> History:
    """Return it; an empty one for a container that has no supervisor, or never started."""
    files = engine.files(found, f"{names.SUPERVISOR_DIR}/{FILE}")
    return parse(files.get(FILE, b"").decode("utf-8", "replace"))


def evidence(engine: Engine, found: ContainerState) -> str:
    """Return all that was kept of the last failures, the oldest first."""
    files = engine.files(found, names.SUPERVISOR_DIR)
    kept = sorted(name for name in files if name != FILE)
    return "\n".join(f"# {name}\n{files[name].decode('utf-8', 'replace')}" for name in kept)
