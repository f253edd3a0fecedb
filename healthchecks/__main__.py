"""Command line: ``python -m healthchecks live|ready|progress|smoke|stimuli``."""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import healthchecks
from healthchecks import environment
from healthchecks.exercises import write_stimuli
from healthchecks.liveness.watch import Limits
from healthchecks.probes import PROBE_NAMES
from healthchecks.report import summary, text_line, to_json
from healthchecks.suite import unready
from healthchecks.target import (
    DEFAULT_ANSWER_TOKENS,
    DEFAULT_MAX_TOKENS,
    DEFAULT_URL,
    Settings,
    Target,
    check_seconds,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from healthchecks.target import ProbeResult

    _Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

SECRET_FILE = Path("/run/secrets/appliance-api-key")
# Purpose, and the default timeout in seconds. A first request with media may compile operators
# for a minute or more, and a model may reason for as long.
COMMANDS = {
    "live": ("the server process answers", 5.0),
    "ready": ("the model is listed and generates a token", 30.0),
    "smoke": ("questions about text, image, audio and video get the right answers", 300.0),
}
# The limits of `progress`, as healthchecks.liveness.watch has them.
LIMITS = {
    "interval": "the most seconds for one look at the counters",
    "quiet": "without a sign of life, until one token is asked for",
    "deadline": "for that token to come",
    "busy": "without a sign of life while requests run or wait",
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python3 -m healthchecks",
        description="Probe an omni model server.",
        epilog="Exit status: 0 all passed, 1 a probe failed, 2 wrong usage.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (purpose, timeout) in COMMANDS.items():
        command = commands.add_parser(
            name, help=purpose, description=f"Check that {purpose}.", allow_abbrev=False
        )
        _add_common_options(command, timeout)
    _add_smoke_options(commands.choices["smoke"])
    _add_progress(commands)
    _add_stimuli(commands)
    return parser


def _add_smoke_options(smoke: argparse.ArgumentParser) -> None:
    smoke.add_argument("--junit", metavar="FILE", type=Path, help="write a JUnit XML report")
    smoke.add_argument(
        "--report", metavar="FILE", type=Path, help="write to a file what --json prints"
    )
    smoke.add_argument(
        "--wait",
        metavar="SECONDS",
        type=environment.seconds,
        help="the most seconds to wait until the server is ready, before the first probe "
        "(default: $HEALTHCHECKS_WAIT, else 0)",
    )
    smoke.add_argument(
        "--only",
        metavar="PROBE",
        nargs="+",
        action="extend",
        choices=PROBE_NAMES,
        help=f"run only these probes (default: those in $HEALTHCHECKS_ONLY, else all): "
        f"{', '.join(PROBE_NAMES)}",
    )
    smoke.add_argument(
        "--max-tokens",
        metavar="N",
        type=environment.positive,
        default=DEFAULT_MAX_TOKENS,
        help="the most tokens to generate where any text will do (default: %(default)s)",
    )
    smoke.add_argument(
        "--answer-tokens",
        metavar="N",
        type=environment.positive,
        help="the most tokens to generate where the answer has to be right, reasoning included "
        f"(default: $HEALTHCHECKS_ANSWER_TOKENS, else {DEFAULT_ANSWER_TOKENS})",
    )
    smoke.add_argument(
        "--seed",
        metavar="TEXT",
        help="make the media of the run that named it (default: $HEALTHCHECKS_SEED, else others)",
    )


def _add_progress(commands: _Commands) -> None:
    purpose = "the engine makes progress, by its counters or else by one token"
    progress = commands.add_parser(
        "progress", help=purpose, description=f"Check that {purpose}.", allow_abbrev=False
    )
    _add_target_options(progress)
    for name, purpose in LIMITS.items():
        progress.add_argument(
            f"--{name}",
            metavar="SECONDS",
            type=float,
            default=getattr(Limits, name),
            help=f"{purpose} (default: %(default)g)",
        )
    progress.add_argument(
        "--watched",
        metavar="FILE",
        type=Path,
        help="what a watcher beside the server last found; a fresh one is the answer",
    )


def _add_stimuli(commands: _Commands) -> None:
    stimuli = commands.add_parser(
        "stimuli",
        help="write the media of a seed to files, to be looked at",
        description="Write the media that smoke makes from a seed, and print the right answers.",
        allow_abbrev=False,
    )
    stimuli.add_argument("--out", metavar="DIR", type=Path, required=True, help="where to")
    stimuli.add_argument("--seed", metavar="TEXT", required=True, help="the seed that smoke named")
    stimuli.add_argument("--json", action="store_true", help="print the answers as a JSON list")


def _add_common_options(command: argparse.ArgumentParser, timeout: float) -> None:
    _add_target_options(command)
    command.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=environment.seconds,
        help="the most seconds to wait, in smoke for each probe "
        f"(default: $HEALTHCHECKS_TIMEOUT, else {timeout:g})",
    )


def _add_target_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--url",
        help=f"the server (default: $HEALTHCHECKS_URL, else {DEFAULT_URL})",
    )
    command.add_argument(
        "--model",
        metavar="NAME",
        help="the model (default: $HEALTHCHECKS_MODEL, else the first that is served)",
    )
    command.add_argument(
        "--api-key-file",
        metavar="FILE",
        type=Path,
        help="file that holds the API key (default: the file in $HEALTHCHECKS_API_KEY_FILE, else "
        f"{SECRET_FILE} where it is readable, else the key in $OPENAI_API_KEY)",
    )
    command.add_argument("--json", action="store_true", help="print the results as a JSON list")


