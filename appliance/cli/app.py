"""The commands. Each imports what it works with when it runs, so that the start is quick."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from appliance.cli import options
from appliance.cli.bench import bench
from appliance.cli.evaluate import evaluate
from appliance.cli.offline import offline
from appliance.cli.options import (
    ConfigFile,
    Force,
    Json,
    Output,
    Override,
    Snapshot,
    Url,
    UrlKeyFile,
    UrlModel,
)
from appliance.cli.report import report
from appliance.cli.run import document, guarded, stop_on_signals

if TYPE_CHECKING:
    from typer.models import CommandInfo

    from appliance.plan.model import Plan

app = typer.Typer(
    name="appliance",
    help="Serve an omni model from a container, and prove that it works.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
render_app = typer.Typer(help="Print the deployment as a file.", no_args_is_help=True)
weights_app = typer.Typer(help="Fetch and check model folders.", no_args_is_help=True)
images_app = typer.Typer(help="Show images and lock their content.", no_args_is_help=True)
config_app = typer.Typer(help="Show and check the configuration.", no_args_is_help=True)
app.add_typer(render_app, name="render")
app.add_typer(weights_app, name="weights")
app.add_typer(images_app, name="images")
app.add_typer(config_app, name="config")


@app.command()
@guarded
def up(
    config: ConfigFile = None,
    overrides: Override = None,
    install_engine: Annotated[
        bool, typer.Option(help="Install and start Docker where it is missing (root).")
    ] = False,
    smoke: Annotated[bool, typer.Option(help="Run the smoke test at the end.")] = True,
    recreate: Annotated[bool, typer.Option(help="Make the container anew.")] = False,
    as_json: Json = False,
) -> None:
    """Bring the appliance up and verify it; does nothing where all is as planned."""
    from appliance.cli import show
    from appliance.lifecycle import state
    from appliance.lifecycle.progress import Progress
    from appliance.lifecycle.up import Options, Up, allot

    stop_on_signals()
    progress = Progress()
    wishes = Options(install_engine=install_engine, smoke=smoke, recreate=recreate)
    wanted = options.load(config, overrides).config
    with state.changing(wanted.name, "up") as change:
        deployment = allot(wanted, wishes, change, progress.detail)
        options.warn(deployment)
        show.host(deployment)
        try:
            outcome = Up(deployment, wishes, progress).run()
        finally:
            progress.stop()
    show.endpoint(deployment, outcome, as_json=as_json)


@app.command()
@guarded
def down(config: ConfigFile = None, overrides: Override = None, as_json: Json = False) -> None:
    """Stop and remove the container; caches and weights stay."""
    from appliance.lifecycle.progress import Progress
    from appliance.lifecycle.status import down as take_down

    stop_on_signals()
    wanted = options.load(config, overrides).config
    progress = Progress()
    try:
        removed = take_down(wanted, progress)
    finally:
        progress.stop()
    name = wanted.name
    if as_json:
        document({"name": name, "removed": removed})
    elif not removed:
        print(f"There is no container {name}: nothing to do.", file=sys.stderr)


@app.command()
@guarded
def status(config: ConfigFile = None, overrides: Override = None, as_json: Json = False) -> None:
    """Say what state the appliance is in, and what to do. Exit status 0 when it is ready."""
    from appliance.cli import show
    from appliance.deployment import prepare
    from appliance.errors import ApplianceError
    from appliance.lifecycle.status import read

    wanted = options.load(config, overrides).config
    plan: Plan | ApplianceError
    try:
        plan = prepare(wanted).plan
    except ApplianceError as error:
        plan = error
    found = read(wanted, plan)
    show.status(found, as_json=as_json)
    raise typer.Exit(0 if found.state == "ready" else 1)


@app.command()
@guarded
def logs(
    config: ConfigFile = None,
    overrides: Override = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines.")] = False,
    tail: Annotated[int, typer.Option(help="Number of last lines.", min=1)] = 200,
    as_json: Json = False,
) -> None:
    """Print the engine's log."""
    from appliance.cli import show

    show.logs(
        options.load(config, overrides).config.name, follow=follow, tail=tail, as_json=as_json
    )


@app.command()
@guarded
def inventory(
    config: ConfigFile = None,
    overrides: Override = None,
    snapshot: Snapshot = None,
    as_json: Json = False,
) -> None:
    """Print what the host is: product, NPUs, driver, problems."""
    from appliance.cli import show
    from appliance.deployment import absolute, take

    loaded = options.load(config, overrides)
    show.inventory(take(absolute(loaded.config), snapshot), as_json=as_json)


