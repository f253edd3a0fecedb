"""Makes sure of a Docker engine with compose and buildx, on Debian and Ubuntu as root.

What is there is left alone. What is missing comes from the distribution. Debian 12 has
neither Compose 2 nor buildx; there Debian 13's suite is added at a priority so low that
nothing is taken from it but Docker and what Docker needs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.engine.command import run
from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from collections.abc import Callable

APT_SECONDS = 1200.0
START_SECONDS = 60.0
QUICK_SECONDS = 20.0
SOURCES = Path("/etc/apt/sources.list.d")
PREFERENCES = Path("/etc/apt/preferences.d")
DAEMON_LOG = Path("/var/log/dockerd.log")
# What Debian 12 lacks, its successor has.
NEWER_SUITE = "trixie"


def missing_parts() -> list[str]:
    """Return which of the engine's command-line parts are not installed."""
    if shutil.which("docker") is None:
        return ["docker", "docker compose", "docker buildx"]
    return [
        f"docker {plugin}"
        for plugin in ("compose", "buildx")
        if not _succeeds(["docker", plugin, "version"])
    ]


def answers() -> bool:
    """Tell whether an engine answers."""
    return _succeeds(["docker", "version", "--format", "{{.Server.Version}}"])


def ensure(*, install: bool, on_line: Callable[[str], None]) -> None:
    """Return when an engine with compose and buildx answers.

    With `install`, what is missing is installed and a stopped engine is started. Raises
    engine-missing or engine-unreachable, saying exactly what to install or to start.
    """
    missing = missing_parts()
    remote = "DOCKER_HOST" in os.environ
    if not remote and "docker" not in missing and _daemon() is None and not answers():
        missing.insert(0, "docker")  # A client alone.
    if missing:
        if not install or not _can_install() or _foreign_engine():
            raise _cannot_install(missing)
        _install(missing, on_line)
        if missing := missing_parts():
            raise _cannot_install(missing)
    if answers():
        return
    if remote or not install or os.geteuid() != 0:
        where = os.environ.get("DOCKER_HOST", "its socket")
        raise ApplianceError("engine-unreachable", f"No Docker engine answers at {where}.")
    _start(on_line)


def _can_install() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def _foreign_engine() -> bool:
    """Tell whether Docker here is not the distribution's, whose plugins would push it out."""
    return any(_succeeds(["dpkg", "--status", name]) for name in ("docker-ce", "podman-docker"))


def _cannot_install(missing: list[str]) -> ApplianceError:
    names = ", ".join(missing)
    if shutil.which("apt-get") and _foreign_engine():
        wanted = " ".join(f"docker-{part.split()[-1]}-plugin" for part in missing)
        remedy = f"From where this Docker came from: apt-get install {wanted}"
    elif shutil.which("apt-get"):
        packages = " ".join(_packages(missing, _release()))
        remedy = f"As root: apt-get install {packages}   (or run `make up` as root)"
    elif shutil.which("dnf") or shutil.which("yum"):
        remedy = (
            "Install docker-ce, docker-compose-plugin and docker-buildx-plugin from Docker's "
            "repository (openEuler: docker-engine and the two plugins), then: "
            "systemctl enable --now docker"
        )
    else:
        remedy = "Install Docker Engine 24 or newer with its compose and buildx plugins."
    return ApplianceError("engine-missing", f"Not installed: {names}.", remedy)


def _release() -> dict[str, str]:
    try:
        text = Path("/etc/os-release").read_text(encoding="utf-8")
    except OSError:
        return {}
    return dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', text, re.MULTILINE))


def _packages(missing: list[str], release: dict[str, str]) -> list[str]:
    """Return the distribution's packages for the missing parts, and for nothing else."""
    compose = "docker-compose-v2" if release.get("ID") == "ubuntu" else "docker-compose"
    table = {
        "docker": "docker.io",
        "docker compose": compose,
        "docker buildx": "docker-buildx",
    }
    return [table[part] for part in missing]


