"""The engine's command line and environment, by release, platform and profile."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from appliance.plan import access, names

if TYPE_CHECKING:
    from appliance.catalog import load as catalog
    from appliance.config.model import Config, Server
    from appliance.plan.choice import Choice


def serve(config: Config, choice: Choice) -> tuple[str, ...]:
    """Return the arguments of `vllm serve`."""
    server, known = config.server, choice.known_model
    host, port = ("0.0.0.0", names.API_PORT)  # noqa: S104 (the container's own network)
    if server.network == "host":
        host, port = server.bind, choice.ports.api
    args = [choice.model.container_path, "--served-model-name", choice.model.served_name]
    args += ["--host", host, "--port", str(port)]
    args += ["--tensor-parallel-size", str(choice.ranks)]
    if choice.expert_parallel:
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


def environment(config: Config, choice: Choice) -> tuple[tuple[str, str], ...]:
    """Return the container's environment, sorted by name."""
    host = "127.0.0.1"
    port = names.API_PORT
    if config.server.network == "host":
        host, port = access.reachable(config.server.bind), choice.ports.api
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
