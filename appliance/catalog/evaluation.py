"""What `appliance eval` asks by default, and the datasets whose files it knows."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from appliance import yamlfile
from appliance.catalog.load import DATA

if TYPE_CHECKING:
    from collections.abc import Mapping

    from appliance.results.model import Modality

FORMS = ("parquet", "jsonl", "json")


@dataclass(frozen=True)
class Dataset:
    """A dataset of evalscope's.

    `hub` is its id on ModelScope. Of `splits` the first is asked, and the others are shown as
    examples. `media` says which of evalscope's extra_params put which media before the model.
    """

    hub: str
    subsets: tuple[str, ...]
    splits: tuple[str, ...]
    args: Mapping[str, Any] = field(default_factory=dict)
    media: Mapping[str, Modality] = field(default_factory=dict)
    forms: tuple[str, ...] = FORMS


@dataclass(frozen=True)
class Defaults:
    """What is asked where no flag says otherwise. `limit` is of each subset."""

    datasets: Mapping[str, Dataset]
    eval_type: str
    batch_size: int
    limit: int
    generation: Mapping[str, Any]
    request_seconds: float


@lru_cache
def defaults() -> Defaults:
    """Return the guide's evaluation."""
    content: Mapping[str, Any] = yamlfile.read(DATA / "evaluation.yaml")
    rows: Mapping[str, Mapping[str, Any]] = content["datasets"]
    datasets = {}
    for name, row in rows.items():
        lists = {key: tuple(value) for key, value in row.items() if isinstance(value, list)}
        datasets[name] = Dataset(**{**row, **lists})
    return Defaults(**{**content, "datasets": datasets})
