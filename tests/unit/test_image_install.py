"""What the image's layer installs: only what its base has not, exactly as it is locked."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]

LOCK = """\
#
# This file is made by a tool
#
av==16.0.0 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
    # via qwen-omni-utils
Jinja2==3.1.6 ; python_full_version < '3.14' \\
    --hash=sha256:cc

qwen_omni.utils[decord]==0.0.9 \\
    --hash=sha256:dd
soundfile==0.13.1
    # via
    #   librosa
    #   qwen-omni-utils
"""


@pytest.fixture(scope="module")
def install() -> ModuleType:
    """The script, which is no module of a package: it runs inside `docker build`."""
    spec = importlib.util.spec_from_file_location("image_install", ROOT / "image" / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("PyYAML", "pyyaml"),
        ("qwen_omni.utils", "qwen-omni-utils"),
        ("a--b__c..d", "a-b-c-d"),
        ("ruamel.yaml.clib", "ruamel-yaml-clib"),
    ],
)
def test_names_are_compared_as_package_indexes_do(
    install: ModuleType, name: str, canonical: str
) -> None:
    assert install.canonical(name) == canonical


def test_a_lock_file_is_split_into_requirements_with_their_hashes(install: ModuleType) -> None:
    assert [" ".join(entry.split()) for entry in install.entries(LOCK)] == [
        "av==16.0.0 --hash=sha256:aa --hash=sha256:bb",
        "Jinja2==3.1.6 ; python_full_version < '3.14' --hash=sha256:cc",
        "qwen_omni.utils[decord]==0.0.9 --hash=sha256:dd",
        "soundfile==0.13.1",
    ]


def names(entries: list[str]) -> list[str]:
    return [re.split(r"[=\[ ]", entry)[0] for entry in entries]


def test_what_the_base_has_in_any_version_is_left_alone(install: ModuleType) -> None:
    assert names(install.missing(LOCK, set())) == [
        "av", "Jinja2", "qwen_omni.utils", "soundfile",
    ]  # fmt: skip
    assert names(install.missing(LOCK, {"jinja2", "soundfile"})) == ["av", "qwen_omni.utils"]
    assert install.missing(LOCK, {"av", "jinja2", "qwen-omni-utils", "soundfile"}) == []


def test_an_empty_lock_file_asks_for_nothing(install: ModuleType) -> None:
    assert install.missing("# nothing\n\n  \n", set()) == []


def test_every_requirement_of_the_images_lock_file_is_pinned_and_hashed(
    install: ModuleType,
) -> None:
    lock = (ROOT / "requirements" / "image.txt").read_text(encoding="utf-8")
    found = install.missing(lock, set())
    assert found == install.entries(lock)
    assert len(found) > 10
    for entry in found:
        assert re.match(r"[\w.-]+(\[[\w,-]+\])?==[\w.!+]+( ; .+?)? +--hash=sha256:\w{64}", entry)


def test_the_names_that_the_base_has_come_from_its_metadata(install: ModuleType) -> None:
    present = install.installed()
    assert "pytest" in present
    assert all(name == install.canonical(name) for name in present)


def test_packages_are_pruned_by_the_name_they_are_installed_under(install: ModuleType) -> None:
    assert install.distribution("sklearn") == "scikit-learn"
    assert install.distribution("qwen_omni_utils") == "qwen-omni-utils"
