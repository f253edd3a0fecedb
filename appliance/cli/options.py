"""Options that several commands share, and what they are turned into."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    from appliance.config.load import Loaded
    from appliance.deployment import Deployment, Sources

ConfigFile = Annotated[
    Optional[Path],  # noqa: UP045 (Typer reads this at run time, on Python 3.10 too)
    typer.Option("--config", help="Configuration file [default: ./appliance.yaml if it exists]."),
]
Override = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--set", metavar="KEY=VALUE", help="Set a configuration key; repeatable."),
]
Snapshot = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--snapshot", metavar="DIR", help="Read the host from a folder instead."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Output = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--output", "-o", help="Write to a file instead of stdout."),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite a file that differs.")]
Url = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Another server to ask, instead of this appliance."),
]
UrlModel = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Model to ask for at --url [default: the first that it lists]."),
]
UrlKeyFile = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help="File with the API key for --url."),
]
OutputDir = Annotated[
    Path, typer.Option("--output-dir", "-o", metavar="DIR", help="Where results go.")
]
Compare = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        metavar="guide|FILE",
        help="Compare with published figures, or with another result; repeatable.",
    ),
]

# A week: longer, or not a number, would be no limit.
MOST_SECONDS = 7 * 24 * 3600.0


def seconds(text: str) -> Any:
    """Return the option of a time that has an end."""
    return typer.Option(help=text, min=1.0, max=MOST_SECONDS, callback=_finite)


def _finite(value: float | None) -> float | None:
    # Of what is not a number, every comparison is false: also Typer's own.
    if value is not None and not value <= MOST_SECONDS:
        raise typer.BadParameter(f"{value} is no number of seconds.")
    return value


def load(config: Path | None, overrides: list[str] | None) -> Loaded:
    """Load the configuration: the file, then the environment, then the flags."""
    import os

    from appliance.config import load as configuration

    return configuration.load(config, os.environ, overrides or ())


def prepare(
    config: Path | None, overrides: list[str] | None, snapshot: Path | None = None
) -> Deployment:
    """Plan for this host, or for a snapshot, and tell the plan's warnings."""
    from appliance import deployment

    made = deployment.prepare(load(config, overrides).config, snapshot)
    warn(made)
    return made


def warn(deployment: Deployment) -> None:
    """Tell people of a plan's warnings."""
    for warning in deployment.plan.warnings:
        print(f"warning: {warning}", file=sys.stderr)


def sources(
    config: Path | None, overrides: list[str] | None, snapshot: Path | None = None
) -> Sources:
    """Plan what has to be fetched: image and model."""
    from appliance import deployment

    return deployment.sources(load(config, overrides).config, snapshot)
