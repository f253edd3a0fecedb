"""Who may reach the API, who may see its key, and what the container may read of the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Address, IPv6Address

    from appliance.config.model import Config
    from appliance.inventory.model import FileFacts, Inventory
    from appliance.plan.options import Given

# The plan sets these, and rests its own promises on them.
REFUSED = {
    "--api-key": "Set `server.api_key_file` instead.",
    "--host": "Set `server.bind` instead.",
    "--port": "Set `server.port` instead.",
    "--uds": "Set `server.bind` instead.",
    "--ssl-keyfile": "Put what ends TLS in front of the appliance: its probes speak HTTP.",
    "--ssl-certfile": "Put what ends TLS in front of the appliance: its probes speak HTTP.",
    "--hf-token": "Leave it out: it would stand in `docker inspect`, and nothing is fetched.",
    # A file of options, none of which the plan would see.
    "--config": "Put its options into `server.extra_args`.",
}
_LOOSENING = ("--allowed-local-media-path", "--allowed-media-domains", "--trust-remote-code")


def check(config: Config) -> None:
    """Refuse what would open the API or show its key; raises `ApplianceError`.

    Which options would do so is in `REFUSED`: they are refused with all others.
    """
    server = config.server
    if _address(server.bind) is None:
        raise ApplianceError("config-invalid", f"server.bind: {server.bind} is no IP address.")
    if server.api_key_file is None and not is_loopback(server.bind):
        raise ApplianceError(
            "public-without-key",
            f"server.bind is {server.bind}, which other machines can reach, and no API key is set.",
        )
    if "VLLM_API_KEY" in config.container.environment:
        raise ApplianceError(
            "config-invalid",
            "VLLM_API_KEY in `container.environment` would stand in `docker inspect`.",
            "Put the key in a file, and name the file in `server.api_key_file`.",
        )


def warnings(config: Config) -> list[str]:
    """Return what the operator has loosened by variables, by name."""
    variable = "VLLM_MEDIA_URL_ALLOW_REDIRECTS"
    return [_loosened(variable)] if variable in config.container.environment else []


def loosened(given: Iterable[Given]) -> list[str]:
    """Return what the operator has loosened by options, by name."""
    return [_loosened(one.name) for one in given if one.on and one.name in _LOOSENING]


def _loosened(name: str) -> str:
    return f"{name} is set by hand: it may undo a protection of the default."


def groups(
    config: Config, inventory: Inventory, sources: Iterable[str], device_gid: int | None
) -> tuple[int, ...]:
    """Return the groups that the container's root must be in to use what it is given.

    Root without capabilities is a user like any other: it reads what root owns, what everybody
    may read, and what its groups may read. NPU device nodes usually belong to HwHiAiUser, mode
    0660 (vllm-ascend issue 9490). `sources` are the host paths of devices and mounts. Where the
    host can't be asked (a snapshot), `device_gid` is the group of its devices, if it has any.
    Raises api-key-file.
    """
    needed = set()
    if not inventory.files and device_gid is not None:
        needed.add(device_gid)
    for source in sources:
        facts = inventory.files.get(source)
        if facts is not None and not _readable(facts) and facts.mode & 0o040:
            needed.add(facts.gid)
    path = config.server.api_key_file
    if path is not None and path in inventory.files:
        _check_key_file(path, inventory.files[path])
    return tuple(sorted(needed))


def _check_key_file(path: str, facts: FileFacts | None) -> None:
    if facts is None or not facts.regular or facts.size == 0:
        state = "is empty" if facts and facts.regular else "can't be found, or is no file"
        raise ApplianceError("api-key-file", f"The API key file {path} {state}.")
    if facts.mode & 0o007:
        raise ApplianceError(
            "api-key-file",
            f"The API key file {path} is open to everybody (mode {facts.mode:o}).",
            f"chmod o= {path}",
        )
    if not _readable(facts) and not facts.mode & 0o040:
        raise ApplianceError(
            "api-key-file",
            f"The API key file {path} belongs to uid {facts.uid} alone (mode {facts.mode:o}), "
            "and the container's root, which has no capabilities, could not read it.",
            f"chmod g+r {path} (the container joins group {facts.gid}), or chown root {path}",
        )


def _readable(facts: FileFacts) -> bool:
    """Tell whether root without capabilities and without further groups may read a file."""
    if facts.uid == 0:
        return bool(facts.mode & 0o400)
    if facts.gid == 0:
        return bool(facts.mode & 0o040)
    return bool(facts.mode & 0o004)


def is_loopback(address: str) -> bool:
    """Tell whether only this host can reach the address."""
    parsed = _address(address)
    return parsed is not None and parsed.is_loopback


def reachable(bind: str) -> str:
    """Return the host part of a URL at which this host reaches what is bound to an address."""
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind, bind)  # noqa: S104
    return f"[{address}]" if ":" in address else address


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Parse an address strictly: 127.1 and 127.cafe are names to some programs."""
    import ipaddress

    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
