"""What is measured, as the result document tells it, read from the container that runs."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from appliance import deployment
from appliance.catalog import load as catalog
from appliance.diagnose.redact import Redactor
from appliance.errors import ApplianceError
from appliance.plan import names
from appliance.plan.model import Container, Device, Healthcheck, Mount, Port, Tmpfs, Ulimit
from appliance.results.model import Model, Parallel, System
from appliance.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from appliance.config.model import Config
    from appliance.deployment import Deployment
    from appliance.engine.docker import ContainerState, Engine

_PARTS: Mapping[str, Any] = {
    "devices": Device,
    "mounts": Mount,
    "ports": Port,
    "tmpfs": Tmpfs,
    "ulimits": Ulimit,
}


def container(found: ContainerState) -> Container:
    """Return the plan that a container was made of; raises engine-failed."""
    try:
        spec = found.spec()
        lists = {
            name: tuple(_PARTS[name](**row) if name in _PARTS else row for row in value)
            for name, value in spec.items()
            if isinstance(value, list)
        }
        pairs = {
            name: tuple((key, value) for key, value in spec[name])
            for name in ("environment", "log_options")
        }
        health = Healthcheck(**spec["healthcheck"])
        return Container(**{**spec, **lists, **pairs, "healthcheck": health})
    except (LookupError, TypeError, ValueError) as error:
        raise ApplianceError(
            "engine-failed",
            "The container carries no plan of this version: it was made by another one.",
            "`appliance up` makes it anew.",
        ) from error


def serve_args(command: Sequence[str]) -> tuple[str, ...]:
    """Return what follows `vllm serve` in a container's command, the model's folder first."""
    return tuple(command[list(command).index("serve") + 1 :])


def value(args: Sequence[str], option: str) -> str | None:
    """Return the last value of an option, in the spellings that vLLM takes."""
    found = None
    for place, word in enumerate(args):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == option:
            found = value if equals else (*args[place + 1 : place + 2], "")[0]
    return found


def number(text: str | None) -> int | None:
    """Return a value that is a whole number, or `None`."""
    return int(text) if text and text.isdigit() else None


def running(
    config: Config,
    engine: Engine,
    found: ContainerState,
    made: Container,
    args: tuple[str, ...],
) -> tuple[System, list[str]]:
    """Describe a running server. What is not in its container comes from today's plan.

    Where today's plan is another one, so may be what is not in the container: it stays unknown.
    """
    try:
        today = deployment.prepare(config)
    except ApplianceError:
        today = None
    same = today is not None and today.plan.container.as_json() == made.as_json()
    notes = []
    if today is not None and same:
        system = planned(today, found.image_id, engine)
    else:
        notes.append("Today's plan is another one than the running container was made of.")
        variables = dict(made.environment)
        npus = any(names.NPU_NODE.match(device.host) for device in made.devices)
        system = System(
            model=Model(id=value(args, "--served-model-name") or args[0], weights=_weights(args)),
            parallel=Parallel(
                tensor_parallel_size=number(value(args, "--tensor-parallel-size")),
                data_parallel_size=number(value(args, "--data-parallel-size")) or 1,
                expert_parallel=value(args, "--enable-expert-parallel") is not None,
            ),
            platform="ascend" if npus or names.VISIBLE in variables else "cpu",
            image=made.image,
            serve_args=list(args),
            environment=variables,
            inventory=_plain(dataclasses.asdict(today.inventory)) if today else None,
            plan={**dataclasses.asdict(made), "environment": variables},
            **_image(engine, found.image_id),
        )
    return redacted(system), notes


def planned(made: Deployment, image_id: str, engine: Engine) -> System:
    """Describe what a plan makes."""
    plan = made.plan
    return System(
        model=Model(
            id=plan.model.id, revision=plan.model.revision, weights=_weights(plan.serve_args)
        ),
        parallel=Parallel(
            tensor_parallel_size=plan.tensor_parallel_size,
            data_parallel_size=plan.data_parallel_size,
            expert_parallel=plan.expert_parallel,
        ),
        platform=plan.platform,
        product=plan.product,
        release=plan.release,
        image=plan.image.reference,
        serve_args=list(plan.serve_args),
        environment=dict(plan.container.environment),
        inventory=_plain(dataclasses.asdict(made.inventory)),
        plan=plan.as_dict(),
        **_image(engine, image_id),
    )


def _weights(args: Sequence[str]) -> Any:
    """Tell the weights that are read from those that vLLM makes up."""
    return "dummy" if value(args, "--load-format") == "dummy" else "real"


def _image(engine: Engine, image_id: str) -> dict[str, Any]:
    digests = engine.digests(image_id)
    digest = digests[0].partition("@")[2] if digests else None
    return {"image_id": image_id, "image_digest": digest, "launcher": __version__}


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""

    def other(part: Any) -> Any:
        return sorted(part) if isinstance(part, (set, frozenset)) else dict(part)

    return json.loads(json.dumps(value, default=other))


def redacted(system: System) -> System:
    """Take secrets out of what is meant to be passed on."""
    redactor = Redactor()
    environment = redactor.document(dict(system.environment))
    return system.model_copy(
        update={
            "environment": {name: str(value) for name, value in environment.items()},
            "serve_args": redactor.document(system.serve_args),
            "inventory": redactor.document(_plain(system.inventory)),
            "plan": redactor.document(_plain(system.plan)),
        }
    )


def caveats(system: System) -> list[str]:
    """Say where the figures are of something else than a model that is used."""
    found = []
    known = catalog.models().get(system.model.id)
    if known is not None and known.bundled:
        found.append(
            f"{system.model.id} is the small test model: these figures say nothing of any other."
        )
    if system.model.weights == "dummy":
        found.append(
            "The weights are made up (--load-format dummy): tokens go to other experts than with "
            "real ones."
        )
    return found
