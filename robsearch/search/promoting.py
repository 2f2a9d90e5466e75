"""The best networks as MLflow models: logged when a search ends, registered on request."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from robsearch.checkpoints import newest
from robsearch.data import load
from robsearch.disk import weights
from robsearch.errors import InputError, refusal
from robsearch.evaluation import to_float
from robsearch.naming import names_of
from robsearch.recipe import Recipe
from robsearch.search.finalists import Target, find_target, load_target, space_of
from robsearch.search.opening import invocation
from robsearch.search.planning import studies_of
from robsearch.search.result import Search
from robsearch.search.workplace import Means
from robsearch.spaces import Space
from robsearch.study import Study, Training
from robsearch.tracking import Promoted, Tracker, check_model_names, check_tracking, opener_of, register, save_model

EXAMPLES = 9
MODEL = "model"
"""The folder of a trial's MLflow model, in the trial's own."""


def log_models(trials: Iterable[str], studies: Iterable[Study], tracker: Tracker, folder: Path) -> dict[str, str]:
    """Writes the networks of finished trials as MLflow models and hands them to the tracker.

    Args:
        trials: such as the best of each width.
        studies: of their search.
        tracker: of their search.
        folder: of the trials' folders.

    Returns:
        By trial, why there is no model of it; a tag of its run says the same.
    """
    finished, problems = _finished(studies), dict[str, str]()
    for trial in trials:
        try:
            tracker.model(trial, _saved(_recipe(*finished[trial]), folder / trial))
        except Exception as error:  # a network that torch cannot export is as good as any other
            kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            problems[trial] = f"not exported: {kind}{str(error).partition(chr(10))[0]}"
            tracker.tag(trial, {"robsearch.model": problems[trial]})
    return problems


def promote(
    target: str,
    *,
    name: str | None = None,
    space: Space | str | None = None,
    means: Means | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, str]:
    """Registers networks in MLflow's model registry; what is registered already is not again.

    Args:
        target: a search (the best trial of each width), ``NAME/w4-017``, a trial's folder, or an MLflow run id.
        name: of the registered model; by default search and width, ``NAME-w4``, for a control ``NAME-w4-standard``.
        space: the space or its reference, if it cannot be imported under the one that was recorded.
        means: where the search is kept.
        say: prints one line.

    Returns:
        The model's URI in MLflow, ``models:/NAME-w4/1``, by trial.

    Raises:
        InputError: no such trial or it has not finished, one name for several widths, a network that torch cannot
            export, or a store that does not answer or has no run of the trial.
    """
    found, means = find_target(target, means or Means())
    with means.place.current():
        return _promoted(found, name, space, means, say)


def _promoted(
    found: Target, name: str | None, space: Space | str | None, means: Means, say: Callable[[str], None]
) -> dict[str, str]:
    search = load_target(found, means)
    chosen = _chosen(search, found.trial)
    _check_names(search, chosen, name, means)
    uri = means.uri(search.record.tracking)
    check_tracking(uri)
    storage = means.place.open(search.name)
    finished = _finished(studies_of(space_of(search, space), search.record, storage))
    sync = invocation("sync", search.record, means)
    promoted = {}
    for trial, usual in chosen.items():
        folder = _exported(trial, finished, search.folder / "trials")
        exported = Promoted(search.name, search.record.identity, trial, folder, sync)
        promoted[trial] = register(uri, exported, name or usual, own=name is None, results=means.place.results)
        say(f"{trial}: {promoted[trial]}")
    return promoted


def _check_names(search: Search, chosen: Mapping[str, str], name: str | None, means: Means) -> None:
    if name is not None and len(chosen) > 1:
        one = means.place.command("promote", f"{search.name}/{next(iter(chosen))}", "--as", name)
        raise InputError(refusal("one trial for one model name", f"{', '.join(chosen)}", f"name one: {one}"))
    check_model_names(chosen.values() if name is None else [name])


def network(recipe: Recipe, folder: Path) -> nn.Module:
    """The network that a trial's value is of, on the CPU and in eval mode: at its best epoch, averaged if it averages.

    Where the weights of that epoch are damaged, those of the best that are not, with a warning.

    Raises:
        FileNotFoundError: the trial has no valid checkpoint.
    """
    saved = newest(folder)
    if saved is None:
        raise FileNotFoundError(f"no valid checkpoint in {folder}")
    model = recipe.model.build(recipe.data.spec)
    model.load_state_dict(saved.best_state["judged"])
    return model.eval()


def _saved(recipe: Recipe, folder: Path) -> Path:
    """The trial's MLflow model, saved unless it is there.

    One from before robsearch 0.2, which only ``mlflow.pytorch`` can use, is saved again if the weights are there.
    """
    saved = folder / MODEL
    if opener_of(saved) is not None or (saved.exists() and newest(folder) is None):
        return saved
    images = load(recipe.data)["val"].images
    with torch.random.fork_rng():  # building draws initial weights
        model = network(recipe, folder)
    save_model(model, to_float(images[:EXAMPLES].clone()), saved)
    return saved


def _exported(trial: str, finished: Mapping[str, tuple[Study, Training]], trials: Path) -> Path:
    if not (trials / trial / MODEL).exists() and newest(trials / trial) is None:
        others = [name for name in weights(trials) if name in finished and name != trial]
        do = f"they were dropped, deleted or damaged; promote a trial that has them ({', '.join(others) or 'none has'})"
        raise InputError(refusal(f"the weights of {trial}", f"none in {trials / trial}", do))
    try:
        return _saved(_recipe(*finished[trial]), trials / trial)
    except InputError as error:
        raise InputError(*(f"{trial}: {problem}" for problem in error.problems)) from error
    except Exception as error:
        do = "mend this and promote it again"
        raise InputError(refusal(f"{trial} as an MLflow model", f"{type(error).__name__}: {error}", do)) from error


def _chosen(search: Search, trial: str | None) -> dict[str, str]:
    """The usual model name of each trial that is meant: a control is not the next version of what is searched for."""
    done = search.trials[search.trials["state"] == "COMPLETE"].set_index("trial")
    if trial is None:
        bests = [best for width in search.widths if (best := search.best(width)) is not None]
        chosen = [str(best["trial"]) for best in bests]
    else:
        chosen = [trial]
    if not chosen or chosen[0] not in done.index:
        known = ", ".join(done.index) or "none"
        expected = "a finished trial" if trial else "a finished trial that has not collapsed"
        raise InputError(refusal(expected, trial or "none", f"finished are {known}"))
    names = names_of(search.widths)
    return {
        str(name): "-".join([search.name, f"w{names[trial['width']]}", *_kinds(trial)])
        for name, trial in done.loc[chosen].iterrows()
    }


def _kinds(trial: pd.Series) -> list[str]:
    """The control or the rung that a trial is, if it is one."""
    return [trial[name] for name in ("control", "rung") if isinstance(trial[name], str)]


def _finished(studies: Iterable[Study]) -> dict[str, tuple[Study, Training]]:
    """Every training that is complete, by name, with its study."""
    return {
        training.trial: (study, training)
        for study in studies
        for _, training in study.trainings()
        if training.state == "COMPLETE"
    }


def _recipe(study: Study, training: Training) -> Recipe:
    return study.again(training).recipe
