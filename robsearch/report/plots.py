"""Figures of a search for a notebook or a paper: those of its report, and those of all that was
searched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from robsearch.drawing.notebook import show_figures
from robsearch.drawing.style import for_files, look
from robsearch.errors import refusal, refuse, refused
from robsearch.report.cost import time_by_width
from robsearch.report.evidence import Evidence, LeftOutError, Searched
from robsearch.report.front import front_of_metrics
from robsearch.report.importance import importance
from robsearch.report.layers import norms_and_spectra
from robsearch.report.on_test import (
    measures_against_lam,
    measures_against_width,
    natural_against_robust,
    rates_against_width,
)
from robsearch.report.response import accuracy_against_lam
from robsearch.report.shape import (
    contour_of_two,
    parallel_coordinates,
    rank_against_lam,
    slice_by_parameter,
)
from robsearch.report.surface import lam_over_width
from robsearch.report.tables import Tables
from robsearch.report.training import accuracy_over_epochs, ratio_over_epochs
from robsearch.trials.disk import is_full

KINDS: Mapping[str, Callable[[Evidence], dict[str, Any] | None]] = {
    "importance": importance,
    "slice": slice_by_parameter,
    "contour": contour_of_two,
    "parallel": parallel_coordinates,
    "rank": rank_against_lam,
    "law": lam_over_width,
    "accuracy-against-lam": accuracy_against_lam,
    "front": front_of_metrics,
    "natural-against-robust": natural_against_robust,
    "rates-against-width": rates_against_width,
    "measures-against-lam": measures_against_lam,
    "measures-against-width": measures_against_width,
    "accuracy-over-epochs": accuracy_over_epochs,
    "ratio-over-epochs": ratio_over_epochs,
    "norms-and-spectra": norms_and_spectra,
    "time-by-width": time_by_width,
}
"""What draws each figure, by its name."""
OF_PARAMETERS = ("importance", "slice", "contour", "parallel", "rank")
SUFFIXES = (".png", ".pdf", ".svg")
DPI = 200
"""Of a PNG file."""


class Plots:
    """Figures of a search, each of matplotlib, in the light theme; a notebook shows them.

    Each method raises InputError where the search cannot fill the figure, and says why.
    """

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.tables = Tables(evidence)

    @classmethod
    def of(cls, search: Searched) -> Plots:
        """Those of a search."""
        return cls(Evidence.of(search))

    def importance(self) -> Figure:
        """How important each searched parameter was, by fANOVA and PED-ANOVA, with intervals."""
        return self.figure("importance")

    def slice(self) -> Figure:
        """Robust accuracy against each searched parameter."""
        return self.figure("slice")

    def contour(self) -> Figure:
        """Points lost over the two most important parameters."""
        return self.figure("contour")

    def parallel(self) -> Figure:
        """A line for each suggestion through all that was searched."""
        return self.figure("parallel")

    def rank(self) -> Figure:
        """The rank of each suggestion at its width, over lambda and every other parameter."""
        return self.figure("rank")

    def law(self) -> Figure:
        """Lambda* and the law over width, on what all trials together say."""
        return self.figure("law")

    def figure(self, kind: str) -> Figure:
        """One figure by its name.

        Args:
            kind: one of ``KINDS``.

        Raises:
            InputError: there is no such kind, or the search cannot fill it.
        """
        refuse(kind_problems(kind))
        show_figures()
        try:
            with look(), for_files():
                values = self._filled(kind)
        except LeftOutError as missing:
            do = "search more, or take another figure"
            raise refused(f"a search that has the figure {kind}", missing, do) from missing
        figure: Figure = values["svg"].figure
        return figure

    def _filled(self, kind: str) -> dict[str, Any]:
        parameters = self.evidence.parameters
        if kind in OF_PARAMETERS and not parameters.others:
            raise LeftOutError("nothing beside lambda was searched")
        values = KINDS[kind](self.evidence)
        if values is None:
            raise LeftOutError("it has one width")
        return values

    def save(self, kind: str, file: Path) -> Path:
        """Writes one figure into a file and returns it.

        Args:
            kind: one of ``KINDS``.
            file: ends in ``.png``, ``.pdf`` or ``.svg``.

        Raises:
            InputError: as for ``figure``, or the file has another suffix or may not be written.
        """
        refuse([*kind_problems(kind), *suffix_problems(file)])
        figure = self.figure(kind)
        # The same search gives the same file, whenever it is drawn.
        nothing: dict[str, Any] = {
            ".png": {},
            ".pdf": {"CreationDate": None},
            ".svg": {"Date": None},
        }
        suffix = file.suffix.lower()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with look(**{"svg.hashsalt": kind}):
                figure.savefig(file, dpi=DPI, format=suffix[1:], metadata=nothing[suffix])
        except OSError as error:
            if is_full(error):
                raise
            got = error.strerror or error
            raise refused(f"to write the figure {file}", got, "pass another --out") from error
        return file


def kind_problems(kind: str) -> list[str]:
    """What is wrong with the name of a figure."""
    if kind in KINDS:
        return []
    return [refusal(f"a figure: {', '.join(KINDS)}", repr(kind), "name one of them")]


def suffix_problems(file: Path) -> list[str]:
    """What is wrong with the name of a figure's file."""
    if file.suffix.lower() in SUFFIXES:
        return []
    expected = f"a file that ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
    return [refusal(expected, file, "pass such as --out importance.png")]
