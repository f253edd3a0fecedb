"""Images by name and digest: the tag, the lock file, who must agree. No engine is needed."""

from __future__ import annotations

import dataclasses
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import yaml

from appliance import paths
from appliance.config import lockfile
from appliance.config.load import load
from appliance.config.model import Config, Image
from appliance.engine import images
from appliance.engine import lock as room
from appliance.engine.docker import Engine, ImageState, RegistryAnswer
from appliance.errors import ApplianceError
from appliance.inventory.model import Inventory
from appliance.plan import image as images_of
from appliance.plan.choice import choose
from appliance.plan.model import ImagePlan, pinned

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from docker import DockerClient

    from appliance.plan.choice import Choice

pytestmark = pytest.mark.usefixtures("clean")
ROOT = Path(__file__).resolve().parents[2]
ONE, TWO = (f"sha256:{digit * 64}" for digit in "12")
BASE, MIRROR = "registry.test/a/base:v1", "mirror.test/a/base:v1"
PLAN = ImagePlan("appliance:1", BASE, (MIRROR,))
LOCK = Path("images.lock.yaml")
CPU = choose(dataclasses.replace(Config(), platform="cpu"), Inventory("none"), "/models")


# The tag


def on(product: str) -> Choice:
    """What is decided for an Ascend product, as far as its image goes."""
    from appliance.catalog import load as catalog

    return dataclasses.replace(
        CPU,
        platform_name="ascend",
        platform=catalog.platforms()["ascend"],
        product_name=product,
        product=catalog.products()[product],
        release_name="v0.23.0",
    )


def of(choice: Choice, **keys: Any) -> ImagePlan:
    return images_of.image(dataclasses.replace(Config(), image=Image(**keys)), choice)


@pytest.mark.parametrize(
    ("product", "system", "suffix"),
    [
        ("atlas-a2", None, ""),
        ("atlas-a2", "ubuntu", ""),
        ("atlas-a2", "openeuler", "-openeuler"),
        ("atlas-a3", None, "-a3"),
        ("atlas-a3", "openeuler", "-a3-openeuler"),
        ("atlas-310p", "openeuler", "-310p-openeuler"),
    ],
)
def test_the_tag_says_release_product_and_system(
    product: str, system: str | None, suffix: str
) -> None:
    made = of(on(product), os=system)
    assert made.base == f"quay.io/ascend/vllm-ascend:v0.23.0{suffix}"
    assert len(made.mirrors) == 2
    assert all(name.endswith(f"/ascend/vllm-ascend:v0.23.0{suffix}") for name in made.mirrors)
    # Two flavours of one release can stand side by side.
    assert made.name.endswith(f"-v0.23.0{suffix}")


def test_the_cpu_image_has_no_choice_of_system() -> None:
    assert of(CPU, os="openeuler") == of(CPU)
    config = dataclasses.replace(Config(), image=Image(os="openeuler"))
    assert "image.os" in "".join(images_of.warnings(config, CPU))
    assert images_of.warnings(config, on("atlas-a2")) == ()


def test_mirrors_are_the_catalogs_until_a_base_is_named() -> None:
    choice = on("atlas-a2")
    assert of(choice, base="mine/base:1").mirrors == ()
    assert of(choice, base="mine/base:1", mirrors=["b/x:1", "a/x:1"]).names == (
        "mine/base:1", "b/x:1", "a/x:1",
    )  # fmt: skip
    assert of(choice, mirrors=[]).names == ("quay.io/ascend/vllm-ascend:v0.23.0",)
    assert of(choice, base="mine/base:1", mirrors=["mine/base:1"]).names == ("mine/base:1",)


def test_what_means_nothing_beside_a_finished_image_is_said() -> None:
    config = dataclasses.replace(Config(), image=Image(name="x:1", mirrors=["y:1"]))
    assert "image.mirrors" in "".join(images_of.warnings(config, CPU))
    assert of(CPU, name="x:1", mirrors=["y:1"]).names == ("x:1",)


# The digest in the plan


def test_the_plan_takes_the_digest_of_the_first_name() -> None:
    digests = {"quay.io/ascend/vllm-ascend:v0.23.0": ONE, "x:1": TWO}
    made = of(on("atlas-a2"), digests=digests)
    assert made.digest == ONE
    # What is built here is not what the registry's digest names.
    assert made.reference == made.name
    assert of(on("atlas-a3"), digests=digests).digest is None
    assert of(CPU, name="x:1", digests=digests).reference == f"x:1@{TWO}"
    assert of(CPU, name="y:1", digests=digests).reference == "y:1"


def test_a_name_with_a_digest_is_pinned_by_that() -> None:
    named = f"registry.test/x@{ONE}"
    made = of(CPU, name=named, digests={named: TWO})
    assert (made.digest, made.reference) == (ONE, named)
    assert of(CPU, base=named).digest == ONE
    assert pinned(named, TWO) == named
    assert pinned("x:1", None) == "x:1"


