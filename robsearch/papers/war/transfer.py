"""From a thin net's search to a wide net: Width Adjusted Regularization as one would use it.

WAR (arXiv 2010.01279) keeps a wide net's ratio of the losses, natural over robust, at that of a
thin net. The thin net is searched; ``thin_anchor`` reads lambda* and the ratio there off that
search. The wide net then trains once, with the controller ``WAR`` that holds the ratio, or with a
constant lambda that has it: ``static_war`` solves for that lambda from a few trials, or two short
probes, of the wide net.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from robsearch.errors import counted, refuse_unless, refused
from robsearch.metrics import LAM, NATURAL_LOSS, ROBUST_LOSS
from robsearch.papers.war.claims import WINDOW
from robsearch.parts.schedules import FLOOR
from robsearch.recipe import Recipe
from robsearch.search import Search
from robsearch.search.tables import fitted
from robsearch.training.trainer import train

FURTHEST = 10.0
"""How far beyond the lambdas probed a line is followed, as a factor."""
NEAR = 4
"""Trials near lambda*, or probes near the target, that are used."""
Ratios = tuple[tuple[float, float], ...]
"""(progress, ratio) pairs: a target for ``WAR``."""


@dataclass(frozen=True)
class ThinAnchor:
    """What wide nets take over from a thin one.

    Attributes:
        width: of the thin net.
        lam: its lambda*, as the search's law has it; where its trials do not place it, the best
            trial's.
        trials: those nearest to that lambda, whose ratios were averaged.
        ratios: their mean ratio over training, averaged in logs: the ``target`` of ``WAR``.
    """

    width: float
    lam: float
    trials: tuple[str, ...]
    ratios: Ratios

    @property
    def log_ratio(self) -> float:
        """The mean log ratio in ``WINDOW``."""
        return window_mean(self.ratios)


class Probe(NamedTuple):
    """A wide net's mean log ratio in ``WINDOW``, trained with a constant lambda."""

    lam: float
    log_ratio: float


@dataclass(frozen=True)
class StaticWAR:
    """The constant lambda at which a wide net has the thin net's ratio of the losses.

    Attributes:
        lam: that lambda.
        width: of the wide net.
        anchor: the thin net.
        probes: of the wide net, from low to high lambda.
        extrapolated: whether lambda lies outside those of the probes.
    """

    lam: float
    width: float
    anchor: ThinAnchor
    probes: tuple[Probe, ...]
    extrapolated: bool

    def sentence(self) -> str:
        """In words, for a terminal."""
        beyond = ", outside the lambdas probed" if self.extrapolated else ""
        ratio = f"ratio {math.exp(self.anchor.log_ratio):.3g} of width {self.anchor.width:g}"
        probes = f"{counted(len(self.probes), 'probe')} of width {self.width:g}"
        lam = f"lambda = {self.lam:.3g} at width {self.width:g}"
        return f"{lam} has the {ratio} ({probes}{beyond})."


def thin_anchor(search: Search, width: float | None = None) -> ThinAnchor:
    """Lambda* of a thin net, and the mean ratio of the trials nearest to it.

    Args:
        search: that has finished trials of the thin net.
        width: of the thin net; by default the thinnest one searched.

    Raises:
        InputError: no trial of that width has finished with a positive lambda.
    """
    thin = float(min(search.widths) if width is None else width)
    trials = _finished(search, thin)
    optimum = search.ridge.optimum(thin)
    lam = optimum.lam
    if lam is None:
        best = trials.sort_values("value", ascending=False, kind="stable").iloc[0]
        lam = float(best["lam"])
    distance = np.abs(np.log(trials["lam"].to_numpy(dtype=float)) - math.log(lam))
    nearest = distance.argsort(kind="stable")[:NEAR]
    names = tuple(trials["trial"].iloc[nearest])
    return ThinAnchor(thin, lam, names, mean_ratios([search.loss_ratio(name) for name in names]))


def static_war(
    search: Search,
    width: float,
    *,
    thin: float | None = None,
    probes: Sequence[Probe] = (),
) -> StaticWAR:
    """The constant lambda at which the net of ``width`` has the thin net's ratio of the losses.

    The log ratio is taken to be a line in log lambda through the probes nearest to the target.

    Args:
        search: that has finished trials of the thin net.
        width: of the wide net.
        thin: width of the thin net; by default the thinnest one searched.
        probes: of the wide net, at two lambdas or more (``probe_ratio`` makes one of half a
            training); by default the finished trials of ``width`` in ``search``.

    Raises:
        InputError: no trial of the thin net has finished; fewer than two lambdas were probed; or
            the ratio does not rise with lambda.
    """
    anchor = thin_anchor(search, thin)
    if not probes:
        rows = _finished(search, float(width))
        probes = [
            Probe(float(row["lam"]), window_mean(search.loss_ratio(row["trial"])))
            for _, row in rows.iterrows()
        ]
    ordered = tuple(sorted(Probe(*probe) for probe in probes))
    lam = lam_at(ordered, anchor.log_ratio)
    inside = ordered[0].lam <= lam <= ordered[-1].lam
    return StaticWAR(lam, float(width), anchor, ordered, not inside)


