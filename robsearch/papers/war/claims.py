"""H1 to H5 of Width Adjusted Regularization (arXiv 2010.01279), as tests over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from robsearch.claims.claim import Claim, Evidence, NotDecidableError
from robsearch.claims.images import accuracy_effect
from robsearch.claims.seeds import contrast, in_points, per_seed, slopes
from robsearch.claims.statistics import Effect
from robsearch.errors import InputError, counted
from robsearch.laws import Point, PowerLaw, fit_ridge
from robsearch.laws.curves import LEAST
from robsearch.laws.response_surface import SHARED_SEEDS
from robsearch.metrics import NATURAL_LOSS, ROBUST_LOSS
from robsearch.parts.schedules import FLOOR
from robsearch.trials.selection import sound

SOURCE = "arXiv 2010.01279"
GRID = "grid"
ARMS = "arms"
CONSTANTS = "constants"
NORMALISED = "normalised"
RETUNED = "retuned"
THIN = "thin lambda"
SIX = "lambda 6"
LAW = "law"
ORACLE = "full search"
WAR_PAPER = "WAR, paper's form"
WAR_LOG = "WAR, log form"
MATCHED = "WAR, epoch-matched"

WINDOW = (0.4, 0.5)
"""The share of training at which ratios are compared: before the usual first drop of the learning
rate."""
ROBUST = "test/robust_accuracy"
NATURAL = "test/natural_accuracy"
STABLE = "test/stability"
LAST = "test_last/robust_accuracy"
LOCAL = "test/lipschitz/kl_gradient/mean"
GLOBAL = "lipschitz/global_bound_by_layer"
MARGIN = "test/margin/logit/mean"
SHORTFALL = 0.5
"""Points that WAR may lie below a full search (H4)."""
ASSAY = 1.0
"""Points that the reused thin lambda must lie below a full search for H4 to be judged."""
BUDGET = 0.25
"""The share of a full search's cost that WAR may take (H4)."""


def claims(thin: float, wide: float) -> tuple[Claim, ...]:
    """The five claims, for a study between these widths."""
    h1 = Claim(
        "H1",
        "At a fixed lambda the ratio of natural to robust loss falls with width.",
        SOURCE,
        ratio_falls,
        "a slope of log ratio on log width above -0.05, at the same epochs",
    )
    return (
        h1,
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
            "WAR is within 0.5 points of a full search at a quarter of its operations, and above "
            "the reused thin lambda.",
            SOURCE,
            partial(war_suffices, thin=thin, wide=wide),
            "a shortfall of more than 0.5 points, a gain over the thin lambda of less than "
            "0.25, or more operations",
            least_seeds=10,
        ),
        Claim(
            "H5",
            "Local Lipschitz explains stability better than the product of layer norms.",
            SOURCE,
            lipschitz_explains,
            "errors at a width left out that are less than 1.1 times as large with the product "
            "of norms",
        ),
    )


def term_claims(h1: Claim) -> tuple[Claim, Claim]:
    """H1 in two halves, beside it: the natural term falls with width, and the robust term rises."""
    halves = (
        ("H1a", "the natural loss falls", NATURAL_LOSS, -1.0),
        ("H1b", "the robust loss rises", ROBUST_LOSS, 1.0),
    )
    natural, robust = (
        replace(
            h1,
            name=name,
            sentence=f"At a fixed lambda {what} with width.",
            effects=partial(term_moves, term=term, sign=sign),
            change="a slope of its logarithm on log width of less than 0.05, at the same epochs",
            primary=False,
        )
        for name, what, term, sign in halves
    )
    return natural, robust


def loss_ratio(epochs: pd.DataFrame) -> pd.Series:
    """``L_nat / L_rob`` of each epoch, both terms floored as ``WAR`` does."""
    natural = epochs[NATURAL_LOSS].clip(lower=FLOOR)
    robust = epochs[ROBUST_LOSS].clip(lower=FLOOR)
    return natural / robust


