"""Comes by the evaluation's image: evalscope on top of the image that serves."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from appliance import paths
from appliance.engine import docker, images
from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from appliance.engine.docker import Engine
    from appliance.engine.images import Builder

DOCKERFILE = "Dockerfile.eval"
# All that the layers are made of, beside the image below them.
CONTEXT = (
    DOCKERFILE,
    "appliance/inside/evaluate.py",
    "image/evalenv.py",
    "image/trust.sh",
    "requirements/eval.txt",
)
# The environment, once unpacked and once as a layer.
BUILD_BYTES = 3 * 1024**3


def name_of(image: str) -> str:
    """Return the name of the evaluation's image that belongs to an appliance image."""
    name = image.partition("@")[0]
    _, colon, tag = name.rpartition(":")
    # A colon before a slash is a registry's port.
    return f"{name}-eval" if colon and "/" not in tag else f"{name}:eval"


def ensure(builder: Builder, image: str, image_id: str) -> str:
    """Return the name of the evaluation's image on top of an image, built if need be.

    `image` is the name that the image with this id went by when its container was made; another
    may have it by now. Raises not-a-checkout, image-build-failed, disk-full.
    """
    engine, name = builder.engine, name_of(image)
    root = paths.checkout()
    found = engine.image(name)
    if root is None:
        if found is None:
            raise ApplianceError(
                "not-a-checkout",
                f"evalscope's image {name} is not here, and only a clone of the project can build "
                "it.",
                f"Run `appliance eval` in a clone; or bring the image from a host that has it: "
                f"docker save {name}, then docker load.",
            )
        return name
    wanted = _hash(root, image_id)
    if found is not None and found.labels.get(images.LABEL_CONTEXT) == wanted:
        return name
    images.refuse_full_disk(engine, BUILD_BYTES)
    with _named(engine, image, image_id, f"{name}-base") as below:
        arguments = {
            "APPLIANCE_IMAGE": below,
            "ENVIRONMENT_BASE": _base(engine, image_id) or below,
            "CONTEXT_HASH": wanted,
        }
        builder.buildx(root / DOCKERFILE, root, name, arguments)
    if found is not None:
        engine.discard(found.id)
    return name


def _hash(root: Path, image_id: str) -> str:
    digest = hashlib.sha256(f"{image_id}\0".encode())
    for part in CONTEXT:
        digest.update(f"{part}\0{images.file_hash(root / part)}\0".encode())
    return digest.hexdigest()


@contextmanager
def _named(engine: Engine, image: str, image_id: str, otherwise: str) -> Iterator[str]:
    """Give a name of the image with this id, for as long as it is built on: builds take no id."""
    found = engine.image(image)
    if found is not None and found.id == image_id:
        yield image
        return
    left = engine.image(otherwise)
    engine.tag(image_id, otherwise)
    try:
        yield otherwise
    finally:
        with suppress(ApplianceError), docker.translated():
            # The image itself stays: a container runs from it, or the new one is made of it.
            engine.client.api.remove_image(otherwise, force=True)
        if left is not None and left.id != image_id:
            engine.discard(left.id)


def _base(engine: Engine, image_id: str) -> str | None:
    """Return what an appliance image was built on, if that is here.

    evalscope's layer then outlives a change of the launcher. An image that was pulled as it is
    came without its base.
    """
    found = engine.image(image_id)
    base = found.labels.get(images.LABEL_BASE) if found is not None else None
    return base if base and engine.image(base) is not None else None
