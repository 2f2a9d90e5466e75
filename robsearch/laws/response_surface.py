"""The response surface: lambda*(width) estimated from all trials, with intervals.

Lambda* at a width is where the mean of all trials of all widths together is highest there
(``laws.posterior``). How sure that is, and whether it moves with width, is told by curves of each
width's own (``laws.curves``), a cubic and an asymmetric parabola: what widths share may invent a
trend where curves are skewed. An exponent is shown only where it is by both families. The question
is that of arXiv 2010.01279.

Intervals: where all widths share their seeds, the jackknife that leaves out one seed at a time,
with Student's t of as many seeds less one; elsewhere the wild bootstrap over trials. What a law
says of a width that was not searched also counts how far widths scatter about it (Hartung and Knapp
2001, Stat. Med. 20).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from robsearch.drawing.formatting import names_of
from robsearch.drawing.notebook import paragraph, table
from robsearch.errors import counted, refuse_unless, refused
from robsearch.laws.curves import (
    FAMILIES,
    LEAST,
    Peaks,
    asymmetric,
    cells_of,
    collapsed,
    cubic,
    peaks_of,
)
from robsearch.laws.families import PowerLaw
from robsearch.laws.peak_line import PeakLine
from robsearch.laws.points import (
    Array,
    Number,
    Optimum,
    Point,
    TrialColumns,
    bounded_exp,
    columns_of,
    log_width,
    positive,
)
from robsearch.laws.posterior import LEAST as LEAST_SHARED, Posterior, fit_posterior
from robsearch.laws.regret import RegretMap, regret_map
from robsearch.laws.shape_test import ShapeTest, shape_test
from robsearch.laws.width_curve import MOST_MORE, WidthCurve

MOST_OF = 3
"""Widths that must place lambda* for a law where others have curves that do not."""
MATTERS_SLOPE = 0.05
"""A difference between exponents that is worth a word."""
SHARED_SEEDS = 3
"""Seeds that all widths must share for the jackknife: with two, Student's t is 12.7."""


