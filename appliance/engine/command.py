"""Runs the `docker` command: shown before it runs, bounded in time, every failure typed."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections import deque
from contextlib import suppress
from threading import Event, Timer
from typing import TYPE_CHECKING

from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_DISK_FULL = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
_PORT_TAKEN = re.compile(r"port is already allocated|address already in use", re.IGNORECASE)
_NO_ENGINE = re.compile(r"cannot connect to the docker daemon|docker daemon running", re.IGNORECASE)
KEPT_LINES = 200
# Of a failed command's output, what an operator sees above the error.
SHOWN_LINES = 15
GRACE_SECONDS = 5.0


def run(
    command: Sequence[str],
    *,
    error: str,
    what: str,
    timeout: float,
    on_line: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a command; the command itself and each line of its output go to `on_line`.

    `error` is the error id for a failure that is none of the known ones (disk full, port
    taken, no engine); `what` says in words what failed. `timeout` in seconds. An exit status
    other than 0, by a signal too, is a failure.
    """
    on_line(f"$ {shlex.join(command)}")
    tail: deque[str] = deque(maxlen=KEPT_LINES)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
            # A group of its own: docker's plugins are processes of their own, and one that
            # hangs must end with the rest.
            start_new_session=True,
        )
    except OSError as failure:
        raise ApplianceError("engine-missing", f"{command[0]} can't be run: {failure}") from failure
    expired = Event()

    def expire() -> None:
        expired.set()
        _end(process)

    timer = Timer(timeout, expire)
    timer.daemon = True
    timer.start()
    assert process.stdout is not None  # noqa: S101 (PIPE above)
    try:
        with process.stdout as output:
            for line in output:
                tail.append(line.rstrip())
                on_line(line.rstrip())
        status = process.wait()
    finally:
        timer.cancel()
        if process.poll() is None:
            _end(process)
            process.wait()
    if status != 0:
        for line in list(tail)[-SHOWN_LINES:]:
            print(f"  {line}", file=sys.stderr)
        raise classify("\n".join(tail), error, what, status, timeout if expired.is_set() else None)


def _end(process: subprocess.Popen[str]) -> None:
    """End a command with all its children: asked first, so that a package manager can tidy up."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
        # Whatever of the group is left, the command itself or a child that outlived it.
        os.killpg(process.pid, signal.SIGKILL)


def classify(
    output: str, error: str, what: str, status: int, expired_after: float | None
) -> ApplianceError:
    """Turn a failed command's output into the error that says most."""
    line = first_error_line(output)
    if _DISK_FULL.search(output):
        return ApplianceError("disk-full", f"{what}: {line}")
    if _PORT_TAKEN.search(output):
        return ApplianceError("port-in-use", f"{what}: {line}")
    if _NO_ENGINE.search(output):
        return ApplianceError("engine-unreachable", f"{what}: {line}")
    if expired_after is not None:
        return ApplianceError(error, f"{what}: not done after {expired_after:g} s. {line}")
    return ApplianceError(error, f"{what} (exit status {status}): {line}")


def first_error_line(output: str) -> str:
    """Return the line of a command's output that names the error, else its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    named = re.compile(
        r"no space left|cannot|\b(?:error|fatal|denied|refused|failed)\b", re.IGNORECASE
    )
    return next((line for line in lines if named.search(line)), lines[-1] if lines else "no output")
