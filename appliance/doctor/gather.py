"""Gathers the facts, all at once, and gives up on those that do not come in time.

Every fact has a thread of its own. The threads are daemons: one that hangs in a dead file system
or on a socket that never answers keeps nothing waiting, not even the end of the process.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from appliance import paths
from appliance.errors import ApplianceError
from appliance.inventory import system
from appliance.inventory.facts import (
    Answer,
    DiskFacts,
    EngineFacts,
    HostFacts,
    ImageFacts,
    Missing,
    PartsFacts,
    WeightsFacts,
)
from appliance.inventory.model import Problem
from appliance.plan import ports

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from appliance.config.model import Config
    from appliance.engine.docker import Engine
    from appliance.inventory.facts import PortFacts
    from appliance.inventory.model import Inventory
    from appliance.plan.model import Plan

T = TypeVar("T")
GIB = 1024**3

# What asks over the network, or runs a command, ends a little before the others stop waiting.
_MARGIN = 0.3
_NO_SNAPSHOT = Missing("a snapshot does not say")
_INSIDE = Missing("this runs in the image, which can't see the host")
_NO_PLAN = Missing("there is no plan to check it against")


class Readings:
    """Facts that are being read, each for no longer than all of them may take."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._deadline = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds for a read that must have ended by itself when the others stop waiting."""
        return max(0.1, self._deadline - time.monotonic() - _MARGIN)

    def start(self, read: Callable[[], T | Missing]) -> Callable[[], T | Missing]:
        """Start a read; what is returned waits for it, and gives up at the deadline."""
        done = threading.Event()
        result: list[T | Missing] = []

        def work() -> None:
            result.append(_safely(read))
            done.set()

        def wait() -> T | Missing:
            if not done.wait(max(0.0, self._deadline - time.monotonic())):
                return Missing(f"no answer within {self.seconds:g} s", silent=True)
            return result[0]

        threading.Thread(target=work, daemon=True).start()
        return wait


def _safely(read: Callable[[], T | Missing]) -> T | Missing:
    try:
        return read()
    except ApplianceError as error:
        return Missing(error.message, problem=Problem(error.id, error.message, error.remedy))
    except TimeoutError as error:
        return Missing(str(error), silent=True)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return Missing(f"{where}{error.strerror or error}")
    except Exception as error:  # noqa: BLE001 (one fact that fails must not cost all the others)
        return Missing(f"{type(error).__name__}: {error}")


