"""A job's container, made of the appliance's plan: the same, less what serves."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.plan import names

if TYPE_CHECKING:
    from appliance.config.model import Config
    from appliance.plan.model import Container, Mount


@dataclass(frozen=True)
class Job:
    """A container that does one thing and goes.

    `network` is a network of Docker's, or `container:NAME` to be where another one is.
    """

    container: Container
    network: str

    @property
    def name(self) -> str:
        """The container's name: there can be one at a time."""
        return self.container.name


def name_of(config: Config, purpose: str) -> str:
    """Return the name of the container that does this for an appliance."""
    return f"{config.name}-{purpose}"


def alone(config: Config, purpose: str) -> Config:
    """Return the configuration of a job that has an engine of its own.

    By another name it holds dies of its own, and none of the appliance that serves.
    """
    return dataclasses.replace(
        config,
        name=name_of(config, purpose),
        server=dataclasses.replace(config.server, port=None),
    )


def with_engine(planned: Container, serving: Config, command: tuple[str, ...]) -> Job:
    """Return the job of a container that was planned for a configuration made by `alone`.

    It shares the caches of the appliance that serves, so that nothing is compiled twice.
    """
    cache = f"{serving.name}-cache"
    mounts = tuple(
        dataclasses.replace(mount, source=cache) if mount.target == names.CACHE_DIR else mount
        for mount in planned.mounts
    )
    return Job(_one_off(planned, planned.name, command, mounts), planned.network)


def beside(planned: Container, purpose: str, command: tuple[str, ...]) -> Job:
    """Return a job that works on the running appliance, from within its network.

    It keeps devices and driver: vLLM's command line loads torch_npu, which does not import
    without the driver, whether or not it then computes anything.
    """
    name = f"{planned.name}-{purpose}"
    return Job(_one_off(planned, name, command, planned.mounts), network_of(planned))


def network_of(planned: Container) -> str:
    """Return the network in which a running appliance is reached as from within."""
    return "host" if planned.network == "host" else f"container:{planned.name}"


def _one_off(
    planned: Container, name: str, command: tuple[str, ...], mounts: tuple[Mount, ...]
) -> Container:
    return dataclasses.replace(
        planned,
        name=name,
        command=(*names.START_COMMAND, *command),
        mounts=mounts,
        ports=(),
        restart="no",
    )
