"""Layers of configuration: defaults, then appliance.yaml, then APPLIANCE_*, then flags."""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.config.model import Config
from appliance.errors import ApplianceError
from appliance.paths import INSIDE_IMAGE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

DEFAULT_FILE = "appliance.yaml"
# Beside the configuration file.
LOCK_FILE = "images.lock.yaml"
PREFIX = "APPLIANCE_"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
# The names that Docker knows (docs.docker.com, `docker run --ulimit`).
_ULIMITS = (
    "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc",
    "rss", "rtprio", "rttime", "sigpending", "stack",
)  # fmt: skip
# Variables of the launcher itself, which are no configuration keys.
RESERVED = frozenset({"APPLIANCE_DEBUG", "APPLIANCE_CONFIG", INSIDE_IMAGE})


@dataclass(frozen=True)
class Key:
    """One configuration key: its dotted name, default, and what the schema says of it."""

    name: str
    default: Any
    field: dataclasses.Field[Any]

    @property
    def variable(self) -> str:
        """The name of its environment variable."""
        return PREFIX + self.name.upper().replace(".", "_")


@dataclass(frozen=True)
class Loaded:
    """A validated configuration and, for each key that was set, where its value comes from.

    `lock_file` is where the lock file of images is, or would be.
    """

    config: Config
    origins: Mapping[str, str]
    lock_file: Path = Path(LOCK_FILE)

    def value(self, name: str) -> Any:
        """Return the effective value of a dotted key."""
        value: Any = self.config
        for part in name.split("."):
            value = getattr(value, part)
        return value


def keys(cls: Any = Config, prefix: str = "") -> Iterator[Key]:
    """Yield every configuration key, in the order of the model."""
    for field in dataclasses.fields(cls):
        if section := _section(field):
            yield from keys(section, f"{prefix}{field.name}.")
            continue
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        yield Key(prefix + field.name, default, field)


def _section(field: dataclasses.Field[Any]) -> Any:
    """Return the class of a section of keys, or `None` for a field that is a key."""
    factory: Any = field.default_factory
    return factory if dataclasses.is_dataclass(factory) else None


def load(
    file: Path | None, environment: Mapping[str, str], overrides: Sequence[str] = ()
) -> Loaded:
    """Read all layers and validate the result.

    `file` is the path that the operator named; without one, `appliance.yaml` in the current
    folder is read if it exists, and beside it the lock file of images. `overrides` are
    `KEY=VALUE` with dotted keys. Raises `ApplianceError` (config-invalid, config-unknown-key).
    """
    layers: dict[str, tuple[Any, str]] = {}
    path = _path(file, environment)
    lock = path.parent / LOCK_FILE if path else Path(LOCK_FILE)
    # A link to nothing too: whoever locked images must not find them unlocked.
    locked = _from_lock(lock) if os.path.lexists(lock) else {}
    layers.update(locked)
    if path:
        layers.update(_from_file(path))
        _keep_locked(layers, locked)
    if any(name.startswith(PREFIX) for name in environment):
        layers.update(_from_environment(environment))
    if overrides:
        layers.update(_from_flags(overrides))
    if not layers:
        return Loaded(Config(), {}, lock)
    origins = {name: origin for name, (_, origin) in layers.items()}
    return Loaded(_validate(layers), origins, lock)


def _keep_locked(layers: dict[str, tuple[Any, str]], locked: Mapping[str, tuple[Any, str]]) -> None:
    """Let a digest in the file stand over that of the same image, and unlock no other."""
    name = "image.digests"
    if name not in locked or not isinstance(layers[name][0], dict):
        return
    value, origin = layers[name]
    if origin != locked[name][1]:
        layers[name] = ({**locked[name][0], **value}, f"{origin} over {locked[name][1]}")


def _path(file: Path | None, environment: Mapping[str, str]) -> Path | None:
    named = file or (Path(value) if (value := environment.get("APPLIANCE_CONFIG")) else None)
    if named is not None:
        # Not `is_file`, which raises on a name that is too long or may not be looked at.
        if not os.path.isfile(named):  # noqa: PTH113
            raise ApplianceError("config-invalid", f"There is no configuration file {named}.")
        return named
    default = Path(DEFAULT_FILE)
    return default if default.is_file() else None


