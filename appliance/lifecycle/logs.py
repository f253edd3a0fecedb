"""Finds, in an engine's log, the line that says what went wrong first."""

from __future__ import annotations

import re

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# `(EngineCore pid=84) ERROR 11-22 12:00:00 [core.py:123] ` before what is said, or torch's
# `[rank0]: `.
_PREFIX = re.compile(
    r"^(?:\([^)]*pid=\d+\)\s*)*(?:(?P<level>[A-Z]+)\s+[\d-]+ [\d:.]+\s+)?(?:\[[^]]*\]:?\s*)?"
)
# A start that ends well has lines of these levels with the word in them, too.
_HARMLESS = frozenset({"DEBUG", "INFO", "WARNING"})
# An exception's own line, or what a command-line parser says of its arguments.
_STATED = re.compile(r"^(?:[a-z_]\w*\.)*[A-Z]\w*(?:Error|Exception)\b|^[\w. ]+: error: ")
_ERROR = re.compile(r"\berror\b|\bfatal\b|can't be|cannot|no such file", re.IGNORECASE)
_COUNT = re.compile(r"\d+ validation errors? for \w+$")
# These only say that something was wrong somewhere else.
_WRAPPER = re.compile(
    r"See root cause above|Engine core initialization failed|EngineDeadError|"
    r"WorkerProc (?:failed|initialization)|EngineCore failed to start"
)


def first_error(log: str) -> str:
    """Return the first line of a log that names an error, without time stamps and colours.

    A line that states an error is preferred to others with the word in them. Warnings, and
    wrappers that point elsewhere, do not count. Falls back to the log's last line.
    """
    telling = []
    for line in log.splitlines():
        level, text = _parsed(line)
        if text and level not in _HARMLESS and not _WRAPPER.search(text):
            telling.append(text)
    for pattern in (_STATED, _ERROR):
        for number, line in enumerate(telling):
            if pattern.search(line):
                # Pydantic's first line only counts; what is wrong stands on those after it.
                more = telling[number + 1 : number + 3] if _COUNT.search(line) else []
                return " ".join([line, *more])
    return last_line(log) or "the log is empty"


def last_line(log: str) -> str:
    """Return the log's last line that says something, without time stamps and colours."""
    for line in reversed(log.splitlines()):
        text = _parsed(line)[1]
        if text:
            return text
    return ""


def _parsed(line: str) -> tuple[str | None, str]:
    """Return the level of a line of a log, where it has one, and what it says."""
    plain = _ESCAPES.sub("", line).strip()
    prefix = _PREFIX.match(plain)
    if prefix is None:
        return None, plain
    return prefix["level"], plain[prefix.end() :].strip()
