"""Where the Docker engine listens: its socket on this host, or another host's."""

from __future__ import annotations

import os

DEFAULT_SOCKET = "/var/run/docker.sock"


def socket_path() -> str | None:
    """Return the path of the engine's socket; `None` where DOCKER_HOST names another kind."""
    scheme, _, path = (os.environ.get("DOCKER_HOST") or f"unix://{DEFAULT_SOCKET}").partition("://")
    return path if scheme == "unix" else None


def there() -> bool:
    """Tell whether an engine is named, or has a socket where it has by default."""
    return bool(os.environ.get("DOCKER_HOST")) or os.path.exists(DEFAULT_SOCKET)  # noqa: PTH110