def in_window(epochs: pd.DataFrame) -> pd.DataFrame:
    """The epochs at which ratios are compared."""
    start, end = WINDOW
    return epochs[(epochs["progress"] > start) & (epochs["progress"] <= end)]


# --- H1, H2: at a fixed lambda, along width ---


def ratio_falls(evidence: Evidence) -> Sequence[Effect]:
    """H1: minus the slope of the mean log ratio on log width at the same epochs, averaged over
    lambdas."""
    falls = _logs_along_width(evidence, loss_ratio, -1.0)
    return [Effect("fall of log(L_nat / L_rob) per log width", "", falls, 0.05)]


def term_moves(evidence: Evidence, term: str, sign: float) -> Sequence[Effect]:
    """Half of H1: ``sign`` times the slope of a term's mean log, as of the ratio."""
    moves = _logs_along_width(evidence, lambda epochs: epochs[term].clip(lower=FLOOR), sign)
    what = "rise" if sign > 0 else "fall"
    symbol = "L_nat" if term == NATURAL_LOSS else "L_rob"
    return [Effect(f"{what} of log({symbol}) per log width", "", moves, 0.05)]


def _logs_along_width(
    evidence: Evidence,
    values: Callable[[pd.DataFrame], pd.Series],
    factor: float,
) -> tuple[float, ...]:
    """``along_width`` of the mean log of some values of each epoch in ``WINDOW``.

    Raises:
        NotDecidableError: no epoch lies in it.
    """
    epochs = in_window(evidence.of(GRID).epochs)
    if epochs.empty:
        start, end = WINDOW
        raise NotDecidableError(f"no epoch lies between {start:.0%} and {end:.0%} of training")
    logs = epochs.assign(log=np.log(values(epochs)))
    by_training = logs.groupby(["seed", "arm", "width"])
    means = by_training[["log"]].mean().reset_index()
    return along_width(means, "log", factor)


def trade_off(
    evidence: Evidence,
    natural: str = NATURAL,
    stable: str = STABLE,
) -> Sequence[Effect]:
    """H2: points per doubling of width, averaged over lambdas; by default at the best epoch."""
    trials = evidence.of(GRID).trials
    if trials[stable].isna().all():
        raise NotDecidableError("stability is not known")
    per_doubling = 100 * math.log(2)
    rise = along_width(trials, natural, per_doubling)
    fall = along_width(trials, stable, -per_doubling)
    return [
        Effect("rise of natural accuracy per doubling, mean over lambdas", "points", rise, 0.25),
        Effect("fall of stability per doubling, mean over lambdas", "points", fall, 0.25),
    ]


def along_width(
    trials: pd.DataFrame,
    metric: str,
    factor: float,
) -> tuple[float, ...]:
    """By seed: ``factor`` times the slope of a metric on log width, averaged over the arms it has
    at all widths."""
    widths = np.sort(trials["width"].unique())
    if len(widths) < 2:
        return ()
    table = trials.pivot_table(index=["seed", "arm"], columns="width", values=metric)
    complete = table.reindex(columns=widths).dropna()
    rises = pd.Series(factor * slopes(np.log(widths), complete.to_numpy()), complete.index)
    return tuple(rises.groupby("seed").mean())


# --- H3: where the peak lies ---


def at_one_learning_rate(h3: Claim) -> Claim:
    """H3 with the loss divided by 1 + lambda; beside the paper's, so without a part in the
    correction.

    Lambda also scales the gradients: a lambda that is best may be one that trains at the best rate.
    """
    sentence = f"{h3.sentence[:-1]}, also where the loss is divided by 1 + lambda."
    return h3.beside(NORMALISED, sentence, partial(best_lambda_rises, experiment=NORMALISED))


