"""The engine's command line and environment, by release, platform and profile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from appliance.errors import ApplianceError
from appliance.plan import access, names, options, watching
from appliance.plan import profile as profiles

if TYPE_CHECKING:
    from collections.abc import Mapping

    from appliance.catalog import load as catalog
    from appliance.config.model import Config, Server
    from appliance.inventory.model import Inventory
    from appliance.plan.choice import Choice


# By itself vLLM takes xgrammar first, which compiles some small grammars for minutes, while all
# other requests with a grammar wait (the server's own test has one); guidance gives up by itself.
_GRAMMARS = {"--structured-outputs-config": {"backend": "guidance"}}


def check(config: Config, choice: Choice) -> None:
    """Refuse what this release or this platform can't start; raises config-invalid."""
    release = choice.release
    if choice.platform_name not in release.platforms:
        raise ApplianceError(
            "config-invalid",
            f"release {choice.release_name} does not serve the platform {choice.platform_name}.",
            f"It serves {', '.join(release.platforms)}; here the default is "
            f"{choice.platform.release}.",
        )
    profiles.check(config, choice)
    options.check(config, choice)


def serve(config: Config, choice: Choice, inventory: Inventory) -> options.Arguments:
    """Return the arguments of `vllm serve`; raises config-invalid for what can't start."""
    check(config, choice)
    server, known = config.server, choice.known_model
    host, port = ("0.0.0.0", names.API_PORT)  # noqa: S104 (the container's own network)
    if server.network == "host":
        host, port = server.bind, choice.ports.api
    args = [choice.model.container_path, "--served-model-name", choice.model.served_name]
    args += ["--host", host, "--port", str(port)]
    args += _parallel(choice)
    args += _limits(config, choice, inventory)
    if media := _media_limits(server, known):
        args += ["--limit-mm-per-prompt", options.compact(media)]
    parser = server.reasoning_parser or (known and known.reasoning_parser)
    if parser and parser != "none":
        args += ["--reasoning-parser", parser]
    domains = server.allowed_media_domains or [choice.release.no_media_domain]
    args += ["--allowed-media-domains", *domains]
    args += ["--h11-max-incomplete-event-size", str(names.MAX_HEADERS)]
    args += ["--middleware", names.GUARD_MIDDLEWARE]
    if server.api_key_file is not None:
        # The last one is asked first: without the key no body is read.
        args += ["--middleware", names.KEY_MIDDLEWARE]
    args += watching.arguments(config, choice.release)
    profile = profiles.selected(config, choice.platform_name)
    for group in (*choice.platform.args, *(profile.args if profile else ())):
        args += group
    for option, value in _json_args(config, choice, inventory).items():
        args += [option, options.compact(value)]
    return options.Arguments(args, server.extra_args, options.added(config, choice.release))


def warnings(config: Config, choice: Choice, inventory: Inventory) -> tuple[str, ...]:
    """Return what the release, the profile and what was set by hand cost or endanger."""
    return (
        *choice.release.warnings,
        *profiles.warnings(config, choice, inventory),
        *options.warnings(config, choice, _json_args(config, choice, inventory)),
    )


def _parallel(choice: Choice) -> list[str]:
    args = ["--tensor-parallel-size", str(choice.ranks)]
    if choice.data_parallel_size > 1:
        args += ["--data-parallel-size", str(choice.data_parallel_size)]
    if choice.expert_parallel:
        args += ["--enable-expert-parallel"]
    return args


def _limits(config: Config, choice: Choice, inventory: Inventory) -> list[str]:
    """Return the operator's limits, else the profile's, else the model's; vLLM has the rest."""
    server, known = config.server, choice.known_model
    profile = profiles.selected(config, choice.platform_name)
    planned = {
        "--max-model-len": known.max_model_len if known else None,
        **(profiles.limits(profile, choice, inventory) if profile else {}),
    }
    operators = {
        "--max-model-len": server.max_model_len,
        "--max-num-seqs": server.max_num_seqs,
        "--max-num-batched-tokens": server.max_num_batched_tokens,
        "--gpu-memory-utilization": server.memory_utilization,
    }
    args = []
    for option, value in operators.items():
        chosen = planned.get(option) if value is None else value
        args += [option, str(chosen)] if chosen is not None else []
    return args


def _media_limits(server: Server, known: catalog.Model | None) -> dict[str, int]:
    if server.limit_mm_per_prompt is not None:
        return {str(name): count for name, count in server.limit_mm_per_prompt.items()}
    return dict(known.limit_mm_per_prompt) if known else {}


def _json_args(config: Config, choice: Choice, inventory: Inventory) -> dict[str, dict[str, Any]]:
    """Return the options whose value is a JSON object: what the host needs, then the profile's."""
    profile = profiles.selected(config, choice.platform_name)
    own = profiles.json_args(profile, choice, inventory) if profile else {}
    return options.merge(_GRAMMARS, _graph_mode(config, choice, inventory), own)


def _graph_mode(
    config: Config, choice: Choice, inventory: Inventory
) -> Mapping[str, Mapping[str, Any]]:
    """Return the graph mode that an older driver can do, unless it is known to be newer."""
    wanted = choice.release.graph_mode
    eager = options.switched_on(options.added(config, choice.release), "--enforce-eager")
    if wanted is None or choice.platform_name != "ascend" or eager:
        return {}
    from appliance.catalog import drivers

    floor = drivers.features()[wanted.feature].floor
    if drivers.order(inventory.driver_version or "") >= drivers.order(floor):
        return {}
    return {"--compilation-config": {"cudagraph_mode": wanted.otherwise}}


def environment(config: Config, choice: Choice) -> tuple[tuple[str, str], ...]:
    """Return the container's environment, sorted by name."""
    host = "127.0.0.1"
    port = names.API_PORT
    if config.server.network == "host":
        host, port = access.reachable(config.server.bind), choice.ports.api
    profile = profiles.selected(config, choice.platform_name)
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
        # As the launcher itself would take them.
        "APPLIANCE_SERVER_MAX_BODY_MB": str(config.server.max_body_mb),
        "APPLIANCE_SERVER_MAX_MEDIA_MB": str(config.server.max_media_mb),
        "APPLIANCE_SERVER_MAX_MEDIA_SECONDS": str(config.server.max_media_seconds),
        **choice.release.environment,
        **choice.platform.environment,
        **(profiles.environment(profile, choice) if profile else {}),
        **_ports(choice),
        **watching.environment(config),
        **config.container.environment,
    }
    return tuple(sorted(values.items()))


def _ports(choice: Choice) -> dict[str, str]:
    """Return the variables that keep appliances on the host's network apart.

    A bridge network has all ports to itself, so it needs none. HCCL_HOST_SOCKET_PORT_RANGE and
    HCCL_NPU_SOCKET_PORT_RANGE are no substitute for HCCL_IF_BASE_PORT: on Atlas A2 they are not
    supported together with fused operators such as those that vllm-ascend uses for experts
    (CANN 8.5 and 9.0, reference of environment variables), and a die's own port, 16666, is
    nobody else's, as no two appliances share a die.

    vLLM picks the port of its process group, lets go of it and binds it again later, so that two
    servers which start together can pick the same (vllm issue 39015): each is given ports of its
    own. Replicas in one server would all start to look at the same one, hence only without them:
    there each takes what the kernel gives it.
    """
    base = choice.ports.hccl_base
    if base is None or choice.platform_name != "ascend":
        return {}
    variables = {"HCCL_IF_BASE_PORT": str(base)}
    if choice.data_parallel_size == 1:
        variables["VLLM_PORT"] = str(choice.ports.vllm_base)
    return variables