def probe_ratio(recipe: Recipe) -> Probe:
    """Trains a recipe of constant lambda as far as ``WINDOW`` goes, half of its epochs, and gives
    its mean log ratio there.

    Raises:
        InputError: lambda changed during training. What ``robsearch.train`` raises.
    """
    last = _last_epoch(recipe.epochs)
    ratios, lams = [], []
    for epoch in train(recipe):
        natural = max(epoch.metrics[NATURAL_LOSS], FLOOR)
        robust = max(epoch.metrics[ROBUST_LOSS], FLOOR)
        ratios.append(((epoch.number - 0.5) / recipe.epochs, natural / robust))
        lams.append(epoch.metrics[LAM])
        if epoch.number >= last:
            break
    same = min(lams) == max(lams)
    refuse_unless((same, "a recipe with a constant lambda", recipe.lam, "pass lam=Fixed(...)"))
    return Probe(lams[-1], window_mean(tuple(ratios)))


def _last_epoch(epochs: int) -> int:
    """The last one whose middle lies in ``WINDOW``; of few epochs the first beyond its middle."""
    inside = [n for n in range(1, epochs + 1) if WINDOW[0] <= (n - 0.5) / epochs <= WINDOW[1]]
    return inside[-1] if inside else math.ceil(sum(WINDOW) / 2 * epochs + 0.5)


def lam_at(probes: Sequence[Probe], log_ratio: float) -> float:
    """Where the line through the probes nearest to ``log_ratio`` has it.

    Raises:
        InputError: fewer than two lambdas, not positive, or a ratio that does not rise with lambda.
    """
    sound = [each for each in probes if 0 < each.lam < math.inf and math.isfinite(each.log_ratio)]
    lams = {each.lam for each in sound}
    probed = f"{counted(len(lams), 'lambda')} above 0 with a ratio"
    do = "probe the wide net at the thin net's lambda and at three times that"
    refuse_unless((len(lams) > 1, "probes at two lambdas or more", probed, do))
    near = sorted(sound, key=lambda each: abs(each.log_ratio - log_ratio))
    used = near[:NEAR]
    # The nearest ones may all have one lambda.
    if len({each.lam for each in used}) < 2:
        used = near
    u = np.log([each.lam for each in used])
    slope, intercept = np.polyfit(u, [each.log_ratio for each in used], 1)
    expected = "a ratio of the losses that rises with lambda"
    do = "probe lambdas that lie further apart"
    refuse_unless((slope > 0, expected, f"a slope of {slope:.2g}", do))
    log_lam = (log_ratio - float(intercept)) / float(slope)
    ends = math.log(min(lams) / FURTHEST), math.log(max(lams) * FURTHEST)
    expected = f"the thin net's ratio within a factor of {FURTHEST:g} of the lambdas probed"
    where = "far above them" if log_lam > ends[1] else "far below them"
    do = "probe there"
    refuse_unless((ends[0] <= log_lam <= ends[1], expected, where, do))
    return math.exp(log_lam)


def window_mean(ratios: Ratios, window: tuple[float, float] = WINDOW) -> float:
    """The mean log ratio at progress in ``window``, or, where no pair lies in it, interpolated at
    its middle.

    Raises:
        InputError: training ended before the window.
    """
    progress, log_ratio = np.array([(at, math.log(ratio)) for at, ratio in ratios]).T
    inside = (progress >= window[0]) & (progress <= window[1])
    if inside.any():
        return float(log_ratio[inside].mean())
    middle = sum(window) / 2
    expected = f"ratios up to {window[0]:.0%} of training"
    last = f"the last at {progress[-1]:.0%}"
    refuse_unless((progress[-1] >= middle, expected, last, "train longer"))
    return float(np.interp(middle, progress, log_ratio))


def mean_ratios(curves: Sequence[Ratios]) -> Ratios:
    """The mean over trainings in logs, at the progress of the first; a training that ended earlier
    counts as far as it went."""
    progress = np.array([at for at, _ in curves[0]])
    logs = []
    for curve in curves:
        at, ratio = np.array(curve).T
        logs.append(np.interp(progress, at, np.log(ratio), right=math.nan))
    means = np.exp(np.nanmean(logs, axis=0))
    return tuple(zip(progress.tolist(), means.tolist(), strict=True))


def _finished(search: Search, width: float) -> pd.DataFrame:
    """The finished trials of a width that the law is fitted from: of a search with categorical
    choices those that share those of the best trial."""
    trials = fitted(search.trials)
    trials = trials[trials["width"] == width]
    if trials.empty:
        expected = f"a finished trial of width {width:g} in {search.name}"
        raise refused(expected, "none", "run its search to the end first, or pass probes")
    return trials
