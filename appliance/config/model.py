"""The configuration as typed values.

These are plain frozen dataclasses, so that commands which need no validation (no file, no
variable, no flag) start without importing Pydantic. Pydantic reads the same classes, and the
`metadata` of their fields, when there is something to validate, and makes the JSON schema
from them: there is one definition of a key, and it is here.

`None` means: the plan decides, from the catalog.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from healthchecks import Limits

FORBID = {"extra": "forbid", "coerce_numbers_to_str": True}
PORT = {"ge": 1, "le": 65535}
READY_SECONDS = 3600.0
STOP_SECONDS = 60
# Of the time to stop, what is left for the end itself when running requests have had theirs.
END_SECONDS = 15
# The doctor's checks that `up` can go on without (appliance/doctor/checks.py; a test compares).
CheckId = Literal[
    "api-port", "apparmor", "buildx", "cache-writable", "cgroup", "clock", "compose",
    "container-name", "container-runtime", "cpu-binding", "device-access", "device-nodes",
    "disk-image", "disk-weights", "driver-install", "driver-paths", "driver-version",
    "engine-users", "engine-version", "hccl-ports", "hub", "image", "inodes", "memory",
    "npu-free", "npu-health", "npu-memory", "npu-smi", "page-size", "proxy", "registry",
    "seccomp", "selinux", "shm", "weights",
]  # fmt: skip


def key(default: Any, description: str, **limits: Any) -> Any:
    """Declare one configuration key, with what the schema and the README say of it."""
    metadata = {"description": description, **limits}
    if isinstance(default, (dict, list)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Model:
    """Which model is served."""

    __pydantic_config__ = FORBID
    id: str | None = key(
        None, "Hub id (ModelScope), or `tiny-omni`; by default the platform's model."
    )
    path: str | None = key(None, "A model folder on this host, mounted as it is.")
    revision: str | None = key(None, "Revision on the hub, by default `master`.")
    served_name: str | None = key(None, "Name in the API, by default the model's id.")


@dataclass(frozen=True)
class Parallel:
    """How the model is spread over NPUs."""

    __pydantic_config__ = FORBID
    tensor_parallel_size: Literal[1, 2, 4] | None = key(
        None, "Ranks that share each layer: 1, 2 or 4 (they divide 32 text and 20 audio heads)."
    )
    expert_parallel: bool | None = key(
        None, "Whole experts on each rank instead of slices of all of them."
    )
    data_parallel_size: int = key(
        1, "Replicas of the model in one server; each takes as many NPUs as the first.", ge=1, le=16
    )


@dataclass(frozen=True)
class Server:
    """The API and the engine behind it."""

    __pydantic_config__ = FORBID
    bind: str = key(
        "127.0.0.1", "Host address that the API is published on.", pattern=r"^[0-9A-Fa-f.:]+$"
    )
    port: int | None = key(
        None,
        "Host port of the API; by default the first from 8000 on that no appliance has.",
        **PORT,
    )
    network: Literal["bridge", "host"] = key(
        "bridge", "Container network: `bridge` publishes one port, `host` shares the host's."
    )
    api_key_file: str | None = key(
        None, "File with the API key; needed to bind to anything but loopback."
    )
    max_model_len: int | None = key(None, "Longest prompt plus answer, in tokens.", ge=256)
    max_num_seqs: int | None = key(None, "Most requests in one batch.", ge=1)
    max_num_batched_tokens: int | None = key(None, "Most tokens in one step.", ge=256)
    memory_utilization: float | None = key(
        None, "Share of the device's memory that vLLM may use.", gt=0.0, le=0.98
    )
    limit_mm_per_prompt: dict[Literal["image", "video", "audio"], int] | None = key(
        None, "Most images, videos and audios in one request."
    )
    reasoning_parser: str | None = key(
        None, "vLLM's parser of the thinking part; `none` leaves it in the content."
    )
    allowed_media_domains: list[str] = key(
        [], "Domains that media URLs may name; empty: data URLs only."
    )
    max_body_mb: int = key(128, "Largest body of a request, in MiB.", ge=1, le=4096)
    max_media_mb: int = key(
        4096, "Most memory that decoding the media of one request may take, in MiB.", ge=64
    )
    max_media_seconds: int = key(2400, "Longest sound or video, in seconds.", ge=1, le=86400)
    extra_args: list[str] = key([], "Further arguments of `vllm serve`, added as they are.")


@dataclass(frozen=True)
class Container:
    """Limits and privileges of the container."""

    __pydantic_config__ = FORBID
    shm_size: str | None = key(
        None, "Size of /dev/shm, such as `1g`.", pattern=r"^[1-9][0-9]*[kmg]$"
    )
    memory: str | None = key(
        None, "Memory limit, such as `64g`; none by default.", pattern=r"^[1-9][0-9]*[kmg]$"
    )
    restart: Literal["no", "on-failure", "unless-stopped", "always"] = key(
        "unless-stopped", "Docker's restart policy."
    )
    ulimits: dict[str, int] = key({}, "Resource limits by name, such as `memlock: -1`.")
    runtime: Literal["runc", "ascend"] = key(
        "runc", "`runc` is given each device by name; `ascend` lets Ascend Docker Runtime do it."
    )
    privileged: bool = key(False, "Give up isolation: every device, every capability.")
    environment: dict[str, str] = key({}, "Further environment variables; no secrets here.")


@dataclass(frozen=True)
class Image:
    """The appliance image and what it is built on."""

    __pydantic_config__ = FORBID
    name: str | None = key(None, "An appliance image to run as it is, instead of building one.")
    base: str | None = key(None, "Base image to build on, instead of the catalog's.")
    mirrors: list[str] | None = key(
        None,
        "Other names of the base image, asked in this order after it; by default the catalog's.",
    )
    os: Literal["ubuntu", "openeuler"] | None = key(
        None, "Operating system in the Ascend base image, whatever the host's; by default `ubuntu`."
    )
    digests: dict[str, str] = key(
        {}, "Digest that an image's name stands for; `appliance images lock` finds and keeps it."
    )


@dataclass(frozen=True)
class Build:
    """How images are built."""

    __pydantic_config__ = FORBID
    ca_bundle: str | None = key(None, "CA bundle (PEM) that the build trusts.")
    apt_mirror: str | None = key(None, "Debian mirror for the local base, as a URL.")
    pip_index_url: str | None = key(None, "Index of Python packages, as a URL.")
    http_proxy: str | None = key(None, "Proxy for plain HTTP during the build.")
    https_proxy: str | None = key(None, "Proxy for HTTPS during the build.")
    no_proxy: str | None = key(None, "Hosts that the build reaches without a proxy.")


@dataclass(frozen=True)
class Cache:
    """Where downloads live on the host."""

    __pydantic_config__ = FORBID
    dir: str = key("~/.cache/modelscope", "ModelScope's cache of models; mounted read-only.")


@dataclass(frozen=True)
class Doctor:
    """What the doctor finds, and what comes of it."""

    __pydantic_config__ = FORBID
    skip: list[CheckId] = key(
        [], "Checks of `appliance doctor`, by id, whose failure does not stop `appliance up`."
    )
    timeout: float = key(2.0, "Until a fact about the host that does not come is unknown.", gt=0)


@dataclass(frozen=True)
class Timeouts:
    """Every wait has an end. All in seconds."""

    __pydantic_config__ = FORBID
    registry: float = key(5.0, "Until a silent registry counts as absent.", gt=0)
    pull: float = key(7200.0, "For pulling an image.", gt=0)
    build: float = key(3600.0, "For building an image.", gt=0)
    ready: float = key(READY_SECONDS, "From the container's start until it is ready.", gt=0)
    probe: float = key(60.0, "For one request of a probe.", gt=0)
    smoke: float = key(300.0, "For one probe of the smoke test, with its reasoning.", gt=0)
    stop: int = key(STOP_SECONDS, "From the stop signal until the container is killed.", ge=1)
    drain: int | None = key(
        None,
        f"Of these, for running requests to end; by default all but {END_SECONDS}.",
        ge=0,
    )


@dataclass(frozen=True)
class Watchdog:
    """When an engine counts as hung, and how often it may fail. All in seconds but `restarts`."""

    __pydantic_config__ = FORBID
    enabled: bool = key(True, "Whether an engine that makes no progress is ended.")
    interval: float = key(5.0, "From one look at the engine to the next.", gt=0)
    quiet: float = key(15.0, "Without progress, until one token is asked for.", gt=0)
    deadline: float = key(30.0, "For that token, where nothing else is being done.", gt=0)
    busy: float = key(300.0, "Without progress, while requests run or the processes compute.", gt=0)
    stopped: float = key(10.0, "Until a process that was stopped or is gone counts.", gt=0)
    restarts: int = key(
        5, "Most restarts within the window; with the next failure it stays down.", ge=0, le=15
    )
    window: float = key(3600.0, "For how long a failure counts.", gt=0)
    backoff: float = key(5.0, "Before the second restart; doubled for each further one.", ge=0)
    backoff_max: float = key(300.0, "The most that is waited before a restart.", ge=0)

    def limits(self) -> Limits:
        """Return the probes' limits; raises ValueError where they contradict each other."""
        from healthchecks import Limits

        return Limits(self.interval, self.quiet, self.deadline, self.busy)


