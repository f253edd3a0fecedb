"""What an engine's log says went wrong, in one line, for `status` and `up`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.diagnose.logs import last_line, lines
from appliance.diagnose.match import diagnose

if TYPE_CHECKING:
    from appliance.diagnose.match import Finding

__all__ = ["explain", "first_error", "last_line"]


def explain(log: str) -> tuple[str, Finding | None]:
    """Return the first line of a log that names an error, and the known failure that it is.

    The line is without time stamps and colours. A line that states an error is preferred to
    others with the word in them. Warnings, and wrappers that point elsewhere, do not count.
    Falls back to the log's last line.
    """
    found = diagnose(lines(log)).findings()
    if found and found[0].kind in ("cause", "symptom", "request"):
        return found[0].shown, found[0]
    if found and found[0].kind == "unknown":
        return found[0].shown, None
    return last_line(log) or "the log is empty", None


def first_error(log: str) -> str:
    """Return the first line of a log that names an error, without time stamps and colours."""
    return explain(log)[0]
