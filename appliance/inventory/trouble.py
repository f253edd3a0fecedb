"""Turns what npu-smi, the loader or the shell printed into problems: cause and remedy.

The signatures are data: `appliance/catalog/data/npu_smi_errors.yaml`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.catalog import chips
from appliance.inventory.model import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable

    from appliance.catalog.chips import Signature

# The driver's group where /etc/ascend_install.info does not say otherwise.
GROUP = "HwHiAiUser"
_LINE = 160


def problems(lines: Iterable[str], group: str = GROUP, *, table: bool) -> list[Problem]:
    """Return the problems that lines of output name, each once, in the signatures' order.

    `table` says that a table of NPUs was read all the same.
    """
    found: dict[str, tuple[Signature, str]] = {}
    for line in lines:
        signature = next((s for s in chips.errors().signatures if s.match.search(line)), None)
        if signature is not None and not (table and signature.alone):
            found.setdefault(signature.id, (signature, line))
    if not all(signature.companion for signature, _ in found.values()):
        found = {key: value for key, value in found.items() if not value[0].companion}
    order = [signature.id for signature in chips.errors().signatures]
    return [_problem(*found[key], group) for key in sorted(found, key=order.index)]


def retry(text: str) -> bool:
    """Tell whether asking again may help: two programs may have asked the driver at once."""
    return any(s.retry and s.match.search(text) for s in chips.errors().signatures)


def missing(group: str = GROUP) -> Problem:
    """Return the problem of a machine with NPUs and no npu-smi."""
    return problems(["npu-smi: not found"], group, table=False)[0]


def unread(lines: Iterable[str], group: str = GROUP) -> Problem:
    """Return the problem of output that no signature fits: what it is, or that there is none."""
    line = next((line for line in lines if line.strip()), "")
    errors = chips.errors()
    return _problem(errors.unreadable if line else errors.empty, line, group)


def meaning(health: str) -> str:
    """Return what a state of health means, in words that follow a dash."""
    known = {word.lower(): text for word, text in chips.errors().health.items()}
    return known.get(health.lower(), "a state that the catalog does not know")


def _problem(signature: Signature, line: str, group: str) -> Problem:
    shown = line if len(line) <= _LINE else line[: _LINE - 1] + "…"
    message = signature.message.replace("{line}", shown).replace("{group}", group)
    if signature.tool:
        message += ("" if message.endswith((".", "…")) else ".") + " " + chips.errors().caveat
    return Problem(signature.id, message, signature.remedy.replace("{group}", group))