@dataclass(frozen=True)
class Config:
    """All of `appliance.yaml`."""

    __pydantic_config__ = FORBID
    name: str = key(
        "qwen3-omni",
        "Name of this appliance: of its container and its compose project.",
        pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$",
    )
    platform: Literal["auto", "ascend", "cpu"] = key(
        "auto", "`ascend`, `cpu`, or what the host has."
    )
    product: str | None = key(
        None, "Ascend product (`atlas-a2`, `atlas-a3`), where it can't be detected."
    )
    release: str | None = key(None, "vllm-ascend release, such as `v0.23.0`.")
    profile: Literal["default", "high-throughput", "low-latency", "long-context"] = key(
        "default", "Named set of arguments: what each was measured on is in the README."
    )
    npus: list[int] | None = key(None, "Numbers N of the /dev/davinciN to use.")
    model: Model = field(default_factory=Model)
    parallel: Parallel = field(default_factory=Parallel)
    server: Server = field(default_factory=Server)
    container: Container = field(default_factory=Container)
    image: Image = field(default_factory=Image)
    build: Build = field(default_factory=Build)
    cache: Cache = field(default_factory=Cache)
    doctor: Doctor = field(default_factory=Doctor)
    timeouts: Timeouts = field(default_factory=Timeouts)
    watchdog: Watchdog = field(default_factory=Watchdog)
