"""The plan: every device, mount, variable, argument, port, limit and image reference."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from appliance.plan import names


@dataclass(frozen=True)
class Device:
    """A device node of the host, and its path in the container. Read, write and mknod."""

    host: str
    container: str


@dataclass(frozen=True)
class Mount:
    """A bind mount of a host path, or a named volume."""

    type: Literal["bind", "volume"]
    source: str
    target: str
    read_only: bool


@dataclass(frozen=True)
class Port:
    """A port of the container, published on an address of the host."""

    host_ip: str
    host: int
    container: int


@dataclass(frozen=True)
class Tmpfs:
    """A file system in memory, with its mount options."""

    target: str
    options: str


@dataclass(frozen=True)
class Ulimit:
    """A resource limit of the container's processes."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True)
class Healthcheck:
    """The container's health check: a shell command, and durations in seconds."""

    command: str
    interval: int
    timeout: int
    start_period: int
    retries: int


@dataclass(frozen=True)
class Container:
    """What `docker run` and compose are told. All that a rendering knows."""

    name: str
    image: str
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    devices: tuple[Device, ...]
    mounts: tuple[Mount, ...]
    ports: tuple[Port, ...]
    tmpfs: tuple[Tmpfs, ...]
    ulimits: tuple[Ulimit, ...]
    healthcheck: Healthcheck
    network: Literal["bridge", "host"]
    # `None` is the engine's own default.
    runtime: str | None
    restart: str
    shm_size_bytes: int
    memory_bytes: int | None
    init: bool
    privileged: bool
    cap_drop: tuple[str, ...]
    security_opt: tuple[str, ...]
    group_add: tuple[int, ...]
    read_only: bool
    stop_signal: str
    stop_timeout: int
    log_driver: str
    log_options: tuple[tuple[str, str], ...]
    # Not told to Docker: makes a key that was written anew a difference to the running one.
    api_key_stamp: int | None = None

    def as_json(self) -> str:
        """Return the specification as canonical JSON: what drift is measured against."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    def labels(self) -> dict[str, str]:
        """Return the labels by which a running container is found, and told from its plan."""
        text = self.as_json()
        return {
            names.LABEL_NAME: self.name,
            names.LABEL_HASH: hashlib.sha256(text.encode()).hexdigest(),
            names.LABEL_SPEC: text,
        }


def pinned(name: str, digest: str | None) -> str:
    """Return an image's name with its digest, by which the engine then goes.

    The tag stays, for people: where there is a digest, engines look at nothing else.
    """
    return name if digest is None or "@" in name else f"{name}@{digest}"


@dataclass(frozen=True)
class ImagePlan:
    """The image to run, and how to come by it. `base` is `None` for an image used as it is.

    `digest` pins what comes from a registry: the base, or the image itself where it is used as
    it is. `None` where nothing pins it.
    """

    name: str
    base: str | None
    mirrors: tuple[str, ...] = ()
    digest: str | None = None
    base_entrypoint: Literal["own", "cleared"] = "own"
    local_dockerfile: str | None = None
    local_image: str | None = None
    local_debian: str | None = None
    local_debian_suite: str | None = None

    @property
    def reference(self) -> str:
        """How a container names its image: with the digest where that is pulled as it is.

        An image that is built here has no digest: a registry would have to give it one.
        """
        return self.name if self.base else pinned(self.name, self.digest)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of what comes from a registry, in the order in which they are tried."""
        return tuple(dict.fromkeys((self.base or self.name, *self.mirrors)))


@dataclass(frozen=True)
class ModelPlan:
    """The model to serve: where it is on the host, in the container and on the hub."""

    id: str
    served_name: str
    source: Literal["bundled", "path", "hub"]
    host_path: str
    container_path: str
    revision: str | None


@dataclass(frozen=True)
class MemoryPlan:
    """What one rank's device memory is spent on. Bytes per rank, but for the last three.

    `usable` is what the runtime reports as the device's total, `budget` the share of it that
    `--gpu-memory-utilization` leaves to vLLM. The weights are what vLLM reports after loading:
    all parameters, and what else the model allocates. They and the KV cache's bytes a token
    are exact; activations and communication are estimates, and so is what they leave to the KV
    cache. `kv_tokens` counts the tokens that fit in one replica's KV cache, in whole blocks;
    `max_concurrency` how many requests of `--max-model-len` tokens that is.
    """

    usable_bytes: int
    budget_bytes: int
    weights_bytes_per_rank: int
    activation_bytes_per_rank: int
    communication_bytes_per_rank: int
    kv_cache_bytes_per_rank: int
    kv_bytes_per_token_per_rank: int
    kv_tokens: int
    max_concurrency: float
    fits: bool


@dataclass(frozen=True)
class Plan:
    """One deployment, completely. Same config, inventory and catalog: same plan."""

    platform: Literal["ascend", "cpu"]
    product: str
    release: str
    model: ModelPlan
    image: ImagePlan
    container: Container
    serve_args: tuple[str, ...]
    tensor_parallel_size: int
    data_parallel_size: int
    expert_parallel: bool
    memory: MemoryPlan | None
    api_port: int
    api_url: str
    api_key_file: str | None
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as `appliance plan --json` prints it."""
        return {
            **dataclasses.asdict(self.container),
            "environment": dict(self.container.environment),
            "log_options": dict(self.container.log_options),
            "platform": self.platform,
            "product": self.product,
            "release": self.release,
            "model": dataclasses.asdict(self.model),
            "image": self.image.reference,
            "image_source": dataclasses.asdict(self.image),
            "tensor_parallel_size": self.tensor_parallel_size,
            "data_parallel_size": self.data_parallel_size,
            "expert_parallel": self.expert_parallel,
            "memory": dataclasses.asdict(self.memory) if self.memory else None,
            "serve_args": list(self.serve_args),
            "api_url": self.api_url,
            "warnings": list(self.warnings),
        }
