"""A search as its user holds it in the hand: tables, the law, where everything lies."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
import pyarrow as pa

from robsearch.errors import InputError, refusal
from robsearch.laws import Ridge, fit_ridge
from robsearch.search.frames import frames, points, table_of
from robsearch.study import JOURNAL, SearchRecord, Storage, open_storage, record_names

DEFAULT_RESULTS = "robsearch-results"


@dataclass(frozen=True)
class Place:
    """Where searches are kept.

    Attributes:
        results: the folder of all results; by default ``ROBSEARCH_RESULTS``, else ``robsearch-results`` here.
            A cluster of several machines needs one that all of them share.
        storage: an Optuna storage URL; by default a journal file in each search's folder.
    """

    results: Path
    storage: str | None = None

    @classmethod
    def of(cls, results: str | Path | None = None, storage: str | None = None) -> Place:
        """The place these options mean, with the defaults filled in."""
        return cls(Path(results or os.environ.get("ROBSEARCH_RESULTS") or DEFAULT_RESULTS).absolute(), storage)

    def folder(self, search: str) -> Path:
        """A search's own folder."""
        return self.results / search

    def open(self, search: str) -> Storage:
        """The storage that an existing search is in.

        Raises:
            InputError: there is no such search here.
        """
        if self.storage is None and not (self.folder(search) / JOURNAL).exists():
            known = ", ".join(search_names(self)) or "none"
            do = f"searches in {self.results}: {known}; --results or --storage says where else to look"
            raise InputError(refusal("the name of a search", repr(search), do))
        return open_storage(self.storage, self.folder(search))


def search_names(place: Place) -> list[str]:
    """The searches that are kept in a place."""
    if place.storage is not None:
        return record_names(open_storage(place.storage, place.results))
    return sorted(journal.parent.name for journal in place.results.glob(f"*/{JOURNAL}"))


@dataclass(frozen=True)
class Search:
    """A search, running, interrupted or finished.

    Attributes:
        record: what was asked for: space, widths, seed, trials.
        folder: its results: ``trials/``, ``report.html``, the journal.
        trials: one row per trial: ``trial, width, number, control, state, lam, value, best_epoch, epochs,
            seconds, reason, seed`` and the ``test/...`` averages of measured ones. ``value`` is the robust
            accuracy on ``val`` at the best epoch, as a share.
        epochs: one row per trial and epoch, with every per-epoch metric.
    """

    record: SearchRecord
    folder: Path
    trials: pd.DataFrame
    epochs: pd.DataFrame

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
    def setting(self) -> dict[str, str]:
        """What the report says of how this was made."""
        return self.record.setting

    @property
    def links(self) -> dict[str, str]:
        """Where else to look, as commands."""
        return {"MLflow UI": f"robsearch ui {self.name}", "Status": f"robsearch status {self.name}"}

    @property
    def report(self) -> Path:
        """The HTML report, once it is written."""
        return self.folder / "report.html"

    @cached_property
    def ridge(self) -> Ridge:
        """Lambda* over width, fitted from all finished trials (see ``laws.fit_ridge``)."""
        return fit_ridge(points(self.trials))

    def table(self, name: str, *trials: str) -> pa.Table:
        """What measuring wrote down, as a pyarrow table (``.to_pandas()`` makes a frame of it).

        Args:
            name: ``test`` or ``train`` (one row per image), ``layers``, ``histograms`` (their columns:
                ``robsearch.measurement``), or ``ladder`` after ``robsearch evaluate`` (``robsearch.ladder``).
            trials: such as ``w4-017``; by default all that were measured. The first column says which.

        Raises:
            InputError: there is no such table, or no such trial.
        """
        known = list(self.trials["trial"])
        if strange := sorted(set(trials) - set(known)):
            raise InputError(refusal("trials of this search", ", ".join(strange), f"it has {', '.join(known)}"))
        return table_of(self.folder / "trials", name, list(trials) or known)

    @property
    def unfinished(self) -> list[str]:
        """Trials that are not over: being trained now, or left by an interruption."""
        return list(self.trials.loc[self.trials["state"] == "RUNNING", "trial"])

    @property
    def ended(self) -> int:
        """How many of the trials asked for have ended: finished or pruned, controls and failures not counted."""
        searched = self.trials[self.trials["control"].isna()]
        return int(searched["state"].isin(["COMPLETE", "PRUNED"]).sum())


def load_search(name: str, results: str | Path | None = None, storage: str | None = None) -> Search:
    """Reads a search from its storage and folder, while it runs or afterwards.

    Raises:
        InputError: there is none of that name; lists those there are.
    """
    place = Place.of(results, storage)
    opened = place.open(name)
    record = SearchRecord.load(opened, name)
    trials, epochs = frames(opened, record, place.folder(name) / "trials")
    return Search(record, place.folder(name), trials, epochs)