def best_lambda_rises(evidence: Evidence, experiment: str = GRID) -> Sequence[Effect]:
    """H3: the slope of log lambda* on log width, by both families of curves (``laws.curves``).

    Each seed's value is what the jackknife makes of leaving it out (Tukey's pseudo-value), so
    Student's interval over seeds is that of the jackknife. Trainings that have collapsed say
    nothing of the peak and are left out, as are those that were not measured.
    """
    trials = sound(evidence.of(experiment).trials).dropna(subset=[ROBUST])
    return peak_effects(trials, ROBUST)


def peak_effects(trials: pd.DataFrame, metric: str) -> Sequence[Effect]:
    """The effects of H3, where a width's best lambda is the one of highest ``metric``."""
    return [
        Effect(f"slope of log lambda* on log width, by the {family}", "", slopes, 0.05)
        for family, slopes in peak_slopes(trials, metric).items()
    ]


def peak_slopes(trials: pd.DataFrame, metric: str = ROBUST) -> Mapping[str, tuple[float, ...]]:
    """By family of curves, and seed, the jackknife's pseudo-value of the slope.

    Raises:
        NotDecidableError: fewer than two widths place their best lambda, one has it at the end of
            the grid, or the widths do not share three seeds of five lambdas each.
    """
    ridge = fit_ridge(law_points(trials, metric))
    censored = [ridge.optimum(curve.width).censored for curve in ridge.curves if curve.side]
    if censored:
        raise NotDecidableError("; ".join(dict.fromkeys(map(str, censored))))
    if ridge.law is None:
        raise NotDecidableError(ridge.sentence())
    if not ridge.pseudo_slopes:
        raise NotDecidableError(
            f"a slope takes {counted(SHARED_SEEDS, 'seed')} that all widths share, each with "
            f"{counted(LEAST, 'lambda')}"
        )
    return ridge.pseudo_slopes


def best_of_complete(trials: pd.DataFrame, by: str, metric: str) -> Any:
    """The arm, or lambda (``by``), of highest mean metric among those that have it for as many
    seeds as any: a mean over fewer would be compared with means over others."""
    summary = trials.groupby(by)[metric].agg(["mean", "count"])
    complete = summary[summary["count"] == summary["count"].max()]
    return complete["mean"].idxmax()


def lam_by_law(
    thinner: pd.DataFrame,
    metric: str,
    wide: float,
    lams: Sequence[float],
) -> float:
    """A power law's lambda at a wide net, from trainings of thinner ones, within ``lams``.

    Where they are too flat to place a peak, the line through each width's best lambda, log on log.
    """
    try:
        lam = PowerLaw.fit(law_points(thinner, metric))(wide)
    except InputError:  # no peak could be placed
        widths = np.sort(thinner["width"].unique())
        bests = [
            best_of_complete(thinner[thinner["width"] == width], "lam", metric) for width in widths
        ]
        line = np.polyfit(np.log(widths), np.log(bests), 1)
        lam = float(np.exp(np.polyval(line, np.log(wide))))
    # A law may point far beyond what was ever trained.
    return float(np.clip(lam, min(lams), max(lams)))


def law_points(trials: pd.DataFrame, metric: str) -> list[Point]:
    """The trainings as laws take them."""
    columns = trials[["width", "lam", metric, "seed"]]
    return [Point(*row) for row in columns.itertuples(index=False)]


# --- H4: ways of choosing lambda at the widest net ---


def war_suffices(evidence: Evidence, thin: float, wide: float) -> Sequence[Effect]:
    """H4: the epoch-matched WAR against a full search and against the thin lambda, paired by fresh
    seeds.

    Raises:
        NotDecidableError: the thin lambda is as good as a full search, so nothing could be gained
            here.
    """
    effects = against_search_and_thin(evidence.of(ARMS).trials, ROBUST, MATCHED, "WAR")
    grid = evidence.of(GRID).trials
    # Both ways end with one training of the widest net, which is part of their cost.
    training = float(grid.loc[grid["width"] == wide, "operations"].mean())
    war_cost = search_cost(grid, [thin], "operations") + training
    share = war_cost / (search_cost(grid, [wide], "operations") + training)
    what = f"{BUDGET:g} less WAR's share of the search's operations"
    spared = (BUDGET - share,) * len(effects[-1].per_seed)
    return [*effects, Effect(what, "", spared, 0.0)]


