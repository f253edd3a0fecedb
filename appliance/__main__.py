"""The entry point of the `appliance` command."""

from __future__ import annotations

import gc
import sys

# Objects; Python's own is 700.
GC_THRESHOLD = 50_000


def main() -> None:
    """Run the command line; the process ends with the command's exit code."""
    # What imports make lives on: looking through all of it again and again finds nothing, and
    # takes some percent of a short command.
    gc.set_threshold(GC_THRESHOLD)
    import typer

    from appliance.cli.app import app, narrow
    from appliance.cli.run import usage_error

    # Typer's errors of usage share a base class that it does not export by name.
    usage: type[Exception] = typer.BadParameter.__mro__[1]
    narrow(sys.argv[1] if len(sys.argv) > 1 else "")
    try:
        code = app(standalone_mode=False)
    except usage as error:
        code = usage_error(error)
    except typer.Abort:
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
