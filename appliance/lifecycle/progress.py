"""Shows an operator what is going on: a line a phase, and within it a sign of life."""

from __future__ import annotations

import re
import shutil
import sys
import time
from threading import Timer
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from rich.status import Status

# Where output goes to a file, a phase that lasts says what it is at, this often.
HEARTBEAT_SECONDS = 15.0
WIDTH = 100
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


@final
class Progress:
    """Named phases on stderr, with the seconds that each took."""

    def __init__(self, *, quiet: bool = False) -> None:
        """`quiet` shows nothing at all: the caller prints one document at the end."""
        self.phase = "start"
        self._quiet = quiet
        self._terminal = not quiet and sys.stderr.isatty()
        self._status: Status | None = None
        self._last = ""
        self._silence: Timer | None = None
        self._began = self._spoke = time.monotonic()

    def begin(self, phase: str, text: str) -> None:
        """Start a phase."""
        self.phase = phase
        self._began = self._spoke = time.monotonic()
        if self._terminal:
            from rich.console import Console
            from rich.markup import escape

            self._status = Console(stderr=True).status(escape(self._line(text)))
            self._status.start()
        else:
            self._print(self._line(text))
            self._last = ""
            self._watch()

    def detail(self, text: str) -> None:
        """Say what the phase is at: shown in passing on a terminal, now and then in a file."""
        text = " ".join(_ESCAPES.sub(" ", text).split())
        self._last = text[:WIDTH]
        seconds = time.monotonic() - self._began
        if self._status is not None:
            from rich.markup import escape

            # One row, whatever the terminal's width: the spinner and the seconds need some.
            width = max(20, shutil.get_terminal_size().columns - 24)
            self._status.update(escape(self._line(f"{seconds:.0f} s  {text[:width]}")))
        elif time.monotonic() - self._spoke >= HEARTBEAT_SECONDS:
            self._beat()

    def _beat(self) -> None:
        seconds = time.monotonic() - self._began
        self._print(self._line(f"… {seconds:.0f} s  {self._last}").rstrip())
        self._spoke = time.monotonic()

    def _watch(self) -> None:
        """Speak up in a file too when what runs says nothing for long."""

        def speak() -> None:
            if time.monotonic() - self._spoke >= HEARTBEAT_SECONDS:
                self._beat()
            self._watch()

        self._hush()
        if not self._quiet:
            self._silence = Timer(HEARTBEAT_SECONDS, speak)
            self._silence.daemon = True
            self._silence.start()

    def _hush(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    def end(self, text: str) -> None:
        """End the phase with what came of it."""
        self.stop()
        self._print(self._line(f"{text}  ({time.monotonic() - self._began:.1f} s)"))

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self._print(text)

    def stop(self) -> None:
        """Take the moving line away; safe at any time."""
        self._hush()
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _line(self, text: str) -> str:
        return f"[{self.phase}]".ljust(12) + text

    def _print(self, text: str) -> None:
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)
