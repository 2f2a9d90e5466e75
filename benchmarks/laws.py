"""How often the law over width says what is so: studies of planted worlds, and what a law of one
curvature says of the same ones.

**Studies** are grids: five widths from 16 to 256, eleven lambdas from 0.5 to 64, every lambda with
every seed. At each width robust accuracy falls with the square of the distance of log lambda from a
planted lambda*, and lambda* = 4 (width / 64)^slope:

- ``symmetric``: 0.9 points per squared log on both sides, at every width;
- ``skewed``: thin nets fall steeply at high lambda and wide ones at low, as the recorded ones do
  (0.8 below and 2.0 above at width 16, 2.0 below and 0.65 above at width 256);
- ``collapsing``: the same, and above lambda 10 trainings of the three thinnest nets end at 10 %,
  with a probability that rises to 0.8.

A training's standard deviation is 1.8 points at width 16 and 0.7 at width 256, that of a seed at
one width 0.7. **Launches** have three widths with ten or twenty trials each, every one with a seed
of its own; half of the lambdas lie anywhere in the range and half near lambda*. Launches
``beside`` have their widest net searched only above its lambda*.

Printed for each world: of both families the mean exponent and how often its interval holds the
slope; how often the answer's interval does; how often the exponent is called positive
(``supported``); the mean exponent of one parabola with a common curvature (``TrialColumns.fit``)
and how often it is above 0 by 1.96 standard errors; how often the shape test speaks; of launches
how often the regret map's interval holds what the thinnest net's lambda* truly loses at the widest
(and the reverse), with the mean half-width in points.

The last line, ``laws: ratio=``, is the highest share of studies and launches of slope 0 that are
called positive; the goal is 0.075. A line before it gives the lowest power at slope 0.4 with ten
seeds; its goal is 0.7.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from robsearch.laws import Point, fit_ridge
from robsearch.laws.points import columns_of

WIDTHS = np.array([16.0, 32.0, 64.0, 128.0, 256.0])
LAMS = np.geomspace(0.5, 64, 11)
SHAPES = ("symmetric", "skewed", "collapsing")
SLOPES = (0.0, 0.25, 0.4)
SEEDS = (3, 5, 10)
LAUNCHED = (10, 20)
KINDS = ("study", "launch", "beside")
GOAL, POWER = 0.075, 0.7
COLLAPSED = 0.1


class World(NamedTuple):
    """How robust accuracy answers to lambda and width."""

    shape: str
    slope: float

    def share(self, width: float) -> float:
        """Where a width lies from the thinnest, 0, to the widest, 1."""
        return float(np.log(width / WIDTHS[0]) / np.log(WIDTHS[-1] / WIDTHS[0]))

    def peak(self, width: float) -> float:
        """Log lambda*."""
        return float(np.log(4) + self.slope * np.log(width / 64))

    def value(self, width: float, u: np.ndarray) -> np.ndarray:
        """Expected robust accuracy at log lambdas."""
        share = self.share(width)
        below, above = 0.009, 0.009
        if self.shape != "symmetric":
            below, above = 0.008 + 0.012 * share, 0.020 - 0.0135 * share
        distance = u - self.peak(width)
        # Neither family has this shape: the curvature changes over a stretch of log lambda.
        curvature = below + (above - below) / (1 + np.exp(-distance / 0.4))
        return np.asarray(0.6 + 0.12 * share - curvature * distance**2)

    def noise(self, width: float) -> float:
        return 0.018 - 0.011 * self.share(width)

    def collapse(self, width: float, u: np.ndarray) -> np.ndarray:
        """The probability that a training ends at chance."""
        if self.shape != "collapsing":
            return np.zeros_like(u)
        most = {16.0: 0.8, 32.0: 0.5, 64.0: 0.2}.get(width, 0.0)
        rises = (u - np.log(10)) / (np.log(64) - np.log(10))
        return np.asarray(most * np.clip(rises, 0, 1))

    def trainings(self, width: float, u: np.ndarray, random: np.random.Generator) -> np.ndarray:
        values = self.value(width, u) + self.noise(width) * random.standard_normal(len(u))
        gone = random.random(len(u)) < self.collapse(width, u)
        return np.clip(np.where(gone, COLLAPSED, values), 0, 1)


def study(world: World, seeds: int, random: np.random.Generator) -> list[Point]:
    """Every lambda with every seed at every width."""
    points = []
    u = np.log(LAMS)
    for width in WIDTHS:
        for seed in range(seeds):
            values = world.trainings(width, u, random) + 0.007 * random.standard_normal()
            points += map(Point, [width] * len(u), LAMS, np.clip(values, 0, 1), [seed] * len(u))
    return points


def launch(
    world: World, trials: int, random: np.random.Generator, beside: bool = False
) -> list[Point]:
    """Trials as a search has them: few, at lambdas of their own, without seeds in common.

    ``beside``: the widest net is searched only from 1.3 times its lambda* up.
    """
    points = []
    for width in WIDTHS[::2]:
        low, high = np.log(LAMS[[0, -1]])
        if beside and width == WIDTHS[-1]:
            low = world.peak(width) + np.log(1.3)
        anywhere = random.uniform(low, high, trials - trials // 2)
        near = world.peak(width) + 0.7 * random.standard_normal(trials // 2)
        u = np.clip(np.append(anywhere, near), low, high)
        values = world.trainings(width, u, random) + 0.007 * random.standard_normal(len(u))
        # A search leaves out the nets that collapsed.
        alive = values > 2 * COLLAPSED
        points += map(Point, [width] * int(alive.sum()), np.exp(u[alive]), values[alive])
    return points


class Judged(NamedTuple):
    """What one study said. NaN where it said nothing."""

    cubic: float
    cubic_covers: float
    asymmetric: float
    asymmetric_covers: float
    covers: float
    supported: float
    one_shape: float
    one_shape_supported: float
    speaks: float
    regret_covers: float
    regret_width: float


def judged(world: World, points: Sequence[Point]) -> Judged:
    surface = fit_ridge(points)
    nan = float("nan")
    families = [nan, nan, nan, nan]
    covers, supported = nan, 0.0
    if surface.law is not None and surface.slope_interval is not None:
        families = []
        for slope, low, high in surface.slopes.values():
            families += [slope, float(low <= world.slope <= high)]
        low, high = surface.slope_interval
        covers, supported = float(low <= world.slope <= high), float(low > 0)
    common, error = one_curvature(points)
    speaks = nan if surface.shape is None else float(not surface.shape.one_shape_fits)
    regret = regret_of(world, points) if len({p.seed for p in points}) == 1 else (nan, nan)
    return Judged(
        *families, covers, supported, common, float(common > 1.96 * error), speaks, *regret
    )


def regret_of(world: World, points: Sequence[Point]) -> tuple[float, float]:
    """Of what the thinnest net's lambda* loses at the widest and the reverse: how often the
    interval holds it, and the mean half-width in points."""
    found = fit_ridge(points).regret
    if found is None:
        return float("nan"), float("nan")
    held, half = [], []
    lams = dict(zip(found.widths, np.log(found.lams), strict=True))
    thin, wide = found.widths[0], found.widths[-1]
    for width, other in ((thin, wide), (wide, thin)):
        own, reused = world.value(width, np.array([lams[width], lams[other]]))
        loss = found.at(width, other)
        held.append(loss.low <= own - reused <= loss.high)
        half.append(100 * (loss.high - loss.low) / 2)
    return float(np.mean(held)), float(np.mean(half))


def one_curvature(points: Sequence[Point]) -> tuple[float, float]:
    """The exponent of one parabola with a common curvature, and its standard error by the delta
    method."""
    alive = [point for point in points if point.value > 2 * COLLAPSED]
    fit = columns_of(alive).fit()
    if isinstance(fit, str):
        return float("nan"), float("nan")
    c, _, d = fit.beta
    gradient = np.array([d / (2 * c**2), 0.0, -1 / (2 * c)])
    return float(-d / (2 * c)), float(np.sqrt(gradient @ fit.covariance @ gradient))


def job(cell: tuple[str, float, str, int], repetition: int) -> Judged:
    shape, slope, kind, size = cell
    world = World(shape, slope)
    # Every cell and repetition has numbers of its own, whatever else is run.
    entropy = [SHAPES.index(shape), round(100 * slope), KINDS.index(kind), size]
    random = np.random.default_rng([*entropy, repetition])
    if kind == "study":
        return judged(world, study(world, size, random))
    return judged(world, launch(world, size, random, beside=kind == "beside"))


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--quick", action="store_true", help="a few studies of six worlds")
    options.add_argument("--repetitions", type=int, default=400, help="studies of each world")
    options.add_argument("--workers", type=int, default=1)
    asked = options.parse_args()
    kinds = [("study", size) for size in SEEDS] + [("launch", size) for size in LAUNCHED]
    cells = [(*world, *kind) for kind in kinds for world in itertools.product(SHAPES, SLOPES)]
    cells += [(shape, 0.0, "beside", size) for shape in SHAPES for size in LAUNCHED]
    repetitions = asked.repetitions
    if asked.quick:
        cells = [(shape, slope, "study", 10) for shape in SHAPES for slope in (0.0, 0.4)]
        repetitions = 20
    false, power = [], []
    print(
        "world, kind: cubic (covers), asymmetric (covers), answer covers, supported; "
        "one curvature, supported; shape test speaks; regret covers, half-width (-1: not asked)"
    )
    with multiprocessing.get_context("fork").Pool(asked.workers) as pool:
        for cell in cells:
            told = pool.map(partial(job, cell), range(repetitions), chunksize=5)
            table = np.array(told)
            table[:, np.isnan(table).all(axis=0)] = -1  # a study has no regret map
            mean = Judged(*np.nanmean(table, axis=0))
            shape, slope, kind, size = cell
            print(
                f"{shape} {slope:g}, {kind} of {size}: "
                f"{mean.cubic:+.3f} ({mean.cubic_covers:.2f}), "
                f"{mean.asymmetric:+.3f} ({mean.asymmetric_covers:.2f}), {mean.covers:.3f}, "
                f"{mean.supported:.3f}; {mean.one_shape:+.3f}, {mean.one_shape_supported:.3f}; "
                f"{mean.speaks:.3f}; {mean.regret_covers:.2f}, {mean.regret_width:.2f}",
                flush=True,
            )
            if slope == 0:
                false.append(mean.supported)
            if (slope, kind, size) == (0.4, "study", 10):
                power.append(mean.supported)
    print(f"lowest power at slope 0.4 with ten seeds: {min(power):.3f} (goal at least {POWER:g})")
    print(f"laws: ratio={max(false):.3f} goal={GOAL:g} n={repetitions}")


if __name__ == "__main__":
    main()
