"""The command line as programs and people meet it: real processes, read from the outside."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer.main
import yaml
from typer.testing import CliRunner

from appliance.cli.app import app, narrow
from appliance.config.load import keys
from appliance.errors import ERRORS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ROOT / "tests" / "hosts"
# Nothing listens there: whatever needs the engine must say so, and not hang.
NO_ENGINE = "unix:///nowhere/docker.sock"


@pytest.fixture
def home(clean: Path) -> Path:
    """The current folder of the processes that a test starts."""
    return clean


def run(
    home: Path, *arguments: str | bytes, **variables: str | None
) -> subprocess.CompletedProcess[str]:
    """Run `appliance`; a variable that is `None` is taken away."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DOCKER_HOST": NO_ENGINE}
    for name, value in variables.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    done = subprocess.run(
        [sys.executable, "-m", "appliance", *arguments],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done


def document(text: str) -> Any:
    """The one JSON document that a text is."""
    value, end = json.JSONDecoder().raw_decode(text)
    assert text[end:] == "\n", "more than one document"
    return value


def failed(home: Path, error_id: str, *arguments: str, **variables: str | None) -> str:
    """Run a command that must fail with this error; return what it says for people."""
    done = run(home, *arguments, "--json", **variables)
    code = ERRORS[error_id].exit_code
    assert done.returncode == code, done.stderr
    error = document(done.stdout)["error"]
    assert (error["id"], error["exit_code"]) == (error_id, code)
    assert f"error [{error_id}] {error['message']}\n  next: {error['remedy']}\n" in done.stderr
    return done.stderr


def commands(
    group: Any = None, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its path, as Typer made it."""
    group = typer.main.get_command(app) if group is None else group
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands())
NAMES = [" ".join(path) for path in COMMANDS]


# Help and usage


def test_help_names_every_command(home: Path) -> None:
    done = run(home, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for path in COMMANDS:
        assert re.search(rf"^ +{path[0]} ", done.stdout, re.MULTILINE), path


def test_the_commands_that_others_rely_on_are_there() -> None:
    assert {
        "up", "down", "status", "logs", "inventory", "plan", "render run", "render compose",
        "build", "weights fetch", "weights verify", "smoke", "config show", "config check",
        "config schema", "version",
    } <= set(NAMES)  # fmt: skip


@pytest.mark.parametrize("path", COMMANDS, ids=NAMES)
def test_every_command_has_json_and_says_what_it_does(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    options = {name for parameter in command.params for name in parameter.opts}
    assert "--json" in options
    assert command.help.endswith(".")
    for parameter in command.params:
        assert parameter.help, parameter.name


def test_an_unknown_option_ends_with_2(home: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        for done in pool.map(lambda path: run(home, *path, "--no-such-option"), COMMANDS):
            assert (done.returncode, done.stdout) == (2, ""), done.args
            assert "--no-such-option" in done.stderr


@pytest.mark.parametrize("value", ["inf", "nan", "-inf", "1e300", "604801", "0"])
@pytest.mark.parametrize(
    "words",
    [["bench", "--timeout"], ["eval", "--timeout"], ["offline", "--stall-timeout"],
     ["offline", "--fetch-timeout"]],
    ids=" ".join,
)  # fmt: skip
def test_every_time_is_finite(value: str, words: list[str]) -> None:
    """By Typer itself: a process for each would take a minute."""
    command = COMMANDS[tuple(words[:1])]
    with pytest.raises(typer.BadParameter):
        command.make_context("it", [words[1], value])
    command.make_context("it", [words[1], "604800"])


@pytest.mark.parametrize("words", [["bench", "--model", "m"], ["eval", "--model", "m"]])
def test_what_is_of_another_server_needs_its_url(home: Path, words: list[str]) -> None:
    assert "--url" in failed(home, "usage", *words)


@pytest.mark.parametrize("command", ["bench", "eval"])
def test_ctrl_c_of_a_job_says_what_became_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path, command: str
) -> None:
    del home

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("appliance.bench.run.perform", stop)
    monkeypatch.setattr("appliance.evaluate.run.perform", stop)
    monkeypatch.setattr("appliance.cli.bench.stop_on_signals", lambda: None)
    monkeypatch.setattr("appliance.cli.evaluate.stop_on_signals", lambda: None)
    assert app([command, "--json"], standalone_mode=False) == 130
    error = document(capsys.readouterr().out)["error"]
    assert error["id"] == "interrupted"
    assert "appliance up" not in error["remedy"]
    assert "goes on" not in error["message"]


@pytest.mark.parametrize("words", [["nonsense"], ["plan", "extra"], ["logs", "--tail", "0"]])
def test_words_that_are_not_understood_end_with_2(home: Path, words: list[str]) -> None:
    done = run(home, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert words[-1] in done.stderr


def test_shell_completion_is_there(home: Path) -> None:
    assert "--install-completion" in run(home, "--help").stdout


# Data for programs


def test_version(home: Path) -> None:
    version = document(run(home, "version", "--json").stdout)["version"]
    assert run(home, "version").stdout == f"{version}\n"


def test_inventory_is_one_document(home: Path) -> None:
    host = str(HOSTS / "synthetic-atlas-a2")
    done = run(home, "inventory", "--snapshot", host, "--json")
    assert done.returncode == 0
    found = document(done.stdout)
    assert {"product", "driver_version", "npus", "problems"} <= set(found)
    assert found["driver_version"] == "25.5.2"
    assert [npu["device"] for npu in found["npus"]] == [f"/dev/davinci{n}" for n in range(8)]
    assert set(found["npus"][0]) >= {
        "npu_id", "chip_id", "device", "name", "health", "hbm_total_mib", "hbm_used_mib",
        "processes",
    }  # fmt: skip
    for problem in found["problems"]:
        assert set(problem) == {"id", "message", "remedy"}


def test_inventory_of_this_host_is_one_document(home: Path) -> None:
    assert document(run(home, "inventory", "--json").stdout)["system"]["cpus"] > 0


def test_plan_is_one_document_and_warnings_are_for_people(home: Path) -> None:
    host = str(HOSTS / "synthetic-nested")
    arguments = ["plan", "--snapshot", host, "--set", "product=atlas-a2", "--json"]
    done = run(home, *arguments)
    found = document(done.stdout)
    assert {
        "product", "image", "devices", "tensor_parallel_size", "expert_parallel", "serve_args",
        "environment", "mounts", "ports", "warnings",
    } <= set(found)  # fmt: skip
    assert found["product"] == "atlas-a2"
    assert found["expert_parallel"] is True
    assert found["warnings"]
    assert done.stderr == "".join(f"warning: {line}\n" for line in found["warnings"])


def test_no_password_is_shown_with_the_configuration(home: Path) -> None:
    address = "https://user:hunter2@index.test/simple"
    done = run(home, "config", "show", "--set", f"build.pip_index_url={address}")
    assert "hunter2" not in done.stdout
    assert "https://***@index.test/simple" in done.stdout


def test_plan_takes_the_layers_in_their_order(home: Path) -> None:
    (home / "appliance.yaml").write_text("server: {port: 1}\nname: from-file\n", encoding="utf-8")
    arguments = ["plan", "--set", "platform=cpu", "--json"]
    found = document(run(home, *arguments, APPLIANCE_SERVER_PORT="2").stdout)
    assert (found["name"], found["ports"][0]["host"]) == ("from-file", 2)
    arguments += ["--set", "server.port=3"]
    found = document(run(home, *arguments, APPLIANCE_SERVER_PORT="2").stdout)
    assert found["ports"][0]["host"] == 3


def test_paths_are_made_absolute(home: Path) -> None:
    arguments = ["plan", "--json", "--set", "platform=cpu", "--set"]
    for given, path in {"w": f"{home}/w", "~/w": "/h/w", "a/../b": f"{home}/b"}.items():
        found = document(run(home, *arguments, f"model.path={given}", HOME="/h").stdout)
        assert found["model"]["host_path"] == path


def test_config_show_says_where_each_value_comes_from(home: Path) -> None:
    (home / "appliance.yaml").write_text("name: from-file\n", encoding="utf-8")
    done = run(home, "config", "show", "--json", "--set", "npus=[1]", APPLIANCE_PLATFORM="cpu")
    rows = {row["key"]: row for row in document(done.stdout)}
    assert list(rows) == [key.name for key in keys()]
    assert rows["name"] == {"key": "name", "value": "from-file", "origin": "appliance.yaml"}
    assert rows["npus"] == {"key": "npus", "value": [1], "origin": "flag"}
    assert rows["platform"]["origin"] == "APPLIANCE_PLATFORM"
    assert rows["server.bind"] == {
        "key": "server.bind",
        "value": "127.0.0.1",
        "origin": "default",
    }


def test_config_schema_is_one_document(home: Path) -> None:
    assert document(run(home, "config", "schema").stdout)["additionalProperties"] is False


def test_config_check(home: Path) -> None:
    done = run(home, "config", "check", "--json", "--set", "platform=cpu")
    assert document(done.stdout) == {"ok": True, "platform": "cpu", "warnings": []}


def test_weights_verify_needs_no_network(home: Path) -> None:
    done = run(home, "weights", "verify", "--json", "--set", "platform=cpu")
    found = document(done.stdout)
    assert (found["model"], found["path"]) == ("tiny-omni", str(ROOT / "models" / "tiny-omni"))
    assert found["files"] > 3


def test_renderings_are_text_or_one_document(home: Path) -> None:
    for form in ("run", "compose"):
        arguments = ["render", form, "--set", "platform=cpu"]
        text = run(home, *arguments).stdout
        assert document(run(home, *arguments, "--json").stdout) == {"text": text}
    assert yaml.safe_load(text)["services"]["vllm"]["container_name"] == "qwen3-omni"


@pytest.mark.parametrize("words", [["plan"], ["inventory"], ["config", "show"]])
def test_people_get_lines_on_stdout(home: Path, words: list[str]) -> None:
    done = run(home, *words, "--set", "platform=cpu")
    assert done.returncode == 0
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert len(done.stdout) > 20


# Errors

KEY = "server.api_key_file"
ERRORS_OF_THE_CONFIGURATION = {
    "a bad value": ("config-invalid", ["plan", "--set", "server.port=0"]),
    "a missing file": ("config-invalid", ["plan", "--config", "absent.yaml"]),
    "a long name": ("config-invalid", ["plan", "--config", "n" * 300]),
    "no value": ("config-invalid", ["plan", "--set", "server.port"]),
    "no yaml": ("config-invalid", ["plan", "--set", "name=[1"]),
    "no home": ("config-invalid", ["plan", "--set", "cache.dir=~nosuchuser/x"]),
    "an unknown key": ("config-unknown-key", ["config", "show", "--set", "prot=1"]),
    "public": ("public-without-key", ["plan", "--set", "server.bind=0.0.0.0"]),
    "no key file": ("api-key-file", ["render", "run", "--set", f"{KEY}=absent"]),
    "an unknown product": ("host-unsupported", ["plan", "--set", "product=atlas-a9"]),
    "no devices": ("devices-missing", ["plan", "--set", "product=atlas-a2"]),
    "no snapshot": ("snapshot-invalid", ["inventory", "--snapshot", "absent"]),
    "a long snapshot": ("snapshot-invalid", ["plan", "--snapshot", "n" * 300]),
    "no folder": ("weights-missing", ["weights", "verify", "--set", "model.path=absent"]),
    "no engine": ("engine-unreachable", ["status"]),
    "no engine either": ("engine-unreachable", ["down", "--set", "name=unit-nobody"]),
    "no logs": ("engine-unreachable", ["logs"]),
}


@pytest.mark.parametrize(
    ("error_id", "words"),
    ERRORS_OF_THE_CONFIGURATION.values(),
    ids=ERRORS_OF_THE_CONFIGURATION,
)
def test_errors_are_typed_with_what_to_do_next(home: Path, error_id: str, words: list[str]) -> None:
    failed(home, error_id, *words)


def test_without_json_an_error_leaves_stdout_empty(home: Path) -> None:
    for error_id, words in list(ERRORS_OF_THE_CONFIGURATION.values())[:2]:
        done = run(home, *words)
        assert (done.returncode, done.stdout) == (ERRORS[error_id].exit_code, "")
        assert re.search(rf"error \[{error_id}\] .+\n  next: .+\n", done.stderr)


def test_an_error_of_a_variable_names_it(home: Path) -> None:
    text = failed(home, "config-invalid", "plan", APPLIANCE_SERVER_PORT="many")
    assert "APPLIANCE_SERVER_PORT" in text
    text = failed(home, "config-unknown-key", "plan", APPLIANCE_SERVR_PORT="1")
    assert "Did you mean APPLIANCE_SERVER_PORT?" in text


def test_bytes_that_are_no_text_are_typed_errors_too(home: Path) -> None:
    done = run(home, "plan", "--json", "--set", b"model.path=/\xff")
    assert done.returncode == ERRORS["config-invalid"].exit_code
    assert document(done.stdout)["error"]["id"] == "config-invalid"


def test_a_bug_is_reported_as_one_and_shown_when_asked_for(home: Path) -> None:
    broken = home / "broken"
    shutil.copytree(ROOT / "appliance", broken / "appliance")
    with (broken / "appliance" / "paths.py").open("a", encoding="utf-8") as file:
        file.write("\n\ndef models():\n    return 1 / 0\n")
    text = failed(home, "bug", "plan", "--set", "platform=cpu", PYTHONPATH=str(broken))
    assert "ZeroDivisionError" in text
    assert "APPLIANCE_DEBUG=1" in text


def test_a_reader_that_goes_away_is_no_error(home: Path) -> None:
    """`appliance plan | head -1`, and the same with output that fits into the buffer."""
    for words in (["version"], ["plan", "--set", "platform=cpu", "--json"], ["--help"]):
        reading, writing = os.pipe()
        os.close(reading)
        process = subprocess.Popen(
            [sys.executable, "-m", "appliance", *words],
            cwd=home,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(writing)
        _, errors = process.communicate(timeout=30)
        assert errors == "", words


# Files


def compose(home: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return run(home, "render", "compose", "--set", "platform=cpu", "-o", "compose.yaml", *more)


def test_a_rendering_is_written_once_and_left_alone_when_it_is_the_same(home: Path) -> None:
    file = home / "compose.yaml"
    assert document(compose(home, "--json").stdout) == {"file": "compose.yaml", "changed": True}
    assert (
        file.read_text(encoding="utf-8")
        == run(home, "render", "compose", "--set", "platform=cpu").stdout
    )
    before = file.stat().st_mtime_ns
    time.sleep(0.01)
    assert document(compose(home, "--json").stdout) == {"file": "compose.yaml", "changed": False}
    assert file.stat().st_mtime_ns == before


def test_a_file_that_differs_is_shown_and_left_alone_without_force(home: Path) -> None:
    file = home / "compose.yaml"
    compose(home)
    mine = file.read_text(encoding="utf-8").replace("127.0.0.1:8000:8000", "127.0.0.1:9:8000")
    file.write_text(mine, encoding="utf-8")
    done = compose(home)
    assert done.returncode == ERRORS["file-differs"].exit_code
    assert '-      - "127.0.0.1:9:8000"\n+      - "127.0.0.1:8000:8000"\n' in done.stderr
    assert file.read_text(encoding="utf-8") == mine
    done = compose(home, "--json")
    assert document(done.stdout)["error"]["id"] == "file-differs"
    assert file.read_text(encoding="utf-8") == mine
    assert document(compose(home, "--json", "--force").stdout)["changed"] is True
    assert "127.0.0.1:8000:8000" in file.read_text(encoding="utf-8")


def test_a_file_that_is_no_text_differs(home: Path) -> None:
    (home / "compose.yaml").write_bytes(b"\xff\xfe\x00")
    assert compose(home).returncode == ERRORS["file-differs"].exit_code


@pytest.mark.parametrize(
    "place", [".", "absent/file", "file/below", "n" * 300, "/proc/file", "/sys/file"]
)
def test_a_place_that_can_not_be_written_is_a_typed_error(home: Path, place: str) -> None:
    (home / "file").write_text("", encoding="utf-8")
    words = ["render", "run", "--set", "platform=cpu", "-o", place]
    assert place in failed(home, "file-not-written", *words)


# A quick start

HEAVY = {"docker", "httpx", "pydantic", "rich", "modelscope", "modelscope_hub", "requests"}


@pytest.mark.parametrize(
    "words",
    [["--help"], ["render", "compose"], ["plan", "--json"]],
    ids=" ".join,
)
def test_a_command_imports_only_what_it_needs(home: Path, words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "appliance", *words],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    rows = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in rows}
    assert "typer" in imported
    assert not imported & HEAVY


NARROWED = sorted(
    {
        command.name or command.callback.__name__
        for command in app.registered_commands
        if command.callback
    }
    | {str(group.name) for group in app.registered_groups}
)
NARROWED.remove("version")  # It is what stays beside each.


@pytest.mark.parametrize("name", NARROWED)
def test_a_command_is_the_same_without_the_others(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "registered_commands", list(app.registered_commands))
    monkeypatch.setattr(app, "registered_groups", list(app.registered_groups))
    whole = CliRunner().invoke(app, [name, "--help"])
    narrow(name)
    assert len(app.registered_commands) <= 2
    alone = CliRunner().invoke(app, [name, "--help"])
    assert (alone.exit_code, alone.output) == (0, whole.output)


def test_a_word_that_is_no_command_narrows_nothing() -> None:
    before = list(app.registered_commands), list(app.registered_groups)
    for word in ("", "--help", "updown"):
        narrow(word)
        assert (app.registered_commands, app.registered_groups) == before
