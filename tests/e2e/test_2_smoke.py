"""The smoke container: what is in it, what it may do, what it reports, and its workflow."""

from __future__ import annotations

import json
import os
import subprocess
import time
import xml.etree.ElementTree as ET
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from appliance.plan.image import SMOKE_IMAGE
from healthchecks import PROBE_NAMES
from tests.e2e.conftest import LONG, ROOT, docker, inspect, wait_until
from tests.unit.fake_vllm import SEED, FakeServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.e2e.conftest import Cli, Served

# Neither root nor the user of the image, as the user of a CI seldom is.
USER = 12345
KEY = "sk-not-for-any-output"
RUNNING = "e2e-smoke"
MOST_BYTES = 200_000_000
COMPOSE = ["docker", "compose", "--file", str(ROOT / "compose" / "smoke.yaml"), "run", "--rm"]
WORKFLOW = ROOT / ".github" / "workflows" / "smoke.yaml"
# Run in the image.
LOOK = """
import importlib.util, json, os, pathlib, shutil
home = pathlib.Path("/opt/smoke")
modules = ("vllm", "torch", "appliance", "pip", "docker", "setuptools")
programs = ("pip", "pip3", "ffmpeg", "docker", "gcc")
emptied = ("/run", "/tmp", "/reports", "/var/lib/apt/lists", "/var/cache")
compiled = (home / "healthchecks", home / "httpx")
print(json.dumps({
    "user": os.getuid(),
    "packages": sorted(path.name for path in home.iterdir() if "dist-info" not in path.name),
    "modules": [name for name in modules if importlib.util.find_spec(name)],
    "programs": [name for name in programs if shutil.which(name)],
    "media": sorted(path.name for path in (home / "healthchecks/media").iterdir()),
    "compiled": all((folder / "__pycache__").is_dir() for folder in compiled),
    "writable": [path for path in ("/", "/etc", "/opt/smoke") if os.access(path, os.W_OK)],
    "left": [str(path) for folder in emptied for path in pathlib.Path(folder).rglob("*")],
}))
"""


@dataclass(frozen=True)
class Ci:
    """A CI that runs the compose file, with a folder for the reports."""

    reports: Path
    image: str

    def variables(self, url: str, **more: str) -> dict[str, str]:
        own = {"URL": url, "REPORTS": str(self.reports), "SMOKE_IMAGE": self.image}
        return {**os.environ, **own, "SMOKE_USER": f"{USER}:{USER}", **more}

    def run(self, url: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMPOSE, "smoke"], env=self.variables(url, **more),
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip

    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((self.reports / "smoke.json").read_text())
        return found

    def suite(self) -> Mapping[str, str]:
        return ET.parse(self.reports / "smoke.xml").getroot().attrib  # noqa: S314 - our own file


@pytest.fixture(scope="module")
def image(cli: Cli) -> str:
    """The smoke image, built as the README says."""
    built = cli.json("build", "--smoke")
    assert built["image"] == SMOKE_IMAGE
    return SMOKE_IMAGE


@pytest.fixture
def ci(image: str, tmp_path: Path) -> Ci:
    reports = tmp_path / "reports"
    reports.mkdir()
    os.chown(reports, USER, USER)
    return Ci(reports, image)