@app.command()
@guarded
def plan(
    config: ConfigFile = None,
    overrides: Override = None,
    snapshot: Snapshot = None,
    as_json: Json = False,
) -> None:
    """Print the plan: every device, mount, variable, argument and limit."""
    from appliance.cli import show

    show.plan(options.prepare(config, overrides, snapshot).plan, as_json=as_json)


@app.command()
@guarded
def doctor(
    config: ConfigFile = None,
    overrides: Override = None,
    snapshot: Snapshot = None,
    as_json: Json = False,
) -> None:
    """Check host and configuration before anything is touched; exit status 92 on a failure."""
    from appliance.cli import show
    from appliance.doctor import run

    wanted = options.load(config, overrides).config
    with show.waiting("Reading the host; npu-smi, or a file system, takes its time."):
        report = run.snapshot(wanted, snapshot) if snapshot else run.host(wanted)
    show.doctor(report, as_json=as_json)


@render_app.command("run")
@guarded
def render_run(
    config: ConfigFile = None,
    overrides: Override = None,
    snapshot: Snapshot = None,
    output: Output = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Print a shell script with the `docker run` command."""
    from appliance.cli import show
    from appliance.render import render

    text = render(options.prepare(config, overrides, snapshot).plan, "run")
    show.rendering(text, output, force=force, as_json=as_json)


@render_app.command("compose")
@guarded
def render_compose(
    config: ConfigFile = None,
    overrides: Override = None,
    snapshot: Snapshot = None,
    output: Output = None,
    portable: Annotated[
        bool, typer.Option("--portable", help="Leave IMAGE, MODEL_DIR and PORT to variables.")
    ] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Print a compose file."""
    from appliance import render
    from appliance.cli import show

    made = options.prepare(config, overrides, snapshot).plan
    text = render.portable(made) if portable else render.render(made, "compose")
    show.rendering(text, output, force=force, as_json=as_json)


@app.command()
@guarded
def build(
    config: ConfigFile = None,
    overrides: Override = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Build the probes' own image instead, for CI.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Build the appliance image, even where one of its name is there."""
    from appliance import deployment
    from appliance.engine import docker, install
    from appliance.lifecycle import supply
    from appliance.lifecycle.progress import Progress

    stop_on_signals()
    # The smoke image is the same on every host: nothing is planned for it.
    found = None if smoke else options.sources(config, overrides)
    wanted = found.config if found else deployment.absolute(options.load(config, overrides).config)
    progress = Progress()
    install.ensure(install=False, on_line=progress.detail)
    try:
        name, image_id = supply.build(
            docker.connect(), wanted, found.image if found else None, progress
        )
    finally:
        progress.stop()
    if as_json:
        document({"image": name, "id": image_id})


@weights_app.command("fetch")
@guarded
def weights_fetch(
    config: ConfigFile = None, overrides: Override = None, as_json: Json = False
) -> None:
    """Fetch the model's weights; a second run goes on where the first stopped."""
    from appliance.cli import show
    from appliance.lifecycle import supply
    from appliance.lifecycle.progress import Progress

    stop_on_signals()
    model = options.sources(config, overrides).model
    progress = Progress()
    progress.begin("weights", model.id)
    try:
        folder = supply.weights(model, progress)
    finally:
        progress.stop()
    show.weights(model, folder, as_json=as_json)


@weights_app.command("verify")
@guarded
def weights_verify(
    config: ConfigFile = None,
    overrides: Override = None,
    hashes: Annotated[
        bool, typer.Option("--hashes", help="Read all of it and compare SHA-256 sums.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check that the model folder is complete. Needs no network."""
    from appliance.cli import show
    from appliance.weights.verify import verify

    model = options.sources(config, overrides).model
    show.weights(model, verify(Path(model.host_path), hashes=hashes), as_json=as_json)


@images_app.command("lock")
@guarded
def images_lock(
    config: ConfigFile = None,
    overrides: Override = None,
    snapshot: Snapshot = None,
    force: Annotated[bool, typer.Option("--force", help="Replace another locked digest.")] = False,
    as_json: Json = False,
) -> None:
    """Write the image's digest, on which all registries agree, to images.lock.yaml."""
    from appliance.cli import show
    from appliance.engine import docker, lock

    loaded = options.load(config, overrides)
    found = options.sources(config, overrides, snapshot)
    timeout = found.config.timeouts.registry
    locked = lock.lock(docker.connect(), found.image, loaded.lock_file, timeout, force=force)
    show.locked(locked, loaded.lock_file, as_json=as_json)


@images_app.command("list")
@guarded
def images_list(
    config: ConfigFile = None,
    overrides: Override = None,
    snapshot: Snapshot = None,
    as_json: Json = False,
) -> None:
    """Print the images' names, their locked digests, and what is on this host. Asks no registry."""
    from appliance.cli import show
    from appliance.engine import docker, lock

    found = options.sources(config, overrides, snapshot)
    show.images(lock.overview(docker.connect(), found.image), as_json=as_json)


@app.command()
@guarded
def smoke(
    config: ConfigFile = None,
    overrides: Override = None,
    url: Url = None,
    model: UrlModel = None,
    api_key_file: UrlKeyFile = None,
    junit: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Write a JUnit report."),
    ] = None,
    report: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Write to a file what --json prints."),
    ] = None,
    seed: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="TEXT", help="Make the media of the run that named it, once more."),
    ] = None,
    answer_tokens: Annotated[
        int,
        typer.Option(min=1, help="Tokens for an answer that has to be right, with its reasoning."),
    ] = 2048,
    as_json: Json = False,
) -> None:
    """Verify text, image, audio and video on the running server."""
    import healthchecks
    from appliance.cli import show
    from appliance.lifecycle import smoke as probes
    from appliance.lifecycle import state

    wanted = options.load(config, overrides).config
    settings = healthchecks.Settings(
        answer_tokens=answer_tokens, seed=seed or healthchecks.fresh_seed()
    )
    if url:
        target = probes.other(url, model, api_key_file, wanted.timeouts.smoke)
        show.smoke(target, settings, junit=junit, report=report, as_json=as_json)
    else:
        target, container = probes.own(wanted)
        show.smoke(target, settings, junit=junit, report=report, as_json=as_json)
        state.mark_verified(wanted.name, container)


@app.command()
@guarded
def diagnose(
    config: ConfigFile = None,
    overrides: Override = None,
    log: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="A log to read instead of the container's; - is stdin."),
    ] = None,
    bundle: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Write an archive to send on, without secrets."),
    ] = None,
    tail: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Number of last lines to read [default: all].", min=1),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Name what went wrong, from the engine's log. Exit status 0 if the log could be read."""
    from appliance.cli import show
    from appliance.diagnose import run

    stop_on_signals()
    with show.waiting("Reading the log; a long one takes its time."):
        wanted = run.Wanted(log, tail, bundle, force=force)
        found, written = run.perform(wanted, lambda: options.load(config, overrides))
    show.diagnosis(found, written, as_json=as_json)


