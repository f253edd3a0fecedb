"""What a program in the container is started with: its folder, and the API key.

The API key comes as a file and reaches vLLM as a variable of its process alone: it stands in
no argument (process lists), in no variable of the container (`docker inspect`), and in no
line of the log (vLLM logs its arguments).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from appliance.plan.names import API_KEY_FILE, WORK_DIR


class Refused(Exception):  # noqa: N818 (it is the key that is at fault)
    """The API key can't be had; the message says why."""


def prepared() -> dict[str, str]:
    """Change into a folder that can be written to, and return the environment with the key.

    Raises Refused.
    """
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
            raise Refused(f"the API key can't be read: {error}") from error
        if not key:
            raise Refused(f"the API key file {key_file} is empty")
        environment["VLLM_API_KEY"] = key
    return environment
