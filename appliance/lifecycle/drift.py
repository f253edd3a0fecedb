"""What differs between the running container and the plan."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from appliance.plan import names

if TYPE_CHECKING:
    from appliance.engine.docker import ContainerState
    from appliance.plan.model import Plan


def differences(state: ContainerState, plan: Plan, image_id: str | None) -> list[str]:
    """Return a line for each thing that the plan would change; none means nothing to do.

    `image_id` is the id of the image that the plan names, `None` where it must be made anew.
    """
    found = []
    if image_id is None:
        found.append(f"image: {plan.image.name} must be built or pulled")
    elif state.image_id != image_id:
        found.append(f"image: {state.image_id[7:19]} -> {image_id[7:19]} ({plan.image.name})")
    labels = plan.container.labels()
    if state.labels.get(names.LABEL_HASH) == labels[names.LABEL_HASH]:
        return found
    try:
        old = json.loads(state.labels.get(names.LABEL_SPEC, ""))
    except ValueError:
        return [*found, "the container was not made by this appliance's plan"]
    new = json.loads(labels[names.LABEL_SPEC])
    # What the comparison is too coarse to see, such as another order, is a difference too.
    lines = _compare("", old, new) or ["the order of some options, or their repetitions"]
    return [*found, *lines]


def _compare(path: str, old: Any, new: Any) -> list[str]:
    if old == new:
        return []
    if path == "api_key_stamp":
        # The number says nothing to anybody.
        return ["the API key's file was written anew"] if old and new else []
    old, new = _keyed(old), _keyed(new)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        lines = []
        for key in sorted({*old, *new}):
            inner = f"{path}.{key}" if path else str(key)
            lines += _compare(inner, old.get(key), new.get(key))
        return lines
    return [f"{path}: {_text(old)} -> {_text(new)}"]


def _keyed(value: Any) -> Any:
    """Turn lists into mappings, so that one changed item shows and not the whole list."""
    if not isinstance(value, list):
        return value
    if value and all(isinstance(item, dict) and "target" in item for item in value):
        return {item["target"]: item for item in value}
    if value and all(isinstance(item, dict) and "host_ip" in item for item in value):
        return {str(item["container"]): f"{item['host_ip']}:{item['host']}" for item in value}
    if value and all(isinstance(item, list) and len(item) == 2 for item in value):  # noqa: PLR2004
        return {item[0]: item[1] for item in value}
    if all(isinstance(item, str) for item in value):
        return _options(value)
    return value


def _options(words: Sequence[str]) -> Any:
    """Return a command's options with their values; other lists of words as they are."""
    if not any(word.startswith("--") for word in words):
        return " ".join(words)
    table: dict[str, list[str]] = {}
    name = "command"
    for word in words:
        if word.startswith("--"):
            name = word
            table[name] = []
        else:
            table.setdefault(name, []).append(word)
    return {name: " ".join(values) for name, values in table.items()}


def _text(value: Any) -> str:
    return "(not set)" if value is None else str(value)
