"""What tells afterwards why an engine was ended: collected before anything is stopped."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from appliance.supervisor import processes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from appliance.supervisor.history import Store

PREFIX = "evidence-"
KEPT = 5


def processes_now(found: Sequence[processes.Process]) -> str:
    """Describe the engine's processes and their threads, in the kernel's words."""
    lines = []
    for process in found:
        lines.append(
            f"{process.pid} of {process.parent} {process.state} {process.cpu:.1f} s {process.name}"
        )
        lines += [f"    {line}" for line in processes.threads(process.pid)]
    return "\n".join(lines)


def report(sections: dict[str, str], secret: str | None) -> str:
    """Make one text of all sections, without the API key."""
    text = "\n\n".join(f"== {title}\n{body}" for title, body in sections.items() if body) + "\n"
    return text.replace(secret, "[API key]") if secret else text


def keep(store: Store, text: str) -> str | None:
    """Keep a report beside the last few; returns its path, `None` where it can't be kept."""
    name = time.strftime(f"{PREFIX}%Y%m%dT%H%M%SZ.txt", time.gmtime())
    path = store.keep(name, text)
    try:
        for old in sorted(store.folder.glob(f"{PREFIX}*.txt"))[:-KEPT]:
            old.unlink()
    except OSError:
        return str(path) if path else None
    return str(path) if path else None
