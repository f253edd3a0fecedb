"""The known failures of an engine: by which words in a log each is told, and what to do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

from appliance import yamlfile
from appliance.catalog.load import DATA

Phase = Literal["start", "load", "serve"]
# What a match says: why it failed; that it failed, of which the reason is mostly told nearby;
# that one request was refused; only that something else failed; something to know; or nothing
# bad, always or until the API answers.
Kind = Literal[
    "cause", "symptom", "request", "wrapper", "notice", "harmless", "harmless-while-starting"
]


@dataclass(frozen=True)
class Failure:
    """One known failure. `level` is the lowest level of a line that counts."""

    id: str
    match: tuple[str, ...]
    phase: Phase
    cause: str
    remedy: str
    sources: tuple[str, ...]
    kind: Kind = "cause"
    level: Literal["INFO", "WARNING", "ERROR"] = "ERROR"

    @cached_property
    def patterns(self) -> tuple[re.Pattern[str], ...]:
        """The signatures, compiled when first asked for."""
        return tuple(re.compile(text) for text in self.match)

    def search(self, text: str) -> re.Match[str] | None:
        """Return where a line has one of the signatures."""
        for pattern in self.patterns:
            if found := pattern.search(text):
                return found
        return None


@lru_cache
def failures() -> tuple[Failure, ...]:
    """Return the known failures. Of two that a line has, the earlier one says more."""
    table: dict[str, dict[str, Any]] = yamlfile.read(DATA / "failures.yaml")
    return tuple(
        Failure(
            id=name,
            **{
                **row,
                "match": tuple(row["match"]),
                "sources": tuple(row["sources"]),
                "cause": row["cause"].strip(),
                "remedy": row["remedy"].strip(),
            },
        )
        for name, row in table.items()
    )
