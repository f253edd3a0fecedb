"""Makes evalscope's virtual environment: `evalenv.py LOCK_FILE FOLDER`.

Runs inside `docker build`, with the base's own Python, whose packages the environment does not
see: what evalscope pins must not meet what vLLM pins. All of it comes from the lock file, with
its hashes checked.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# Packages of which nothing at run time imports the tests.
TESTS_OF = ("joblib", "nltk", "numpy", "pandas", "pyarrow", "scipy", "sympy")
# What must import, so that a hole in the lock file fails the build. The hub must not be asked.
TRIAL = (
    "import os; os.environ['HF_HUB_OFFLINE'] = '1'\n"
    "from evalscope.api.registry import get_benchmark\n"
    "from evalscope.config import TaskConfig\n"
    "from evalscope.metrics.math.parser import extract_answer\n"
    "from evalscope.run import run_task\n"
    "import datasets, evalscope, modelscope\n"
    "print('evalscope', evalscope.__version__)\n"
)


def installer(python: Path) -> list[str]:
    """Return the command line of the base's installer, told to install for another Python."""
    pip = [sys.executable, "-m", "pip"]
    if subprocess.run([*pip, "--version"], capture_output=True, check=False).returncode == 0:
        return [
            *pip, "--python", str(python), "install", "--no-cache-dir", "--no-compile",
            "--disable-pip-version-check", "--root-user-action=ignore", "--use-pep517",
        ]  # fmt: skip
    if uv := shutil.which("uv"):
        # The vLLM project's CPU image is made with uv and has no pip.
        return [uv, "pip", "install", "--no-cache", "--python", str(python)]
    subprocess.run([str(python), "-m", "ensurepip"], check=True)
    return [str(python), "-m", "pip", "install", "--no-cache-dir", "--no-compile"]


def entry(lock: str, name: str) -> str:
    """Return a lock file's requirement of a package, with its hashes."""
    joined = re.sub(r"\\\n\s*", " ", lock)
    return next(line for line in joined.splitlines() if line.startswith(f"{name}=="))


def install(lock: Path, folder: Path) -> None:
    """Make the environment, and make it lean."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    command = [*installer(python), "--no-deps", "--require-hashes"]
    environment = {**os.environ, "UV_LINK_MODE": "copy"}
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as first:
        # Some packages come as sources alone. What builds them is locked as well, so it is
        # installed before them, and not fetched, in any version, for each of them.
        first.write(entry(lock.read_text(encoding="utf-8"), "setuptools") + "\n")
        first.flush()
        subprocess.run([*command, "-r", first.name], check=True, env=environment)
    command.append("--no-build-isolation")
    subprocess.run([*command, "-r", str(lock)], check=True, env=environment)
    for package in TESTS_OF:
        for site in folder.glob("lib/python3*/site-packages"):
            for tests in sorted((site / package).rglob("tests")):
                shutil.rmtree(tests, ignore_errors=True)
    subprocess.run([str(python), "-B", "-c", TRIAL], check=True)


if __name__ == "__main__":
    install(Path(sys.argv[1]), Path(sys.argv[2]))
