"""Intervals for shares, means and quantiles, and for the difference of two of them.

All are two-sided at 95 %. Only the standard library is at hand: numpy is no dependency of the
launcher.
"""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from appliance.compare.model import CONFIDENCE

if TYPE_CHECKING:
    from collections.abc import Sequence

Z = statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
# Enough that the ends of an interval move by less than a twentieth of its width from one seed
# to another, and a fifth of a second for a run of 200 requests.
RESAMPLES = 1000
SEED = 20
# The middle of so few says nothing of how they spread.
FEWEST = 10


@dataclass(frozen=True)
class Estimate:
    """A value with the ends of its interval; an end may be infinite: nothing bounds it."""

    value: float
    low: float
    high: float

    def scaled(self, value: float) -> Estimate:
        """Return the estimate of another value that spreads as much, relative to itself."""
        if self.value == 0:
            return Estimate(value, -math.inf, math.inf)
        factor = value / self.value
        return Estimate(value, self.low * factor, self.high * factor)


def difference(own: Estimate, reference: Estimate, noise: float = 0.0) -> tuple[float, float]:
    """Return the interval of own minus reference.

    The distances to the ends add up as independent errors do (the "square and add" of Newcombe
    1998, method 10; Zou and Donner 2008 for any pair of intervals). `noise` is one more such
    distance on both sides.
    """
    middle = own.value - reference.value
    low = math.hypot(own.value - own.low, reference.high - reference.value, noise)
    high = math.hypot(own.high - own.value, reference.value - reference.low, noise)
    return middle - low, middle + high


def share(value: float, count: int) -> Estimate:
    """Return Wilson's score interval of a share of so many yes-or-no answers.

    Right for scores between 0 and 1 too, where each answer may be partly right: their variance
    is at most that of yes and no. `count` is at least 1.
    """
    weight = Z * Z / count
    middle = (value + weight / 2) / (1 + weight)
    half = math.sqrt(weight * (value * (1 - value) + weight / 4)) / (1 + weight)
    # Rounding must not put the value outside its own interval.
    return Estimate(value, min(value, max(0.0, middle - half)), max(value, min(1.0, middle + half)))


def mean(blocks: Sequence[Sequence[float]], count: int | None = None) -> Estimate:
    """Return the mean of all values, with a percentile bootstrap that draws whole blocks.

    A block is what hangs together: one request, with one value or with one for each token.
    `count` is for how many blocks the interval shall be, if not for those.
    """
    sums = tuple(math.fsum(block) for block in blocks)
    sizes = tuple(len(block) for block in blocks)
    return _bootstrapped(sums, sizes, count or len(blocks))


# The same samples are asked about again where several results have one reference.
@lru_cache(maxsize=256)
def _bootstrapped(sums: tuple[float, ...], sizes: tuple[int, ...], count: int) -> Estimate:
    value = math.fsum(sums) / sum(sizes)
    draw = random.Random(SEED)  # noqa: S311 (a fixed seed: the same result, the same interval)
    if len(set(sizes)) == 1:
        norm = count * sizes[0]
        means = [math.fsum(draw.choices(sums, k=count)) / norm for _ in range(RESAMPLES)]
    else:
        pairs = list(zip(sums, sizes, strict=True))
        means = []
        for _ in range(RESAMPLES):
            drawn = draw.choices(pairs, k=count)
            means.append(math.fsum(s for s, _ in drawn) / sum(n for _, n in drawn))
    means.sort()
    skipped = round(RESAMPLES * (1 - CONFIDENCE) / 2)
    low, high = means[skipped - 1], means[RESAMPLES - skipped]
    return Estimate(value, min(low, value), max(high, value))


def quantile(blocks: Sequence[Sequence[float]], at: float, count: int | None = None) -> Estimate:
    """Return a quantile, 0 < at < 1, with an interval between two of the values themselves.

    The share of values below the quantile has a standard error, from how much it differs from
    block to block; the values at that share and so far above and below it are the ends
    (Woodruff 1952). Where this goes beyond the largest value, or the smallest, nothing that was
    measured bounds the quantile: that end is infinite. A bootstrap would not say so: it never
    draws a value beyond the largest.
    """
    values = sorted(value for block in blocks for value in block)
    value = at_share(values, at)
    below = [sum(one <= value for one in block) for block in blocks]
    total = len(values)
    drawn = count or len(blocks)
    binomial = at * (1 - at) / (drawn * total / len(blocks))
    spread = math.fsum((n - at * len(b)) ** 2 for n, b in zip(below, blocks, strict=True))
    # Values of a block are mostly alike. Where by chance they seem less alike than those of
    # different blocks, they are taken as independent.
    variance = max(binomial, spread / total**2 * len(blocks) / drawn)
    reach = Z * math.sqrt(variance)
    # The values of these ranks, counted from 1.
    low, high = math.floor((at - reach) * total), math.ceil((at + reach) * total)
    return Estimate(
        value,
        min(value, values[low - 1]) if low >= 1 else -math.inf,
        max(value, values[high - 1]) if high <= total else math.inf,
    )


def without(
    found: Estimate, blocks: Sequence[Sequence[float]], at: float | None, lost: float
) -> Estimate:
    """Return an estimate of all requests where a share of them is lost.

    A quantile (`at`) is that of the rest where those lost were all slower, or all faster. For a
    mean they are taken to be as fast as the fastest and as slow as the slowest that is known.
    """
    if lost <= 0:
        return found
    if at is None:
        values = [value for block in blocks for value in block]
        low = (1 - lost) * found.low + lost * min(values)
        high = (1 - lost) * found.high + lost * max(values)
        return Estimate(found.value, min(low, found.value), max(high, found.value))
    below, above = (at - lost) / (1 - lost), at / (1 - lost)
    return Estimate(
        found.value,
        quantile(blocks, below).low if below > 0 else -math.inf,
        quantile(blocks, above).high if above < 1 else math.inf,
    )


def heavier(own: Sequence[float], reference: Sequence[float], at: float, noise: float) -> bool:
    """Tell whether the upper end of one sample is beyond that of another, by more than chance.

    That is so where more values than chance allows are above the other one's quantile, and
    a share of noise: of the largest values of both together too few are the other one's
    (exactly, and in one direction at half of 5 %). It bounds no quantile.
    """
    place = at_share(sorted(reference), at)
    few = sum(value > place for value in reference)
    many = sum(value > place * (1 + noise) for value in own)
    drawn = few + many
    total = math.comb(len(own) + len(reference), drawn)
    chance = sum(
        math.comb(len(reference), k) * math.comb(len(own), drawn - k) for k in range(few + 1)
    )
    return many > 0 and chance / total <= (1 - CONFIDENCE) / 2


def at_share(values: Sequence[float], at: float) -> float:
    """Return a quantile of sorted values as numpy's percentile does: linearly in between."""
    position = at * (len(values) - 1)
    lower = math.floor(position)
    upper = min(lower + 1, len(values) - 1)
    return values[lower] + (values[upper] - values[lower]) * (position - lower)


def from_deviation(value: float, deviation: float, count: int) -> Estimate:
    """Return a mean's interval from the standard deviation of so many values."""
    half = Z * deviation / math.sqrt(count)
    return Estimate(value, value - half, value + half)
