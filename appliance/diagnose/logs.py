"""Reads a log into lines: who says what, at which level. In one pass, in bounded memory.

The same messages arrive in many dresses: from `docker logs` with time stamps, from compose and
kubectl with the container's name, from a file that Docker wrote as JSON, or quoted in an issue
with its colours half removed. All that is taken off here, so that signatures see the message.
"""

from __future__ import annotations

import html
import io
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

# A line longer than this is read in pieces: a log may be one line of binary rubbish.
PIECE_BYTES = 65536
# No real line has more prefixes around each other than this.
_PREFIXES = 6

# Where a log was copied from a terminal, the escape character is often lost or spelt out.
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|(?:\^\[)?\[\d{1,3}(?:;\d{1,3}){0,4}m")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ufffd]|\^M$")
_ENTITY = re.compile(r"&(?:quot|lt|gt|amp|apos|#\d{1,5}|#x[0-9a-fA-F]{1,4});")
_QUOTED = re.compile(r"^\s*(?:>\s?)+")

_STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z| ?[+-]\d\d:?\d\d(?: [A-Z]{3,4})?)?"
# What collectors put before a line: compose, kubectl, containerd, syslog, `docker logs -t`.
_COLLECTOR = re.compile(
    rf"^\s*(?:{_STAMP}\s+(?:std(?:out|err)\s[FP]\s)?"
    r"|[A-Za-z][\w.-]{0,80}\s{1,40}\|\s(?!.*\|\s*$)"
    r"|\[pod/[^\]\s]{1,200}\]\s"
    r"|[A-Z][a-z]{2}\s[\s\d]\d\s\d\d:\d\d:\d\d\s[\w.-]{1,80}\s[\w./-]{1,80}(?:\[\d+\])?:\s)"
)

_LEVEL = r"DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL|FATAL"
_CLOCK = r"\d\d:\d\d:\d\d(?:[.,:]\d{1,9})*"
_NAME = r"[A-Za-z_][\w./-]{0,80}"
_PROCESS = r"\((?P<process>(?:[A-Za-z][^()]{0,80}? )?pid=\d+)[^()]{0,80}\) ?"
_PREFIX = re.compile(
    "|".join(
        (
            # vLLM's processes, Ray's, torchrun's; names of stages and of programs before those.
            rf"^{_PROCESS}",
            r"^\[(?P<rank>rank\d+)\]: ?",
            rf"^\[[\w.-]{{1,40}}\] (?=\([A-Za-z]|(?:{_LEVEL}) )",
            # vLLM's own lines, of both generations: `[core.py:946] ` and `engine.py:387] `.
            (
                rf"^(?P<vllm>{_LEVEL}) +\d\d-\d\d {_CLOCK} *"
                r"(?:\[[^\]\[]{0,120}\] ?|\|?[\w./<>-]{1,80}:\d+\] ?)?"
            ),
            # uvicorn's, and those of Python's basic logging.
            rf"^(?P<plain>{_LEVEL}):(?:{_NAME}:|\s{{1,8}})",
            # `2026-03-10 17:22:52,463 - vllm.engine - ERROR - `, with brackets or without.
            (
                rf"^(?:\[\d+\] )?\[?\d{{4}}-\d\d-\d\d[ T_-]{_CLOCK}\]? ?(?:- )?"
                rf"(?:\[[^\]]{{1,40}}\] |{_NAME}(?: - |: )){{0,4}}"
                rf"\[?(?P<dated>{_LEVEL}|{_LEVEL.lower()})\]?(?: - |: | )"
                r"(?:[\w./-]{1,80}:\d+\]?:? ?(?:- )?)?"
            ),
            # CANN's, from its runtime, from HCCL and from torch_npu.
            (
                r"^\[(?P<cann>ERROR|Error|WARNING|INFO|DEBUG|EVENT|TRACE)\]:? {0,3}"
                r"(?:[A-Z][A-Z0-9_]{1,20}\((?P<pid>\d+),[^)]{0,80}\):[\d:. -]{10,40}"
                r"(?:\[[^\]]{1,120}\] ?)?|[\d-]{8,12}[ -][\d:.]{8,20} \(PID:[^)]{0,80}\) ?)?"
            ),
            # glog's and PyTorch's C++ lines, and the Go programs'.
            rf"^\[(?P<glog>[IWEF])\d{{0,4}} ?{_CLOCK}[^\]]{{0,200}}\] ?",
            r'^time="[^"]{0,60}" level=(?P<logrus>[a-z]{4,7}) msg="?',
        )
    )
)
_NAMES = ("vllm", "plain", "dated", "cann", "glog", "logrus")
_LEVELS = {
    "WARN": "WARNING", "CRITICAL": "ERROR", "FATAL": "ERROR", "EVENT": "INFO", "TRACE": "DEBUG",
    "PANIC": "ERROR", "I": "INFO", "W": "WARNING", "E": "ERROR", "F": "ERROR",
}  # fmt: skip
# Python's warnings module names the file, then the category.
_WARNED = re.compile(r"^\S{1,300}:\d+: [A-Z]\w{0,40}Warning: ")
# A whole traceback that was pasted as one line still names the process before each part.
_INLINE = re.compile(r"(?<!^)(?=\([A-Za-z][^()]{0,60} pid=\d+\) )")


