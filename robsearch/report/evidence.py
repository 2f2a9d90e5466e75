"""What a report reads of a search, tidied once: nothing below this module meets a missing
column."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import pandas as pd
from matplotlib.axes import Axes
from pandas import DataFrame, Series

from robsearch.drawing.formatting import names_of, number, percent
from robsearch.drawing.style import Tone, tone
from robsearch.drawing.tooltips import Spot
from robsearch.errors import counted
from robsearch.laws import ResponseSurface
from robsearch.metrics import LAM, NATURAL_LOSS, ROBUST_LOSS, TEST_ROBUST, VALUE
from robsearch.report.parameters import Parameters
from robsearch.report.thinning import uncovered
from robsearch.spaces import AtLeast
from robsearch.study import COLUMN, ParamRange
from robsearch.training.costs import COLUMNS
from robsearch.trials.selection import best_of, sound

RATES = ("natural_accuracy", "stability", "robust_accuracy")
MEASURES = {
    "test/lipschitz/logit_ratio/mean": "local Lipschitz, lower bound\n(logits per unit of pixel)",
    "test/margin/logit/mean": "logit margin (logits)",
}
"""What is drawn of the measures, with its title."""
ERRORS = tuple(f"{name.removesuffix('mean')}se" for name in MEASURES)
"""The columns of their standard errors."""
STRONGEST = "strongest/robust_accuracy"
GPU_MEMORY = "memory/peak_gib"
CPU_MEMORY = "memory/peak_rss_gib"
SPEED = "time/images_per_second"
NUMBERS = (
    "width",
    "number",
    "lam",
    "value",
    "best_epoch",
    "epochs",
    *COLUMNS,
    *(f"test/{rate}" for rate in RATES),
    *(f"test/{rate}_se" for rate in RATES),
    *MEASURES,
    "test_last/robust_accuracy",
    STRONGEST,
    "strongest/n",
    "strongest/low",
    "strongest/high",
)
WORDS = (
    "trial",
    "control",
    "rung",
    "state",
    "feasible",
    "collapsed",
    "choices",
    "reason",
    "seed",
    "strongest/attack",
    "strongest/on",
)
EPOCH_NUMBERS = (
    "epoch",
    LAM,
    VALUE,
    NATURAL_LOSS,
    ROBUST_LOSS,
    GPU_MEMORY,
    CPU_MEMORY,
    SPEED,
)
LAYER_COLUMNS = (
    "trial",
    "width",
    "measure",
    "layer",
    "position",
    "kind",
    "mean",
    "max",
)


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
    def subject_to(self) -> Sequence[AtLeast]:
        """The constraints, none for most."""
        ...

    @property
    def maximise(self) -> Sequence[str]:
        """The metrics that decide, such as ``val/robust_accuracy``."""
        ...

    @property
    def ranges(self) -> Mapping[str, ParamRange]:
        """By name the range of each searched parameter, as far as it is recorded."""
        ...

    @property
    def trials(self) -> DataFrame:
        """One row per trial and control."""
        ...

    @property
    def front(self) -> DataFrame:
        """Of the trials those that no other at their width beats in all metrics that are
        maximised."""
        ...

    @property
    def epochs(self) -> DataFrame:
        """One row per trial and epoch, with the names of the trainer's metrics."""
        ...

    @property
    def layers(self) -> DataFrame:
        """Of the best trial of each width, a row per layer measure and layer
        (``LAYER_COLUMNS``)."""
        ...

    @property
    def ridge(self) -> ResponseSurface:
        """The response surface fitted to all finished trials; it may say that it determines
        nothing."""
        ...


