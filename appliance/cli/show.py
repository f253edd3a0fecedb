"""How results look: tables and lines for people, documents for programs."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
import shlex
import sys
import textwrap
import time
from contextlib import contextmanager
from threading import Timer
from typing import TYPE_CHECKING, Any

import typer

from appliance.cli.run import complain, document
from appliance.errors import ApplianceError
from appliance.plan import names

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from appliance.config.load import Loaded
    from appliance.deployment import Deployment
    from appliance.diagnose.bundle import Written
    from appliance.diagnose.match import Finding as Failure
    from appliance.diagnose.run import Diagnosis
    from appliance.doctor.model import Finding, Report
    from appliance.engine.lock import Locked
    from appliance.inventory.model import Inventory, Npu
    from appliance.lifecycle.status import Status
    from appliance.lifecycle.up import Outcome
    from appliance.plan.model import MemoryPlan, ModelPlan, Plan
    from appliance.weights.verify import ModelFolder
    from healthchecks import ProbeResult, Settings, Target


def host(deployment: Deployment) -> None:
    """Say on stderr what host was found and what that means."""
    found, made = deployment.inventory, deployment.plan
    npus = f"{len(found.npus)} NPUs" if found.npus else "no NPU"
    print(
        f"Found {npus} on this host: platform {made.platform}, model {made.model.id}.",
        file=sys.stderr,
    )


def endpoint(deployment: Deployment, outcome: Outcome, *, as_json: bool) -> None:
    """Print where the API is and how to use it."""
    made = deployment.plan
    if as_json:
        document(
            {
                "endpoint": f"{made.api_url}/v1",
                "model": made.model.served_name,
                "changed": outcome.changed,
                "differences": list(outcome.differences),
                "smoke": [dataclasses.asdict(result) for result in outcome.smoke],
            }
        )
        return
    if not outcome.changed:
        print("Nothing to do: it runs as planned, and is ready.", file=sys.stderr)
    print(f"\nReady: {made.api_url}/v1   model {made.model.served_name}\n")
    print(_curl(made))
    print()
    print(_snippet(made))


def _curl(made: Plan) -> str:
    key = ""
    if made.api_key_file:
        # Bash's own printf: the key stands in no process list.
        file = shlex.quote(made.api_key_file)
        key = f"  -H @<(printf 'Authorization: Bearer %s' \"$(cat {file})\") \\\n"
    message = {"role": "user", "content": "Hello"}
    body = json.dumps(
        {"model": made.model.served_name, "max_tokens": 64, "messages": [message]},
        ensure_ascii=False,
    )
    return (
        f"curl -s {made.api_url}/v1/chat/completions -H 'Content-Type: application/json' \\\n"
        f"{key}  -d {shlex.quote(body)}"
    )


def _snippet(made: Plan) -> str:
    key = f"open({made.api_key_file!r}).read().strip()" if made.api_key_file else '"EMPTY"'
    return "\n".join(
        [
            "from openai import OpenAI",
            f'client = OpenAI(base_url="{made.api_url}/v1", api_key={key})',
            "answer = client.chat.completions.create(",
            f"    model={json.dumps(made.model.served_name)}, max_tokens=64,",
            '    messages=[{"role": "user", "content": "Hello"}])',
            "print(answer.choices[0].message)",
        ]
    )


SHOWN_FAILURES = 5


def _printable(text: str) -> str:
    """Return what a container says without what could drive a terminal."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def status(found: Status, *, as_json: bool) -> None:
    """Print the state of an appliance."""
    if as_json:
        document(found.as_dict())
        return
    print(f"{found.name}: {found.state}. {found.detail}")
    if found.changing:
        print(f"  changing    {found.changing} is at work")
    if found.container:
        print(f"  container   {found.container}, started {found.started_at}")
        print(f"  restarts    {found.restarts}; health check: {found.health or 'none'}")
        for failure in found.failures[-SHOWN_FAILURES:]:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(failure.at))
            ran = f"after {failure.ran:.0f} s"
            print(f"    {when}  [{failure.cause}] {ran}: {_printable(failure.detail)}")
            if failure.evidence:
                print(f"      evidence in the container: {_printable(failure.evidence)}")
        print(f"  verified    {'yes, by its smoke test' if found.verified else 'no'}")
    if found.endpoint:
        print(f"  endpoint    {found.endpoint}, model {found.model}")
    for line in found.differences:
        print(f"  would change with `up`: {line}")
    print(f"  next        {found.next}")