@dataclass(frozen=True)
class Line:
    """A line of a log: its number from 1, who says it (may be empty), at which level, what."""

    number: int
    process: str
    level: str | None
    text: str
    indent: int = 0


class Readable(Protocol):
    """What gives a log line by line."""

    def readline(self, size: int, /) -> bytes:
        """Read a line, or `size` bytes of a longer one."""


def read(stream: Readable) -> Iterator[Line]:
    """Yield the lines of a log, or the parts of lines that hold several; blank ones too."""
    number, fresh = 0, True
    while piece := stream.readline(PIECE_BYTES):
        number += fresh
        fresh = piece.endswith(b"\n")
        for part in piece.decode("utf-8", errors="replace").rstrip("\n").split("\r"):
            yield from _lines(number, part)


def lines(text: str) -> Iterator[Line]:
    """Yield the lines of a log that is a text."""
    return read(io.BytesIO(text.encode("utf-8", errors="replace")))


def last_line(log: str) -> str:
    """Return the log's last line that says something, without time stamps and colours."""
    for raw in reversed(log.splitlines()):
        for line in reversed(list(lines(raw))):
            if line.text:
                return line.text
    return ""


def _lines(number: int, raw: str) -> Iterator[Line]:
    plain = _unwrapped(raw)
    parts = _INLINE.split(plain) if plain.count(" pid=") > 1 else [plain]
    if len(parts) > 1 and _same_line(parts):
        parts = [plain]
    for part in parts:
        yield parse(part, number)


def _same_line(parts: list[str]) -> bool:
    """Tell whether all but the last part is only prefixes: a process within a process."""
    return all(_PREFIX.sub("", part.strip(), count=1).strip() == "" for part in parts[:-1])


def _unwrapped(raw: str) -> str:
    """Take off what was put around a line after it was written."""
    text = raw
    if raw.startswith('{"log":'):
        try:
            text = str(json.loads(raw)["log"]).rstrip("\n")
        except (ValueError, TypeError, LookupError, RecursionError):
            text = raw
    text = _CONTROL.sub("", _COLOURS.sub("", text)).replace("\xa0", " ")
    if "&" in text and _ENTITY.search(text):
        text = html.unescape(text)
    if text.lstrip()[:1] == ">":
        text = _QUOTED.sub("", text)
    for _ in range(_PREFIXES):
        found = _COLLECTOR.match(text)
        if found is None:
            break
        text = text[found.end() :]
    return text


def parse(text: str, number: int) -> Line:
    """Return what a line says, with its prefixes read and taken off."""
    process, level = "", None
    rest = text.lstrip() if _PREFIX.match(text.lstrip()) else text
    for _ in range(_PREFIXES):
        found = _PREFIX.match(rest)
        if found is None:
            break
        process = found["process"] or found["rank"] or process
        if found["pid"] and not process:
            process = f"pid={found['pid']}"
        named = next((found[name] for name in _NAMES if found[name]), None)
        if named and level is None:  # The outermost logger knows best.
            level = _LEVELS.get(named.upper(), named.upper())
        rest = rest[found.end() :]
        # One space belongs to the prefix; more of them are the message's own.
        if found["process"] and _PREFIX.match(rest.lstrip()):
            rest = rest.lstrip()
    if level is None and _WARNED.match(rest):
        level = "WARNING"
    said = rest.strip()
    return Line(number, process, level, said, len(rest) - len(rest.lstrip()) if said else 0)