@dataclass(frozen=True, eq=False)
class ResponseSurface:
    """What trials say of lambda*(width), with intervals at ``confidence``. Made by ``fit_ridge``.

    Attributes:
        points: the trials.
        curves: of the widths, thin to wide.
        posterior: what all of them together say of each width; None with too few.
        shape: whether curves of one shape would fit all widths; None where the trials are too few
            to say.
        refusal: why there is no answer at all, in words, or empty.
        group: says in words what the trials have in common, where ``others`` were left out.
        covariates: other parameters whose effects were taken out of the values.
    """

    points: tuple[Point, ...] = field(repr=False)
    confidence: float
    curves: tuple[WidthCurve, ...]
    posterior: Posterior | None = field(default=None, repr=False)
    shape: ShapeTest | None = None
    refusal: str = ""
    group: str = ""
    others: int = 0
    covariates: tuple[str, ...] = ()
    _line: PeakLine | None = field(default=None, repr=False)

    @property
    def n(self) -> int:
        """How many trials."""
        return len(self.points)

    @cached_property
    def regret(self) -> RegretMap | None:
        """What the lambda* of each width loses at the others, also where there is no law; None with
        too few trials."""
        widths = [curve.width for curve in self.curves]
        lams = {width: self.optimum(width).lam for width in widths}
        return regret_map(self.points, lams, self.posterior, self.confidence)

    @property
    def problem(self) -> str | None:
        """None, or why lambda* is determined at no width, in words."""
        if self.refusal:
            return self.refusal
        if not self.curves:
            return "there are no trials"
        if any(curve.problem is None for curve in self.curves):
            return None
        reasons = {str(curve.problem) for curve in self.curves}
        if len(reasons) == 1:
            where = "at each width " if len(self.curves) > 1 else ""
            return where + reasons.pop()
        return "; ".join(f"at width {self._name_of(c.width)} {c.problem}" for c in self.curves)

    @property
    def law(self) -> PowerLaw | None:
        """Lambda* over width; None where fewer than two widths place it inside the range searched,
        or fewer than three while the curves of others do not place it."""
        if self.refusal or self._line is None:
            return None
        return PowerLaw(bounded_exp(self._line.intercept), self._line.slope)

    @property
    def slope(self) -> float | None:
        """The law's exponent, midway between the families; None without a law."""
        return float(self.law.exponent) if self.law else None

    @property
    def slope_interval(self) -> tuple[float, float] | None:
        """It holds both families' intervals; None without a law."""
        if self.law is None or self._line is None:
            return None
        intervals = self._line.intervals
        return min(low for low, _ in intervals), max(high for _, high in intervals)

    @property
    def slopes(self) -> dict[str, tuple[float, float, float]]:
        """Of each family the exponent and its interval (low, high); empty without a law."""
        if self.law is None or self._line is None:
            return {}
        families = zip(FAMILIES, self._line.slopes, self._line.intervals, strict=True)
        return {family: (slope, *interval) for family, slope, interval in families}

    @property
    def pseudo_slopes(self) -> dict[str, tuple[float, ...]]:
        """Of each family the jackknife's pseudo-values of the exponent, one per seed; empty where
        the widths share no seeds.

        Their mean is the exponent, less the jackknife's estimate of its bias.
        """
        if self.law is None or self._line is None:
            return {}
        return dict(zip(FAMILIES, self._line.pseudo_slopes, strict=False))

    def optimum(self, width: Number) -> Optimum:
        """Lambda* at ``width``, searched or not. Raises InputError unless ``width`` is positive."""
        refuse_unless(positive("width", width))
        if self.refusal:
            return Optimum(float(width), None, None, None, self.refusal)
        for curve in self.curves:
            if curve.width == width:
                return self._searched(curve)
        if self._line is None:
            return Optimum(float(width), None, None, None, self.problem or self._not_searched())
        return self._predicted(width)

    def by_law(self, width: Number) -> Optimum | None:
        """Lambda* at ``width`` by the law alone, also where it was searched; None without a law.

        The interval is that of one more width, which counts how far widths scatter about the law;
        two widths do not say that, and the interval is None. Raises InputError unless ``width`` is
        positive.
        """
        refuse_unless(positive("width", width))
        return self._predicted(width) if self.law else None

    def near_best(self, width: Number, tolerance: Number = 0.005) -> tuple[float, float] | None:
        """The lambdas (lowest, highest) within ``tolerance``, a rate, of the best lambda searched,
        by the mean of all trials together.

        Read off 1,001 lambdas, even in log; an end equal to the searched range's is clipped there.
        None without a curve there. Raises InputError unless both numbers are positive.
        """
        refuse_unless(positive("width", width), positive("tolerance", tolerance))
        curve = self._curve(width)
        if curve is None or self.posterior is None:
            return None
        lams = np.geomspace(*curve.searched, 1001)
        mean = self.posterior.means(width, lams)
        near = lams[mean >= mean.max() - tolerance]
        return float(near[0]), float(near[-1])

    def fitted_range(self, width: Number) -> tuple[float, float] | None:
        """The lambdas from which to which the curve of a width was fitted; None without one."""
        curve = self._curve(width)
        return None if curve is None else (math.exp(curve.cells.u[0]), math.exp(curve.cells.u[-1]))

    def curve(self, width: Number, lams: Sequence[Number] | Array) -> Array:
        """Fitted robust accuracy (n,) at ``lams`` (n,), for the mean seed of a searched width.

        Beyond ``fitted_range`` it is NaN. Raises InputError at a width without a curve.
        """
        curve = self._curve(width)
        if curve is None:
            with_curves = [f"{curve.width:g}" for curve in self.curves if curve.peaks]
            fitted = ", ".join(with_curves) or f"none: {self.problem}"
            raise refused(f"a width with a fitted curve ({fitted})", width, "ask at one of these")
        u = np.log(np.asarray(lams, dtype=float))
        grid = curve.cells.grid
        # Rounding may put an end of the range past the end of the grid.
        inside = (u > grid[0] - 1e-9) & (u < grid[-1] + 1e-9)
        return np.where(inside, np.interp(u, grid, curve.heights), np.nan)

    def sentence(self) -> str:
        """The answer in a few sentences, for a terminal."""
        return " ".join(f"{sentence}." for sentence in self._sentences())

    def _repr_html_(self) -> str:
        """What a notebook shows: the answer, and lambda* at each width."""
        optima = [self.optimum(curve.width) for curve in self.curves]
        rows = [
            [self._name_of(optimum.width), optimum.estimate, optimum.censored or ""]
            for optimum in optima
        ]
        heads = ["width", f"lambda* [{100 * self.confidence:g} %]", ""]
        return paragraph(self.sentence(), "Law") + table(heads, rows)

    def _sentences(self) -> list[str]:
        if self.problem:
            return [f"lambda* is not determined {self._sample()}: {self.problem}"]
        placed = [curve for curve in self.curves if curve.problem is None]
        said = self._without_law(placed) if self.law is None else [self._law_in_words()]
        sides = [curve for curve in placed if curve.side]
        for side in ("lowest", "highest"):
            names = [self._name_of(curve.width) for curve in sides if curve.side == side]
            if names:
                where = f"the {side} lambda searched or {'below' if side == 'lowest' else 'above'}"
                said.append(f"At width {', '.join(names)} it lies at {where}: search further there")
        for curve in self.curves:
            if curve.problem is not None:
                said.append(f"At width {self._name_of(curve.width)}: {curve.problem}")
        if not said[0].startswith("lambda*"):
            said.insert(0, f"lambda* lies at an end of the lambdas searched {self._sample()}")
        said += self._law_of_the_shown()
        if self.shape is not None and len(self.curves) > 1:
            said.append(self.shape.sentence())
        return said + self._more_trials()

    def _law_in_words(self) -> str:
        assert self.law is not None, "asked without a law"
        assert self.slope_interval is not None, "a law has an interval"
        low, high = self.slope_interval
        law = f"lambda* = {self.law.base:.3g} * width^{self.slope:.2f}, exponent {self.slope:.2f}"
        trend = ": no trend with width is shown" if low <= 0 <= high else ""
        return f"{law} [{low:.2f}, {high:.2f}]{trend} {self._sample()}"

    def _law_of_the_shown(self) -> list[str]:
        """What to say where the line through the lambda* that are shown has another exponent."""
        interval = self.slope_interval
        if interval is None or self._line is None:
            return []
        shown = self._line.slope_of_optima
        if interval[0] - MATTERS_SLOPE <= shown <= interval[1] + MATTERS_SLOPE:
            return []
        origin = "The exponent is that of the widths' own curves"
        return [f"{origin}; that of the lambda* of all trials together is {shown:.2f}"]

    def _without_law(self, placed: Sequence[WidthCurve]) -> list[str]:
        """Lambda* of the widths that place it inside the lambdas searched, as there is no law."""
        optima = [self._searched(curve) for curve in placed if not curve.side]
        if not optima:
            return []
        texts = [
            f"{best.lam:.3g} [{best.low:.3g}, {best.high:.3g}] at width {self._name_of(best.width)}"
            for best in optima
        ]
        rest = "; the other widths do not place it, so there is no law"
        if len(self.curves) == 1:
            rest = ", the only one with trials to fit"
        elif len(optima) == 1:
            rest = ", which alone places it"
        return [f"lambda* = {', '.join(texts)}{rest} {self._sample()}"]

    def _more_trials(self) -> list[str]:
        """How many more trials would show an exponent of this size, and where; nothing where it is
        shown, or cannot be."""
        interval = self.slope_interval
        if interval is None or self._line is None or not interval[0] <= 0 <= interval[1]:
            return []
        slope = abs(self._line.slope)
        margin = (interval[1] - interval[0]) / 2
        most = MOST_MORE * self.n
        more = self.n * ((margin / slope) ** 2 - 1) if slope > 0 else math.inf
        if not 0 < more <= most:
            return []
        where = self._name_of(self._line.noisiest)
        trials = counted(math.ceil(more), "more trial")
        return [f"About {trials}, first at width {where}, would show an exponent of this size"]

    def _searched(self, curve: WidthCurve) -> Optimum:
        if curve.problem is not None:
            return Optimum(curve.width, None, None, None, curve.problem)
        start, end = curve.cells.edges
        low, high = (bounded_exp(min(max(u, start), end)) for u in curve.ends)
        censored = None
        if curve.side:
            where = "at or below" if curve.side == "lowest" else "at or above"
            limit = f"{where} the {curve.side} lambda searched"
            name = self._name_of(curve.width)
            censored = f"lambda* at width {name} lies {limit}, {bounded_exp(curve.log_lam):.3g}"
        return Optimum(curve.width, bounded_exp(curve.log_lam), low, high, censored)

    def _predicted(self, width: Number) -> Optimum:
        assert self._line is not None, "asked without a law"
        predicted = self._line.predict(log_width(width), self.confidence)
        low = None if predicted.low is None else bounded_exp(predicted.low)
        high = None if predicted.high is None else bounded_exp(predicted.high)
        return Optimum(float(width), bounded_exp(predicted.log_lam), low, high, None)

    def _curve(self, width: Number) -> WidthCurve | None:
        if self.refusal:
            return None
        return next((c for c in self.curves if c.width == width and c.peaks), None)

    def _sample(self) -> str:
        trials = counted(self.n, "trial")
        widths = counted(len(self.curves), "width")
        sample = f"{100 * self.confidence:g} %, n={trials} at {widths}"
        if self.group:
            sample += f" with {self.group}"
            if self.others:
                sample += f", leaving out {self.others} with other choices"
        if self.covariates and not self.refusal:
            sample += f", less the effects of {', '.join(self.covariates)}"
        return f"({sample})"

    def _not_searched(self) -> str:
        """Why the law cannot answer for a width that was not searched."""
        placed = [self._name_of(c.width) for c in self.curves if c.problem is None and not c.side]
        if len(self.curves) == 1:
            return f"only width {self._name_of(self.curves[0].width)} has trials to fit"
        if len(placed) > 1:
            return "fewer than three widths place it, and others do not"
        only = f"only width {placed[0]} places it" if placed else "no width places it"
        return f"{only} inside the lambdas searched"

    def _name_of(self, width: Number) -> str:
        """A width in words, apart from the others."""
        searched = [curve.width for curve in self.curves]
        return names_of([width, *searched])[width]


