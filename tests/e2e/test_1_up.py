"""`up`, from nothing to a verified server, and what an operator does with it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

from tests.e2e.conftest import execute, inspect

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import Served

PROBES = [
    "text", "image-1", "image-2", "image-control", "image-jpeg",
    "audio-1", "audio-2", "audio-control", "pitch-1", "pitch-2", "pitch-control",
    "video-1", "video-2", "video-control", "video-mp4", "track-1", "track-2", "track-control",
    "all-1", "all-2", "all-control", "stream", "over-limit", "text-after",
]  # fmt: skip


def test_up_ends_with_every_smoke_probe_passed(served: Served) -> None:
    assert served.document["changed"] is True
    assert [row["probe"] for row in served.document["smoke"]] == PROBES
    assert {row["verdict"] for row in served.document["smoke"]} == {"ok"}


def test_up_names_its_phases(served: Served) -> None:
    shown = served.interrupted.stderr + served.log
    phases = ["image", "weights", "container", "load", "ready", "smoke"]
    places = [shown.index(f"[{phase}]") for phase in phases]
    assert places == sorted(places)
    assert "no NPU" in shown
    assert "platform cpu" in shown


def test_ctrl_c_says_so_and_status_knows_where_it_stopped(served: Served) -> None:
    assert "error [interrupted]" in served.interrupted.stderr
    assert "Traceback" not in served.interrupted.stderr
    assert served.status_while_loading["state"] == "loading"


def test_two_ups_at_once_do_not_fight(served: Served) -> None:
    assert served.second.returncode == 79
    assert "error [busy]" in served.second.stderr
    assert "appliance up" in served.second.stderr


def test_a_second_up_does_nothing_and_is_quick(served: Served) -> None:
    container = inspect("e2e")["Id"]
    began = time.monotonic()
    again = served.cli.json("up")
    seconds = time.monotonic() - began
    assert again["changed"] is False
    assert again["differences"] == []
    assert inspect("e2e")["Id"] == container
    # Never in absolute seconds: the machine is shared. The first one loads an engine.
    assert seconds < served.seconds / 4


def test_what_up_prints_works_as_printed(served: Served) -> None:
    printed = served.cli.run("up").stdout
    head, _, snippet = printed.partition("from openai import OpenAI")
    curl = head[head.index("curl ") :]
    answer = subprocess.run(
        ["bash", "-c", curl], capture_output=True, text=True, check=True, timeout=120
    )
    assert json.loads(answer.stdout)["usage"]["completion_tokens"] >= 1
    program = f"from openai import OpenAI{snippet}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert "role='assistant'" in done.stdout


def test_a_change_that_can_not_be_made_leaves_the_old_one_serving(served: Served) -> None:
    before = inspect("e2e")["Id"]
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        done = served.cli.run("up", server__port=str(holder.getsockname()[1]))
    assert done.returncode == 78, done.stderr
    assert "change  ports" in done.stderr
    after = inspect("e2e")
    assert (after["Id"], after["State"]["Running"]) == (before, True)


def test_the_start_of_a_containers_id_is_nobodys_name(served: Served) -> None:
    found = inspect("e2e")
    done = served.cli.run("down", name=found["Id"][:12])
    assert done.returncode == 0
    assert "nothing to do" in done.stderr
    assert inspect("e2e")["State"]["Running"] is True


def test_status_is_ready(served: Served) -> None:
    found = served.cli.json("status")
    assert found["state"] == "ready"
    assert found["differences"] == []
    assert found["restarts"] == 0
    assert found["verified"] is True
    assert found["changing"] is None


def test_logs_are_the_engines(served: Served) -> None:
    assert "Application startup complete" in served.cli.run("logs", "--tail", "2000").stdout


def test_smoke_reports(served: Served, tmp_path: Path) -> None:
    report = tmp_path / "smoke.xml"
    done = served.cli.run("smoke", "--json", "--junit", str(report))
    assert done.returncode == 0, done.stderr
    assert [row["probe"] for row in json.loads(done.stdout)] == PROBES
    suite = ET.parse(report).getroot()  # noqa: S314 (our own file)
    assert suite.get("failures") == "0"


def test_smoke_of_a_server_that_is_not_there_fails_with_its_own_exit_code(served: Served) -> None:
    done = served.cli.run("smoke", "--url", "http://127.0.0.1:9")
    assert done.returncode == 82
    assert "refused" in done.stdout.lower()


def test_the_probes_run_inside_the_container(served: Served) -> None:
    del served
    for probe in ("live", "ready"):
        done = execute("e2e", "python3", "-m", "healthchecks", probe)
        assert done.returncode == 0, done.stdout + done.stderr


def test_diagnose_calls_a_server_that_is_well_not_ill(served: Served) -> None:
    """Reads the log of a running container to its end, and no further."""
    for finding in served.cli.json("diagnose")["findings"]:
        assert finding["benign"], finding
