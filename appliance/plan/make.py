"""Makes the plan: a pure function of config, inventory and catalog."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from appliance.catalog import load as catalog
from appliance.errors import ApplianceError
from appliance.plan import access, ascend, names
from appliance.plan.model import (
    Container,
    Device,
    Healthcheck,
    ImagePlan,
    ModelPlan,
    Mount,
    Plan,
    Port,
    Tmpfs,
    Ulimit,
)
from appliance.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from appliance.config.model import Config, Server
    from appliance.inventory.model import Inventory

# Where bundled models are, seen from a rendered file, when there is no checkout to point to.
RELATIVE_MODELS = "./models"
_UNITS = {"k": 1024, "m": 1024**2, "g": 1024**3}


@dataclass(frozen=True)
class _Choice:
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


def make(config: Config, inventory: Inventory, models_dir: str | None) -> Plan:
    """Make the plan of one deployment.

    `models_dir` is the host folder of the models that ship with the appliance, or `None`
    where the launcher runs without a checkout. Raises `ApplianceError` when the host or the
    configuration allows no plan.
    """
    choice = _choose(config, inventory, models_dir)
    access.check(config)
    devices: tuple[Device, ...] = ()
    driver: tuple[Mount, ...] = ()
    if choice.product is not None:
        devices = ascend.devices(choice.product, config, inventory, choice.ranks)
        driver = ascend.driver_mounts(choice.product, inventory)
    sources = [*(device.host for device in devices), *(mount.source for mount in driver)]
    if config.server.api_key_file is not None:
        sources.append(config.server.api_key_file)
    groups = access.groups(config, inventory, sources)
    expert_parallel = config.parallel.expert_parallel
    if expert_parallel is None:
        expert_parallel = choice.platform.expert_parallel
    image = _image(config, choice)
    args = _serve_args(config, choice, expert_parallel=expert_parallel)
    return Plan(
        platform=choice.platform_name,
        product=choice.product_name,
        release=choice.release_name,
        model=choice.model,
        image=image,
        container=dataclasses.replace(
            _container(config, choice, image.name, args, (devices, driver, groups)),
            api_key_stamp=_stamp(config, inventory),
        ),
        serve_args=args,
        tensor_parallel_size=choice.ranks,
        expert_parallel=expert_parallel,
        api_url=_api_url(config),
        api_key_file=config.server.api_key_file,
        warnings=(*access.warnings(config), *_warnings(config, choice, driver)),
    )


def _choose(config: Config, inventory: Inventory, models_dir: str | None) -> _Choice:
    name: Literal["ascend", "cpu"]
    if config.platform == "auto":
        name = "cpu" if inventory.product == "none" and not config.product else "ascend"
    else:
        name = config.platform
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
            f"It runs on {', '.join(known.platforms)}; here the default is {platform.model}.",
        )
    return _Choice(
        name,
        platform,
        product_name,
        catalog.products().get(product_name),
        release_name,
        catalog.releases()[release_name],
        model,
        known,
        config.parallel.tensor_parallel_size or platform.tensor_parallel_size,
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


def _image(config: Config, choice: _Choice) -> ImagePlan:
    if config.image.name is not None:
        return ImagePlan(config.image.name, None)
    platform = choice.platform
    suffix = choice.product.image_suffix if choice.product else "-cpu"

    def fill(text: str) -> str:
        return text.format(release=choice.release_name, suffix=suffix)

    local = platform.local_base if config.image.base is None else None
    return ImagePlan(
        name=f"qwen3-omni-appliance:{__version__}-{choice.release_name}{suffix}",
        base=config.image.base or fill(platform.base_image),
        mirrors=() if config.image.base else tuple(fill(name) for name in platform.mirrors),
        base_entrypoint=platform.base_entrypoint,
        local_dockerfile=local.dockerfile if local else None,
        local_image=fill(local.image) if local else None,
        local_debian=local.debian if local else None,
        local_debian_suite=local.debian_suite if local else None,
    )


def _serve_args(config: Config, choice: _Choice, *, expert_parallel: bool) -> tuple[str, ...]:
    server, known = config.server, choice.known_model
    host, port = ("0.0.0.0", names.API_PORT)  # noqa: S104 (the container's own network)
    if server.network == "host":
        host, port = server.bind, server.port
    args = [choice.model.container_path, "--served-model-name", choice.model.served_name]
    args += ["--host", host, "--port", str(port)]
    args += ["--tensor-parallel-size", str(choice.ranks)]
    if expert_parallel:
        args += ["--enable-expert-parallel"]
    if length := server.max_model_len or (known and known.max_model_len):
        args += ["--max-model-len", str(length)]
    if server.max_num_seqs is not None:
        args += ["--max-num-seqs", str(server.max_num_seqs)]
    if server.memory_utilization is not None:
        args += ["--gpu-memory-utilization", str(server.memory_utilization)]
    limits = _media_limits(server, known)
    if limits:
        compact = json.dumps(limits, sort_keys=True, separators=(",", ":"))
        args += ["--limit-mm-per-prompt", compact]
    parser = server.reasoning_parser or (known and known.reasoning_parser)
    if parser and parser != "none":
        args += ["--reasoning-parser", parser]
    domains = server.allowed_media_domains or [choice.release.no_media_domain]
    args += ["--allowed-media-domains", *domains]
    if server.api_key_file is not None:
        args += ["--middleware", names.KEY_MIDDLEWARE]
    for group in choice.platform.args:
        args += group
    return (*args, *server.extra_args)


def _media_limits(server: Server, known: catalog.Model | None) -> dict[str, int]:
    if server.limit_mm_per_prompt is not None:
        return {str(name): count for name, count in server.limit_mm_per_prompt.items()}
    return dict(known.limit_mm_per_prompt) if known else {}


def _environment(config: Config, choice: _Choice) -> tuple[tuple[str, str], ...]:
    host = "127.0.0.1"
    port = names.API_PORT
    if config.server.network == "host":
        host, port = access.reachable(config.server.bind), config.server.port
    values = {
        # The root file system is read-only: caches go to the volume, the rest to /tmp.
        "HOME": "/tmp",  # noqa: S108
        "XDG_CACHE_HOME": names.CACHE_DIR,
        "VLLM_CACHE_ROOT": f"{names.CACHE_DIR}/vllm",
        "TORCHINDUCTOR_CACHE_DIR": f"{names.CACHE_DIR}/torchinductor",
        "TRITON_CACHE_DIR": f"{names.CACHE_DIR}/triton",
        "NUMBA_CACHE_DIR": f"{names.CACHE_DIR}/numba",
        # The model is a folder: nothing may call home.
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HEALTHCHECKS_URL": f"http://{host}:{port}",
        **choice.release.environment,
        **choice.platform.environment,
        **config.container.environment,
    }
    return tuple(sorted(values.items()))


def _container(
    config: Config,
    choice: _Choice,
    image: str,
    serve_args: Sequence[str],
    host: tuple[tuple[Device, ...], tuple[Mount, ...], tuple[int, ...]],
) -> Container:
    devices, driver, groups = host
    limits, server = config.container, config.server
    mounts = [Mount("bind", choice.model.host_path, choice.model.container_path, read_only=True)]
    mounts += driver
    mounts.append(Mount("volume", f"{config.name}-cache", names.CACHE_DIR, read_only=False))
    if server.api_key_file is not None:
        mounts.append(Mount("bind", server.api_key_file, names.API_KEY_FILE, read_only=True))
    published = server.network == "bridge"
    return Container(
        name=config.name,
        image=image,
        command=(*names.START_COMMAND, "vllm", "serve", *serve_args),
        environment=_environment(config, choice),
        devices=devices,
        mounts=tuple(mounts),
        ports=(Port(server.bind, server.port, names.API_PORT),) if published else (),
        # exec: compilers put what they made there and load it.
        tmpfs=(Tmpfs("/tmp", "rw,exec,nosuid,nodev,mode=1777,size=4g"),),  # noqa: S108
        # None by default: an engine without the right to raise limits could not start.
        ulimits=tuple(Ulimit(name, value, value) for name, value in sorted(limits.ulimits.items())),
        healthcheck=Healthcheck(
            command="python3 -m healthchecks ready --timeout 15",
            interval=30,
            timeout=20,
            # Until then a failing check says nothing: as long as `up` waits.
            start_period=int(config.timeouts.ready),
            retries=3,
        ),
        network=server.network,
        restart=limits.restart,
        shm_size_bytes=_bytes(limits.shm_size or choice.platform.shm_size),
        memory_bytes=_bytes(limits.memory) if limits.memory else None,
        # Reaps what vLLM's workers leave behind, and passes signals on.
        init=True,
        privileged=limits.privileged,
        cap_drop=() if limits.privileged else ("ALL",),
        security_opt=() if limits.privileged else ("no-new-privileges:true",),
        group_add=groups,
        read_only=True,
        stop_signal="SIGINT",
        stop_timeout=config.timeouts.stop,
        log_driver="json-file",
        log_options=(("max-file", "3"), ("max-size", "50m")),
    )


def _warnings(config: Config, choice: _Choice, driver: Sequence[Mount]) -> tuple[str, ...]:
    found = []
    if config.container.privileged:
        found.append(
            "container.privileged is on: the container sees every device of the host, and "
            "nothing separates it from other users of the NPUs."
        )
    if choice.product is not None and not any(m.target.endswith("/npu-smi") for m in driver):
        found.append(
            "npu-smi is neither in /usr/local/bin nor in /usr/local/sbin: CPU binding and "
            "vLLM's NPU health check will be off."
        )
    if choice.platform_name == "cpu" and (config.npus is not None or config.product):
        found.append("`npus` and `product` mean nothing on the platform cpu.")
    if choice.model.source == "bundled" and choice.model.host_path.startswith(RELATIVE_MODELS):
        found.append(
            f"The model {choice.model.id} is expected in {choice.model.host_path}, beside the "
            "rendered file."
        )
    return tuple(found)


def _stamp(config: Config, inventory: Inventory) -> int | None:
    """Return what changes when the API key's file is written anew."""
    facts = inventory.files.get(config.server.api_key_file or "")
    return facts.modified_ns if facts else None


def _api_url(config: Config) -> str:
    return f"http://{access.reachable(config.server.bind)}:{config.server.port}"


def _bytes(size: str) -> int:
    return int(size[:-1]) * _UNITS[size[-1]]
