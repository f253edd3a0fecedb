"""Runs inside the appliance image: what vLLM's own parsers make of benchmarks' arguments.

Reads `[{"arguments": [after `vllm`], "engine": [of `vllm serve`] or null}, …]` from standard input
and prints a list with the parsed values that the tests look at, or `{"error"}`, for each.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from typing import Any

from vllm.utils.argparse_utils import FlexibleArgumentParser

from appliance.inside import client

PLAIN = (
    "model", "dataset_name", "random_input_len", "random_output_len", "num_prompts", "request_rate",
    "save_result", "save_detailed", "ignore_eos", "seed", "max_concurrency", "backend", "endpoint",
    "base_url", "tokenizer", "extra_body", "percentile_metrics", "random_mm_base_items_per_request",
    "random_mm_limit_mm_per_prompt", "input_len", "output_len", "batch_size", "num_iters",
    "num_iters_warmup", "enable_prefix_caching", "output_json", "max_model_len", "enforce_eager",
    "tensor_parallel_size",
)  # fmt: skip


class Refused(Exception):  # noqa: N818 (not an error of this script)
    """The parser refused a list, and would have ended the process."""


class Parser(FlexibleArgumentParser):  # type: ignore[misc]
    """vLLM's parser, which says why it refuses instead of ending the process."""

    def error(self, message: str) -> Any:
        raise Refused(message)


def parsed(arguments: list[str], engine: list[str] | None) -> dict[str, Any]:
    """Return what vLLM makes of the arguments of a benchmark."""
    mode, words = arguments[1], arguments[2:]
    if engine is not None:
        words = client.with_engine(mode, engine, words)
    parser = Parser()
    import_module(f"vllm.benchmarks.{mode}").add_cli_args(parser)
    found = parser.parse_args(words)
    buckets = getattr(found, "random_mm_bucket_config", {})
    return {
        **{name: getattr(found, name) for name in PLAIN if hasattr(found, name)},
        "buckets": [[list(size), share] for size, share in buckets.items()],
        "words": words,
    }


def main() -> None:
    """Parse all lists, and print one document."""
    answers = []
    for order in json.load(sys.stdin):
        try:
            answers.append(parsed(order["arguments"], order["engine"]))
        except (Refused, TypeError, ValueError) as error:
            answers.append({"error": f"{type(error).__name__}: {error}"})
    print("\n" + json.dumps(answers, default=str))


if __name__ == "__main__":
    main()
