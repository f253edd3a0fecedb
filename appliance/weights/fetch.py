"""Fetches a model from ModelScope into a folder, and resumes a fetch that was interrupted.

The transfer is the work of `modelscope-hub`, the library that `modelscope` wraps since 1.38. As
read in its release 0.5.1 and tested against it: a file is written to NAME.incomplete; a second
run asks only for the bytes after those (`Range`), hashes the whole, and renames the file once
its SHA-256 is the one that the hub lists; files that are there already are hashed, not
downloaded. What it leaves to its caller is done here: the sum of the progress, the disk's
space, one fetch at a time, no network where nothing is missing, and a list to verify by.

`MODELSCOPE_ENDPOINT`, `MODELSCOPE_API_TOKEN` and the library's other variables apply, as do
`HTTPS_PROXY`, `NO_PROXY` and `REQUESTS_CA_BUNDLE` through requests.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import logging
import os
import re
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from appliance.errors import ApplianceError
from appliance.weights import manifest as manifests
from appliance.weights.manifest import Entry, Manifest
from appliance.weights.verify import ModelFolder, unfinished, verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from modelscope_hub import HubApi

_DEFAULT_REVISION = "master"  # the hub's default branch, which the library assumes too
_DEFAULT_ENDPOINT = "https://modelscope.cn"
_MODEL_ID = re.compile(r"[\w.\-]+/[\w.\-]+")

# The library allows a file an hour (MODELSCOPE_DOWNLOAD_TOTAL_TIMEOUT), which 4 GB miss on
# a slow link. Another round goes on where the last one ended, if that one gained anything.
_MAX_ROUNDS = 48
_PROGRESS_INTERVAL = 0.1  # seconds between two reports at least
_CAUSE_LENGTH = 600  # characters


@dataclass(frozen=True)
class Progress:
    """How far a fetch is, in bytes, and the file that the last of them belong to.

    `done_bytes` counts what was there at the start, and goes back if a file has to be
    fetched again.
    """

    done_bytes: int
    total_bytes: int
    file: str


class _RefusedError(Exception):
    """What is wrong with the model's id, or with what the hub says of it, in words."""


def fetch(
    model_id: str,
    folder: Path,
    *,
    revision: str | None,
    on_progress: Callable[[Progress], None] | None = None,
) -> ModelFolder:
    """Make `folder` a complete copy of a model on ModelScope, and return what it holds.

    `revision` is a branch, a tag or a commit; `None` is the hub's default branch. Where the
    folder is complete there is no network access; one that was not fetched by this
    function counts as complete, and as this model, if `verify` accepts it. `on_progress` is
    called from several threads, one at a time, about ten times a second, and must not raise.

    Raises ApplianceError `weights-fetch-failed` (with the model, the endpoint and the cause),
    `disk-full`, `busy` if another process is fetching into the folder, or what `verify` raises
    if the hub's files are no complete model.
    """
    wanted = revision or _DEFAULT_REVISION
    if complete := _complete(model_id, folder, wanted):
        return complete
    endpoint = _redacted(os.environ.get("MODELSCOPE_ENDPOINT") or _DEFAULT_ENDPOINT)
    try:
        target = folder.resolve()
        target.mkdir(parents=True, exist_ok=True)
        with _only_one(target):
            # Whoever held the lock until now may have fetched it.
            if not _complete(model_id, folder, wanted):
                with _quiet():
                    api, endpoint = _connect(model_id)
                    _download(api, model_id, target, wanted, on_progress)
    except ApplianceError:
        raise
    except Exception as error:  # the library's errors are an open set
        raise _failure(model_id, folder, endpoint, error) from error
    return verify(folder)


