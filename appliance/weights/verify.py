"""Says whether a model folder is complete.

Reads sizes and the headers of safetensors files, not the weights themselves, so that 60 GB
take well under a second.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from appliance.errors import ApplianceError
from appliance.weights import manifest as manifests

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from appliance.weights.manifest import Manifest

# A safetensors file is a little-endian 64-bit length, a JSON header of that length, and the
# tensors' bytes without gaps: https://github.com/huggingface/safetensors (README, "Format").
# Its reader refuses longer headers than this one (MAX_HEADER_SIZE in safetensors/src/tensor.rs).
HEADER_LIMIT = 100_000_000
_LENGTH_BYTES = 8

_SAFETENSORS_INDEX = "model.safetensors.index.json"
_TORCH_INDEX = "pytorch_model.bin.index.json"
_LISTED_PROBLEMS = 10
_HASH_BLOCK = 8 * 1024 * 1024

# modelscope's names for what it has not finished: NAME.incomplete (a single stream),
# NAME_START_END and NAME.parallel_tmp (parallel ranges), and, before its release 1.38, a folder.
_UNFINISHED = re.compile(r"(?P<target>.+?)(?:\.incomplete|\.parallel_tmp|(?<=\w)_\d+_\d+)")
_UNFINISHED_FOLDER = "._____temp"

_SERIES = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.(?P<end>\w+)")

# What reading a header that is some other JSON, or none, can raise.
_NOT_A_HEADER = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


@dataclass(frozen=True)
class ModelFolder:
    """A complete model folder: how many files it holds, and how many bytes they have."""

    path: Path
    files: int
    bytes: int


class _DamagedError(Exception):
    """What is wrong with one file, in words that follow its name."""


def verify(folder: Path, *, hashes: bool = False) -> ModelFolder:
    """Return what a complete model folder holds.

    Complete is: a `config.json`; weights, with every shard and tensor that their index names,
    and each safetensors file as long as its header says; and, in a folder that `fetch` made,
    every file that the hub listed, in its size. With `hashes`, also in its SHA-256, where the
    hub told it: that reads every byte.

    Raises ApplianceError `weights-missing` if the folder is absent, unreadable or no model,
    and `weights-incomplete`, which names the files that are missing, short or damaged. A folder
    with a list of files but no `config.json` yet is incomplete: a fetch was interrupted.
    """
    try:
        manifest = manifests.read(folder)
        if not (manifest and "config.json" in manifest.files):
            _require_model(folder)
        problems = _weight_problems(folder)
        if manifest:
            problems = _size_problems(folder, manifest) | problems
        for target, leftovers in unfinished(folder).items():
            if not (folder / target).exists():
                problems[target] = f"missing; {_unfinished_text(leftovers)}"
        if not problems and hashes and manifest:
            problems = _hash_problems(folder, manifest)
    except OSError as error:
        raise ApplianceError("weights-missing", f"{folder} can't be read: {error}") from error
    if problems:
        raise _incomplete(folder, problems)
    sizes = [path.stat().st_size for _, path in _files(folder)]
    return ModelFolder(folder, len(sizes), sum(sizes))


def require_readable(folder: Path) -> None:
    """Raise weights-unreadable where the container could not read the folder.

    Its root has no capabilities: it reads what root owns and what everybody may read. And it
    sees the folder alone: a link that leads out of it, as in a hub's cache, leads nowhere.
    """
    inside = folder.resolve()
    paths = [folder, *(Path(top, name) for top, names, _ in os.walk(folder) for name in names)]
    paths += [path for _, path in _files(folder)]
    for path in paths:
        if inside not in (path.resolve(), *path.resolve().parents):
            raise ApplianceError(
                "weights-unreadable",
                f"{path} is a link to {path.resolve()}, outside of the folder that is mounted.",
                f"Copy the files themselves: cp -rL {folder} OTHER, and name that folder.",
            )
        stat = path.stat()
        wanted = 0o5 if path.is_dir() else 0o4
        allowed = stat.st_mode >> 6 if stat.st_uid == 0 else stat.st_mode
        if allowed & wanted != wanted:
            raise ApplianceError(
                "weights-unreadable",
                f"{path} (owner {stat.st_uid}, mode {stat.st_mode & 0o777:o}) can't be read by "
                "the container's root, which has no capabilities.",
                f"chmod -R o+rX {folder}",
            )


def unfinished(folder: Path) -> dict[str, list[Path]]:
    """Return modelscope's unfinished downloads, by the relative path of what they become."""
    found: dict[str, list[Path]] = {}
    for name, path in _files(folder):
        parts = PurePosixPath(name).parts
        if parts[0] == _UNFINISHED_FOLDER:
            found.setdefault("/".join(parts[1:]), []).append(path)
        elif match := _UNFINISHED.fullmatch(name):
            found.setdefault(match["target"], []).append(path)
    return found


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the folder's files but for this program's own, with their relative paths."""
    for top, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(manifests.NAME)]
        for name in sorted(names):
            path = Path(top, name)
            if not name.startswith(manifests.NAME) and path.is_file():
                yield path.relative_to(folder).as_posix(), path


def _unfinished_text(leftovers: list[Path]) -> str:
    """Say what there is of a file that is being downloaded."""
    size = sum(path.stat().st_size for path in leftovers)
    more = f" and {len(leftovers) - 1} more" if len(leftovers) > 1 else ""
    return f"{leftovers[0].name}{more} is its unfinished download ({size} bytes)"


def _incomplete(folder: Path, problems: dict[str, str]) -> ApplianceError:
    """Make the one error that names all of the folder's problems."""
    listed = [f"{name}: {text}" for name, text in sorted(problems.items())[:_LISTED_PROBLEMS]]
    if len(problems) > _LISTED_PROBLEMS:
        listed.append(f"and {len(problems) - _LISTED_PROBLEMS} files more")
    return ApplianceError(
        "weights-incomplete", "\n  ".join([f"{folder} is not complete:", *listed])
    )


