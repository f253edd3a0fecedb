"""The engine's processes, as /proc shows them."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
STOPPED = "T"
ZOMBIE = "Z"
ENGINE_TITLE = "VLLM::"


@dataclass(frozen=True)
class Process:
    """One process at one moment.

    `state` is the kernel's letter: R runs, S and D sleep, T is stopped by a signal, Z is dead.
    `cpu` is the seconds of processor time that it has used, `ended` those of its children that
    have ended. `born` is when it started, in ticks: a number is given to another process later.
    """

    pid: int
    parent: int
    name: str
    state: str
    cpu: float
    ended: float = 0.0
    born: int = 0

    @property
    def key(self) -> tuple[int, int]:
        """What no other process has, before or after."""
        return self.pid, self.born

    def __str__(self) -> str:
        """Name it as an operator would look for it."""
        return f"{self.name} (pid {self.pid})"


def read(pid: int) -> Process | None:
    """Return a process, `None` when it is gone."""
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name may hold anything, parentheses too: what follows begins behind the last one.
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    try:
        used, ended = (sum(map(int, fields[at : at + 2])) / _TICKS for at in (11, 13))
        born = int(fields[19])
        return Process(pid, int(fields[1]), head.partition("(")[2], fields[0], used, ended, born)
    except (ValueError, IndexError):
        return None


def same(process: Process) -> Process | None:
    """Return a process as it is now, `None` when it is gone."""
    found = read(process.pid)
    return found if found is not None and found.born == process.born else None


def below(root: int) -> list[Process]:
    """Return all descendants of a process, parents before their children.

    There are none where /proc is not of this process's own container: the numbers in it are
    others' processes, which would be ended in the engine's place.
    """
    if (PROC / "self").readlink() != Path(str(os.getpid())):
        return []
    children: dict[int, list[Process]] = {}
    for entry in PROC.iterdir():
        found = read(int(entry.name)) if entry.name.isdigit() else None
        if found is not None:
            children.setdefault(found.parent, []).append(found)
    ordered, queue = [], [root]
    while queue:
        mine = children.pop(queue.pop(0), [])
        ordered += mine
        queue += [process.pid for process in mine]
    return ordered


def threads(pid: int) -> list[str]:
    """Return a line for each thread: name, state, and where in the kernel it waits."""
    lines = []
    with suppress(OSError):
        for task in sorted((PROC / str(pid) / "task").iterdir(), key=lambda it: int(it.name)):
            with suppress(OSError, IndexError):
                found = task.joinpath("stat").read_text(encoding="utf-8", errors="replace")
                state = found.rpartition(")")[2].split()[0]
                name = found.partition("(")[2].rpartition(")")[0]
                waits = task.joinpath("wchan").read_text(encoding="utf-8")
                lines.append(f"{task.name} {state} {name} {waits if waits != '0' else '-'}")
    return lines


def memory() -> str:
    """Return what the container's control group says of memory, empty where it says nothing."""
    lines = []
    group = Path("/sys/fs/cgroup")
    for name in (
        "memory.current", "memory.max", "memory.events",  # version 2
        "memory/memory.usage_in_bytes", "memory/memory.limit_in_bytes",  # version 1
        "memory/memory.oom_control",
    ):  # fmt: skip
        with suppress(OSError):
            text = " ".join((group / name).read_text(encoding="ascii").split())
            lines.append(f"{name.rpartition('/')[2]}: {text}")
    return "\n".join(lines)


def memory_kills() -> int:
    """Return how many processes of this container the kernel has killed for want of memory."""
    for name in ("memory.events", "memory/memory.oom_control"):
        with suppress(OSError, ValueError):
            text = Path("/sys/fs/cgroup", name).read_text(encoding="ascii")
            counts = dict(line.split(maxsplit=1) for line in text.splitlines())
            return int(counts.get("oom_kill", "0"))
    return 0
