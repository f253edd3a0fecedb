#!/usr/bin/env python3
"""Writes what the launcher makes of each host under tests/hosts, for review.

    scripts/hosts.py NAME…     writes expected/ of these hosts
    scripts/hosts.py --all     of all of them

A host is a folder: a snapshot, and `about.yaml`, which says what it follows, with which settings
it is planned for, and, where no plan may be made, which error is expected. To add a machine, add
a folder, run this, and read what it wrote as if it had been written by hand: the tests hold it
from then on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance import yamlfile
from appliance.config.load import load
from appliance.errors import ApplianceError
from appliance.inventory import read
from appliance.plan.make import make
from appliance.render import render
from appliance.version import __version__

HOSTS = Path(__file__).resolve().parents[1] / "tests" / "hosts"
# Where a host's appliance has its weights, and the launcher's own models, in every expectation.
SETTINGS = ("cache.dir=/data/modelscope",)
MODELS = "/opt/appliance/models"


@dataclass(frozen=True)
class About:
    """What `about.yaml` says of a host."""

    title: str
    # The capture that the snapshot follows, or `synthetic`.
    follows: str
    settings: tuple[str, ...] = ()
    # The id of the error that stands for a plan, and words that its message must have.
    refused: str | None = None
    says: tuple[str, ...] = ()


def about(folder: Path) -> About:
    """Read a host's `about.yaml`."""
    row = yamlfile.read(folder / "about.yaml")
    for key in ("settings", "says"):
        row[key] = tuple(row.get(key, ()))
    return About(**row)


def names() -> list[str]:
    """Return the hosts' names."""
    return sorted(path.parent.name for path in HOSTS.glob("*/about.yaml"))


def expected(folder: Path) -> dict[str, str]:
    """Return what the launcher makes of a host: file name -> text."""
    row = about(folder)
    inventory = read.snapshot(folder)
    found = dataclasses.asdict(inventory)
    texts = {"inventory.json": _document(found)}
    try:
        plan = make(load(None, {}, [*SETTINGS, *row.settings]).config, inventory, MODELS)
    except ApplianceError as error:
        return {**texts, "error.json": _document(error.as_dict())}
    texts["plan.json"] = _document(plan.as_dict())
    texts["run.sh"] = render(plan, "run")
    texts["compose.yaml"] = render(plan, "compose")
    # A new version of the launcher is no new expectation.
    return {name: text.replace(__version__, "VERSION") for name, text in texts.items()}


def _document(value: Any) -> str:
    def plain(item: Any) -> Any:
        if isinstance(item, (set, frozenset)):
            return sorted(item)
        raise TypeError(type(item).__name__)

    return json.dumps(value, indent=1, ensure_ascii=False, default=plain) + "\n"


def main() -> int:
    """Write the expectations of the hosts that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--all", action="store_true", help="every host")
    options = parser.parse_args()
    chosen = names() if options.all else options.names
    if not chosen:
        parser.error("name a host, or give --all")
    for name in chosen:
        folder = HOSTS / name / "expected"
        folder.mkdir(exist_ok=True)
        texts = expected(HOSTS / name)
        for stale in {path.name for path in folder.iterdir()} - texts.keys():
            (folder / stale).unlink()
        for file, text in texts.items():
            (folder / file).write_text(text, encoding="utf-8")
        print(f"{name}: {', '.join(texts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
