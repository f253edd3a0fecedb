"""The smoke container: its image, its compose file and the workflow that runs it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import yaml

from appliance import paths
from appliance.catalog.load import platforms
from appliance.config.load import keys
from appliance.config.model import Build, Config
from appliance.engine import images, smoke
from appliance.engine.docker import ImageState
from appliance.errors import ApplianceError
from appliance.plan.image import SMOKE_IMAGE
from appliance.version import __version__
from healthchecks import __main__ as command_line
from healthchecks import environment
from healthchecks.target import DEFAULT_ANSWER_TOKENS, DEFAULT_URL
from tests.unit.fake_vllm import SEED, FakeServer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from appliance.engine.docker import Engine

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / smoke.DOCKERFILE).read_text(encoding="utf-8")
COMPOSE = ROOT / "compose" / "smoke.yaml"
WORKFLOW = ROOT / ".github" / "workflows" / "smoke.yaml"
READMES = ("README.md", "README.zh-CN.md")
DEBIAN = "qwen3-omni-appliance/debian:bookworm-slim"


def document(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


# The launcher's smoke


def test_appliance_smoke_writes_both_reports(clean: Path) -> None:
    with FakeServer() as fake:
        words = ["smoke", "--url", fake.url, "--seed", SEED, "--junit", "a.xml", "--report", "a"]
        done = subprocess.run(
            [sys.executable, "-m", "appliance", *words, "--json"],
            cwd=clean, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((clean / "a").read_text()) == json.loads(done.stdout)
    assert (clean / "a.xml").read_text().startswith("<?xml")


# The image


def test_the_image_has_the_products_version_wherever_it_is_named() -> None:
    assert f"qwen3-omni-smoke:{__version__}" == SMOKE_IMAGE
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in READMES]
    for text in (DOCKERFILE, COMPOSE.read_text(encoding="utf-8"), *texts):
        assert set(re.findall(r"qwen3-omni-smoke:[\w.]+", text)) == {SMOKE_IMAGE}


def test_the_dockerfile_needs_no_frontend_and_has_the_launchers_base() -> None:
    assert not re.search(r"^#\s*syntax\s*=", DOCKERFILE, re.MULTILINE)
    assert f"ARG BASE_IMAGE={smoke.BASE}\n" in DOCKERFILE


def test_all_that_the_dockerfile_uses_is_there_and_not_ignored() -> None:
    used = set(re.findall(r"source=([\w./]+)", DOCKERFILE))
    used |= set(re.findall(r"/tmp/context/(image/\w+\.sh)", DOCKERFILE))
    assert used == {
        "healthchecks", "image", "image/smoke.sh", "image/trust.sh", "requirements/smoke.txt",
    }  # fmt: skip
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for name in used:
        assert (ROOT / name).exists(), name
        assert f"!{name.split('/')[0]}" in allowed


def test_the_script_of_the_image_is_well_formed() -> None:
    subprocess.run(["sh", "-n", str(ROOT / "image" / "smoke.sh")], check=True, timeout=10)


def test_the_probes_packages_are_locked_at_the_launchers_versions() -> None:
    def pinned(name: str) -> set[str]:
        text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
        return set(re.findall(r"(?m)^([a-z0-9._-]+==[\w.]+)", text))

    found = pinned("smoke.txt")
    assert found <= pinned("launcher.txt")
    assert {name.partition("==")[0] for name in found} == {
        "anyio", "certifi", "exceptiongroup", "h11", "httpcore", "httpx", "idna",
        "typing-extensions",
    }  # fmt: skip


class FakeEngine:
    def __init__(self, *known: str) -> None:
        self.known = set(known)

    def image(self, name: str) -> ImageState | None:
        return ImageState("id", 1, {}) if name in self.known else None


@dataclass
class Host:
    """A real builder on an engine of the test; what it would ask, make and build is noted."""

    engine: FakeEngine = field(default_factory=FakeEngine)
    given: tuple[str, ...] = ()
    mirror: str | None = None
    asked: list[str] = field(default_factory=list)
    made: list[tuple[Any, ...]] = field(default_factory=list)
    built: list[tuple[Any, ...]] = field(default_factory=list)

    def pull(self, names: Sequence[str]) -> str:
        self.asked += names
        if names[0] in self.given:
            return f"{names[0]}@sha256:1"
        raise ApplianceError("image-unavailable", f"No registry gives {names[0]}.")

    def build(self) -> None:
        config = Config(build=Build(apt_mirror=self.mirror))
        smoke.build(images.Builder(cast("Engine", self.engine), config, lambda _: None))


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    found = Host()
    monkeypatch.setattr(images, "refuse_full_disk", lambda *_: None)
    monkeypatch.setattr(images.Builder, "pull", found.pull)
    monkeypatch.setattr(images.Builder, "_debootstrap", lambda _, *it: found.made.append(it))
    monkeypatch.setattr(images.Builder, "buildx", lambda _, *words: found.built.append(words))
    return found


@pytest.mark.parametrize(
    ("known", "given", "asked", "base"),
    [
        ([smoke.BASE, DEBIAN], (), [], smoke.BASE),
        ([DEBIAN], (smoke.BASE,), [], DEBIAN),
        ([], (smoke.BASE,), [smoke.BASE], f"{smoke.BASE}@sha256:1"),
        (["debian:bookworm-slim"], (), [smoke.BASE], "debian:bookworm-slim"),
        ([], (), [smoke.BASE, "debian:bookworm-slim"], DEBIAN),
    ],
    ids=["python-here", "debian-of-this-host", "pulled", "debian-here", "from-packages"],
)
def test_the_base_is_what_is_here_else_pulled_else_debian(
    host: Host, known: list[str], given: tuple[str, ...], asked: list[str], base: str
) -> None:
    host.engine, host.given = FakeEngine(*known), given
    host.build()
    assert host.asked == asked
    ((*files, name, arguments),) = host.built
    assert files == [ROOT / smoke.DOCKERFILE, ROOT]
    assert (name, arguments) == (SMOKE_IMAGE, {"BASE_IMAGE": base})
    assert host.made == ([(DEBIAN, "bookworm")] if base == DEBIAN and not known else [])


def test_the_mirror_of_the_operator_is_used(host: Host) -> None:
    host.engine, host.mirror = FakeEngine(DEBIAN), "https://mirror.example/debian"
    host.build()
    assert host.built[0][-1]["APT_MIRROR"] == "https://mirror.example/debian"


def test_a_base_that_is_not_the_same_everywhere_is_not_replaced(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    differs = ApplianceError("image-digest-differs", "no")

    def fail(*_: object) -> str:
        raise differs

    monkeypatch.setattr(images.Builder, "pull", fail)
    with pytest.raises(ApplianceError) as raised:
        host.build()
    assert raised.value is differs


def test_an_installed_launcher_says_where_the_image_can_be_built(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "checkout", lambda: None)
    with pytest.raises(ApplianceError) as raised:
        host.build()
    assert raised.value.id == "not-a-checkout"
    assert f"docker save {SMOKE_IMAGE}" in raised.value.remedy
    assert host.built == []


def test_the_cpu_platform_has_a_debian_to_build_on() -> None:
    local = platforms()["cpu"].local_base
    assert local is not None
    assert images.made_here(local.debian) == DEBIAN
    # What bases that are made here are called has one beginning.
    assert local.image.startswith(f"{images.OWN}/")


# The compose file


def test_the_container_may_do_nothing_but_ask_and_write_reports() -> None:
    (service,) = document(COMPOSE)["services"].values()
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert service["privileged"] is False
    assert not {"cap_add", "devices", "ports", "pid", "ipc", "env_file"} & set(service)
    uid = re.fullmatch(r"\$\{SMOKE_USER:-(\d+):\d+\}", service["user"])
    assert uid is not None
    assert uid[1] != "0"
    (mount,) = service["volumes"]
    assert mount["target"] == "/reports"
    assert mount["bind"] == {"create_host_path": False}
    assert [entry.partition(":")[0] for entry in service["tmpfs"]] == ["/tmp"]


def test_the_compose_file_sets_what_the_probes_read() -> None:
    found = document(COMPOSE)
    variables = found["services"]["smoke"]["environment"]
    assert set(variables) == {variable for variable, _ in environment.VARIABLES.values()}
    url = variables.pop("HEALTHCHECKS_URL")
    assert url == f"${{URL:-{DEFAULT_URL}}}"
    # Without a value they are passed on where they are set, and are not there where not.
    assert set(variables.values()) == {None}
    # The key is a file where the probes look for one, and in no variable.
    (name,) = found["secrets"]
    assert found["services"]["smoke"]["secrets"] == [name]
    assert str(command_line.SECRET_FILE) == f"/run/secrets/{name}"
    assert found["secrets"][name] == {"file": "${API_KEY_FILE:-/dev/null}"}


@pytest.mark.parametrize("readme", READMES)
def test_the_readme_has_every_variable_with_its_default(readme: str) -> None:
    text = COMPOSE.read_text(encoding="utf-8")
    found = dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", text))
    found["API_KEY_FILE"] = ""
    found["REPORTS"] = "reports"
    found |= {variable: "" for variable, _ in environment.VARIABLES.values()}
    del found["HEALTHCHECKS_URL"]
    found["HEALTHCHECKS_TIMEOUT"] = f"{command_line.COMMANDS['smoke'][1]:g}"
    found["HEALTHCHECKS_ANSWER_TOKENS"] = str(DEFAULT_ANSWER_TOKENS)
    documented = (ROOT / readme).read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| ([^|]*) \|", documented, re.MULTILINE))
    assert set(rows) == set(found)
    for variable, default in found.items():
        assert default in rows[variable], variable


def test_the_image_writes_its_reports_where_the_compose_file_mounts_a_folder() -> None:
    command = json.loads(DOCKERFILE.partition("\nCMD ")[2])
    assert command == ["smoke", "--junit", "/reports/smoke.xml", "--report", "/reports/smoke.json"]
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", DOCKERFILE, re.MULTILINE)


# The workflow


def steps() -> list[dict[str, Any]]:
    (job,) = document(WORKFLOW)["jobs"].values()
    found: list[dict[str, Any]] = job["steps"]
    return found


def scripts() -> list[str]:
    return [step["run"] for step in steps() if "run" in step]


def test_the_workflow_may_read_and_ends() -> None:
    found = document(WORKFLOW)
    assert found["permissions"] == {"contents": "read"}
    (job,) = found["jobs"].values()
    assert job["runs-on"] == "ubuntu-latest"
    assert 0 < job["timeout-minutes"] <= 60
    # `on` is a boolean to YAML 1.1.
    assert set(found[True]) == {"push", "pull_request", "workflow_dispatch"}
    known = {key.variable for key in keys()}
    assert set(job["env"]) <= known
    assert all(isinstance(value, str) for value in job["env"].values())


def test_every_step_of_the_workflow_is_known() -> None:
    for step in steps():
        assert ("run" in step) != ("uses" in step)
        assert set(step) <= {"name", "if", "run", "uses", "with"}
    uses = [step["uses"] for step in steps() if "uses" in step]
    assert uses == ["actions/checkout@v7", "actions/upload-artifact@v7"]
    when = {step.get("name"): step["if"] for step in steps() if "if" in step}
    assert when["Keep the reports"] == when["Take it down"] == "always()"
    assert when["Say what went wrong"] == "failure()"


def test_what_the_workflow_runs_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {
        target
        for line in re.findall(r"^([a-z][\w ]*):", makefile, re.MULTILINE)
        for target in line.split()
    }
    seen = set()
    for script in scripts():
        subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=10)
        for line in script.splitlines():
            words = [word for word in shlex.split(line) if not re.match(r"[A-Z_]+=", word)]
            seen.add(words[0])
            if words[0] == "make":
                assert words[1] in targets, line
            files = [word for word in words if "/" in word and "." in word]
            for file in files:
                assert file == ".venv/bin/appliance" or (ROOT / file).exists(), file
    assert seen == {"make", "mkdir", "sudo", "docker", ".venv/bin/appliance"}


def test_the_workflow_uploads_what_the_container_writes() -> None:
    (upload,) = (step["with"] for step in steps() if "upload" in step.get("uses", ""))
    written = re.findall(r'"/reports/([\w.]+)"', DOCKERFILE)
    assert upload["path"].split() == [f"reports/{name}" for name in written]
    mounted = document(COMPOSE)["services"]["smoke"]["volumes"][0]["source"]
    assert mounted == "${REPORTS:-../reports}"
    assert any("mkdir -p reports" in script for script in scripts())


def test_the_workflow_removes_files_on_githubs_machines_alone() -> None:
    (step,) = (step for step in steps() if "rm -rf" in step.get("run", ""))
    assert step["if"] == "runner.environment == 'github-hosted'"