# The lock file


def text_of(name: str = BASE, **row: Any) -> str:
    return yaml.safe_dump({name: {"digest": ONE, **row}})


def refused(error: str, call: Callable[[], object]) -> str:
    with pytest.raises(ApplianceError) as caught:
        call()
    assert caught.value.id == error, caught.value.message
    return caught.value.message


def test_a_lock_file_is_read_as_it_is_written(clean: Path) -> None:
    entries = {
        "quay.io/ascend/vllm-ascend:v0.23.0-a3": lockfile.Entry(ONE, "2026-08-25", (BASE, "x")),
        "127.0.0.1:5000/a/b:1": lockfile.Entry(TWO),
        "no": lockfile.Entry(TWO, "2024-13-45"),
    }
    lockfile.write(LOCK, entries)
    assert lockfile.read(LOCK) == entries
    text = LOCK.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert f"\nquay.io/ascend/vllm-ascend:v0.23.0-a3:\n  digest: {ONE}\n" in text
    assert [path.name for path in clean.iterdir()] == [LOCK.name]
    assert stat.S_IMODE(LOCK.stat().st_mode) == 0o644


def test_writing_keeps_a_link_and_the_mode(clean: Path) -> None:
    target = clean / "shared.yaml"
    target.write_text("", encoding="utf-8")
    target.chmod(0o664)
    LOCK.symlink_to(target)
    lockfile.write(LOCK, {BASE: lockfile.Entry(ONE)})
    assert LOCK.is_symlink()
    assert ONE in target.read_text(encoding="utf-8")
    assert stat.S_IMODE(target.stat().st_mode) == 0o664


