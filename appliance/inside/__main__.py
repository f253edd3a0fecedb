"""Starts a program in the container: `python3 -m appliance.inside COMMAND …`.

This process becomes the program. What serves has a supervisor instead (appliance.supervisor).
"""

from __future__ import annotations

import os
import sys

from appliance.errors import ERRORS
from appliance.inside.environment import Refused, prepared


def main(command: list[str]) -> int:
    """Replace this process by `command`; returns only when that can't be done."""
    try:
        environment = prepared()
    except Refused as error:
        print(f"appliance: {error}", file=sys.stderr)
        return ERRORS["api-key-file"].exit_code
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
