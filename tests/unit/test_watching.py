"""How the launcher sets the supervisor up, and what it shows of what the supervisor knows."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import shlex
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import docker as docker_library
import pytest

from appliance.catalog import load as catalog
from appliance.cli import show
from appliance.config.load import load
from appliance.config.model import Timeouts, Watchdog
from appliance.engine import docker
from appliance.errors import ERRORS, ApplianceError
from appliance.inventory.model import Inventory
from appliance.lifecycle import status, supervised
from appliance.plan import names, watching
from appliance.plan.make import make
from appliance.supervisor import settings
from appliance.supervisor.history import History, Store, parse, pause
from appliance.supervisor.unavailable import Unavailable, address, url
from healthchecks.__main__ import build_parser
from tests.unit.supervised import free_port
from tests.unit.test_lifecycle import running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from appliance.config.model import Config
    from appliance.engine.docker import ContainerState
    from appliance.plan.model import Plan

pytestmark = pytest.mark.usefixtures("clean")

BARE = Inventory("none")
RELEASES = catalog.releases()


def config(*overrides: str) -> Config:
    return load(None, {}, overrides).config


def plan(*overrides: str) -> Plan:
    return make(config(*overrides), BARE, "/opt/models")


def variables(*overrides: str) -> dict[str, str]:
    """The supervisor's variables in the container."""
    found = dict(plan(*overrides).container.environment)
    return {name: value for name, value in found.items() if name.startswith(settings.PREFIX)}


# The plan


@pytest.mark.parametrize("release", RELEASES)
def test_what_vllm_is_told_depends_on_what_it_knows(release: str) -> None:
    known = catalog.parser_options(RELEASES[release].vllm)
    words = watching.arguments(config(), RELEASES[release])
    assert (words[:2] == ["--shutdown-timeout", "45"]) is ("--shutdown-timeout" in known)
    quiet = ["--disable-access-log-for-endpoints", "/health,/metrics"]
    assert (words[-2:] == quiet) is (quiet[0] in known)


def test_the_oldest_release_has_neither_option() -> None:
    (old,) = [release for release in RELEASES.values() if release.vllm == "0.13.0"]
    assert watching.arguments(config(), old) == []


@pytest.mark.parametrize(
    ("overrides", "seconds"),
    [
        ((), 45),
        (("timeouts.stop=300",), 285),
        (("timeouts.stop=10",), 0),
        (("timeouts.drain=7",), 7),
        (("timeouts.drain=0",), 0),
        (("timeouts.stop=90", "timeouts.drain=75"), 75),
    ],
)
def test_requests_have_what_the_stop_leaves(overrides: tuple[str, ...], seconds: int) -> None:
    made = plan(*overrides)
    at = made.serve_args.index("--shutdown-timeout")
    assert made.serve_args[at + 1] == str(seconds)
    drain = settings.read(dict(made.container.environment)).drain
    assert drain == seconds


def test_by_default_there_is_no_variable() -> None:
    assert variables() == {}


def test_what_differs_is_a_variable_and_is_read_again() -> None:
    given = (
        "watchdog.enabled=false", "watchdog.quiet=20.5", "watchdog.restarts=0",
        "watchdog.window=1234567.25", "timeouts.ready=7200", "timeouts.stop=61",
    )  # fmt: skip
    found = variables(*given)
    assert found == {
        "SUPERVISOR_ENABLED": "0",
        "SUPERVISOR_QUIET": "20.5",
        "SUPERVISOR_RESTARTS": "0",
        "SUPERVISOR_WINDOW": "1234567.25",
        "SUPERVISOR_START": "7200",
        "SUPERVISOR_DRAIN": "46",
    }
    read = settings.read(found)
    assert read.watchdog == config(*given).watchdog
    assert (read.start, read.drain) == (7200, 46)


@pytest.mark.parametrize("key", [field.name for field in dataclasses.fields(Watchdog)])
def test_every_key_of_the_watchdog_reaches_the_supervisor(key: str) -> None:
    value = {"enabled": "false", "restarts": "7", "busy": "1234.5"}.get(key, "44.5")
    given = (f"watchdog.{key}={value}", "watchdog.busy=1234.5")
    assert f"SUPERVISOR_{key.upper()}" in variables(*given)
    assert settings.read(variables(*given)).watchdog == config(*given).watchdog