@contextmanager
def while_it_runs(ci: Ci, server: FakeServer, **more: str) -> Iterator[subprocess.Popen[str]]:
    """The container, held by a server that does not answer."""
    server.chat = server.hang
    server.requests.clear()
    command = [*COMPOSE, "--name", RUNNING, "smoke"]
    with subprocess.Popen(
        command, env=ci.variables(server.url, **more),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        try:
            wait_until("the container asks", 60, lambda: server.requests)
            yield running
        finally:
            docker("rm", "--force", RUNNING, check=False)


# The image


def test_the_image_is_small_and_holds_python_httpx_and_the_probes_alone(image: str) -> None:
    (found,) = json.loads(docker("image", "inspect", image))
    assert found["Size"] < MOST_BYTES
    assert found["Config"]["User"] == "65532:65532"
    assert "PYTHONDONTWRITEBYTECODE=1" in found["Config"]["Env"]
    options = ["--rm", "--network", "none", "--entrypoint", "python3"]
    inside = json.loads(docker("run", *options, image, "-c", LOOK))
    packages = inside.pop("packages")
    assert {"healthchecks", "httpx"} < set(packages)
    assert {name.removesuffix(".py") for name in packages} <= {
        "anyio", "certifi", "exceptiongroup", "h11", "healthchecks", "httpcore", "httpx", "idna",
        "sniffio", "typing_extensions", "__pycache__",
    }  # fmt: skip
    assert inside == {
        "user": 65532, "modules": [], "programs": [], "compiled": True, "writable": [], "left": [],
        "media": ["audio.wav", "image.jpg", "video.mp4"],
    }  # fmt: skip
    find = ["/", "-xdev", "-type", "f", "-perm", "/6000"]
    assert docker("run", "--rm", "--user", "0", "--entrypoint", "find", image, *find) == ""


def test_no_secret_of_the_build_is_in_the_image(image: str) -> None:
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
    (found,) = json.loads(docker("image", "inspect", image))
    text = history + json.dumps(found["Config"])
    assert "pip_index_url" not in text
    assert "ca.pem" not in text


# The reports


def test_it_passes_on_the_served_appliance_and_reports_twice(served: Served, ci: Ci) -> None:
    done = ci.run(served.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()] == list(PROBE_NAMES)
    assert f"all {len(PROBE_NAMES)} probes passed" in done.stderr
    assert [row["probe"] for row in ci.rows()] == list(PROBE_NAMES)
    assert {row["verdict"] for row in ci.rows()} == {"ok"}
    assert ci.suite()["tests"] == str(len(PROBE_NAMES))
    assert ci.suite()["failures"] == "0"
    # They are the caller's, and nothing else is left behind.
    found = {path.name: path.stat().st_uid for path in ci.reports.iterdir()}
    assert found == {"smoke.xml": USER, "smoke.json": USER}


def test_it_fails_with_reports_where_no_server_is(ci: Ci) -> None:
    done = ci.run("http://127.0.0.1:1", HEALTHCHECKS_WAIT="2")
    assert done.returncode == 1, done.stderr
    assert "waiting up to 2 s: cannot connect to http://127.0.0.1:1" in done.stderr
    assert not any(row["ok"] for row in ci.rows())
    assert ci.suite()["failures"] == str(len(PROBE_NAMES))


def test_it_fails_with_reports_on_a_server_that_sees_nothing(ci: Ci) -> None:
    """The fake knows the media of one seed: of any other it says that it sees nothing."""
    with FakeServer() as server:
        done = ci.run(server.url, HEALTHCHECKS_SEED="another", HEALTHCHECKS_ONLY="text,image-1")
    assert done.returncode == 1, done.stderr
    assert [(row["probe"], row["verdict"]) for row in ci.rows()] == [
        ("text", "ok"),
        ("image-1", "wrong"),
    ]
    assert ci.suite()["failures"] == "1"


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"HEALTHCHECKS_TIMEOUT": "long"}, "$HEALTHCHECKS_TIMEOUT: 'long' is no number"),
        ({"URL": "ftp://server"}, "the URL must look like"),
        ({"SMOKE_USER": "54321:54321"}, "cannot write /reports/smoke.xml as user 54321"),
    ],
    ids=["option", "url", "folder-of-another"],
)
def test_wrong_usage_ends_with_2_at_once(ci: Ci, more: dict[str, str], reason: str) -> None:
    ci.reports.chmod(0o755)
    done = ci.run(more.pop("URL", "http://127.0.0.1:1"), **more)
    assert done.returncode == 2, done.stderr
    assert reason in done.stderr
    assert list(ci.reports.iterdir()) == []


def test_a_folder_that_is_not_there_is_not_made_by_the_engine(ci: Ci, tmp_path: Path) -> None:
    done = ci.run("http://127.0.0.1:1", REPORTS=str(tmp_path / "absent"))
    assert done.returncode != 0
    assert "absent" in done.stderr
    assert not (tmp_path / "absent").exists()


# What it may do