def _require_model(folder: Path) -> None:
    """Refuse what is not a model at all. Raises ApplianceError `weights-missing`."""
    if not folder.is_dir():
        raise ApplianceError("weights-missing", f"{folder} is not a folder that exists.")
    try:
        config = manifests.read_json(folder / "config.json")
    except FileNotFoundError as error:
        message = f"{folder} holds no config.json."
        if leftovers := [path.name for paths in unfinished(folder).values() for path in paths]:
            message += f" A download into it was interrupted ({leftovers[0]})."
        raise ApplianceError("weights-missing", message) from error
    except ValueError as error:
        message = f"{folder}/config.json is not JSON: {error}"
        raise ApplianceError("weights-missing", message) from error
    if not isinstance(config, dict):
        raise ApplianceError("weights-missing", f"{folder}/config.json is not a JSON object.")


def _size_problems(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Compare the folder with the list of what it must hold."""
    problems = {}
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            problems[name] = "missing"
        elif (size := path.stat().st_size) != entry.size:
            problems[name] = _short(size, entry.size)
    return problems


def _hash_problems(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Read every byte of what the hub told a SHA-256 for."""
    problems = {}
    for name, entry in manifest.files.items():
        digest = hashlib.sha256()
        with (folder / name).open("rb") as file:
            while block := file.read(_HASH_BLOCK):
                digest.update(block)
        if entry.sha256 and digest.hexdigest() != entry.sha256.lower():
            problems[name] = (
                "its bytes are not the hub's (SHA-256 differs); delete this file, and "
                "a fetch downloads it alone"
            )
    return problems


def _weight_problems(folder: Path) -> dict[str, str]:
    """Check the weights, by their index where there is one."""
    if (folder / _SAFETENSORS_INDEX).exists():
        return _index_problems(folder, _SAFETENSORS_INDEX)
    if shards := sorted(path.name for path in folder.glob("*.safetensors")):
        return _series_problems(shards) | _shard_problems(folder, dict.fromkeys(shards, ()))
    if (folder / _TORCH_INDEX).exists():
        return _index_problems(folder, _TORCH_INDEX)
    if shards := sorted(path.name for path in folder.glob("pytorch_model*.bin")):
        return _series_problems(shards) | _shard_problems(folder, dict.fromkeys(shards, ()))
    return {"model.safetensors": "missing, and there are no other weights"}


def _index_problems(folder: Path, index: str) -> dict[str, str]:
    """Check every shard that an index names, and that the shards hold the tensors it names."""
    try:
        content = manifests.read_json(folder / index)
        tensors: dict[str, list[str]] = {}
        for tensor, shard in content["weight_map"].items():
            if not isinstance(shard, str):
                raise TypeError(f"the shard of {tensor} is not a name")  # noqa: TRY301
            tensors.setdefault(shard, []).append(tensor)
        if not tensors:
            raise ValueError("it names no tensors")  # noqa: TRY301
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return {index: f"not an index of weights ({error})"}
    return _shard_problems(folder, tensors)


def _series_problems(names: list[str]) -> dict[str, str]:
    """Find the gaps in NAME-00001-of-00003, for shards that came without their index."""
    series = {
        match.group("stem", "count", "end") for match in map(_SERIES.fullmatch, names) if match
    }
    expected = {
        f"{stem}-{number:05}-of-{count}.{end}"
        for stem, count, end in series
        for number in range(1, int(count) + 1)
    }
    return dict.fromkeys(expected - set(names), "missing")


def _shard_problems(folder: Path, tensors: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Check shards, given the tensors that each of them must hold."""
    problems = {}
    for shard, names in tensors.items():
        if problem := _shard_problem(folder, shard, names):
            problems[shard] = problem
    return problems


def _shard_problem(folder: Path, shard: str, tensors: Iterable[str]) -> str | None:
    """Say what keeps a shard from being there, being whole and holding the tensors."""
    # An index comes with the model: it must not make this program look at other files.
    if PurePosixPath(shard).is_absolute() or ".." in PurePosixPath(shard).parts:
        return "not a path inside the folder"
    path = folder / shard
    if not path.is_file():
        return "missing"
    if path.suffix != ".safetensors":
        return None if path.stat().st_size else "empty"
    try:
        absent = sorted(set(tensors) - _read_header(path))
    except _DamagedError as error:
        return str(error)
    if absent:
        return f"lacks {len(absent)} tensors that the index names, as {absent[0]}"
    return None


def _read_header(path: Path) -> set[str]:
    """Return the names of a safetensors file's tensors. Raises _DamagedError if it is cut."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_LENGTH_BYTES)
        if len(start) < _LENGTH_BYTES:
            raise _DamagedError(f"{size} bytes there, which is less than any header")
        (length,) = struct.unpack("<Q", start)
        if length > HEADER_LIMIT:
            raise _DamagedError(
                f"claims a header of {length} bytes, and the format allows {HEADER_LIMIT}"
            )
        if size < _LENGTH_BYTES + length:
            raise _DamagedError(_short(size, _LENGTH_BYTES + length, "at least "))
        data = file.read(length)
    try:
        header: dict[str, Any] = json.loads(data)
        header.pop("__metadata__", None)
        ends = [int(tensor["data_offsets"][1]) for tensor in header.values()]
    except _NOT_A_HEADER as error:
        raise _DamagedError("its header is not that of a safetensors file") from error
    expected = _LENGTH_BYTES + length + max(ends, default=0)
    if size != expected:
        raise _DamagedError(_short(size, expected))
    return set(header)


def _short(there: int, expected: int, at_least: str = "") -> str:
    """Say that a file is not as long as it should be."""
    return f"{there} bytes there, {at_least}{expected} bytes expected"
