"""`appliance report`: results, and what they are compared with, as a page to send on."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from appliance.cli.options import Compare, Force, Json
from appliance.cli.run import document, guarded

if TYPE_CHECKING:
    from appliance.report.view import Material


class ReportForm(str, Enum):
    """What a report is written as."""

    html = "html"
    markdown = "markdown"
    json = "json"


Results = Annotated[
    list[Path],
    typer.Argument(metavar="RESULT...", help="Results of `bench` and `eval`, or their folders."),
]
Place = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--output",
        "-o",
        help="Where to write it; - is stdout [default: report.html beside the first result].",
    ),
]


@guarded
def report(
    results: Results,
    compare: Compare = None,
    output: Place = None,
    form: Annotated[ReportForm, typer.Option("--format", help="What to write.")] = ReportForm.html,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a report of results, with plots and comparisons; prints the file's name."""
    from appliance.report.make import SUFFIXES, make

    text = make(_material(results, compare or []), form.value)
    if output is not None and str(output) == "-":
        if as_json:
            document({"text": text})
        else:
            sys.stdout.write(text)
        return
    first = results[0]
    folder = first if first.is_dir() else first.parent
    file = output or folder / f"report{SUFFIXES[form.value]}"
    changed = _write(text, file, force=force)
    if as_json:
        document({"file": str(file), "changed": changed})
    else:
        print(file)


def _material(results: list[Path], references: list[str]) -> Material:
    """Read everything, and compare every result with every reference of its kind."""
    from appliance.compare.run import compare, read
    from appliance.report.view import Material
    from appliance.results import files

    own = [files.read(path) for path in results]
    found, comparisons = [], []
    for name in references:
        pairs = [(one, read(name, one)) for one in own]
        # Where none is of its kind, comparing the first says so.
        alike = [pair for pair in pairs if pair[0].kind == pair[1].kind] or pairs[:1]
        comparisons += [compare(one, other) for one, other in alike]
        found += [other for _, other in alike if other not in found]
    return Material(tuple(own), tuple(found), tuple(comparisons))


def _write(text: str, file: Path, *, force: bool) -> bool:
    """Write a report; what is there and differs stays, unless forced. Tell if it changed.

    The difference is not shown, as it is for a rendering: of two pages it is of no use.
    """
    from appliance.errors import ApplianceError

    try:
        old = file.read_bytes() if file.exists() else None
        if old == text.encode():
            return False
        if old is not None and not force:
            raise ApplianceError("file-differs", f"{file} exists and differs.")
        _replace(text, file)
    except OSError as error:
        raise ApplianceError("file-not-written", f"{file}: {error.strerror}.") from error
    return True


def _replace(text: str, file: Path) -> None:
    """Write a file whole or not at all: what was there stays until the new one is complete."""
    if file.exists() and not file.is_file():
        # Such as a terminal: it has no name to give away.
        file.write_text(text, encoding="utf-8")
        return
    file = file.resolve()
    temporary = file.with_name(f"{file.name}.{os.getpid()}.new")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(file)
    finally:
        with suppress(OSError):
            temporary.unlink()
