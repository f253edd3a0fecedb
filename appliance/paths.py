"""Where the launcher's own files are: in a checkout, or installed as a package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def checkout() -> Path | None:
    """Return the project's checkout that this launcher runs from, if it does."""
    root = _PACKAGE.parent
    return root if (root / "Dockerfile").is_file() and (root / "templates").is_dir() else None


def templates() -> Path:
    """Return the folder of the templates."""
    root = checkout()
    return root / "templates" if root else _PACKAGE / "_templates"


def models() -> Path | None:
    """Return the folder of the bundled models, which only a checkout has."""
    root = checkout()
    return root / "models" if root else None