def _from_file(path: Path) -> dict[str, tuple[Any, str]]:
    import yaml

    from appliance import yamlfile

    try:
        content = yamlfile.read(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ApplianceError("config-invalid", f"{path} can't be read: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ApplianceError("config-invalid", f"{path} must be a mapping of keys to values.")
    return {name: (value, str(path)) for name, value in _flatten(content, Config, "", str(path))}


def _from_lock(path: Path) -> dict[str, tuple[Any, str]]:
    from appliance.config import lockfile

    digests = {name: entry.digest for name, entry in lockfile.read(path).items()}
    return {"image.digests": (digests, str(path))}


def _flatten(
    content: Mapping[Any, Any], cls: Any, prefix: str, origin: str
) -> Iterator[tuple[str, Any]]:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name, value in content.items():
        if name not in fields:
            raise _unknown(f"{prefix}{name}", origin)
        section = _section(fields[name])
        if section is None:
            yield f"{prefix}{name}", value
        elif isinstance(value, dict):
            yield from _flatten(value, section, f"{prefix}{name}.", origin)
        elif value is not None:
            raise ApplianceError(
                "config-invalid", f"{prefix}{name} in {origin} must be a section of keys."
            )


def _from_environment(environment: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    known = {key.variable: key.name for key in keys()}
    layer = {}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX) or variable in RESERVED:
            continue
        if variable not in known:
            raise _unknown(variable, "the environment", known)
        layer[known[variable]] = (_parse(text, variable), variable)
    return layer


def _from_flags(overrides: Sequence[str]) -> dict[str, tuple[Any, str]]:
    known = {key.name for key in keys()}
    layer = {}
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator:
            raise ApplianceError("config-invalid", f"--set {override}: expected KEY=VALUE.")
        if name not in known:
            raise _unknown(name, "a flag")
        layer[name] = (_parse(text, f"--set {name}"), "flag")
    return layer


def _parse(text: str, origin: str) -> Any:
    import yaml

    from appliance import yamlfile

    try:
        return yamlfile.parse(text)
    except yaml.YAMLError as error:
        raise ApplianceError("config-invalid", f"{origin}: {error}") from error


def _unknown(name: str, origin: str, known: Mapping[str, str] | None = None) -> ApplianceError:
    import difflib

    candidates = list(known) if known is not None else [key.name for key in keys()]
    # The same word in another section is nearer than any other word.
    leaf = name.rpartition(".")[2]
    near = [candidate for candidate in candidates if candidate.endswith(f".{leaf}")]
    if known is None and name in candidates:
        section, _, key = name.rpartition(".")
        hint = f" Write it as a section: `{section}: {{{key}: …}}`."
        return ApplianceError("config-unknown-key", f"{name} (from {origin}) is not a key.{hint}")
    near = near or difflib.get_close_matches(name, candidates, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]}?" if near else ""
    return ApplianceError("config-unknown-key", f"{name} (from {origin}) is not a key.{hint}")


def _validate(layers: Mapping[str, tuple[Any, str]]) -> Config:
    import reprlib

    from pydantic import TypeAdapter, ValidationError

    shown = reprlib.Repr()
    shown.maxstring = shown.maxother = 100
    nested: dict[str, Any] = {}
    for name, (value, _) in layers.items():
        section, _, leaf = name.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[leaf] = value
    try:
        config: Config = TypeAdapter(Config).validate_python(nested)
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False):
            where = ".".join(str(part) for part in problem["loc"])
            origin = next((o for n, (_, o) in layers.items() if where.startswith(n)), "?")
            got = shown.repr(problem["input"])
            lines.append(f"{where} (from {origin}): {problem['msg']}; got {got}{_hint(problem)}")
        raise ApplianceError("config-invalid", "\n".join(lines)) from error
    _check_names(config)
    return config


def _hint(problem: Mapping[str, Any]) -> str:
    """Return how it is written, where the message alone does not tell."""
    if problem["type"] == "list_type":
        return ". A list is written as [0, 1]"
    if problem["type"] == "dict_type":
        return ". A mapping is written as {name: value}"
    key = next((key for key in keys() if key.name == ".".join(map(str, problem["loc"]))), None)
    if problem["type"] == "string_pattern_mismatch" and key is not None:
        return f". {key.field.metadata['description']}"
    return ""


def _check_names(config: Config) -> None:
    """Check what a type can't say: the names in mappings, and numbers inside lists."""
    box, limits = config.container, config.server.limit_mm_per_prompt or {}
    wrong = [
        f"container.environment: {n!r} is no name" for n in box.environment if not _NAME.match(n)
    ]
    wrong += [f"container.ulimits: {n!r} is no limit" for n in box.ulimits if n not in _ULIMITS]
    wrong += [f"server.limit_mm_per_prompt.{n}: {v} < 0" for n, v in limits.items() if v < 0]
    wrong += [
        f"image.digests: {d!r} of {n} is no digest such as sha256:…, 64 digits long"
        for n, d in config.image.digests.items()
        if not DIGEST.fullmatch(d)
    ]
    wrong += [f"npus: {number} < 0" for number in config.npus or () if number < 0]
    if wrong:
        raise ApplianceError("config-invalid", "\n".join(wrong))


def schema() -> dict[str, Any]:
    """Return the JSON schema of `appliance.yaml`."""
    from pydantic import TypeAdapter

    return TypeAdapter(Config).json_schema()
