"""Renderings of plans: the script and the compose file say what the plan says, and the same.

Each rendering is read back into one neutral form (`Spec`), by a parser that knows nothing of
the templates, and compared with what the plan says.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from jinja2 import UndefinedError

from appliance import render as rendering
from appliance.config.model import Cache, Config, Container, Model, Server, Timeouts
from appliance.inventory import read
from appliance.inventory.model import FileFacts, Inventory
from appliance.plan.make import make
from appliance.render import portable, render

if TYPE_CHECKING:
    from appliance.plan.model import Plan

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ROOT / "tests" / "hosts"
BARE = Inventory("none")
KEY_FILE = '/etc/appliance/a key\'s "file", with, commas'
Spec = dict[str, Any]

# Values that break what quotes carelessly: the shell, compose's variables, YAML and CSV.
HOSTILE = {
    "spaces": "  two  spaces  ",
    "single": "it's",
    "double": 'say "yes"',
    "home": "$HOME and ${HOME} and $$ and $",
    "command": "$(touch pwned) `touch pwned`; touch pwned & | > pwned",
    "variable": "${X:-default} ${X:?must be set}",
    "lines": "one\ntwo\r\n\tthree\n",
    "unicode": "naïve 模型 🎧 \u00a0 \u2028 \u2029 \u0085 \ufeff",
    "control": "\x01\x07\x1b[31m\x7f\x9f",
    "yaml": "- {a: [b, 'c']} # no comment: yes\n...\n---",
    "backslash": "\\n \\\\ \\",
    "empty": "",
    "word": "no",
    "number": "0123",
    "jinja": "{{ image }} {% raw %}",
    "percent": "%s %d %(a)s",
    "equals": "a=b=c",
}


def hostile() -> Config:
    """A configuration of values that nobody should choose and everybody may."""
    words = [value for value in HOSTILE.values() if not value.startswith("--")]
    return Config(
        model=Model(path='/data/my, "model" $HOME/it\'s ä', served_name="a $HOME `id` \"b\" 'c'"),
        server=Server(api_key_file=KEY_FILE, extra_args=["--x", *words, "--y=$Z", "--json", "{}"]),
        container=Container(
            # Names that YAML would take for something else than text.
            environment={**HOSTILE, "yes": "1", "null": "2", "1.5": "3", "A-B.c": "4"},
            ulimits={"memlock": -1, "core": 0},
        ),
    )


def with_everything() -> Config:
    return Config(
        name="a-2_b",
        server=Server(bind="0.0.0.0", port=9000, network="host", api_key_file="/etc/key"),
        container=Container(
            memory="64g", shm_size="512m", restart="no", ulimits={"nofile": 65536, "memlock": -1}
        ),
        cache=Cache(dir="/data/cache"),
        timeouts=Timeouts(stop=7),
    )


def plans() -> dict[str, Plan]:
    atlas = Config(product="atlas-a2", cache=Cache(dir="/data/cache"))
    a2 = read.snapshot(HOSTS / "synthetic-atlas-a2")
    nested = read.snapshot(HOSTS / "synthetic-nested")
    # A key that only its group may read, so that the container joins the group.
    key = replace(BARE, files={KEY_FILE: FileFacts(1000, 1234, 0o640, 65)})
    privileged = Config(container=Container(privileged=True))
    ipv6 = Config(server=Server(bind="::1", port=8001))
    return {
        "cpu": make(Config(), BARE, "/opt/models"),
        "atlas-a2": make(atlas, a2, None),
        "atlas-a2-everything": make(replace(with_everything(), product="atlas-a2"), a2, None),
        "nested": make(atlas, nested, None),
        "everything": make(with_everything(), BARE, "/opt/models"),
        "hostile": make(hostile(), key, "/opt/models"),
        "privileged": make(privileged, BARE, "/opt/models"),
        "ipv6": make(ipv6, BARE, "/opt/models"),
    }


PLANS = plans()
EVERY = pytest.mark.parametrize("made", PLANS.values(), ids=PLANS)


# Three ways to the neutral form


def of_plan(made: Plan) -> Spec:
    """What the plan itself says."""
    box = made.container
    health = box.healthcheck
    seconds = (health.interval, health.timeout, health.start_period)
    return {
        "name": box.name,
        "image": box.image,
        "command": list(box.command),
        "restart": box.restart,
        "network": box.network,
        "ports": [
            f"{f'[{p.host_ip}]' if ':' in p.host_ip else p.host_ip}:{p.host}:{p.container}"
            for p in box.ports
        ],
        "init": box.init,
        "read_only": box.read_only,
        "privileged": box.privileged,
        "cap_drop": list(box.cap_drop),
        "security_opt": list(box.security_opt),
        "group_add": [str(group) for group in box.group_add],
        "tmpfs": [f"{mount.target}:{mount.options}" for mount in box.tmpfs],
        "shm_size": box.shm_size_bytes,
        "memory": box.memory_bytes,
        "ulimits": {limit.name: (limit.soft, limit.hard) for limit in box.ulimits},
        "devices": [f"{device.host}:{device.container}:rwm" for device in box.devices],
        "mounts": [(m.type, m.source, m.target, m.read_only) for m in box.mounts],
        "environment": dict(box.environment),
        "health": (health.command, *seconds, health.retries),
        "stop": (box.stop_signal, box.stop_timeout),
        "log": (box.log_driver, dict(box.log_options)),
        "labels": box.labels(),
    }


def seconds(text: str) -> int:
    assert text.endswith("s")
    return int(text[:-1])


FLAGS = ("detach", "init", "read-only", "privileged")


def of_arguments(argv: list[str]) -> Spec:
    """What `docker` is told by these arguments, read as its command line reads them."""
    assert argv[0] == "run"
    options: dict[str, list[str]] = {}
    rest = iter(argv[1:])
    image = ""
    for word in rest:
        if not word.startswith("--"):
            image = word
            break
        name = word[2:]
        options.setdefault(name, []).append("" if name in FLAGS else next(rest))
    command = list(rest)

    def one(name: str) -> str:
        (value,) = options.pop(name)
        return value

    def pairs(name: str) -> dict[str, str]:
        given = options.pop(name, [])
        found = {key: value for key, _, value in (text.partition("=") for text in given)}
        assert len(found) == len(given), "given twice"
        return found

    limits = {name: value.split(":") for name, value in pairs("ulimit").items()}
    durations = [seconds(one(f"health-{name}")) for name in ("interval", "timeout", "start-period")]
    assert one("detach") == ""
    spec: Spec = {
        "name": one("name"),
        "image": image,
        "command": command,
        "restart": one("restart"),
        "network": one("network"),
        "ports": options.pop("publish", []),
        "init": bool(options.pop("init", [])),
        "read_only": bool(options.pop("read-only", [])),
        "privileged": bool(options.pop("privileged", [])),
        "cap_drop": options.pop("cap-drop", []),
        "security_opt": options.pop("security-opt", []),
        "group_add": options.pop("group-add", []),
        "tmpfs": options.pop("tmpfs", []),
        "shm_size": int(one("shm-size")),
        "memory": int(one("memory")) if "memory" in options else None,
        "ulimits": {name: (int(soft), int(hard)) for name, (soft, hard) in limits.items()},
        "devices": options.pop("device", []),
        "mounts": [of_mount(text) for text in options.pop("mount", [])],
        "environment": pairs("env"),
        "health": (one("health-cmd"), *durations, int(one("health-retries"))),
        "stop": (one("stop-signal"), int(one("stop-timeout"))),
        "log": (one("log-driver"), pairs("log-opt")),
        "labels": pairs("label"),
    }
    assert not options, "an option that this test does not know"
    return spec


def of_mount(text: str) -> tuple[str, str, str, bool]:
    """Read the value of `--mount`, which is a line of CSV, as docker reads it."""
    (row,) = csv.reader(io.StringIO(text, newline=""), strict=True)
    fields = dict(field.partition("=")[::2] for field in row)
    read_only = "readonly" in fields
    fields.pop("readonly", None)
    assert set(fields) == {"type", "source", "target"}
    return fields["type"], fields["source"], fields["target"], read_only


def words(script: str) -> list[str]:
    """The words of the script's one command, by Python's reading of the shell's quoting."""
    lexer = shlex.shlex(script, posix=True, punctuation_chars=False)
    lexer.whitespace_split = True
    # A backslash and a line's end are nothing to the shell; Python keeps the line's end.
    found = [word for word in lexer if word != "\n"]
    assert found[:4] == ["set", "-eu", "exec", "docker"]
    return found[4:]


