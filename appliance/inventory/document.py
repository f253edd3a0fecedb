"""Reads a JSON document of the host that a plan may rest on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def read(path: Path) -> Mapping[str, Any] | None:
    """Return the object that the file holds, or `None` where there is no such thing.

    Whether a model folder is whole is for its verification to say, later and in full.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # The last where it is nested too deeply.
        return None
    return content if isinstance(content, dict) else None
