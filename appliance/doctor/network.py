"""Checks of ports, of what must be reached from here, and of the clock."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from appliance.catalog import load as catalog
from appliance.catalog.needs import needs
from appliance.doctor.model import Finding, failed, missing, ok, skipped, unknown, warning
from appliance.inventory.facts import ContainerFacts, Missing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from appliance.doctor.model import Subject
    from appliance.inventory.facts import PortFacts

# States in which a container holds its ports.
_HOLDING = frozenset({"running", "paused"})
_IN_USE, _FORBIDDEN = "EADDRINUSE", {"EACCES", "EPERM"}
_NOTHING = "nothing has to be fetched"


def pulls(subject: Subject) -> bool:
    """Tell whether a registry is needed, as far as is known."""
    found = subject.facts.image
    return not isinstance(found, Missing) and not found.here and not found.base


def fetches(subject: Subject) -> bool:
    """Tell whether the model hub is needed, as far as is known."""
    plan, found = subject.made, subject.facts.weights
    if plan is None or plan.model.source != "hub" or isinstance(found, Missing):
        return False
    return not found.complete


def api_port(subject: Subject) -> Finding:
    """Tell whether the API's port is free, or held by this appliance itself."""
    found = subject.facts.api_port
    if isinstance(found, Missing):
        return missing(found)
    where = f"{found.address}, port {found.port}"
    if found.error is None:
        return ok(f"{where}: free")
    if found.error in _FORBIDDEN:
        return ok(f"{where}: not for this user to open, but for the engine")
    if found.error != _IN_USE:
        remedy = "Set `server.bind` to an address of this host (`ip -brief address` lists them)."
        return failed(f"server.bind {where}: {found.text}.", remedy, "config-invalid")
    return _in_use(found, where, subject.facts.container)


def _in_use(found: PortFacts, where: str, own: ContainerFacts | Missing | None) -> Finding:
    """Tell whether who holds the port is the appliance itself."""
    remedy = (
        f"See who it is with `ss -ltnp sport = :{found.port}`, or choose another `server.port`."
    )
    if isinstance(own, Missing):
        return unknown(f"{where}: in use; whether by this appliance is not known", remedy)
    if own and own.ours and own.status in _HOLDING and found.port in own.ports:
        return ok(f"{where}: held by {own.name}, this appliance's own container")
    return failed(f"server.bind {where}: {found.text}.", remedy, "port-in-use")


def hccl_ports(subject: Subject) -> Finding:
    """Tell whether HCCL's ports are free, and stay so."""
    found, kernel = subject.facts.hccl_ports, subject.facts.kernel
    if subject.platform == "cpu":
        return skipped("the platform is cpu")
    if subject.config.server.network != "host":
        return skipped("on a bridge network the container has all ports to itself")
    if isinstance(found, Missing):
        return missing(found)
    busy = [str(item.port) for item in found if item.error == _IN_USE]
    own = subject.facts.container
    mine = isinstance(own, ContainerFacts) and own.ours and own.status in _HOLDING
    if not found:
        return unknown("the plan names no ports for HCCL")
    span = f"{found[0].port}-{found[-1].port}"
    if busy and not mine:
        return failed(
            f"HCCL takes {span}; in use: {', '.join(busy)}. Communication could not be set up.",
            "Stop who holds them (`ss -ltnp`), or use `server.network: bridge`.",
        )
    ranges = None if isinstance(kernel, Missing) else (kernel.local_ports, kernel.reserved_ports)
    return _kept(span, [item.port for item in found], ranges)


def _kept(
    span: str, ports: list[int], ranges: tuple[tuple[int, int] | None, str] | None
) -> Finding:
    """Tell whether the kernel keeps ports from outgoing connections."""
    if ranges is None or ranges[0] is None:
        return ok(f"{span}: free")
    (low, high), reserved = ranges[0], set(_numbers(ranges[1]))
    if any(low <= port <= high and port not in reserved for port in ports):
        return warning(
            f"{span} are free now, but outgoing connections are given ports {low}-{high}: one of "
            "them may take one of HCCL's at any time.",
            needs().reserve_ports.format(range=span) + " (and in /etc/sysctl.d, to stay)",
        )
    return ok(f"{span}: free, and kept from outgoing connections")