def interpolated(node: Any, variables: dict[str, str]) -> Any:
    """Fill in compose's variables, as compose does it, in every text of a document."""
    if isinstance(node, dict):
        # Compose fills in values and not keys.
        return {key: interpolated(value, variables) for key, value in node.items()}
    if isinstance(node, list):
        return [interpolated(item, variables) for item in node]
    if not isinstance(node, str):
        return node

    def fill(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        assert match["name"], f"a lone $ in {node!r}"
        if match["name"] in variables:
            return variables[match["name"]]
        assert match["kind"] == ":-", f"{match['name']} must be set"
        return match["rest"]

    return re.sub(r"\$(?:\$|\{(?P<name>\w+)(?P<kind>:[-?])(?P<rest>[^}]*)\})?", fill, node)


def of_compose(text: str, **variables: str) -> Spec:
    """What compose makes of the file."""
    content = interpolated(yaml.safe_load(text), variables)
    assert set(content) == {"name", "services", "volumes"}
    (service,) = content["services"].values()
    assert content["name"] == service["container_name"]
    health, logging = service.pop("healthcheck"), service.pop("logging")
    shell, command = health.pop("test")
    assert shell == "CMD-SHELL"
    spec: Spec = {
        "name": service.pop("container_name"),
        "network": service.pop("network_mode"),
        "memory": service.pop("mem_limit", None),
        "ulimits": {
            name: (limit["soft"], limit["hard"])
            for name, limit in service.pop("ulimits", {}).items()
        },
        "mounts": [of_volume(mount, content["volumes"]) for mount in service.pop("volumes")],
        "health": (
            command,
            *(seconds(health[name]) for name in ("interval", "timeout", "start_period")),
            health["retries"],
        ),
        "stop": (service.pop("stop_signal"), seconds(service.pop("stop_grace_period"))),
        "log": (logging["driver"], logging["options"]),
    }
    assert service.pop("pull_policy") in {"never", "missing"}
    # The rest has the same names in both, and is left out where it is empty.
    for name in ("ports", "cap_drop", "security_opt", "group_add", "devices"):
        spec[name] = service.pop(name, [])
    same = {"image", "command", "restart", "init", "read_only", "privileged", "tmpfs",
            "shm_size", "environment", "labels"}  # fmt: skip
    assert set(service) == same
    return {**spec, **service}


def of_volume(mount: dict[str, Any], volumes: dict[str, Any]) -> tuple[str, str, str, bool]:
    kind, source = mount["type"], mount["source"]
    if kind == "volume":
        source = volumes[source]["name"]
    else:
        # Docker's own `--mount` refuses a host path that is not there; compose makes it.
        assert mount["bind"] == {"create_host_path": False}
    return kind, source, mount["target"], mount.get("read_only", False)


# Tests


@EVERY
def test_the_compose_file_says_what_the_plan_says(made: Plan) -> None:
    assert of_compose(render(made, "compose")) == of_plan(made)


@EVERY
def test_the_script_says_what_the_plan_says(made: Plan) -> None:
    assert of_arguments(words(render(made, "run"))) == of_plan(made)


@EVERY
def test_script_and_compose_file_agree(made: Plan) -> None:
    script = of_arguments(words(render(made, "run")))
    compose = of_compose(render(made, "compose"))
    assert set(script) == set(compose)
    for name, value in script.items():
        assert compose[name] == value, name


@EVERY
def test_the_shell_accepts_the_script(made: Plan) -> None:
    script = render(made, "run")
    done = subprocess.run(
        ["sh", "-n"], input=script, text=True, capture_output=True, check=False, timeout=10
    )
    assert (done.returncode, done.stderr) == (0, "")


STAND_IN = """#!{python} -S
import json, os, sys
with open(os.environ["RECORD"], "w", encoding="utf-8", errors="surrogateescape") as file:
    json.dump(sys.argv[1:], file)
"""


@EVERY
def test_docker_gets_what_the_plan_says_when_the_script_runs(made: Plan, tmp_path: Path) -> None:
    stand_in = tmp_path / "bin" / "docker"
    stand_in.parent.mkdir()
    stand_in.write_text(STAND_IN.format(python=sys.executable), encoding="utf-8")
    stand_in.chmod(0o755)
    script = tmp_path / "run.sh"
    script.write_text(render(made, "run"), encoding="utf-8")
    work = tmp_path / "work"
    work.mkdir()
    environment = {
        "PATH": f"{stand_in.parent}:{os.environ['PATH']}",
        "RECORD": str(tmp_path / "record.json"),
        "PYTHONUTF8": "1",
        "HOME": "/somewhere/else",
        "X": "filled in",
    }
    subprocess.run(["sh", str(script)], env=environment, cwd=work, check=True, timeout=10)
    argv = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert of_arguments(argv) == of_plan(made)
    assert argv == words(render(made, "run"))
    assert list(work.iterdir()) == [], "a value was run as a command"


@EVERY
def test_rendering_is_a_pure_function_of_the_plan(made: Plan) -> None:
    for form in ("run", "compose"):
        assert render(made, form) == render(made, form)
    assert portable(made) == portable(made)


@EVERY
def test_renderings_end_in_one_newline_and_carry_no_blanks(made: Plan) -> None:
    for text in (render(made, "run"), render(made, "compose"), portable(made)):
        assert text.endswith("\n")
        assert not text.endswith("\n\n")
        assert "\t" not in text or made is PLANS["hostile"]
        if made is not PLANS["hostile"]:
            assert not [line for line in text.splitlines() if line != line.rstrip()]


@EVERY
def test_the_key_stands_in_no_rendering(made: Plan) -> None:
    for text in (render(made, "run"), render(made, "compose")):
        assert "VLLM_API_KEY" not in text
        assert "--api-key" not in text


def test_an_image_of_this_host_is_never_pulled() -> None:
    content = yaml.safe_load(render(PLANS["cpu"], "compose"))
    assert content["services"]["vllm"]["pull_policy"] == "never"


def test_a_template_that_names_an_unknown_value_fails() -> None:
    environment = rendering._environment()
    for source in ("{{ containr }}", "{% if ulimit %}x{% endif %}", "{{ image.nmae | yaml }}"):
        # An undefined value that meets the quoting filter first fails there, as a TypeError.
        with pytest.raises((UndefinedError, TypeError)):
            environment.from_string(source).render(image="x", ulimits=())


@pytest.mark.parametrize("form", ["run", "compose"])
def test_a_plan_that_lacks_what_a_template_names_fails(form: str) -> None:
    template = rendering._environment().get_template(rendering.TEMPLATES[form])  # type: ignore[index]
    with pytest.raises((UndefinedError, TypeError)):
        template.render(name="x")


# Portable compose files


@EVERY
def test_a_portable_file_with_its_variables_is_the_same_container(made: Plan) -> None:
    expected = of_plan(made)
    found = of_compose(
        portable(made),
        IMAGE=made.container.image,
        MODEL_DIR=made.model.host_path,
        PORT=str(made.container.ports[0].host) if made.container.ports else "unused",
    )
    # The plan is not known before compose fills the variables in.
    labels = found.pop("labels")
    assert labels.pop("appliance.name") == made.container.name
    dies = [d.host for d in made.container.devices if d.host[12:].isdigit()]
    assert labels == ({"appliance.devices": ",".join(dies)} if dies else {})
    del expected["labels"]
    assert found == expected


def test_a_portable_file_of_the_small_model_needs_no_variable() -> None:
    made = PLANS["cpu"]
    found = of_compose(portable(made))
    assert found["image"] == made.container.image
    assert found["mounts"][0] == ("bind", "../models/tiny-omni", "/models/tiny-omni", True)
    assert found["ports"] == ["127.0.0.1:8000:8000"]


@pytest.mark.parametrize("name", ["atlas-a2", "hostile"])
def test_a_portable_file_of_other_models_asks_for_their_folder(name: str) -> None:
    text = portable(PLANS[name])
    with pytest.raises(AssertionError, match="MODEL_DIR must be set"):
        of_compose(text)
    # Nothing of the folder on the host that rendered it.
    assert PLANS[name].model.host_path not in text
    service = yaml.safe_load(text)["services"]["vllm"]
    assert service["pull_policy"] == "missing"
    assert service["image"].startswith("${IMAGE:-")
    assert "${PORT:-8000}" in service["ports"][0]


def test_the_compose_file_of_the_repository_is_a_fresh_rendering() -> None:
    made = make(Config(platform="cpu"), BARE, None)
    file = ROOT / "compose" / "cpu.yaml"
    assert file.read_text(encoding="utf-8") == portable(made), "run `make compose`"


@pytest.mark.parametrize("product", ["atlas-a2", "atlas-a3"])
def test_the_compose_files_for_ascend_are_fresh_and_want_three_variables(product: str) -> None:
    made = make(Config(product=product), read.snapshot(HOSTS / f"compose-{product}"), None)
    assert made.product == product
    text = (ROOT / "compose" / f"{product}.yaml").read_text(encoding="utf-8")
    assert text == portable(made), "run `make compose`"
    assert set(re.findall(r"\$\{(\w+)", text)) == {"IMAGE", "MODEL_DIR", "PORT"}
    # A driver that is not known may be too old for the release's own way of capturing graphs.
    assert '"cudagraph_mode\\":\\"FULL_DECODE_ONLY' in text
    # Nothing that one such host has and another may lack.
    assert "hccn" not in text