def fit_ridge(points: Sequence[Point], *, confidence: float = 0.95) -> ResponseSurface:
    """Curves of each width, and the law through their peaks.

    Too little data raises nothing: it is the surface's ``problem``. Raises InputError for widths or
    lambdas not finite and positive, values outside [0, 1], or a confidence outside (0, 1).
    """
    expected = "a confidence between 0 and 1"
    refuse_unless((0 < confidence < 1, expected, confidence, "pass one such as 0.95"))
    columns_of(points)  # refuses what is malformed
    # Of equal ones the first decides, so the order in which trials ended must not matter.
    points = sorted(points)
    trials = columns_of(points)
    seeds = np.array([point.seed for point in points])
    shared = shared_seeds(trials, seeds)
    posterior = posterior_of(points, trials)
    curves = []
    for number, width in enumerate(trials.widths):
        here = trials.width == width
        u = np.log(trials.lam[here])
        cells = cells_of(u, trials.value[here], seeds[here], jackknife=shared > 0)
        searched = float(trials.lam[here].min()), float(trials.lam[here].max())
        peaks: tuple[Peaks, ...] = ()
        shared_peak = math.nan
        if len(cells.u) >= LEAST and posterior is not None:
            families = (cubic, asymmetric)
            peaks = tuple(peaks_of(cells, family, not shared, number) for family in families)
            # Other widths may have been searched further.
            shared_peak = float(np.clip(math.log(posterior.peak(width)), *cells.edges))
        curve = WidthCurve(width, searched, cells, peaks, shared, confidence, shared_peak)
        curves.append(curve)
    inside = [curve for curve in curves if curve.peaks and not curve.side]
    placed = [curve for curve in inside if curve.problem is None]
    enough = len(placed) >= MOST_OF or len(placed) == len(inside) > 1
    # A width that does not place its peak counts for little, by its variance, but it counts.
    line = PeakLine.through(inside, confidence) if enough else None
    return ResponseSurface(
        tuple(points),
        confidence,
        tuple(curves),
        posterior,
        tested(points, trials, curves),
        _line=line,
    )


