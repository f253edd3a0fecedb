"""Reading YAML: safely, with the C parser where there is one, and with YAML 1.2's booleans."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from pathlib import Path

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Loader(_Base):  # type: ignore[misc]
    """A safe loader for which `no`, `on` and `off` are words, as Docker's own keys use them."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in _Base.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF")
)


def parse(text: str) -> Any:
    """Parse one YAML document; raises `yaml.YAMLError`."""
    try:
        return yaml.load(text, Loader=Loader)  # noqa: S506 (derived from the safe loader)
    except ValueError as error:
        # What looks like a date or a number and is none, and text that is not Unicode.
        raise yaml.YAMLError(str(error)) from error


def read(path: Path) -> Any:
    """Parse the YAML document in a file; raises `OSError` and `yaml.YAMLError`."""
    return parse(path.read_text(encoding="utf-8"))
