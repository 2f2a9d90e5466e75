"""The regret map: what the lambda* of one width loses at another.

It is what a lab decides by: an exponent may be uncertain while every lambda that it allows is as
good as any other, and the reverse. The losses are read off the surface that all trials together
give (``laws.posterior``), which also knows what happens far from a peak.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from robsearch.laws.points import Number, Point, quantile
from robsearch.laws.posterior import LEAST, Posterior


class Loss(NamedTuple):
    """Robust accuracy lost, a rate, with its interval; below 0 is a gain."""

    lost: float
    low: float
    high: float


class RegretMap(NamedTuple):
    """What is lost at each width by the lambda* of each other one, against that of its own.

    Attributes:
        widths: thin to wide.
        lams: of each width lambda*, or, where its trials do not place it, the lambda of the highest
            mean.
        placed: whether it is lambda*.
        losses: by width at which it is lost, and width whose lambda* it is.
    """

    widths: tuple[float, ...]
    lams: tuple[float, ...]
    placed: tuple[bool, ...]
    losses: dict[tuple[float, float], Loss]

    def at(self, width: Number, other: Number) -> Loss:
        """What the lambda* of ``other`` loses at ``width``; KeyError for widths not in the map."""
        return self.losses[float(width), float(other)]


def regret_map(
    points: Sequence[Point],
    optima: Mapping[float, float | None],
    posterior: Posterior | None,
    confidence: float,
) -> RegretMap | None:
    """The map of these trials; None where they are too few.

    Each loss is a difference of two means of the posterior at one width, its interval that of
    Student's t with a degree of freedom for each trial but one per width and three for the curve.
    Both lambdas are taken as they are, so that the loss at a width's own lambda* is 0.

    Args:
        points: the trials.
        optima: lambda* of each of their widths, None where it is not placed.
        posterior: what they say together; None where they are too few.
        confidence: of the intervals.
    """
    widths = sorted(optima)
    spare = len(points) - len(widths) - LEAST
    if posterior is None or spare < 1:
        return None
    best = {}
    for width in widths:
        lam = optima[width]
        best[width] = posterior.peak(width) if lam is None else lam
    t = quantile(spare, confidence)
    losses = {}
    for width in widths:
        mean, joint = posterior.moments(width, list(best.values()))
        at = widths.index(width)
        for number, other in enumerate(widths):
            lost = float(mean[at] - mean[number])
            variance = joint[at, at] + joint[number, number] - 2 * joint[at, number]
            margin = t * math.sqrt(max(float(variance), 0.0))
            losses[width, other] = Loss(lost, lost - margin, lost + margin)
    placed = tuple(optima[width] is not None for width in widths)
    return RegretMap(tuple(widths), tuple(best.values()), placed, losses)
