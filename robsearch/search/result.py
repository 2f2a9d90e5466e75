"""A search as its user holds it in the hand: tables, the law, where everything lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from robsearch.drawing.formatting import ABSENT, names_of
from robsearch.drawing.notebook import paragraph, table
from robsearch.errors import counted, refused
from robsearch.laws import ResponseSurface, fit_ridge
from robsearch.laws.covariates import adjusted
from robsearch.metrics import NATURAL_LOSS, ROBUST_LOSS, VALUE
from robsearch.search.results_store import ResultsStore
from robsearch.search.shown_trial import ShownTrial
from robsearch.search.strongest import Figure, Selection, figure_of, selection
from robsearch.search.tables import (
    fitted,
    load_tables,
    may_be_fitted,
    points,
    searched,
    searched_beside_lam,
    spent,
    table_of,
    tables_of,
)
from robsearch.spaces import AtLeast
from robsearch.study import ParamRange, SearchRecord, Storage, living_owner, recorded_ranges
from robsearch.tracking import found_again
from robsearch.training.costs import Cost
from robsearch.trials.files import arrow_table
from robsearch.trials.selection import best_of, candidates, sound

if TYPE_CHECKING:
    from robsearch.report.plots import Plots
    from robsearch.report.tables import Tables


@dataclass(frozen=True)
class Search:
    """A search, running, interrupted or finished.

    Attributes:
        record: what was asked for: space, widths, seed, trials.
        folder: its results: ``trials/``, ``report.html``, the journal.
        trials: one row per training:
            ``trial, width, number, replicate, control, rung, state, suggestion, feasible,
            collapsed, choices, lam, value, best_epoch, epochs, recipe_epochs, seconds, gpu_seconds,
            failed_seconds, reason, seed, recipe`` (its digest; the seconds are those of
            ``robsearch.training.costs``), the ``val/...`` rates of
            the best epoch, the ``test/...`` averages of measured ones, the ``ladder/...`` figures
            of evaluated ones, and ``strongest/robust_accuracy, attack, on, n, low, high``: the
            strongest figure that is known (``search.strongest``). ``value`` is the robust accuracy
            on ``val`` at the best epoch, as a share; ``suggestion`` is the state of the suggestion
            that the training belongs to; the state of a trial that was dropped (``robsearch drop``)
            is DROPPED, with the reason; ``collapsed`` says that the net gives nearly all images
            one class (``robsearch.trials.selection``); ``choices`` has the categorical parameters,
            in words; ``epochs`` were trained, ``recipe_epochs`` are those of the recipe.
        epochs: one row per trial and epoch, with every per-epoch metric.
        stopped: whether the call that gave it back was told to stop before the end.
        storage: the Optuna storage URL that it is in, or None for a journal in its folder.
        opened: that storage, where it is kept open for who goes on reading.
        ranges: by name the range of each parameter that was searched; empty where a search was only
            glanced at.
    """

    record: SearchRecord
    folder: Path
    trials: pd.DataFrame
    epochs: pd.DataFrame
    stopped: bool = False
    storage: str | None = None
    opened: Storage | None = field(default=None, repr=False, compare=False)
    ranges: Mapping[str, ParamRange] = field(default_factory=dict)

    def __repr__(self) -> str:
        widths = ", ".join(names_of(self.widths).values())
        ended = f"{self.ended} of {counted(self.record.trials, 'trial')} ended"
        return f"Search({self.name!r}: {ended}, widths {widths}, {self.folder})"

    def _repr_html_(self) -> str:
        """What a notebook shows: how far it is, the answer, and the best trial of each width."""
        ended = f"{self.ended} of {counted(self.record.trials, 'trial')} ended"
        rows = []
        for width, name in names_of(self.widths).items():
            best = self.best(width)
            what: list[object] = [ABSENT, ABSENT, self.all_collapsed(width)]
            if best is not None:
                figure = figure_of(best)
                what = [best["trial"], f"{best['lam']:.3g}", figure.text if figure else ""]
            rows.append([name, self.ridge.optimum(width).estimate, *what])
        heads = ["width", "lambda*", "best trial", "its lambda", "its strongest figure"]
        shown = paragraph(ended, self.name) + table(heads, rows) + paragraph(self.ridge.sentence())
        return shown + (paragraph(self.report, "Report") if self.report.exists() else "")

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
        """What the report says of how this was made; constraints with all their digits, as they are
        recorded."""
        setting = dict(self.record.setting)
        if self.record.subject_to:
            setting["subject to"] = ", ".join(self.record.subject_to)
        return setting

    @property
    def subject_to(self) -> tuple[AtLeast, ...]:
        """The constraints. A robsearch before 0.2 recorded them in the setting alone."""
        texts = self.record.subject_to
        if texts is None:
            texts = tuple(filter(None, self.record.setting.get("subject to", "").split(", ")))
        return tuple(map(AtLeast.parse, texts))

    @property
    def store(self) -> ResultsStore:
        """Where it is kept."""
        return ResultsStore(self.folder.parent, self.storage)

    @cached_property
    def driver(self) -> dict[str, Any] | None:
        """Who drove the search when this was first asked, as far as one look could tell, with the
        time of the last sign of life (``robsearch.study.living_owner``); None if nobody did."""
        opened = self.opened or self.store.open(self.name, with_values=False)
        return living_owner(opened, self.name)

    @property
    def links(self) -> dict[str, str]:
        """Where else to look, as commands."""
        return {
            "MLflow UI": self.store.command("ui", self.name),
            "Status": self.store.command("status", self.name),
        }

    @property
    def report(self) -> Path:
        """The HTML report, once it is written."""
        return self.folder / "report.html"

    @cached_property
    def ridge(self) -> ResponseSurface:
        """Lambda* over width, from all finished trials that have not collapsed (see
        ``laws.fit_ridge``), with the map of what one width's lambda* loses at another
        (``regret``).

        Of a search with categorical choices it is that of the trials which share those of the best
        one: its ``group``. The effects of other numbers that were searched beside lambda are taken
        out first (``laws.covariates``); where they cannot be told from lambda's, there is no law.
        """
        trials = fitted(self.trials)
        group = ""
        if len(trials) and "choices" in trials:
            group = str(trials["choices"].iloc[0])
        others = len(may_be_fitted(self.trials)) - len(trials)
        covariates = searched_beside_lam(trials)
        values = adjusted(points(trials), covariates)
        refusal = ""
        if isinstance(values, str):
            refusal, values = values, points(trials)
        if len(self.complete) and sound(self.complete).empty:
            collapsed = counted(len(self.complete), "finished trial")
            refusal = f"{collapsed} collapsed, and no other finished"
        return replace(
            fit_ridge(values),
            group=group,
            others=others,
            covariates=tuple(covariates),
            refusal=refusal,
        )

    def table(self, name: str, *trials: str) -> pa.Table:
        """The search, or what measuring wrote down, as a pyarrow table (``.to_pandas()`` makes a
        frame of it).

        Args:
            name: ``trials`` or ``epochs``, the frames of the same name; ``test`` or ``train`` (one
                row per image), ``layers``, ``histograms`` (their columns:
                ``robsearch.trials.measurement``); or ``ladder`` after ``robsearch evaluate``
                (``robsearch.trials.ladder``).
            trials: such as ``w4-017``; by default all, or all that were measured. The first column
                says which.

        Raises:
            InputError: there is no such table, or no such trial.
        """
        names = list(self.trials["trial"])
        strange = ", ".join(sorted(set(trials) - set(names)))
        if strange:
            do = f"it has {', '.join(names)}"
            raise refused("trials of this search", strange, do)
        if name in ("trials", "epochs"):
            frame: pd.DataFrame = getattr(self, name)
            rows = frame[frame["trial"].isin(trials or names)]
            return arrow_table(rows)
        return table_of(self.folder / "trials", name, list(trials) or names)

    @cached_property
    def plots(self) -> Plots:
        """Figures of the search, such as ``search.plots.importance()`` (see
        ``robsearch.report.plots``)."""
        # Who looks how a search stands does not wait for what draws.
        from robsearch.report.plots import Plots

        return Plots.of(self)

    @property
    def tables(self) -> Tables:
        """The numbers of each figure and table of the report as frames, by name:
        ``search.tables["importance"]``."""
        return self.plots.tables

    @property
    def layers(self) -> pd.DataFrame:
        """Of the best trial of each width, as far as it was measured, one row per layer measure and
        layer."""
        width_of = {str(best["trial"]): best["width"] for best in self.bests}
        tables = tables_of(self.folder / "trials", "layers", list(width_of))
        if not tables:
            return pd.DataFrame()
        table = pa.concat_tables(tables.values(), promote_options="default")
        rows: pd.DataFrame = table.drop_columns(["values"]).to_pandas()
        return rows.assign(width=rows["trial"].map(width_of))

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
        """How many of the trials asked for have ended: finished or pruned, controls and failures
        not counted."""
        trials = searched(self.trials)
        over = trials[trials["suggestion"].isin(["COMPLETE", "PRUNED"])]
        # with all widths in one suggestion, the width does not tell suggestions apart
        keys = ["number"] if self.record.per_trial == "all" else ["width", "number"]
        return len(over.drop_duplicates(keys)) * self.record.trainings

    @property
    def finished(self) -> pd.DataFrame:
        """The searched trials that are complete, at full fidelity, and may be the best of their
        width.

        Those that have collapsed are left out, and at each width where a trial meets all
        constraints, those that miss one.
        """
        return candidates(self.complete)

    def best(self, width: float) -> pd.Series | None:
        """The trial of a width to deploy: of the ``finished`` ones that of highest value. None if
        there is none."""
        return best_of(self.complete, width)

    @property
    def bests(self) -> list[pd.Series]:
        """The best trial of each width that has one."""
        bests = [self.best(width) for width in self.widths]
        return [best for best in bests if best is not None]

    def strongest(self, trial: str) -> Figure | None:
        """The strongest known robust accuracy of a trial, with its attack, n and interval; None
        before its first epoch.

        Raises:
            InputError: the search has no such trial.
        """
        return figure_of(self._row_of(trial))

    def trial(self, name: str) -> ShownTrial:
        """One trial, with its epochs and its folder; a notebook shows it as tables.

        Args:
            name: such as ``w4-017``.

        Raises:
            InputError: the search has no such trial.
        """
        row = self._row_of(name)
        epochs = self.epochs[self.epochs["trial"] == name]
        return ShownTrial(row, epochs, self.folder / "trials" / name)

    def _row_of(self, trial: str) -> pd.Series:
        rows = self.trials[self.trials["trial"] == trial]
        if rows.empty:
            do = f"it has {', '.join(self.trials['trial'])}"
            raise refused("a trial of this search", trial, do)
        return rows.iloc[0]

    def selection(self, width: float) -> Selection | None:
        """How the ``best`` trial of a width was selected on ``val``; None if there is none."""
        best = self.best(width)
        if best is None:
            return None
        finished = self.finished
        return selection(finished[finished["width"] == width], best, self.setting)

    def all_collapsed(self, width: float) -> str:
        """Why a width with finished trials has no best one, in words; empty where it has one, or
        nothing finished."""
        done = self.complete[self.complete["width"] == width]
        if done.empty or len(sound(done)):
            return ""
        if len(done) == 1:
            return "the only finished trial has collapsed, so none is best"
        return f"all {len(done)} finished trials have collapsed, so none is best"

    @property
    def complete(self) -> pd.DataFrame:
        """The searched trials that are complete, at full fidelity: those that collapsed or miss a
        constraint too."""
        trials = searched(self.trials)
        return trials[trials["state"] == "COMPLETE"]

    def loss_ratio(self, trial: str, epochs: int | None = None) -> tuple[tuple[float, float], ...]:
        """``L_nat / L_rob`` over a trial's training, as (progress, ratio) pairs: a ``target`` for
        ``WAR``.

        One pair per epoch, at its middle, of the epoch's mean terms, both floored at 1e-8. Progress
        is the share of the epochs of the trial's recipe: a training that was stopped before its end
        has no pairs near 1.

        Args:
            trial: its name.
            epochs: of the trial's recipe, where a robsearch before 0.2 trained it, which did not
                record them.

        Raises:
            InputError: the search has no such trial, it has not finished an epoch, or its recipe's
                epochs are not known.
        """
        # This needs torch, which a look at a search does not.
        from robsearch.parts.schedules import FLOOR

        history = self.epochs[self.epochs["trial"] == trial]
        if history.empty:
            do = f"{self.name} has {', '.join(self.trials['trial'])}"
            raise refused("a trial with epochs", trial, do)
        natural = history[NATURAL_LOSS].clip(lower=FLOOR)
        robust = history[ROBUST_LOSS].clip(lower=FLOOR)
        progress = (history["epoch"] - 0.5) / self._recipe_epochs(trial, epochs)
        return tuple(zip(progress.tolist(), (natural / robust).tolist(), strict=True))

    def _recipe_epochs(self, trial: str, epochs: int | None) -> float:
        recorded = self.trials.loc[self.trials["trial"] == trial, "recipe_epochs"].iloc[0]
        if not pd.isna(recorded):
            return float(recorded)
        if epochs is None:
            expected = "a trial whose recipe's epochs are recorded"
            call = f"loss_ratio({trial!r}, epochs=...)"
            do = f"pass those of its recipe, {call}: it may have been stopped before them"
            raise refused(expected, f"{trial} without them", do)
        return epochs

    @property
    def suggestions(self) -> pd.DataFrame:
        """One row per width and suggestion that was tried there: ``n`` finished seeds, mean value
        and their ``sd``."""
        grouped = self.complete.groupby(["width", "number"], as_index=False)
        return grouped.agg(
            lam=("lam", "mean"),
            n=("value", "size"),
            value=("value", "mean"),
            sd=("value", "std"),
        )

    @property
    def front(self) -> pd.DataFrame:
        """Of the ``finished`` trials, at each width, those that no other beats in all metrics that
        are maximised."""
        metrics = ["value" if name == VALUE else name for name in self.maximise]
        best = [_undominated(here, metrics) for _, here in self.finished.groupby("width")]
        return pd.concat(best) if best else self.finished


def load_search(name: str, results: str | Path | None = None, storage: str | None = None) -> Search:
    """Reads a search from its storage and folder, while it runs or afterwards.

    Args:
        name: of the search.
        results: the results folder; see ``storage``.
        storage: the Optuna storage URL. Where they are not given, a space that is being searched or
            evaluated means those of the search; everybody else those of ``ROBSEARCH_RESULTS`` and
            ``ROBSEARCH_STORAGE``.

    Raises:
        InputError: there is none of that name (lists those there are), or the folder holds another
            one.
    """
    store = ResultsStore.of(results, storage)
    opened, record = store.search(name, with_values=False)
    return search_of(store, opened, record)


def glance_at(name: str, results: str | Path | None = None, storage: str | None = None) -> Search:
    """As ``load_search``, for who asks how a search stands: its epochs, of which a large search has
    a million, are not read where the storage knows enough of a trial.

    So ``epochs`` lacks those of most trials, and ``trials`` the columns of the best epoch that the
    storage does not have.
    """
    store = ResultsStore.of(results, storage)
    opened, record = store.search(name, with_values=False)
    return search_of(store, opened, record, brief=True)


def search_of(
    store: ResultsStore, opened: Storage, record: SearchRecord, *, brief: bool = False
) -> Search:
    """Reads a search from a storage that is open; ``brief`` is that of ``load_tables``."""
    name = record.name
    trials, epochs = load_tables(opened, record, store.folder(name) / "trials", brief=brief)
    record = replace(record, tracking=found_again(record.tracking, name, store.results))
    folder = store.folder(name)
    # Its driver is looked up in it: a journal takes a second to be read again.
    kept = opened if brief else None
    ranges = {} if brief else recorded_ranges(opened, name)
    return Search(record, folder, trials, epochs, storage=store.storage, opened=kept, ranges=ranges)


def _undominated(trials: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    """Rows for which no other is as good in every metric and better in one; best in the first
    metric first."""
    rates = trials[metrics].to_numpy()
    beaten = []
    for row in rates:
        as_good = (rates >= row).all(axis=1)
        better_in_one = (rates > row).any(axis=1)
        beaten.append(bool((as_good & better_in_one).any()))
    front = trials[~pd.Series(beaten, trials.index, dtype=bool)]
    return front.sort_values(metrics, ascending=False)
