"""Where the launcher's own files are: in a checkout, or installed as a package."""

from __future__ import annotations

import os
from pathlib import Path

# The image sets this variable: there the launcher's files and paths are not the host's.
INSIDE_IMAGE = "APPLIANCE_INSIDE_IMAGE"
_PACKAGE = Path(__file__).resolve().parent


def checkout() -> Path | None:
    """Return the project's checkout that this launcher runs from, if it does."""
    root = _PACKAGE.parent
    return root if (root / "Dockerfile").is_file() and (root / "templates").is_dir() else None


def inside_image() -> bool:
    """Tell whether this launcher runs in the appliance image, where it can't see the host."""
    return bool(os.environ.get(INSIDE_IMAGE))


def templates() -> Path:
    """Return the folder of the templates."""
    root = checkout()
    return root / "templates" if root else _PACKAGE / "_templates"


def models() -> Path | None:
    """Return the folder of the bundled models, which only a checkout has."""
    root = checkout()
    return root / "models" if root else None
