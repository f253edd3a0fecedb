"""Which content an image's name stands for: asked of all who know, and kept when they agree."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from appliance.config import lockfile
from appliance.errors import ApplianceError
from appliance.plan.model import pinned

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from appliance.engine.docker import Engine, RegistryAnswer
    from appliance.plan.model import ImagePlan

# In the lock file, among the registries that agreed.
THIS_HOST = "this host"


@dataclass(frozen=True)
class Locked:
    """What `images lock` found and did. `silent` says why a registry did not take part."""

    name: str
    entry: lockfile.Entry
    changed: bool
    silent: Mapping[str, str]


def ask(engine: Engine, references: Sequence[str], timeout: float) -> dict[str, RegistryAnswer]:
    """Ask the registry of each reference for its digest, all at once."""

    def one(reference: str) -> RegistryAnswer:
        return engine.ask_registry(reference, timeout)

    with ThreadPoolExecutor(len(references)) as pool:
        return dict(zip(references, pool.map(one, references), strict=True))


def agreed(said: Sequence[tuple[str, str]]) -> str | None:
    """Return the digest that all say, each a name and a digest; `None` where nobody says one.

    Raises image-digest-differs.
    """
    digests = {digest for _, digest in said}
    if len(digests) > 1:
        lines = "\n".join(f"  {name}: {digest}" for name, digest in said)
        raise ApplianceError(
            "image-digest-differs", f"One image's name stands for different content:\n{lines}"
        )
    return digests.pop() if digests else None


def known_here(engine: Engine, name: str) -> set[str] | None:
    """Return the digests by which registries know a local image; `None` where it is not here."""
    references = engine.digests(name)
    if references is None:
        return None
    return {reference.partition("@")[2] for reference in references}


def lock(engine: Engine, plan: ImagePlan, file: Path, timeout: float, *, force: bool) -> Locked:
    """Find the digest of what the plan takes from a registry, and write it to the lock file.

    Raises image-digest-differs, image-unavailable where nobody knows one, and file-differs
    where the file holds another one and `force` does not allow that.
    """
    name = plan.names[0]
    if "@" in name:
        raise ApplianceError(
            "config-invalid", f"{name} names its digest itself.", "There is nothing to lock."
        )
    answers = ask(engine, plan.names, timeout)
    said = [(known, answer.digest) for known, answer in answers.items() if answer.digest]
    digest, here = _with_host(engine, plan, said)
    if digest is None:
        raise _nobody(engine, plan, answers)
    witnesses = [known for known, _ in said] + ([THIS_HOST] if here else [])
    today = datetime.now(timezone.utc).date().isoformat()
    found = lockfile.Entry(digest, today, tuple(witnesses))
    entry, changed = _keep(file, name, found, force=force)
    silent = {known: answer.why for known, answer in answers.items() if not answer.digest}
    return Locked(name, entry, changed, silent)


def _with_host(
    engine: Engine, plan: ImagePlan, said: Sequence[tuple[str, str]]
) -> tuple[str | None, bool]:
    """Return the digest that registries and this host agree on, and whether it has the image."""
    digest = agreed(said)
    held = {name: found for name in plan.names if (found := known_here(engine, name))}
    if digest is None:
        here = [(f"{name} on {THIS_HOST}", item) for name in held for item in sorted(held[name])]
        return agreed(here), bool(here)
    # A host may know an image by several: by that of the list for all machines, and its own.
    other = [
        (f"{name} on {THIS_HOST}", min(found))
        for name, found in held.items()
        if digest not in found
    ]
    if other:
        agreed([*said, *other])
    return digest, bool(held)


def _nobody(
    engine: Engine, plan: ImagePlan, answers: Mapping[str, RegistryAnswer]
) -> ApplianceError:
    here = [name for name in plan.names if engine.digests(name) is not None]
    why = "".join(f"\n  {name}: {answer.why}" for name, answer in answers.items())
    if here:
        return ApplianceError(
            "image-unavailable",
            f"{here[0]} on {THIS_HOST} was loaded or built, and has no registry's digest; and no "
            f"registry answers.{why}",
            "Lock it where a registry can be reached, and copy the lock file here.",
        )
    return ApplianceError(
        "image-unavailable", f"No registry answers, and the image is not on {THIS_HOST}.{why}"
    )


def _keep(
    file: Path, name: str, entry: lockfile.Entry, *, force: bool
) -> tuple[lockfile.Entry, bool]:
    """Write an entry beside the others, unless it is there; return what is there then."""
    entries = lockfile.read(file) if file.exists() else {}
    old = entries.get(name)
    if old is not None and old.digest == entry.digest:
        return old, False
    if old is not None and not force:
        raise ApplianceError(
            "file-differs",
            f"{file} locks {name} to another digest:\n"
            f"  - {old.digest} ({old.locked or 'no date'})\n"
            f"  + {entry.digest} ({entry.locked})",
            "Find out why it has changed; `--force` locks the new one.",
        )
    lockfile.write(file, {**entries, name: entry})
    return entry, True


def overview(engine: Engine, plan: ImagePlan) -> list[dict[str, Any]]:
    """Return a row for each name of a deployment's images: its digest, and what is here."""
    rows = []
    if plan.base is not None:
        rows.append(_row(engine, "appliance", plan.name, None))
    first = "appliance" if plan.base is None else "base"
    for name in plan.names:
        rows.append(_row(engine, first, name, plan.digest))
        first = "mirror"
    if plan.local_image is not None:
        rows.append(_row(engine, "local base", plan.local_image, None))
    return rows


def _row(engine: Engine, role: str, name: str, digest: str | None) -> dict[str, Any]:
    found = engine.image(pinned(name, digest)) or engine.image(name)
    here = None
    if found is not None:
        known = known_here(engine, found.id) or ()
        here = {"id": found.id, "size": found.size, "digests": sorted(known)}
    return {"role": role, "image": name, "digest": digest, "here": here}
