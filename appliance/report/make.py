"""A report in its forms: a page to look at, a text for an issue, a document for programs."""

from __future__ import annotations

import html as markup
import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from jinja2 import select_autoescape

from appliance import templating
from appliance.diagnose.redact import Redactor
from appliance.report.view import page
from appliance.results.files import finite

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jinja2 import Environment

    from appliance.report.view import Material
    from appliance.results.model import Result

Form = Literal["html", "markdown", "json"]
SUFFIXES: Mapping[Form, str] = {"html": ".html", "markdown": ".md", "json": ".json"}
_MARKDOWN = re.compile(r"([\\`*_\[\]|~#$])")


def make(material: Material, form: Form) -> str:
    """Return a report as text. The same material gives the same text, to the letter."""
    forms: dict[Form, Callable[[Material], str]] = {
        "html": _html,
        "markdown": _markdown,
        "json": _json,
    }
    return forms[form](material)


def _html(material: Material) -> str:
    return _environment().get_template("report.html.j2").render(page=page(material))


def _markdown(material: Material) -> str:
    text = _environment().get_template("report.md.j2").render(page=page(material))
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _json(material: Material) -> str:
    document = {
        "schema_version": 1,
        "results": [_document(result) for result in material.results],
        "references": [_document(result) for result in material.references],
        "comparisons": [comparison.as_dict() for comparison in material.comparisons],
    }
    return json.dumps(_numbers(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _document(result: Result) -> Any:
    """Return a result without secrets, and without samples: those are in its own file."""
    document = finite(result).model_dump(mode="json")
    for run in document["runs"]:
        run["samples"] = {name: len(values) for name, values in run["samples"].items()}
    return Redactor().document(document)


def _numbers(value: Any) -> Any:
    """Return a document without what JSON has no number for."""
    if isinstance(value, dict):
        return {name: _numbers(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_numbers(one) for one in value]
    # Of all values, only NaN and the infinities are so.
    return None if isinstance(value, float) and value - value != 0 else value


@lru_cache
def _environment() -> Environment:
    # What stands in a result is a stranger's word.
    escaped = select_autoescape(disabled_extensions=("md.j2",), default=True)
    environment = templating.environment(autoescape=escaped)
    environment.filters["md"] = _in_markdown
    return environment


def _in_markdown(value: object) -> str:
    """Return a text that Markdown shows as it is, in a table too."""
    text = " ".join(str(value).split())
    return _MARKDOWN.sub(r"\\\1", markup.escape(text, quote=False))
