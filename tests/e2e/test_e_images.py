"""Images by digest: two registries and the engine, all real; images of a few bytes."""

from __future__ import annotations

import dataclasses
import json
import re
import tarfile
import uuid
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from appliance import paths
from appliance.config.model import Config, Timeouts
from appliance.engine import docker as engine_room
from appliance.engine import images
from appliance.errors import ApplianceError
from appliance.plan.model import ImagePlan
from tests.e2e.conftest import ROOT, Cli, docker
from tests.registry import FILE, Registry, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK = "images.lock.yaml"
CONFIG = dataclasses.replace(Config(), timeouts=Timeouts(registry=5, pull=60, build=300))


@pytest.fixture
def label() -> Iterator[str]:
    """A label of all images of one test, which are gone when it ends."""
    name = f"appliance.test.{uuid.uuid4().hex}"
    yield name
    ids = docker("images", "--all", "--quiet", "--filter", f"label={name}").split()
    if ids:
        docker("rmi", "--force", *sorted(set(ids)), check=False)
    assert docker("images", "--all", "--quiet", "--filter", f"label={name}") == ""


@pytest.fixture
def base(label: str) -> Iterator[Registry]:
    with running(label) as registry:
        yield registry


@pytest.fixture
def mirror(label: str) -> Iterator[Registry]:
    with running(label) as registry:
        yield registry


@pytest.fixture
def cli(tmp_path: Path, base: Registry, mirror: Registry) -> Cli:
    """A launcher whose base image is in the one registry and, second, in the other."""
    settings = {
        "name": "e2e-images",
        "platform": "cpu",
        "image.base": base.name("v1"),
        "image.mirrors": f"[{mirror.name('v1')}]",
    }
    return Cli(tmp_path, settings)


class Host:
    """The engine, and a builder of images for these registries; what it said is in `lines`."""

    def __init__(self, base: Registry, mirror: Registry) -> None:
        self.engine = engine_room.connect()
        self.lines: list[str] = []
        self.builder = images.Builder(self.engine, CONFIG, self.lines.append)
        self.names = (base.name("v1"), mirror.name("v1"))

    def plan(self, name: str, digest: str | None) -> ImagePlan:
        return ImagePlan(name, self.names[0], self.names[1:], digest)


@pytest.fixture
def host(base: Registry, mirror: Registry) -> Host:
    return Host(base, mirror)


def content(reference: str) -> str:
    """Return what is in the file by which these images differ."""
    made = docker("create", reference).strip()
    try:
        archive = engine_room.connect().client.api.get_archive(made, f"/{FILE}")[0]
        with tarfile.open(fileobj=BytesIO(b"".join(archive))) as tree:
            file = tree.extractfile(FILE)
            assert file is not None
            return file.read().decode()
    finally:
        docker("rm", made)


def image_id(reference: str) -> str:
    return docker("image", "inspect", "--format", "{{.Id}}", reference).strip()


def carry(folder: Path, registry: Registry) -> bool:
    """Bring an image from a registry to the host in a file; tell whether its digest is lost.

    It is in Docker's own image store; containerd's, the default of Docker 29, keeps it.
    """
    archive, name = str(folder / "image.tar"), registry.name("v1")
    docker("pull", name)
    docker("save", "--output", archive, name)
    docker("rmi", name)
    docker("load", "--input", archive)
    registry.stop()
    return "io.containerd.snapshotter" not in docker("info", "--format", "{{.DriverStatus}}")


def read(folder: Path) -> Any:
    return yaml.safe_load((folder / LOCK).read_text(encoding="utf-8"))


def refused(cli: Cli, error: str, code: int, *words: str, **more: str) -> str:
    """Run a command that must fail in this way; return its message."""
    done = cli.run(*words, "--json", **more)
    assert done.returncode == code, done.stdout + done.stderr
    problem = json.loads(done.stdout)["error"]
    assert problem["id"] == error
    return str(problem["message"])


# `images lock`