def logs(name: str, *, follow: bool, tail: int, as_json: bool) -> None:
    """Print the container's output; with `follow`, as `docker logs` does it."""
    from appliance.engine import docker

    engine = docker.connect()
    found = engine.container(name)
    if found is None:
        raise ApplianceError("not-running", f"There is no container {name}.")
    if as_json:
        if follow:
            raise ApplianceError("usage", "--json prints one document; --follow never ends.")
        document({"name": name, "lines": engine.logs(found, tail=tail).splitlines()})
    elif follow:
        try:
            os.execvp("docker", ["docker", "logs", "--follow", "--tail", str(tail), found.id])  # noqa: S606
        except OSError as error:
            raise ApplianceError("engine-missing", f"docker can't be run: {error}") from error
    else:
        sys.stdout.write(engine.logs(found, tail=tail))


def inventory(found: Inventory, *, as_json: bool) -> None:
    """Print what a host is."""
    if as_json:
        document(dataclasses.asdict(found))
        return
    print(f"product {found.product}, driver {found.driver_version or 'not found'}")
    holders = {node: claim.name for claim in found.claims for node in claim.devices}
    for npu in found.npus:
        held = f"  held by the appliance {holders[npu.device]}" if npu.device in holders else ""
        print(f"  {_npu(npu)}{held}")
    for problem in found.problems:
        print(f"  problem [{problem.id}] {problem.message} {problem.remedy}")


def _npu(npu: Npu) -> str:
    """Return one die in a line; memory in MiB."""
    memory = "memory unknown"
    if npu.hbm_total_mib is not None:
        used = "?" if npu.hbm_used_mib is None else npu.hbm_used_mib
        memory = f"{used} of {npu.hbm_total_mib} MiB"
    users = ", ".join(f"{p.name or '(no name)'} {p.pid}" for p in npu.processes)
    node = npu.device or f"NPU {npu.npu_id} chip {npu.chip_id}, no node"
    health = npu.health or "health unknown"
    return f"{node:<16} {npu.name or 'name unknown':<12} {health:<10} {memory:<20} {users}".rstrip()


def plan(made: Plan, *, as_json: bool) -> None:
    """Print a plan."""
    if as_json:
        document(made.as_dict())
        return
    print(f"platform   {made.platform} ({made.product}), release {made.release}")
    print(f"model      {made.model.id} from {made.model.host_path}")
    print(f"image      {made.image.reference} on {made.image.base or 'nothing: used as it is'}")
    if made.image.digest:
        print(f"locked to  {made.image.digest}")
    print(f"parallel   TP={made.tensor_parallel_size}, expert parallel {made.expert_parallel}")
    print(f"API        {made.api_url}/v1")
    if made.memory:
        print(f"memory     {_memory(made.memory)}")
    box = made.container
    for device in box.devices:
        print(f"device     {device.host} -> {device.container}")
    for mount in box.mounts:
        print(f"mount      {mount.source} -> {mount.target} {'ro' if mount.read_only else 'rw'}")
    for name, value in box.environment:
        print(f"variable   {name}={value}")
    print(f"command    {shlex.join(box.command)}")


def _memory(room: MemoryPlan) -> str:
    """Return one rank's memory in a line; figures in GiB."""

    def gib(count: int) -> str:
        return f"{count / 1024**3:.1f}"

    reserve = room.activation_bytes_per_rank + room.communication_bytes_per_rank
    return (
        f"a rank has {gib(room.budget_bytes)} of {gib(room.usable_bytes)} GiB: "
        f"{gib(room.weights_bytes_per_rank)} weights, {gib(reserve)} in reserve, "
        f"{gib(room.kv_cache_bytes_per_rank)} KV cache for {room.kv_tokens:,} tokens, "
        f"{room.max_concurrency:g} requests of full length"
    )


def rendering(text: str, output: Path | None, *, force: bool, as_json: bool) -> None:
    """Print a rendering, or write it; a file that differs is shown, not overwritten."""
    if output is None or str(output) == "-":
        if as_json:
            document({"text": text})
        else:
            sys.stdout.write(text)
        return
    try:
        changed = _write(text, output, force=force)
    except OSError as error:
        raise ApplianceError("file-not-written", f"{output}: {error.strerror}.") from error
    if as_json:
        document({"file": str(output), "changed": changed})


def _write(text: str, output: Path, *, force: bool) -> bool:
    old = output.read_text(encoding="utf-8", errors="replace") if output.exists() else None
    if old is not None and old != text:
        lines = difflib.unified_diff(
            old.splitlines(keepends=True), text.splitlines(keepends=True), str(output), "new"
        )
        sys.stderr.writelines(lines)
        if not force:
            raise ApplianceError("file-differs", f"{output} exists and differs.")
    if old != text:
        output.write_text(text, encoding="utf-8")
    return old != text