def test_the_health_check_asks_the_supervisors_note_first() -> None:
    check = plan().container.healthcheck
    assert check.command == (
        "python3 -m healthchecks progress --watched /tmp/appliance-progress.json"
    )
    assert check.timeout >= Watchdog().quiet + Watchdog().deadline
    given = plan("watchdog.interval=2.5", "watchdog.deadline=40", "watchdog.backoff=9")
    words = shlex.split(given.container.healthcheck.command)
    assert words[-4:] == ["--interval", "2.5", "--deadline", "40"]
    assert given.container.healthcheck.timeout == 68
    parsed = build_parser().parse_args(words[3:])
    assert (parsed.interval, parsed.quiet, parsed.deadline) == (2.5, 15.0, 40.0)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("watchdog.busy=49", "busy (49 s) must be at least quiet + deadline + interval (50 s)"),
        ("watchdog.deadline=500", "must be at least"),
        ("timeouts.drain=46", "leaves no 15 s for the end itself after `timeouts.drain` (46)"),
        ("server.extra_args=[--shutdown-timeout, '7']", "would work against the plan"),
        ("timeouts.stop=5", ""),
        ("watchdog.interval=0", "watchdog.interval"),
        ("watchdog.restarts=-1", "watchdog.restarts"),
        ("watchdog.restarts=1.5", "watchdog.restarts"),
        ("watchdog.enabled=maybe", "watchdog.enabled"),
        ("timeouts.drain=-1", "timeouts.drain"),
    ],
)
def test_settings_that_are_refused(override: str, words: str) -> None:
    if not words:
        plan(override)
        return
    with pytest.raises(ApplianceError) as refused:
        plan(override)
    assert refused.value.id == "config-invalid"
    assert words in refused.value.message


def test_a_server_without_counters_is_warned_of() -> None:
    blind = "server.extra_args=[--disable-log-stats]"
    assert watching.BLIND in plan(blind).warnings
    assert watching.BLIND not in plan(blind, "watchdog.enabled=false").warnings
    assert watching.BLIND not in plan("server.extra_args=[--no-disable-log-stats]").warnings


def test_the_defaults_find_an_idle_hang_within_a_minute() -> None:
    limits = Watchdog().limits()
    assert limits.idle + 2 * limits.interval <= 60
    assert settings.Settings().drain < Timeouts().stop


@pytest.mark.parametrize(
    ("words", "host", "port", "asked"),
    [
        ("vllm serve", "0.0.0.0", 8000, "http://127.0.0.1:8000"),
        ("vllm serve --host 0.0.0.0 --port 9", "0.0.0.0", 9, "http://127.0.0.1:9"),
        ("vllm serve --host :: --port 9", "::", 9, "http://[::1]:9"),
        ("vllm serve --host 192.0.2.7 --port 9", "192.0.2.7", 9, "http://192.0.2.7:9"),
        ("vllm serve --port none", "0.0.0.0", 8000, "http://127.0.0.1:8000"),
        ("vllm serve --port 1 --port 2", "0.0.0.0", 2, "http://127.0.0.1:2"),
        ("vllm serve --port", "0.0.0.0", 8000, "http://127.0.0.1:8000"),
    ],
)
def test_the_address_of_a_command(words: str, host: str, port: int, asked: str) -> None:
    assert address(words.split()) == (host, port)
    assert url(words.split()) == asked


@pytest.mark.parametrize("where", [("127.0.0.1", 99_999), ("192.0.2.1", 80), ("::1::", 80)])
def test_an_address_where_nobody_can_answer(where: tuple[str, int]) -> None:
    with Unavailable(where, "down", None) as instead:
        assert instead.trouble


@pytest.mark.parametrize(
    ("count", "seconds"), [(0, 0), (1, 0), (2, 5), (3, 10), (4, 20), (9, 300), (10_000, 300)]
)
def test_the_pause_before_a_start(count: int, seconds: float) -> None:
    assert pause(count, Watchdog()) == seconds


