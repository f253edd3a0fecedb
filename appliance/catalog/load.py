"""Reads the catalog's files into typed values. Each file is read once, when first needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from appliance import yamlfile

if TYPE_CHECKING:
    from collections.abc import Mapping

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class LocalBase:
    """How to make a base image where no registry answers."""

    dockerfile: str
    image: str
    debian: str
    debian_suite: str


@dataclass(frozen=True)
class Platform:
    """What a kind of host needs, whatever the model and the product."""

    title: str
    model: str
    release: str
    tensor_parallel_size: int
    expert_parallel: bool
    base_image: str
    base_entrypoint: Literal["own", "cleared"]
    shm_size: str
    mirrors: tuple[str, ...] = ()
    # By operating system in the image: what ends the tag, after the product's suffix.
    os_suffixes: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    args: tuple[tuple[str, ...], ...] = ()
    local_base: LocalBase | None = None


@dataclass(frozen=True)
class ManagementDevice:
    """A device node that every NPU needs, and the host nodes that may stand for it."""

    container: str
    host: tuple[str, ...]
    required: bool = True


@dataclass(frozen=True)
class DriverPath:
    """A file or folder of the host's driver that the container needs, at its own path."""

    path: str
    required: bool
    # Ascend Docker Runtime mounts it by itself.
    injected: bool = False


@dataclass(frozen=True)
class Product:
    """An Ascend product: image flavour, device nodes and driver paths."""

    title: str
    image_suffix: str
    management_devices: tuple[ManagementDevice, ...]
    driver_paths: tuple[DriverPath, ...]
    # Who owns the device nodes where the host can't be asked.
    device_gid: int


@dataclass(frozen=True)
class Sampling:
    """How a model's makers, or its guide, have tokens chosen; `max_tokens` counts the answer's."""

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int


@dataclass(frozen=True)
class Model:
    """A model that the appliance knows."""

    platforms: tuple[str, ...]
    # Ascend products that vllm-ascend lists it for.
    products: tuple[str, ...] = ()
    max_model_len: int | None = None
    limit_mm_per_prompt: Mapping[str, int] = field(default_factory=dict)
    reasoning_parser: str | None = None
    weights_gib: float | None = None
    bundled: bool = False
    # What `appliance offline` samples with; the server takes vLLM's own defaults.
    sampling: Sampling | None = None


@dataclass(frozen=True)
class GraphMode:
    """What a release's own mode of capturing graphs needs of the driver, and what needs less.

    `feature` is an entry of drivers.yaml, `otherwise` a mode for drivers that are older.
    """

    feature: str
    otherwise: str


@dataclass(frozen=True)
class Release:
    """A release of vllm-ascend and the vLLM release of the same number.

    `additional_config_variables` are keys of `--additional-config` for which it has a variable
    instead. `refused_profiles` has the reason for each profile that does not work with it.
    """

    vllm: str
    cann: str
    torch_npu: str
    memory_utilization: float
    date: str
    python: str
    platforms: tuple[str, ...]
    no_media_domain: str
    environment: Mapping[str, str] = field(default_factory=dict)
    graph_mode: GraphMode | None = None
    additional_config_variables: Mapping[str, str] = field(default_factory=dict)
    refused_profiles: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Option:
    """An option of `vllm serve` that not every release has, and what to do without it.

    `since` and `gone` are versions of vLLM: the first that knows it, and the first that no
    longer does.
    """

    instead: str
    since: str | None = None
    gone: str | None = None


@dataclass(frozen=True)
class Profile:
    """Arguments that were measured together, and on what.

    `json_args` are options whose value is a JSON object. `models` are those that it is for.
    """

    title: str
    models: tuple[str, ...]
    tensor_parallel_size: int
    unquantized_tensor_parallel_size: int
    expert_parallel: bool
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    memory_utilization: float
    args: tuple[tuple[str, ...], ...]
    json_args: Mapping[str, Mapping[str, Any]]
    measured_on: Mapping[str, Any]


@lru_cache
def _file(name: str) -> Mapping[str, Mapping[str, Any]]:
    content: Mapping[str, Mapping[str, Any]] = yamlfile.read(DATA / f"{name}.yaml")
    return content


@lru_cache
def platforms() -> Mapping[str, Platform]:
    """Return the platforms by name."""
    table = {}
    for name, row in _file("platforms").items():
        values = dict(row)
        values["mirrors"] = tuple(row.get("mirrors", ()))
        values["args"] = tuple(tuple(group) for group in row.get("args", ()))
        local = row.get("local_base")
        values["local_base"] = LocalBase(**local) if local else None
        table[name] = Platform(**values)
    return table


@lru_cache
def products() -> Mapping[str, Product]:
    """Return the Ascend products by name."""
    table = {}
    for name, row in _file("products").items():
        values = dict(row)
        values["management_devices"] = tuple(
            ManagementDevice(**{**item, "host": tuple(item["host"])})
            for item in row["management_devices"]
        )
        values["driver_paths"] = tuple(DriverPath(**item) for item in row["driver_paths"])
        table[name] = Product(**values)
    return table


@lru_cache
def models() -> Mapping[str, Model]:
    """Return the known models by id."""
    table = {}
    for name, row in _file("models").items():
        values = {**row, "platforms": tuple(row["platforms"]), "products": tuple(row["products"])}
        sampling = row.get("sampling")
        values["sampling"] = Sampling(**sampling) if sampling else None
        table[name] = Model(**values)
    return table


def listed_products() -> tuple[str, ...]:
    """Return the names of the products that a known model is listed for."""
    return tuple(sorted({name for model in models().values() for name in model.products}))


@lru_cache
def releases() -> Mapping[str, Release]:
    """Return the known releases by tag."""
    table = {}
    for name, row in _file("releases").items():
        values = {**row, "date": str(row["date"]), "platforms": tuple(row["platforms"])}
        values["warnings"] = tuple(row.get("warnings", ()))
        graphs = row.get("graph_mode")
        values["graph_mode"] = GraphMode(**graphs) if graphs else None
        table[name] = Release(**values)
    return table


@lru_cache
def options() -> Mapping[str, Option]:
    """Return the options that not every release has, by their full name."""
    return {name: Option(**row) for name, row in _file("options").items()}


@lru_cache
def parser_options(vllm: str) -> frozenset[str]:
    """Return the names of all options of `vllm serve` of a release's vLLM."""
    text = (DATA / "parsers" / f"vllm-{vllm}.txt").read_text(encoding="utf-8")
    return frozenset(line for line in text.splitlines() if line.startswith("-"))


@lru_cache
def profiles() -> Mapping[str, Profile]:
    """Return the profiles by name; `default` is none of them."""
    table = {}
    for name, row in _file("profiles").items():
        values = {**row, "models": tuple(row["models"])}
        values["args"] = tuple(tuple(group) for group in row["args"])
        table[name] = Profile(**values)
    return table