def read_api_key(file: Path | None, environ: Mapping[str, str]) -> str | None:
    """Return the API key of the first source that has one, or None.

    Raises:
        ValueError: a file that was asked for cannot be read or is empty.

    """
    if file is None and environ.get("HEALTHCHECKS_API_KEY_FILE"):
        file = Path(environ["HEALTHCHECKS_API_KEY_FILE"])
    if file is not None:
        key = _read_key_file(file)
        if not key:
            raise ValueError(f"the API key file {file} is empty")
        return key
    if os.access(SECRET_FILE, os.R_OK):
        # Nobody asked for this file by name: an empty one only means that no key is set.
        key = _read_key_file(SECRET_FILE)
        if key:
            return key
    return environ.get("OPENAI_API_KEY", "").strip() or None


def _read_key_file(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError as error:
        raise ValueError(f"cannot read the API key file {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"the API key file {file} holds more than ASCII text") from None


def run(arguments: argparse.Namespace, target: Target) -> list[ProbeResult]:
    """Run the command's probes; without --json, print each result as it comes."""

    def show(result: ProbeResult) -> None:
        if not arguments.json:
            width = max(map(len, PROBE_NAMES)) if arguments.command == "smoke" else 0
            print(text_line(result, width), flush=True)

    if arguments.command == "smoke":
        seed = arguments.seed or healthchecks.fresh_seed()
        # At once: a run that is interrupted can be repeated too.
        print(f"seed {seed}", file=sys.stderr, flush=True)
        if arguments.wait and not (last := _await(target, arguments.wait)).ok:
            return unready(last, show, arguments.only)
        settings = Settings(arguments.max_tokens, arguments.answer_tokens, seed)
        return healthchecks.smoke(target, show, arguments.only, settings)
    if arguments.command == "progress":
        result = healthchecks.progress(target, arguments.limits, arguments.watched)
    else:
        probe = healthchecks.live if arguments.command == "live" else healthchecks.ready
        result = probe(target)
    show(result)
    return [result]


def _await(target: Target, seconds: float) -> ProbeResult:
    """Wait until the server is ready; say why it is not, each time that the reason changes."""
    said = ""

    def say(result: ProbeResult) -> None:
        nonlocal said
        if result.detail != said:
            said = result.detail
            print(f"waiting up to {seconds:g} s: {said}", file=sys.stderr, flush=True)

    return healthchecks.await_ready(target, seconds, say)


def _reports(arguments: argparse.Namespace) -> list[tuple[Path, Callable[..., None]]]:
    """Return the files to write, and with what.

    Raises:
        ValueError: one can't be written. Said now rather than after minutes of probing.

    """
    wanted = {"junit": healthchecks.write_junit, "report": healthchecks.write_json}
    found = [(getattr(arguments, name, None), write) for name, write in wanted.items()]
    for file, _ in found:
        if file is None:
            continue
        folder = file.absolute().parent
        if file.is_dir() or not folder.is_dir():
            raise ValueError(f"cannot write {file}: not a file in a folder that exists")
        try:
            tempfile.NamedTemporaryFile(dir=folder, prefix=f".{file.name}.").close()
        except OSError as error:
            # In a container it is seldom clear who that is.
            who = f"user {os.geteuid()}"
            raise ValueError(f"cannot write {file} as {who}: {error.strerror}") from None
    return [(file, write) for file, write in found if file is not None]


def _stimuli(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    try:
        print(write_stimuli(arguments.out, arguments.seed, as_json=arguments.json))
    except OSError as error:
        parser.error(f"cannot write the media to {arguments.out}: {error}")
    return EXIT_OK


def _target(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Target:
    """Return the server to probe, with every option of the command settled."""
    defaults = {
        "url": DEFAULT_URL,
        "timeout": COMMANDS.get(arguments.command, ("", None))[1],
        "wait": 0.0,
        "answer_tokens": DEFAULT_ANSWER_TOKENS,
    }
    environment.fill(arguments, environ, defaults)
    if getattr(arguments, "wait", 0):
        check_seconds("wait", arguments.wait)
    if arguments.command == "progress":
        given = {name: getattr(arguments, name) for name in LIMITS}
        arguments.limits, arguments.timeout = Limits(**given), given["deadline"]
    key = read_api_key(arguments.api_key_file, environ)
    return Target(arguments.url, arguments.model, key, arguments.timeout)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.command == "stimuli":
        return _stimuli(parser, arguments)
    try:
        target = _target(arguments, os.environ)
        reports = _reports(arguments)
    except ValueError as error:
        parser.error(str(error))
    results = run(arguments, target)
    if arguments.json:
        print(to_json(results), flush=True)
    for file, write in reports:
        try:
            write(results, file)
        except OSError as error:
            parser.error(f"cannot write {file}: {error.strerror}")
    if arguments.command == "smoke" and not arguments.json:
        print(summary(results), file=sys.stderr)
    return EXIT_OK if all(result.ok for result in results) else EXIT_FAILED


def entry_point() -> int:
    """Run main for a process: no traceback for an interrupt or a closed pipe."""
    for output in (sys.stdout, sys.stderr):
        # Under an ASCII locale a character of a response must not end the run.
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="backslashreplace")
    try:
        return main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has left; keep the interpreter from failing again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(entry_point())
