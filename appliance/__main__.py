"""The entry point of the `appliance` command."""

from __future__ import annotations


def main() -> None:
    """Run the command line; the process ends with the command's exit code."""
    from appliance.cli.app import app

    app()


if __name__ == "__main__":
    main()
