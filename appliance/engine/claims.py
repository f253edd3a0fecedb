"""What the appliances of this host hold: read from their containers' labels, never remembered.

A claim lasts as long as the container that runs or will run again, so it survives a crash of the
launcher and of the host. It is gone with the container, and with one that ended for good.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from typing import TYPE_CHECKING, Any

from appliance.engine import address
from appliance.inventory.model import Claim
from appliance.plan import names

if TYPE_CHECKING:
    from appliance.plan.model import Container

# A healthy engine answers from memory, in milliseconds. To look, so long is enough; what is
# going to change something waits as long as it waits for every other answer.
SECONDS = 2.0
PATIENT_SECONDS = 15.0
_LIVING = frozenset({"created", "running", "restarting", "paused"})


def read(seconds: float = SECONDS) -> tuple[Claim, ...] | None:
    """Return the claims of this host's containers; `None` where the engine can't be asked."""
    path = address.socket_path()
    try:
        listed = _ask(path, seconds) if path else _ask_remote()
        return tuple(
            claim for row in listed if row.get("State") in _LIVING and (claim := _of_row(row))
        )
    except ConnectionRefusedError:
        return ()  # An engine that is stopped: so are its containers.
    except (OSError, ValueError, AttributeError, TypeError, LookupError):
        return None


def _of_row(row: dict[str, Any]) -> Claim | None:
    """Return what a container of the engine's list holds.

    One that was made by a portable file has no plan, but its devices as a label, and its port is
    what the engine publishes.
    """
    claim = of_labels(row.get("Labels") or {})
    if claim is None or claim.api_port is not None:
        return claim
    ports = [port["PublicPort"] for port in row.get("Ports") or () if port.get("PublicPort")]
    return dataclasses.replace(claim, api_port=ports[0] if ports else None)


def of_labels(labels: dict[str, str]) -> Claim | None:
    """Return what a container with these labels holds; `None` for one that is no appliance's."""
    name = labels.get(names.LABEL_NAME)
    if name is None:
        return None
    devices = tuple(filter(names.NPU_NODE.match, labels.get(names.LABEL_DEVICES, "").split(",")))
    try:
        spec = json.loads(labels.get(names.LABEL_SPEC, "{}"))
        return of_spec(name, spec) if spec else Claim(name, devices)
    except (ValueError, LookupError, TypeError, AttributeError):
        return Claim(name, devices)


def of_plan(container: Container) -> Claim:
    """Return what a container that is planned will hold."""
    return of_spec(container.name, json.loads(container.as_json()))


def of_spec(name: str, spec: dict[str, Any]) -> Claim:
    """Return what a container holds, of its specification as `Container.as_json` has it."""
    variables = dict(spec.get("environment") or ())
    nodes = [d["host"] for d in spec.get("devices") or () if names.NPU_NODE.match(d["host"])]
    nodes += [f"/dev/davinci{n}" for n in variables.get(names.VISIBLE, "").split(",") if n]
    ports = [int(port["host"]) for port in spec.get("ports") or ()]
    command = list(spec.get("command") or ())
    if spec.get("network") == "host" and "--port" in command:  # Else it serves nothing.
        ports = [int(command[command.index("--port") + 1])]
    base = variables.get("HCCL_IF_BASE_PORT")
    return Claim(name, tuple(nodes), ports[0] if ports else None, int(base) if base else None)


def _ask(path: str, seconds: float) -> list[dict[str, Any]]:
    """Ask the engine on its socket for the appliances' containers.

    By hand, over HTTP/1.0, because every command that makes a plan asks this: the libraries for
    it take longer to import than all the rest of such a command.
    """
    import socket

    if not os.path.exists(path):  # noqa: PTH110 (no import of pathlib's own for one question)
        return []  # No engine: nothing of it can hold anything.
    filters = '{"label":["' + names.LABEL_NAME + '"]}'
    query = f"/containers/json?all=1&filters={_quoted(filters)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.settimeout(seconds)
        channel.connect(path)
        channel.sendall(f"GET {query} HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
        parts, end = [], time.monotonic() + seconds
        while part := channel.recv(65536):
            parts.append(part)
            if time.monotonic() > end:
                raise OSError("the engine's answer has no end")
    head, _, body = b"".join(parts).partition(b"\r\n\r\n")
    if b" 200 " not in head.partition(b"\r\n")[0]:
        raise OSError(head.partition(b"\r\n")[0].decode(errors="replace"))
    found: list[dict[str, Any]] = json.loads(body)
    return found


def _quoted(text: str) -> str:
    return "".join(c if c.isalnum() or c in ".-" else f"%{ord(c):02X}" for c in text)


def _ask_remote() -> list[dict[str, Any]]:
    from appliance.engine import docker
    from appliance.errors import ApplianceError

    try:
        api = docker.connect().client.api
        with docker.translated():
            found: list[dict[str, Any]] = api.containers(
                all=True, filters={"label": names.LABEL_NAME}
            )
    except ApplianceError as error:
        raise OSError(error.message) from error
    return found
