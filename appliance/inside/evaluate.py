"""Runs evalscope: reads one line of work from stdin, writes what happens as lines of JSON.

It is a copy in the evaluation's image, run there by evalscope's own Python, so it uses nothing
but the standard library and evalscope. The line of work, made by `appliance.evaluate.work`:

    task      keywords of evalscope's TaskConfig
    run       the name of this run's folder: the same work has the same name
    fresh     whether to throw away what an interrupted run of that name left
    local     dataset to the files that it is made of: {"as_is": ...} or {"configs": ...}
    api_key   the server's key, or null where it comes as VLLM_API_KEY
    variables further environment, such as proxies, which no `docker inspect` is to show

A second line says that the results are in safe hands: the run's folder is then removed. When
stdin ends this process does, since nobody waits for its results any more.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

# The volume, and in it what a run leaves; what was downloaded stays for other runs.
ROOT = Path("/var/cache/appliance-eval")
RUNS = ROOT / "runs"
# Where `--dataset-dir` is mounted.
DATASETS = Path("/mnt/datasets")
POLL_SECONDS = 1.0
# evalscope's own metadata workaround deletes this file from a local folder.
DELETED_BY_EVALSCOPE = "dataset_infos.json"
INTERRUPTED = 130
FAILED = 3


class Ear:
    """Reads the real stdin, which nothing else in this process has.

    evalscope scores each sum in a fork, and a fork of Python closes `sys.stdin`: that would wait
    for ever for a thread that was reading it.
    """

    def __init__(self) -> None:
        """Take stdin away from whatever reads, and give that nothing."""
        self._stdin = os.dup(0)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        self._read = b""

    def line(self) -> str:
        """Wait for a line and return it, empty where there is none any more."""
        while b"\n" not in self._read:
            block = os.read(self._stdin, 1 << 16)
            if not block:
                return ""
            self._read += block
        first, _, self._read = self._read.partition(b"\n")
        return first.decode()


class Voice:
    """Says what happens on the real stdout, which nothing else in this process has."""

    def __init__(self) -> None:
        """Take stdout away from whatever prints, and give that stderr."""
        self._out: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def say(self, event: str, **more: Any) -> None:
        """Write one event."""
        with self._lock:
            self._out.write(json.dumps({"event": event, **more}, ensure_ascii=False) + "\n")
            self._out.flush()


class Failure(Exception):  # noqa: N818 (it is what happened, and not what to raise elsewhere)
    """What ends the work; `kind` tells the host which error that is."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def main() -> int:
    """Do the work that stdin names; return the exit status."""
    ear, voice = Ear(), Voice()
    for number in (signal.SIGINT, signal.SIGTERM):
        # At once: each answer is written to its file as it comes, and threads wait for more.
        signal.signal(number, lambda *_: os._exit(INTERRUPTED))
    line = ear.line()
    if not line:
        return FAILED
    work: dict[str, Any] = json.loads(line)
    kept = threading.Event()
    threading.Thread(target=_listen, args=(ear, kept), daemon=True).start()
    try:
        folder = _evaluate(work, voice)
    except Failure as failure:
        voice.say("failed", kind=failure.kind, text=str(failure))
        return FAILED
    voice.say("done")
    kept.wait()
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def _listen(ear: Ear, kept: threading.Event) -> None:
    """Wait for the word that the results are kept; end with whoever would say it."""
    if not ear.line():
        os._exit(INTERRUPTED)
    kept.set()


def _evaluate(work: Mapping[str, Any], voice: Voice) -> Path:
    version = metadata.version("evalscope")
    # Another version may put its questions in another way.
    folder = RUNS / f"{work['run']}-{version}"
    if work["fresh"]:
        shutil.rmtree(folder, ignore_errors=True)
    # What it makes of datasets goes with the run; what it downloaded stays.
    os.environ.update({**work["variables"], "HF_DATASETS_CACHE": str(folder / "datasets")})
    outputs = folder / "outputs"
    task = _task(work, folder, outputs)
    voice.say("versions", evalscope=version, image=_versions())
    totals = dict(_load(task, voice))
    with _Watch(outputs, sum(totals.values()), voice):
        _ask(task)
    _tell(outputs, voice)
    return folder