def weights(model: ModelPlan, folder: ModelFolder, *, as_json: bool) -> None:
    """Print what a complete model folder holds."""
    if as_json:
        document(
            {
                "model": model.id,
                "path": model.host_path,
                "files": folder.files,
                "bytes": folder.bytes,
            }
        )
    else:
        print(f"{model.id}: complete, {folder.files} files, {folder.bytes / 1e9:.2f} GB")
        print(f"  {model.host_path}")


def smoke(
    target: Target,
    settings: Settings,
    *,
    junit: Path | None,
    report: Path | None,
    as_json: bool,
) -> None:
    """Run the smoke probes and print each as it ends; write the reports; raises smoke-failed."""
    import healthchecks
    from healthchecks.report import text_line

    width = max(len(name) for name in healthchecks.PROBE_NAMES)

    def line(result: ProbeResult) -> None:
        if not as_json:
            print(text_line(result, width), flush=True)

    print(f"seed {settings.seed}", file=sys.stderr, flush=True)
    results = healthchecks.smoke(target, on_result=line, settings=settings)
    if junit is not None:
        healthchecks.write_junit(results, junit)
    if report is not None:
        healthchecks.write_json(results, report)
    if as_json:
        document([dataclasses.asdict(result) for result in results])
    failed = [f"{result.probe} ({result.verdict})" for result in results if not result.ok]
    if failed:
        message = (
            f"Failed: {', '.join(failed)}. With --seed {settings.seed} the media are the same."
        )
        error = ApplianceError("smoke-failed", message)
        complain(error)
        raise typer.Exit(error.exit_code)


def _without_password(value: Any) -> Any:
    """Return a value without the user and password that an address in it may have."""
    return re.sub(r"(?<=://)[^/@\s]+@", "***@", value) if isinstance(value, str) else value


def configuration(loaded: Loaded, *, as_json: bool) -> None:
    """Print every key with its value and origin."""
    from appliance.config.load import keys

    rows: list[dict[str, Any]] = [
        {
            "key": key.name,
            "value": _without_password(loaded.value(key.name)),
            "origin": loaded.origins.get(key.name, "default"),
        }
        for key in keys()
    ]
    if as_json:
        document(rows)
        return
    width = max(len(row["key"]) for row in rows)
    for row in rows:
        value = "(not set)" if row["value"] is None else row["value"]
        print(f"{row['key']:<{width}}  {value}  [{row['origin']}]")


def locked(found: Locked, file: Path, *, as_json: bool) -> None:
    """Print what an image's name was locked to, and who agreed."""
    if as_json:
        document(
            {
                "file": str(file),
                "image": found.name,
                **dataclasses.asdict(found.entry),
                "changed": found.changed,
                "silent": dict(found.silent),
            }
        )
        return
    print(f"{found.name}\n  {found.entry.digest}")
    for name in found.entry.verified_with:
        print(f"  agreed      {name}")
    for name, why in found.silent.items():
        print(f"  no answer   {name}: {why}")
    print(f"  {'written to' if found.changed else 'as it was in'} {file}")