def _numbers(ranges: str) -> Iterator[int]:
    """Yield the numbers of a list such as `60000-60015,61000`."""
    for part in ranges.replace(" ", "").split(","):
        low, _, high = part.partition("-")
        if low.isdigit():
            yield from range(int(low), int(high if high.isdigit() else low) + 1)


def proxy(subject: Subject) -> Finding:
    """Tell whether what needs a proxy has one."""
    facts = subject.facts
    for fact in (facts.image, facts.weights):
        if isinstance(fact, Missing):
            return missing(fact)
    if not (pulls(subject) or fetches(subject)):
        return skipped(_NOTHING)
    here = facts.proxies
    theirs = None if isinstance(facts.engine, Missing) else facts.engine.proxies
    if pulls(subject) and here and theirs is not None and not theirs:
        return warning(
            f"{', '.join(sorted(here))} are set here, but the engine, which pulls images, has no "
            "proxy of its own.",
            "Give it one: proxies in /etc/docker/daemon.json, or HTTPS_PROXY in a drop-in of "
            "docker.service; then restart Docker.",
        )
    if fetches(subject) and theirs and not here:
        return warning(
            "The engine uses a proxy, but none is set here, where weights are fetched.",
            "Set HTTPS_PROXY and NO_PROXY for this command too.",
        )
    said = ", ".join(sorted(here)) or "none"
    return ok(f"here: {said}; the engine: {', '.join(sorted(theirs or ())) or 'none'}")


def registry(subject: Subject) -> Finding:
    """Tell whether a registry gives the image, where one must."""
    answers, plan = subject.facts.registry, subject.made
    if isinstance(answers, Missing):
        return missing(answers)
    if not answers or plan is None:
        return skipped("nothing has to be pulled")
    having = next((answer for answer in answers if answer.ok), None)
    if having:
        return ok(f"{having.name} can be pulled")
    said = " ".join(f"{answer.name}: {answer.why}." for answer in answers)
    if plan.image.local_image and not plan.image.digest:
        return warning(
            f"No registry gives the base image. {said}",
            "Nothing, if it may be built here instead, from Debian's and Python's packages, which "
            "takes minutes. Else name a mirror in `image.mirrors`, or see to the engine's proxy.",
        )
    remedy = (
        "Check the network and the engine's proxy, name a mirror in `image.mirrors`, or load the "
        "image by hand (docker load)."
    )
    if any(answer.silent for answer in answers):
        limit = subject.config.timeouts.registry
        return warning(f"No registry answered yet; `up` waits for {limit:g} s. {said}", remedy)
    return failed(f"No registry gives the image. {said}", remedy, "image-unavailable")


def hub(subject: Subject) -> Finding:
    """Tell whether the model hub takes connections, where weights must be fetched."""
    answer = subject.facts.hub
    if isinstance(answer, Missing):
        return missing(answer)
    if answer is None:
        return skipped(_NOTHING)
    if answer.ok:
        return ok(f"{answer.name} takes connections")
    remedy = (
        "Check the network and HTTPS_PROXY, name another hub in MODELSCOPE_ENDPOINT, or copy the "
        "weights by hand and name their folder in `model.path`."
    )
    said = f"Weights have to be fetched, and {answer.name} can't be reached: {answer.why}."
    if answer.silent:
        return warning(said, remedy)
    return failed(said, remedy, "weights-fetch-failed")


def clock(subject: Subject) -> Finding:
    """Tell whether the clock is right enough for TLS, which nothing is fetched without."""
    found = subject.facts.clock
    if isinstance(found, Missing):
        return missing(found)
    now = datetime.fromtimestamp(found.now, tz=timezone.utc)
    newest = max(release.date for release in catalog.releases().values())
    online = pulls(subject) or fetches(subject)
    remedy = (
        "Set it: `timedatectl set-ntp true`, or chrony; `date -u -s` where there is no network."
    )
    if now.date().isoformat() < newest:
        text = f"It is {now:%Y-%m-%d %H:%M} here, before the release of this appliance ({newest})."
        if online:
            return failed(f"{text} No certificate of a registry or hub is valid yet.", remedy)
        return warning(text, remedy)
    text = f"{now:%Y-%m-%d %H:%M} UTC"
    if found.synchronised is False:
        note = f"{text}; the kernel knows of nothing that keeps the clock right"
        return warning(f"{note}.", remedy) if online else ok(note)
    return ok(f"{text}, synchronised" if found.synchronised else text)
