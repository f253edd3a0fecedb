"""Makes an inventory of what was read of a host, live or from a snapshot. Pure.

What can't be known stays `None`, and what is wrong becomes a problem with a remedy; no text of
npu-smi, however broken, makes this raise. Most commands run on hosts with no NPU: what it takes
to understand npu-smi is imported only where there is something to understand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from appliance.inventory.model import Claim, Inventory, Problem, System

_VERSION = re.compile(r"^\s*Version\s*=\s*(\S+)", re.MULTILINE)
_DRIVER_NODE = re.compile(r"/dev/(davinci|devmm_svm$|hisi_hdc$)")


@dataclass(frozen=True)
class Sources:
    """What was read of a host: texts of commands and files, `None` for one that is not there.

    `nodes` is None where it is not known which device nodes there are. `problems` are those of
    the reading itself, such as a command that did not end.
    """

    nodes: frozenset[str] | None = None
    paths: frozenset[str] = frozenset()
    system: System = field(default_factory=System)
    info: str | None = None
    mapping: str | None = None
    listing: str | None = None
    topology: str | None = None
    driver_info: str | None = None
    install_info: str | None = None
    claims: tuple[Claim, ...] = ()
    problems: tuple[Problem, ...] = ()


def assemble(sources: Sources) -> Inventory:
    """Make an inventory of what was read."""
    installed = _VERSION.search(sources.driver_info or "")
    empty = Inventory(
        product="none",
        driver_version=installed[1] if installed else None,
        claims=sources.claims,
        problems=sources.problems,
        device_nodes=sources.nodes or frozenset(),
        paths=sources.paths,
        system=sources.system,
    )
    if not _has_driver(sources):
        return empty
    from appliance.inventory.understand import understood

    return understood(sources, empty)


def _has_driver(sources: Sources) -> bool:
    """Tell whether anything speaks of an NPU or its driver.

    No npu-smi is no sign of either; but where it is not known which nodes there are, it does
    not prove their absence: in a container the tool may just not be mounted.
    """
    nodes = sources.nodes or frozenset()
    if any(_DRIVER_NODE.match(node) for node in nodes) or sources.driver_info is not None:
        return True
    if "Driver_Install" in (sources.install_info or ""):
        return True
    for text in (sources.mapping, sources.info):
        if text is not None and (sources.nodes is None or not _only_missing(text)):
            return True
    if not sources.paths:
        return False
    from appliance.catalog import chips

    return not sources.paths.isdisjoint(chips.driver_signs())


def _only_missing(text: str) -> bool:
    """Tell whether a text only says that there is no npu-smi."""
    from appliance.inventory import npu_smi, trouble

    table = npu_smi.read(text)
    found = trouble.problems(table.notes, table=bool(table.rows))
    return not table.rows and [problem.id for problem in found] == [trouble.missing().id]
