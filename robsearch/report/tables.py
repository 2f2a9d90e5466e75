"""The numbers of every figure and table of the report, as data frames and as Parquet files.

Texts are as they were recorded, with whatever characters they have; shares are from 0 to 1, and
what is not known is absent.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pandas import DataFrame

from robsearch.laws import Optimum
from robsearch.metrics import LAM, TEST_NATURAL, TEST_ROBUST, VALUE
from robsearch.report.answer import STATES
from robsearch.report.cost import cost_by_width
from robsearch.report.evidence import MEASURES, Evidence, LeftOutError
from robsearch.report.on_test import RATE_TITLES, error_column
from robsearch.report.surface import Surface
from robsearch.report.training import with_epochs
from robsearch.report.trials import setting
from robsearch.study import failures_of
from robsearch.trials.files import arrow_table, remove, replacing
from robsearch.trials.underway import trainings_underway

ABOUT = ["trial", "width", "number", "seed", "state", "lam", "value"]
"""What a table of trials says of each, before what its figure draws."""
POINTS = 100
"""Lambdas at which a curve, and widths at which the law, is given."""


def lam_by_width(evidence: Evidence) -> DataFrame:
    """Lambda* at each width, with what a table of the answer says beside it."""
    ridge = evidence.ridge
    rows = []
    for width, _, trials in evidence.by_width(evidence.trials):
        optimum = ridge.optimum(width)
        near = ridge.near_best(width) or (None, None)
        counts = {word: int((trials["state"] == state).sum()) for state, word in STATES.items()}
        row = {**interval_of(optimum), "near_best_low": near[0], "near_best_high": near[1]}
        rows.append({**row, **counts, "censored": optimum.censored or None})
    return DataFrame(rows)


def interval_of(optimum: Optimum) -> dict[str, float | None]:
    """Lambda* at a width and its interval."""
    return {
        "width": optimum.width,
        "lam": optimum.lam,
        "low": optimum.low,
        "high": optimum.high,
    }


def regret(evidence: Evidence) -> DataFrame:
    """The robust accuracy that the lambda* of each width loses at each."""
    losses = evidence.ridge.regret
    if losses is None:
        raise LeftOutError("too few trials")
    rows = []
    for width in losses.widths:
        for place, other in enumerate(losses.widths):
            lost, low, high = losses.at(width, other)
            row = {"width": width, "width_of_lam": other, "lam": losses.lams[place]}
            rows.append(
                {**row, "placed": losses.placed[place], "lost": lost, "low": low, "high": high}
            )
    return DataFrame(rows)


def best_trials(evidence: Evidence) -> DataFrame:
    """The best trial of each width, with all that is known of it."""
    return whole_rows(evidence, evidence.bests["trial"])


def accuracy_against_lam(evidence: Evidence) -> DataFrame:
    """Value and lambda of each finished and pruned trial."""
    pruned = evidence.trials[evidence.trials["state"] == "PRUNED"]
    rows = pd.concat([evidence.finished, pruned])
    constrained = [goal.metric for goal in evidence.search.subject_to if goal.metric in rows]
    return rows[[*ABOUT, "feasible", *constrained]]


def accuracy_curves(evidence: Evidence) -> DataFrame:
    """The curve that was fitted at each width."""
    curves = []
    for width in evidence.widths:
        fitted = evidence.ridge.fitted_range(width)
        if fitted is not None:
            lams = np.geomspace(*fitted, POINTS)
            accuracy = evidence.ridge.curve(width, lams)
            curves.append(DataFrame({"width": width, "lam": lams, "value": accuracy}))
    return joined(curves, "the trials are too few to fit a curve")


def law(evidence: Evidence) -> DataFrame:
    """The law over the widths searched, with its interval."""
    if evidence.ridge.law is None:
        raise LeftOutError("no law is determined")
    widths = np.geomspace(evidence.widths[0], evidence.widths[-1], POINTS)
    predicted = map(evidence.ridge.by_law, widths.tolist())
    return DataFrame([interval_of(optimum) for optimum in predicted if optimum is not None])


def lam_over_width(evidence: Evidence) -> DataFrame:
    """The mean of robust accuracy that all trials together make likely, and its standard
    deviation, at the widths searched."""
    surface = Surface.of(evidence)
    parts = []
    for width in surface.widths:
        mean, sd = surface.posterior.value(width, surface.lams)
        values = {"width": width, "lam": surface.lams, "mean": mean, "sd": sd}
        parts.append(DataFrame({**values, "lost": mean.max() - mean}))
    return joined(parts, "no trial has finished")


def front(evidence: Evidence) -> DataFrame:
    """The trials on the front of a search for several metrics."""
    if len(evidence.search.maximise) < 2 or evidence.search.front.empty:
        raise LeftOutError("the search has no front")
    return whole_rows(evidence, evidence.search.front["trial"])


def natural_against_robust(evidence: Evidence) -> DataFrame:
    """Both accuracies on test, of trials and controls."""
    nets = pd.concat([evidence.trials, evidence.controls])
    rates = [TEST_NATURAL, TEST_ROBUST]
    return nets.dropna(subset=rates)[[*ABOUT, "control", *with_errors(nets, rates)]]


def rates_against_width(evidence: Evidence) -> DataFrame:
    """The rates of finished trials on test."""
    return measured(evidence.finished, RATE_TITLES)


def measures_against_lam(evidence: Evidence) -> DataFrame:
    """What else was measured on test, of all trials."""
    return measured(evidence.trials, MEASURES)


def measures_against_width(evidence: Evidence) -> DataFrame:
    """The same of finished trials."""
    return measured(evidence.finished, MEASURES)


def measured(trials: DataFrame, columns: Iterable[str]) -> DataFrame:
    """The trials that have one of these columns."""
    names = list(columns)
    return trials.dropna(subset=names, how="all")[[*ABOUT, *with_errors(trials, names)]]


def with_errors(trials: DataFrame, columns: Iterable[str]) -> list[str]:
    """The columns, each with its standard error where there is one."""
    names = [name for column in columns for name in (column, error_column(column))]
    return [name for name in names if name in trials]


def accuracy_over_epochs(evidence: Evidence) -> DataFrame:
    """Robust accuracy over the epochs of the best trials and of the controls."""
    bests = with_epochs(evidence, VALUE)
    return epochs_of(evidence, [*bests["trial"], *evidence.controls["trial"]], [VALUE])


def ratio_over_epochs(evidence: Evidence) -> DataFrame:
    """The ratio of the objective's two terms, and lambda, over the epochs of the best trials."""
    bests = with_epochs(evidence, "ratio")
    return epochs_of(evidence, list(bests["trial"]), ["ratio", LAM])


