"""A real browser for the tests: the system's Chromium, with nothing of its own on the network.

Playwright's own browsers are not used: they come from a network of their own, and Debian's
package comes from where all its packages come from.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
APT_SECONDS = 600


def chromium() -> str:
    """Return the system's Chromium; as root on Debian it is installed where it is missing."""
    path = _found()
    if path is None and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        install = ["install", "-y", "--no-install-recommends", "chromium", "fonts-dejavu-core"]
        for words in (["update"], install):
            done = subprocess.run(
                ["apt-get", "-qq", *words],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=APT_SECONDS,
            )
            if done.returncode:
                pytest.fail(f"apt-get {' '.join(words)}: {done.stdout}{done.stderr}")
        path = _found()
    if path is None:
        pytest.fail("There is no Chromium. Install it (apt-get install chromium), or run as root.")
    return path


def _found() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    path = chromium()
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield started
        started.close()
