"""Numbers of an experiment's trainings by seed and arm, from which effects are computed, and the
table that shows them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robsearch.claims.claim import NotDecidableError
from robsearch.errors import counted
from robsearch.network.layers import layers
from robsearch.recipe import Recipe

Numbers = NDArray[np.float64]
Columns = Mapping[str, tuple[str, float]]
"""From a heading to a metric and the factor it is shown with."""


def arm_values(
    trials: pd.DataFrame,
    arms: Sequence[str],
    metrics: Sequence[str],
) -> Numbers:
    """(seeds, arms, metrics), in the orders given; NaN where there is no training or no number.

    Args:
        trials: of one experiment at one width.
        arms: names of those that are compared.
        metrics: columns of ``trials``; one that is missing is NaN.

    Raises:
        ValueError: a seed has an arm twice.
    """
    rows = trials[trials["arm"].isin(arms)]
    if rows.duplicated(["seed", "arm"]).any():
        raise ValueError("trainings of several widths, or several of one seed and arm")
    distinct = pd.Index(dict.fromkeys(arms))
    seeds, seed_index = np.unique(rows["seed"].to_numpy(), return_inverse=True)
    arm_index = distinct.get_indexer(pd.Index(rows["arm"]))
    values = np.full((len(seeds), len(distinct), len(metrics)), np.nan)
    values[seed_index, arm_index] = rows.reindex(columns=list(metrics)).to_numpy(dtype=float)
    values = values[:, distinct.get_indexer(pd.Index(arms))]
    return np.where(np.isfinite(values), values, np.nan)


def complete_arm_values(
    trials: pd.DataFrame,
    arms: Sequence[str],
    metrics: Sequence[str],
) -> Numbers:
    """``arm_values`` without the seeds that lack a training or a number: what effects are computed
    from."""
    values = arm_values(trials, arms, metrics)
    complete = np.isfinite(values).all(axis=(1, 2))
    return np.asarray(values[complete])


def slopes(x: Sequence[float], values: Numbers) -> Numbers:
    """Of the least-squares line over axis 1, the arms, for each of the others: (seeds, arms, ...)
    to (seeds, ...)."""
    centred = np.asarray(x, dtype=float) - np.mean(x)
    products = np.tensordot(values, centred, axes=(1, 0))
    return np.asarray(products / (centred @ centred))


def require_positive(values: Numbers, what: str) -> Numbers:
    """The same values, of which a share or a log is taken.

    Raises:
        NotDecidableError: with some seed one of them is not above 0, so that a relative change has
            no meaning.
    """
    within_seed = tuple(range(1, values.ndim))
    bad = ~(values > 0).all(axis=within_seed)
    if bad.any():
        seeds = counted(len(values), "seed")
        raise NotDecidableError(
            f"{what} is not above 0 with {bad.sum()} of {seeds} (the least is "
            f"{values.min():.3g}), and a relative change takes a base above 0"
        )
    return values


def layer_columns(
    recipe: Recipe,
    measure: str,
    statistic: str = "mean",
) -> list[str]:
    """The columns of the evidence for each convolution and linear layer of the recipe's model, in
    its order."""
    import torch

    # Only the names are wanted, so no weight takes memory.
    with torch.device("meta"):
        model = recipe.model.build(recipe.data.spec)
    return [f"layer/{measure}/{name}/{statistic}" for name, _ in layers(model)]


def per_seed(
    trials: pd.DataFrame,
    statistic: Callable[[pd.DataFrame], float],
) -> tuple[float, ...]:
    """One number from each seed's trainings; seeds whose number is not finite are left out."""
    by_seed = trials.groupby("seed", sort=True)
    numbers = [float(statistic(rows)) for _, rows in by_seed]
    return tuple(filter(math.isfinite, numbers))


def contrast(
    trials: pd.DataFrame,
    metric: str,
    arm: str,
    other: str,
) -> tuple[float, ...]:
    """Metric of one arm less that of another, paired by seed, averaged over the widths that both
    have."""
    table = trials.pivot_table(index=["seed", "width"], columns="arm", values=metric)
    if not {arm, other} <= set(table):
        return ()
    differences = (table[arm] - table[other]).dropna()
    return tuple(differences.groupby("seed").mean().tolist())


def in_points(shares: Iterable[float]) -> tuple[float, ...]:
    """Shares as percentage points."""
    return tuple(100 * share for share in shares)


def table_by_arm(trials: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    """One row per arm, in the order trained: the mean over seeds of each metric, with its standard
    deviation.

    Args:
        trials: of one experiment at one width.
        columns: metrics that were not taken are left out.
    """
    table = []
    for arm, rows in trials.groupby("arm", sort=False):
        cells: dict[str, object] = {"arm": arm}
        for heading, (metric, factor) in columns.items():
            if metric in rows:
                values = factor * rows[metric]
                cells[heading] = f"{values.mean():.4g} ± {values.std():.2g}"
        cells["seeds"] = rows["seed"].nunique()
        table.append(cells)
    return pd.DataFrame(table)