def _install(missing: list[str], on_line: Callable[[str], None]) -> None:
    packages = _packages(missing, _release())
    _apt(["update"], on_line)
    if lacking := [name for name in packages if not _offered(name)]:
        if _release().get("ID") != "debian":
            raise ApplianceError("engine-missing", f"apt offers no {', '.join(lacking)}.")
        _add_suite(NEWER_SUITE)
        _apt(["update"], on_line)
        # These from there, and of the rest only what they can't do without.
        packages = [f"{name}/{NEWER_SUITE}" for name in packages]
    if shutil.which("docker") is None and _offered("docker-cli"):
        # From Debian 13 on the command is a package of its own.
        packages.append("docker-cli")
    # Nothing that is there may go: this host runs other things.
    options = ["--yes", "--no-install-recommends", "--no-remove", "--no-upgrade"]
    _apt(["install", *options, *packages], on_line)


def _apt(words: list[str], on_line: Callable[[str], None]) -> None:
    command = ["apt-get", "--quiet", "--quiet", "--option=Dpkg::Use-Pty=0"]
    run(
        [*command, "--option=Dpkg::Options::=--force-confold", *words],
        error="engine-missing",
        what="Installing Docker",
        timeout=APT_SECONDS,
        on_line=on_line,
        environment={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
    )


def _offered(package: str) -> bool:
    """Tell whether apt offers a package in a version that serves: Compose 1 does not."""
    done = subprocess.run(
        ["apt-cache", "policy", package],
        capture_output=True,
        text=True,
        check=False,
        timeout=QUICK_SECONDS,
        env={**os.environ, "LC_ALL": "C"},
    )
    found = re.search(r"Candidate: (\S+)", done.stdout)
    if found is None or found[1] == "(none)":
        return False
    return not (package == "docker-compose" and found[1].startswith("1."))


def _add_suite(suite: str) -> None:
    """Add a newer Debian suite from the mirror that apt already uses, at a low priority."""
    mirror = debian_mirror()
    if mirror is None:
        raise ApplianceError(
            "engine-missing", "apt's sources name no Debian mirror to take Docker from."
        )
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    sources = f"Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\n"
    pin = f"Package: *\nPin: release n={suite}\nPin-Priority: 100\n"
    try:
        (SOURCES / f"appliance-{suite}.sources").write_text(
            f"{sources}Signed-By: {keyring}\n", encoding="utf-8"
        )
        (PREFERENCES / f"appliance-{suite}").write_text(pin, encoding="utf-8")
    except OSError as error:
        raise ApplianceError("file-not-written", f"apt's sources: {error}") from error


def debian_mirror() -> str | None:
    """Return the address of the Debian mirror that this host's apt uses, if it uses one."""
    if _release().get("ID") != "debian":
        return None
    texts = [
        path.read_text(encoding="utf-8", errors="replace")
        for path in (Path("/etc/apt/sources.list"), *sorted(SOURCES.glob("*")))
        if path.is_file()
    ]
    found = re.findall(r"^(?:URIs:|deb(?: \[[^]]*\])?)\s+(\S+)", "\n".join(texts), re.MULTILINE)
    return next((url for url in found if url.rstrip("/").endswith("/debian")), None)


def _daemon() -> str | None:
    return shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin")


def _start(on_line: Callable[[str], None]) -> None:
    if Path("/run/systemd/system").is_dir():
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(["systemctl", "start", "docker"], check=False, timeout=START_SECONDS)
    elif daemon := _daemon():
        on_line(f"$ {daemon}   (in the background, log in {DAEMON_LOG})")
        with DAEMON_LOG.open("ab") as log:
            subprocess.Popen([daemon], stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if answers():
            return
        time.sleep(0.5)
    raise ApplianceError(
        "engine-unreachable",
        f"The Docker engine was started but does not answer after {START_SECONDS:g} s.",
        f"See `journalctl -u docker`, or {DAEMON_LOG}.",
    )


def _succeeds(command: list[str]) -> bool:
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=QUICK_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
