"""The belief that a report draws, and what it says of it in words and numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from pandas import DataFrame

from robsearch.laws import Optimum, Point
from robsearch.laws.belief import Belief, believe
from robsearch.wording import counted

from .answer import between, swatch
from .crest import interval_name
from .evidence import Evidence, LeftOutError
from .markup import ABSENT, Html, row, table
from .numerals import plain

LEAST = 3
"""Trials beyond each width's own height, and different lambdas: with fewer only the prior would speak of a peak."""
BETWEEN = 24
"""Widths between those searched at which the surface is drawn."""
STRIP = 0.022
"""Half a searched width's strip, as a share of the axis."""


@dataclass(frozen=True)
class Picture:
    """The belief after the finished trials, and the places at which it is drawn."""

    evidence: Evidence
    trials: DataFrame
    belief: Belief

    @classmethod
    def of(cls, evidence: Evidence) -> Picture:
        """From the trials of positive lambda that the law is fitted from, as the sampler would believe them."""
        trials = evidence.fitted[evidence.fitted["lam"] > 0]
        widths = trials["width"].nunique()
        if len(trials) < widths + LEAST or trials["lam"].nunique() < LEAST:
            found = f"{counted(len(trials), 'finished trial')} at {counted(widths, 'width')}"
            raise LeftOutError(f"{found}, and it takes {max(widths, 1) + LEAST}, of {LEAST} different λ")
        points = [Point(*place) for place in zip(trials["width"], trials["lam"], trials["value"], strict=True)]
        return cls(evidence, trials, believe(points, (trials["lam"].min(), trials["lam"].max())))

    @property
    def widths(self) -> list[float]:
        """Those with finished trials, thin to wide."""
        return sorted(self.trials["width"].unique())

    @cached_property
    def lams(self) -> np.ndarray:
        """(81,), over the range tried."""
        return np.geomspace(*self.belief.span, 81)

    @property
    def margin(self) -> float:
        """Half a strip, as a factor of width."""
        return math.pow(self.widths[-1] / self.widths[0], STRIP)

    @cached_property
    def between(self) -> list[float]:
        """Widths that were not searched, up to the strips of those that were."""
        each = max(BETWEEN // (len(self.widths) - 1), 3)
        gaps = [(low * self.margin, high / self.margin) for low, high in pairwise(self.widths)]
        return [float(width) for gap in gaps for width in np.geomspace(*gap, each)]

    def crest(self, widths: Sequence[float]) -> np.ndarray:
        """Lambda* and the ends of its interval (3, widths)."""
        found = [self.belief.optimum(width) for width in widths]
        return np.array([(each.lam, each.low, each.high) for each in found], dtype=float).T

    @cached_property
    def optima(self) -> dict[float, Optimum]:
        """Lambda* of each width with trials."""
        return {width: self.belief.optimum(width) for width in self.widths}

    def fall(self, width: float) -> np.ndarray:
        """Points below the best lambda's, at each of ``lams``."""
        mean, _ = self.belief.value(width, self.lams)
        return np.asarray(100 * (mean.max() - mean))

    @property
    def noise(self) -> float:
        """Standard deviation of two trainings' values at one lambda and width, in points."""
        believed = self.belief.weights @ self.belief.shapes[:, 2] ** 2
        return 100 * self.belief.trials.unit * math.sqrt(float(believed))


def assumed(picture: Picture) -> str:
    """The model in words."""
    several = len(picture.widths) > 1
    moves = " moves as a power of width, from which each width may deviate as far as its trials ask for, and"
    return (
        f"A belief fitted to {picture.evidence.fitted_words}, whichever sampler chose them (WidthSampler acts on one "
        "like it, which also knows pruned trials and those from elsewhere). It "
        f"assumes that {'at each width ' if several else ''}validation robust accuracy has one peak over log λ, which"
        f"{moves if several else ''} has a height of its own. Trials far below the best of their width count less, and "
        "whatever else was searched is noise: one training differs from the mean of its width and λ by about "
        f"{picture.noise:.1f} points (standard deviation, estimated)."
    )


def caption(picture: Picture) -> str:
    """How to read the panels, and where to look for disagreement."""
    sample = picture.evidence.sample(picture.trials, "finished trial")
    counts = f"{sample}; {picture.evidence.examples('validation')}."
    curve = (
        "the believed mean of robust accuracy with its 95 % band, and the trials: near the peak, those that stray from "
        "the band by much more than the noise disagree."
    )
    if len(picture.widths) == 1:
        return f"Only one width has finished trials, so there is a curve instead of a surface: {curve} {counts}"
    return (
        "Above: points lost against the best λ of the same width. Strips are the widths searched; between them is what "
        "a width not searched is expected to do. Each mark is tinted by its own score (its seeds' mean): one of "
        "another tint than its ground disagrees. Beside each strip: λ* there and its 95 % interval. Below, all on "
        f"one scale: {curve} {counts}"
    )


def optima_table(picture: Picture) -> Html:
    """Lambda* of each width: of the belief, and of the answer."""
    answers = picture.evidence.search.ridge
    head = ["Width", "λ*, belief", "95 % interval", "λ*, answer", interval_name(picture.evidence)]
    rows = []
    for width, found in picture.optima.items():
        place = list(picture.evidence.widths).index(width)
        rows.append(row(swatch(place, plain(width)), [*optimum_cells(found), *optimum_cells(answers.optimum(width))]))
    low, high = (plain(end) for end in picture.belief.span)
    told = f"λ* as believed, where λ was tried ({low} to {high}), and as in the answer above, which may extrapolate."
    return table(told, head, [rows])


def optimum_cells(found: Optimum) -> list[str]:
    """Lambda* and its interval."""
    return [ABSENT if found.lam is None else plain(found.lam), between(found.low, found.high)]
