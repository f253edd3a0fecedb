"""Speaks with the container that runs the benchmarks."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from appliance.errors import ApplianceError
from appliance.jobs import process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from appliance.bench.arguments import Order
    from appliance.jobs.container import Job
    from appliance.jobs.process import Process

PROTOCOL = 1
COMMAND = ("python3", "-m", "appliance.inside.bench")
NAME = "The benchmark's container"
# The container ends a run that is late, and tells so: only one that hangs is later than that.
GRACE_SECONDS = 60.0


class Client:
    """A container that is ready for work. `versions` are those of what is in it."""

    def __init__(self, running: Process, patience: float) -> None:
        """Wait for its first line, at most so many seconds; raises job-failed."""
        self._process = running
        told = self._next(patience)
        if told.get("protocol") != PROTOCOL:
            raise _other_version()
        self.versions: dict[str, str] = told["versions"]

    def perform(self, order: Order, key: str | None, timeout: float) -> dict[str, Any]:
        """Have it do one run, of at most `timeout` seconds, and return what it answers.

        `key` is the API key of a server that is not the container's own. Raises job-failed.
        """
        line = {"arguments": order.arguments, "result": order.result, "timeout": timeout}
        if key is not None:
            line["key"] = key
        if order.client is not None:
            line["client"] = order.client
        self._process.send(json.dumps(line))
        return self._next(timeout + GRACE_SECONDS)

    def _next(self, patience: float) -> dict[str, Any]:
        line = self._process.line(patience, NAME)
        if line is not None:
            answer: dict[str, Any] = json.loads(line)
            return answer
        self._process.wait(what=NAME)  # Its log is whole then.
        if "No module named appliance.inside.bench" in self._process.log:
            raise _other_version()
        process.check(self._process, NAME)
        raise ApplianceError("job-failed", "The benchmark's container ended before its work did.")


def _other_version() -> ApplianceError:
    return ApplianceError(
        "job-failed",
        "The image was made by another version of this launcher, which measures in another way.",
        "`appliance up` renews the appliance with this version.",
    )


@contextmanager
def ready(
    job: Job, on_line: Callable[[str], None], *, claims: bool, patience: float
) -> Iterator[Client]:
    """Run the container while the block lasts; raises what `process.started` raises.

    It has `patience` seconds until it is ready for work.
    """
    with process.started(job, on_line, claims=claims) as running:
        yield Client(running, patience)
        running.no_more()
        process.check(running, NAME)
