"""What ended work before its end, where some of it is in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from pathlib import Path


class KeptError(ApplianceError):
    """An error, with the file that holds what was done before it."""

    def __init__(self, error: ApplianceError, file: Path) -> None:
        """Take the error over."""
        message = f"{error.message}\nWhat was measured before is in {file}"
        super().__init__(error.id, message, error.remedy)
        self.file = file

    def as_dict(self) -> dict[str, object]:
        """Return the error as `--json` prints it, beside the file."""
        return {**super().as_dict(), "file": str(self.file)}
