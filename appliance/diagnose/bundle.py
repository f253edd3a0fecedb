"""Writes what others need to help: one archive, without secrets and without what users sent.

Each part is made on its own. One that can't be made is replaced by a file that says why, since
a host on which nothing works is what an archive is asked of.
"""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import platform
import subprocess
import tarfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from appliance.diagnose.redact import Redactor, is_secret
from appliance.errors import ApplianceError
from appliance.plan import names

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.config.load import Loaded
    from appliance.diagnose.run import Diagnosis

MODE = 0o600
COMPOSE_SECONDS = 10
# Of a finding's line, which may be a whole log without an end of line.
LINE_CHARS = 4000
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
NOTE = (
    "Secrets, prompts and answers were taken out where they could be told. IP addresses, names of "
    "hosts, paths and names of models were left in: look through the files before you send them."
)


@dataclass(frozen=True)
class Written:
    """What was written: the archive, its files, the parts that could not be made, and counts."""

    file: str
    files: tuple[str, ...]
    failed: Mapping[str, str]
    redacted: Mapping[str, int]


class _Absent(Exception):  # noqa: N818 (no error: there is nothing to take along)
    """There is no such part, which is nothing to tell of."""


def write(
    file: Path, name: str, loaded: Loaded | ApplianceError, diagnosis: Diagnosis, *, force: bool
) -> Written:
    """Write the archive of the appliance `name`; raises file-differs and file-not-written."""
    made, failed = _make(_parts(name, loaded, diagnosis))
    redactor = _redactor(loaded, made.get("container-inspect"))
    # The first time tells what is secret, the second hides it wherever else it stands.
    for part in made.values():
        redactor.document(part)
    redactor.counts.clear()
    files = {_file_name(part, value): _written(redactor, value) for part, value in made.items()}
    failed = {part: redactor.text(why) for part, why in failed.items()}
    files.update({f"{part}.error.txt": f"{why}\n" for part, why in failed.items()})
    redacted = {kind: count for kind, count in sorted(redactor.counts.items()) if count}
    sizes = {path: len(text.encode(errors="replace")) for path, text in files.items()}
    manifest = {"note": NOTE, "files": sizes, "failed": failed, "redacted": redacted}
    files["MANIFEST.json"] = _json(manifest)
    _pack(file, f"appliance-{name}", files, force=force)
    return Written(str(file), tuple(files), failed, redacted)


def refuse_existing(file: Path, *, force: bool) -> None:
    """Refuse to overwrite a file that was not said to be overwritten; raises file-differs."""
    try:
        exists = os.path.lexists(file)
    except ValueError as error:  # A name that no file can have.
        raise ApplianceError("file-not-written", f"{file}: {error}.") from error
    if exists and not force:
        raise ApplianceError(
            "file-differs",
            f"{file} exists.",
            "Name another file, or overwrite it with `--force`.",
        )


def _parts(
    name: str, loaded: Loaded | ApplianceError, diagnosis: Diagnosis
) -> dict[str, Callable[[], Any]]:
    """Return how each part is made."""
    return {
        "findings": lambda: _findings(diagnosis),
        "container": lambda: _log(diagnosis),
        "previous": lambda: _previous(name, diagnosis),
        "evidence": lambda: _evidence(name),
        "config": lambda: _config(_config_of(loaded)),
        "inventory": lambda: _inventory(_config_of(loaded)),
        "plan": lambda: _plan(_config_of(loaded)),
        "doctor": lambda: _doctor(_config_of(loaded)),
        "container-inspect": lambda: _inspect(name),
        "versions": lambda: _versions(name),
    }


