"""Finds, in an engine's log, the line that says what went wrong first."""

from __future__ import annotations

import re

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# `(EngineCore pid=84) ERROR 11-22 12:00:00 [core.py:123] ` before what is said.
_PREFIX = re.compile(
    r"^(?:\([^)]*pid=\d+\)\s*)?(?:(?:ERROR|WARNING|INFO)\s+[\d-]+ [\d:.]+\s+)?(?:\[[^]]*\]\s*)?"
)
_EXCEPTION = re.compile(r"^(?:[a-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt)\b:? ?")
_ERROR = re.compile(r"\berror\b|\bfatal\b|can't be|cannot|no such file", re.IGNORECASE)
# These only say that something was wrong somewhere else.
_WRAPPER = re.compile(
    r"See root cause above|Engine core initialization failed|EngineDeadError|"
    r"WorkerProc (?:failed|initialization)|EngineCore failed to start"
)


def first_error(log: str) -> str:
    """Return the first line of a log that names an error, without time stamps and colours.

    An exception's own line is preferred to other lines with the word in them; wrappers that
    point elsewhere come last. Falls back to the log's last line.
    """
    lines = [_PREFIX.sub("", _ESCAPES.sub("", line).strip()) for line in log.splitlines()]
    lines = [line.strip() for line in lines if line.strip()]
    telling = [line for line in lines if not _WRAPPER.search(line)]
    for pattern in (_EXCEPTION, _ERROR):
        for line in telling:
            if pattern.search(line):
                return line
    return lines[-1] if lines else "the log is empty"


def last_line(log: str) -> str:
    """Return the log's last line that says something, without time stamps and colours."""
    for line in reversed(log.splitlines()):
        text = _PREFIX.sub("", _ESCAPES.sub("", line).strip()).strip()
        if text:
            return text
    return ""
