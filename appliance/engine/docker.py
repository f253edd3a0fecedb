"""The Docker engine through its API: what exists, in what state; stop, remove, logs."""

from __future__ import annotations

import io
import json
import socket
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from appliance.engine import address
from appliance.errors import ApplianceError
from appliance.plan import names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from docker import DockerClient

# The engine answers these requests from memory: longer means that it hangs.
REQUEST_SECONDS = 15
# A healthy engine answers this in milliseconds.
PING_SECONDS = 4
# Of what is read out of a container at once.
FILES_BYTES = 16 << 20
CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class ContainerState:
    """What the engine says of a container, now."""

    id: str
    name: str
    status: str
    exit_code: int
    oom_killed: bool
    error: str
    restarts: int
    started_at: str
    health: str | None
    image_id: str
    labels: Mapping[str, str]
    # Host address and port of what it publishes.
    ports: tuple[tuple[str, int], ...] = ()

    @property
    def running(self) -> bool:
        """Whether its process runs."""
        return self.status == "running"

    @property
    def ours(self) -> bool:
        """Whether an appliance's plan made it."""
        return names.LABEL_NAME in self.labels

    def spec(self) -> dict[str, Any]:
        """Return the plan's specification that it carries; empty where it carries none."""
        try:
            spec: dict[str, Any] = json.loads(self.labels.get(names.LABEL_SPEC, "{}"))
        except ValueError:
            return {}
        return spec


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
        found = self.inspect(name)
        if found is None or found["Name"] != f"/{name}":
            return None  # The engine takes the start of an id for a name, too.
        state = found["State"]
        bindings = (found["HostConfig"]["PortBindings"] or {}).values()
        ports = [(b["HostIp"], int(b["HostPort"] or 0)) for group in bindings for b in group or ()]
        return ContainerState(
            id=found["Id"],
            name=name,
            status=state["Status"],
            exit_code=state["ExitCode"],
            oom_killed=state["OOMKilled"],
            error=state["Error"],
            restarts=found["RestartCount"],
            started_at=state["StartedAt"],
            health=(state.get("Health") or {}).get("Status"),
            image_id=found["Image"],
            labels=found["Config"]["Labels"] or {},
            ports=tuple(ports),
        )

    def image(self, name: str) -> ImageState | None:
        """Return the state of a local image, or `None`."""
        found = self._inspect_image(name)
        if found is None:
            return None
        labels = (found.get("Config") or {}).get("Labels") or {}
        return ImageState(found["Id"], found["Size"], labels)

    def discard(self, image_id: str) -> None:
        """Remove an image that no name and no container needs any more; else leave it."""
        from docker.errors import APIError

        with translated(), suppress(APIError):
            if not self.client.api.inspect_image(image_id)["RepoTags"]:  # type: ignore[no-untyped-call]
                self.client.api.remove_image(image_id)

    def stop(self, found: ContainerState, timeout: int) -> None:
        """Stop a container: its stop signal, then after `timeout` seconds the kill signal."""
        with translated():
            self.client.api.timeout = timeout + REQUEST_SECONDS
            try:
                self.client.api.stop(found.id, timeout=timeout)
            finally:
                self.client.api.timeout = REQUEST_SECONDS

    def remove(self, found: ContainerState) -> None:
        """Remove a container; its named volumes stay."""
        from docker.errors import NotFound

        with translated():
            try:
                self.client.api.remove_container(found.id, force=True)
            except NotFound:
                return

    def logs(self, found: ContainerState, tail: int) -> str:
        """Return the last `tail` lines of a container's output."""
        from docker.errors import NotFound

        with translated():
            try:
                raw: bytes = self.client.api.logs(found.id, stdout=True, stderr=True, tail=tail)
            except NotFound:
                return ""
        return raw.decode("utf-8", errors="replace")

    def files(self, found: ContainerState, path: str) -> dict[str, bytes]:
        """Return the files at a path of a container, by name, whether it runs or not.

        Empty where there are none, or where they are more than `FILES_BYTES` together.
        """
        from docker.errors import NotFound, create_api_error_from_http_exception
        from requests import HTTPError

        api = self.client.api
        url = f"{api.base_url}/v{api.api_version}/containers/{found.id}/archive"
        packed = bytearray()
        # Not the library's own get_archive, whose connection stays open where less than all
        # is read.
        with (
            translated(),
            closing(
                api.get(url, params={"path": path}, stream=True, timeout=REQUEST_SECONDS)
            ) as response,
        ):
            try:
                response.raise_for_status()
            except HTTPError as error:
                with suppress(NotFound):
                    create_api_error_from_http_exception(error)
                return {}
            for chunk in response.iter_content(CHUNK_BYTES):
                packed += chunk
                if len(packed) > FILES_BYTES:
                    return {}
        return _unpacked(bytes(packed))

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
            with closing(docker.from_env(timeout=max(1, round(timeout)))) as client:
                found = client.api.inspect_distribution(image)  # type: ignore[no-untyped-call]
            return RegistryAnswer(str(found["Descriptor"]["digest"]))
        except APIError as error:
            return RegistryAnswer(None, str(error.explanation))
        except (DockerException, RequestException, OSError):
            return RegistryAnswer(None, f"no answer within {timeout:g} s")

    def digests(self, name: str) -> tuple[str, ...] | None:
        """Return the references, `REPOSITORY@DIGEST`, by which registries know a local image.

        Empty for an image that was loaded or built here; `None` where there is no such image.
        """
        found = self._inspect_image(name)
        return None if found is None else tuple(found.get("RepoDigests") or ())

    def _inspect_image(self, name: str) -> Mapping[str, Any] | None:
        from docker.errors import ImageNotFound

        with translated():
            try:
                found: Mapping[str, Any] = self.client.api.inspect_image(name)  # type: ignore[no-untyped-call]
            except ImageNotFound:
                return None
        return found

    def tag(self, reference: str, name: str) -> None:
        """Give a local image a name, which it may take from another."""
        repository, _, tag = name.rpartition(":")
        if not repository or "/" in tag:  # The colon is a port's, or there is none.
            repository, tag = name, "latest"
        with translated():
            self.client.api.tag(reference, repository, tag, force=True)

    def inspect(self, name: str) -> Mapping[str, Any] | None:
        """Return all that the engine says of a container, or `None` where there is none."""
        from docker.errors import NotFound

        with translated():
            try:
                found: Mapping[str, Any] = self.client.api.inspect_container(name)
            except NotFound:
                return None
        return found

    def version(self) -> Mapping[str, Any]:
        """Return what the engine says of itself: its version, its kernel, its parts."""
        with translated():
            found: Mapping[str, Any] = self.client.api.version()
        return found

    def log_stream(self, found: ContainerState, tail: int | None) -> Iterator[bytes]:
        """Yield a container's output as it comes from the engine; `tail` lines, or all of it."""
        from docker.errors import NotFound

        with translated():
            try:
                yield from self.client.api.logs(
                    found.id,
                    stdout=True,
                    stderr=True,
                    stream=True,
                    follow=False,  # Else a stream follows.
                    tail=tail or "all",
                )
            except NotFound:
                return


def connect() -> Engine:
    """Connect to the engine that the environment names; raises engine-unreachable."""
    import docker
    from docker.errors import DockerException

    try:
        _knock()
        client = docker.from_env(timeout=PING_SECONDS)
        client.ping()
        client.api.timeout = REQUEST_SECONDS
    except (DockerException, OSError) as error:
        raise ApplianceError(
            "engine-unreachable", f"The Docker engine does not answer: {_cause(error)}"
        ) from error
    return Engine(client)


def _knock() -> None:
    """Connect to the engine's socket and go; raises OSError where nothing listens.

    The docker library tries several times and leaves each socket that it could not connect
    open, to be found by whatever counts open files.
    """
    if path := address.socket_path():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knocking:
            knocking.settimeout(PING_SECONDS)
            knocking.connect(path)


def _unpacked(packed: bytes) -> dict[str, bytes]:
    """Return the plain files in a tar archive, by their last name."""
    import tarfile

    files = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            for member in archive:
                opened = archive.extractfile(member) if member.isreg() else None
                if opened is not None:
                    files[PurePosixPath(member.name).name] = opened.read()
    except tarfile.TarError:
        return {}
    return files


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