def _make(parts: Mapping[str, Callable[[], Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    made: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for part, make in parts.items():
        try:
            # To JSON and back: then nothing is hidden in values of other kinds.
            made[part] = json.loads(json.dumps(make(), default=_json_value))
        except _Absent:
            continue
        except ApplianceError as error:
            failed[part] = f"[{error.id}] {error.message}"
        except Exception as error:  # noqa: BLE001 (whatever it is, the other parts are wanted)
            failed[part] = f"{type(error).__name__}: {error}"
    return made, failed


def _redactor(loaded: Loaded | ApplianceError, inspected: Any) -> Redactor:
    """Return one that knows the API key and the secrets among this process's own variables."""
    redactor = Redactor()
    for variable, value in os.environ.items():
        if is_secret(variable):
            redactor.learn(value)
    paths = [
        mount.get("Source") for mount in (inspected or {}).get("Mounts") or () if _hides(mount)
    ]
    with suppress(ApplianceError):
        from appliance.deployment import absolute

        paths.append(absolute(_config_of(loaded).config).server.api_key_file)
    for path in filter(None, paths):
        # Not `read_key`, which refuses a file that the container would refuse.
        with suppress(OSError, UnicodeDecodeError):
            redactor.learn(Path(path).read_text(encoding="utf-8"), certain=True)
    return redactor


def _hides(mount: Mapping[str, Any]) -> bool:
    """Tell whether a container's mount is of a secret."""
    return str(mount.get("Destination", "")).startswith(f"{PurePath(names.API_KEY_FILE).parent}/")


def _config_of(loaded: Loaded | ApplianceError) -> Loaded:
    if isinstance(loaded, ApplianceError):
        raise loaded
    return loaded


def _findings(diagnosis: Diagnosis) -> Any:
    if diagnosis.error is not None:
        raise diagnosis.error
    # Whole lines: half a secret would not be known for one.
    found = [{**found.as_dict(), "line": found.line} for found in diagnosis.findings]
    return {"log": diagnosis.title, "lines": diagnosis.lines, "findings": found}


def _log(diagnosis: Diagnosis) -> str:
    if diagnosis.error is not None:
        raise diagnosis.error
    return diagnosis.log


def _previous(name: str, diagnosis: Diagnosis) -> str:
    from appliance.lifecycle import state

    path = state.folder(name) / "previous.log"
    if not path.is_file() or str(path) in diagnosis.title:
        raise _Absent
    return path.read_text(encoding="utf-8", errors="replace")


def _evidence(name: str) -> str:
    """Return what the supervisor kept of engines that it had to end."""
    from appliance.engine import docker
    from appliance.lifecycle import supervised

    engine = docker.connect()
    found = engine.container(name)
    kept = supervised.evidence(engine, found) if found is not None else ""
    if not kept:
        raise _Absent
    return kept


def _config(loaded: Loaded) -> Any:
    from appliance.config.load import keys

    return {
        "values": {key.name: loaded.value(key.name) for key in keys()},
        "origins": dict(loaded.origins),
    }


def _inventory(loaded: Loaded) -> Any:
    from appliance.deployment import absolute, take

    return dataclasses.asdict(take(absolute(loaded.config)))


def _plan(loaded: Loaded) -> Any:
    from appliance.deployment import prepare

    return prepare(loaded.config).plan.as_dict()


def _doctor(loaded: Loaded) -> Any:
    from appliance.doctor.run import host

    return host(loaded.config).as_dict()


def _inspect(name: str) -> Any:
    from appliance.engine import docker

    found = docker.connect().inspect(name)
    if found is None:
        raise ApplianceError("not-running", f"There is no container {name}.")
    return dict(found)


def _versions(name: str) -> Any:
    from appliance.version import __version__

    kernel = platform.uname()
    made, failed = _make(
        {
            "os": platform.freedesktop_os_release,
            "docker": _docker_version,
            "compose": _compose_version,
            "image": lambda: _image(name),
        }
    )
    return {
        "appliance": __version__,
        "python": platform.python_version(),
        "kernel": {"release": kernel.release, "machine": kernel.machine},
        **made,
        **{part: {"error": why} for part, why in failed.items()},
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _docker_version() -> Any:
    from appliance.engine import docker

    return dict(docker.connect().version())


def _compose_version() -> str:
    done = subprocess.run(
        ["docker", "compose", "version", "--short"],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=COMPOSE_SECONDS,
    )
    return (done.stdout or done.stderr).strip()


def _image(name: str) -> Any:
    from appliance.engine import docker

    engine = docker.connect()
    found = engine.container(name)
    image = engine.image(found.image_id) if found else None
    return dataclasses.asdict(image) if image else None


def _file_name(part: str, value: Any) -> str:
    return f"{part}.log" if isinstance(value, str) else f"{part}.json"


def _written(redactor: Redactor, value: Any) -> str:
    """Return a part as it is to be sent: a text is a log, everything else a document."""
    if isinstance(value, str):
        return redactor.log(value)
    shown = redactor.document(value)
    for found in shown.get("findings", ()) if isinstance(shown, dict) else ():
        found["line"] = redactor.log(found["line"])[:LINE_CHARS]
    return _json(shown)


def _json_value(value: Any) -> Any:
    """Return what JSON has no word for as something that it has one for."""
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=str)
    return dict(value) if isinstance(value, Mapping) else str(value)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _pack(file: Path, folder: str, files: Mapping[str, str], *, force: bool) -> None:
    """Write the archive whole or not at all, for its owner's eyes."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.new")
    try:
        number = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, MODE)
        try:
            with os.fdopen(number, "wb") as target:
                with tarfile.open(fileobj=target, mode="w:gz") as archive:
                    for path, text in files.items():
                        _add(archive, f"{folder}/{path}", text.encode("utf-8", errors="replace"))
                target.flush()
                os.fsync(target.fileno())
            if not force:
                refuse_existing(file, force=False)  # It may have come into being meanwhile.
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        kind = "disk-full" if error.errno in _FULL else "file-not-written"
        raise ApplianceError(
            kind, f"{file} can't be written: {error.strerror or error}."
        ) from error


def _add(archive: tarfile.TarFile, path: str, content: bytes) -> None:
    member = tarfile.TarInfo(path)
    member.size, member.mode, member.mtime = len(content), MODE, int(time.time())
    archive.addfile(member, io.BytesIO(content))
