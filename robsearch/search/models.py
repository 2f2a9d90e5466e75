"""The networks of trials as MLflow models, in the trials' folders."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from robsearch.data import load
from robsearch.errors import InputError, shortened
from robsearch.recipe import Recipe
from robsearch.search.recording import MODEL, Recorder
from robsearch.search.scheduling import finished_recipes
from robsearch.study import Study
from robsearch.tracking import opener_of, save_model
from robsearch.training.evaluation import to_float
from robsearch.trials.loading import newest_checkpoint

EXAMPLES = 9
"""Images by which a model shows what it takes."""


def log_models(
    trials: Iterable[str], studies: Iterable[Study], recorder: Recorder
) -> dict[str, str]:
    """Writes the networks of finished trials as MLflow models, into the trials' folders.

    Args:
        trials: such as the best of each width.
        studies: of their search.
        recorder: of their search.

    Returns:
        By trial, why there is no model of it; a tag of its run says the same.
    """
    recipe_of = finished_recipes(studies)
    problems = {}
    for trial in trials:
        try:
            saved_model(recipe_of[trial](), recorder.trials / trial)
            recorder.changed(trial)
        except Exception as error:  # a network that torch cannot export is as good as any other
            kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            first_line = shortened(str(error).partition("\n")[0])
            problems[trial] = f"not exported: {kind}{first_line}"
            recorder.tag(trial, {"robsearch.model": problems[trial]})
    return problems


def saved_model(recipe: Recipe, folder: Path) -> Path:
    """The trial's MLflow model, saved unless it is there.

    One from before robsearch 0.2, which only ``mlflow.pytorch`` can use, is saved again if the
    weights are there.
    """
    saved = folder / MODEL
    if opener_of(saved) is not None or (saved.exists() and newest_checkpoint(folder) is None):
        return saved
    images = load(recipe.resolved_data)["val"].images
    with torch.random.fork_rng():  # building draws initial weights
        model = network(recipe, folder)
    save_model(model, to_float(images[:EXAMPLES].clone()), saved)
    return saved


def network(recipe: Recipe, folder: Path) -> nn.Module:
    """The network that a trial's value is of, on the CPU and in eval mode: at its best epoch,
    averaged if it averages.

    Where the weights of that epoch are damaged, those of the best that are not, with a warning.

    Raises:
        FileNotFoundError: the trial has no valid checkpoint.
    """
    saved = newest_checkpoint(folder)
    if saved is None:
        raise FileNotFoundError(f"no valid checkpoint in {folder}")
    model = recipe.model.build(recipe.data.spec)
    model.load_state_dict(saved.best_state["judged"])
    return model.eval()
