"""Numbers of an experiment's trainings laid out by seed and arm, and what a table says of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robsearch.claims.form import NotDecidableError
from robsearch.layers import layers
from robsearch.recipe import Recipe
from robsearch.wording import counted

Numbers = NDArray[np.float64]


def laid_out(trials: pd.DataFrame, arms: Sequence[str], metrics: Sequence[str]) -> Numbers:
    """(seeds, arms, metrics), in the orders given; NaN where there is no training or no number.

    Args:
        trials: of one experiment at one width.
        arms: that are compared.
        metrics: columns of ``trials``; one that is missing is NaN.
    """
    own, place = trials[trials["arm"].isin(arms)], {arm: i for i, arm in enumerate(arms)}
    seeds, rows = np.unique(own["seed"].to_numpy(dtype=int), return_inverse=True)
    values = np.full((len(seeds), len(arms), len(metrics)), np.nan)
    values[rows, [place[arm] for arm in own["arm"]]] = own.reindex(columns=list(metrics)).to_numpy(dtype=float)
    return np.where(np.isfinite(values), values, np.nan)


def by_arm(trials: pd.DataFrame, arms: Sequence[str], metrics: Sequence[str]) -> Numbers:
    """``laid_out`` without the seeds that lack a training or a number: what effects are computed from."""
    values = laid_out(trials, arms, metrics)
    return np.asarray(values[np.isfinite(values).all(axis=(1, 2))])


def slopes(x: Sequence[float], values: Numbers) -> Numbers:
    """Of the least-squares line over axis 1, the arms, for each of the others: (seeds, arms, ...) to (seeds, ...)."""
    u = np.asarray(x, dtype=float) - np.mean(x)
    return np.asarray(np.tensordot(values, u, axes=(1, 0)) / (u @ u))


def positive(values: Numbers, what: str) -> Numbers:
    """The same values, of which a share or a log is taken.

    Raises:
        NotDecidableError: with some seed one of them is not above 0, so that a relative change has no meaning.
    """
    bad = ~(values > 0).all(axis=tuple(range(1, values.ndim)))
    if bad.any():
        told = f"{what} is not above 0 with {bad.sum()} of {counted(len(values), 'seed')}"
        told += f" (the least is {values.min():.3g})"
        raise NotDecidableError(f"{told}, and a relative change takes a base above 0")
    return values


def layer_columns(recipe: Recipe, measure: str, statistic: str = "mean") -> list[str]:
    """The columns of the evidence for each convolution and linear layer of the recipe's model, in its order."""
    import torch

    with torch.device("meta"):
        model = recipe.model.build(recipe.data.spec)
    return [f"layer/{measure}/{name}/{statistic}" for name, _ in layers(model)]


def shown(trials: pd.DataFrame, columns: dict[str, tuple[str, float]]) -> pd.DataFrame:
    """One row per arm, in the order trained: the mean over seeds of each metric, with its standard deviation.

    Args:
        trials: of one experiment at one width.
        columns: from a heading to a metric and the factor it is shown with; metrics that were not taken are left out.
    """
    rows = []
    for arm, own in trials.groupby("arm", sort=False):
        row: dict[str, object] = {"arm": arm}
        for heading, (metric, factor) in columns.items():
            if metric in own:
                values = factor * own[metric]
                row[heading] = f"{values.mean():.4g} ± {values.std():.2g}"
        rows.append(row | {"seeds": own["seed"].nunique()})
    return pd.DataFrame(rows)
