"""An engine for the supervisor's tests: a server of vLLM's paths, its workers, its misdeeds.

Run as a program: `standin_engine.py serve --port N --served-model-name NAME --do JSON`. What it
is to do at its start stands in the JSON; what it is to do later is asked for by GET /do/NAME/ARG.
Each token needs every worker, so a worker that stands still is a hang.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

PR_SET_NAME = 15
PORTION = 1 << 20


def title(name: str) -> None:
    ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode(), 0, 0, 0)


def work_of_a_rank(name: str) -> None:
    """A worker: answers each line, as long as its server is there."""
    title(name)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    print("here", flush=True)
    for line in sys.stdin:
        sys.stdout.write(line)
        sys.stdout.flush()


def stuck_in_a_collective() -> None:
    threading.Event().wait()


class Standin:
    """The server's state."""

    def __init__(self, model: str, do: dict[str, Any]) -> None:
        self.model = model
        self.do = do
        self.tokens = 0
        self.hung = bool(do.get("hung"))
        self.running = int(do.get("running", 0))
        self.ending = False
        self.at_work = threading.Lock()
        self.requests = 0
        self.workers = [
            subprocess.Popen(
                [sys.executable, __file__, "worker", f"VLLM::Worker_{rank}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(do.get("workers", 0))
        ]
        for worker in self.workers:
            assert worker.stdout is not None
            worker.stdout.readline()

    def token(self) -> None:
        if self.hung:
            stuck_in_a_collective()
        with self.at_work:
            for worker in self.workers:
                assert worker.stdin is not None
                assert worker.stdout is not None
                worker.stdin.write("step\n")
                worker.stdin.flush()
                worker.stdout.readline()
            self.tokens += 1

    def complete(self, request: dict[str, Any]) -> dict[str, Any]:
        self.requests += 1
        try:
            for _ in range(request["max_tokens"]):
                self.token()
                time.sleep(0.1 if request["max_tokens"] > 1 else 0)
        finally:
            self.requests -= 1
        choice = {"index": 0, "message": {"content": "Hi"}, "finish_reason": "length"}
        usage = {"prompt_tokens": 5, "completion_tokens": request["max_tokens"]}
        return {"choices": [choice], "usage": usage}

    def metrics(self) -> str:
        if self.do.get("moving"):
            self.tokens += 1
        labels = f'{{engine="0",model_name="{self.model}"}}'
        return "".join(
            f"vllm:{name}{labels} {float(value)}\n"
            for name, value in (
                ("generation_tokens_total", self.tokens),
                ("num_requests_running", self.running),
                ("num_requests_waiting", 0),
            )
        )

    def misdeed(self, name: str, argument: str) -> None:
        if name == "hang":
            self.hung = True
        elif name == "exit":
            os._exit(int(argument))
        elif name == "kill":
            os.kill(os.getpid(), int(argument))
        elif name == "say":
            print(argument, flush=True)
        elif name == "worker":
            os.kill(self.workers[0].pid, int(argument))
        elif name == "log":
            line = b"x" * 99 + b"\n"
            for _ in range(int(argument)):
                os.write(1, line * (PORTION // len(line)))


def handler(standin: Standin) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/do/"):
                self.answer(b"{}")
                standin.misdeed(*f"{self.path}/".split("/")[2:4])
                return
            models = {"data": [{"id": standin.model}]}
            answers = {"/health": "", "/metrics": standin.metrics(), "/v1/models": models}
            found = answers[self.path]
            self.answer((found if isinstance(found, str) else json.dumps(found)).encode())

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.answer(json.dumps(standin.complete(request)).encode())

        def answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Its log is the test's."""

    return Handler


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Clients that gave up are none of the tests' business."""


def leave_orphans(count: int, code: str) -> None:
    """Processes whose parent ends at once; `code` is what each of them does."""
    for _ in range(count):
        parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {code!r}])"
        subprocess.run([sys.executable, "-c", parent], check=True)


def listen_to_signals(standin: Standin, do: dict[str, Any]) -> None:
    def note(number: int, _: object) -> None:
        # No lock of what was interrupted may be wanted here.
        with suppress(OSError):
            os.write(1, f"got {signal.Signals(number).name}\n".encode())
        if number in (signal.SIGTERM, signal.SIGINT) and not do.get("deaf"):
            standin.ending = True

    if not do.get("early"):
        for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT"):
            signal.signal(getattr(signal, name), note)


def serve(port: int, model: str, do: dict[str, Any]) -> None:
    print(f"begins, key {os.environ.get('VLLM_API_KEY', 'none')}", flush=True)
    if do.get("silent"):
        os.close(1)
        os.close(2)
    standin = Standin(model, do)
    listen_to_signals(standin, do)
    if do.get("orphans"):
        leave_orphans(do["orphans"], do.get("orphan", "pass"))
    if "exit" in do:
        sys.exit(do["exit"])
    time.sleep(do.get("load", 0))
    httpd = Server(("127.0.0.1", port), handler(standin))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    if file := do.get("pid"):
        Path(file).write_text(str(os.getpid()))
    if not do.get("silent"):
        print("ready", flush=True)
    while standin.requests or not standin.ending:
        time.sleep(0.02)
    for worker in standin.workers:
        worker.terminate()
    if not do.get("silent"):
        print("ends in order", flush=True)
    os._exit(0)


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        work_of_a_rank(sys.argv[2])
    else:
        given = dict(pairwise(sys.argv[2:]))
        serve(int(given["--port"]), given["--served-model-name"], json.loads(given["--do"]))
