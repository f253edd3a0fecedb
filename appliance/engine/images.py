"""Comes by the appliance image: as it is, pulled, or built on a base that is pulled or built."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from appliance import paths
from appliance.engine import lock
from appliance.engine.command import run
from appliance.engine.install import debian_mirror
from appliance.errors import ApplianceError
from appliance.plan.model import pinned

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from appliance.config.model import Config
    from appliance.engine.docker import Engine
    from appliance.plan.model import ImagePlan

# What the names of images begin with that are made here for others to be built on.
OWN = "qwen3-omni-appliance"
LABEL_CONTEXT = "appliance.context-hash"
LABEL_BASE = "org.opencontainers.image.base.name"
LABEL_BASE_DIGEST = "org.opencontainers.image.base.digest"
# What the image is made of: a change in any of these makes another image.
CONTEXT = (
    ".dockerignore", "Dockerfile", "LICENSE", "appliance", "healthchecks", "image",
    "pyproject.toml", "requirements", "templates",
)  # fmt: skip
# The host's own trust store serves the build as well: what the host trusts, it trusts.
CA_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
)
# Unpacked size of a vLLM base plus the layer, and what building needs beside it.
BUILD_BYTES = 12 * 1024**3
LAYER_BYTES = 1024**3


@dataclass(frozen=True)
class Builder:
    """What coming by an image needs: the engine, the operator's options, a place for lines."""

    engine: Engine
    config: Config
    on_line: Callable[[str], None]

    def ensure(self, plan: ImagePlan) -> str:
        """Return the id of the image that the plan names, after coming by it if need be."""
        if (found := current(self.engine, plan)) is not None:
            return found
        if plan.base is None:
            self.pull(plan.names, plan.digest)
        else:
            self.build(plan)
        image = self.engine.image(plan.reference)
        if image is None:
            raise ApplianceError("image-unavailable", f"There is no image {plan.reference}.")
        return image.id

    def build(self, plan: ImagePlan) -> None:
        """Build the appliance image; raises image-build-failed, image-unavailable, disk-full."""
        root = paths.checkout()
        if root is None:
            stale = self.engine.image(plan.name) is not None
            why = f"is not built on {plan.digest}" if stale else "is not here"
            raise ApplianceError(
                "not-a-checkout", f"The image {plan.name} {why} and can't be built here."
            )
        if plan.base is None:
            raise ApplianceError(
                "config-invalid", "`image.name` names an image to be run as it is.", "Unset it."
            )
        here = base_here(self.engine, plan, root)
        if here is None and plan.digest is not None:
            for sentence in self._others(plan.names, plan.digest):
                self.on_line(f"{sentence} It is not used.")
        refuse_full_disk(self.engine, LAYER_BYTES if here else BUILD_BYTES)
        base = here or self._fetch_base(plan, root)
        arguments = {
            "BASE_IMAGE": base,
            "BASE_DIGEST": plan.digest or self._digest(base),
            "BASE_ENTRYPOINT": plan.base_entrypoint,
            "CONTEXT_HASH": context_hash(root, plan),
        }
        self.buildx(root / "Dockerfile", root, plan.name, arguments)

    def pull(self, names: Sequence[str], digest: str | None = None) -> str:
        """Pull one image that has several names; return it as `NAME@DIGEST`.

        It comes from the first registry that has it: the content of `digest`, else the one that
        all registries agree on. Raises image-digest-differs; image-unavailable when none
        answers within `timeouts.registry` seconds.
        """
        self.on_line(f"asking the registries of {', '.join(names)}")
        references = [pinned(name, digest) for name in names]
        answers = lock.ask(self.engine, references, self.config.timeouts.registry)
        said = list(zip(names, answers.values(), strict=True))
        having = [
            (name, a.digest) for name, a in said if a.digest and a.digest == (digest or a.digest)
        ]
        lock.agreed(having)
        why = [f"{name}: {answer.why}" for name, answer in said if answer.digest is None]
        for name, found in having:
            try:
                return self._pull(name, found)
            except ApplianceError as error:
                if error.id != "image-unavailable":
                    raise
                self.on_line(error.message)
                why.append(error.message)
        what = f"No registry gives {names[0]}{f' of the digest {digest}' if digest else ''}."
        raise ApplianceError(
            "image-unavailable",
            "\n  ".join([what, *why, *self._others(names, digest)]),
            "Check the network or the proxy, name a mirror in `image.mirrors`, or take the digest "
            "out of the lock file."
            if digest
            else None,
        )

    def _pull(self, name: str, digest: str) -> str:
        """Pull content by its digest, whatever the name stands for by then, and name it so."""
        reference = pinned(name, digest)
        timeout, what = self.config.timeouts.pull, f"Pulling {reference}"
        self._run(["docker", "pull", reference], "image-unavailable", what, timeout=timeout)
        if "@" not in name:
            # Pulled by a digest alone it has no name, and looks like something to be pruned.
            self.engine.tag(reference, name)
        return reference

    def _others(self, names: Sequence[str], digest: str | None) -> list[str]:
        """Return a sentence for each local image that has the name, but not the digest."""
        found = []
        for name in names if digest else ():
            known = lock.known_here(self.engine, name)
            if known and digest not in known:
                found.append(f"{name} on this host is another image, {min(known)}.")
            elif known is not None and not known:
                found.append(
                    f"{name} on this host was loaded or built, and has no registry's digest: it "
                    "can't be told to be the locked one."
                )
        return found

    def _digest(self, base: str) -> str:
        """Return the digest of a base, empty where no registry, or more than one, gave it."""
        if "@" in base:
            return base.partition("@")[2]
        known = lock.known_here(self.engine, base) or set()
        return known.pop() if len(known) == 1 else ""

    def _fetch_base(self, plan: ImagePlan, root: Path) -> str:
        """Pull a base image, or build it where no registry gives it; return its reference."""
        try:
            return self.pull(plan.names, plan.digest)
        except ApplianceError as error:
            # What is built here is never what a digest names.
            if error.id != "image-unavailable" or not plan.local_image or plan.digest:
                raise
            self.on_line(f"{error.message} Building the base here instead.")
        return self._local_base(plan, root)

    def _local_base(self, plan: ImagePlan, root: Path) -> str:
        """Build the base image from Debian and Python packages."""
        image, dockerfile, debian = plan.local_image, plan.local_dockerfile, plan.local_debian
        assert image and dockerfile and debian  # noqa: S101, PT018 (given together)
        arguments = {
            "DEBIAN_IMAGE": self.debian(debian, plan.local_debian_suite or ""),
            "CONTEXT_HASH": file_hash(root / dockerfile),
            **self.apt_mirror(),
        }
        with tempfile.TemporaryDirectory() as empty:
            self.buildx(root / dockerfile, Path(empty), image, arguments)
        return image

    def debian(self, image: str, suite: str) -> str:
        """Return a reference of Debian's base image: what is here, or pulled, or made here."""
        homemade = made_here(image)
        if self.engine.image(image) is None and self.engine.image(homemade) is None:
            try:
                self.pull([image])
            except ApplianceError as error:
                if error.id != "image-unavailable":
                    raise
                self._debootstrap(homemade, suite)
        return homemade if self.engine.image(image) is None else image

    def apt_mirror(self) -> dict[str, str]:
        """Return the build argument of the operator's Debian mirror, where there is one."""
        mirror = self.config.build.apt_mirror
        return {"APT_MIRROR": mirror} if mirror else {}

    def _debootstrap(self, image: str, suite: str) -> None:
        """Make Debian's base image from its packages."""
        mirror = self.config.build.apt_mirror or debian_mirror()
        if os.geteuid() != 0 or mirror is None:
            raise ApplianceError(
                "image-unavailable",
                f"No registry has {image}, and only root with a Debian mirror can make it here.",
                "Set `build.apt_mirror` and run as root, or load a vLLM image by hand and name "
                "it in `image.base`.",
            )
        if shutil.which("debootstrap") is None and shutil.which("apt-get"):
            install = ["apt-get", "-qq", "--option=Dpkg::Use-Pty=0", "install", "--yes"]
            self._run([*install, "debootstrap"], "image-build-failed", "Installing debootstrap")
        with tempfile.TemporaryDirectory() as folder:
            tree = f"{folder}/rootfs"
            archive = f"{folder}/rootfs.tar"
            failed, what = "image-build-failed", f"Making {image} from packages"
            self._run(["debootstrap", "--variant=minbase", suite, tree, mirror], failed, what)
            self._run(["tar", "-C", tree, "-c", "-f", archive, "."], failed, what)
            self._run(["docker", "import", archive, image], failed, what)

    def buildx(self, dockerfile: Path, context: Path, tag: str, arguments: dict[str, str]) -> None:
        """Build an image with the operator's proxies, CA bundle and index.

        Raises image-build-failed.
        """
        command = ["docker", "buildx", "build", "--progress", "plain", "--load", "--tag", tag]
        command += ["--file", str(dockerfile)]
        if bundle := ca_bundle(self.config):
            command += ["--secret", f"id=ca,src={bundle}"]
        for name, text in arguments.items():
            command += ["--build-arg", f"{name}={text}"]
        # By name alone, and the index as a secret: such an address may hold a password, which
        # would stand in the process list, or in the image's history. Docker keeps its own
        # proxy arguments out of that.
        for name in proxies(self.config):
            command += ["--build-arg", name]
        environment = {}
        if index := self.config.build.pip_index_url:
            command += ["--secret", "id=pip_index_url,env=BUILD_PIP_INDEX_URL"]
            environment["BUILD_PIP_INDEX_URL"] = index
        self._run([*command, str(context)], "image-build-failed", f"Building {tag}", environment)

    def _run(
        self,
        command: list[str],
        error: str,
        what: str,
        environment: dict[str, str] | None = None,
        *,
        timeout: float | None = None,
    ) -> None:
        run(
            command,
            error=error,
            what=what,
            timeout=timeout or self.config.timeouts.build,
            on_line=self.on_line,
            environment={
                **os.environ,
                "DEBIAN_FRONTEND": "noninteractive",
                **proxies(self.config),
                **(environment or {}),
            },
        )


