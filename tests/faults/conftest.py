"""An appliance to break, called `faults`, and a record of what breaking it cost.

Needs root, as the faults are a host's: signals to the engine's processes, memory, disks. With
`--record FILE` the measured rows are written there; `scripts/docs.py` makes the README's table of
`tests/faults/measured.json`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import healthchecks
from tests.e2e.conftest import Cli, docker, free_port, inspect, wait_until
from tests.faults.flight import Flight

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
NAME = "faults"
DISK_MIB = 256
# What an engine that fails needs, beside a start, until its successor begins.
FOUND_SECONDS = 120.0
PROBE_SECONDS = 10.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of this suite."""
    parser.addoption("--record", metavar="FILE", help="write what the faults cost to this file")
    parser.addoption(
        "--saturation", metavar="SECONDS", type=float, default=120.0, help="how long to saturate"
    )


@dataclass(frozen=True)
class Row:
    """What one fault cost. `seconds` until the next right answer, `None` where none was missed.

    `lost` counts the requests in flight by how they ended; `cause` is what `status` names.
    """

    fault: str
    lost: dict[str, int]
    seconds: float | None
    cause: str | None


@dataclass
class Appliance:
    """The appliance under test."""

    cli: Cli
    url: str
    model: Path
    disk: Path
    start_seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)

    @property
    def target(self) -> healthchecks.Target:
        return healthchecks.Target(self.url, "tiny-omni", timeout=PROBE_SECONDS)

    def verify(self) -> bool:
        """Ask one question about an image, a sound and a video, all of fresh media."""
        [result] = healthchecks.smoke(self.target, only=["all-1"])
        return result.ok

    def bring_up(self) -> None:
        """Have it serve, whatever state it is in."""
        done = self.cli.run("up", "--no-smoke")
        assert done.returncode == 0, done.stdout + done.stderr
        wait_until("it answers right", 60, self.verify)

    def started(self) -> str:
        """Return when the container was last started."""
        return str(inspect(NAME)["State"]["StartedAt"])

    def process(self, title: str) -> int:
        """Return the host's pid of one of the container's processes."""
        lines = docker("top", NAME, "-o", "pid,args").splitlines()[1:]
        found = [int(line.split()[0]) for line in lines if title in line]
        assert found, lines
        return found[0]

    def signal(self, title: str, number: signal.Signals) -> None:
        """Send a signal to one of the container's processes, from the host."""
        os.kill(self.process(title), number)

    def flight(self, count: int, tokens: int = 2000, *, again: bool = False) -> Flight:
        """Send requests that are still running when a fault strikes."""
        return Flight(self.url, "tiny-omni", count, tokens, again).start()

    def again(self, began: float, before: str) -> float:
        """Return the seconds from `began` to a right answer of a container started anew."""
        limit = FOUND_SECONDS + 4 * self.start_seconds
        wait_until("a new start", limit, lambda: self.started() != before)
        wait_until("a right answer", limit, self.verify)
        return time.monotonic() - began

    def failures(self) -> list[dict[str, Any]]:
        """Return how the engine ended, as `status` has it."""
        found: list[dict[str, Any]] = self.cli.status()["failures"]
        return found


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small file system of its own for the caches, which a test can fill."""
    folder = tmp_path_factory.mktemp("disk")
    image, mounted = folder / "image", folder / "mounted"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(DISK_MIB << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    yield mounted
    subprocess.run(["umount", mounted], check=True)


def _clear() -> None:
    docker("rm", "--force", NAME, check=False)
    docker("volume", "rm", "--force", f"{NAME}-cache", check=False)


@pytest.fixture(scope="session")
def appliance(
    tmp_path_factory: pytest.TempPathFactory, disk: Path, request: pytest.FixtureRequest
) -> Iterator[Appliance]:
    """Bring the appliance up, with a model folder and a cache disk that can be broken."""
    state = tmp_path_factory.mktemp("state")
    model, port = state / "tiny-omni", free_port()
    shutil.copytree(ROOT / "models" / "tiny-omni", model)
    settings = {
        "name": NAME,
        "platform": "cpu",
        "server.port": str(port),
        "model.path": str(model),
        "model.served_name": "tiny-omni",
        "server.reasoning_parser": "deepseek_r1",
        "server.limit_mm_per_prompt": "{image: 5, video: 2, audio: 3}",
        "server.max_model_len": "32768",
        "container.memory": "8g",
        # Each fault is to be the first one: the budget has its own test.
        "watchdog.window": "1",
    }
    cli = Cli(state, settings)
    _clear()
    options = ["type=none", "o=bind", f"device={disk}"]
    docker("volume", "create", *(f"--opt={option}" for option in options), f"{NAME}-cache")
    made = Appliance(cli, f"http://127.0.0.1:{port}", model, disk)
    began = time.monotonic()
    done = cli.run("up", "--no-smoke", "--install-engine")
    assert done.returncode == 0, done.stdout + done.stderr
    file = request.config.getoption("--record")
    if file is not None:  # The first start may have built an image, too.
        began = time.monotonic()
        docker("restart", NAME)
    wait_until("the first right answer", 300, made.verify)
    made.start_seconds = time.monotonic() - began
    yield made
    _clear()
    record(file, made)


def record(file: str | None, appliance: Appliance) -> None:
    """Write what was measured."""
    if file is None:
        return
    document = {
        "cores": os.cpu_count(),
        "start_seconds": round(appliance.start_seconds, 1),
        "rows": [asdict(row) for row in appliance.rows],
    }
    Path(file).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


@pytest.fixture
def ready(appliance: Appliance) -> Appliance:
    """The appliance, serving."""
    if not appliance.verify():
        appliance.bring_up()
    return appliance


@pytest.fixture
def struck(ready: Appliance) -> Callable[..., Row]:
    """Strike with a fault, and follow what becomes of it."""

    def strike(name: str, inject: Callable[[Appliance], None], flying: int = 20) -> Row:
        flight = ready.flight(flying)
        wait_until("the requests are there", 60, lambda: flight.taken() >= min(flying, 20))
        before, known = ready.started(), {it["at"] for it in ready.failures()}
        began = time.monotonic()
        inject(ready)
        seconds = ready.again(began, before)
        lost = flight.land()
        failures = [failure for failure in ready.failures() if failure["at"] not in known]
        cause = f"[{failures[-1]['cause']}] {failures[-1]['detail']}" if failures else None
        row = Row(name, dict(lost), round(seconds, 1), cause)
        ready.rows.append(row)
        return row

    return strike