def _versions() -> dict[str, str]:
    """Return the versions of the image's own packages, which its own Python knows."""
    code = "import json; from appliance.inside.bench import versions; print(json.dumps(versions()))"
    try:
        done = subprocess.run(
            ["python3", "-c", code], capture_output=True, text=True, check=False, timeout=60
        )
        found: dict[str, str] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return {}
    return found


def _task(work: Mapping[str, Any], folder: Path, outputs: Path) -> dict[str, Any]:
    task: dict[str, Any] = {**work["task"], "work_dir": str(outputs), "no_timestamp": True}
    # From the environment it would be seen by all that this process starts. evalscope writes
    # its task down with asterisks in the key's place.
    task["api_key"] = work["api_key"] or os.environ.pop("VLLM_API_KEY", "") or "EMPTY"
    if (outputs / "configs" / "task_config.yaml").exists():
        # What an interrupted run has answered is not asked again.
        task["use_cache"] = str(outputs)
    arguments = {name: dict(value) for name, value in task["dataset_args"].items()}
    shutil.rmtree(folder / "local", ignore_errors=True)
    for name, layout in work["local"].items():
        local = folder / "local" / name
        arguments.setdefault(name, {})["local_path"] = str(local)
        _arrange(DATASETS / name, layout, local)
    task["dataset_args"] = arguments
    return task


def _arrange(source: Path, layout: Mapping[str, Any], target: Path) -> None:
    """Make a folder of links in the form that evalscope's loader reads.

    The folder itself can't be that: it is mounted read-only, and the loader deletes a file of
    it; and files as they are published elsewhere lack the README that says what is what.
    """
    target.mkdir(parents=True)
    if layout.get("as_is"):
        for file in sorted(source.rglob("*")):
            if file.is_file() and file.name != DELETED_BY_EVALSCOPE:
                link = target / file.relative_to(source)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(file)
        return
    configs = []
    for config in layout["configs"]:
        files = []
        for split, names in config["splits"].items():
            for number, name in enumerate(names):
                link = target / config["name"] / f"{split}-{number}{Path(name).suffix}"
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(source / name)
            files.append({"split": split, "path": f"{config['name']}/{split}-*"})
        field = {"field": config["field"]} if config.get("field") else {}
        configs.append({"config_name": config["name"], "data_files": files, **field})
    # JSON is YAML.
    text = f"---\n{json.dumps({'configs': configs})}\n---\n"
    (target / "README.md").write_text(text, encoding="utf-8")


def _load(task: Mapping[str, Any], voice: Voice) -> Iterator[tuple[str, int]]:
    """Load each dataset as the evaluation will; yield how many questions each has."""
    from evalscope.api.registry import get_benchmark
    from evalscope.config import TaskConfig

    try:
        config = TaskConfig(**task)
        benchmarks = {name: get_benchmark(name, config) for name in config.datasets}
    except Exception as error:
        raise Failure("input", _words(error)) from error
    for name, benchmark in benchmarks.items():
        voice.say("loading", dataset=name, hub=benchmark.dataset_id)
        try:
            loaded = benchmark.load_dataset()
        except Exception as error:
            raise Failure("dataset", f"{name}: {_words(error)}") from error
        subsets: dict[str, dict[str, Any]] = {
            subset: {"num": len(questions), "sha256": _hash(questions)}
            for subset, questions in loaded.items()
            if len(questions)
        }
        if not subsets:
            raise Failure("dataset", f"{name}: it holds no questions.")
        voice.say("dataset", name=name, subsets=subsets)
        yield name, sum(subset["num"] for subset in subsets.values())


