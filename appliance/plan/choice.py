"""What is decided first, and everything else follows from: platform, product, release, model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from appliance.catalog import load as catalog
from appliance.errors import ApplianceError
from appliance.plan import ascend, names, ports, profile
from appliance.plan.model import ModelPlan

if TYPE_CHECKING:
    from appliance.config.model import Config
    from appliance.inventory.model import Inventory
    from appliance.plan.ports import Ports

# Where bundled models are, seen from a rendered file, when there is no checkout to point to.
RELATIVE_MODELS = "./models"


@dataclass(frozen=True)
class Choice:
    """What was decided first and everything else follows from."""

    platform_name: Literal["ascend", "cpu"]
    platform: catalog.Platform
    product_name: str
    product: catalog.Product | None
    release_name: str
    release: catalog.Release
    model: ModelPlan
    known_model: catalog.Model | None
    ranks: int
    data_parallel_size: int
    expert_parallel: bool
    ports: Ports


def platform_name(config: Config, inventory: Inventory) -> Literal["ascend", "cpu"]:
    """Return the platform that is asked for, else the one that the host has."""
    if config.platform != "auto":
        return config.platform
    return "cpu" if inventory.product == "none" and not config.product else "ascend"


def choose(config: Config, inventory: Inventory, models_dir: str | None) -> Choice:
    """Decide; raises `ApplianceError` where config, host and catalog do not fit together."""
    name = platform_name(config, inventory)
    platform = catalog.platforms()[name]
    product_name = ascend.product_name(config, inventory) if name == "ascend" else "none"
    release_name = config.release or platform.release
    if release_name not in catalog.releases():
        raise ApplianceError(
            "config-invalid",
            f"release {release_name} is not known.",
            f"Known releases: {', '.join(catalog.releases())}.",
        )
    model = _model(config, platform, models_dir)
    known = catalog.models().get(model.id)
    if known is not None and name not in known.platforms:
        raise ApplianceError(
            "host-unsupported",
            f"{model.id} does not run on the platform {name}.",
            f"It runs on {', '.join(known.platforms)}; here the default is {platform.model}. To "
            "prepare for another host, name it: `platform: ascend`, `product: atlas-a2`.",
        )
    if known is not None and name == "ascend" and product_name not in known.products:
        listed = " and ".join(catalog.products()[item].title for item in known.products)
        raise ApplianceError(
            "host-unsupported",
            f"vllm-ascend lists {model.id} for {listed} only; this host is "
            f"{catalog.products()[product_name].title}.",
            "Use one of those hosts; or serve another model that is listed for this one.",
        )
    if name == "cpu":
        _refuse_npu_settings(config)
    layout = profile.layout(config, name, inventory)
    return Choice(
        platform_name=name,
        platform=platform,
        product_name=product_name,
        product=catalog.products().get(product_name),
        release_name=release_name,
        release=catalog.releases()[release_name],
        model=model,
        known_model=known,
        ranks=layout.tensor_parallel_size,
        data_parallel_size=config.parallel.data_parallel_size,
        expert_parallel=layout.expert_parallel,
        ports=ports.allot(config, inventory),
    )


def _refuse_npu_settings(config: Config) -> None:
    """Refuse what only NPUs can do; raises config-invalid."""
    wanted = {
        "container.runtime: ascend": config.container.runtime == ascend.RUNTIME,
        # vLLM's CPU kernels ignore the expert map, or end with a segmentation fault.
        "parallel.expert_parallel: true": config.parallel.expert_parallel is True,
        "parallel.data_parallel_size": config.parallel.data_parallel_size > 1,
    }
    if found := [key for key, given in wanted.items() if given]:
        raise ApplianceError(
            "config-invalid",
            f"`{'`, `'.join(found)}` can't be had on the platform cpu.",
            "Leave it out, or set `platform` to ascend.",
        )


def _model(config: Config, platform: catalog.Platform, models_dir: str | None) -> ModelPlan:
    wanted = config.model
    if wanted.path is not None:
        folder = wanted.path.rstrip("/").rpartition("/")[2]
        # A copy of a known model is that model, wherever it lies.
        known_ids = (name for name in catalog.models() if name.rpartition("/")[2] == folder)
        model_id = wanted.id or next(known_ids, folder)
        served = wanted.served_name or model_id
        target = f"{names.MODELS_DIR}/{folder}"
        return ModelPlan(model_id, served, "path", wanted.path, target, wanted.revision)
    model_id = wanted.id or platform.model
    served = wanted.served_name or model_id
    target = f"{names.MODELS_DIR}/{model_id.rpartition('/')[2]}"
    known = catalog.models().get(model_id)
    if known is not None and known.bundled:
        host = f"{models_dir or RELATIVE_MODELS}/{model_id}"
        return ModelPlan(model_id, served, "bundled", host, target, None)
    # The layout of ModelScope's library up to 1.37, which the guide's evaluation names and
    # newer ones still find.
    owner, slash, name = model_id.rpartition("/")
    host = f"{config.cache.dir}/hub/models/{owner}{slash}{name.replace('.', '___')}"
    return ModelPlan(model_id, served, "hub", host, target, wanted.revision)
