"""One comparison: of a result with another one, or with published figures by their name."""

from __future__ import annotations

import dataclasses
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.catalog import references
from appliance.compare import accuracy, asked, bench
from appliance.compare.model import Comparison, Group, Row
from appliance.errors import ApplianceError
from appliance.results import files

if TYPE_CHECKING:
    from collections.abc import Iterable

    from appliance.results.model import BenchRun, Flaw, Result


def against(own: Result, reference: str) -> Comparison:
    """Compare a result with the catalog's figures of that name, or with a result's file.

    Raises result-invalid where there is neither, or where it is of another kind.
    """
    return compare(own, find(reference, own))


def find(reference: str, own: Result) -> Result:
    """Return what a result is to be compared with; raises result-invalid.

    That it is of another kind is told here, before anything is measured.
    """
    found = read(reference, own)
    _one_kind(own, found)
    return found


def read(reference: str, own: Result) -> Result:
    """Return the same, which may be of another kind; raises result-invalid.

    Names of the catalog go before files: `./guide` is the file.
    """
    if reference in references.names():
        return references.reference(reference, own.kind)
    if not Path(reference).exists():
        known = ", ".join(references.names())
        message = f"There is no file {reference}, and no published figures of that name."
        raise ApplianceError("result-invalid", message, f"Name a result's file, or: {known}.")
    return files.read(Path(reference))


def compare(own: Result, reference: Result) -> Comparison:
    """Compare two results of one kind; raises result-invalid where they are of two."""
    _one_kind(own, reference)
    if own.kind == "eval":
        scores = accuracy.compare(own, reference)
        groups: list[Group] = [scores.group]
        only = scores.only_own, scores.only_reference
    else:
        model = asked.other_model(own.system.model, reference.system.model)
        pairs, mine, theirs = bench.pairs(own.runs, reference.runs)
        groups = [bench.group(one, other, model) for one, other in pairs]
        only = _names(mine), _names(theirs)
    return Comparison(
        own.kind,
        own.name,
        reference.name,
        reference.source,
        tuple(_with_flaws(group, reference.flaws) for group in groups),
        (
            *asked.systems(own.system, reference.system),
            *(f"Of {own.name}: {flaw.text}" for flaw in own.flaws),
        ),
        tuple(flaw.text for flaw in reference.flaws),
        *only,
    )


def _one_kind(own: Result, reference: Result) -> None:
    if own.kind != reference.kind:
        raise ApplianceError(
            "result-invalid",
            f"{own.name} is a result of `{own.kind}`, and {reference.name} one of "
            f"`{reference.kind}`: they have nothing in common.",
        )


def _names(runs: Iterable[BenchRun]) -> tuple[str, ...]:
    return tuple(run.label for run in runs)


def _with_flaws(group: Group, flaws: Iterable[Flaw]) -> Group:
    """Put what is wrong with some of the figures beside them; what holds for all stands once."""
    rows = [
        dataclasses.replace(row, flaws=tuple(flaw.text for flaw in flaws if touches(flaw, row)))
        for row in group.rows
    ]
    return dataclasses.replace(group, rows=tuple(rows))


def touches(flaw: Flaw, row: Row) -> bool:
    """Tell whether a flaw is of this metric, or dataset, in particular."""
    names = (row.metric, row.metric.partition("/")[0])
    return any(
        pattern != "*" and fnmatchcase(name, pattern) for pattern in flaw.metrics for name in names
    )
