"""A start that fails is explained, and what others need to help is packed without secrets."""

from __future__ import annotations

import json
import stat
import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import Cli, docker, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.conftest import Served

NAME = "e2e-diagnose"
KEY = "sk-diagnose-9f86d081884c7d65"
SECRET = "hunter2-e2e-diagnose"  # noqa: S105 (planted, to be looked for)


@pytest.fixture(scope="module")
def dead(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cli, str]]:
    """An appliance whose engine refuses its arguments, and what `up` said of it."""
    folder = tmp_path_factory.mktemp("diagnose")
    key = folder / "key"
    key.write_text(f"{KEY}\n", encoding="utf-8")
    key.chmod(0o600)
    settings = {
        **served.cli.settings,
        "name": NAME,
        "server.port": str(free_port()),
        "server.api_key_file": str(key),
        # The plan warns of it, since an image of one's own may know it; vLLM does not.
        "server.extra_args": "[--enforce-eager, --frobnicate]",
        "container.environment": f"{{SERVICE_PASSWORD: {SECRET}}}",
    }
    cli = Cli(folder, settings)
    done = cli.run("up", "--json")
    assert done.returncode == 80, done.stderr
    yield cli, done.stdout
    docker("rm", "--force", NAME, check=False)
    docker("volume", "rm", "--force", f"{NAME}-cache", check=False)


def test_up_names_the_cause(dead: tuple[Cli, str]) -> None:
    error = json.loads(dead[1])["error"]
    assert error["id"] == "container-died"
    assert "unrecognized arguments" in error["message"]
    assert "Cause [" in error["message"]
    assert error["remedy"]


def test_diagnose_names_it_again(dead: tuple[Cli, str]) -> None:
    found = dead[0].json("diagnose")["findings"]
    assert [finding["first"] for finding in found].count(True) == 1
    assert found[0]["first"]
    assert "unrecognized arguments" in found[0]["line"]
    assert "--frobnicate" in found[0]["line"]
    text = dead[0].run("diagnose").stdout
    assert found[0]["cause"].split()[0] in text


def test_a_log_in_a_file_gives_the_same(dead: tuple[Cli, str], tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text(docker("logs", NAME), encoding="utf-8")
    found = dead[0].json("diagnose", "--log", str(log))["findings"]
    assert found[0]["id"] == dead[0].json("diagnose")["findings"][0]["id"]


def test_the_bundle_holds_what_helps_and_no_secret(dead: tuple[Cli, str], tmp_path: Path) -> None:
    cli, file = dead[0], tmp_path / "report.tar.gz"
    made = cli.json("diagnose", "--bundle", str(file))["bundle"]
    assert made["failed"] == {}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with tarfile.open(file) as archive:
        files = {
            member.name.partition("/")[2]: opened.read()
            for member in archive
            if (opened := archive.extractfile(member)) is not None
        }
    assert {
        "findings.json", "container.log", "config.json", "inventory.json", "plan.json",
        "doctor.json", "container-inspect.json", "versions.json", "MANIFEST.json",
    } <= set(files)  # fmt: skip
    # It was there to be taken out.
    assert SECRET in json.dumps(cli.json("plan")["environment"])
    for name, content in files.items():
        assert KEY.encode() not in content, name
        assert SECRET.encode() not in content, name
    assert b"unrecognized arguments" in files["container.log"]
    again = cli.run("diagnose", "--bundle", str(file))
    assert again.returncode == 87
