"""What several appliances of one host leave to each other: dies, ports, the right to choose."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from appliance.config.load import load
from appliance.deployment import prepare, sources
from appliance.engine import claims
from appliance.errors import ApplianceError
from appliance.inventory import read
from appliance.inventory.model import Claim, Inventory
from appliance.lifecycle import state
from appliance.plan import names, ports
from appliance.plan.make import make

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("clean")

HOSTS = Path(__file__).resolve().parents[1] / "hosts"
A2 = read.snapshot(HOSTS / "synthetic-atlas-a2")


def allotted(*overrides: str, held: tuple[Claim, ...] = ()) -> ports.Ports:
    return ports.allot(load(None, {}, overrides).config, Inventory("none", claims=held))


def test_the_first_appliance_gets_the_usual_ports() -> None:
    assert allotted() == ports.Ports(8000, None)
    assert allotted("server.network=host") == ports.Ports(8000, ports.FIRST_HCCL_PORT)


def test_each_further_one_gets_the_next() -> None:
    held: tuple[Claim, ...] = ()
    seen: set[int] = set()
    for number in range(5):
        got = allotted(f"name=a{number}", "server.network=host", held=held)
        assert got.hccl_base is not None
        mine = {got.api, *range(got.hccl_base, got.vllm_base + 1)}
        assert not mine & seen
        seen |= mine
        held = (*held, Claim(f"a{number}", (), got.api, got.hccl_base))


def test_an_appliance_keeps_its_ports_and_its_wishes_are_checked() -> None:
    held = (Claim("qwen3-omni", (), 8003, 60128), Claim("other", (), 8000, 60000))
    assert allotted("server.network=host", held=held) == ports.Ports(8003, 60128)
    assert allotted("server.port=9000", held=held).api == 9000
    with pytest.raises(ApplianceError) as caught:
        allotted("server.port=8000", held=held)
    assert caught.value.id == "port-in-use"
    assert "other" in caught.value.message


def test_ports_run_out_with_an_error() -> None:
    held = tuple(
        Claim(f"a{n}", (), 9000 + n, ports.FIRST_HCCL_PORT + n * ports.STRIDE)
        for n in range(ports.SLOTS)
    )
    with pytest.raises(ApplianceError):
        allotted("server.network=host", held=held)


@pytest.mark.parametrize("network", ["bridge", "host"])
@pytest.mark.parametrize("runtime", ["runc", "ascend"])
def test_a_container_claims_what_its_plan_gave_it(network: str, runtime: str) -> None:
    settings = [
        "product=atlas-a2", "name=second", "npus=[4, 5]", "server.port=8005",
        f"server.network={network}", f"container.runtime={runtime}",
    ]  # fmt: skip
    made = make(load(None, {}, settings).config, A2, None)
    claim = claims.of_labels(made.container.labels())
    assert claim == claims.of_plan(made.container)
    base = ports.FIRST_HCCL_PORT if network == "host" else None
    assert claim == Claim("second", ("/dev/davinci4", "/dev/davinci5"), 8005, base)


def test_labels_of_others_and_broken_ones() -> None:
    assert claims.of_labels({"com.docker.compose.project": "x"}) is None
    assert claims.of_labels({names.LABEL_NAME: "a"}) == Claim("a")
    assert claims.of_labels({names.LABEL_NAME: "a", names.LABEL_SPEC: "{"}) == Claim("a")
    assert claims.of_labels({names.LABEL_NAME: "a", names.LABEL_SPEC: "[1]"}) == Claim("a")


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """A socket that answers each request with the next of these bytes, and then nothing."""
    path = tmp_path / "docker.sock"
    answers: list[bytes] = []
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    channel, _ = listener.accept()
                except OSError:
                    return
                with channel:
                    channel.recv(65536)
                    if answers:
                        channel.sendall(answers.pop(0))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield answers
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_only_containers_that_live_hold_something(engine: list[bytes]) -> None:
    rows = [
        {"State": status, "Labels": {names.LABEL_NAME: status}}
        for status in ("running", "restarting", "paused", "created", "exited", "dead")
    ]
    engine.append(b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps(rows).encode())
    found = claims.read()
    assert found is not None
    assert [claim.name for claim in found] == ["running", "restarting", "paused", "created"]


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.0 500 Oops\r\n\r\n{}", b"HTTP/1.0 200 OK\r\n\r\n{", b"HTTP/1.0 200 OK\r\n\r\n3"],
)
def test_an_engine_that_answers_nonsense_is_no_claim_and_no_crash(
    engine: list[bytes], answer: bytes
) -> None:
    engine.append(answer)
    assert claims.read() is None


def test_no_engine_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    assert claims.read() == ()


HOLDER = """
import sys
from appliance.inventory.model import Claim
from appliance.lifecycle import state
with state.changing("other", "up") as change:
    change.claim(Claim("other", ("/dev/davinci0",), 8000, None))
    print("held", flush=True)
    sys.stdin.read()