def _complete(model_id: str, folder: Path, revision: str) -> ModelFolder | None:
    """Return the folder if it needs nothing. Raises ApplianceError if it is another model's."""
    manifest = manifests.read(folder)
    if manifest and manifest.model_id != model_id:
        raise ApplianceError(
            "weights-fetch-failed",
            f"{folder} holds {manifest.model_id}: {model_id} is not fetched over it.",
            "Name another folder in `model.path`, or move this one away.",
        )
    if manifest and manifest.revision != revision:
        return None
    try:
        return verify(folder)
    except ApplianceError:
        return None


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the kernel lets go of when the process ends, however."""
    # Beside the folder, but for a mount point in a root that can't be written to.
    if os.access(folder.parent, os.W_OK):
        path = folder.parent / f".{folder.name}.lock"
    else:
        path = folder / f"{manifests.NAME}.lock"
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ApplianceError(
                "busy",
                f"Another process is fetching into {folder}.",
                "Wait for it to end: it leaves the folder complete, or to be resumed.",
            ) from error
        yield


def _download(
    api: HubApi,
    model_id: str,
    folder: Path,
    revision: str,
    on_progress: Callable[[Progress], None] | None,
) -> None:
    """List the model's files, check the space for them, and download what is missing."""
    listing = {
        file.path: Entry(file.size, file.sha256)
        for file in api.list_repo_files(model_id, "model", revision=revision)
        if not file.is_dir
    }
    _check_listing(listing)
    present = _present(folder, listing)
    _check_space(folder, listing, present)
    manifests.write(folder, Manifest(model_id, revision, listing))
    meter = _Meter(listing, present, on_progress)
    for attempt in range(_MAX_ROUNDS):
        try:
            _run_round(api, model_id, folder, revision, meter)
            break
        except Exception as error:
            before, present = present, _present(folder, listing)
            gained = sum(present.values()) > sum(before.values())
            if attempt + 1 == _MAX_ROUNDS or not (gained and _is_passing(error)):
                raise
    meter.finish()


def _run_round(api: HubApi, model_id: str, folder: Path, revision: str, meter: _Meter) -> None:
    """Have the library download all files that are not in the folder yet."""
    files = [
        {"Path": path, "Size": entry.size, "Sha256": entry.sha256}
        for path, entry in meter.listing.items()
    ]
    # The library's own locks would go to the user's home, which may not be writable. The
    # folder's lock does their work.
    locks = folder / f"{manifests.NAME}.locks"
    try:
        api.download_repo(
            model_id,
            "model",
            revision=revision,
            cache_dir=locks,
            local_dir=folder,
            file_list=files,
            # Typed as a list of classes; what the library does is to call them.
            progress_callbacks=[functools.partial(_FileMeter, meter)],  # type: ignore[list-item]
        )
    finally:
        shutil.rmtree(locks, ignore_errors=True)


def _connect(model_id: str) -> tuple[HubApi, str]:
    """Return the library's client for the site that has the model, and the site's address."""
    from modelscope_hub import HubApi, HubConfig, HubError, NetworkError

    if not _MODEL_ID.fullmatch(model_id):
        raise _RefusedError("a model's id is OWNER/NAME")
    config = HubConfig()  # not the library's default one, which keeps the first environment
    try:
        config = HubConfig(endpoint=HubApi(config=config).resolve_endpoint_for_read(model_id))
    except NetworkError:
        raise
    except HubError:
        pass  # no site says that it has the model: the listing will say why
    return HubApi(config=config), _redacted(config.endpoint or _DEFAULT_ENDPOINT)


def _check_listing(listing: dict[str, Entry]) -> None:
    """Refuse a listing that has nothing, or would have files written outside the folder."""
    if not listing:
        raise _RefusedError("the hub lists no files for it")
    for path in listing:
        parts = PurePosixPath(path).parts
        if (
            not parts
            or path.startswith("/")
            or ".." in parts
            or parts[0].startswith(manifests.NAME)
        ):
            raise _RefusedError(f"the hub lists a file with a path that is not accepted: {path!r}")


def _present(folder: Path, listing: dict[str, Entry]) -> dict[str, int]:
    """Return how many bytes of each file are in the folder, unfinished downloads included."""
    leftovers = unfinished(folder)
    present = {}
    for name, entry in listing.items():
        path = folder / name
        if path.is_file() and path.stat().st_size == entry.size:
            present[name] = entry.size
        else:
            partial = sum(leftover.stat().st_size for leftover in leftovers.get(name, []))
            present[name] = min(partial, entry.size)
    return present


def _check_space(folder: Path, listing: dict[str, Entry], present: dict[str, int]) -> None:
    """Raise ApplianceError `disk-full` if what is missing can't fit."""
    total = sum(entry.size for entry in listing.values())
    missing = total - sum(present.values())
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise ApplianceError(
            "disk-full",
            f"{folder} needs {_gigabytes(missing)} more for a model of {_gigabytes(total)}, and "
            f"{_gigabytes(free)} are free there.",
        )


def _gigabytes(size: int) -> str:
    """Write a number of bytes so that both people and programs can read it."""
    return f"{size / 1e9:.1f} GB ({size} bytes)"