def current(engine: Engine, plan: ImagePlan) -> str | None:
    """Return the image's id if it is there and made of what the checkout holds, else `None`."""
    found = engine.image(plan.reference)
    if found is None:
        return None
    if plan.base is None:
        return found.id
    # By its digest a base is known from everywhere; without one, by its names.
    if plan.digest is not None:
        same_base = found.labels.get(LABEL_BASE_DIGEST) == plan.digest
    else:
        names = [name.partition("@")[0] for name in (*plan.names, plan.local_image or plan.base)]
        same_base = found.labels.get(LABEL_BASE, "").partition("@")[0] in names
    root = paths.checkout()
    if root is None:
        # Nothing can be built here: only what is known to be wrong is refused.
        return found.id if same_base or plan.digest is None else None
    same_context = found.labels.get(LABEL_CONTEXT) == context_hash(root, plan)
    return found.id if same_base and same_context else None


def base_here(engine: Engine, plan: ImagePlan, root: Path) -> str | None:
    """Return a reference of a base image that is on this host, and is up to date."""
    if plan.digest is not None:
        return _pinned_here(engine, plan.names, plan.digest)
    for name in plan.names:
        if engine.image(name) is not None:
            return name
    if plan.local_image and plan.local_dockerfile:
        local = engine.image(plan.local_image)
        wanted = file_hash(root / plan.local_dockerfile)
        if local is not None and local.labels.get(LABEL_CONTEXT) == wanted:
            return plan.local_image
    return None


