"""Installing Docker from the distribution, for real, in a machine that has none: a container."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e.conftest import ROOT, docker

if TYPE_CHECKING:
    from tests.e2e.conftest import Cli

INSTALL = """
import subprocess
from appliance.engine import install
listing = ["dpkg-query", "-W", "-f", "${Package} ${Version}\\n", "libc6", "base-files"]
before = subprocess.run(listing, capture_output=True, check=True).stdout
assert len(install.missing_parts()) == 3, install.missing_parts()
install._install(install.missing_parts(), print)
assert install.missing_parts() == [], install.missing_parts()
assert install._daemon() is not None
after = subprocess.run(listing, capture_output=True, check=True).stdout
assert before == after, (before, after)
print("INSTALLED")
"""


def test_docker_is_installed_and_nothing_else_is_upgraded(cli: Cli) -> None:
    """The image is of Debian or Ubuntu here, with a compiler: more than a bare system."""
    image = cli.json("plan")["image"]
    command = ["python3", "-B", "-c", INSTALL]
    volume = f"{ROOT}:/checkout:ro"
    printed = docker("run", "--rm", "--workdir", "/checkout", "--volume", volume, image, *command)
    assert "INSTALLED" in printed
