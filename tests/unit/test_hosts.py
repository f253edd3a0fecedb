"""Hosts as folders: of each snapshot under tests/hosts, the inventory, the plan, the renderings.

Adding a machine is adding a folder; scripts/hosts.py writes its expectations, for review.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from appliance.catalog import load as catalog

if TYPE_CHECKING:
    from types import ModuleType

pytestmark = pytest.mark.usefixtures("clean")

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ROOT / "tests" / "hosts"
NAMES = sorted(path.parent.name for path in HOSTS.glob("*/about.yaml"))
# The shapes of hosts that must be there, whatever else is.
NEEDED = {
    "a2-8x64-idle", "a2-partly-busy", "a2-32gb", "a2-gap", "a2-16-cards", "a3-16-dies",
    "a3-one-die-given", "a3-busy", "310p-duo", "950", "910a", "a2-unhealthy", "a2-old-driver",
    "a2-npu-smi-fails", "nothing",
}  # fmt: skip


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hosts", ROOT / "scripts" / "hosts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["hosts"] = module
    spec.loader.exec_module(module)
    return module


SCRIPT = _script()


def wanted(name: str, file: str) -> Any:
    return json.loads((HOSTS / name / "expected" / file).read_text(encoding="utf-8"))


def test_every_shape_of_host_is_there() -> None:
    assert set(NAMES) >= NEEDED


@pytest.mark.parametrize("name", NAMES)
def test_the_launcher_makes_of_a_host_what_was_reviewed(name: str) -> None:
    made = SCRIPT.expected(HOSTS / name)
    files = {path.name: path.read_text("utf-8") for path in (HOSTS / name / "expected").iterdir()}
    assert sorted(made) == sorted(files)
    for file, text in made.items():
        assert text == files[file], f"{name}/{file} differs: scripts/hosts.py {name} shows how"


@pytest.mark.parametrize("name", NAMES)
def test_a_host_is_labelled_and_a_refusal_is_the_expected_one(name: str) -> None:
    about = SCRIPT.about(HOSTS / name)
    assert about.title
    assert about.follows
    if about.refused is None:
        assert (HOSTS / name / "expected" / "plan.json").is_file()
        return
    error = wanted(name, "error.json")["error"]
    assert error["id"] == about.refused
    for phrase in about.says:
        assert phrase in error["message"] + " " + error["remedy"]


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_takes_dies_that_the_inventory_calls_free(name: str) -> None:
    """Held against the inventory's own words, not against what the plan said last time."""
    if not (HOSTS / name / "expected" / "plan.json").is_file():
        assert SCRIPT.about(HOSTS / name).refused
        return
    plan, inventory = wanted(name, "plan.json"), wanted(name, "inventory.json")
    dies = {npu["device"]: npu for npu in inventory["npus"]}
    taken = [d["host"] for d in plan["devices"] if d["host"] in dies]
    visible = plan["environment"].get("ASCEND_VISIBLE_DEVICES", "")
    taken += [f"/dev/davinci{number}" for number in visible.split(",") if number]
    assert len(taken) == (
        plan["tensor_parallel_size"] * plan["data_parallel_size"]
        if plan["platform"] == "ascend"
        else 0
    )
    for node in taken:
        assert dies[node]["health"] in {"OK", None}
        assert dies[node]["processes"] == []
        assert (dies[node]["hbm_used_mib"] or 0) < 8192
    if plan["platform"] == "ascend":
        product = catalog.products()[plan["product"]]
        given = plan["runtime"] == "ascend"  # It mounts some of them by itself.
        needed = {
            item.path
            for item in product.driver_paths
            if item.required and not (given and item.injected)
        }
        assert needed <= {mount["source"] for mount in plan["mounts"]}
        assert all(mount["read_only"] for mount in plan["mounts"] if mount["type"] == "bind")
