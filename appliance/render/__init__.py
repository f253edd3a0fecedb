"""Renderings of a plan, through the templates: pure functions that know only the plan."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from appliance import paths, templating
from appliance.plan import names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jinja2 import Environment

    from appliance.plan.model import Container, Mount, Plan, Port

_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
Form = Literal["run", "compose"]
TEMPLATES: dict[Form, str] = {"run": "run.sh.j2", "compose": "compose.yaml.j2"}


class Variable(str):
    """A value that compose fills in from its environment, such as `${PORT:-8000}`."""

    __slots__ = ()


def render(plan: Plan, form: Form) -> str:
    """Return the rendering of a plan as text."""
    # An image that is built here is on the host; a pull would find another one, or none.
    policy = "never" if plan.image.base and not paths.inside_image() else "missing"
    return _render(plan.container, form, plan.container.labels(), pull_policy=policy)


def portable(plan: Plan) -> str:
    """Return a compose file for any host of this kind.

    What belongs to one host is left to variables: IMAGE, MODEL_DIR and PORT. Such a file
    carries no plan label, since the values are not known before compose fills them in.
    """
    container, model = plan.container, plan.model
    needed = f":-../models/{model.id}" if model.source == "bundled" else ":?the model's folder"
    folder = Variable(f"${{MODEL_DIR{needed}}}")
    mounts = [
        dataclasses.replace(mount, source=folder) if mount.target == model.container_path else mount
        for mount in container.mounts
    ]
    ports = [
        Variable(f"{_address(port)}:${{PORT:-{port.host}}}:{port.container}")
        for port in container.ports
    ]
    image = Variable(f"${{IMAGE:-{container.image}}}")
    dies = [d.host for d in container.devices if names.NPU_NODE.match(d.host)]
    labels = {names.LABEL_NAME: container.name}
    if dies:
        labels[names.LABEL_DEVICES] = ",".join(dies)
    # `missing`: whoever has nothing but this file may pull the image.
    filled = {"image": image, "mounts": mounts, "ports": ports, "pull_policy": "missing"}
    return _render(container, "compose", labels, **filled)


def _render(container: Container, form: Form, labels: Mapping[str, str], **more: object) -> str:
    values = {field.name: getattr(container, field.name) for field in dataclasses.fields(container)}
    template = _environment().get_template(TEMPLATES[form])
    return template.render({**values, "labels": labels, **more})


@lru_cache
def _environment() -> Environment:
    # Shell and YAML, each with its own quoting filter.
    environment = templating.environment(autoescape=False)
    environment.filters["sh"] = shlex.quote
    environment.filters["grouped"] = _grouped
    environment.filters["yaml"] = _yaml
    environment.filters["mount"] = _mount
    environment.filters["publish"] = _publish
    return environment


def _yaml(value: Any) -> str:
    """Quote a value for a compose file: JSON is YAML; `$` starts a variable, so it is doubled.

    But for characters that JSON holds as they are, and that YAML refuses or folds away.
    """
    text = json.dumps(value, ensure_ascii=False)
    text = _NOT_IN_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    return text if isinstance(value, Variable) else text.replace("$", "$$")


def _grouped(command: Sequence[str]) -> list[str]:
    """Quote a command's words for the shell, an option and its values together."""
    groups: list[list[str]] = [[]]
    for word in command:
        if word.startswith("--"):
            groups.append([])
        groups[-1].append(shlex.quote(word))
    return [" ".join(group) for group in groups]


def _mount(mount: Mount) -> str:
    """Return the value of `--mount`; a field with a comma or a quote is quoted as CSV."""
    fields = [f"type={mount.type}", f"source={mount.source}", f"target={mount.target}"]
    if mount.read_only:
        fields.append("readonly")
    return ",".join(_csv(field) for field in fields)


def _csv(field: str) -> str:
    return '"' + field.replace('"', '""') + '"' if set(field) & set(',"\n') else field


def _publish(port: Port | Variable) -> str:
    if isinstance(port, Variable):
        return port
    return f"{_address(port)}:{port.host}:{port.container}"


def _address(port: Port) -> str:
    return f"[{port.host_ip}]" if ":" in port.host_ip else port.host_ip