"""


def test_what_another_up_has_chosen_counts_until_it_ends_however_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(state, "SHARED_LOCKS", tmp_path / "none")
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER.replace("with state", f"{PATCH}with state")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert state.pending("mine") == (Claim("other", ("/dev/davinci0",), 8000, None),)
        assert state.pending("other") == ()
        assert state.holder("other") == f"`appliance up` (process {process.pid})"
    finally:
        process.kill()
        process.communicate()
    # Its file is still there, with what it claimed.
    assert "davinci0" in (tmp_path / "qwen3-omni-appliance" / LOCK).read_text()
    assert state.pending("mine") == ()


PATCH = "from pathlib import Path; state.SHARED_LOCKS = Path('/nonexistent')\n"
LOCK = "qwen3-omni-appliance-other.lock"


def test_one_at_a_time_chooses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(state, "SHARED_LOCKS", tmp_path / "none")
    monkeypatch.setattr(state, "ALLOT_SECONDS", 0.1)
    with state.allotting("a"):
        with pytest.raises(ApplianceError) as caught, state.allotting("b"):
            pass
        assert caught.value.id == "busy"
    with state.allotting("b"):
        pass


def test_a_claim_changes_the_plan_of_the_next() -> None:
    first = make(load(None, {}, ["product=atlas-a2", "name=one"]).config, A2, None)
    there = dataclasses.replace(A2, claims=(claims.of_plan(first.container),))
    second = make(load(None, {}, ["product=atlas-a2", "name=two"]).config, there, None)
    assert not {d.host for d in first.container.devices if d.host[12:].isdigit()} & {
        d.host for d in second.container.devices
    }
    assert (first.api_port, second.api_port) == (8000, 8001)


def test_ports_are_kept_apart_as_ranges_not_as_numbers() -> None:
    first = ports.FIRST_HCCL_PORT
    # A base that was given by hand, in the middle of what would come next.
    held = (Claim("other", (), 8000, first + 20),)
    got = allotted("server.network=host", held=held)
    assert got.hccl_base is not None
    mine = range(got.hccl_base, got.hccl_base + ports.STRIDE)
    assert not set(mine) & set(range(first + 20, first + 20 + ports.STRIDE))
    # An API port of one's own, or of another, in the first range.
    assert allotted("server.network=host", f"server.port={first}").hccl_base != first
    held = (Claim("other", (), first + 10, None),)
    assert allotted("server.network=host", held=held).hccl_base != first


def test_a_base_that_was_set_by_hand_is_kept_and_checked() -> None:
    wish = "container.environment={HCCL_IF_BASE_PORT: '60000'}"
    assert allotted("server.network=host", wish) == ports.Ports(8000, 60000)
    mine = (Claim("qwen3-omni", (), 8000, 60000),)
    assert allotted("server.network=host", wish, held=mine) == ports.Ports(8000, 60000)
    with pytest.raises(ApplianceError) as caught:
        allotted("server.network=host", wish, held=(Claim("other", (), 8000, 60032),))
    assert caught.value.id == "port-in-use"
    for wrong in ("abc", "-1", "80", "65530", "6000 0"):
        with pytest.raises(ApplianceError) as caught:
            allotted(
                "server.network=host", f"container.environment={{HCCL_IF_BASE_PORT: '{wrong}'}}"
            )
        assert caught.value.id == "config-invalid"


def test_a_container_of_a_portable_file_holds_its_devices_and_its_port(
    engine: list[bytes],
) -> None:
    labels = {names.LABEL_NAME: "a", names.LABEL_DEVICES: "/dev/davinci0,/dev/davinci1"}
    row = {"State": "running", "Labels": labels, "Ports": [{"PublicPort": 8000}]}
    engine.append(b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps([row]).encode())
    assert claims.read() == (Claim("a", ("/dev/davinci0", "/dev/davinci1"), 8000, None),)


def test_what_is_not_known_stops_a_change_and_is_said_of_a_plan(engine: list[bytes]) -> None:
    config = load(None, {}, ["platform=cpu"]).config
    engine += [b"HTTP/1.0 500 Oops\r\n\r\n"] * 2
    assert any("does not say" in line for line in prepare(config).plan.warnings)
    with pytest.raises(ApplianceError) as caught:
        prepare(config, to_change=True)
    assert caught.value.id == "engine-unreachable"


def test_image_and_model_can_be_had_where_no_die_is_free() -> None:
    busy = HOSTS / "a3-busy"
    config = load(None, {}, ["cache.dir=/data/modelscope"]).config
    with pytest.raises(ApplianceError):
        prepare(config, busy)
    found = sources(config, busy)
    assert found.image.base == "quay.io/ascend/vllm-ascend:v0.23.0-a3"
    assert found.model.id == "Qwen/Qwen3-Omni-30B-A3B-Thinking"
    # Not even a host is needed, to prepare one that has no network.
    named = load(None, {}, ["platform=ascend", "product=atlas-a2"]).config
    assert sources(named, HOSTS / "nothing").image.base == "quay.io/ascend/vllm-ascend:v0.23.0"


def test_what_is_no_lock_file_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "SHARED_LOCKS", tmp_path)
    os.mkfifo(tmp_path / f"{state.PREFIX}fifo.lock")
    (tmp_path / f"{state.PREFIX}link.lock").symlink_to("/etc/passwd")
    (tmp_path / f"{state.PREFIX}bytes.lock").write_bytes(b"\xff\xfe")
    assert state.pending("mine") == ()
    with (tmp_path / f"{state.PREFIX}odd.lock").open("w") as held:
        held.write('who\n{"name": "odd"}\n')
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        assert state.pending("mine") == ()


@pytest.mark.parametrize(
    "setting",
    [
        "container.runtime=ascend",
        "parallel.expert_parallel=true",
        "parallel.data_parallel_size=2",
    ],
)
def test_what_only_npus_can_do_is_refused_on_the_cpu(setting: str) -> None:
    with pytest.raises(ApplianceError) as caught:
        make(load(None, {}, ["platform=cpu", setting]).config, Inventory("none"), None)
    assert caught.value.id == "config-invalid"
    assert setting.partition("=")[0] in caught.value.message


@pytest.mark.parametrize(
    "row",
    [
        {"name": "a", "devices": ["davinci0"]},
        {"name": "a", "devices": [0]},
        {"name": "a", "api_prot": 8000},
    ],
)
def test_a_snapshot_whose_appliances_are_misspelt_is_refused(
    tmp_path: Path, row: dict[str, object]
) -> None:
    (tmp_path / "appliances.json").write_text(json.dumps([row]), encoding="utf-8")
    with pytest.raises(ApplianceError) as caught:
        read.snapshot(tmp_path)
    assert caught.value.id == "snapshot-invalid"
