"""What is measured: this appliance's server, another one, or an engine of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from appliance import deployment, paths
from appliance.bench.arguments import Server
from appliance.bench.client import COMMAND
from appliance.config.model import Config
from appliance.engine import docker
from appliance.errors import ApplianceError
from appliance.inventory import document
from appliance.jobs import container as jobs
from appliance.jobs import server as servers
from appliance.jobs import systems
from appliance.lifecycle import state, supply
from appliance.lifecycle.up import Options, allot
from appliance.plan import names
from appliance.plan.model import Mount
from appliance.results.model import Model, System
from appliance.secretfile import read_key
from appliance.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from appliance.catalog.bench import Mode
    from appliance.jobs.container import Job
    from appliance.jobs.server import Elsewhere
    from appliance.lifecycle.progress import Progress
    from appliance.plan.model import Container, Plan

PURPOSE = "bench"
# vllm/benchmarks/latency.py draws token ids below it, whatever the model has.
LATENCY_IDS = 10_000
TOKENIZER = f"{names.MODELS_DIR}/tokenizer"
_UNKNOWN = (
    "Another server than this appliance: its image, versions, arguments, weights and machine are "
    "not known."
)


@dataclass(frozen=True)
class Subject:
    """What is measured, and the container that does it.

    `server` is `None` for an engine of its own, whose arguments are `engine`. `key` is what to
    send to another server, empty for none; `None` leaves it to the container, which has its own.
    """

    system: System
    job: Job
    server: Server | None = None
    engine: tuple[str, ...] = ()
    key: str | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    notes: tuple[str, ...] = ()


def own(config: Config) -> Subject:
    """Return this appliance's running server; raises what `server.own` raises."""
    _refuse_inside("a server is measured there with `--url`")
    found = servers.own(config)
    return Subject(
        found.system,
        jobs.beside(found.container, PURPOSE, COMMAND),
        Server(found.url, found.served.name, found.args[0]),
        max_model_len=found.served.max_model_len,
        max_num_seqs=systems.number(systems.value(found.args, "--max-num-seqs")),
        notes=found.notes,
    )


def _refuse_inside(what: str) -> None:
    servers.refuse_inside(
        what,
        "Give the server: `appliance bench --url http://127.0.0.1:8000`; or use the launcher "
        "on the host.",
    )


def other(config: Config, wanted: Elsewhere, progress: Progress) -> Subject:
    """Return another server, measured from the host's network with this appliance's image.

    Raises api-key-file, config-invalid, input-invalid, not-ready, and what getting the image
    raises.
    """
    _require_tokenizer(wanted.tokenizer)
    key_file = wanted.key_file
    own_key = Path(names.API_KEY_FILE)
    if key_file is None and paths.inside_image() and servers.is_loopback(wanted.url):
        key_file = own_key if own_key.exists() else None
    target, served = servers.other(config, wanted, key_file)
    made = _measuring(config, progress)
    mounts = [mount for mount in made.mounts if mount.target != names.API_KEY_FILE]
    tokenizer = served.root or ""
    if wanted.tokenizer is not None:
        tokenizer = str(wanted.tokenizer.expanduser().resolve())
        if not paths.inside_image():
            mounts.append(Mount("bind", tokenizer, TOKENIZER, read_only=True))
            tokenizer = TOKENIZER
    elif not _is_there(tokenizer, mounts):
        raise ApplianceError(
            "input-invalid",
            f"The tokenizer of {served.name} is not known here: the server has it at "
            f"{served.root or '(it does not say where)'}.",
            "Name the model's folder, or one with its tokenizer's files: --tokenizer FOLDER.",
        )
    job = jobs.beside(dataclasses.replace(made, mounts=tuple(mounts)), PURPOSE, COMMAND)
    return Subject(
        System(model=Model(id=served.name), launcher=__version__, url=target.base_url),
        dataclasses.replace(job, network="host"),
        Server(target.base_url, served.name, tokenizer),
        key=read_key(key_file) if key_file else "",
        max_model_len=served.max_model_len,
        notes=(_UNKNOWN,),
    )


def _require_tokenizer(folder: Path | None) -> None:
    if folder is not None and not folder.expanduser().is_dir():
        raise ApplianceError("input-invalid", f"--tokenizer {folder} is no folder that exists.")


def _measuring(config: Config, progress: Progress) -> Container:
    """Return a container that can run vLLM's client: the running appliance's, or the plan's."""
    if paths.inside_image():
        # Only its command counts: it runs right here.
        return deployment.prepare(Config(platform="cpu")).plan.container
    engine = docker.connect()
    found = engine.container(config.name)
    if found is not None and found.ours and found.running:
        return dataclasses.replace(systems.container(found), image=found.image_id)
    plan = deployment.prepare(config).plan
    supply.image(engine, config, plan.image, progress)
    return plan.container


def _is_there(folder: str, mounts: Sequence[Mount]) -> bool:
    if paths.inside_image():
        return folder.startswith("/") and Path(folder).is_dir()
    return any(mount.target == folder for mount in mounts)


@contextmanager
def engine(config: Config, mode: Mode, progress: Progress) -> Iterator[Subject]:
    """Allot dies for an engine of its own, and hold them while the block lasts.

    Raises config-invalid, input-invalid, busy, npus-unavailable, and what getting image and
    weights raises.
    """
    _refuse_inside("an engine of its own is made on the host")
    wanted = jobs.alone(config, PURPOSE)
    if wanted.parallel.data_parallel_size > 1:
        raise ApplianceError(
            "config-invalid",
            "vLLM measures one replica without a server, and parallel.data_parallel_size is "
            f"{wanted.parallel.data_parallel_size}.",
            "Add --set parallel.data_parallel_size=1, or measure the server with another preset.",
        )
    with state.changing(wanted.name, "bench") as change:
        made = allot(wanted, Options(), change, progress.detail)
        if mode == "latency":
            _refuse_few_tokens(made.plan)
        connected = docker.connect()
        supply.examine(made, connected, progress)
        image_id = supply.image(connected, made.config, made.plan.image, progress)
        supply.model(made.plan.model, progress)
        system = systems.redacted(systems.planned(made, image_id, connected))
        yield Subject(
            system,
            jobs.with_engine(made.plan.container, config, COMMAND),
            engine=made.plan.serve_args,
            max_model_len=systems.number(systems.value(made.plan.serve_args, "--max-model-len")),
            notes=tuple(systems.caveats(system)),
        )


def _refuse_few_tokens(plan: Plan) -> None:
    """Refuse what would fail after the engine has loaded: a vocabulary too small for vLLM's ids."""
    config = document.read(Path(plan.model.host_path) / "config.json") or {}
    size = config.get("vocab_size")
    for part in ("text_config", "thinker_config"):
        inner = config.get(part)
        if isinstance(inner, Mapping):
            size = inner.get("text_config", inner).get("vocab_size", size)
    changed = systems.value(plan.serve_args, "--hf-overrides") is not None
    if isinstance(size, int) and size < LATENCY_IDS and not changed:
        raise ApplianceError(
            "input-invalid",
            f"`vllm bench latency` makes prompts of {LATENCY_IDS} different tokens, and "
            f"{plan.model.id} has {size}.",
            "Measure it with another preset, such as throughput.",
        )
