"""`appliance offline`: requests from the command line or from a file, with no server."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from appliance.cli import options
from appliance.cli.options import ConfigFile, Force, Json, Override
from appliance.cli.run import complain, document, guarded, stop_on_signals
from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from appliance.config.model import Config
    from appliance.offline.run import Summary, Wishes

Media = Optional[list[str]]  # noqa: UP045 (Typer reads this at run time, on Python 3.10 too)
ONE = "prompt"
SHOWN_ERRORS = 5


@guarded
def offline(
    prompt: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(help="The text of one request; its words need no quotes."),
    ] = None,
    text: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="The text of one request, where it begins with a dash."),
    ] = None,
    image: Annotated[
        Media, typer.Option(metavar="FILE|URL", help="An image for it; repeatable.")
    ] = None,
    audio: Annotated[
        Media, typer.Option(metavar="FILE|URL", help="A sound for it; repeatable.")
    ] = None,
    video: Annotated[
        Media, typer.Option(metavar="FILE|URL", help="A video for it; repeatable.")
    ] = None,
    input_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--input", metavar="FILE", help="Requests in OpenAI's batch form, JSONL; - is stdin."
        ),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where the results go [default: beside the input, NAME.results.jsonl].",
        ),
    ] = None,
    use_audio_in_video: Annotated[
        bool, typer.Option("--use-audio-in-video", help="Let the model hear the videos too.")
    ] = False,
    temperature: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="0 takes the likeliest token [default: the model's].", min=0.0),
    ] = None,
    top_p: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Share of the likeliest tokens [default: the model's].", min=0.0, max=1),
    ] = None,
    top_k: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            help="Number of the likeliest tokens; -1: all [default: the model's].", min=-1
        ),
    ] = None,
    max_tokens: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Longest answer, in tokens [default: the model's].", min=1),
    ] = None,
    seed: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Seed of what is drawn, for each request."),
    ] = None,
    stall_timeout: Annotated[
        float, options.seconds("Seconds until an engine that makes no step is given up.")
    ] = 600.0,
    fetch_timeout: Annotated[
        float, options.seconds("Seconds for fetching one medium from its URL.")
    ] = 60.0,
    config: ConfigFile = None,
    overrides: Override = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Run requests with an engine of its own, and keep the answers; a second run goes on."""
    from appliance.offline.run import Wishes

    sampling = {
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "max_tokens": max_tokens,
        "seed": seed,
    }
    words = [" ".join(prompt)] if prompt else []
    body = _body([*words, *([text] if text is not None else [])], image, audio, video)
    if (body is None) == (input_file is None):
        raise ApplianceError(
            "usage", "Give either a prompt (text, --image, --audio, --video) or --input FILE."
        )
    stop_on_signals()
    wanted = options.load(config, overrides).config

    def wishes(source: Path | None, target: Path, folder: Path) -> Wishes:
        return Wishes(
            source,
            target,
            folder,
            sampling,
            use_audio_in_video=use_audio_in_video,
            force=force,
            stall_seconds=stall_timeout,
            fetch_seconds=fetch_timeout,
        )

    if input_file is not None:
        source, target = _places(input_file, output)
        folder = source.parent if source is not None else Path.cwd()
        _many(wanted, wishes(source, target, folder), as_json=as_json)
        return
    with tempfile.TemporaryDirectory(prefix="appliance-offline-") as folder_name:
        source = Path(folder_name) / "prompt.jsonl"
        source.write_text(json.dumps({"custom_id": ONE, "body": body}) + "\n", encoding="utf-8")
        target = output or Path(folder_name) / "results.jsonl"
        _one(wanted, wishes(source, target, Path.cwd()), as_json=as_json)


def _body(texts: list[str], image: Media, audio: Media, video: Media) -> dict[str, Any] | None:
    """Return the request of the command line, media first as in the guide; `None` for none."""
    parts: list[dict[str, str]] = [
        {"type": kind, kind: source}
        for kind, sources in (("image", image), ("audio", audio), ("video", video))
        for source in sources or ()
    ]
    parts += [{"type": "text", "text": it} for it in texts]
    return {"messages": [{"role": "user", "content": parts}]} if parts else None


def _places(source: Path, output: Path | None) -> tuple[Path | None, Path]:
    if str(source) == "-":
        if output is None:
            raise ApplianceError(
                "usage", "With --input - there is no name to go by: give --output."
            )
        return None, output
    beside = f"{source.name.removesuffix('.jsonl')}.results.jsonl"
    return source, output or source.parent / beside


def _perform(config: Config, wishes: Wishes, remedy: str | None) -> Summary:
    from appliance.lifecycle.progress import Progress
    from appliance.offline.run import perform

    progress = Progress()
    try:
        return perform(config, wishes, progress)
    except KeyboardInterrupt:
        message = "Interrupted; the engine was ended."
        raise ApplianceError("interrupted", message, remedy) from None
    finally:
        progress.stop()


def _many(config: Config, wishes: Wishes, *, as_json: bool) -> None:
    remedy = "What was finished is kept; the same command goes on from there."
    summary = _perform(config, wishes, remedy)
    if as_json:
        document(summary.as_dict())
    else:
        _report(summary)
    if summary.failed:
        sys.stdout.flush()
        causes = ", ".join(f"{count} {code}" for code, count in summary.errors.most_common())
        failed = f"{summary.failed} of {summary.total} requests have no answer ({causes})."
        _leave(ApplianceError("partly-failed", f"{failed}\nResults: {summary.output}"))


def _report(summary: Summary) -> None:
    print(
        f"{summary.output}: {summary.total} requests, {summary.done} done now, {summary.kept} "
        f"before, {summary.failed} failed."
    )
    if summary.done and summary.run_seconds:
        seconds = summary.run_seconds
        print(
            f"{seconds:.1f} s after loading ({summary.load_seconds:.1f} s): "
            f"{summary.done / seconds:.2f} requests/s, {summary.output_tokens} tokens, "
            f"{summary.output_tokens / seconds:.1f} tokens/s."
        )


def _one(config: Config, wishes: Wishes, *, as_json: bool) -> None:
    """Print the answer to one request: its text on stdout, its thinking on stderr."""
    summary = _perform(config, wishes, "Nothing is kept of it; run it again.")
    line = json.loads(Path(summary.output).read_text(encoding="utf-8").splitlines()[0])
    if as_json:
        document(line)
    if line["error"] is not None:
        sys.stdout.flush()
        _leave(ApplianceError("partly-failed", line["error"]["message"], "Correct the request."))
    if as_json:
        return
    for choice in line["response"]["body"]["choices"]:
        message = choice["message"]
        if message.get("reasoning"):
            print(f"\n[thinking]  {message['reasoning'].strip()}\n", file=sys.stderr)
        if message["content"]:
            print(message["content"].strip("\n"))
        elif choice["finish_reason"] == "length":
            print("The answer was cut off while thinking: raise --max-tokens.", file=sys.stderr)


def _leave(error: ApplianceError) -> None:
    complain(error)
    raise typer.Exit(error.exit_code)
