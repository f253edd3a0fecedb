"""Runs `vllm bench` in the appliance image: `python3 -m appliance.inside.bench`.

Reads orders from stdin, one JSON object a line, and answers each on stdout with one line:

- `{"arguments": [...], "result": FILE, "timeout": SECONDS}` is one run: the arguments after
  `vllm`, and the file that they make vLLM write. `"key"` is the API key, where it is not the one
  of this container, and may be empty; `"client"` is what client.py is told, where plain vLLM is
  not enough.
- The answer has `"raw"`, the content of that file, or else `"status"`, `"log"` (the last lines
  that vLLM printed) and `"late"`, which is true where it was ended for its time.

The first line on stdout is not an answer: it tells `"protocol"` and `"versions"`. When stdin ends,
so does this, and the run that it is at.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections import deque
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from queue import SimpleQueue
from threading import Thread, Timer
from typing import IO, Any

from appliance.plan.names import WORK_DIR

PROTOCOL = 1
FOLDER = Path(WORK_DIR) / "bench"
KEPT_LINES = 400
# From being asked to end until it is made to.
END_SECONDS = 10.0
PACKAGES = {
    "vllm": "vllm",
    "vllm_ascend": "vllm-ascend",
    "torch": "torch",
    "torch_npu": "torch-npu",
    "transformers": "transformers",
}
# CANN writes its version beside itself, in one of these files, whose names its releases changed.
CANN_FILES = ("*/ascend_toolkit_install.info", "*/ascend_cann_install.info", "version.cfg")


class Run:
    """One `vllm bench` that runs, with all that it starts."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        """Start it. What it prints is for people, and comes by `lines`."""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=FOLDER,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )

    def lines(self) -> deque[str]:
        """Pass on what it prints to stderr until it ends; return the last lines."""
        kept: deque[str] = deque(maxlen=KEPT_LINES)
        stdout = self._process.stdout
        assert stdout is not None  # noqa: S101 (a pipe)
        with stdout:
            for line in stdout:
                kept.append(line.rstrip())
                print(line.rstrip(), file=sys.stderr, flush=True)
        return kept

    def wait(self) -> int:
        """Return its exit status."""
        return self._process.wait()

    def end(self) -> None:
        """Ask it to end, and make it; safe at any time."""
        for number in (signal.SIGINT, signal.SIGKILL):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)


class Work:
    """The runs that are ordered, one after the other."""

    def __init__(self, orders: IO[str], answers: IO[str]) -> None:
        """Take the streams to speak by."""
        self._orders = orders
        self._answers = answers
        self._waiting: SimpleQueue[str | None] = SimpleQueue()
        self._run: Run | None = None
        self._over = False

    def go_on(self) -> None:
        """Work until stdin ends."""
        Thread(target=self._listen, daemon=True).start()
        self._say({"protocol": PROTOCOL, "versions": versions()})
        try:
            while (line := self._waiting.get()) is not None:
                self._say(self._perform(json.loads(line)))
        finally:
            if self._run is not None:
                self._run.end()

    def _listen(self) -> None:
        for line in self._orders:
            self._waiting.put(line)
        self._over = True
        if self._run is not None:
            self._run.end()
        self._waiting.put(None)

    def _perform(self, order: dict[str, Any]) -> dict[str, Any]:
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir(parents=True)
        late: list[bool] = []
        self._run = run = Run(command(order), environment(order))
        if self._over:
            run.end()

        def expire() -> None:
            late.append(True)
            run.end()

        timer = Timer(order["timeout"], expire)
        timer.daemon = True
        timer.start()
        try:
            log = run.lines()
            status = run.wait()
        finally:
            timer.cancel()
        try:
            raw = json.loads(Path(order["result"]).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raw = None
        told = _told(Path(f"{order['result']}.command"))
        shutil.rmtree(FOLDER, ignore_errors=True)
        if status == 0 and raw is not None:
            return {"raw": raw, "command": told}
        return {"status": status, "log": "\n".join(log), "late": bool(late), "command": told}

    def _say(self, answer: dict[str, Any]) -> None:
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()


def command(order: dict[str, Any]) -> list[str]:
    """Return the command of a run: vLLM's own, or by way of client.py."""
    client = order.get("client")
    if client is None:
        return [sys.executable, "-m", "vllm.entrypoints.cli.main", *order["arguments"]]
    told = json.dumps({**client, "told": f"{order['result']}.command"})
    return [sys.executable, "-m", "appliance.inside.client", told, *order["arguments"]]


def environment(order: dict[str, Any]) -> dict[str, str]:
    """Return the variables of a run."""
    values = dict(os.environ)
    own = values.pop("VLLM_API_KEY", "")
    values.pop("OPENAI_API_KEY", None)
    # The container's own key is for its own server alone.
    key = order.get("key", own)
    if key:
        values["OPENAI_API_KEY"] = key  # Where `vllm bench serve` looks for it.
    # vLLM's client trusts the environment: a proxy must see neither requests nor key.
    values["NO_PROXY"] = values["no_proxy"] = "*"
    # It leaves each generated video behind there.
    values["TMPDIR"] = str(FOLDER)
    values["TQDM_MININTERVAL"] = "1"
    return values


def _told(file: Path) -> list[str] | None:
    try:
        words: list[str] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return words


def versions() -> dict[str, str]:
    """Return the versions of what serves, as far as they are there."""
    found = {"python": platform.python_version()}
    for name, package in PACKAGES.items():
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(package)
    if cann := _cann():
        found["cann"] = cann
    return found


def _cann() -> str | None:
    home = Path(os.environ.get("ASCEND_TOOLKIT_HOME", "/usr/local/Ascend/ascend-toolkit/latest"))
    for pattern in CANN_FILES:
        for file in sorted(home.glob(pattern)):
            with suppress(OSError, UnicodeDecodeError):
                found = re.search(r"(?im)^version\s*=\s*(\S+)", file.read_text(encoding="utf-8"))
                if found:
                    return found[1]
    return None


def main() -> int:
    """Keep stdout for the answers alone, and work."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # Whatever a library prints is for people.

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    Work(sys.stdin, answers).go_on()
    return 0


if __name__ == "__main__":
    sys.exit(main())