def _hash(questions: Iterable[Any]) -> str:
    """Return a hash over the questions, in their order, with prompts and media as sent."""
    digest = hashlib.sha256()
    for question in questions:
        messages = [
            {"role": message.role, "content": _plain(message.content)} for message in question.input
        ]
        digest.update(json.dumps(messages, sort_keys=True, ensure_ascii=False).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _plain(content: Any) -> Any:
    if isinstance(content, str):
        return content
    return [part.model_dump(mode="json", exclude_none=True) for part in content]


def _ask(task: Mapping[str, Any]) -> None:
    from evalscope.run import run_task

    try:
        run_task(dict(task))
    except Exception as error:
        raise Failure("run", _words(error)) from error


def _words(error: BaseException) -> str:
    """Return an exception in one line, with the cause that it wraps."""
    text = f"{type(error).__name__}: {error}"
    cause = error.__cause__ or error.__context__
    if cause is not None and str(cause) not in text:
        text += f" ({type(cause).__name__}: {cause})"
    return " ".join(text.split())[:2000]


class _Watch:
    """Counts the answers that evalscope has written while it runs.

    Its own progress goes to its log alone, in steps of a minute.
    """

    def __init__(self, outputs: Path, total: int, voice: Voice) -> None:
        self._outputs = outputs
        self._total = total
        self._voice = voice
        self._seen: dict[Path, tuple[int, int]] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._voice.say("start", total=self._total, cached=self._count())
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        said = -1
        while not self._end.wait(POLL_SECONDS):
            done = self._count()
            if done != said:
                self._voice.say("progress", done=done, total=self._total)
                said = done

    def _count(self) -> int:
        """Count lines, reading only what is new: lines hold images and are megabytes long."""
        for file in self._outputs.glob("predictions/*/*.jsonl"):
            position, lines = self._seen.get(file, (0, 0))
            with file.open("rb") as stream:
                stream.seek(position)
                while block := stream.read(1 << 20):
                    lines += block.count(b"\n")
                    position += len(block)
            self._seen[file] = position, lines
        return sum(lines for _, lines in self._seen.values())


def _tell(outputs: Path, voice: Voice) -> None:
    """Say the reports, as files, and each answer in short."""
    for pattern in ("reports/*/*.json", "configs/*.yaml", "logs/*.log"):
        for file in sorted(outputs.glob(pattern)):
            text = file.read_text(encoding="utf-8", errors="replace")
            voice.say("file", path=file.relative_to(outputs).as_posix(), text=text)
    for file in sorted(outputs.glob("predictions/*/*.jsonl")):
        scores = _scores(outputs / "reviews" / file.parent.name / file.name)
        for row in _rows(file):
            voice.say("answer", file=file.stem, **_answer(row), **scores.get(row["index"], {}))


def _scores(file: Path) -> dict[int, dict[str, Any]]:
    found = {}
    for row in _rows(file) if file.exists() else ():
        score = row["sample_score"]["score"]
        found[row["index"]] = {
            "target": row.get("target"),
            "extracted": score.get("extracted_prediction"),
            "score": score.get("value"),
        }
    return found


def _answer(row: Mapping[str, Any]) -> dict[str, Any]:
    output = row.get("model_output") or {}
    choice = (output.get("choices") or [{}])[0]
    content = (choice.get("message") or {}).get("content") or ""
    thinking = ""
    if isinstance(content, list):
        thinking = "".join(part.get("reasoning") or "" for part in content)
        content = "".join(part.get("text") or "" for part in content)
    usage = output.get("usage") or {}
    return {
        "index": row["index"],
        "stop_reason": choice.get("stop_reason"),
        "answer": content,
        "thinking": thinking,
        "output_tokens": usage.get("output_tokens"),
        "seconds": output.get("time"),
    }


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """Yield a file's rows, one an index: the last, as evalscope takes them."""
    found = {}
    with file.open(encoding="utf-8") as stream:
        for line in stream:
            try:
                row = json.loads(line)
            except ValueError:
                continue  # Cut by an interruption; it was asked again.
            found[row["index"]] = row
    yield from found.values()


if __name__ == "__main__":
    began = time.monotonic()
    status = main()
    print(f"ended after {time.monotonic() - began:.0f} s, status {status}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not by the interpreter's own end, which waits for evalscope's threads.
    os._exit(status)
