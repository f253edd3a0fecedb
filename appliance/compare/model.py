"""What a comparison says: a verdict for each metric, and all that it rests on."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["better", "same", "worse", "not-comparable"]
VERDICTS: tuple[Verdict, ...] = ("better", "same", "worse", "not-comparable")
Good = Literal["higher", "lower"]
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """Where a value lies; `None` is an end that the samples do not bound.

    `confidence` is `None` where the width is an assumption and not measured.
    """

    low: float | None
    high: float | None
    confidence: float | None = CONFIDENCE


@dataclass(frozen=True)
class Row:
    """One metric on both sides.

    `difference` is of own minus reference, in `unit`; a share's unit is `share`, 0 to 1. `flaws`
    says what is wrong with the figures of this metric in particular.
    """

    metric: str
    title: str
    unit: str
    good: Good
    own: float | None
    reference: float | None
    verdict: Verdict
    reason: str
    difference: Interval | None = None
    flaws: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """Two runs that were compared, or the scores of two evaluations.

    `caveats` are differences that do not forbid the comparison but belong beside it.
    """

    own: str
    reference: str
    rows: tuple[Row, ...]
    caveats: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """One result compared with another.

    `caveats` and `flaws` hold for all groups; `only_own` and `only_reference` name the runs, or
    subsets of a dataset, that the other side does not have.
    """

    kind: Literal["bench", "eval"]
    own: str
    reference: str
    source: str | None
    groups: tuple[Group, ...]
    caveats: tuple[str, ...] = ()
    flaws: tuple[str, ...] = ()
    only_own: tuple[str, ...] = ()
    only_reference: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many metrics have each verdict."""
        found = Counter(row.verdict for group in self.groups for row in group.rows)
        return {verdict: found[verdict] for verdict in VERDICTS}

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as `--json` prints it."""
        return {**dataclasses.asdict(self), "counts": self.counts}
