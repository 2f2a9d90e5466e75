"""What a report reads of a search, tidied once: nothing below this module meets a missing column."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import pandas as pd
from pandas import DataFrame, Series

from robsearch.laws import Ridge
from robsearch.selection import best_of, sound
from robsearch.wording import counted

TRIAL_NUMBERS = ("width", "number", "lam", "value", "best_epoch", "epochs", "seconds")
TRIAL_COLUMNS = (
    "trial", *TRIAL_NUMBERS, "control", "rung", "state", "feasible", "collapsed", "choices", "reason", "seed",
)  # fmt: skip
LAYER_COLUMNS = ("trial", "width", "measure", "layer", "position", "kind", "mean", "max")
EPOCH_NUMBERS = ("epoch", "train/lam", "val/robust_accuracy", "train/natural_loss", "train/robust_loss")


class LeftOutError(Exception):
    """A piece of the report that this search cannot fill; the message says why."""


@runtime_checkable
class Searched(Protocol):
    """What ``write`` needs of a search."""

    @property
    def name(self) -> str:
        """The search's name."""
        ...

    @property
    def space(self) -> str:
        """The space's reference, ``module:function``."""
        ...

    @property
    def widths(self) -> Sequence[float]:
        """The widths searched, thin to wide."""
        ...

    @property
    def links(self) -> Mapping[str, str]:
        """Where to look further: a label to a web address or a command."""
        ...

    @property
    def setting(self) -> Mapping[str, str]:
        """How the numbers were made: a label to a text."""
        ...

    @property
    def maximise(self) -> Sequence[str]:
        """The metrics that decide, such as ``val/robust_accuracy``."""
        ...

    @property
    def trials(self) -> DataFrame:
        """One row per trial and control."""
        ...

    @property
    def front(self) -> DataFrame:
        """Of the trials those that no other at their width beats in all metrics that are maximised."""
        ...

    @property
    def epochs(self) -> DataFrame:
        """One row per trial and epoch, with the names of the trainer's metrics."""
        ...

    @property
    def layers(self) -> DataFrame:
        """Of the best trial of each width, a row per layer measure and layer (``LAYER_COLUMNS``)."""
        ...

    @property
    def ridge(self) -> Ridge:
        """The response surface fitted to all finished trials; it may say that it determines nothing."""
        ...


@dataclass(frozen=True)
class Evidence:
    """A search as the report reads it: numbers are floats, absent is NaN.

    Controls stand apart, and so do trials of lower fidelity (``scouts``).
    """

    search: Searched
    trials: DataFrame
    controls: DataFrame
    scouts: DataFrame
    epochs: DataFrame
    pages: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, search: Searched, pages: Mapping[str, str] | None = None) -> Evidence:
        """The evidence in a search; ``pages`` has the address of each trial's run, as far as it is known."""
        rows = tidy(search.trials, TRIAL_COLUMNS, TRIAL_NUMBERS, ("test", "val/"))
        epochs = tidy(search.epochs, ("trial", *EPOCH_NUMBERS), EPOCH_NUMBERS, ("val/",))
        epochs = epochs.drop_duplicates(["trial", "epoch"], keep="last").sort_values(["trial", "epoch"])
        is_control, is_scout = (rows[kind].map(words) != "" for kind in ("control", "rung"))
        return cls(search, rows[~is_control & ~is_scout], rows[is_control], rows[is_scout], epochs, pages or {})

    @property
    def layers(self) -> DataFrame:
        """The layers of the best trials."""
        return self.search.layers.reindex(columns=list(LAYER_COLUMNS))

    @property
    def widths(self) -> Sequence[float]:
        """The widths searched, thin to wide."""
        return sorted(float(width) for width in self.search.widths)

    @property
    def finished(self) -> DataFrame:
        """Completed trials that have a value and have not collapsed."""
        return sound(self.complete)

    @property
    def complete(self) -> DataFrame:
        """The same with those that have collapsed."""
        return self.trials[(self.trials["state"] == "COMPLETE") & self.trials["value"].notna()]

    @property
    def fitted(self) -> DataFrame:
        """Those of them that the law is fitted from: where it has a group, these."""
        group = self.search.ridge.group
        return self.finished[self.finished["choices"] == group] if group else self.finished

    @property
    def fitted_words(self) -> str:
        """The same in words: ``all finished trials``."""
        group = self.search.ridge.group
        return f"the finished trials with {group}" if group else "all finished trials"

    def best(self, width: float) -> Series | None:
        """The finished trial of highest validation robust accuracy at a width, of those that meet all constraints."""
        return best_of(self.finished, width)

    def bests(self) -> list[Series]:
        """The best trial of each width that has one."""
        return [best for width in self.widths if (best := self.best(width)) is not None]

    def curve(self, trial: str) -> DataFrame:
        """The epochs of one trial in order."""
        return self.epochs[self.epochs["trial"] == trial]

    @property
    def suggestions(self) -> DataFrame:
        """Of the finished trials; see ``suggestions_of``."""
        return suggestions_of(self.finished)

    @property
    def replicated(self) -> DataFrame:
        """The suggestions with several finished seeds."""
        return self.suggestions[self.suggestions["n"] > 1]

    def sample(self, rows: DataFrame, noun: str = "trial") -> str:
        """The n and the seeds behind some rows: ``n = 18 trials, 18 training seeds``."""
        seeds = int(rows["seed"].nunique())
        told = counted(seeds, "training seed") if seeds else "seeds not recorded"
        return f"n\u00a0=\u00a0{counted(len(rows), noun)}, {told}"

    def examples(self, split: str) -> str:
        """How many examples a split has, from the setting's ``validation examples`` or ``test examples``."""
        count = self.search.setting.get(f"{split} examples", "")
        known = count.isdigit()  # not where it is searched
        return counted(int(count), f"{split} example") if known else f"number of {split} examples not recorded"


def suggestions_of(finished: DataFrame) -> DataFrame:
    """One row per width and suggestion with ``n`` finished seeds: mean ``lam`` and ``value``, the values' ``sd``.

    ``feasible`` is whether all of its seeds meet the constraints.
    """
    done = finished.assign(feasible=meets(finished))
    grouped = done.groupby(["width", "number"], as_index=False, dropna=False)
    return grouped.agg(
        lam=("lam", "mean"), n=("value", "size"), value=("value", "mean"), sd=("value", "std"),
        feasible=("feasible", "all"),
    )  # fmt: skip


def meets(rows: DataFrame) -> Series:
    """Which of the rows meet all constraints, as far as it is known."""
    return rows["feasible"].map(words) != "False"


def tidy(frame: DataFrame, columns: Sequence[str], numbers: Sequence[str], prefixes: tuple[str, ...]) -> DataFrame:
    """The frame with all ``columns``, and floats in ``numbers`` and wherever one of ``prefixes`` begins a name."""
    full = frame.reindex(columns=list(dict.fromkeys([*frame.columns, *columns])))
    numeric = [name for name in full.columns if name in numbers or str(name).startswith(prefixes)]
    full[numeric] = full[numeric].apply(pd.to_numeric, errors="coerce").astype(float)
    return full.reset_index(drop=True)


def number(row: Series, column: str) -> float:
    """A number of a row, NaN where the search never got that far."""
    value = row.get(column)
    return float(value) if isinstance(value, (int, float)) else math.nan


def words(value: object) -> str:
    """A text cell, empty where absent."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)
