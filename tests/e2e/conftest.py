"""The end-to-end tests: a real Docker engine, real vLLM, real HTTP.

Nothing here is skipped: a machine on which these can't run fails them. The tests share one
appliance, called `e2e`, with a state folder and a port of its own; what they start on the
host, they take down. Files run in the order of their names: those up to 6 need it as it was
brought up, 7 changes it and takes it down, and the others use its image alone.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
COMMAND = str(Path(sys.executable).parent / "appliance")
NAME = "e2e"
# A host name that the test resolves inside the container, to where the test wants.
MEDIA_DOMAIN = "media.test"
# Building the base and the image from nothing, on a slow machine.
LONG = 1500


def free_port() -> int:
    """Return a port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Cli:
    """Runs the launcher as an operator does, as a process of its own."""

    state: Path
    settings: dict[str, str]
    environment: dict[str, str] = field(default_factory=dict)

    def arguments(self, *words: str, **more: str) -> list[str]:
        settings = {**self.settings, **{key.replace("__", "."): v for key, v in more.items()}}
        options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        return [COMMAND, *words, *options]

    def variables(self) -> dict[str, str]:
        return {**os.environ, "XDG_STATE_HOME": str(self.state), **self.environment}

    def run(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; whatever its exit status."""
        return subprocess.run(
            self.arguments(*words, **more),
            capture_output=True,
            text=True,
            check=False,
            timeout=LONG,
            cwd=self.state,
            env=self.variables(),
        )

    def start(self, *words: str, **more: str) -> subprocess.Popen[str]:
        """Start a command and leave it running, as leader of a group of processes."""
        return subprocess.Popen(
            self.arguments(*words, **more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.state,
            env=self.variables(),
            start_new_session=True,
        )

    def status(self) -> dict[str, Any]:
        """Return what `status` says, whatever that is."""
        found: dict[str, Any] = json.loads(self.run("status", "--json").stdout)
        return found

    def json(self, *words: str, **more: str) -> Any:
        """Run a command with --json and return its document; it must succeed."""
        done = self.run(*words, "--json", **more)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)


def docker(*words: str, check: bool = True, text: str | None = None) -> str:
    """Run the docker command and return what it prints."""
    done = subprocess.run(
        ["docker", *words], capture_output=True, text=True, check=False, timeout=LONG, input=text
    )
    assert not check or done.returncode == 0, f"docker {words}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def inspect(name: str) -> Any:
    """Return what the engine says of a container."""
    return json.loads(docker("inspect", "--type", "container", name))[0]


def execute(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a running container."""
    return subprocess.run(
        ["docker", "exec", name, *words], capture_output=True, text=True, check=False, timeout=120
    )


def wait_until(what: str, seconds: float, condition: Any) -> None:
    """Wait, with a bound, until a condition holds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.2)
    pytest.fail(f"not within {seconds:g} s: {what}")


@pytest.fixture(scope="session")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """The launcher, for the tests' own appliance. The image is there afterwards."""
    state = tmp_path_factory.mktemp("state")
    settings = {
        "name": NAME,
        "platform": "cpu",
        "server.port": str(free_port()),
        "server.allowed_media_domains": f"[{MEDIA_DOMAIN}]",
    }
    launcher = Cli(state, settings)
    subprocess.run(["docker", "rm", "--force", NAME], capture_output=True, check=False)
    yield launcher
    docker("rm", "--force", NAME, check=False)
    docker("volume", "rm", "--force", f"{NAME}-cache", check=False)


@dataclass(frozen=True)
class Served:
    """The running appliance: what `up` said when it was done, and how it got there."""

    cli: Cli
    document: dict[str, Any]
    interrupted: subprocess.CompletedProcess[str]
    status_while_loading: dict[str, Any]
    second: subprocess.CompletedProcess[str]
    log: str
    seconds: float

    @property
    def url(self) -> str:
        return str(self.document["endpoint"]).removesuffix("/v1")


@pytest.fixture(scope="session")
def served(cli: Cli) -> Served:
    """Bring the appliance up from nothing, the way a hasty operator does.

    The first `up` is interrupted while the engine loads; then a second goes on, and a third,
    beside it, is refused. One load of the engine serves all of these.
    """
    lines = []
    with cli.start("up", "--install-engine") as first:
        assert first.stderr is not None
        for line in first.stderr:
            lines.append(line)
            if line.startswith("[load]"):
                os.killpg(first.pid, signal.SIGINT)
                break
        out, rest = first.communicate(timeout=120)
    interrupted = subprocess.CompletedProcess("up", first.returncode, out, "".join(lines) + rest)
    assert first.returncode == 130, interrupted.stderr

    status = cli.status()
    began = time.monotonic()
    with cli.start("up", "--json") as going_on:
        wait_until("up holds the lock", 60, lambda: cli.status()["changing"])
        second = cli.run("up")
        out, log = going_on.communicate(timeout=LONG)
    assert going_on.returncode == 0, log
    seconds = time.monotonic() - began
    return Served(cli, json.loads(out), interrupted, status, second, log, seconds)
