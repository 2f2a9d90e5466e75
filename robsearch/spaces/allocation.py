"""How a search's trials are shared out over the widths, and in which order the widths are served."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from robsearch.errors import refuse_unless

LEAST = 3
"""Trials that every width gets, if the total allows: a peak in lambda takes three points."""


@runtime_checkable
class Allocation(Protocol):
    """How many trials a width gets beside the others: ``Equal``, ``Weighted``, ``ByCost``."""

    @property
    def thin_first(self) -> bool:
        """Whether a width begins when the thinner ones have all that they get; else the widths take turns."""
        ...

    def weights(self, seconds: Mapping[float, float | None]) -> Mapping[float, float]:
        """A positive weight for each width; trials are shared out in proportion.

        Args:
            seconds: by width, thin to wide, what one training took there so far; None where none has ended.
        """
        ...


@dataclass(frozen=True)
class Equal:
    """As many trials at each width, in turn."""

    thin_first: bool = False

    def weights(self, seconds: Mapping[float, float | None]) -> Mapping[float, float]:
        """1 for each."""
        return dict.fromkeys(seconds, 1.0)


@dataclass(frozen=True)
class Weighted:
    """Trials in proportion to a weight.

    Attributes:
        weight: a function from a width to a positive number, such as ``lambda width: 1 / width``.
        thin_first: whether a width begins when the thinner ones have all that they get.
    """

    weight: Callable[[float], float]
    thin_first: bool = False

    def weights(self, seconds: Mapping[float, float | None]) -> Mapping[float, float]:
        """``weight`` at each width.

        Raises:
            InputError: one is not positive and finite.
        """
        found = {width: float(self.weight(width)) for width in seconds}
        refuse_unless(
            *((0 < x < math.inf, f"a positive weight at width {w:g}", x, "mend the function") for w, x in found.items())
        )
        return found


@dataclass(frozen=True)
class ByCost:
    """As many seconds of training at each width, thin widths first: wide trials are few, and chosen last.

    A sampler that learns across widths (``WidthSampler``) then knows every thin trial when the wide ones begin.
    Seconds are those measured in this search; before a width has any they are taken to grow as the measured ones do,
    or in proportion to width.
    """

    thin_first: bool = True

    def weights(self, seconds: Mapping[float, float | None]) -> Mapping[float, float]:
        """One over the seconds of a training."""
        known = {width: value for width, value in seconds.items() if value}
        u, cost = np.log(list(known) or [1.0]), np.log(list(known.values()) or [1.0])
        growth = float(np.polyfit(u, cost, 1)[0]) if len(known) > 1 else 1.0
        level = float(np.mean(cost - growth * u))
        return {w: 1 / (known.get(w) or math.exp(level + growth * math.log(w))) for w in seconds}


def apportion(total: int, weights: Mapping[float, float]) -> dict[float, int]:
    """``total`` shared out in proportion to weights, by largest remainders; each gets ``LEAST`` if that is possible.

    The counts add up to ``total``.
    """
    least = min(LEAST, total // len(weights))
    rest, scale = total - least * len(weights), sum(weights.values())
    exact = {key: max(0.0, total * weight / scale - least) for key, weight in weights.items()}
    over = sum(exact.values())
    shares = {key: rest * value / over if over else rest / len(weights) for key, value in exact.items()}
    counts = {key: least + int(share) for key, share in shares.items()}
    by_remainder = sorted(shares, key=lambda key: -(shares[key] - int(shares[key])))
    for key in by_remainder[: total - sum(counts.values())]:
        counts[key] += 1
    return counts
