"""Builds the image of the smoke probes: Python, httpx and the probes, to run anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance import paths
from appliance.catalog.load import platforms
from appliance.engine import images
from appliance.errors import ApplianceError
from appliance.plan.image import SMOKE_IMAGE

if TYPE_CHECKING:
    from appliance.engine.images import Builder

DOCKERFILE = "Dockerfile.smoke"
# As in the Dockerfile, where it is the default for builds without the launcher.
BASE = "python:3.12-slim"
BUILD_BYTES = 1024**3


def build(builder: Builder) -> None:
    """Build the smoke image; raises not-a-checkout, image-build-failed, image-unavailable."""
    root = paths.checkout()
    if root is None:
        raise ApplianceError(
            "not-a-checkout",
            f"The image {SMOKE_IMAGE} can only be built in a clone of the project.",
            f"Run `appliance build --smoke` in a clone; or bring the image from a host that has "
            f"it: docker save {SMOKE_IMAGE}, then docker load.",
        )
    images.refuse_full_disk(builder.engine, BUILD_BYTES)
    arguments = {"BASE_IMAGE": _base(builder), **builder.apt_mirror()}
    builder.buildx(root / DOCKERFILE, root, SMOKE_IMAGE, arguments)


def _base(builder: Builder) -> str:
    """Return the base: the official Python image, else the Debian of the host's own CPU base.

    What is on the host is used, so that a host without a registry asks for none twice.
    """
    local = platforms()["cpu"].local_base
    assert local is not None  # noqa: S101 (the catalog's, and tested)
    for name in (BASE, images.made_here(local.debian)):
        if builder.engine.image(name) is not None:
            return name
    try:
        return builder.pull([BASE])
    except ApplianceError as error:
        if error.id != "image-unavailable":
            raise
        builder.on_line(f"{error.message} Building on Debian instead.")
    return builder.debian(local.debian, local.debian_suite)
