"""A search as its user holds it in the hand: tables, the law, where everything lies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd
import pyarrow as pa

from robsearch.costs import Cost
from robsearch.errors import InputError, refusal
from robsearch.laws import Ridge, fit_ridge
from robsearch.naming import names_of
from robsearch.schedules import FLOOR
from robsearch.search.frames import fitted, frames, may_be_fitted, points, searched, spent, table_of, tables_of
from robsearch.search.place import Place
from robsearch.search.strongest import Figure, Selection, figure_of, selection
from robsearch.selection import best_of, candidates, sound
from robsearch.study import SearchRecord
from robsearch.tracking import found_again
from robsearch.trainer import VALUE
from robsearch.wording import counted

VALUES = {VALUE: "value"}
"""Metrics that have a shorter name in the table of trials."""


@dataclass(frozen=True)
class Search:
    """A search, running, interrupted or finished.

    Attributes:
        record: what was asked for: space, widths, seed, trials.
        folder: its results: ``trials/``, ``report.html``, the journal.
        trials: one row per training: ``trial, width, number, replicate, control, rung, state, suggestion, feasible,
            collapsed, choices, lam, value, best_epoch, epochs, recipe_epochs, seconds, gpu_seconds, failed_seconds,
            reason, seed, recipe`` (its digest; the seconds are those of ``robsearch.costs``), the ``val/...`` rates of
            the best epoch, the ``test/...`` averages of measured ones, the ``ladder/...`` figures of evaluated ones,
            and ``strongest/robust_accuracy, attack, on, n, low, high``: the strongest figure that is known
            (``search.strongest``). ``value`` is the robust accuracy on ``val`` at the best epoch, as a share;
            ``suggestion`` is the state of the suggestion that the training belongs to; ``collapsed`` says that the net
            gives nearly all images one class (``robsearch.selection``); ``choices`` has the categorical parameters, in
            words; ``epochs`` were trained, ``recipe_epochs`` are those of the recipe.
        epochs: one row per trial and epoch, with every per-epoch metric.
        stopped: whether the call that gave it back was told to stop before the end.
        storage: the Optuna storage URL that it is in, or None for a journal in its folder.
    """

    record: SearchRecord
    folder: Path
    trials: pd.DataFrame
    epochs: pd.DataFrame
    stopped: bool = False
    storage: str | None = None

    def __repr__(self) -> str:
        widths = ", ".join(names_of(self.widths).values())
        ended = f"{self.ended} of {counted(self.record.trials, 'trial')} ended"
        return f"Search({self.name!r}: {ended}, widths {widths}, {self.folder})"

    @property
    def name(self) -> str:
        """The search's name."""
        return self.record.name

    @property
    def space(self) -> str:
        """The space's reference, ``module:name``."""
        return self.record.space

    @property
    def widths(self) -> tuple[float, ...]:
        """The widths searched."""
        return self.record.widths

    @property
    def maximise(self) -> tuple[str, ...]:
        """The metrics that decide."""
        return self.record.maximise

    @property
    def setting(self) -> dict[str, str]:
        """What the report says of how this was made; constraints with all their digits, as they are recorded."""
        exact = {"subject to": ", ".join(self.record.subject_to)} if self.record.subject_to else {}
        return {**self.record.setting, **exact}

    @property
    def links(self) -> dict[str, str]:
        """Where else to look, as commands."""
        place = Place(self.folder.parent, self.storage)
        return {"MLflow UI": place.command("ui", self.name), "Status": place.command("status", self.name)}

    @property
    def report(self) -> Path:
        """The HTML report, once it is written."""
        return self.folder / "report.html"

    @cached_property
    def ridge(self) -> Ridge:
        """Lambda* over width, from all finished trials that have not collapsed (see ``laws.fit_ridge``).

        Of a search with categorical choices it is that of the trials which share those of the best one: its ``group``.
        """
        found = fitted(self.trials)
        group = str(found["choices"].iloc[0]) if len(found) and "choices" in found else ""
        others = len(may_be_fitted(self.trials)) - len(found)
        ridge = replace(fit_ridge(points(self.trials)), group=group, others=others)
        if self.complete.empty or len(sound(self.complete)):
            return ridge
        return replace(
            ridge, problem=f"{counted(len(self.complete), 'finished trial')} collapsed, and no other finished"
        )

    def table(self, name: str, *trials: str) -> pa.Table:
        """The search, or what measuring wrote down, as a pyarrow table (``.to_pandas()`` makes a frame of it).

        Args:
            name: ``trials`` or ``epochs``, the frames of the same name; ``test`` or ``train`` (one row per image),
                ``layers``, ``histograms`` (their columns: ``robsearch.measurement``); or ``ladder`` after ``robsearch
                evaluate`` (``robsearch.ladder``).
            trials: such as ``w4-017``; by default all, or all that were measured. The first column says which.

        Raises:
            InputError: there is no such table, or no such trial.
        """
        known = list(self.trials["trial"])
        if strange := sorted(set(trials) - set(known)):
            raise InputError(refusal("trials of this search", ", ".join(strange), f"it has {', '.join(known)}"))
        if name in ("trials", "epochs"):
            frame: pd.DataFrame = getattr(self, name)
            own = frame[frame["trial"].isin(trials or known)]
            return pa.Table.from_pandas(own.apply(of_one_type), preserve_index=False)
        return table_of(self.folder / "trials", name, list(trials) or known)

    @property
    def layers(self) -> pd.DataFrame:
        """Of the best trial of each width, as far as it was measured, one row per layer measure and layer."""
        bests = [best for width in self.widths if (best := self.best(width)) is not None]
        names = [str(best["trial"]) for best in bests]
        tables = tables_of(self.folder / "trials", "layers", names)
        if not tables:
            return pd.DataFrame()
        found = pa.concat_tables(tables.values(), promote_options="default").drop_columns(["values"]).to_pandas()
        return pd.DataFrame(found).assign(width=found["trial"].map({best["trial"]: best["width"] for best in bests}))

    @property
    def unfinished(self) -> list[str]:
        """Trials that are not over: being trained now, or left by an interruption."""
        return list(self.trials.loc[self.trials["state"] == "RUNNING", "trial"])

    @property
    def cost(self) -> Cost:
        """What all its trials took, controls, rungs, pruned and failed ones among them."""
        return spent(self.trials)

    @property
    def ended(self) -> int:
        """How many of the trials asked for have ended: finished or pruned, controls and failures not counted."""
        found = searched(self.trials)
        over = found[found["suggestion"].isin(["COMPLETE", "PRUNED"])]
        return len(over.drop_duplicates(self._one_suggestion)) * self.record.trainings

    @property
    def finished(self) -> pd.DataFrame:
        """The searched trials that are complete, at full fidelity, and may be the best of their width.

        Those that have collapsed are left out, and at each width where a trial meets all constraints, those that miss
        one.
        """
        return candidates(self.complete)

    def best(self, width: float) -> pd.Series | None:
        """The trial of a width to deploy: of the ``finished`` ones that of highest value. None if there is none."""
        return best_of(self.complete, width)

    def strongest(self, trial: str) -> Figure | None:
        """The strongest known robust accuracy of a trial, with its attack, n and interval; None before its first epoch.

        Raises:
            InputError: the search has no such trial.
        """
        own = self.trials[self.trials["trial"] == trial]
        if own.empty:
            raise InputError(refusal("a trial of this search", trial, f"it has {', '.join(self.trials['trial'])}"))
        return figure_of(own.iloc[0])

    def selection(self, width: float) -> Selection | None:
        """How the ``best`` trial of a width was selected on ``val``; None if there is none."""
        best, finished = self.best(width), self.finished
        return None if best is None else selection(finished[finished["width"] == width], best, self.setting)

    def all_collapsed(self, width: float) -> str:
        """Why a width with finished trials has no best one, in words; empty where it has one, or nothing finished."""
        done = self.complete[self.complete["width"] == width]
        if done.empty or len(sound(done)):
            return ""
        if len(done) == 1:
            return "the only finished trial has collapsed, so none is best"
        return f"all {len(done)} finished trials have collapsed, so none is best"

    @property
    def complete(self) -> pd.DataFrame:
        """The searched trials that are complete, at full fidelity: those that collapsed or miss a constraint too."""
        found = searched(self.trials)
        return found[found["state"] == "COMPLETE"]

    def loss_ratio(self, trial: str, epochs: int | None = None) -> tuple[tuple[float, float], ...]:
        """``L_nat / L_rob`` over a trial's training, as (progress, ratio) pairs: a ``target`` for ``WAR``.

        One pair per epoch, at its middle, of the epoch's mean terms, both floored at 1e-8. Progress is the share of
        the epochs of the trial's recipe: a training that was stopped before its end has no pairs near 1.

        Args:
            trial: its name.
            epochs: of the trial's recipe, where a robsearch before 0.2 trained it, which did not record them.

        Raises:
            InputError: the search has no such trial, it has not finished an epoch, or its recipe's epochs are not
                known.
        """
        own = self.epochs[self.epochs["trial"] == trial]
        if own.empty:
            known = ", ".join(self.trials["trial"])
            raise InputError(refusal("a trial with epochs", trial, f"{self.name} has {known}"))
        natural, robust = (own[f"train/{term}_loss"].clip(lower=FLOOR) for term in ("natural", "robust"))
        progress = (own["epoch"] - 0.5) / self._recipe_epochs(trial, epochs)
        return tuple(zip(progress.tolist(), (natural / robust).tolist(), strict=True))

    def _recipe_epochs(self, trial: str, epochs: int | None) -> float:
        known = self.trials.loc[self.trials["trial"] == trial, "recipe_epochs"].iloc[0]
        if not pd.isna(known):
            return float(known)
        if epochs is None:
            do = f"pass those of its recipe, loss_ratio({trial!r}, epochs=...): it may have been stopped before them"
            raise InputError(refusal("a trial whose recipe's epochs are recorded", f"{trial} without them", do))
        return epochs

    @property
    def suggestions(self) -> pd.DataFrame:
        """One row per width and suggestion that was tried there: ``n`` finished seeds, mean value and their ``sd``."""
        grouped = self.complete.groupby(["width", "number"], as_index=False)
        return grouped.agg(lam=("lam", "mean"), n=("value", "size"), value=("value", "mean"), sd=("value", "std"))

    @property
    def front(self) -> pd.DataFrame:
        """Of the ``finished`` trials, at each width, those that no other beats in all metrics that are maximised."""
        metrics = [VALUES.get(name, name) for name in self.maximise]
        best = [_undominated(here, metrics) for _, here in self.finished.groupby("width")]
        return pd.concat(best) if best else self.finished

    @property
    def _one_suggestion(self) -> list[str]:
        """What tells suggestions apart: with all widths in one, the width does not."""
        return ["number"] if self.record.per_trial == "all" else ["width", "number"]


