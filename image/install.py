"""Adds the appliance's Python packages to a base image, and takes nothing of the base away.

Runs inside `docker build`, with the base's own Python. What the base already has stays at
the base's version (on Ascend those versions are tuned to CANN); only what is missing is
installed, from the lock file, with its hashes checked and without dependency resolution.
Then the layer is made lean: no bytecode but for what starts often, no test suites, no
debugging symbols.
"""

from __future__ import annotations

import compileall
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

SITE = Path(sysconfig.get_path("purelib"))
# Imported on every start or every probe: worth their bytecode on a read-only root.
COMPILED = ("qwen_omni_utils", "av", "librosa", "docker")
PROJECT = ("appliance", "healthchecks")
# Only where the tests are a package's own and nothing at run time imports them.
TESTS_OF = ("scipy", "sklearn", "joblib", "pooch", "numba")


def canonical(name: str) -> str:
    """Return a distribution's name in the form of PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> set[str]:
    """Return the canonical names of all distributions in the image."""
    names = (dist.metadata["Name"] for dist in importlib.metadata.distributions())
    return {canonical(name) for name in names if name}


def entries(lock: str) -> list[str]:
    """Split a lock file into its requirements, each with its hashes."""
    joined = re.sub(r"\\\n\s*", " ", lock)
    lines = [line.strip() for line in joined.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def missing(lock: str, present: set[str]) -> list[str]:
    """Return the lock's requirements that the base image does not have in any version."""
    wanted = []
    for entry in entries(lock):
        name = re.split(r"[=\s;\[]", entry, maxsplit=1)[0]
        if canonical(name) not in present:
            wanted.append(entry)
    return wanted


def installer() -> list[str]:
    """Return the command line of an installer that the base image offers."""
    pip = [sys.executable, "-m", "pip", "install", "--no-cache-dir", "--no-compile"]
    if subprocess.run([*pip[:3], "--version"], capture_output=True, check=False).returncode == 0:
        return [*pip, "--disable-pip-version-check", "--root-user-action=ignore"]
    if uv := shutil.which("uv"):
        # The vLLM project's CPU image is made with uv and has no pip.
        return [uv, "pip", "install", "--no-cache", "--python", sys.executable]
    subprocess.run([sys.executable, "-m", "ensurepip"], check=True)
    return [*pip, "--disable-pip-version-check", "--root-user-action=ignore"]


def mismatches(fresh: set[str]) -> list[str]:
    """Return what the packages of this layer ask for and the base has in another version.

    A warning, not an error: what really matters is tried by check.py.
    """
    from packaging.requirements import Requirement

    found = []
    for name in sorted(fresh):
        for text in importlib.metadata.requires(name) or ():
            wanted = Requirement(text)
            if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
                continue
            try:
                version = importlib.metadata.version(wanted.name)
            except importlib.metadata.PackageNotFoundError:
                found.append(f"{name} wants {wanted}, which is not there")
                continue
            if not wanted.specifier.contains(version, prereleases=True):
                found.append(f"{name} wants {wanted}; the base has {version}")
    return found


def distribution(package: str) -> str:
    """Return the name of the distribution that an import package comes from."""
    return {"sklearn": "scikit-learn"}.get(package, canonical(package))


def prune(fresh: set[str]) -> None:
    """Remove the test suites, and the debugging symbols, of packages that this layer added."""
    for package in TESTS_OF:
        if distribution(package) in fresh:
            for folder in sorted((SITE / package).rglob("tests")):
                shutil.rmtree(folder, ignore_errors=True)
    strip = shutil.which("strip")
    if strip is None:
        return
    # Extension modules only: the libraries in `*.libs` were rewritten by auditwheel, and
    # stripping those can damage them. PyAV's modules alone lose 26 MB.
    for package in ("av", "scipy", "sklearn"):
        if distribution(package) in fresh:
            for module in (SITE / package).rglob("*.so"):
                subprocess.run([strip, "--strip-unneeded", str(module)], check=False)


def link_ffmpeg() -> None:
    """Put the wheel's static ffmpeg on PATH, unless the base image brings its own."""
    if shutil.which("ffmpeg"):
        return
    import imageio_ffmpeg

    target = Path("/usr/local/bin/ffmpeg")
    target.symlink_to(imageio_ffmpeg.get_ffmpeg_exe())


def install_packages(lock: Path) -> None:
    """Install what the lock file has and the base has not, and make the layer lean."""
    before = installed()
    wanted = missing(lock.read_text(encoding="utf-8"), before)
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as requirements:
        requirements.write("\n".join(wanted) + "\n")
        requirements.flush()
        run_installer("--no-deps", "--require-hashes", "-r", requirements.name)
    importlib.invalidate_caches()
    fresh = installed() - before
    for line in mismatches(fresh):
        print(f"warning: {line}", file=sys.stderr)
    prune(fresh)
    link_ffmpeg()
    for package in COMPILED:
        compileall.compile_dir(SITE / package, quiet=2)


def install_project(source: Path) -> None:
    """Install the launcher and the probes. `source` is read-only, so a copy is built.

    The build backend comes from its own lock file, into a folder that goes with this step.
    """
    with tempfile.TemporaryDirectory() as folder:
        project, backend = Path(folder) / "project", Path(folder) / "backend"
        shutil.copytree(source, project)
        lock = source / "requirements" / "build.txt"
        run_installer("--target", str(backend), "--no-deps", "--require-hashes", "-r", str(lock))
        os.environ["PYTHONPATH"] = str(backend)
        run_installer("--no-build-isolation", "--no-deps", str(project))
    for package in PROJECT:
        compileall.compile_dir(SITE / package, quiet=2)


def run_installer(*arguments: str) -> None:
    """Run the base image's installer."""
    environment = {**os.environ, "UV_LINK_MODE": "copy"}
    subprocess.run([*installer(), *arguments], check=True, env=environment)


if __name__ == "__main__":
    step, path = sys.argv[1], Path(sys.argv[2])
    {"packages": install_packages, "project": install_project}[step](path)