def posterior_of(points: Sequence[Point], trials: TrialColumns) -> Posterior | None:
    """What all trials that have not collapsed say together; None where they are too few."""
    alive = np.ones(len(points), dtype=bool)
    for width in trials.widths:
        here = trials.width == width
        alive[here] = ~collapsed(trials.value[here])
    kept = list(itertools.compress(points, alive))
    lams = {point.lam for point in kept}
    if len(kept) < len(trials.widths) + LEAST_SHARED or len(lams) < LEAST_SHARED:
        return None
    return fit_posterior(kept, (min(lams), max(lams)))


def shared_seeds(trials: TrialColumns, seeds: Array) -> int:
    """How many seeds there are, if all widths have the same ones, each at several lambdas, and they
    are enough for the jackknife; else 0."""
    names = set(seeds.tolist())
    for width in trials.widths:
        here = trials.width == width
        for seed in names:
            if len(set(trials.lam[here & (seeds == seed)])) < LEAST:
                return 0
    return len(names) if len(names) >= SHARED_SEEDS else 0


def tested(
    points: Sequence[Point],
    trials: TrialColumns,
    curves: Sequence[WidthCurve],
) -> ShapeTest | None:
    """The test of one shape, on the trainings that bend the curves."""
    fitted = [curve for curve in curves if curve.peaks]
    if not fitted:
        return None
    kept = np.zeros(len(points), dtype=bool)
    for curve in fitted:
        kept[np.flatnonzero(trials.width == curve.width)[curve.cells.kept]] = True
    bending = columns_of(list(itertools.compress(points, kept)))
    return shape_test(bending, [curve.cells for curve in fitted])
