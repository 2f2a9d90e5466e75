"""H1 to H5 of Width Adjusted Regularization (arXiv 2010.01279), as tests over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from robsearch.claims.form import Claim, Evidence, NotDecidableError, by_seed, contrast, points
from robsearch.claims.statistics import Effect, slope
from robsearch.laws import Point, fit_ridge
from robsearch.schedules import FLOOR
from robsearch.selection import sound

SOURCE = "arXiv 2010.01279"
THIN, SIX, LAW, ORACLE = "thin lambda", "lambda 6", "law", "full search"
WAR_PAPER, WAR_LOG, MATCHED = "WAR, paper's form", "WAR, log form", "WAR, epoch-matched"

WINDOW = (0.4, 0.5)
"""The share of training at which ratios are compared: before the usual first drop of the learning rate."""
ROBUST, NATURAL, STABLE = "test/robust_accuracy", "test/natural_accuracy", "test/stability"
LOCAL, GLOBAL = "test/lipschitz/logit_ratio/mean", "lipschitz/global_bound"
SHORTFALL = 0.5
"""Points that WAR may lie below a full search (H4)."""
ASSAY = 1.0
"""Points that the reused thin lambda must lie below a full search for H4 to be judged."""
BUDGET = 0.25
"""The share of a full search's cost that WAR may take (H4)."""


def claims(thin: float, wide: float) -> tuple[Claim, ...]:
    """The five claims, for a study between these widths."""
    return (
        Claim(
            "H1",
            "At a fixed lambda the ratio of natural to robust loss falls with width.",
            SOURCE,
            ratio_falls,
            "a slope of log ratio on log width above -0.05, at the same epochs",
        ),
        Claim(
            "H2",
            "At a fixed lambda natural accuracy rises and stability falls with width.",
            SOURCE,
            trade_off,
            "a rise, or a fall, of less than 0.25 points per doubling of width",
        ),
        Claim(
            "H3",
            "The best lambda rises with width.",
            SOURCE,
            best_lambda_rises,
            "a slope of log lambda* on log width below 0.05",
        ),
        Claim(
            "H4",
            "WAR is within 0.5 points of a full search at a quarter of its cost, and above the reused thin lambda.",
            SOURCE,
            partial(war_suffices, thin=thin, wide=wide),
            "a shortfall of more than 0.5 points, a gain over the thin lambda of less than 0.25, or a higher cost",
            least_seeds=10,
        ),
        Claim(
            "H5",
            "Local Lipschitz explains stability better than the product of layer norms.",
            SOURCE,
            lipschitz_explains,
            "errors at a width left out that are less than 1.1 times as large with the product of norms",
        ),
    )


# -- H1, H2: at a fixed lambda, along width --------------------------------------------------------------------


def ratio_falls(evidence: Evidence) -> Sequence[Effect]:
    """Minus the slope of log ratio on log width at the same epochs, averaged over lambdas."""
    epochs = evidence.of("grid").epochs
    at = epochs[(epochs["progress"] > WINDOW[0]) & (epochs["progress"] <= WINDOW[1])]
    if at.empty:
        raise NotDecidableError(f"no epoch lies between {WINDOW[0]:.0%} and {WINDOW[1]:.0%} of training")
    return [Effect("fall of log(L_nat / L_rob) per log width", "", ratio_slopes(at), 0.05)]


def ratio_slopes(epochs: pd.DataFrame) -> tuple[float, ...]:
    """By seed: minus the slope of the mean log ratio on log width, averaged over arms."""
    natural, robust = (np.log(epochs[f"train/{term}_loss"].clip(lower=FLOOR)) for term in ("natural", "robust"))
    found = epochs.assign(log_ratio=natural - robust)
    means = found.groupby(["seed", "arm", "width"])[["log_ratio"]].mean().reset_index()
    return along_width(means, "log_ratio", -1.0)


def trade_off(evidence: Evidence) -> Sequence[Effect]:
    """Points per doubling of width at the best epoch, averaged over lambdas."""
    trials = evidence.of("grid").trials
    if trials[STABLE].isna().all():
        raise NotDecidableError("stability is not known")
    per_doubling = 100 * math.log(2)
    return [
        Effect("rise of natural accuracy per doubling", "points", along_width(trials, NATURAL, per_doubling), 0.25),
        Effect("fall of stability per doubling", "points", along_width(trials, STABLE, -per_doubling), 0.25),
    ]


def along_width(rows: pd.DataFrame, metric: str, factor: float) -> tuple[float, ...]:
    """By seed: ``factor`` times the slope of a metric on log width, averaged over the arms it has at all widths."""
    widths = rows["width"].nunique()

    def mean_slope(own: pd.DataFrame) -> float:
        whole = [arm for _, arm in own.dropna(subset=[metric]).groupby("arm") if arm["width"].nunique() == widths]
        slopes = [slope(np.log(arm["width"]), arm[metric]) for arm in whole]
        return factor * float(np.mean(slopes)) if slopes else math.nan

    return by_seed(rows, mean_slope)


# -- H3: where the peak lies -----------------------------------------------------------------------------------


