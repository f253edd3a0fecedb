"""How a probe fails."""

from __future__ import annotations


class ProbeError(Exception):
    """The probe failed; the message says why and quotes what the server sent."""


class UnreachableError(ProbeError):
    """No connection to the server could be made."""
