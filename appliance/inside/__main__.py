"""Starts the engine: `python3 -m appliance.inside vllm serve …`.

The API key comes as a file and reaches vLLM as a variable of its process alone: it stands in
no argument (process lists), in no variable of the container (`docker inspect`), and in no
line of the log (vLLM logs its arguments). This process becomes the engine, in a folder that it
can write to.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from appliance.errors import ERRORS
from appliance.plan.names import API_KEY_FILE, WORK_DIR


def main(command: list[str]) -> int:
    """Replace this process by `command`; returns only when that can't be done."""
    environment = dict(os.environ)
    # CANN puts what it compiles into the current folder, and does not start where it can't
    # (vllm-ascend issues 433 and 2748): the image's own is read-only.
    try:
        Path(WORK_DIR).mkdir(mode=0o700, exist_ok=True)
        os.chdir(WORK_DIR)
    except OSError as error:
        print(f"appliance: the engine starts where it is: {error}", file=sys.stderr)
    key_file = Path(API_KEY_FILE)
    if key_file.exists():
        try:
            key = key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            print(f"appliance: the API key can't be read: {error}", file=sys.stderr)
            return ERRORS["api-key-file"].exit_code
        if not key:
            print(f"appliance: the API key file {key_file} is empty", file=sys.stderr)
            return ERRORS["api-key-file"].exit_code
        environment["VLLM_API_KEY"] = key
    try:
        os.execvpe(command[0], command, environment)  # noqa: S606
    except OSError as error:
        print(f"appliance: {command[0]} can't be started: {error}", file=sys.stderr)
        return 127


if __name__ == "__main__":
    if len(sys.argv) < 2:  # noqa: PLR2004
        print("usage: python3 -m appliance.inside COMMAND [ARGUMENT ...]", file=sys.stderr)
        sys.exit(2)
    sys.exit(main(sys.argv[1:]))
