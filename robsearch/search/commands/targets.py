"""Which trained networks a person means: a search's best, one trial, a checkpoint's folder or an
MLflow run."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from robsearch.errors import refusal, refuse, refused
from robsearch.parts.attacks import standing_pgd
from robsearch.recipe import Recipe
from robsearch.search.options import RunOptions
from robsearch.search.result import Search, load_search
from robsearch.search.resuming import load_recorded
from robsearch.search.scheduling import finished_recipes, studies_of
from robsearch.spaces import Space, derived_by
from robsearch.tracking import trial_of_run

RUN_ID = re.compile(r"[0-9a-f]{32}")
EPOCH = re.compile(r"epoch-(\d+)")


@dataclass(frozen=True)
class Target:
    """What was asked for.

    Attributes:
        search: its name.
        trial: such as ``w4-017``, or None for the search's best trials.
        epoch: of the checkpoint, or None for the best one.
        identity: of the search, where an MLflow run says it; None where a person named the search.
    """

    search: str
    trial: str | None = None
    epoch: int | None = None
    identity: str | None = None


@dataclass(frozen=True)
class Finalist:
    """One trained network to be evaluated."""

    trial: str
    width: float
    lam: float
    recipe: Recipe
    folder: Path
    epoch: int | None = None


def find_target(text: str, options: RunOptions) -> tuple[Target, RunOptions]:
    """What a person means by a search's name, ``NAME/w4-017``, a path into its folder, or an MLflow
    run id.

    Returns:
        The target, and the options with the results folder that a path is in.

    Raises:
        InputError: a run that no store has, or a path that is in no search's folder.
    """
    if RUN_ID.fullmatch(text):
        run = trial_of_run(options.uri(), text)
        return Target(run.search, run.trial, identity=run.identity), options
    if os.path.exists(text):  # False also for what could be no path
        return _in_folder(Path(text).resolve(), options)
    search, _, trial = text.partition("/")
    if not search or "/" in trial:
        do = "pass NAME, NAME/w4-017, a folder that is there, or a run id of 32 letters"
        raise refused("trained networks", f"{text!r}, where nothing is", do)
    return Target(search, trial or None), options


def _in_folder(path: Path, options: RunOptions) -> tuple[Target, RunOptions]:
    for folder in (path, *path.parents):
        if (folder / "trials").is_dir():
            inside = path.relative_to(folder).parts
            trial = inside[1] if len(inside) > 1 else None
            checkpoint = EPOCH.fullmatch(inside[-1]) if len(inside) > 2 else None
            epoch = int(checkpoint[1]) if checkpoint else None
            options = replace(options, results=options.results or folder.parent)
            return Target(folder.name, trial, epoch), options
    do = "pass a search, NAME/TRIAL, a trial's or a checkpoint's folder, or an MLflow run id"
    raise refused("a path inside a search's results", path, do)


def load_target(target: Target, options: RunOptions) -> Search:
    """The search that a person means.

    Raises:
        InputError: there is none of that name here, or it is another one than that of the MLflow
            run.
    """
    search = load_search(target.search, options.results, options.storage)
    if target.identity not in (None, search.record.identity):
        do = "pass the --results and the --storage of the search that made the run"
        got = f"another search of that name in {search.folder}"
        raise refused(f"the search {target.search!r} that made this run", got, do)
    return search


def space_of(search: Search, space: Space | str | None) -> Space:
    """The space of a search: as it was recorded, or the one that is passed, with the judge of the
    search's time.

    Raises:
        InputError: it cannot be imported.
    """
    if not isinstance(space, Space):
        space = load_recorded(space or search.space, search.folder)
    return derived_by(space, search.record.derivation)


def finalists(
    search: Search, target: Target, options: RunOptions, top: int, space: Space
) -> list[Finalist]:
    """The networks to evaluate: the ``top`` finished trials of each width by their value, or the
    one asked for.

    Raises:
        InputError: no such trial, none that is finished, or a test attack that gives no eps.
    """
    trials = best_trials(search, top) if target.trial is None else [target.trial]
    rows = finished_rows(search, trials)
    studies = studies_of(space, search.record, options.store.open(search.name))
    recipe_of = finished_recipes(studies)
    chosen = []
    problems = []
    for trial in trials:
        recipe = recipe_of[trial]()
        judge = recipe.resolved_test_attack
        if standing_pgd(judge) is None:
            expected = f"a test_attack of {trial} that is a PGD or has one"
            problems.append(refusal(expected, judge, "its eps and norm are the ladder's"))
        row: Any = rows.loc[trial]
        finalist = Finalist(
            trial,
            width=row["width"],
            lam=row["lam"],
            recipe=recipe,
            folder=search.folder / "trials" / trial,
            epoch=target.epoch,
        )
        chosen.append(finalist)
    refuse(problems)
    return chosen


def finished_rows(search: Search, trials: list[str]) -> pd.DataFrame:
    """The rows of ``Search.trials`` of finished trials, by their names.

    Raises:
        InputError: one of them has not finished, or there is none.
    """
    done = search.trials[search.trials["state"] == "COMPLETE"].set_index("trial")
    strange = [trial for trial in trials if trial not in done.index]
    if strange or not trials:
        expected = "a finished trial" if strange else "a finished trial that has not collapsed"
        do = f"finished are {', '.join(done.index) or 'none'}"
        raise refused(expected, ", ".join(strange) or "none", do)
    return done.loc[trials]


def load_finalists(
    text: str, options: RunOptions, top: int, space: Space | str | None = None
) -> tuple[Search, Space, list[Finalist], RunOptions]:
    """The search, its space and the networks that a person means, and the options that fit them."""
    target, options = find_target(text, options)
    with options.store.current():
        search = load_target(target, options)
        space = space_of(search, space)
        return search, space, finalists(search, target, options, top, space), options


def best_trials(search: Search, top: int) -> list[str]:
    """The ``top`` best trials of each width by their value, thin to wide."""
    best_first = search.finished.sort_values("value", ascending=False, kind="stable")
    best = best_first.groupby("width").head(top).sort_values("width", kind="stable")
    return list(best["trial"])
