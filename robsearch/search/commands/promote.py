"""The best networks in MLflow's model registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from robsearch.drawing.formatting import names_of
from robsearch.errors import InputError, refused
from robsearch.printing import echo
from robsearch.recipe import Recipe
from robsearch.search.commands.targets import (
    Target,
    find_target,
    finished_rows,
    load_target,
    space_of,
)
from robsearch.search.models import saved_model
from robsearch.search.options import RunOptions
from robsearch.search.recording import MODEL
from robsearch.search.result import Search
from robsearch.search.scheduling import finished_recipes, studies_of
from robsearch.search.syncing import bring_up_to_date
from robsearch.spaces import Space
from robsearch.tracking import (
    Promoted,
    check_model_names,
    check_tracking,
    experiment_of,
    register,
)
from robsearch.trials.disk import weights
from robsearch.trials.loading import newest_checkpoint


def promote(
    target: str,
    *,
    name: str | None = None,
    space: Space | str | None = None,
    options: RunOptions | None = None,
    say: Callable[[str], None] = echo,
) -> dict[str, str]:
    """Registers networks in MLflow's model registry; what is registered already is not again.

    Args:
        target: a search (the best trial of each width), ``NAME/w4-017``, a trial's folder, or an
            MLflow run id.
        name: of the registered model; by default search and width, ``NAME-w4``, for a control
            ``NAME-w4-standard``.
        space: the space or its reference, if it cannot be imported under the one that was recorded.
        options: where the search is kept.
        say: prints one line.

    Returns:
        The model's URI in MLflow, ``models:/NAME-w4/1``, by trial.

    Raises:
        InputError: no such trial or it has not finished, one name for several widths, a network
            that torch cannot export, or a store that does not answer or has no run of the trial.
    """
    networks, options = find_target(target, options or RunOptions())
    with options.store.current():
        return _promoted(networks, name, space, options, say)


def _promoted(
    networks: Target,
    name: str | None,
    space: Space | str | None,
    options: RunOptions,
    say: Callable[[str], None],
) -> dict[str, str]:
    search = load_target(networks, options)
    names = _default_names(search, networks.trial)
    _check_names(search, names, name, options)
    uri = options.uri(search.record.tracking)
    check_tracking(uri)
    storage = options.store.open(search.name)
    finished = finished_recipes(studies_of(space_of(search, space), search.record, storage))
    sync = options.command("sync", search.record)
    promoted = {}
    folders = {trial: _exported(trial, finished, search.folder / "trials") for trial in names}
    if experiment_of(uri, search.name, search.record.identity) is not None:
        bring_up_to_date(search.record, storage, uri, options, names)
    for trial, default_name in names.items():
        exported = Promoted(search.name, search.record.identity, trial, folders[trial], sync)
        promoted[trial] = register(
            uri,
            exported,
            name or default_name,
            only_owner=name is None,
            results=options.store.results,
        )
        say(f"{trial}: {promoted[trial]}")
    return promoted


def _check_names(
    search: Search, default_names: Mapping[str, str], name: str | None, options: RunOptions
) -> None:
    if name is not None and len(default_names) > 1:
        first = f"{search.name}/{next(iter(default_names))}"
        do = f"name one: {options.store.command('promote', first, '--as', name)}"
        raise refused("one trial for one model name", ", ".join(default_names), do)
    check_model_names(default_names.values() if name is None else [name])


def _exported(trial: str, finished: Mapping[str, Callable[[], Recipe]], trials: Path) -> Path:
    if not (trials / trial / MODEL).exists() and newest_checkpoint(trials / trial) is None:
        others = [name for name in weights(trials) if name in finished and name != trial]
        do = (
            "they were dropped, deleted or damaged; promote a trial that has them "
            f"({', '.join(others) or 'none has'})"
        )
        raise refused(f"the weights of {trial}", f"none in {trials / trial}", do)
    try:
        return saved_model(finished[trial](), trials / trial)
    except InputError as error:
        raise InputError(*(f"{trial}: {problem}" for problem in error.problems)) from error
    except Exception as error:
        do = "correct this and promote it again"
        raise refused(
            f"{trial} as an MLflow model", f"{type(error).__name__}: {error}", do
        ) from error


def _default_names(search: Search, trial: str | None) -> dict[str, str]:
    """The usual model name of each trial that is meant: a control is not the next version of what
    is searched for."""
    trials = [trial] if trial else [str(best["trial"]) for best in search.bests]
    widths = names_of(search.widths)
    names = {}
    for finished, row in finished_rows(search, trials).iterrows():
        parts = [search.name, f"w{widths[row['width']]}"]
        # A control or a rung is told apart; of a searched trial both are None.
        parts += [row[kind] for kind in ("control", "rung") if isinstance(row[kind], str)]
        names[str(finished)] = "-".join(parts)
    return names
