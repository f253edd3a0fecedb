"""The container that evaluates: evalscope's image beside a server, with no more than it needs."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from appliance import deployment
from appliance.engine import docker, images
from appliance.evaluate import image as evaluation
from appliance.jobs import server as servers
from appliance.jobs.container import Job, name_of, network_of
from appliance.lifecycle import supply
from appliance.plan import names
from appliance.plan.model import Container, Healthcheck, Mount, Tmpfs
from appliance.results.model import Model, System
from appliance.secretfile import read_key
from appliance.version import __version__

if TYPE_CHECKING:
    from appliance.config.model import Config
    from appliance.jobs.server import Elsewhere
    from appliance.lifecycle.progress import Progress

PURPOSE = "eval"
# In the container, as appliance/inside/evaluate.py has them.
CACHE_DIR = "/var/cache/appliance-eval"
DATASETS_DIR = "/mnt/datasets"
CA_BUNDLE = "/run/secrets/ca.pem"
COMMAND = (*names.START_COMMAND, "/opt/evalscope/bin/python", "/opt/evalscope/evaluate.py")
# It holds nothing that ends slowly: every answer is in its file when it comes.
STOP_SECONDS = 10
SHM_BYTES = 64 * 1024**2
ENVIRONMENT = {
    # The root is read-only, and the home of its user on it.
    "HOME": "/tmp",  # noqa: S108
    "EVALSCOPE_CACHE": f"{CACHE_DIR}/evalscope",
    "HF_HOME": f"{CACHE_DIR}/huggingface",
    "MODELSCOPE_CACHE": f"{CACHE_DIR}/modelscope",
    # Compiled once and not at each start; the image has no bytecode of it.
    "PYTHONPYCACHEPREFIX": f"{CACHE_DIR}/bytecode",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


@dataclass(frozen=True)
class Subject:
    """The server that is asked, and the image and network of who asks it.

    `url` is as the container reaches it. `key` is what it needs; where the appliance's own
    server wants one, its file is among the `mounts` instead. `identity` tells one server from
    another, for an evaluation that goes on with what an earlier one left.
    """

    system: System
    url: str
    model: str
    image: str
    image_id: str
    network: str
    identity: Any
    mounts: tuple[Mount, ...] = ()
    groups: tuple[int, ...] = ()
    key: str | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()


def refuse_inside() -> None:
    """Raise engine-missing in the appliance image, which has no way to evaluate."""
    servers.refuse_inside(
        "evalscope runs in a container of its own",
        "Run `appliance eval` with the launcher on the host; `--url` names another server.",
    )


def find(config: Config, elsewhere: Elsewhere | None, progress: Progress) -> Subject:
    """Return the server that flags name; raises not-running, not-ready, api-key-file and others."""
    return other(config, elsewhere, progress) if elsewhere is not None else own(config)


def own(config: Config) -> Subject:
    """Return this appliance's running server."""
    found = servers.own(config)
    made = found.container
    return Subject(
        system=found.system,
        url=found.url,
        model=found.served.name,
        image=found.system.image or made.image,
        image_id=made.image,
        network=network_of(made),
        # Another image, model or argument is another server; a container made anew is not.
        identity=[found.system.image_id, found.system.serve_args],
        mounts=tuple(mount for mount in made.mounts if mount.target == names.API_KEY_FILE),
        groups=made.group_add,
        notes=found.notes,
    )


def other(config: Config, wanted: Elsewhere, progress: Progress) -> Subject:
    """Return another server, which is asked from the host's network, where its URL holds."""
    target, served = servers.other(config, wanted, wanted.key_file)
    plan = deployment.sources(config).image
    image_id = supply.image(docker.connect(), config, plan, progress)
    return Subject(
        system=System(model=Model(id=served.name), launcher=__version__, url=target.base_url),
        url=target.base_url,
        model=served.name,
        image=plan.reference,
        image_id=image_id,
        network="host",
        identity=[target.base_url],
        key=read_key(wanted.key_file) if wanted.key_file else None,
        notes=("Another server than this appliance: what it is made of is not known.",),
    )


def image(config: Config, subject: Subject, progress: Progress) -> str:
    """Return the name of the evaluation's image, which is built where it is not there."""
    progress.begin("image", evaluation.name_of(subject.image))
    builder = images.Builder(docker.connect(), config, progress.detail)
    name = evaluation.ensure(builder, subject.image, subject.image_id)
    progress.end(name)
    return name


def job(config: Config, subject: Subject, image: str, datasets: Path | None) -> Job:
    """Return the job: no device, no driver, no model, and nothing of the host but datasets."""
    name = name_of(config, PURPOSE)
    mounts = [Mount("volume", name, CACHE_DIR, read_only=False), *subject.mounts]
    environment = dict(ENVIRONMENT)
    if datasets is not None:
        mounts.append(Mount("bind", str(datasets), DATASETS_DIR, read_only=True))
    elif bundle := images.ca_bundle(config):
        # Behind a proxy that opens TLS the hub is reached with the company's CA alone.
        mounts.append(Mount("bind", str(Path(bundle).resolve()), CA_BUNDLE, read_only=True))
        environment |= dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"), CA_BUNDLE)
    container = Container(
        name=name,
        image=image,
        command=COMMAND,
        environment=tuple(sorted(environment.items())),
        devices=(),
        mounts=tuple(mounts),
        ports=(),
        tmpfs=(Tmpfs("/tmp", "rw,nosuid,nodev,mode=1777,size=4g"),),  # noqa: S108
        ulimits=(),
        healthcheck=Healthcheck("none", 0, 0, 0, 0),
        network="bridge",
        runtime=None,
        restart="no",
        shm_size_bytes=SHM_BYTES,
        memory_bytes=None,
        init=True,
        privileged=False,
        cap_drop=("ALL",),
        security_opt=("no-new-privileges:true",),
        group_add=subject.groups,
        read_only=True,
        stop_signal="SIGTERM",
        stop_timeout=STOP_SECONDS,
        log_driver="none",
        log_options=(),
    )
    return Job(container, subject.network)


def variables(config: Config, subject: Subject, *, local: bool) -> dict[str, str]:
    """Return the variables that may hold secrets, as proxies do, and so come by stdin."""
    if local:
        # With everything in place, nothing is to ask a hub.
        return {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "NO_PROXY": "*", "no_proxy": "*"}
    found = images.proxies(config)
    # A proxy must see neither the questions nor the key.
    host = urlsplit(subject.url).hostname
    direct = ",".join(filter(None, (found.get("NO_PROXY"), "127.0.0.1", "localhost", "::1", host)))
    return {**found, "NO_PROXY": direct, "no_proxy": direct}


def absolute(folder: Path | None) -> Path | None:
    """Return a folder as the engine can mount it."""
    return Path(os.path.realpath(folder.expanduser())) if folder is not None else None
