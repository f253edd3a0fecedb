"""The result document: what was measured, and all that a later comparison must know of it.

One file is one run of `appliance bench` or `appliance eval`. Published figures in the catalog
take the same form, with what their page does not tell left out.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, field_validator

SCHEMA = 1

Weights = Literal["real", "dummy", "unknown"]
Modality = Literal["text", "image", "audio", "video", "mixed"]
Mode = Literal["serve", "latency", "throughput"]
# A measured number: no text that looks like one.
Number = Annotated[float, Strict()]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Parallel(_Part):
    """How the model was spread. `None` is unknown."""

    tensor_parallel_size: int | None = None
    data_parallel_size: int | None = None
    expert_parallel: bool | None = None


class Model(_Part):
    """Which model, and with which weights it was loaded."""

    id: str
    revision: str | None = None
    weights: Weights = "unknown"


class System(_Part):
    """The system under test. `None` or empty is unknown."""

    model: Model
    parallel: Parallel = Parallel()
    launcher: str | None = None
    platform: Literal["ascend", "cpu"] | None = None
    # As in the inventory: atlas-a2, atlas-a3, none, ...
    product: str | None = None
    # The vllm-ascend release, such as v0.23.0.
    release: str | None = None
    image: str | None = None
    image_id: str | None = None
    image_digest: str | None = None
    # Package to version, read in the image: vllm, torch, transformers, ...
    versions: dict[str, str] = Field(default_factory=dict)
    # `vllm serve`'s arguments, and the container's environment, of the server under test.
    serve_args: list[str] | None = None
    environment: dict[str, str] = Field(default_factory=dict)
    # As `appliance inventory --json` and `appliance plan --json` print them.
    inventory: dict[str, Any] | None = None
    plan: dict[str, Any] | None = None
    # Where another server than the appliance was measured: its address.
    url: str | None = None


class BenchParameters(_Part):
    """What one benchmark run asked of the server.

    Lengths in tokens; `request_rate` in requests a second, `None` for all at once;
    `max_concurrency` in requests in flight, `None` for no limit; `modality` is what each
    request holds beside its text.
    """

    dataset: str
    modality: Modality = "text"
    input_len: int | None = None
    output_len: int | None = None
    num_prompts: int | None = None
    request_rate: float | None = None
    max_concurrency: int | None = None
    # `latency`: requests in a batch, and how often it was measured.
    batch_size: int | None = None
    num_iters: int | None = None
    seed: int | None = None
    temperature: float | None = None
    ignore_eos: bool | None = None

    @field_validator("request_rate")
    @classmethod
    def _all_at_once(cls, rate: float | None) -> float | None:
        return None if rate is not None and math.isinf(rate) else rate


class BenchRun(_Part):
    """One run of `vllm bench`, under vLLM's own names of the metrics.

    `metrics` holds numbers such as `request_throughput` (requests/s), `output_throughput`
    (tokens/s), `mean_ttft_ms`, `p99_tpot_ms`, `completed`, `failed`, `duration` (s). `samples`
    holds what they were made of, one list a quantity: `ttft_ms` and `tpot_ms`, one value a
    request; `itl_ms`, one a token; `latency_ms`, one an iteration. Without samples a metric has
    no interval of its own.
    """

    label: str
    mode: Mode
    parameters: BenchParameters
    # The arguments after `vllm`.
    command: list[str] = Field(default_factory=list)
    metrics: dict[str, Number] = Field(default_factory=dict)
    samples: dict[str, list[Number]] = Field(default_factory=dict)
    # Why there are no metrics.
    error: str | None = None


class EvalSettings(_Part):
    """How the datasets were asked. `limit` is per subset; `None` is all."""

    evalscope: str | None = None
    generation: dict[str, Any] = Field(default_factory=dict)
    dataset_args: dict[str, Any] = Field(default_factory=dict)
    batch_size: int | None = None
    limit: int | None = None


class EvalScore(_Part):
    """One row of evalscope's report: a share, 0 to 1, of `num` questions answered right."""

    dataset: str
    metric: str
    subset: str
    num: int = Field(ge=0)
    score: Number
    category: str | None = None
    # Which media the questions came with; empty for text alone, `None` for unknown.
    modalities: list[Modality] | None = None
    # Of the questions, in their order: tells whether two runs asked the same ones.
    questions_sha256: str | None = None


class Flaw(_Part):
    """What is wrong with a figure, and which metrics it touches (`*` for all)."""

    metrics: list[str]
    text: str


class Result(_Part):
    """One result document. `kind` says which of `runs` and `scores` it holds."""

    schema_version: int = SCHEMA
    kind: Literal["bench", "eval"]
    # Names the run: preset or datasets, and when.
    name: str
    preset: str | None = None
    # ISO 8601, in UTC.
    started: str | None = None
    finished: str | None = None
    system: System
    runs: list[BenchRun] = Field(default_factory=list)
    evaluation: EvalSettings | None = None
    scores: list[EvalScore] = Field(default_factory=list)
    # For published figures: where from, and what is wrong with them.
    source: str | None = None
    flaws: list[Flaw] = Field(default_factory=list)
    # What happened on the way, for people.
    notes: list[str] = Field(default_factory=list)