class Gathering:
    """The facts of one live host.

    What needs no plan is being read at once, while the plan is being made; `facts` reads the
    rest, and waits for all of it.
    """

    def __init__(self, config: Config, engine: Engine | None = None, seconds: float = 0) -> None:
        """Start to read. `engine` is a connection, where there is one already.

        `seconds` is the limit, where it is to be more than the configured one: for what needs no
        plan, and in `facts` again for what does.
        """
        self._config = config
        self._seconds = max(seconds, config.doctor.timeout)
        self._readings = Readings(self._seconds)
        start = self._readings.start
        self._inside = paths.inside_image()
        self._connection = start(lambda: engine or self._connect())
        self._engine = start(lambda: self._of_engine(system.engine))
        self._container = start(
            lambda: self._of_engine(lambda there: system.container(there, config.name))
        )
        self._kernel = start(system.kernel)
        self._clock = start(system.clock)
        seconds = self._readings.left
        self._parts = start(lambda: _INSIDE if self._inside else system.parts(seconds))
        self._install = start(lambda: _INSIDE if self._inside else system.install_info())

    def _connect(self) -> Engine | Missing:
        from appliance.engine import address, docker

        if self._inside and not address.there():
            mount = f"-v {address.DEFAULT_SOCKET}:{address.DEFAULT_SOCKET}"
            return Missing(f"{_INSIDE.why}; with `{mount}` it can ask the engine")
        return docker.connect()

    def _of_engine(self, read: Callable[[Engine], T]) -> T | Missing:
        connection = self._connection()
        return connection if isinstance(connection, Missing) else read(connection)

    def facts(self, plan: Plan | None) -> HostFacts:
        """Read what needs the plan, too, and return all that has come in time."""
        self._readings = Readings(self._seconds)
        start = self._readings.start
        image = start(lambda: self._of_image(plan))
        weights = start(lambda: self._of_weights(plan))
        registry = start(lambda: self._registry(plan, image()))
        hub = start(lambda: self._hub(plan, weights()))
        folders = {"image": start(self._image_disk)}
        if plan is not None and plan.model.source == "hub":
            folders["weights"] = start(lambda: self._weights_disk(plan))
        api_port = start(lambda: self._api_port(plan))
        hccl = start(lambda: self._hccl_ports(plan))
        return HostFacts(
            kernel=self._kernel(),
            clock=self._clock(),
            engine=self._engine(),
            parts=self._parts(),
            container=self._container(),
            image=image(),
            registry=registry(),
            weights=weights(),
            hub=hub(),
            disks={name: wait() for name, wait in folders.items()},
            api_port=api_port(),
            hccl_ports=hccl(),
            install_info=self._install(),
            proxies=system.proxies(os.environ),
        )

    def _of_image(self, plan: Plan | None) -> ImageFacts | Missing:
        if plan is None:
            return _NO_PLAN
        return self._of_engine(lambda there: system.image(there, plan.image))

    def _of_weights(self, plan: Plan | None) -> WeightsFacts | Missing:
        if plan is None:
            return _NO_PLAN
        return _INSIDE if self._inside else system.weights(plan.model)

    def _registry(
        self, plan: Plan | None, image: ImageFacts | Missing
    ) -> tuple[Answer, ...] | Missing:
        if plan is None or isinstance(image, Missing):
            return image if isinstance(image, Missing) else _NO_PLAN
        if image.here or image.base:
            return ()
        connection = self._connection()
        if isinstance(connection, Missing):
            return connection
        seconds = min(self._config.timeouts.registry, self._readings.left)

        def ask(name: str) -> Callable[[], Answer | Missing]:
            return self._readings.start(lambda: system.registry(connection, name, seconds))

        asked = {name: ask(name) for name in plan.image.names}
        answers = {name: wait() for name, wait in asked.items()}
        return tuple(
            Answer(name, ok=False, why=found.why, silent=found.silent)
            if isinstance(found, Missing)
            else found
            for name, found in answers.items()
        )

    def _hub(self, plan: Plan | None, weights: WeightsFacts | Missing) -> Answer | Missing | None:
        if plan is None or isinstance(weights, Missing):
            return weights if isinstance(weights, Missing) else _NO_PLAN
        if plan.model.source != "hub" or weights.complete:
            return None
        return system.reach(system.hub_address(), self._readings.left)

    def _image_disk(self) -> DiskFacts | Missing:
        if self._inside:
            return _INSIDE
        found = self._engine()
        if isinstance(found, Missing):
            return Missing(f"the engine does not say where its images are: {found.why}")
        if self._remote() or found.root is None or not os.path.isdir(found.root):  # noqa: PTH112
            return Missing(f"{found.root} is not on this machine, but on the engine's")
        return system.disk(found.root)

    def _weights_disk(self, plan: Plan) -> DiskFacts | Missing:
        return _INSIDE if self._inside else system.disk(plan.model.host_path)

    def _api_port(self, plan: Plan | None) -> PortFacts | Missing:
        if self._inside or self._remote():
            return _INSIDE if self._inside else Missing("the engine is on another machine")
        if plan is None:
            return _NO_PLAN
        return system.port(self._config.server.bind, plan.api_port)

    def _hccl_ports(self, plan: Plan | None) -> tuple[PortFacts, ...] | Missing:
        if plan is None or self._inside:
            return _INSIDE if self._inside else _NO_PLAN
        base = dict(plan.container.environment).get("HCCL_IF_BASE_PORT")
        if plan.platform != "ascend" or plan.container.network != "host" or not base:
            return ()
        numbers = range(int(base), int(base) + ports.HCCL_PORTS)
        return tuple(system.port("0.0.0.0", number) for number in numbers)  # noqa: S104 (HCCL's)

    @staticmethod
    def _remote() -> bool:
        from appliance.engine import address

        return address.socket_path() is None


def of_snapshot(inventory: Inventory, folder: Path) -> HostFacts:
    """Return what a snapshot says; all else is missing, and says so."""
    told, gone = inventory.system, _NO_SNAPSHOT
    engine: EngineFacts | Missing = gone
    if told.docker or told.runtimes:
        engine = EngineFacts(
            version=told.docker,
            runtimes=told.runtimes,
            default_runtime=told.default_runtime,
            cpus=told.cpus,
        )
    disk: DiskFacts | Missing = gone
    if told.disk_free_gib is not None:
        disk = DiskFacts("the snapshot's disk", 0, told.disk_free_gib * GIB)
    info: Mapping[str, str] | Missing = gone
    with suppress(OSError):
        info = system.install_info(folder / system.INSTALL_INFO.name)
    return HostFacts(
        kernel=gone,
        clock=gone,
        engine=engine,
        parts=PartsFacts(compose=told.compose or gone, buildx=gone),
        container=gone,
        image=gone,
        registry=gone,
        weights=gone,
        hub=gone,
        disks={"image": disk, "weights": disk},
        api_port=gone,
        hccl_ports=gone,
        install_info=info,
        unsaid=gone.why,
    )