def epochs_of(evidence: Evidence, trials: list[str], columns: list[str]) -> DataFrame:
    """These columns over the epochs of some trials."""
    rows = evidence.epochs[evidence.epochs["trial"].isin(trials)]
    return rows[["trial", "epoch", *columns]].astype({"trial": object})


def norms_and_spectra(evidence: Evidence) -> DataFrame:
    """What was measured of each layer of the best trials."""
    return evidence.layers


def cost(evidence: Evidence) -> DataFrame:
    """What the trainings of each width took, in seconds, GiB and images a second."""
    return DataFrame(cost_by_width(evidence)["costs"])


def time_by_width(evidence: Evidence) -> DataFrame:
    """How long each finished training took."""
    return evidence.finished[[*ABOUT, "seconds"]]


def importance(evidence: Evidence) -> DataFrame:
    """The importance of each parameter (``study.Importance``); without a width it is that of all
    widths together."""
    return evidence.parameters.importance


def parameters(evidence: Evidence) -> DataFrame:
    """What was searched in each finished suggestion, with the points it lost and its rank at its
    width: what slices, contour, parallel coordinates and ranks draw."""
    if not evidence.parameters.others:
        raise LeftOutError("nothing beside lambda was searched")
    return evidence.parameters.suggestions


def not_ended(evidence: Evidence) -> DataFrame:
    """How far the trainings are that have begun and not ended."""
    search = evidence.search
    if search.trials.empty:
        raise LeftOutError("the search has no trials")
    return DataFrame([each._asdict() for each in trainings_underway(search.trials, search.epochs)])


def failures(evidence: Evidence) -> DataFrame:
    """The trials that failed; those with one ``kind`` failed for one reason."""
    kinds = {
        name: group.reason for group in failures_of(evidence.all_trials) for name in group.trials
    }
    rows = whole_rows(evidence, kinds)
    return rows.assign(kind=rows["trial"].map(kinds)) if len(rows) else rows


def trials(evidence: Evidence) -> DataFrame:
    """All that is known of every trial and control."""
    return whole_rows(evidence, evidence.all_trials["trial"])


def how_made(evidence: Evidence) -> DataFrame:
    """How the numbers were made: what is needed to judge and to repeat them."""
    facts = setting(evidence)["facts"]
    return DataFrame({"name": list(facts), "text": list(map(str, facts.values()))})


