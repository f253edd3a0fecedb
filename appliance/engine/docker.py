"""The Docker engine through its API: what exists, in what state; stop, remove, logs."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from docker import DockerClient

# The engine answers these requests from memory: longer means that it hangs.
REQUEST_SECONDS = 30


@dataclass(frozen=True)
class ContainerState:
    """What the engine says of a container, now."""

    id: str
    status: str
    exit_code: int
    oom_killed: bool
    error: str
    restarts: int
    started_at: str
    health: str | None
    image_id: str
    labels: Mapping[str, str]

    @property
    def running(self) -> bool:
        """Whether its process runs."""
        return self.status == "running"


@dataclass(frozen=True)
class ImageState:
    """What the engine says of an image. Size in bytes."""

    id: str
    size: int
    labels: Mapping[str, str]


@dataclass(frozen=True)
class RegistryAnswer:
    """What a registry says of an image: its digest, or why there is none."""

    digest: str | None
    why: str = ""


@dataclass
class Engine:
    """A connection to the Docker engine."""

    client: DockerClient = field(repr=False)

    def container(self, name: str) -> ContainerState | None:
        """Return the state of a container, or `None` where there is none of that name."""
        from docker.errors import NotFound

        with translated():
            try:
                found: Mapping[str, Any] = self.client.api.inspect_container(name)
            except NotFound:
                return None
        state = found["State"]
        return ContainerState(
            id=found["Id"],
            status=state["Status"],
            exit_code=state["ExitCode"],
            oom_killed=state["OOMKilled"],
            error=state["Error"],
            restarts=found["RestartCount"],
            started_at=state["StartedAt"],
            health=(state.get("Health") or {}).get("Status"),
            image_id=found["Image"],
            labels=found["Config"]["Labels"] or {},
        )

    def image(self, name: str) -> ImageState | None:
        """Return the state of a local image, or `None`."""
        from docker.errors import ImageNotFound

        with translated():
            try:
                found = self.client.api.inspect_image(name)  # type: ignore[no-untyped-call]
            except ImageNotFound:
                return None
        labels = (found.get("Config") or {}).get("Labels") or {}
        return ImageState(found["Id"], found["Size"], labels)

    def stop(self, name: str, timeout: int) -> None:
        """Stop a container: its stop signal, then after `timeout` seconds the kill signal."""
        with translated():
            # The restart policy must not bring it back between the signal and the end.
            container = self.client.containers.get(name)
            self.client.api.timeout = timeout + REQUEST_SECONDS
            try:
                container.stop(timeout=timeout)
            finally:
                self.client.api.timeout = REQUEST_SECONDS

    def remove(self, name: str) -> None:
        """Remove a container; its named volumes stay."""
        from docker.errors import NotFound

        with translated():
            try:
                self.client.api.remove_container(name, force=True)
            except NotFound:
                return

    def logs(self, name: str, tail: int | None = None, since: int | None = None) -> str:
        """Return the container's output; `tail` is a number of lines, `since` a UNIX time."""
        from docker.errors import NotFound

        options: dict[str, Any] = {"tail": "all" if tail is None else tail}
        if since is not None:
            options["since"] = since
        with translated():
            try:
                raw: bytes = self.client.api.logs(name, stdout=True, stderr=True, **options)
            except NotFound:
                return ""
        return raw.decode("utf-8", errors="replace")

    def data_root(self) -> str:
        """Return the folder in which the engine keeps images."""
        with translated():
            return str(self.client.api.info()["DockerRootDir"])

    def ask_registry(self, image: str, timeout: float) -> RegistryAnswer:
        """Ask the image's registry, through the engine, for its digest.

        Gives up after `timeout` seconds. The engine is asked, and not the registry, because
        it is the engine's network and proxy that count.
        """
        import docker
        from docker.errors import APIError, DockerException
        from requests import RequestException

        try:
            api = docker.from_env(timeout=max(1, round(timeout))).api
            found = api.inspect_distribution(image)  # type: ignore[no-untyped-call]
            return RegistryAnswer(str(found["Descriptor"]["digest"]))
        except APIError as error:
            return RegistryAnswer(None, str(error.explanation))
        except (DockerException, RequestException, OSError):
            return RegistryAnswer(None, f"no answer within {timeout:g} s")


def connect() -> Engine:
    """Connect to the engine that the environment names; raises engine-unreachable."""
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env(timeout=REQUEST_SECONDS)
        client.ping()
    except (DockerException, OSError) as error:
        raise ApplianceError(
            "engine-unreachable", f"The Docker engine does not answer: {_cause(error)}"
        ) from error
    return Engine(client)


@contextmanager
def translated() -> Iterator[None]:
    """Turn the docker library's errors into the appliance's."""
    from docker.errors import APIError, DockerException
    from requests import RequestException

    try:
        yield
    except APIError as error:
        raise ApplianceError(
            "engine-failed", f"The Docker engine says: {error.explanation}"
        ) from error
    except (DockerException, RequestException, OSError) as error:
        raise ApplianceError(
            "engine-unreachable", f"The Docker engine stopped answering: {_cause(error)}"
        ) from error


def _cause(error: BaseException) -> str:
    """Return the innermost of an exception's causes: the outer ones only wrap it."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return str(error) or type(error).__name__
