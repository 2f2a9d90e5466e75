"""What borrowing across widths saves: ``WidthSampler`` against random, TPE and GP per width, and a
grid.

Widths are searched one after the other, thin to wide, 10 trials at each and 16 at the widest, two
at a time (a trial is told when the next but one is asked for). Every method gets the same surface
and noise in one repetition. The surfaces:

- ``recorded``: the real trainings of ``benchmarks/data`` (``record_surfaces.py``). The true value
  is the mean over seeds, smoothed by a cubic in log lambda at each width: the mean of a few seeds
  has peaks of its own. A trial gives the true value and one recorded residual, that of a random
  seed at the nearest lambda.
- ``planted``: the heights, mean curvature and residual noise of a recording, and a crest that
  follows a law: lambda* = 3.5 (width / thinnest)^exponent with exponent 0.25 or 0.5, or no law
  (uniform in the middle 70 % of the range, anew at each width and in each repetition), or hardly a
  crest (``flat``: a hundredth of the curvature).

A method answers with its *best trial* (the highest value told at the widest width), or with the
*belief* (the lambda that ``robsearch.laws.posterior`` recommends from all its trials at all
widths): what comes from suggesting, and what from reading. Regret is the true value at the answer
below the true optimum. The *wide trials needed* are the finished trials at the widest width from
which on, up to the last, the regret is at most half a point; one more than all where it never
stays. Printed: mean regret in points after 1, 2, 4, 8 and 16 wide trials with the half-width of its
95 % interval, the median of the wide trials needed, and ours minus TPE, paired. Of the GP the first
20 repetitions only.

The last line, ``search: ratio=``, is the median of wide trials needed by ours over that by TPE,
both by their best trial, over all repetitions on planted laws; n counts those repetitions.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import optuna
import pandas as pd
from scipy import stats

from robsearch.laws.points import Point
from robsearch.laws.posterior import fit_posterior
from robsearch.spaces import default_sampler
from robsearch.study import Observation, WidthSampler

DATA = Path(__file__).parent / "data"
THIN, WIDE, PARALLEL, TOLERANCE = 10, 16, 2, 0.005
SHOWN = (1, 2, 4, 8, 16)
SLOW, SLOW_REPETITIONS = "GP", 20
"""This peer takes as long as all others ten times over: it gets the first repetitions only."""
LATTICE = np.linspace(0, 1, 513)
Curve = np.ndarray


@dataclass(frozen=True)
class Recording:
    """A recorded table: best-epoch robust accuracy ``value`` (widths, lams, seeds), a rate."""

    name: str
    widths: tuple[float, ...]
    lams: Curve
    value: Curve

    @property
    def span(self) -> tuple[float, float]:
        return float(self.lams[0]), float(self.lams[-1])

    @property
    def x(self) -> Curve:
        """Places of the lambdas in the range, 0 to 1."""
        return np.log(self.lams / self.lams[0]) / np.log(self.lams[-1] / self.lams[0])

    def smooth(self, width: int, degree: int) -> Curve:
        """Coefficients of the polynomial through the means over seeds."""
        return np.polyfit(self.x, self.value[width].mean(axis=1), degree)

    def residuals(self, width: int) -> Curve:
        """(lams, seeds), scaled for the degrees of freedom that the cubic took."""
        left = self.value[width] - np.polyval(self.smooth(width, 3), self.x)[:, None]
        return left * np.sqrt(left.size / (left.size - 4))

    @property
    def sds(self) -> list[float]:
        return [float(np.sqrt((self.residuals(i) ** 2).mean())) for i in range(len(self.widths))]

    @property
    def curvature(self) -> float:
        """Mean fall per squared range, a rate."""
        return float(-np.mean([self.smooth(i, 2)[0] for i in range(len(self.widths))]))


class Surface:
    """True values at each width over the places 0 to 1, and what a trial there tells."""

    def __init__(
        self,
        widths: tuple[float, ...],
        span: tuple[float, float],
        true: Callable[[int, Curve], Curve],
        error: Callable[[int, float, np.random.Generator], float],
    ) -> None:
        self.widths, self.span, self.true, self.error = widths, span, true, error
        self.optimum = float(true(len(widths) - 1, LATTICE).max())

    def trial(self, width: int, lam: float, random: np.random.Generator) -> float:
        x = self.place(lam)
        return float(self.true(width, np.array(x))) + self.error(width, x, random)

    def place(self, lam: float) -> float:
        low, high = np.log(self.span)
        return float((np.log(lam) - low) / (high - low))

    def regret(self, lam: float) -> float:
        return self.optimum - float(self.true(len(self.widths) - 1, np.array(self.place(lam))))


def recorded(table: Recording, random: np.random.Generator) -> Surface:
    fits = [table.smooth(i, 3) for i in range(len(table.widths))]
    residuals = [table.residuals(i) for i in range(len(table.widths))]

    def error(width: int, x: float, random: np.random.Generator) -> float:
        return float(random.choice(residuals[width][int(np.abs(table.x - x).argmin())]))

    return Surface(table.widths, table.span, lambda i, x: np.polyval(fits[i], x), error)


def planted(
    table: Recording, random: np.random.Generator, law: float | None, strength: float = 1.0
) -> Surface:
    low, high = np.log(table.span)
    steps = np.log(np.array(table.widths) / table.widths[0])
    crests = (
        random.uniform(0.15, 0.85, len(steps))
        if law is None
        else (np.log(3.5) + law * steps - low) / (high - low)
    )
    heights, fall, sds = table.value.mean(axis=2).max(axis=1), strength * table.curvature, table.sds
    return Surface(
        table.widths,
        table.span,
        lambda i, x: heights[i] - fall * (x - crests[i]) ** 2,
        lambda i, x, random: float(sds[i] * random.standard_normal()),
    )


def read(name: str, folder: Path) -> Recording:
    """The seeds that every width and lambda has."""
    best = (
        pd.read_parquet(folder / f"{name}.parquet")
        .groupby(["width", "lam", "seed"])["val/robust_accuracy"]
        .max()
    )
    wide = best.unstack("seed").dropna(axis=1)
    widths, lams = (tuple(map(float, wide.index.unique(level))) for level in ("width", "lam"))
    return Recording(
        name, widths, np.array(lams), wide.to_numpy(dtype=float).reshape(len(widths), len(lams), -1)
    )


# --- methods: a sampler for a study of n trials ---

Make = Callable[[int, tuple[float, float], int], optuna.samplers.BaseSampler]


def grid(n: int, span: tuple[float, float], seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.GridSampler({"lam": list(map(float, np.geomspace(*span, n)))}, seed=seed)


METHODS: dict[str, Make] = {
    "random": lambda n, span, seed: optuna.samplers.RandomSampler(seed=seed),
    "grid": grid,
    "TPE": lambda n, span, seed: default_sampler(n, seed),
    "GP": lambda n, span, seed: optuna.samplers.GPSampler(seed=seed, n_startup_trials=5),
    "ours": lambda n, span, seed: WidthSampler(seed=seed),
}


class Tried(NamedTuple):
    """A finished trial."""

    width: float
    lam: float
    value: float


def searched(surface: Surface, make: Make, seed: int) -> list[Tried]:
    """All trials of one search, in the order in which they ended."""
    random, done, running = (
        np.random.default_rng(seed),
        list[Tried](),
        deque[tuple[optuna.Trial, float]](),
    )
    for i, width in enumerate(surface.widths):
        n = WIDE if i == len(surface.widths) - 1 else THIN

        def seen(width: float = width) -> list[Observation]:
            ended = [Observation(one.width, {"lam": one.lam}, (one.value,)) for one in done]
            return ended + [Observation(width, {"lam": lam}) for _, lam in running]

        sampler = make(n, surface.span, seed + i)
        if isinstance(sampler, WidthSampler):
            sampler = sampler.with_siblings(width, seen)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for asked in range(n + PARALLEL):
            if asked >= PARALLEL:
                trial, lam = running.popleft()
                value = surface.trial(i, lam, random)
                done.append(Tried(width, lam, value))
                with suppress(RuntimeError):  # how a grid that has been tried says so
                    study.tell(trial, value)
            if asked < n:
                trial = study.ask()
                running.append((trial, trial.suggest_float("lam", *surface.span, log=True)))
    return done


def regrets(surface: Surface, done: list[Tried]) -> dict[str, Curve]:
    """After each wide trial (n,), by how the method answers."""
    wide, before = done[-WIDE:], done[:-WIDE]
    best = [max(wide[: k + 1], key=lambda one: one.value).lam for k in range(WIDE)]
    points = [Point(*one) for one in before + wide]
    beliefs = [fit_posterior(points[: len(before) + k + 1], surface.span) for k in range(WIDE)]
    read = [belief.best(surface.widths[-1]) for belief in beliefs]
    return {
        how: np.array(list(map(surface.regret, lams)))
        for how, lams in (("best trial", best), ("belief", read))
    }


def needed(regret: Curve) -> int:
    late = np.flatnonzero(regret > TOLERANCE)
    return int(late[-1]) + 2 if len(late) else 1


def repetition(
    job: tuple[str, int],
    surfaces: dict[str, Callable[[np.random.Generator], Surface]],
    methods: list[str],
) -> dict[tuple[str, str], Curve]:
    name, rep = job
    surface = surfaces[name](np.random.default_rng([rep, 1]))
    found = {}
    for method in methods if rep < SLOW_REPETITIONS else [one for one in methods if one != SLOW]:
        for how, regret in regrets(surface, searched(surface, METHODS[method], 1000 * rep)).items():
            found[method, how] = regret
    return found


# --- the tables ---


def half_width(values: Curve) -> Curve:
    """Of the 95 % interval of the mean, over the first axis."""
    n = len(values)
    return stats.t.ppf(0.975, n - 1) * values.std(axis=0, ddof=1) / np.sqrt(n)


def show(name: str, found: dict[tuple[str, str], Curve]) -> None:
    """One surface: a line for each method and way to answer, then ours minus TPE."""
    print(f"\n{name}\n{'':20s}  n needed" + "".join(f"{f'after {k}':>15s}" for k in SHOWN))
    at = [k - 1 for k in SHOWN]
    for (method, how), regret in found.items():
        mean, half = 100 * regret[:, at].mean(axis=0), 100 * half_width(regret[:, at])
        cells = "".join(f"{f'{m:.2f} ± {h:.2f}':>15s}" for m, h in zip(mean, half, strict=True))
        print(
            f"{method:7s} {how:11s} {len(regret):3d} "
            f"{np.median([needed(one) for one in regret]):6.1f}{cells}"
        )
    for how in ("best trial", "belief"):
        less = 100 * (found["ours", how] - found["TPE", how])[:, at]
        cells = "".join(
            f"{f'{m:+.2f} ± {h:.2f}':>15s}"
            for m, h in zip(less.mean(0), half_width(less), strict=True)
        )
        print(f"{'ours-TPE':8s}{how:11s} {len(less):3d}       {cells}")


def describe(table: Recording) -> None:
    """What the recording itself says: how flat, how noisy."""
    print(f"\n{table.name}: {len(table.lams)} lambdas, {table.value.shape[2]} seeds a width")
    ends = np.log(table.span)
    for i, width in enumerate(table.widths):
        curve = np.polyval(table.smooth(i, 3), LATTICE)
        low, high = LATTICE[curve >= curve.max() - TOLERANCE][[0, -1]]
        first, best, last = (
            f"{lam:.3g}"
            for lam in np.exp(np.interp([low, LATTICE[curve.argmax()], high], [0, 1], ends))
        )
        print(
            f"  width {width:g}: {100 * curve.max():.1f} % at lambda {best}; within half a "
            f"point in {first} to {last} "
            f"({100 * (high - low):.0f} % of the range); standard deviation of a trial "
            f"{100 * table.sds[i]:.2f}"
        )


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "--quick", action="store_true", help="5 repetitions of three methods on three surfaces"
    )
    options.add_argument("--repetitions", type=int, default=50)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--data", type=Path, default=DATA, help="folder of the recordings")
    asked = options.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    started, n = time.perf_counter(), 5 if asked.quick else asked.repetitions
    tables = [read(path.stem, asked.data) for path in sorted(asked.data.glob("*.parquet"))]
    for table in tables:
        describe(table)
    laws, others = dict[str, Callable[[np.random.Generator], Surface]](), {}
    for table in tables[:1] if asked.quick else tables:
        laws |= {
            f"{table.name}, planted law {law}": partial(planted, table, law=law)
            for law in (0.25, 0.5)
        }
        others[f"{table.name}, planted without a law"] = partial(planted, table, law=None)
        others[f"{table.name}, planted flat"] = partial(planted, table, law=0.25, strength=0.01)
    real = {f"{table.name}, recorded": partial(recorded, table) for table in tables}
    surfaces = {**laws, **real} if asked.quick else {**laws, **others, **real}
    methods = ["random", "TPE", "ours"] if asked.quick else list(METHODS)
    jobs = [(name, rep) for name in surfaces for rep in range(n)]
    with multiprocessing.get_context("fork").Pool(asked.workers) as pool:
        ended = pool.map(partial(repetition, surfaces=surfaces, methods=methods), jobs, chunksize=1)
    everywhere: dict[str, list[dict[tuple[str, str], Curve]]] = {name: [] for name in surfaces}
    for (name, _), run in zip(jobs, ended, strict=True):
        everywhere[name].append(run)
    for name, runs in everywhere.items():
        show(name, {key: np.array([run[key] for run in runs if key in run]) for key in runs[0]})
    lawful = [run for name in laws for run in everywhere[name]]
    told = {
        m: [run[m, "best trial"] for run in lawful if (m, "best trial") in run] for m in methods
    }
    medians = {m: float(np.median(list(map(needed, told[m])))) for m in methods}
    print(
        f"\n{time.perf_counter() - started:.0f} s; wide trials needed on planted laws, by the "
        f"best trial: {medians}"
    )
    print(f"search: ratio={medians['ours'] / medians['TPE']:.3f} goal=0.333 n={n * len(laws)}")


if __name__ == "__main__":
    main()
