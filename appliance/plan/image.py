"""Which image is run and on what it is built: by product, operating system and release."""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.plan.model import ImagePlan
from appliance.version import __version__

if TYPE_CHECKING:
    from appliance.config.model import Config
    from appliance.plan.choice import Choice

# The host's own system is not asked. The driver's libraries, all that the image takes from the
# host, serve both; every documented recipe is for this one; and a configuration then means the
# same image on every host.
DEFAULT_OS = "ubuntu"
# The image of the probes alone, for CI: `appliance build --smoke` makes it, compose/smoke.yaml
# runs it.
SMOKE_IMAGE = f"qwen3-omni-smoke:{__version__}"


def image(config: Config, choice: Choice) -> ImagePlan:
    """Return the image of a deployment and how to come by it."""
    wanted, platform = config.image, choice.platform
    if wanted.name is not None:
        return ImagePlan(wanted.name, None, digest=_digest(config, wanted.name))
    suffix = "-cpu"
    if choice.product is not None:
        suffix = choice.product.image_suffix + platform.os_suffixes[wanted.os or DEFAULT_OS]

    def fill(text: str) -> str:
        return text.format(release=choice.release_name, suffix=suffix)

    base = wanted.base or fill(platform.base_image)
    mirrors = wanted.mirrors
    if mirrors is None:
        mirrors = [] if wanted.base else [fill(name) for name in platform.mirrors]
    local = platform.local_base if wanted.base is None else None
    return ImagePlan(
        name=f"qwen3-omni-appliance:{__version__}-{choice.release_name}{suffix}",
        base=base,
        mirrors=tuple(mirrors),
        digest=_digest(config, base),
        base_entrypoint=platform.base_entrypoint,
        local_dockerfile=local.dockerfile if local else None,
        local_image=fill(local.image) if local else None,
        local_debian=local.debian if local else None,
        local_debian_suite=local.debian_suite if local else None,
    )


def warnings(config: Config, choice: Choice) -> tuple[str, ...]:
    """Return what of the image's configuration has no effect here."""
    wanted = config.image
    found = []
    if wanted.os is not None and (choice.product is None or wanted.name or wanted.base):
        found.append("`image.os` means nothing but for the catalog's Ascend images.")
    if wanted.name is not None and (wanted.mirrors or wanted.base):
        found.append("`image.base` and `image.mirrors` mean nothing beside `image.name`.")
    return tuple(found)


def _digest(config: Config, name: str) -> str | None:
    """Return the digest that pins an image: its own name's, else the lock file's."""
    return name.partition("@")[2] or config.image.digests.get(name)
