"""Jinja2 as every room has it: templates are files, and a name that is not there is an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from appliance import paths

if TYPE_CHECKING:
    from collections.abc import Callable


def environment(*, autoescape: bool | Callable[[str | None], bool]) -> Environment:
    """Return an environment over the templates' folder; what it escapes is the caller's choice."""
    return Environment(
        loader=FileSystemLoader(paths.templates()),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=autoescape,  # noqa: S701 (each caller says why)
    )
