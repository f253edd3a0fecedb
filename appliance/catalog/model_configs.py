"""Configurations of known models: their `config.json`."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from appliance import paths
from appliance.catalog.load import DATA

if TYPE_CHECKING:
    from collections.abc import Mapping


@lru_cache
def config(model_id: str) -> Mapping[str, Any] | None:
    """Return the `config.json` of a known model by its hub id, or `None` of one not known."""
    name = model_id.rpartition("/")[2]
    candidates = [DATA / "model_configs" / f"{name}.json"]
    if models := paths.models():
        candidates.append(models / name / "config.json")  # One that ships with the launcher.
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        return None
    content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
