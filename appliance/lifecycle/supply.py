"""What a container needs on its host before it can be made: checks, image, weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from appliance.engine import images, smoke
from appliance.plan.image import SMOKE_IMAGE
from appliance.weights.verify import require_readable

if TYPE_CHECKING:
    from appliance.config.model import Config
    from appliance.deployment import Deployment
    from appliance.engine.docker import Engine
    from appliance.lifecycle.progress import Progress
    from appliance.plan.model import ImagePlan, ModelPlan
    from appliance.weights.verify import ModelFolder


def examine(deployment: Deployment, engine: Engine, progress: Progress) -> None:
    """Stop before anything is pulled or changed where a check of the host fails."""
    from appliance.doctor.run import before_up

    progress.begin("doctor", "checking the host")
    report = before_up(deployment, engine)
    counts = report.counts
    if report.error is not None:
        progress.stop()
        raise report.error
    progress.end(f"{len(report.checks)} checks, none failed, {counts['warning']} warnings")
    for check in report.checks:
        if check.verdict == "warning" and check.id != "plan":  # Those are told already.
            progress.note(f"  warning  {check.id}: {check.finding.evidence}")


def image(engine: Engine, config: Config, wanted: ImagePlan, progress: Progress) -> str:
    """Return the id of the image, which is pulled or built where it is not there."""
    progress.begin("image", wanted.name)
    image_id = images.Builder(engine, config, progress.detail).ensure(wanted)
    progress.end(f"{wanted.name} {image_id[7:19]}")
    return image_id


def build(
    engine: Engine, config: Config, wanted: ImagePlan | None, progress: Progress
) -> tuple[str, str | None]:
    """Build the image anew, by default the smoke image; return its name and id."""
    builder = images.Builder(engine, config, progress.detail)
    name = SMOKE_IMAGE if wanted is None else wanted.name
    progress.begin("image", name)
    if wanted is None:
        smoke.build(builder)
    else:
        builder.build(wanted)
    built = engine.image(name)
    progress.end(name)
    return name, built.id if built else None


def model(wanted: ModelPlan, progress: Progress) -> None:
    """Bring the model folder, and see that a container can read it."""
    progress.begin("weights", wanted.id)
    folder = weights(wanted, progress)
    require_readable(folder.path)
    progress.end(f"{wanted.host_path}: {folder.files} files, {folder.bytes / 1e9:.2f} GB")


def weights(model: ModelPlan, progress: Progress) -> ModelFolder:
    """Return the complete model folder: checked where it is the operator's, else fetched."""
    from appliance.weights.fetch import Progress as Bytes
    from appliance.weights.fetch import fetch
    from appliance.weights.verify import verify

    folder = Path(model.host_path)
    if model.source != "hub":
        return verify(folder)

    def show(done: Bytes) -> None:
        progress.detail(
            f"{done.done_bytes / 1e9:.2f} of {done.total_bytes / 1e9:.2f} GB  {done.file}"
        )

    return fetch(model.id, folder, revision=model.revision, on_progress=show)