@dataclass(frozen=True)
class Evidence:
    """A search as the report reads it: numbers are floats, absent is NaN.

    Controls stand apart, and so do trials of lower fidelity (``scouts``). ``pages`` has the
    address of each trial's run, as far as it is known.
    """

    search: Searched
    trials: DataFrame
    controls: DataFrame
    scouts: DataFrame
    epochs: DataFrame
    pages: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, search: Searched, pages: Mapping[str, str] | None = None) -> Evidence:
        """The evidence in a search."""
        # Measuring takes a hundred averages, and each table of trials is copied many times.
        goals = [*search.maximise, *(goal.metric for goal in search.subject_to)]
        read = {*WORDS, *NUMBERS, *ERRORS, *goals}
        columns = [
            name
            for name in search.trials.columns
            if name in read or str(name).startswith((COLUMN, "val/"))
        ]
        trials = typed_columns(search.trials[columns], WORDS, NUMBERS)
        # What a person dropped is in no figure and no table.
        trials = trials[trials["state"] != "DROPPED"]
        epochs = typed_columns(search.epochs, ("trial",), EPOCH_NUMBERS)
        # An epoch that was done again after an interruption counts once.
        epochs = epochs[epochs["trial"].isin(trials["trial"])]
        epochs = epochs.drop_duplicates(["trial", "epoch"], keep="last")
        epochs = with_ratio(epochs.sort_values(["trial", "epoch"]))
        # Names are looked up among all epochs, of which a large search has a hundred thousand.
        epochs = epochs.assign(trial=epochs["trial"].astype("category"))
        # What is no control, or no scout, has an absent cell, which text_of makes empty.
        is_control = trials["control"].map(text_of) != ""
        is_scout = trials["rung"].map(text_of) != ""
        searched = trials[~is_control & ~is_scout]
        controls = trials[is_control]
        return cls(
            search,
            searched,
            controls,
            trials[is_scout],
            epochs,
            pages or {},
        )

    @property
    def ridge(self) -> ResponseSurface:
        """The one answer."""
        return self.search.ridge

    @cached_property
    def parameters(self) -> Parameters:
        """All that was searched, in the trials that have finished."""
        return Parameters.of(self.trials, self.finished, self.search.ranges)

    @property
    def interval_name(self) -> str:
        """``95 % interval``."""
        return f"{number(100 * self.ridge.confidence)} % interval"

    @cached_property
    def layers(self) -> DataFrame:
        """The layers of the best trials."""
        return self.search.layers.reindex(columns=list(LAYER_COLUMNS))

    @cached_property
    def widths(self) -> Sequence[float]:
        """The widths searched, thin to wide."""
        return sorted(float(width) for width in self.search.widths)

    @property
    def names(self) -> Mapping[float, str]:
        """Of the widths: in as many digits as tell them apart."""
        return names_of(self.widths)

    @cached_property
    def all_trials(self) -> DataFrame:
        """With controls and scouts."""
        return pd.concat([self.trials, self.controls, self.scouts])

    @cached_property
    def complete(self) -> DataFrame:
        """Completed trials that have a value."""
        return self.trials[(self.trials["state"] == "COMPLETE") & self.trials["value"].notna()]

    @cached_property
    def finished(self) -> DataFrame:
        """The same without those that have collapsed."""
        return sound(self.complete)

    @cached_property
    def fitted(self) -> DataFrame:
        """Those of them that the law is fitted from: where it has a group, these."""
        group = self.ridge.group
        return self.finished[self.finished["choices"] == group] if group else self.finished

    @property
    def fitted_words(self) -> str:
        """The same in words: ``all finished trials``."""
        group = self.ridge.group
        return f"the finished trials with {group}" if group else "all finished trials"

    def by_width(self, rows: DataFrame) -> Iterator[tuple[float, Tone, DataFrame]]:
        """Each width, thin to wide, with its look and its rows."""
        for width in self.widths:
            yield width, tone(self.widths, width), rows[rows["width"] == width]

    def best(self, width: float) -> Series | None:
        """The finished trial of highest validation robust accuracy at a width, of those that meet
        all constraints."""
        return best_of(self.finished, width)

    @cached_property
    def bests(self) -> DataFrame:
        """The best trial of each width that has one."""
        bests = [self.best(width) for width in self.widths]
        names = [best["trial"] for best in bests if best is not None]
        return self.finished[self.finished["trial"].isin(names)].sort_values("width")

    def drawn(self, rows: DataFrame, x: Series[float], y: Series[float]) -> DataFrame:
        """Those of the rows that a panel draws at these places (see ``thinning``), the best of each
        width among them."""
        return rows[uncovered(rows, x, y, rows["trial"].isin(self.bests["trial"]))]

    def curve(self, trial: str) -> DataFrame:
        """The epochs of one trial in order."""
        return self.epochs[self.epochs["trial"] == trial]

    def sample(self, rows: DataFrame, noun: str = "trial") -> str:
        """The n and the seeds behind some rows: ``n = 18 trials, 18 training seeds``."""
        count = int(rows["seed"].nunique())
        seeds = counted(count, "training seed") if count else "seeds not recorded"
        return f"n\u00a0=\u00a0{counted(len(rows), noun)}, {seeds}"

    def examples(self, split: str) -> str:
        """How many examples a split has, from the setting's ``validation examples`` or
        ``test examples``."""
        count = self.search.setting.get(f"{split} examples", "")
        if not count.isdigit():  # the data is searched
            return f"number of {split} examples not recorded"
        return counted(int(count), f"{split} example")

    def spots(
        self,
        axes: Axes,
        rows: DataFrame,
        xs: Series[float],
        ys: Series[float],
    ) -> list[Spot]:
        """Where some trials are drawn, each with what it says: ``w4-017: λ 6.31, robust 56.2 % on
        validation, 55.0 % on test``."""
        spots = []
        said = rows[["trial", "lam", "value", TEST_ROBUST]].itertuples(index=False, name=None)
        for x, y, (name, lam, value, on_test) in zip(xs, ys, said, strict=True):
            # What has no number is not drawn, so it has nothing to say.
            if not (math.isfinite(x) and math.isfinite(y)):
                continue
            text = f"{name}: λ {number(lam)}, robust {percent(value)} % on validation"
            if math.isfinite(on_test):
                text += f", {percent(on_test)} % on test"
            spots.append(Spot(axes, x, y, text, self.pages.get(name, "")))
        return spots


