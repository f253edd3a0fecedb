"""How results look: tables and lines for people, documents for programs."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import shlex
import sys
from typing import TYPE_CHECKING, Any

import typer

from appliance.cli.run import complain, document
from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.config.load import Loaded
    from appliance.deployment import Deployment
    from appliance.inventory.model import Inventory
    from appliance.lifecycle.status import Status
    from appliance.lifecycle.up import Outcome
    from appliance.plan.model import ModelPlan, Plan
    from appliance.weights.verify import ModelFolder
    from healthchecks import ProbeResult, Target


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
    for npu in found.npus:
        print(f"  {npu.device}  {npu.name or 'name unknown'}")
    for problem in found.problems:
        print(f"  problem [{problem.id}] {problem.message} {problem.remedy}")


def plan(made: Plan, *, as_json: bool) -> None:
    """Print a plan."""
    if as_json:
        document(made.as_dict())
        return
    print(f"platform   {made.platform} ({made.product}), release {made.release}")
    print(f"model      {made.model.id} from {made.model.host_path}")
    print(f"image      {made.image.name} on {made.image.base or 'nothing: used as it is'}")
    print(f"parallel   TP={made.tensor_parallel_size}, expert parallel {made.expert_parallel}")
    print(f"API        {made.api_url}/v1")
    box = made.container
    for device in box.devices:
        print(f"device     {device.host} -> {device.container}")
    for mount in box.mounts:
        print(f"mount      {mount.source} -> {mount.target} {'ro' if mount.read_only else 'rw'}")
    for name, value in box.environment:
        print(f"variable   {name}={value}")
    print(f"command    {shlex.join(box.command)}")


def rendering(text: str, output: Path | None, *, force: bool, as_json: bool) -> None:
    """Print a rendering, or write it; a file that differs is shown, not overwritten."""
    if output is None:
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


def smoke(target: Target, junit: Path | None, *, as_json: bool) -> None:
    """Run the smoke probes and print each as it ends; raises smoke-failed."""
    import healthchecks
    from healthchecks.report import text_line

    width = max(len(name) for name in healthchecks.PROBE_NAMES)

    def line(result: ProbeResult) -> None:
        if not as_json:
            print(text_line(result, width), flush=True)

    results = healthchecks.smoke(target, on_result=line)
    if junit is not None:
        healthchecks.write_junit(results, junit)
    if as_json:
        document([dataclasses.asdict(result) for result in results])
    failed = [result.probe for result in results if not result.ok]
    if failed:
        error = ApplianceError("smoke-failed", f"Failed: {', '.join(failed)}.")
        complain(error)
        raise typer.Exit(error.exit_code)


def configuration(loaded: Loaded, *, as_json: bool) -> None:
    """Print every key with its value and origin."""
    from appliance.config.load import keys

    rows: list[dict[str, Any]] = [
        {
            "key": key.name,
            "value": loaded.value(key.name),
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
