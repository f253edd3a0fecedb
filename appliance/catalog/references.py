"""The published figures that a result can be compared with, as result documents."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from appliance import yamlfile
from appliance.catalog import evaluation
from appliance.catalog.load import DATA
from appliance.errors import ApplianceError
from appliance.results import files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from appliance.results.model import Result


@lru_cache
def _references() -> Mapping[str, Mapping[str, Any]]:
    content: Mapping[str, Mapping[str, Any]] = yamlfile.read(DATA / "references.yaml")
    return content


@lru_cache
def _evalscope() -> Mapping[str, Mapping[str, Any]]:
    content: Mapping[str, Mapping[str, Any]] = yamlfile.read(DATA / "evalscope.yaml")
    return content


def asked_by_default(dataset: str) -> dict[str, Any]:
    """Return evalscope's own --dataset-args of a dataset, as far as they are known."""
    found = {**_evalscope()["any"], **_evalscope().get(dataset, {})}
    known = evaluation.defaults().datasets.get(dataset)
    return {**found, "subset_list": list(known.subsets)} if known else found


def names() -> tuple[str, ...]:
    """Return the names of the published figures."""
    return tuple(_references())


def reference(name: str, kind: Literal["bench", "eval"]) -> Result:
    """Return published figures of a kind by name; raises result-invalid where there are none."""
    document = _references().get(name, {}).get(kind)
    if document is None:
        raise ApplianceError("result-invalid", f"The catalog has no figures {name} of {kind}.")
    return files.checked(document, f"the catalog's {name}")