def whole_rows(evidence: Evidence, names: Iterable[str]) -> DataFrame:
    """The rows of these trials, with all columns of the search's table of trials."""
    rows = evidence.search.trials
    # A search without trials has no columns.
    return rows[rows["trial"].isin(list(names))] if len(rows) else rows


def joined(parts: list[DataFrame], reason: str) -> DataFrame:
    """The parts in one frame; if there are none, that is the reason why it is missing."""
    if not parts:
        raise LeftOutError(reason)
    return pd.concat(parts, ignore_index=True)


TABLES: Mapping[str, Callable[[Evidence], DataFrame]] = {
    "lam-by-width": lam_by_width,
    "regret": regret,
    "best-trials": best_trials,
    "accuracy-against-lam": accuracy_against_lam,
    "accuracy-curves": accuracy_curves,
    "law": law,
    "lam-over-width": lam_over_width,
    "front": front,
    "importance": importance,
    "parameters": parameters,
    "natural-against-robust": natural_against_robust,
    "rates-against-width": rates_against_width,
    "measures-against-lam": measures_against_lam,
    "measures-against-width": measures_against_width,
    "accuracy-over-epochs": accuracy_over_epochs,
    "ratio-over-epochs": ratio_over_epochs,
    "norms-and-spectra": norms_and_spectra,
    "cost-by-width": cost,
    "time-by-width": time_by_width,
    "not-ended": not_ended,
    "failures": failures,
    "trials": trials,
    "setting": how_made,
}
"""What makes each table, by its name."""


class Tables(Mapping[str, DataFrame]):
    """The numbers of each figure and table of a report, by name; each is made when it is first
    asked for.

    A table that the search cannot fill is not there: KeyError says why.
    """

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self._made: dict[str, DataFrame | str] = {}

    def __getitem__(self, name: str) -> DataFrame:
        if name not in TABLES:
            raise KeyError(f"no table {name!r}: there are {', '.join(TABLES)}")
        if name not in self._made:
            self._made[name] = self._make(name)
        made = self._made[name]
        if isinstance(made, str):
            raise KeyError(f"no table {name!r} of this search: {made}")
        return made

    def _make(self, name: str) -> DataFrame | str:
        try:
            rows = TABLES[name](self.evidence)
        except LeftOutError as missing:
            return str(missing)
        return rows.reset_index(drop=True) if len(rows) else "there is nothing in it"

    def __iter__(self) -> Iterator[str]:
        return (name for name in TABLES if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"Tables({', '.join(self)})"


class DataFiles(dict[str, str]):
    """The address of each table's file as its page links to it."""

    def links(self, *names: str) -> list[tuple[str, str]]:
        """Name of the file and address of those tables that are there."""
        return [(f"{name}.parquet", self[name]) for name in names if name in self]


def arrow_tables(evidence: Evidence) -> dict[str, pa.Table]:
    """All tables of a page as Arrow has them; one that cannot be made is left out with a
    warning."""
    frames = Tables(evidence)
    tables = {}
    for name in TABLES:
        try:
            if name in frames:
                tables[name] = arrow_table(frames[name])
        except Exception as error:  # the page, and the other tables, do not depend on it
            text = f"the table {name} could not be made ({type(error).__name__}: {error})"
            warnings.warn(text, stacklevel=2)
    return tables


def folder_beside(page: Path) -> Path | None:
    """Where the tables of a page are written: ``report-data`` beside ``report.html``; None where
    the page is no file, but a pipe or a terminal."""
    is_device = page.absolute().parts[1:2] in (("dev",), ("proc",))  # also one that leads to a file
    if is_device or (page.exists() and not page.is_file()):
        return None
    return page.with_name(f"{page.stem}-data")


def addresses(tables: Iterable[str], folder: Path) -> DataFiles:
    """Those of the tables' files, as seen from a page beside their folder."""
    return DataFiles({name: f"./{quote(folder.name)}/{name}.parquet" for name in tables})


def write_tables(tables: Mapping[str, pa.Table], folder: Path) -> None:
    """Writes a Parquet file for each table, and removes those of tables that are no more.

    Raises:
        OSError: the folder, or a file in it, may not be written.
    """
    if folder.is_symlink():  # it would lead to files elsewhere
        remove(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        file = folder / f"{name}.parquet"
        if name in tables:
            # Python says of a full disk that it is one.
            content = io.BytesIO()
            pq.write_table(tables[name], content)
            with replacing(file, is_shared=True) as unfinished:
                unfinished.write_bytes(content.getvalue())
        else:
            remove(file)
