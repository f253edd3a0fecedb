"""Datasets in a folder of the operator's: which file is which, told before anything starts."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import yaml

from appliance import yamlfile
from appliance.errors import ApplianceError
from appliance.weights.verify import require_readable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from appliance.catalog.evaluation import Dataset

_SHARD = re.compile(r"-\d+-of-(\d+)$")
# BIG-Bench Hard's authors publish an object with a canary and the questions under this name.
_FIELD = "examples"
_HEAD_BYTES = 1 << 16
_LISTED = 5


def layouts(
    folder: Path, datasets: Mapping[str, Sequence[str]], known: Mapping[str, Dataset]
) -> dict[str, dict[str, Any]]:
    """Return, for each dataset, the files that it is made of, relative to its own folder.

    `datasets` has the subsets that are asked of each. Raises dataset-missing, which says what
    is missing and in which form it is looked for.
    """
    if not folder.is_dir():
        raise ApplianceError("dataset-missing", f"{folder} is not a folder that exists.")
    return {
        name: _layout(folder / name, name, subsets, known.get(name))
        for name, subsets in datasets.items()
    }


def fingerprint(folder: Path, datasets: Sequence[str]) -> list[Any]:
    """Return what changes when the files of datasets do: names, sizes, times of change."""
    files = sorted(file for name in datasets for file in (folder / name).rglob("*"))
    return [
        [str(file.relative_to(folder)), file.stat().st_size, file.stat().st_mtime_ns]
        for file in files
        if file.is_file()
    ]


def _layout(
    folder: Path, name: str, subsets: Sequence[str], known: Dataset | None
) -> dict[str, Any]:
    if not folder.is_dir():
        raise ApplianceError(
            "dataset-missing",
            f"There is no folder {folder} for the dataset {name}.{_forms(name, known)}",
        )
    try:
        require_readable(folder)
    except ApplianceError as error:
        raise ApplianceError("dataset-missing", error.message, error.remedy) from error
    if known is None:
        return {"as_is": True}
    missing, configs = [], []
    for subset in subsets:
        splits = {split: _files(folder, subset, split, known) for split in known.splits}
        missing += [f"{subset} {split}" for split, files in splits.items() if not files]
        field = _field(folder / splits[known.splits[0]][0]) if all(splits.values()) else None
        configs.append({"name": subset, "splits": splits, "field": field})
    if not missing:
        return {"configs": configs}
    if _described(folder):
        return {"as_is": True}
    listed = ", ".join(missing[:_LISTED]) + (" …" if len(missing) > _LISTED else "")
    raise ApplianceError(
        "dataset-missing",
        f"{folder} has no files of {len(missing)} of the parts that {name} needs: {listed}."
        f"{_forms(name, known)}",
    )


def _files(folder: Path, subset: str, split: str, known: Dataset) -> list[str]:
    """Return the files of one split, all its shards, in the first form that is there."""
    for stem in _stems(subset, split, known):
        for form in known.forms:
            single = folder / f"{stem}.{form}"
            if single.is_file():
                return [f"{stem}.{form}"]
            shards = sorted(folder.glob(f"{stem}-*-of-*.{form}"))
            count = _SHARD.search(shards[0].stem) if shards else None
            if count and len(shards) == int(count[1]):
                return [file.relative_to(folder).as_posix() for file in shards]
    return []


def _stems(subset: str, split: str, known: Dataset) -> Iterator[str]:
    """Yield where a split may be: as hubs have it, and as those who made the dataset do."""
    for top in ("", "data/", "bbh/"):
        yield f"{top}{subset}/{split}"
        yield f"{top}{subset}_{split}"
        if len(known.splits) == 1:
            yield f"{top}{subset}"
        if len(known.subsets) == 1:
            yield f"{top}{split}"


def _field(file: Path) -> str | None:
    """Return under which name a JSON file has its rows, `None` where it is a list of them."""
    if file.suffix != ".json":
        return None
    with file.open("rb") as stream:
        head = stream.read(_HEAD_BYTES).decode("utf-8", errors="replace").lstrip()
    return _FIELD if head.startswith("{") and json.dumps(_FIELD) in head else None


def _described(folder: Path) -> bool:
    """Tell whether the folder is a copy of a hub's, whose README says what is what."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
        head = text.split("---", 2)[1] if text.startswith("---") else ""
        described = yaml.load(head, Loader=yamlfile.Loader)  # noqa: S506 (a safe loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    return isinstance(described, dict) and bool(described.get("configs"))


def _forms(name: str, known: Dataset | None) -> str:
    """Say in words what is looked for."""
    if known is None:
        return ""
    subset = known.subsets[0] if len(known.subsets) == 1 else "SUBSET"
    forms = known.forms[0] if len(known.forms) == 1 else f"{{{','.join(known.forms)}}}"
    stems = [f"{subset}/{split}.{forms}" for split in known.splits]
    if len(known.splits) == 1:
        stems.append(f"{subset}.{forms}")
    if len(known.subsets) == 1:
        stems += [f"data/{split}-*-of-*.{forms}" for split in known.splits]
    return (
        f"\n  Looked for: {', '.join(stems)}; or a copy of the hub's folder with its README.md:"
        f"\n  modelscope download --dataset {known.hub} --local_dir DIR/{name}"
    )
