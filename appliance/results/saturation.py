"""From where on more load brings no more: one rule for the sweep that ends, and for its picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def saturated(throughputs: Sequence[float], least_gain: float) -> int | None:
    """Return the place of the first load after which none pays; `None` where the last one does.

    A load pays that brings at least this share more than the one it is held against. Loads are
    in their order, and there is at least one.
    """
    for place, value in enumerate(throughputs[:-1]):
        if max(throughputs[place + 1 :]) < value * (1 + least_gain):
            return place
    return None