def _pinned_here(engine: Engine, names: Sequence[str], digest: str) -> str | None:
    """Return a reference with this digest that the engine has, if it has one."""
    for name in names:
        # Perhaps pulled from elsewhere and named by hand: the content is what counts. By
        # its name then, since builds look for `NAME@DIGEST` among what was pulled as that.
        if digest in (lock.known_here(engine, name) or ()):
            return name
        if engine.image(pinned(name, digest)) is not None:
            return pinned(name, digest)
    return None


def made_here(debian: str) -> str:
    """Return the name of Debian's base image where this host makes it.

    Not Debian's own name, which other builds on this engine may use.
    """
    return f"{OWN}/{debian}"


def context_hash(root: Path, plan: ImagePlan) -> str:
    """Return a hash over all that an image is made of but its base."""
    digest = hashlib.sha256(f"{plan.base_entrypoint}\0".encode())
    for name in CONTEXT:
        top = root / name
        files = sorted(top.rglob("*")) if top.is_dir() else [top]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"{file.relative_to(root)}\0".encode())
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def proxies(config: Config) -> dict[str, str]:
    """Return the proxy variables of a build: the operator's, else this process's, set ones."""
    options = config.build
    wanted = {
        "HTTP_PROXY": options.http_proxy,
        "HTTPS_PROXY": options.https_proxy,
        "NO_PROXY": options.no_proxy,
    }
    found = {}
    for name, value in wanted.items():
        # Either spelling is in use; programs differ in which they read.
        if used := value or os.environ.get(name) or os.environ.get(name.lower()):
            found[name] = found[name.lower()] = used
    return found


def file_hash(path: Path) -> str:
    """Return the hash of one file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def ca_bundle(config: Config) -> str | None:
    """Return the CA bundle that builds trust: the operator's, else the host's."""
    if config.build.ca_bundle is not None:
        if not Path(config.build.ca_bundle).is_file():
            raise ApplianceError(
                "config-invalid", f"build.ca_bundle: there is no file {config.build.ca_bundle}."
            )
        return config.build.ca_bundle
    return next((name for name in CA_BUNDLES if Path(name).is_file()), None)


def refuse_full_disk(engine: Engine, needed: int) -> None:
    """Raise disk-full when the engine's disk has less than `needed` bytes left."""
    root = engine.data_root()
    try:
        free = shutil.disk_usage(root).free
    except OSError:
        return  # The engine is on another machine: its disk is not ours to see.
    if free < needed:
        raise ApplianceError(
            "disk-full",
            f"Building the image needs {needed / 1024**3:.0f} GiB in {root}; "
            f"{free / 1024**3:.1f} GiB are free.",
        )