def load_search(name: str, results: str | Path | None = None, storage: str | None = None) -> Search:
    """Reads a search from its storage and folder, while it runs or afterwards.

    Args:
        name: of the search.
        results: the results folder; see ``storage``.
        storage: the Optuna storage URL. Where they are not given, a space that is being searched or evaluated means
            those of the search; everybody else those of ``ROBSEARCH_RESULTS`` and ``ROBSEARCH_STORAGE``.

    Raises:
        InputError: there is none of that name (lists those there are), or the folder holds another one.
    """
    place = Place.of(results, storage)
    opened, record = place.search(name)
    trials, epochs = frames(opened, record, place.folder(name) / "trials")
    record = replace(record, tracking=found_again(record.tracking, name, place.results))
    return Search(record, place.folder(name), trials, epochs, storage=place.storage)


def of_one_type(column: pd.Series) -> pd.Series:
    """A column that Arrow takes: numbers among words, as a choice of both has, become words."""
    mixed = pd.api.types.infer_dtype(column, skipna=True) in {"mixed", "mixed-integer"}
    return column.map(str, na_action="ignore") if mixed else column


def _undominated(trials: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    """Rows for which no other is as good in every metric and better in one; best in the first metric first."""
    rates = trials[metrics].to_numpy()
    beaten = [bool(((rates >= own).all(axis=1) & (rates > own).any(axis=1)).any()) for own in rates]
    return trials[[not each for each in beaten]].sort_values(metrics, ascending=False)
