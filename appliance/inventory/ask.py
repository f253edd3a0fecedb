"""Asks this host's npu-smi. The only room of the inventory that starts a process.

Imported only where there is something to ask: a host with no NPU starts nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from appliance.inventory import trouble
from appliance.inventory.read import npu_smi_paths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from appliance.inventory.assemble import Sources

# Seconds. It answers within two on a sound host with 16 dies.
TIMEOUT = 10.0
_LEAVE = 1.0
_COMMANDS = (("info",), ("info", "-m"), ("info", "-t", "topo"))


@dataclass(frozen=True)
class Answer:
    """What a command printed on both channels, and whether it ended in time."""

    text: str
    ended: bool = True


def asked(sources: Sources) -> Sources:
    """Add what npu-smi says; all that is asked at once, and each for `TIMEOUT` at the most."""
    program = find()
    if program is None:
        return sources
    began = time.monotonic()
    with ThreadPoolExecutor(len(_COMMANDS)) as pool:
        answers = list(pool.map(lambda words: run([program, *words]), _COMMANDS))
    # One client of the driver can keep out another: what is busy is asked again by itself.
    info, mapping, topology = answers
    if trouble.retry(info.text):
        second = run([program, *_COMMANDS[0]], max(_LEAVE, TIMEOUT - (time.monotonic() - began)))
        info = second if second.ended else info
    problems = sources.problems
    if not info.ended:
        problems += tuple(trouble.problems(["npu-smi timed out"], table=False))
    return replace(
        sources,
        # Without an answer at all, what there is to say is that it did not come.
        info=info.text if info.ended or info.text.strip() else None,
        mapping=mapping.text,
        topology=topology.text,
        problems=problems,
    )


def find() -> str | None:
    """Return npu-smi's path: the first that can be run, or else the first that is there."""
    there = [path for path in npu_smi_paths() if os.path.lexists(path)]
    good = (path for path in there if os.path.isfile(path) and os.access(path, os.X_OK))  # noqa: PTH113
    return next(good, there[0] if there else None)


def run(command: Sequence[str], timeout: float | None = None) -> Answer:
    """Run a command in a session of its own, so that what it started ends with it."""
    if os.path.isdir(command[0]):  # noqa: PTH112 (Docker makes one where a mount has no source)
        return Answer(f"{command[0]}: Is a directory")
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,
        )
    except OSError as error:
        return Answer(f"{command[0]}: {error.strerror}")
    try:
        output, _ = process.communicate(timeout=TIMEOUT if timeout is None else timeout)
    except subprocess.TimeoutExpired:
        return Answer(_end(process), ended=False)
    text = output.decode(errors="replace")
    if process.returncode < 0:
        text += f"\nnpu-smi was ended by signal {-process.returncode}\n"
    return Answer(text)


def _end(process: subprocess.Popen[bytes]) -> str:
    """End a command that hangs, and return what it printed.

    One that waits inside the driver can't be ended: it is left to itself.
    """
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        output, _ = process.communicate(timeout=_LEAVE)
    except subprocess.TimeoutExpired as error:
        output = error.output or b""
        if process.stdout is not None:
            process.stdout.close()
    return output.decode(errors="replace")