def against_search_and_thin(
    trials: pd.DataFrame,
    metric: str,
    arm: str,
    name: str,
) -> list[Effect]:
    """How far an arm is above a full search less ``SHORTFALL``, and above the reused thin lambda.

    Args:
        trials: with the arms ``ORACLE`` and ``THIN``, paired by seed.
        metric: the column of the accuracy.
        arm: that is compared.
        name: what it is called.

    Raises:
        NotDecidableError: the thin lambda is as good as a full search, so nothing could be gained.
    """
    gap = in_points(contrast(trials, metric, ORACLE, THIN))
    if not gap or np.mean(gap) < ASSAY:
        gain = f"{np.mean(gap):.2f} points" if gap else "nothing known"
        raise NotDecidableError(
            f"no assay sensitivity: the full search gains {gain} over the reused thin lambda"
        )
    return [
        accuracy_effect(
            f"{name} less full search, plus {SHORTFALL:g}",
            trials,
            metric,
            arm,
            ORACLE,
            0.0,
            more=SHORTFALL,
            expected=SHORTFALL,
        ),
        accuracy_effect(f"{name} less reused thin lambda", trials, metric, arm, THIN, 0.25),
    ]


def search_cost(
    grid: pd.DataFrame,
    widths: Sequence[float],
    unit: str,
) -> float:
    """Of one search (each lambda once) at each of the widths: 0 without any."""
    trials = grid[grid["width"].isin(widths)]
    if trials.empty:
        return 0.0
    of_seeds = trials.groupby("seed")[unit].sum()
    return float(of_seeds.mean())


# --- H5: what explains stability ---


def lipschitz_explains(evidence: Evidence) -> Sequence[Effect]:
    """H5: log of the ratio of errors in predicting stability at widths left out: product of norms
    over local Lipschitz.

    Both are divided by the mean margin, for an image keeps its class while its logits move by less
    than that. The local one is the paper's own: the largest l1 norm of the KL's gradient in the
    ball.
    """
    trials = sound(evidence.of(GRID).trials)
    measured = trials.reindex(columns=[LOCAL, GLOBAL, MARGIN]).notna().any()
    if not measured.all():
        missing = ", ".join(measured.index[~measured])
        raise NotDecidableError(f"the recipe does not measure {missing}")

    def advantage(of_seed: pd.DataFrame) -> float:
        product, local = (left_out_error(of_seed, predictor) for predictor in (GLOBAL, LOCAL))
        return math.log(product / local) if min(product, local) > 0 else math.nan

    what = "log(error from product of norms / error from local Lipschitz)"
    return [Effect(what, "", per_seed(trials, advantage), math.log(1.1))]


def left_out_error(trials: pd.DataFrame, predictor: str) -> float:
    """Root mean square error of stability at each width in turn, from a line on the log of
    predictor over margin at all the others.

    NaN where a net has no number, or one that is not above 0.
    """
    x = (trials[predictor] / trials[MARGIN]).to_numpy()
    y = trials[STABLE].to_numpy()
    # A log of 0 would decide the line, and a net left out would make the errors incomparable.
    usable = np.isfinite(x) & np.isfinite(y) & (x > 0)
    if not usable.all():
        return math.nan
    x = np.log(x)
    widths = trials["width"].to_numpy()
    squares: list[float] = []
    for width in np.unique(widths):
        left_out = widths == width
        others = x[~left_out]
        if len(np.unique(others)) < 2:
            return math.nan
        line = np.polyfit(others, y[~left_out], 1)
        errors = np.polyval(line, x[left_out]) - y[left_out]
        squares.extend(errors**2)
    return float(np.sqrt(np.mean(squares)))
