"""Reading YAML: safely, with the C parser where there is one, and with YAML 1.2's values.

YAML 1.1, which PyYAML reads, has more that is no text: `no` is false, `010` is 8, `1:30` is
90, `1_000` is 1000 and `2026-08-16` a date.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from pathlib import Path

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Loader(_Base):  # type: ignore[misc]
    """A safe loader for which `no`, `on`, `010` and `1:30` are words."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Refuse a key that stands twice: YAML would keep the last one, silently."""
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value} stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_VALUES = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    "float": (r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
}
_REPLACED = {f"tag:yaml.org,2002:{name}" for name in (*_VALUES, "timestamp")}
Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag not in _REPLACED]
    for first, resolvers in _Base.yaml_implicit_resolvers.items()
}
for _name, (_pattern, _first) in _VALUES.items():
    Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), list(_first)
    )


def parse(text: str) -> Any:
    """Parse one YAML document; raises `yaml.YAMLError`."""
    try:
        return yaml.load(text, Loader=Loader)  # noqa: S506 (derived from the safe loader)
    except (ValueError, RecursionError) as error:
        # Text that is not Unicode; nesting without end.
        raise yaml.YAMLError(str(error)) from error


def read(path: Path) -> Any:
    """Parse the YAML document in a file; raises `OSError` and `yaml.YAMLError`."""
    return parse(path.read_text(encoding="utf-8"))