def test_a_failed_write_leaves_the_old_file(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LOCK.write_text(text_of(), encoding="utf-8")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    message = refused("file-not-written", lambda: lockfile.write(LOCK, {}))
    assert "No space left" in message
    assert LOCK.read_text(encoding="utf-8") == text_of()
    assert [path.name for path in clean.iterdir()] == [LOCK.name]


def test_a_folder_that_is_not_there_is_an_error() -> None:
    refused("file-not-written", lambda: lockfile.write(Path("absent") / LOCK, {}))


BROKEN = {
    "no yaml": "a: [",
    "a list": "- a\n",
    "no entry": f"{BASE}: {ONE}\n",
    "an unknown key": text_of(colour="red"),
    "no digest": f"{BASE}: {{locked: 2026-08-25}}\n",
    "a short digest": text_of(digest="sha256:1234"),
    "a digest and more": text_of(digest=f"{ONE}\n"),
    "witnesses that are no list": text_of(verified_with="x"),
    "a name twice": text_of() + text_of(digest=TWO),
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_broken_lock_file_is_an_error_of_every_command(text: str) -> None:
    LOCK.write_text(text, encoding="utf-8")
    assert str(LOCK) in refused("config-invalid", lambda: load(None, {}))


def test_a_lock_file_that_leads_nowhere_does_not_unlock() -> None:
    LOCK.symlink_to("gone.yaml")
    refused("config-invalid", lambda: load(None, {}))


# The lock file as a layer of the configuration


def test_the_lock_file_beside_the_configuration_is_read(clean: Path) -> None:
    folder = clean / "site"
    folder.mkdir()
    (folder / "some.yaml").write_text("name: site\n", encoding="utf-8")
    (folder / LOCK).write_text(text_of(), encoding="utf-8")
    LOCK.write_text(text_of(digest=TWO), encoding="utf-8")
    named = load(folder / "some.yaml", {})
    assert named.config.image.digests == {BASE: ONE}
    assert named.origins["image.digests"] == str(folder / LOCK)
    assert named.lock_file == folder / LOCK
    here = load(None, {})
    assert here.config.image.digests == {BASE: TWO}
    assert (here.origins, here.lock_file) == ({"image.digests": str(LOCK)}, LOCK)
    by_variable = load(None, {"APPLIANCE_CONFIG": str(folder / "some.yaml")})
    assert by_variable.config.image.digests == {BASE: ONE}
    (folder / "some.yaml").write_text(f"image: {{digests: {{x: '{TWO}'}}}}\n", encoding="utf-8")
    # It adds to what is locked, and unlocks nothing.
    assert load(folder / "some.yaml", {}).config.image.digests == {BASE: ONE, "x": TWO}
    (folder / "some.yaml").write_text(
        f"image: {{digests: {{'{BASE}': '{TWO}'}}}}\n", encoding="utf-8"
    )
    assert load(folder / "some.yaml", {}).config.image.digests == {BASE: TWO}


def test_what_the_operator_sets_wins_over_the_lock_file() -> None:
    LOCK.write_text(text_of(), encoding="utf-8")
    set_to = load(None, {}, [f"image.digests={{x: '{TWO}'}}"])
    assert set_to.config.image.digests == {"x": TWO}
    assert set_to.origins["image.digests"] == "flag"
    message = refused("config-invalid", lambda: load(None, {}, ["image.digests={x: latest}"]))
    assert "image.digests" in message


def test_an_empty_lock_file_locks_nothing() -> None:
    LOCK.write_text("# nothing yet\n", encoding="utf-8")
    assert load(None, {}).config == Config()


# Who must agree


@dataclass
class FakeEngine(Engine):
    """Registries that say what they are told to, and images that are here by name."""

    says: Mapping[str, str] = field(default_factory=dict)
    here: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def ask_registry(self, image: str, timeout: float) -> RegistryAnswer:
        self.asked.append(image)
        digest = self.says.get(image)
        return RegistryAnswer(digest, "" if digest else f"no answer within {timeout:g} s")

    def digests(self, name: str) -> tuple[str, ...] | None:
        return self.here.get(name)


def engine(says: Mapping[str, str], here: Mapping[str, tuple[str, ...]] | None = None) -> Engine:
    return FakeEngine(cast("DockerClient", None), says, here or {})


def locked(found: Engine, *, force: bool = False, plan: ImagePlan = PLAN) -> room.Locked:
    return room.lock(found, plan, LOCK, 5, force=force)


def test_all_names_are_asked_and_the_first_is_the_key() -> None:
    found = FakeEngine(cast("DockerClient", None), {BASE: ONE, MIRROR: ONE})
    done = locked(found)
    assert sorted(found.asked) == sorted([BASE, MIRROR])
    assert (done.name, done.changed, done.silent) == (BASE, True, {})
    assert lockfile.read(LOCK) == {BASE: done.entry}
    assert done.entry.verified_with == (BASE, MIRROR)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", done.entry.locked or "")


def test_one_that_does_not_answer_does_not_stop_the_others() -> None:
    done = locked(engine({MIRROR: ONE}))
    assert done.name == BASE
    assert done.entry.verified_with == (MIRROR,)
    assert done.silent == {BASE: "no answer within 5 s"}


DISAGREEMENTS: dict[str, tuple[dict[str, str], dict[str, tuple[str, ...]], str]] = {
    "registries": ({BASE: ONE, MIRROR: TWO}, {}, MIRROR),
    "the host": ({BASE: ONE}, {BASE: (f"r/a@{TWO}",)}, f"{BASE} on this host"),
    "a mirror's on the host": ({BASE: ONE}, {MIRROR: (f"r/a@{TWO}",)}, f"{MIRROR} on this host"),
    "two on the host": (
        {},
        {BASE: (f"r/a@{ONE}",), MIRROR: (f"r/a@{TWO}",)},
        f"{MIRROR} on this host",
    ),
    "one with two": ({}, {BASE: (f"r/a@{ONE}", f"r/b@{TWO}")}, f"{BASE} on this host"),
}


@pytest.mark.parametrize(
    ("says", "here", "other"), DISAGREEMENTS.values(), ids=DISAGREEMENTS.keys()
)
def test_whoever_disagrees_is_named_and_nothing_is_written(
    clean: Path, says: dict[str, str], here: dict[str, tuple[str, ...]], other: str
) -> None:
    message = refused("image-digest-differs", lambda: locked(engine(says, here)))
    assert f"{other}: {TWO}" in message
    assert ONE in message
    assert list(clean.iterdir()) == []


HOST: dict[str, tuple[dict[str, str], tuple[str, ...], tuple[str, ...]]] = {
    "it agrees": ({BASE: ONE}, (f"r/a@{ONE}",), (BASE, room.THIS_HOST)),
    # Of a list for several machines, the host may know the list and its own machine's image.
    "it knows two, one of which agrees": (
        {BASE: ONE}, (f"r/a@{TWO}", f"r/a@{ONE}"), (BASE, room.THIS_HOST),
    ),
    "it is alone": ({}, (f"r/a@{ONE}",), (room.THIS_HOST,)),
    "it knows none": ({BASE: ONE}, (), (BASE,)),
}  # fmt: skip


@pytest.mark.parametrize(("says", "here", "witnesses"), HOST.values(), ids=HOST.keys())
def test_the_host_is_a_witness_where_it_knows_a_digest(
    says: dict[str, str], here: tuple[str, ...], witnesses: tuple[str, ...]
) -> None:
    assert locked(engine(says, {BASE: here})).entry == dataclasses.replace(
        lockfile.read(LOCK)[BASE], digest=ONE, verified_with=witnesses
    )


def test_nobody_to_ask_is_an_error_that_says_what_is_here() -> None:
    nothing = refused("image-unavailable", lambda: locked(engine({})))
    assert "not on this host" in nothing
    loaded = refused("image-unavailable", lambda: locked(engine({}, {BASE: ()})))
    assert "was loaded or built" in loaded
    assert not LOCK.exists()


def test_a_name_with_a_digest_needs_no_lock() -> None:
    plan = ImagePlan("appliance:1", f"x@{ONE}")
    refused("config-invalid", lambda: locked(engine({f"x@{ONE}": ONE}), plan=plan))


def test_an_image_that_is_run_as_it_is_is_locked_by_its_name() -> None:
    assert locked(engine({"mine:1": ONE}), plan=ImagePlan("mine:1", None)).name == "mine:1"


def test_another_digest_needs_force_and_other_entries_stay() -> None:
    lockfile.write(LOCK, {BASE: lockfile.Entry(TWO, "2026-01-01"), "x:1": lockfile.Entry(TWO)})
    before = LOCK.read_bytes()
    message = refused("file-differs", lambda: locked(engine({BASE: ONE})))
    assert f"- {TWO} (2026-01-01)" in message
    assert f"+ {ONE}" in message
    assert LOCK.read_bytes() == before
    assert locked(engine({BASE: ONE}), force=True).changed
    found = {name: entry.digest for name, entry in lockfile.read(LOCK).items()}
    assert found == {BASE: ONE, "x:1": TWO}


def test_the_same_digest_is_left_as_it_was_locked() -> None:
    lockfile.write(LOCK, {BASE: lockfile.Entry(ONE, "2026-01-01", (BASE,))})
    before = LOCK.read_bytes()
    done = locked(engine({BASE: ONE, MIRROR: ONE}))
    assert (done.changed, done.entry.locked) == (False, "2026-01-01")
    assert LOCK.read_bytes() == before


# What an image was built on


def current(plan: ImagePlan, monkeypatch: pytest.MonkeyPatch, **labels: str) -> str | None:
    """What `current` says of an image with these labels."""
    found = engine({})
    monkeypatch.setattr(found, "image", lambda _: ImageState("id", 1, labels), raising=False)
    return images.current(found, plan)


STALE = [
    (None, {images.LABEL_BASE: BASE}, True),
    (None, {images.LABEL_BASE: f"{BASE}@{ONE}"}, True),
    (None, {images.LABEL_BASE: f"{MIRROR}@{ONE}"}, True),
    (None, {images.LABEL_BASE: "other:1"}, False),
    (ONE, {images.LABEL_BASE: BASE, images.LABEL_BASE_DIGEST: ONE}, True),
    # The same content under another name is the same content.
    (ONE, {images.LABEL_BASE: "elsewhere", images.LABEL_BASE_DIGEST: ONE}, True),
    (ONE, {images.LABEL_BASE: BASE, images.LABEL_BASE_DIGEST: TWO}, False),
    (ONE, {images.LABEL_BASE: BASE, images.LABEL_BASE_DIGEST: ""}, False),
    (ONE, {images.LABEL_BASE: BASE}, False),
]


@pytest.mark.parametrize(("digest", "labels", "fresh"), STALE)
def test_an_image_is_stale_on_another_base(
    monkeypatch: pytest.MonkeyPatch, digest: str | None, labels: dict[str, str], fresh: bool
) -> None:
    plan = dataclasses.replace(PLAN, digest=digest)
    labels = {**labels, images.LABEL_CONTEXT: images.context_hash(ROOT, plan)}
    assert current(plan, monkeypatch, **labels) == ("id" if fresh else None)
    # Where nothing can be built, only what a lock contradicts is refused.
    monkeypatch.setattr(paths, "checkout", lambda: None)
    assert current(plan, monkeypatch, **labels) == (None if digest and not fresh else "id")


def test_the_dockerfile_says_what_the_image_was_built_on() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert f'{images.LABEL_BASE}="${{BASE_IMAGE}}"' in text
    assert f'{images.LABEL_BASE_DIGEST}="${{BASE_DIGEST}}"' in text
    # After the steps: another digest of the same content must not run them again.
    assert text.index("ARG BASE_DIGEST") > text.rindex("\nRUN ")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("quay.io/a/b:v1", ("quay.io/a/b", "v1")),
        ("127.0.0.1:5000/a/b:v1", ("127.0.0.1:5000/a/b", "v1")),
        ("127.0.0.1:5000/a/b", ("127.0.0.1:5000/a/b", "latest")),
        ("debian", ("debian", "latest")),
    ],
)
def test_a_name_is_taken_apart_for_the_engine(name: str, parts: tuple[str, str]) -> None:
    said: list[tuple[str, ...]] = []
    api = SimpleNamespace(tag=lambda image, *where, force: said.append((image, *where, str(force))))
    Engine(cast("DockerClient", SimpleNamespace(api=api))).tag("x@sha256:1", name)
    assert said == [("x@sha256:1", *parts, "True")]
