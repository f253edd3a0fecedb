"""Result documents as files: read with every fault in words, written whole or not at all."""

from __future__ import annotations

import difflib
import errno
import json
import math
import os
import reprlib
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from appliance.errors import ApplianceError
from appliance.results import model
from appliance.results.model import SCHEMA, Result

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# What `bench` and `eval` call the document in a run's folder.
NAME = "result.json"
# A sweep of hundreds of runs with all their samples is some 100 MB; more is no result.
LARGEST_BYTES = 200_000_000
_FAULTS = 5
_FULL = {errno.ENOSPC, errno.EDQUOT}
# Which part of the document stands where, for the keys that are known there.
_PARTS: Mapping[tuple[str, ...], type[BaseModel]] = {
    (): Result,
    ("system",): model.System,
    ("system", "model"): model.Model,
    ("system", "parallel"): model.Parallel,
    ("runs",): model.BenchRun,
    ("runs", "parameters"): model.BenchParameters,
    ("evaluation",): model.EvalSettings,
    ("scores",): model.EvalScore,
    ("flaws",): model.Flaw,
}


def read(path: Path) -> Result:
    """Read a result document, or the one in a run's folder; raises result-invalid."""
    file = path / NAME if path.is_dir() else path
    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):
            # A pipe would be waited for, and a device may never end.
            raise _invalid(file, "it is no regular file")
        if found.st_size > LARGEST_BYTES:
            raise _invalid(file, "it is larger than any result")
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise _invalid(file, "there is no such file") from None
    except UnicodeDecodeError as error:
        raise _invalid(file, "it is not text in UTF-8") from error
    except OSError as error:
        raise _invalid(file, f"it can't be read: {error.strerror}") from error
    return parse(text, str(file))


def parse(text: str, origin: str) -> Result:
    """Return the result document in a text; raises result-invalid, which names the origin."""
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise _invalid(origin, f"it is not JSON ({where}: {error.msg})") from error
    except (RecursionError, ValueError) as error:
        # Nesting without end; a number of thousands of digits.
        raise _invalid(origin, f"it is not JSON that can be read: {error}") from error
    return checked(content, origin)


def checked(content: Any, origin: str) -> Result:
    """Return a parsed document as a result; raises result-invalid, which names the origin."""
    if not isinstance(content, dict):
        raise _invalid(origin, "it is not a JSON object")
    version = content.get("schema_version")
    if version is None:
        raise _invalid(origin, "it has no `schema_version`: it is no result of this program")
    if version != SCHEMA or isinstance(version, bool):
        raise _invalid(
            origin, f"its schema_version is {version!r:.40}, and this version reads {SCHEMA}"
        )
    try:
        return Result.model_validate(content)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        lines = [_fault(fault) for fault in faults[:_FAULTS]]
        if len(faults) > _FAULTS:
            lines.append(f"and {len(faults) - _FAULTS} more")
        raise _invalid(origin, "; ".join(lines)) from error
    except RecursionError as error:
        raise _invalid(origin, "it is nested too deep") from error


def _invalid(origin: Path | str, why: str) -> ApplianceError:
    return ApplianceError("result-invalid", f"{origin} is not a result: {why}.")


def _fault(fault: Any) -> str:
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        *names, key = fault["loc"]
        part = _PARTS.get(tuple(name for name in names if isinstance(name, str)))
        known = list(part.model_fields) if part is not None else []
        near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
        return f"the key {where:.200} is not known" + (f", {near[0]} is" if near else "")
    if fault["type"] == "missing":
        return f"the key {where} is missing"
    return f"{where:.200}: {fault['msg']}, but it is {reprlib.repr(fault['input'])}"


def write(result: Result, path: Path) -> None:
    """Write a result document whole or not at all; a file that is there is never replaced.

    Raises file-differs where there is another file of that name, and file-not-written or
    disk-full. What is no number (JSON has no NaN) is left out, and a note says so.
    """
    text = serialised(result)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        _placed(temporary, path)
        if path.read_bytes() != text.encode():
            message = f"{path} exists and holds another result."
            raise ApplianceError("file-differs", message, "Name another file.")
    except OSError as error:
        kind = "disk-full" if error.errno in _FULL else "file-not-written"
        raise ApplianceError(kind, f"{path} can't be written: {error.strerror}.") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _placed(temporary: Path, path: Path) -> None:
    """Give a finished file its name, where that is free."""
    try:
        # A link, unlike a rename, fails where the name is taken: no other result is lost to a
        # race either.
        path.hardlink_to(temporary)
    except FileExistsError:
        pass
    except OSError:
        # Not every file system has links.
        if not path.exists():
            temporary.replace(path)


def serialised(result: Result) -> str:
    """Return a result document as text, without what is no number."""
    document = finite(result).model_dump(mode="json")
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def finite(result: Result) -> Result:
    """Return a result without figures that are no numbers; its notes say which they were."""
    runs, notes = [], []
    for run in result.runs:
        metrics = {name: value for name, value in run.metrics.items() if math.isfinite(value)}
        samples = {
            name: [value for value in values if math.isfinite(value)]
            for name, values in run.samples.items()
        }
        lost = [name for name in run.metrics if name not in metrics]
        lost += [name for name, values in run.samples.items() if len(values) > len(samples[name])]
        if lost:
            notes.append(f"{run.label}: not a number, and left out: {', '.join(lost)}.")
        runs.append(run.model_copy(update={"metrics": metrics, "samples": samples}))
    scores = [score for score in result.scores if math.isfinite(score.score)]
    notes += [
        f"{score.dataset} {score.subset}: the score is not a number, and left out."
        for score in result.scores
        if not math.isfinite(score.score)
    ]
    changes = {"runs": runs, "scores": scores, "notes": [*result.notes, *notes]}
    return result.model_copy(update=changes)
