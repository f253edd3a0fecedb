"""What a changed configuration does to a running appliance; and the API key, all the way."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import openai
import pytest

from tests.e2e.conftest import Cli, docker, execute, inspect

if TYPE_CHECKING:
    from tests.e2e.conftest import Served

KEY = "sk-e2e-0123456789abcdef"


@pytest.fixture(scope="module")
def keyed(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """The same appliance with an API key, on all addresses: `up` makes the container anew."""
    folder = tmp_path_factory.mktemp("secrets")
    key_file = folder / "api-key"
    key_file.write_text(f"{KEY}\n", encoding="utf-8")
    key_file.chmod(0o600)
    settings = {
        **served.cli.settings,
        "server.api_key_file": str(key_file),
        "server.bind": "0.0.0.0",
        "server.allowed_media_domains": "[]",
    }
    cli = Cli(served.cli.state, settings)
    done = cli.run("up", "--json")
    assert done.returncode == 0, done.stderr
    return type(served)(
        cli,
        json.loads(done.stdout),
        served.interrupted,
        served.status_while_loading,
        served.second,
        done.stderr,
        served.seconds,
    )


def test_the_difference_is_shown_before_the_container_is_made_anew(keyed: Served) -> None:
    changes = keyed.document["differences"]
    assert any(
        "--allowed-media-domains: media.test -> data-urls-only.invalid" in c for c in changes
    )
    assert any("ports" in change and "0.0.0.0" in change for change in changes)
    assert any("/run/secrets/appliance-api-key" in change for change in changes)
    assert all(f"change  {change}" in keyed.log for change in changes)
    assert all(row["ok"] for row in keyed.document["smoke"])


def test_without_the_key_nothing_is_served(keyed: Served) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        request = urllib.request.Request(f"{keyed.url}/v1/models", headers=headers)
        with pytest.raises(urllib.error.HTTPError, match="401") as refused:
            urllib.request.urlopen(request, timeout=30)
        refused.value.close()
    with openai.OpenAI(base_url=f"{keyed.url}/v1", api_key=KEY) as client:
        assert [model.id for model in client.models.list()] == ["tiny-omni"]


@pytest.mark.parametrize(
    "path",
    ["/invocations", "/tokenize", "/metrics", "/openapi.json", "/docs", "/v1/completions", "/load"],
)
def test_no_path_is_open_without_the_key(keyed: Served, path: str) -> None:
    """vLLM itself asks for the key under /v1, /v2 and /inference only."""
    body = {"model": "tiny-omni", "prompt": "x", "messages": [{"role": "user", "content": "x"}]}
    request = urllib.request.Request(
        f"{keyed.url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError, match="401") as refused:
        urllib.request.urlopen(request, timeout=30)
    refused.value.close()


def test_liveness_is_open_and_the_key_opens_the_rest(keyed: Served) -> None:
    with urllib.request.urlopen(f"{keyed.url}/health", timeout=30) as answer:
        assert answer.status == 200
    headers = {"Authorization": f"Bearer {KEY}"}
    request = urllib.request.Request(f"{keyed.url}/metrics", headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert b"vllm:" in answer.read()


def test_the_key_stands_nowhere_that_others_can_read(keyed: Served) -> None:
    assert KEY not in json.dumps(inspect("e2e"))
    assert KEY not in docker("top", "e2e", "-eo", "pid,args")
    assert (
        KEY not in subprocess.run(["ps", "axww"], capture_output=True, text=True, check=True).stdout
    )
    assert KEY not in keyed.cli.run("logs", "--tail", "5000").stdout
    for command in (["plan", "--json"], ["render", "run"], ["render", "compose"], ["status"]):
        assert KEY not in keyed.cli.run(*command).stdout
    own = keyed.cli.state / "qwen3-omni-appliance"
    assert own.is_dir()
    for file in keyed.cli.state.rglob("*"):
        if file.is_file():
            assert KEY not in file.read_text(encoding="utf-8", errors="replace"), file
            # Results that tests left in the current folder are for everybody.
            private = own in file.parents and file.name != "lock"
            assert not (private and file.stat().st_mode & 0o007), file


def test_the_printed_lines_use_the_key_without_showing_it(keyed: Served) -> None:
    printed = keyed.cli.run("up").stdout
    assert KEY not in printed
    curl = printed[printed.index("curl ") : printed.index("from openai")]
    answer = subprocess.run(
        ["bash", "-c", curl], capture_output=True, text=True, check=True, timeout=120
    )
    assert json.loads(answer.stdout)["usage"]["completion_tokens"] >= 1


def test_the_health_check_has_the_key(keyed: Served) -> None:
    del keyed
    done = execute("e2e", "python3", "-m", "healthchecks", "ready")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_key_file_that_everybody_may_read_is_refused(keyed: Served) -> None:
    path = Path(keyed.cli.settings["server.api_key_file"])
    path.chmod(0o644)
    try:
        done = keyed.cli.run("up")
    finally:
        path.chmod(0o600)
    assert done.returncode == 67
    assert "chmod o=" in done.stderr


def test_a_container_that_dies_while_loading_is_told_by_its_first_error(keyed: Served) -> None:
    """The engine refuses an argument; the plan only warns of one that no vLLM has."""
    cli = Cli(
        keyed.cli.state, {**keyed.cli.settings, "server.extra_args": '["--frobnicate", "16"]'}
    )
    done = cli.run("up")
    assert done.returncode == 80, done.stderr
    assert "error [container-died]" in done.stderr
    assert "unrecognized arguments: --frobnicate" in done.stderr
    assert inspect("e2e")["State"]["Running"] is False
    status = cli.status()
    assert status["state"] == "exited"
    assert "unrecognized arguments" in status["detail"]


def test_down_leaves_nothing_but_caches(keyed: Served) -> None:
    assert keyed.cli.json("down") == {"name": "e2e", "removed": True}
    assert "e2e" not in docker("ps", "--all", "--format", "{{.Names}}").split()
    assert "e2e-cache" in docker("volume", "ls", "--quiet").split()
    again = keyed.cli.run("down")
    assert again.returncode == 0
    assert "nothing to do" in again.stderr
    assert keyed.cli.status()["state"] == "absent"
    assert Path(keyed.cli.settings["server.api_key_file"]).exists()
