"""Makes the plan: a pure function of config, inventory and catalog."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.plan import access, arguments, ascend, dies, fit, names, watching
from appliance.plan import image as images
from appliance.plan.choice import RELATIVE_MODELS, Choice, choose
from appliance.plan.model import (
    Container,
    Device,
    Healthcheck,
    Mount,
    Plan,
    Port,
    Tmpfs,
    Ulimit,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from appliance.config.model import Config
    from appliance.inventory.model import Inventory, Npu
    from appliance.plan.model import ImagePlan, ModelPlan

_UNITS = {"k": 1024, "m": 1024**2, "g": 1024**3}


def sources(
    config: Config, inventory: Inventory, models_dir: str | None
) -> tuple[ImagePlan, ModelPlan]:
    """Plan image and model alone, which can be fetched for a host whose dies are not free."""
    choice = choose(config, inventory, models_dir)
    return images.image(config, choice), choice.model


def make(config: Config, inventory: Inventory, models_dir: str | None) -> Plan:
    """Make the plan of one deployment.

    `models_dir` is the host folder of the models that ship with the appliance, or `None`
    where the launcher runs without a checkout. Raises `ApplianceError` when the host or the
    configuration allows no plan.
    """
    choice = choose(config, inventory, models_dir)
    access.check(config)
    watching.check(config)
    host = _host(config, inventory, choice)
    image = images.image(config, choice)
    args = arguments.serve(config, choice, inventory)
    variables = dict(arguments.environment(config, choice))
    room = fit.check(choice, host.dies, inventory, args, variables, host.available)
    return Plan(
        platform=choice.platform_name,
        product=choice.product_name,
        release=choice.release_name,
        model=choice.model,
        image=image,
        container=dataclasses.replace(
            _container(config, choice, image.reference, args, host),
            api_key_stamp=_stamp(config, inventory),
        ),
        serve_args=args,
        tensor_parallel_size=choice.ranks,
        data_parallel_size=choice.data_parallel_size,
        expert_parallel=choice.expert_parallel,
        memory=room.memory,
        api_port=choice.ports.api,
        api_url=_api_url(config, choice.ports.api),
        api_key_file=config.server.api_key_file,
        warnings=(
            *access.warnings(config),
            *arguments.warnings(config, choice, inventory),
            *images.warnings(config, choice),
            *dies.warnings(host.dies, inventory),
            *_blind(inventory),
            *(ascend.warnings(inventory) if choice.product else ()),
            *room.warnings,
            *_warnings(config, choice, host),
        ),
    )


@dataclass(frozen=True)
class _Host:
    """What of the host goes into the container."""

    dies: tuple[Npu, ...] = ()
    devices: tuple[Device, ...] = ()
    driver: tuple[Mount, ...] = ()
    groups: tuple[int, ...] = ()
    # How many dies the plan could have taken.
    available: int = 0


def _host(config: Config, inventory: Inventory, choice: Choice) -> _Host:
    key = (config.server.api_key_file,) if config.server.api_key_file else ()
    product = choice.product
    if product is None:
        return _Host(groups=access.groups(config, inventory, key, None))
    chosen = dies.choose(config, inventory, choice.ranks, choice.data_parallel_size)
    nodes = ascend.devices(product, inventory, chosen)
    driver = ascend.driver_mounts(product, config, inventory)
    sources = [*(node.host for node in nodes), *(mount.source for mount in driver), *key]
    groups = access.groups(config, inventory, sources, product.device_gid)
    if config.container.runtime == ascend.RUNTIME:
        nodes = ()  # It gives them by itself.
    return _Host(chosen, nodes, driver, groups, dies.available(config, inventory))


def _blind(inventory: Inventory) -> tuple[str, ...]:
    if inventory.claims_known:
        return ()
    line = (
        "The Docker engine does not say which appliances run: dies and ports that they hold may "
        "be in this plan. See that you may use its socket (`docker ps`)."
    )
    return (line,)


def _container(
    config: Config,
    choice: Choice,
    image: str,
    serve_args: Sequence[str],
    host: _Host,
) -> Container:
    limits, server = config.container, config.server
    mounts = [Mount("bind", choice.model.host_path, choice.model.container_path, read_only=True)]
    mounts += host.driver
    mounts.append(Mount("volume", f"{config.name}-cache", names.CACHE_DIR, read_only=False))
    if server.api_key_file is not None:
        mounts.append(Mount("bind", server.api_key_file, names.API_KEY_FILE, read_only=True))
    published = server.network == "bridge"
    return Container(
        name=config.name,
        image=image,
        command=(*names.SERVE_COMMAND, *serve_args),
        environment=tuple(
            sorted({*arguments.environment(config, choice), *ascend.visible(config, host.dies)})
        ),
        devices=host.devices,
        mounts=tuple(mounts),
        ports=(Port(server.bind, choice.ports.api, names.API_PORT),) if published else (),
        # exec: compilers put what they made there and load it.
        tmpfs=(Tmpfs("/tmp", "rw,exec,nosuid,nodev,mode=1777,size=4g"),),  # noqa: S108
        # None by default: an engine without the right to raise limits could not start.
        ulimits=tuple(Ulimit(name, value, value) for name, value in sorted(limits.ulimits.items())),
        healthcheck=Healthcheck(
            command=watching.health_command(config),
            interval=30,
            timeout=watching.health_timeout(config),
            # Until then a failing check says nothing: as long as `up` waits.
            start_period=int(config.timeouts.ready),
            retries=3,
        ),
        network=server.network,
        runtime=limits.runtime if limits.runtime == ascend.RUNTIME else None,
        restart=limits.restart,
        shm_size_bytes=_bytes(limits.shm_size or choice.platform.shm_size),
        memory_bytes=_bytes(limits.memory) if limits.memory else None,
        # Reaps what vLLM's workers leave behind, and passes signals on.
        init=True,
        privileged=limits.privileged,
        cap_drop=() if limits.privileged else ("ALL",),
        security_opt=() if limits.privileged else ("no-new-privileges:true",),
        group_add=host.groups,
        read_only=True,
        stop_signal="SIGINT",
        stop_timeout=config.timeouts.stop,
        log_driver="json-file",
        log_options=(("max-file", "3"), ("max-size", "50m")),
    )


def _warnings(config: Config, choice: Choice, host: _Host) -> tuple[str, ...]:
    found = []
    if config.container.privileged:
        found.append(
            "container.privileged is on: the container sees every device of the host, and "
            "nothing separates it from other users of the NPUs."
        )
    named = choice.product is not None and config.container.runtime != ascend.RUNTIME
    if named and not any(m.target.endswith("/npu-smi") for m in host.driver):
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


def _api_url(config: Config, port: int) -> str:
    return f"http://{access.reachable(config.server.bind)}:{port}"


def _bytes(size: str) -> int:
    return int(size[:-1]) * _UNITS[size[-1]]
