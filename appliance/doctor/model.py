"""The doctor's types: what is examined, what a check finds, and the report of them all."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from appliance.catalog import load as catalog
from appliance.errors import ApplianceError
from appliance.inventory.facts import HostFacts, Missing
from appliance.inventory.model import Inventory, Problem
from appliance.plan.choice import platform_name
from appliance.plan.model import Plan

if TYPE_CHECKING:
    from appliance.config.model import Config

Verdict = Literal["ok", "warning", "failed", "unknown", "skipped"]


@dataclass(frozen=True)
class Finding:
    """What one check found: the verdict, what was seen, what to do.

    `problem` is the error that `up` would end with because of it, where that has an id of its
    own: a script that waits for `port-in-use` gets that.
    """

    verdict: Verdict
    evidence: str
    remedy: str = ""
    problem: Problem | None = None


def ok(evidence: str) -> Finding:
    """Return that all is well."""
    return Finding("ok", evidence)


def warning(evidence: str, remedy: str) -> Finding:
    """Return that it works, or may, but not as it should."""
    return Finding("warning", evidence, remedy)


def failed(evidence: str, remedy: str, error: str | None = None) -> Finding:
    """Return that it can't work; `error` is the id of the error that says so elsewhere."""
    problem = Problem(error, evidence, remedy) if error else None
    return Finding("failed", evidence, remedy, problem)


def of_problem(problem: Problem) -> Finding:
    """Return that an error stands in the way, in its own words."""
    return Finding("failed", problem.message, problem.remedy, problem)


def unknown(evidence: str, remedy: str = "") -> Finding:
    """Return that it can't be told."""
    return Finding("unknown", evidence, remedy)


def missing(fact: Missing) -> Finding:
    """Return that it can't be told, since a fact is missing."""
    return unknown(f"not known: {fact.why}")


def skipped(why: str) -> Finding:
    """Return that there is nothing to check here, and why."""
    return Finding("skipped", why)


@dataclass(frozen=True)
class Subject:
    """What is examined: the operator's wishes, the host, and the plan or why there is none."""

    config: Config
    inventory: Inventory | Missing
    plan: Plan | ApplianceError | Missing
    facts: HostFacts = field(default_factory=HostFacts)

    @property
    def made(self) -> Plan | None:
        """The plan, if there is one."""
        return self.plan if isinstance(self.plan, Plan) else None

    @property
    def host(self) -> Inventory | None:
        """The inventory, if there is one."""
        return self.inventory if isinstance(self.inventory, Inventory) else None

    @property
    def platform(self) -> Literal["ascend", "cpu"] | None:
        """The platform, as the plan has it or would have; `None` where it can't be told."""
        if self.made is not None:
            return self.made.platform
        if self.host is not None:
            return platform_name(self.config, self.host)
        if self.config.platform != "auto":
            return self.config.platform
        return "ascend" if self.config.product else None

    @property
    def product(self) -> catalog.Product | None:
        """The host's product, where it is known or named."""
        name = self.made.product if self.made else self.config.product
        name = name or (self.host.product if self.host else None)
        return catalog.products().get(name or "")

    @property
    def release(self) -> catalog.Release | None:
        """The release that is planned, or would be."""
        name = self.made.release if self.made else self.config.release
        default = catalog.platforms()[self.platform or "cpu"].release
        return catalog.releases().get(name or default)


@dataclass(frozen=True)
class Check:
    """One check's result. `id` never changes once released."""

    id: str
    title: str
    group: str
    finding: Finding

    @property
    def verdict(self) -> Verdict:
        """How it went."""
        return self.finding.verdict

    def as_dict(self) -> dict[str, Any]:
        """Return the check as `--json` prints it."""
        found = self.finding
        return {
            "id": self.id,
            "title": self.title,
            "verdict": found.verdict,
            "evidence": found.evidence,
            "remedy": found.remedy,
        }


@dataclass(frozen=True)
class Report:
    """All checks, in their order, and how long they took."""

    checks: tuple[Check, ...]
    seconds: float

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.verdict == "failed")

    @property
    def counts(self) -> Counter[Verdict]:
        """How many checks went which way."""
        return Counter(check.verdict for check in self.checks)

    @property
    def error(self) -> ApplianceError | None:
        """What `up` ends with: the first failure's own error if it has one, else doctor-failed.

        Either way the message names every check that failed.
        """
        if not self.failed:
            return None
        own = next((check for check in self.failed if check.finding.problem), None)
        lines = [
            f"  {check.id}: {check.finding.evidence}\n    next: {check.finding.remedy}"
            for check in self.failed
            if check is not own
        ]
        if own is None or own.finding.problem is None:
            return ApplianceError(
                "doctor-failed", "\n".join(["Checks failed before anything was changed:", *lines])
            )
        problem = own.finding.problem
        rest = "\n".join(["", "Further checks failed:", *lines]) if lines else ""
        return ApplianceError(problem.id, f"{problem.message}{rest}", problem.remedy)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as `--json` prints it."""
        return {
            "ok": not self.failed,
            "seconds": round(self.seconds, 3),
            "checks": [check.as_dict() for check in self.checks],
        }
