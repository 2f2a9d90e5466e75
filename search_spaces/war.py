"""Width Adjusted Regularization: a thin net is searched, and each wide net trains once, at its
ratio of the losses.

First ``robsearch launch search_spaces.war:thin --name thin``, then
``robsearch launch search_spaces.war:wide --trials 2``: one training at each wide width.
"""

from dataclasses import replace
from functools import cache

import optuna

from robsearch import WAR, Recipe, load_search, space
from robsearch.papers.war import thin_anchor
from search_spaces.quickstart import recipe

THIN = "thin"
"""The search that wide nets learn from, in the same results folder."""


@space(widths=(16,))
def thin(trial: optuna.Trial, width: float) -> Recipe:
    """The usual search, at a width that is cheap."""
    return recipe(width, lam=trial.suggest_float("lam", 0.5, 64.0, log=True))


@cache
def target() -> WAR:
    """The controller that starts at the thin net's lambda* and holds the mean ratio of the trials
    near it."""
    anchor = thin_anchor(load_search(THIN))
    return WAR(target=anchor.ratios, lam_init=anchor.lam)


@space(widths=(64, 256))
def wide(trial: optuna.Trial, width: float) -> Recipe:
    """Nothing is left to search: one training at each width."""
    war = target()
    return replace(recipe(width, war.lam_init), lam=war)