@config_app.command("show")
@guarded
def config_show(
    config: ConfigFile = None, overrides: Override = None, as_json: Json = False
) -> None:
    """Print every key, its value, and where the value comes from."""
    from appliance.cli import show

    show.configuration(options.load(config, overrides), as_json=as_json)


@config_app.command("check")
@guarded
def config_check(
    config: ConfigFile = None, overrides: Override = None, as_json: Json = False
) -> None:
    """Check the configuration, and that a plan can be made of it for this host."""
    made = options.prepare(config, overrides).plan
    if as_json:
        document({"ok": True, "platform": made.platform, "warnings": list(made.warnings)})
    else:
        print(f"The configuration is valid: platform {made.platform}, model {made.model.id}.")


@config_app.command("schema")
@guarded
def config_schema(as_json: Json = False) -> None:
    """Print the JSON schema of appliance.yaml."""
    from appliance.config.load import schema

    del as_json  # The schema is a JSON document either way.
    document(schema())


@app.command()
@guarded
def version(as_json: Json = False) -> None:
    """Print the launcher's version."""
    from appliance.version import __version__

    if as_json:
        document({"version": __version__})
    else:
        print(__version__)


app.command()(offline)
app.command()(bench)
app.command("eval")(evaluate)
app.command()(report)


def narrow(word: str) -> None:
    """Forget the commands that are not asked for: Typer reads the options of all that it has.

    That is a fifth of a short command's start. `version`, the smallest, stays, since an app of
    one command has no commands for Typer. A word that is no command changes nothing.
    """
    own = [one for one in app.registered_commands if _name(one) in {word, "version"}]
    groups = [one for one in app.registered_groups if one.name == word]
    if groups or len(own) > 1:
        app.registered_commands, app.registered_groups = own, groups


def _name(command: CommandInfo) -> str:
    return command.name or getattr(command.callback, "__name__", "").replace("_", "-")