def test_a_key_reaches_the_server_and_is_shown_nowhere(ci: Ci, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_text(f"{KEY}\n")
    os.chown(key, USER, USER)
    with FakeServer(key=KEY) as server:
        without = ci.run(server.url, HEALTHCHECKS_ONLY="text")
        assert without.returncode == 1
        assert "(no API key was sent)" in ci.rows()[0]["detail"]
        done = ci.run(server.url, API_KEY_FILE=str(key), HEALTHCHECKS_SEED=SEED)
        assert done.returncode == 0, done.stdout + done.stderr
        assert server.authorizations[-1] == f"Bearer {KEY}"
        with while_it_runs(ci, server, API_KEY_FILE=str(key)):
            shown = json.dumps(inspect(RUNNING)) + docker("top", RUNNING, "-eo", "pid,args")
    reports = "".join(path.read_text() for path in ci.reports.iterdir())
    assert KEY not in shown + done.stdout + done.stderr + reports


def test_it_has_no_rights_but_to_ask_and_to_write_reports(ci: Ci) -> None:
    with FakeServer() as server, while_it_runs(ci, server):
        found = inspect(RUNNING)
        status = docker("exec", RUNNING, "cat", "/proc/1/status")
    host = found["HostConfig"]
    assert found["Config"]["Image"] == ci.image
    assert found["Config"]["User"] == f"{USER}:{USER}"
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert not host["Privileged"]
    assert not host["Devices"]
    assert host["ReadonlyRootfs"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert list(host["Tmpfs"]) == ["/tmp"]
    mounts = {mount["Destination"]: mount for mount in found["Mounts"]}
    assert mounts.pop("/reports")["Source"] == str(ci.reports)
    assert {name: mount["RW"] for name, mount in mounts.items()} == {
        "/run/secrets/appliance-api-key": False
    }
    assert "CapEff:\t0000000000000000" in status
    assert "CapBnd:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status


def test_docker_stop_ends_it_at_once(ci: Ci) -> None:
    with FakeServer() as server, while_it_runs(ci, server) as running:
        began = time.monotonic()
        docker("stop", "--time", "30", RUNNING)
        assert time.monotonic() - began < 20
        running.communicate(timeout=60)
    assert running.returncode == 130


# The workflow


def step_scripts() -> dict[str, str]:
    """The workflow's scripts that are not for GitHub's own machines alone, by name."""
    (job,) = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"].values()
    return {
        step["name"]: step["run"]
        for step in job["steps"]
        if "run" in step and "github-hosted" not in step.get("if", "")
    }


def test_the_workflow_works_as_written(served: Served, ci: Ci, tmp_path: Path) -> None:
    """Each script as GitHub runs it, by `bash -e`; the appliance that it serves is up already."""
    (job,) = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"].values()
    name = served.cli.settings["name"]
    settings = {
        f"APPLIANCE_{key.replace('.', '_').upper()}": text
        for key, text in served.cli.settings.items()
    }
    before = inspect(name)["Id"]
    # Whoever runs the tests runs the steps, and writes the reports.
    os.chown(ci.reports, os.getuid(), os.getgid())
    scripts = step_scripts()
    assert list(scripts) == [
        "Serve tiny-omni on the CPU", "Build the smoke image", "Run the smoke container",
        "Say what went wrong", "Take it down",
    ]  # fmt: skip
    for title, script in scripts.items():
        variables = {**served.cli.variables(), **job["env"], **settings, "URL": served.url,
                     "REPORTS": str(ci.reports)}  # fmt: skip
        if title == "Take it down":
            # The other tests need this one: what is not there is as easily taken down.
            variables["APPLIANCE_NAME"] = f"{name}-workflow"
        file = tmp_path / "step.sh"
        file.write_text(script)
        done = subprocess.run(
            ["bash", "-e", str(file)], cwd=ROOT, env=variables,
            capture_output=True, text=True, check=False, timeout=LONG,
        )  # fmt: skip
        assert done.returncode == 0, f"{title}: {done.stdout}{done.stderr}"
    assert [row["verdict"] for row in ci.rows()] == ["ok"] * len(PROBE_NAMES)
    assert ci.suite()["failures"] == "0"
    assert inspect(name)["Id"] == before
