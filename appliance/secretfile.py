"""Reading the API key from its file, for the probes that this host sends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from pathlib import Path


def read_key(path: Path) -> str:
    """Return the key in a file; raises api-key-file, and never shows the key."""
    try:
        key = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ApplianceError("api-key-file", f"{path} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ApplianceError("api-key-file", f"{path} does not hold text.") from error
    if not key or not key.isprintable() or " " in key or not key.isascii():
        raise ApplianceError(
            "api-key-file", f"{path} must hold one key: visible ASCII characters, no spaces."
        )
    return key
