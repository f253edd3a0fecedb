"""The table of errors: what scripts rely on, and that it is complete and used."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from appliance.errors import ERRORS, ApplianceError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "appliance").rglob("*.py"))

# A literal copy: a script that reads an exit code must not be surprised. Codes are added at
# the end, and never change.
EXIT_CODES = {
    "usage": 2,
    "config-invalid": 64,
    "config-unknown-key": 65,
    "public-without-key": 66,
    "api-key-file": 67,
    "host-unsupported": 68,
    "npus-unavailable": 100,
    "memory-insufficient": 91,
    "devices-missing": 69,
    "engine-missing": 70,
    "engine-unreachable": 71,
    "image-unavailable": 72,
    "image-build-failed": 73,
    "weights-missing": 74,
    "weights-incomplete": 75,
    "weights-fetch-failed": 76,
    "weights-unreadable": 90,
    "disk-full": 77,
    "port-in-use": 78,
    "busy": 79,
    "container-died": 80,
    "not-ready": 81,
    "smoke-failed": 82,
    "container-start-failed": 83,
    "not-running": 84,
    "snapshot-invalid": 85,
    "not-a-checkout": 86,
    "file-differs": 87,
    "engine-failed": 88,
    "file-not-written": 89,
    "doctor-failed": 92,
    "image-digest-differs": 93,
    "result-invalid": 94,
    "job-failed": 95,
    "input-invalid": 96,
    "partly-failed": 97,
    "dataset-missing": 98,
    "engine-hung": 101,
    "engine-died": 102,
    "bug": 99,
    "interrupted": 130,
}


def test_ids_and_exit_codes_are_what_they_were() -> None:
    assert {name: kind.exit_code for name, kind in ERRORS.items()} == EXIT_CODES


def test_exit_codes_are_unique_and_can_be_told_from_success() -> None:
    codes = [kind.exit_code for kind in ERRORS.values()]
    assert len(set(codes)) == len(codes)
    # 1 is Python's own for anything at all, and 126 and 127 are the shell's.
    assert all(1 < code < 256 for code in codes)
    assert not {126, 127} & set(codes)


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_says_what_it_means_and_what_to_do(name: str) -> None:
    kind = ERRORS[name]
    assert name == name.lower()
    for text in (kind.meaning, kind.remedy):
        assert text[0].isupper() or text[0] == "`"
        assert text.endswith(".")


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_is_printed_with_all_that_a_program_needs(name: str) -> None:
    error = ApplianceError(name, "What happened.")
    assert str(error) == "What happened."
    assert error.as_dict() == {
        "error": {
            "id": name,
            "exit_code": EXIT_CODES[name],
            "message": "What happened.",
            "remedy": ERRORS[name].remedy,
        }
    }
    assert ApplianceError(name, "x", "Do this.").remedy == "Do this."


def test_an_id_that_is_not_in_the_table_can_not_be_raised() -> None:
    with pytest.raises(KeyError):
        ApplianceError("no-such-error", "x")


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in SOURCES:
        yield path, ast.parse(path.read_text(encoding="utf-8"), str(path))


def texts(node: ast.expr | None) -> Iterator[str]:
    """The texts that an expression can be: one, or either of two."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from texts(node.body)
        yield from texts(node.orelse)


def raised() -> Iterator[tuple[str, str]]:
    """Every id that the source hands to `ApplianceError`, or to a runner of commands."""
    for path, tree in trees():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            found = [keyword.value for keyword in node.keywords if keyword.arg == "error"]
            if name == "ApplianceError":
                found.append(node.args[0])
            elif name == "_run" and len(node.args) > 2:  # Builder._run(command, error, what)
                found.append(node.args[1])
            for value in found:
                for text in texts(value):
                    yield text, f"{path.relative_to(ROOT)}:{node.lineno}"


def test_every_id_that_is_raised_is_in_the_table() -> None:
    found = list(raised())
    assert len(found) > 40, "the source is not read rightly any more"
    assert [(name, where) for name, where in found if name not in ERRORS] == []


def test_every_id_of_the_table_is_used() -> None:
    # Some ids reach `ApplianceError` through a variable, so every text of the source counts.
    written = {
        node.value
        for path, tree in trees()
        if path.name != "errors.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    # What the command line itself makes of Ctrl-C, of a bug and of a wrong word.
    assert set(ERRORS) - written <= {"usage", "bug", "interrupted"}