def test_a_window_ends() -> None:
    past = [failure(at=1000.0), failure(at=2000.0), failure(at=2500.0, forgiven=True)]
    history = parse(json.dumps({"failures": past}))
    assert len(history.counted(3600, 3000)) == 2
    assert len(history.counted(1500, 3000)) == 1
    # A clock that was set back a little, and one that was set back by far.
    assert len(history.counted(1500, 999)) == 2
    assert len(history.counted(100, -1e6)) == 0


# What status shows


def failure(**changes: Any) -> dict[str, Any]:
    usual = {"at": 1_700_000_000.0, "cause": "engine-hung", "detail": "no progress", "ran": 60.4}
    return usual | changes


class Known:
    """Docker's engine as `status` asks it: one container, its log and its files."""

    def __init__(self, found: ContainerState, state: dict[str, Any] | bytes) -> None:
        self.found = found
        self.state = state if isinstance(state, bytes) else json.dumps(state).encode()

    def container(self, _: str) -> ContainerState:
        return self.found

    def files(self, _: ContainerState, path: str) -> dict[str, bytes]:
        assert path.startswith(names.SUPERVISOR_DIR)
        return {"state.json": self.state, "evidence-1.txt": b"one\n", "evidence-2.txt": b"two\n"}

    def logs(self, _: ContainerState, tail: int) -> str:
        assert tail
        return "loading weights\n"

    def image(self, _: str) -> None:
        return None


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`status` of a container in which the supervisor answers, with a state of its own."""
    port = free_port()
    made = plan(f"server.port={port}")

    def tell(state: dict[str, Any] | bytes, **changes: Any) -> status.Status:
        known = Known(running(made, name=made.container.name, **changes), state)
        monkeypatch.setattr(docker, "connect", lambda: known)
        return status.read(config(f"server.port={port}"), made)

    with Unavailable(("127.0.0.1", port), "The engine is down.", None):
        yield tell


def test_an_engine_that_stays_down(told: Any) -> None:
    found = told(
        {"phase": "down", "detail": "the engine failed 6 times", "failures": [failure()]},
        restarts=6, health="unhealthy",
    )  # fmt: skip
    assert (found.state, found.detail) == ("failed", "The engine failed 6 times.")
    assert "`appliance diagnose`" in found.next
    assert "`appliance up`" in found.next
    assert (found.restarts, len(found.failures)) == (6, 1)


def test_an_engine_that_starts_again_soon(told: Any) -> None:
    found = told({"phase": "waiting", "detail": "the engine starts again in 5 s", "failures": []})
    assert (found.state, found.detail) == ("restarting", "The engine starts again in 5 s.")


@pytest.mark.parametrize(
    "state", [{"phase": "starting", "failures": []}, {}, b"", b"garbage", b"\xff"]
)
def test_an_engine_that_loads(told: Any, state: dict[str, Any] | bytes) -> None:
    found = told(state)
    assert found.state == "loading"
    assert "loading weights" in found.detail


def test_a_container_between_two_starts(told: Any) -> None:
    found = told({"failures": [failure()]}, status="restarting", restarts=1, exit_code=101)
    assert (found.state, len(found.failures)) == ("restarting", 1)
    assert "Exit code 101" in found.detail


def test_the_status_as_text(told: Any, capsys: pytest.CaptureFixture[str]) -> None:
    past = [failure(at=1.7e9 + number, detail=f"number {number}") for number in range(8)]
    past[-1] |= {"evidence": "/var/cache/x/evidence.txt", "detail": "odd \x1b[31m\u009b name"}
    show.status(told({"phase": "down", "detail": "x", "failures": past}), as_json=False)
    shown = capsys.readouterr().out
    assert shown.count("[engine-hung] after 60 s: ") == show.SHOWN_FAILURES
    assert "number 2" not in shown
    assert "number 3" in shown
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(1.7e9 + 7))
    assert f"{when}  [engine-hung] after 60 s: odd \\u001b[31m\\u009b name\n" in shown
    assert "evidence in the container: /var/cache/x/evidence.txt" in shown
    assert "\x1b" not in shown


def test_the_status_as_json(told: Any, capsys: pytest.CaptureFixture[str]) -> None:
    past = [failure(code=101, evidence="/x"), failure(cause="killed", forgiven=True)]
    show.status(told({"phase": "down", "detail": "x", "failures": past}), as_json=True)
    document = json.loads(capsys.readouterr().out)
    first, second = document["failures"]
    assert first == failure(code=101, evidence="/x", served=True, forgiven=False)
    assert (second["cause"], second["code"], second["forgiven"]) == ("killed", None, True)
    assert document["state"] == "failed"


def test_causes_are_errors_that_are_known() -> None:
    for cause in ("engine-hung", "engine-died", "not-ready"):
        assert cause in ERRORS


def test_all_evidence_in_order() -> None:
    known = Known(running(plan()), {})
    text = supervised.evidence(known, known.found)  # type: ignore[arg-type]
    assert text == "# evidence-1.txt\none\n\n# evidence-2.txt\ntwo\n"


# The files of a container, from an engine's API


def tarred(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        folder = tarfile.TarInfo("supervisor")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        link = tarfile.TarInfo("supervisor/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        for name, data in files.items():
            member = tarfile.TarInfo(f"supervisor/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


@pytest.fixture
def api() -> Iterator[Any]:
    """A real client of Docker, and a server of the one path that it asks."""
    replies: dict[str, tuple[int, bytes]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = parse_qs(urlsplit(self.path).query)["path"][0]
            code, body = replies.get(path, (404, b'{"message": "Could not find the file"}'))
            self.send_response(code)
            stat = base64.b64encode(b'{"name": "supervisor", "size": 0}').decode()
            self.send_header("X-Docker-Container-Path-Stat", stat)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Keep the output of the tests clean."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """A client that had enough closes the connection."""

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = docker_library.DockerClient(
            base_url=f"tcp://127.0.0.1:{server.server_port}", version="1.41"
        )
        try:
            yield docker.Engine(client), replies
        finally:
            client.close()
            server.shutdown()


def test_the_files_of_a_container(api: Any) -> None:
    engine, replies = api
    replies["/x"] = (200, tarred({"state.json": b"{}", "evidence-1.txt": b"\xff" * 70_000}))
    found = engine.files(running(plan()), "/x")
    assert found == {"state.json": b"{}", "evidence-1.txt": b"\xff" * 70_000}


@pytest.mark.parametrize(
    "body", [b"", b"garbage" * 1000, tarred({"state.json": b"x" * 5000})[:2000], b"\0" * 1024]
)
def test_files_that_cannot_be_read_are_none(api: Any, body: bytes) -> None:
    engine, replies = api
    replies["/x"] = (200, body)
    assert engine.files(running(plan()), "/x") == {}
    assert engine.files(running(plan()), "/nowhere") == {}


def test_more_than_can_be_meant_is_not_read(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, replies = api
    monkeypatch.setattr(docker, "FILES_BYTES", 100_000)
    replies["/x"] = (200, tarred({"evidence-1.txt": b"x" * 3_000_000}))
    assert engine.files(running(plan()), "/x") == {}


def test_an_engine_that_fails_is_said_to(api: Any) -> None:
    engine, replies = api
    replies["/x"] = (500, b'{"message": "it is broken"}')
    with pytest.raises(ApplianceError, match="it is broken"):
        engine.files(running(plan()), "/x")


# The history by itself


def test_a_store_writes_what_it_reads(tmp_path: Path) -> None:
    store = Store(tmp_path / "a" / "b")
    store.begin()
    store.enter("serving", "detail \ud800")
    again = Store(tmp_path / "a" / "b")
    assert again.history.phase == "serving"
    assert again.history.host == store.history.host
    assert again.trouble is None
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["state.json"]


def test_an_empty_history_is_whole() -> None:
    assert parse(json.dumps(dataclasses.asdict(History()))) == History()