def images(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    """Print each image's name, its locked digest, and what is on this host."""
    if as_json:
        document(rows)
        return
    for row in rows:
        here = row["here"]
        print(f"{row['role']:<11} {row['image']}")
        if row["digest"]:
            print(f"{'':<11}   locked to {row['digest']}")
        if here is None:
            print(f"{'':<11}   not on this host")
            continue
        other = bool(row["digest"]) and row["digest"] not in here["digests"]
        known = ", ".join(here["digests"]) or "no registry's digest"
        print(
            f"{'':<11}   on this host: {here['id'][7:19]}, {here['size'] / 1e9:.2f} GB, {known}"
            f"{' - not the locked one' if other else ''}"
        )


# What is wrapped for people, whatever the terminal: a report is also read in files.
WIDTH = 110
PATIENCE_SECONDS = 3.0
MARKS = {"ok": "ok", "warning": "WARN", "failed": "FAIL", "unknown": "?", "skipped": "-"}


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Say on stderr what is being waited for, if it takes longer than people like to wonder."""
    timer = Timer(PATIENCE_SECONDS, lambda: print(text, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def doctor(report: Report, *, as_json: bool) -> None:
    """Print what the doctor found; ends with doctor-failed's exit code where a check failed."""
    if as_json:
        document(report.as_dict())
    else:
        _checks(report)
    if report.failed:
        sys.stdout.flush()
        failed = ", ".join(check.id for check in report.failed)
        error = ApplianceError("doctor-failed", f"Failed: {failed}.")
        complain(error)
        raise typer.Exit(error.exit_code)


def _checks(report: Report) -> None:
    """Print the checks by group; those that say nothing share a line for each reason."""
    width = max(len(check.id) for check in report.checks)
    for group in dict.fromkeys(check.group for check in report.checks):
        checks = [check for check in report.checks if check.group == group]
        print(group)
        quiet: dict[Finding, list[str]] = {}
        for check in checks:
            found = check.finding
            if found.verdict in {"skipped", "unknown"} and not found.remedy:
                quiet.setdefault(found, []).append(check.id)
                continue
            _row(MARKS[found.verdict], f"{check.id:<{width}}  ", found.evidence)
            if found.remedy:
                _row("", f"{'':<{width}}  ", f"next: {found.remedy}")
        for found, ids in quiet.items():
            _row(MARKS[found.verdict], "", f"{', '.join(ids)}: {found.evidence}")
    counts = ", ".join(f"{count} {verdict}" for verdict, count in report.counts.most_common())
    print(f"\n{len(report.checks)} checks in {report.seconds:.1f} s: {counts}.")
    if report.counts["unknown"] and not report.failed:
        print("No check failed; what is unknown (?) was not checked.")
    elif not report.failed:
        print("Nothing keeps `appliance up` from going on.")


def _row(mark: str, name: str, text: str) -> None:
    """Print a text beside its mark and its name, on as many lines as it takes."""
    head = f"  {mark:<6}{name}"
    for line in text.splitlines():
        # What is to be typed stays on one line, so that it can be copied.
        kept = re.sub("`[^`]*`", lambda quoted: quoted[0].replace(" ", "\0"), line)
        width = max(40, WIDTH - len(head))
        for row in textwrap.wrap(kept, width, break_on_hyphens=False, break_long_words=False):
            print(head + row.replace("\0", " "))
            head = " " * len(head)


PHASES = {"start": "while starting", "load": "while loading", "serve": "while serving"}


def diagnosis(found: Diagnosis, written: Written | None, *, as_json: bool) -> None:
    """Print what a log tells of, the root first, and what was written to send on."""
    if as_json:
        findings = [finding.as_dict() for finding in found.findings]
        archive = {"bundle": dataclasses.asdict(written)} if written is not None else {}
        document({"findings": findings, **archive})
        return
    if found.error is not None:
        complain(found.error)
    else:
        _findings(found)
    if written is not None:
        hidden = sum(written.redacted.values())
        print(f"\nWritten: {written.file}, {len(written.files)} files, {hidden} values redacted.")
        for part, why in written.failed.items():
            print(f"  without {part}: {why}")
        print("  Look through it before you send it on.")


def _findings(found: Diagnosis) -> None:
    lines = f"{found.lines} lines of {found.title}"
    failures = [finding for finding in found.findings if not finding.benign]
    told = [
        finding for finding in failures if finding.kind not in {"wrapper", "notice"}
    ] or failures
    if not told:
        print(f"No error that is known or looks like one in {lines}.")
        print(f"  last line   {found.last or '(none)'}")
        print(f"  If it failed: CANN's own log is in {names.CANN_LOG} in the container;")
        print(f"  `docker cp NAME:{names.CANN_LOG} .` takes it out.")
    for number, finding in enumerate(told):
        if number == 1:
            print("\nAlso:")
        _finding(finding, whole=number == 0 or finding.kind == "unknown")
    rest = [finding for finding in failures if finding not in told]
    harmless = [finding for finding in found.findings if finding.benign]
    for title, items in (("Say only that something failed", rest), ("Harmless", harmless)):
        if items:
            print(f"\n{title}: {', '.join(dict.fromkeys(item.id for item in items))}")


def _finding(finding: Failure, *, whole: bool) -> None:
    where = f"line {finding.line_number}"
    if finding.process:
        where += f", {finding.process}"
    if finding.count > 1:
        where += f", {finding.count} times"
    phase = f", {PHASES[finding.phase]}" if finding.phase in PHASES else ""
    print(f"[{finding.id}]{phase} ({where})")
    _row("line", "", " ".join(finding.shown.split()))
    if whole:
        _row("cause", "", finding.cause)
        _row("do", "", finding.remedy)
    if whole and finding.sources:
        _row("see", "", ", ".join(finding.sources))