def at_one_learning_rate(h3: Claim) -> Claim:
    """H3 with the loss divided by 1 + lambda; beside the paper's, so without a part in the correction.

    Lambda also scales the gradients: a lambda that is best may be one that trains at the best rate.
    """
    sentence = f"{h3.sentence[:-1]}, also where the loss is divided by 1 + lambda."
    effects = partial(best_lambda_rises, experiment="normalised")
    return replace(h3, name="H3-normalised", sentence=sentence, effects=effects, primary=False)


def best_lambda_rises(evidence: Evidence, experiment: str = "grid") -> Sequence[Effect]:
    """The slope of log lambda* on log width, ``-d / (2 c)``, with each seed's own ``d`` and the common ``c``.

    Trainings that have collapsed say nothing of the peak and are left out, as are those that were not measured.
    """
    trials = sound(evidence.of(experiment).trials).dropna(subset=[ROBUST])
    return [Effect("slope of log lambda* on log width", "", peak_slopes(trials, ROBUST), 0.05)]


def peak_slopes(trials: pd.DataFrame, metric: str) -> tuple[float, ...]:
    """By seed, from all its trainings: the interaction of log lambda and log width, over the curvature of all seeds.

    Raises:
        NotDecidableError: robust accuracy has no peak in lambda, or too flat a one.
    """
    ridge = fit_ridge(_points(trials, metric))
    if ridge.problem or ridge.surface is None:
        raise NotDecidableError(ridge.problem or "the widths are too few for an interaction")
    curvature = ridge.surface.c

    def own_slope(own: pd.DataFrame) -> float:
        surface = fit_ridge(_points(own, metric)).surface
        return -surface.d / (2 * curvature) if surface is not None else math.nan

    return by_seed(trials, own_slope)


def _points(trials: pd.DataFrame, metric: str) -> list[Point]:
    rows = trials[["width", "lam", metric, "seed"]].itertuples(index=False)
    return [Point(float(width), float(lam), float(value), int(seed)) for width, lam, value, seed in rows]


# -- H4: ways of choosing lambda at the widest net -------------------------------------------------------------


def war_suffices(evidence: Evidence, thin: float, wide: float) -> Sequence[Effect]:
    """The epoch-matched WAR against a full search and against the thin lambda, paired by fresh seeds.

    Raises:
        NotDecidableError: the thin lambda is as good as a full search, so nothing could be gained here.
    """
    trials = evidence.of("arms").trials
    gap = points(contrast(trials, ROBUST, ORACLE, THIN))
    if not gap or np.mean(gap) < ASSAY:
        lies = f"{np.mean(gap):.2f} points" if gap else "nothing known"
        raise NotDecidableError(f"no assay sensitivity: the full search gains {lies} over the reused thin lambda")
    behind = [each + SHORTFALL for each in points(contrast(trials, ROBUST, MATCHED, ORACLE))]
    ahead = points(contrast(trials, ROBUST, MATCHED, THIN))
    share = cost(evidence, wide, (thin,)) / cost(evidence, wide, (wide,))
    return [
        Effect(f"WAR less full search, plus {SHORTFALL:g}", "points", tuple(behind), 0.0),
        Effect("WAR less reused thin lambda", "points", ahead, 0.25),
        Effect(f"{BUDGET:g} less WAR's share of the search's operations", "", (BUDGET - share,) * len(ahead), 0.0),
    ]


def cost(evidence: Evidence, wide: float, searched: Sequence[float], unit: str = "operations") -> float:
    """Of a final training at the widest net, and of one search (each lambda once) at each of the widths searched."""
    grid = evidence.of("grid").trials
    tuning = grid[grid["width"].isin(searched)].groupby("seed")[unit].sum().mean() if searched else 0.0
    return float(tuning + grid.loc[grid["width"] == wide, unit].mean())


# -- H5: what explains stability -------------------------------------------------------------------------------


def lipschitz_explains(evidence: Evidence) -> Sequence[Effect]:
    """Log of the ratio of errors in predicting stability at widths left out: product of norms over local Lipschitz."""
    trials = evidence.of("grid").trials
    if missing := [name for name in (LOCAL, GLOBAL) if name not in trials or trials[name].isna().all()]:
        raise NotDecidableError(f"the recipe does not measure {', '.join(missing)}")

    def advantage(own: pd.DataFrame) -> float:
        errors = [left_out_error(own, name) for name in (GLOBAL, LOCAL)]
        return math.log(errors[0] / errors[1]) if min(errors) > 0 else math.nan

    what = "log(error from product of norms / error from local Lipschitz)"
    return [Effect(what, "", by_seed(trials, advantage), math.log(1.1))]


def left_out_error(trials: pd.DataFrame, predictor: str) -> float:
    """Root mean square error of stability at each width in turn, from a line on log predictor at all the others.

    NaN where a net has no number, or a predictor of 0.
    """
    squares: list[float] = []
    x, y = trials[predictor].to_numpy(float), trials[STABLE].to_numpy(float)
    if not (np.isfinite(x) & np.isfinite(y) & (x > 0)).all():
        return math.nan
    x = np.log(x)
    for width in trials["width"].unique():
        out = (trials["width"] == width).to_numpy()
        if len(np.unique(x[~out])) < 2:
            return math.nan
        line = np.polyfit(x[~out], y[~out], 1)
        squares += list((np.polyval(line, x[out]) - y[out]) ** 2)
    return float(np.sqrt(np.mean(squares)))