def test_what_all_registries_agree_on_is_locked_once(
    cli: Cli, base: Registry, mirror: Registry, label: str
) -> None:
    digest = base.publish("v1", "one")
    assert mirror.publish("v1", "one") == digest
    with running(label) as gone:
        down = gone.name("v1")
    with running(label) as silent:
        silent.hangs.set()
        names = [base.name("v1"), mirror.name("v1")]
        mirrors = f"[{names[1]}, {down}, {silent.name('v1')}]"
        wanted = {"image.mirrors": mirrors, "timeouts.registry": "2"}
        locked = cli.json("images", "lock", **wanted)
        assert (locked["image"], locked["digest"]) == (names[0], digest)
        assert locked["verified_with"] == names
        assert locked["changed"] is True
        assert set(locked["silent"]) == {down, silent.name("v1")}
        assert "no answer within 2 s" in locked["silent"][silent.name("v1")]
    found = read(cli.state)
    assert list(found) == [names[0]]
    assert found[names[0]]["digest"] == digest
    assert found[names[0]]["verified_with"] == names
    before = (cli.state / LOCK).read_bytes()
    assert cli.json("images", "lock")["changed"] is False
    assert (cli.state / LOCK).read_bytes() == before
    assert cli.json("plan")["image_source"]["digest"] == digest


def test_registries_that_disagree_lock_nothing(cli: Cli, base: Registry, mirror: Registry) -> None:
    digests = base.publish("v1", "right"), mirror.publish("v1", "poisoned")
    message = refused(cli, "image-digest-differs", 93, "images", "lock")
    assert f"{base.name('v1')}: {digests[0]}" in message
    assert f"{mirror.name('v1')}: {digests[1]}" in message
    assert list(cli.state.iterdir()) == []


def test_another_digest_is_locked_only_by_force(cli: Cli, base: Registry, mirror: Registry) -> None:
    old = base.publish("v1", "one")
    mirror.publish("v1", "one")
    cli.json("images", "lock")
    base.publish("v1", "one", "test/other")
    beside = {"image.base": base.name("v1", "test/other"), "image.mirrors": "[]"}
    assert cli.json("images", "lock", **beside)["changed"] is True
    before = (cli.state / LOCK).read_bytes()
    new = base.publish("v1", "two")
    mirror.publish("v1", "two")
    message = refused(cli, "file-differs", 87, "images", "lock")
    assert f"- {old}" in message
    assert f"+ {new}" in message
    assert (cli.state / LOCK).read_bytes() == before
    assert cli.json("images", "lock", "--force")["digest"] == new
    found = {name: row["digest"] for name, row in read(cli.state).items()}
    assert found == {base.name("v1"): new, base.name("v1", "test/other"): old}


def test_an_image_on_the_host_must_agree_as_well(
    cli: Cli, base: Registry, mirror: Registry
) -> None:
    old = base.publish("v1", "one")
    mirror.publish("v1", "one")
    docker("pull", mirror.name("v1"))
    assert cli.json("images", "lock")["verified_with"][-1] == "this host"
    (cli.state / LOCK).unlink()
    new = base.publish("v1", "moved")
    mirror.publish("v1", "moved")
    message = refused(cli, "image-digest-differs", 93, "images", "lock")
    assert f"{mirror.name('v1')} on this host: {old}" in message
    assert new in message


def test_without_a_registry_the_pulled_image_suffices(
    cli: Cli, base: Registry, mirror: Registry
) -> None:
    digest = base.publish("v1", "one")
    docker("pull", base.name("v1"))
    base.stop()
    mirror.stop()
    locked = cli.json("images", "lock")
    assert (locked["digest"], locked["verified_with"]) == (digest, ["this host"])


def test_an_image_that_was_loaded_has_no_digest_to_lock(
    cli: Cli, base: Registry, mirror: Registry
) -> None:
    digest = base.publish("v1", "one")
    mirror.stop()
    if not carry(cli.state, base):
        assert cli.json("images", "lock")["digest"] == digest
        return
    message = refused(cli, "image-unavailable", 72, "images", "lock")
    assert f"{base.name('v1')} on this host was loaded or built" in message
    assert not (cli.state / LOCK).exists()


def test_the_list_tells_names_digests_and_what_is_here(
    cli: Cli, base: Registry, mirror: Registry
) -> None:
    digest = base.publish("v1", "one")
    mirror.publish("v1", "one")
    cli.json("images", "lock")
    docker("pull", mirror.name("v1"))
    rows = {row["image"]: row for row in cli.json("images", "list")}
    assert [row["role"] for row in rows.values()] == ["appliance", "base", "mirror"]
    assert (rows[base.name("v1")]["digest"], rows[base.name("v1")]["here"]) == (digest, None)
    assert rows[mirror.name("v1")]["here"]["digests"] == [digest]
    base.publish("v1", "other")
    docker("pull", base.name("v1"))
    assert "not the locked one" in cli.run("images", "list").stdout


