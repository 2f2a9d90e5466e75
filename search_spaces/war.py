"""Width Adjusted Regularization: a thin net is searched, and wide nets keep its ratio of the
losses.

First ``robsearch launch search_spaces.war:thin --name thin``, then
``robsearch launch search_spaces.war:wide``.
"""

from dataclasses import replace
from functools import cache

import optuna

from robsearch import WAR, Recipe, load_search, space
from robsearch.errors import InputError, refusal
from search_spaces.quickstart import recipe

THIN = "thin"
"""The search that wide nets learn from, in the same results folder."""


@space(widths=(16,))
def thin(trial: optuna.Trial, width: float) -> Recipe:
    """The usual search, at a width that is cheap."""
    return recipe(width, lam=trial.suggest_float("lam", 0.5, 64.0, log=True))


@cache
def learned() -> tuple[float, tuple[tuple[float, float], ...]]:
    """The best thin net's lambda, and its ratio of the losses over training."""
    search = load_search(THIN)
    best = search.best(16)
    if best is None:
        do = f"run `robsearch launch search_spaces.war:thin --name {THIN}` to its end first"
        raise InputError(refusal(f"a finished trial of width 16 in {THIN}", "none", do))
    return float(best["lam"]), search.loss_ratio(best["trial"])


@space(widths=(64, 256))
def wide(trial: optuna.Trial, width: float) -> Recipe:
    """From the thin net's lambda on, WAR holds its ratio; only how fast it does so is searched."""
    lam, ratio = learned()
    alpha = trial.suggest_float("alpha", 0.003, 0.3, log=True)
    return replace(recipe(width, lam), lam=WAR(target=ratio, lam_init=lam, alpha=alpha))
