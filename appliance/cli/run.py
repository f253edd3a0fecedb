"""What every command shares: errors become lines and exit codes, results become documents."""

from __future__ import annotations

import functools
import json
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

import typer

from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

P = ParamSpec("P")
R = TypeVar("R")
_LONGEST = 10_000


def stop_on_signals() -> None:
    """Let SIGTERM and a lost terminal end a command the way Ctrl-C does: tidily."""
    import signal

    def interrupt(number: int, _: object) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup` means it.
            signal.signal(number, interrupt)


def guarded(function: Callable[P, R]) -> Callable[P, R]:
    """Make a command that reports every error as what, why and what next; never a traceback."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        as_json = bool(kwargs.get("as_json"))
        try:
            return function(*args, **kwargs)
        except ApplianceError as error:
            _fail(error, as_json=as_json)
        except KeyboardInterrupt:
            message = (
                "Interrupted. A container that was started goes on; everything else was ended."
            )
            _fail(ApplianceError("interrupted", message), as_json=as_json)
        except BrokenPipeError:
            # The reader of our output went away: that is its right.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except typer.Exit:
            raise
        except Exception as error:
            if os.environ.get("APPLIANCE_DEBUG"):
                raise
            text = f"{type(error).__name__}: {error}"
            _fail(ApplianceError("bug", text), as_json=as_json)

    return wrapper


@contextmanager
def interruptible(state: str, remedy: str, tidy: Callable[[], None]) -> Iterator[None]:
    """Say what Ctrl-C means for the work in the block, whose container ends with it.

    `tidy` is called at the end, however that comes.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise ApplianceError("interrupted", f"Interrupted. {state}", remedy) from None
    finally:
        tidy()


def _fail(error: ApplianceError, *, as_json: bool) -> NoReturn:
    if as_json:
        document(error.as_dict())
    complain(error)
    raise typer.Exit(error.exit_code) from None


def complain(error: ApplianceError) -> None:
    """Tell people of an error: what, why, and what next."""
    from appliance.report.numbers import clean

    text = f"error [{error.id}] {error.message}\n  next: {error.remedy}"
    # Part of it may be what a server or a model said, and steer a terminal.
    lines = [clean(line, _LONGEST) for line in text.split("\n")]
    print("\n".join(["", *lines]), file=sys.stderr)


def document(value: Any) -> None:
    """Print one JSON document on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def usage_error(error: Exception) -> int:
    """Report a command line that was not understood; return the exit code."""
    context = getattr(error, "ctx", None)
    command = getattr(context, "command_path", "appliance")
    if type(error).__name__ == "NoArgsIsHelpError":
        print(getattr(context, "get_help", str)(), file=sys.stderr)
        return 2
    message = str(getattr(error, "message", error))
    remedy = f"See `{command} --help`."
    reported = ApplianceError("usage", message, remedy)
    if "--json" in sys.argv:
        document(reported.as_dict())
    complain(reported)
    return reported.exit_code