# Pulling


def test_without_a_lock_registries_must_agree(host: Host, base: Registry, mirror: Registry) -> None:
    base.publish("v1", "right")
    mirror.publish("v1", "poisoned")
    with pytest.raises(ApplianceError) as caught:
        host.builder.pull(host.names)
    assert caught.value.id == "image-digest-differs"
    assert host.engine.image(base.name("v1")) is None
    digest = mirror.publish("v1", "right")
    assert host.builder.pull(host.names) == f"{base.name('v1')}@{digest}"
    assert content(base.name("v1")) == "right"


def test_the_next_registry_serves_where_one_lacks_the_locked_content(
    host: Host, base: Registry, mirror: Registry
) -> None:
    """The first has moved its tag and holds the old content no more."""
    digest = base.publish("v1", "old")
    mirror.publish("v1", "old")
    base.forget(digest)
    base.publish("v1", "new")
    mirror.publish("v1", "newer still")
    assert host.builder.pull(host.names, digest) == f"{mirror.name('v1')}@{digest}"
    assert content(mirror.name("v1")) == "old"


@pytest.mark.parametrize("failure", ["down", "silent", "without blobs"])
def test_the_next_registry_serves_where_one_fails(
    host: Host, base: Registry, mirror: Registry, failure: str
) -> None:
    digest = base.publish("v1", "one")
    mirror.publish("v1", "one")
    if failure == "down":
        base.stop()
    elif failure == "silent":
        base.hangs.set()
    else:
        base.without_blobs = True
    assert host.builder.pull(host.names, digest) == f"{mirror.name('v1')}@{digest}"
    repository = mirror.name("v1").rpartition(":")[0]
    assert set(host.engine.digests(mirror.name("v1")) or ()) == {f"{repository}@{digest}"}


def test_a_digest_that_no_registry_has_is_named(
    host: Host, base: Registry, mirror: Registry
) -> None:
    digest = base.publish("v1", "old")
    base.forget(digest)
    base.publish("v1", "new")
    mirror.stop()
    docker("pull", base.name("v1"))
    with pytest.raises(ApplianceError) as caught:
        host.builder.pull(host.names, digest)
    assert caught.value.id == "image-unavailable"
    assert digest in caught.value.message
    assert "manifest unknown" in caught.value.message
    assert f"{base.name('v1')} on this host is another image" in caught.value.message


# Building


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with the real Dockerfile but for its steps, which a base of one file can't run."""
    root = tmp_path / "checkout"
    root.mkdir()
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    text, count = re.subn(r"^RUN (?:.*\\\n)*.*\n", "", text, flags=re.MULTILINE)
    assert count == 3
    (root / "Dockerfile").write_text(text, encoding="utf-8")
    monkeypatch.setattr(paths, "checkout", lambda: root)
    return root


@pytest.mark.usefixtures("checkout")
def test_the_image_is_built_on_the_locked_content_and_says_so(
    host: Host, base: Registry, mirror: Registry, label: str
) -> None:
    old = base.publish("v1", "old")
    mirror.publish("v1", "old")
    base.publish("v1", "new")
    docker("pull", base.name("v1"))
    name = f"{label}:1"
    built = host.builder.ensure(host.plan(name, old))
    assert content(name) == "old"
    assert any("is another image" in line and "not used" in line for line in host.lines)
    labels = host.engine.image(name)
    assert labels is not None
    assert labels.labels[images.LABEL_BASE_DIGEST] == old
    assert labels.labels[images.LABEL_BASE] == f"{base.name('v1')}@{old}"
    assert images.current(host.engine, host.plan(name, old)) == built
    # As it was made it does for nobody who locked another digest, but for all who locked none.
    assert images.current(host.engine, host.plan(name, f"sha256:{'0' * 64}")) is None
    assert images.current(host.engine, host.plan(name, None)) == built


@pytest.mark.usefixtures("checkout")
def test_with_the_locked_base_here_a_build_needs_no_registry(
    host: Host, base: Registry, mirror: Registry, label: str
) -> None:
    digest = base.publish("v1", "one")
    mirror.publish("v1", "one")
    host.builder.pull(host.names[1:], digest)
    base.stop()
    mirror.stop()
    host.lines.clear()
    host.builder.ensure(host.plan(f"{label}:1", digest))
    assert content(f"{label}:1") == "one"
    assert not any("asking the registries" in line for line in host.lines)