def suggestions_of(trials: DataFrame) -> DataFrame:
    """One row per width and suggestion with ``n`` finished seeds: mean ``lam`` and ``value``, the
    values' ``sd``.

    ``feasible`` is whether all of its seeds meet the constraints.
    """
    with_feasible = trials.assign(feasible=meets(trials))
    return with_feasible.groupby(["width", "number"], as_index=False, dropna=False).agg(
        lam=("lam", "mean"),
        n=("value", "size"),
        value=("value", "mean"),
        sd=("value", "std"),
        feasible=("feasible", "all"),
    )


def meets(rows: DataFrame) -> Series:
    """Which of the rows meet all constraints, as far as it is known."""
    return rows["feasible"].map(text_of) != "False"


def typed_columns(frame: DataFrame, texts: Sequence[str], numbers: Sequence[str]) -> DataFrame:
    """The frame with all these columns, and floats in ``numbers`` and in what was measured."""
    columns = dict.fromkeys([*frame.columns, *texts, *numbers])
    frame = frame.reindex(columns=list(columns))
    for name in frame.columns:
        if name in numbers or str(name).startswith(("test", "val/")):
            frame[name] = pd.to_numeric(frame[name], errors="coerce").astype(float)
    return frame.reset_index(drop=True)


def with_ratio(epochs: DataFrame) -> DataFrame:
    """The epochs with the ratio of the objective's two terms, absent where the second is zero."""
    natural = epochs[NATURAL_LOSS]
    robust = epochs[ROBUST_LOSS]
    return epochs.assign(ratio=natural.where(natural > 0) / robust.where(robust > 0))


def text_of(value: Any) -> str:
    """A text cell, empty where absent."""
    if pd.isna(value):
        return ""
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)
