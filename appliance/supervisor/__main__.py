"""The image's command: `python3 -m appliance.supervisor vllm serve …`."""

from __future__ import annotations

import signal
import sys

USAGE = 2


def main(command: list[str]) -> int:
    """Supervise `command`; returns the container's exit code."""
    # At once: a signal that comes before there is a handler would be lost to a container's first
    # process, and Docker would wait for an end in vain. It is kept until there is one.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    from appliance.errors import ERRORS
    from appliance.inside.environment import Refused, prepared
    from appliance.supervisor import settings
    from appliance.supervisor.output import say
    from appliance.supervisor.run import Supervisor

    try:
        supervisor = Supervisor(command, prepared(), settings.read())
    except Refused as error:
        say(str(error))
        return ERRORS["api-key-file"].exit_code
    except ValueError as error:
        say(f"{error}: correct it in the container's environment")
        return ERRORS["config-invalid"].exit_code
    return supervisor.run()


if __name__ == "__main__":
    if len(sys.argv) < 2:  # noqa: PLR2004
        print("usage: python3 -m appliance.supervisor COMMAND [ARGUMENT ...]", file=sys.stderr)
        sys.exit(USAGE)
    sys.exit(main(sys.argv[1:]))