class _Meter:
    """Adds up the bytes of all files, and reports them at a bounded rate."""

    def __init__(
        self,
        listing: dict[str, Entry],
        present: dict[str, int],
        report: Callable[[Progress], None] | None,
    ) -> None:
        self.listing = listing
        self._total = sum(entry.size for entry in listing.values())
        self._counts = dict(present)
        self._done = sum(present.values())
        self._report = report
        self._lock = threading.Lock()
        self._last = 0.0
        self.set("", 0, now=True)

    def set(self, file: str, count: int, *, now: bool = False) -> None:
        """Take note that `count` bytes of a file are there."""
        with self._lock:
            self._done += count - self._counts.get(file, 0)
            self._counts[file] = count
            clock = time.monotonic()
            if self._report and (now or clock - self._last >= _PROGRESS_INTERVAL):
                self._last = clock
                self._report(Progress(self._done, self._total, file))

    def finish(self) -> None:
        """Report that all is there."""
        for name, entry in self.listing.items():
            self._counts[name] = entry.size
        self._done = self._total
        self.set("", 0, now=True)


class _FileMeter:
    """What the library tells about one file; it makes one of these for each attempt at it.

    Not a subclass of the library's ProgressCallback, which is not there before the library
    is imported; the methods are the same.
    """

    def __init__(self, meter: _Meter, filename: str, file_size: int) -> None:
        del file_size
        self._meter = meter
        self._file = filename
        self._count = 0

    def update(self, size: int) -> None:
        """Add bytes. The first call of a resumed file has what was there; one may be negative."""
        self._count += size
        self._meter.set(self._file, self._count)

    def end(self) -> None:
        """Take note that there is no more to come, in this attempt."""
        self._meter.set(self._file, self._count, now=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's bars and log lines from mixing with this program's output.

    Its errors come as exceptions. Who sets MODELSCOPE_LOG_LEVEL gets its log, on stderr. There
    is no parameter for the bars: they go through the name `tqdm` of one of its modules.
    """
    import modelscope_hub._download

    module: Any = modelscope_hub._download  # noqa: SLF001
    logger = logging.getLogger("modelscope_hub")
    level, bar = logger.level, module.tqdm
    if not os.environ.get("MODELSCOPE_LOG_LEVEL"):
        logger.setLevel(logging.CRITICAL)
    module.tqdm = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        module.tqdm = bar
        logger.setLevel(level)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, those of single files that it stands for, and what caused each."""
    yield error
    for failed in getattr(error, "failed_files", {}).values():
        yield from _causes(failed)
    if error.__cause__:
        yield from _causes(error.__cause__)


def _is_passing(error: Exception) -> bool:
    """Tell whether each failed file failed by the network, or by the time for it being over."""
    from modelscope_hub import FileDownloadError, NetworkError

    return isinstance(error, FileDownloadError) and all(
        isinstance(failed, NetworkError) for failed in error.failed_files.values()
    )


def _failure(model_id: str, folder: Path, endpoint: str, error: Exception) -> ApplianceError:
    """Make this program's error of one of the library's."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return ApplianceError(
                "disk-full",
                f"The disk of {folder} became full while {model_id} was fetched into it.",
            )
    # The first failed file says more than the count of them.
    failed = dict(getattr(error, "failed_files", {}))
    file, cause = next(iter(failed.items()), ("", error))
    where = f"{file}: " if file else ""
    more = f" (and {len(failed) - 1} files more)" if len(failed) > 1 else ""
    return ApplianceError(
        "weights-fetch-failed",
        f"{model_id} could not be fetched from {endpoint}: {where}{_in_words(cause)}{more}",
    )


def _in_words(error: BaseException) -> str:
    """Return an error's kind and text in one line, with its cause if that says more."""
    if isinstance(error, _RefusedError):
        return str(error)
    if isinstance(error, TimeoutError):
        return "no answer in time"  # the library's own words for it are Chinese
    # The library's errors put a code before `message`, and the request's details after it.
    text = str(getattr(error, "message", error)).partition("\n")[0][:_CAUSE_LENGTH]
    kind = type(error).__name__.lstrip("_")
    words = f"{kind}: {text}" if text else kind
    cause = error.__cause__
    return words if cause is None or str(cause) in text else f"{words} ({_in_words(cause)})"


def _redacted(endpoint: str) -> str:
    """Return an address without the user and password that it may hold."""
    parts = urlsplit(endpoint)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