@pytest.mark.usefixtures("checkout")
def test_a_base_pulled_from_elsewhere_and_renamed_is_known_by_its_digest(
    host: Host, base: Registry, mirror: Registry, label: str
) -> None:
    digest = mirror.publish("v1", "one", "somewhere/else")
    docker("pull", mirror.name("v1", "somewhere/else"))
    docker("tag", mirror.name("v1", "somewhere/else"), base.name("v1"))
    base.stop()
    mirror.stop()
    plan = host.plan(f"{label}:1", digest)
    assert host.builder.ensure(plan) == images.current(host.engine, plan)


@pytest.mark.usefixtures("checkout")
def test_a_base_that_was_loaded_is_not_taken_for_the_locked_one(
    host: Host, base: Registry, mirror: Registry, label: str, tmp_path: Path
) -> None:
    digest = base.publish("v1", "one")
    mirror.stop()
    lost = carry(tmp_path, base)
    plan = dataclasses.replace(
        host.plan(f"{label}:1", digest), local_image="x:1", local_dockerfile="Dockerfile"
    )
    if lost:
        with pytest.raises(ApplianceError) as caught:
            host.builder.ensure(plan)
        assert caught.value.id == "image-unavailable"
        assert "was loaded or built" in caught.value.message
        # Without a lock it is the operator's own choice of a base.
        host.builder.ensure(dataclasses.replace(plan, digest=None))
    else:
        host.builder.ensure(plan)
    built = host.engine.image(plan.name)
    assert built is not None
    assert built.labels[images.LABEL_BASE_DIGEST] == ("" if lost else digest)


@pytest.mark.usefixtures("checkout")
def test_locking_what_an_image_was_built_on_changes_nothing(
    host: Host, base: Registry, mirror: Registry, label: str
) -> None:
    """Whoever builds first and locks later need not build again."""
    digest = base.publish("v1", "one")
    mirror.publish("v1", "one")
    built = host.builder.ensure(host.plan(f"{label}:1", None))
    assert images.current(host.engine, host.plan(f"{label}:1", digest)) == built
    # The same with a base that was pulled by hand, by its tag.
    docker("rmi", "--force", built, image_id(base.name("v1")))
    docker("pull", base.name("v1"))
    built = host.builder.ensure(host.plan(f"{label}:1", None))
    assert images.current(host.engine, host.plan(f"{label}:1", digest)) == built


# An image that is run as it is


def test_a_rendered_file_pins_the_image_and_compose_pulls_that(
    cli: Cli, base: Registry, host: Host
) -> None:
    name = base.name("v1", "test/appliance")
    settings = {"image.name": name}
    plain = Cli(cli.state, {"name": "e2e-images", "platform": "cpu", **settings})
    digest = base.publish("v1", "old", "test/appliance")
    assert plain.json("images", "lock")["image"] == name
    base.publish("v1", "moved", "test/appliance")
    pinned = f"{name}@{digest}"
    assert plain.json("plan")["image"] == pinned
    assert pinned in plain.run("render", "run").stdout
    text = plain.run("render", "compose").stdout
    services = yaml.safe_load(text)["services"]
    assert [service["image"] for service in services.values()] == [pinned]
    file = cli.state / "compose.yaml"
    file.write_text(text, encoding="utf-8")
    try:
        docker("compose", "--file", str(file), "--project-name", "e2e-images", "create")
        made = docker("inspect", "--type", "container", "--format", "{{.Image}}", "e2e-images")
        assert made.strip() == image_id(pinned)
        assert content(pinned) == "old"
    finally:
        docker("rm", "--force", "e2e-images", check=False)
        docker("compose", "--file", str(file), "--project-name", "e2e-images", "down", "--volumes")
    plan = ImagePlan(name, None, digest=digest)
    assert images.current(host.engine, plan) == image_id(pinned)


def test_an_image_that_is_run_as_it_is_is_pulled_by_its_digest(host: Host, base: Registry) -> None:
    name = base.name("v1", "test/appliance")
    digest = base.publish("v1", "old", "test/appliance")
    base.publish("v1", "moved", "test/appliance")
    docker("pull", name)
    plan = ImagePlan(name, None, digest=digest)
    assert images.current(host.engine, plan) is None
    assert host.builder.ensure(plan) == image_id(plan.reference)
    assert content(plan.reference) == "old"
