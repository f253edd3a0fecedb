"""What `appliance bench` can be told to measure, by name: the presets of data/bench.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from appliance import yamlfile
from appliance.catalog.load import DATA

if TYPE_CHECKING:
    from collections.abc import Mapping

    from appliance.results.model import Modality

Mode = Literal["serve", "latency", "throughput"]


@dataclass(frozen=True)
class Media:
    """What each request holds beside its text; `None` is none of it.

    `image` is height and width in pixels, `video` height, width and number of frames.
    """

    image: tuple[int, int] | None = None
    video: tuple[int, int, int] | None = None
    sound_seconds: float | None = None

    @property
    def modality(self) -> Modality:
        """What the requests are of."""
        found: list[Modality] = []
        found += ["image"] if self.image else []
        found += ["video"] if self.video else []
        found += ["audio"] if self.sound_seconds else []
        if not found:
            return "text"
        return found[0] if len(found) == 1 else "mixed"


@dataclass(frozen=True)
class Load:
    """One run of `vllm bench`. Lengths in tokens.

    `request_rate` is in requests a second, `None` for all at once. `warm_up` is how many requests
    go before, all at once, and are not counted. `fresh_seed`: the same media twice would be taken
    from the server's memory, so that each run needs its own. The last three are of `latency`
    alone: requests in a batch, how often it is measured, and how often before that.
    """

    label: str
    input_len: int
    output_len: int
    num_prompts: int | None = None
    request_rate: float | None = None
    max_concurrency: int | None = None
    warm_up: int = 0
    fresh_seed: bool = False
    media: Media = Media()
    batch_size: int | None = None
    num_iters: int | None = None
    num_iters_warmup: int | None = None


@dataclass(frozen=True)
class Sweep:
    """How a load is repeated with ever more requests in flight.

    `least_gain` is the share of tokens per second that a doubling must add to go on.
    """

    highest: int
    least_gain: float
    prompts_per_request: int


@dataclass(frozen=True)
class Preset:
    """A named measurement: its runs, in their order; with `sweep`, its one run repeated."""

    title: str
    mode: Mode
    loads: tuple[Load, ...]
    sweep: Sweep | None = None


@lru_cache
def presets() -> Mapping[str, Preset]:
    """Return the presets by name."""
    content: Mapping[str, Mapping[str, Any]] = yamlfile.read(DATA / "bench.yaml")
    return {
        name: Preset(
            row["title"],
            row["mode"],
            tuple(_load(run) for run in row["runs"]),
            Sweep(**row["sweep"]) if "sweep" in row else None,
        )
        for name, row in content.items()
    }


def _load(row: Mapping[str, Any]) -> Load:
    media: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in row.get("media", {}).items()
    }
    return Load(**{**row, "media": Media(**media)})
