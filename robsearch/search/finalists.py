"""Which trained networks a person means: a search's best, one trial, a checkpoint's folder or an MLflow run."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from robsearch.attacks import PGD
from robsearch.errors import InputError, refusal
from robsearch.recipe import Recipe
from robsearch.search.planning import studies_of
from robsearch.search.result import Search, load_search
from robsearch.search.resuming import load_recorded
from robsearch.search.workplace import Means
from robsearch.spaces import Space
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


def find_target(text: str, means: Means) -> tuple[Target, Means]:
    """What a person means by a search's name, ``NAME/w4-017``, a path into its folder, or an MLflow run id.

    Returns:
        The target, and the means with the results folder that a path is in.

    Raises:
        InputError: a run that no store has, or a path that is in no search's folder.
    """
    if RUN_ID.fullmatch(text):
        run = trial_of_run(means.uri(), text)
        return Target(run.search, run.trial, identity=run.identity), means
    if os.path.exists(text):  # False also for what could be no path
        return _in_folder(Path(text).resolve(), means)
    search, _, trial = text.partition("/")
    return Target(search, trial or None), means


def _in_folder(path: Path, means: Means) -> tuple[Target, Means]:
    for folder in (path, *path.parents):
        if (folder / "trials").is_dir():
            inside = path.relative_to(folder).parts
            epoch = EPOCH.fullmatch(inside[-1]) if len(inside) > 2 else None
            trial = inside[1] if len(inside) > 1 else None
            target = Target(folder.name, trial, int(epoch[1]) if epoch else None)
            return target, replace(means, results=means.results or folder.parent)
    do = "pass a search, NAME/TRIAL, a trial's or a checkpoint's folder, or an MLflow run id"
    raise InputError(refusal("a path inside a search's results", path, do))


def load_target(target: Target, means: Means) -> Search:
    """The search that a person means.

    Raises:
        InputError: there is none of that name here, or it is another one than that of the MLflow run.
    """
    search = load_search(target.search, means.results, means.storage)
    if target.identity not in (None, search.record.identity):
        do = "pass the --results and the --storage of the search that made the run"
        got = f"another search of that name in {search.folder}"
        raise InputError(refusal(f"the search {target.search!r} that made this run", got, do))
    return search


def space_of(search: Search, space: Space | str | None) -> Space:
    """The space of a search: as it was recorded, or the one that is passed.

    Raises:
        InputError: it cannot be imported.
    """
    return space if isinstance(space, Space) else load_recorded(space or search.space, search.folder)


def finalists(search: Search, target: Target, means: Means, top: int, space: Space) -> list[Finalist]:
    """The networks to evaluate: the ``top`` finished trials of each width by their value, or the one asked for.

    Raises:
        InputError: no such trial, none that is finished, or a test attack that gives no eps.
    """
    chosen = _best(search, top) if target.trial is None else [target.trial]
    rows: dict[str, Any] = {row["trial"]: row for row in search.trials.to_dict("records")}
    known = ", ".join(search.trials.loc[search.trials["state"] == "COMPLETE", "trial"]) or "none"
    strange = [trial for trial in chosen if trial not in rows or rows[trial]["state"] != "COMPLETE"]
    if strange or not chosen:
        expected = "a finished trial" if strange else "a finished trial that has not collapsed"
        raise InputError(refusal(expected, ", ".join(strange) or "none", f"finished are {known}"))
    storage = means.place.open(search.name)
    studies = studies_of(space, search.record, storage)
    trainings = {training.trial: (study, training) for study in studies for _, training in study.trainings()}
    found = []
    for trial in chosen:
        row = rows[trial]
        study, training = trainings[trial]
        suggestion = study.again(training)
        folder = search.folder / "trials" / trial
        found.append(Finalist(trial, row["width"], row["lam"], suggestion.recipe, folder, target.epoch))
    _refuse_without_ball(found)
    return found


def load_finalists(
    text: str, means: Means, top: int, space: Space | str | None = None
) -> tuple[Search, Space, list[Finalist], Means]:
    """The search, its space and the networks that a person means, and the means that fit them."""
    target, means = find_target(text, means)
    with means.place.current():
        search = load_target(target, means)
        found = space_of(search, space)
        return search, found, finalists(search, target, means, top, found), means


def _best(search: Search, top: int) -> list[str]:
    ranked = search.finished.sort_values("value", ascending=False).groupby("width", sort=True).head(top)
    return list(ranked.sort_values(["width", "value"], ascending=[True, False])["trial"])


def _refuse_without_ball(found: list[Finalist]) -> None:
    judges = {one.trial: one.recipe.resolved_test_attack for one in found}
    problems = [
        refusal(f"a PGD as test_attack of {trial}", judge, "its eps and norm are the ladder's")
        for trial, judge in judges.items()
        if not isinstance(judge, PGD)
    ]
    if problems:
        raise InputError(*problems)
