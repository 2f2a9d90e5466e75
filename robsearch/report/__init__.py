"""The report of a search: one HTML file that opens offline, the answer first, in light and dark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from robsearch.drawing.pages import render, render_page
from robsearch.drawing.style import look
from robsearch.errors import refused
from robsearch.report.answer import answer
from robsearch.report.cost import cost_by_width, time_by_width
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
from robsearch.report.tables import (
    DataFiles,
    addresses,
    arrow_tables,
    folder_beside,
    write_tables,
)
from robsearch.report.training import accuracy_over_epochs, ratio_over_epochs
from robsearch.report.trials import all_trials, failures, not_ended, setting
from robsearch.trials.disk import is_full
from robsearch.trials.files import make_way, replacing

__all__ = ["Searched", "write"]

PageElement = Callable[[Evidence], dict[str, Any] | None]
"""What the template of its name is filled in with; None where the search has no such piece."""


class Section(NamedTuple):
    """A part of the page: its title, its entry in the list of contents, and its pieces."""

    title: str
    short: str
    pieces: tuple[PageElement, ...]


FRONT = Section("The front", "Front", (front_of_metrics,))
NOT_ENDED = Section("Not ended yet", "Not ended", (not_ended,))
PARAMETERS = Section(
    "Importance and shape of what was searched",
    "Parameters",
    (
        importance,
        slice_by_parameter,
        contour_of_two,
        parallel_coordinates,
        rank_against_lam,
    ),
)
SECTIONS = (
    Section("The answer", "Answer", (answer,)),
    NOT_ENDED,
    Section("Robust accuracy against λ", "Accuracy by λ", (accuracy_against_lam,)),
    Section("λ* against width", "λ* by width", (lam_over_width,)),
    FRONT,
    PARAMETERS,
    Section(
        "On the test split",
        "Test",
        (
            natural_against_robust,
            rates_against_width,
            measures_against_lam,
            measures_against_width,
        ),
    ),
    Section("The best trials over training", "Training", (accuracy_over_epochs, ratio_over_epochs)),
    Section("Layer norms and spectra", "Layers", (norms_and_spectra,)),
    Section("Cost by width", "Cost", (cost_by_width, time_by_width)),
    Section("Failures", "Failures", (failures,)),
    Section("All trials, and how they were searched", "All trials", (all_trials, setting)),
)


def write(
    search: Searched,
    path: Path,
    pages: Mapping[str, str] | None = None,
    follow_link: bool = False,
    refresh: int | None = None,
) -> Path:
    """Writes the report of a search, finished or not, to ``path`` and returns it.

    What the search cannot fill is left out with a line that says why. The numbers of each figure
    and table are Parquet files in a folder beside the page, ``report-data`` beside ``report.html``
    (see ``report.tables``).

    Args:
        search: to be told of.
        path: of the HTML file.
        pages: the address of each trial's run, by its name, as far as it is known: points and names
            link there.
        follow_link: whether a link at ``path`` is followed, as where a person named it
            (``/dev/stdout`` is one); else the report takes its place.
        refresh: seconds after which a browser that has it open reads it again; None: never. The
            file is then replaced in one go, so that it is never seen half written.

    Raises:
        InputError: the file, or the folder beside it, may not be written.
    """
    evidence = Evidence.of(search, pages)
    folder = folder_beside(path)
    tables = {} if folder is None else arrow_tables(evidence)
    files = DataFiles() if folder is None else addresses(tables, folder)
    text = page_of(evidence, files, refresh)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not follow_link:
            make_way(path)
        if refresh is None:
            path.write_text(text, encoding="utf-8")
        else:
            with replacing(path, is_shared=True) as new:
                new.write_text(text, encoding="utf-8")
        if folder is not None:
            write_tables(tables, folder)
    except OSError as error:
        if is_full(error):
            raise
        got = error.strerror or error
        do = "write it elsewhere with `robsearch report NAME --out FILE`"
        raise refused(f"to write the report {path}", got, do) from error
    return path


def page(
    search: Searched,
    pages: Mapping[str, str] | None = None,
    refresh: int | None = None,
) -> str:
    """The whole page as text, without links to its numbers; the arguments are those of
    ``write``."""
    return page_of(Evidence.of(search, pages), DataFiles(), refresh)


def page_of(evidence: Evidence, files: DataFiles, refresh: int | None) -> str:
    """The whole page as text.

    Args:
        evidence: to be told of.
        files: where the numbers of its figures and tables are.
        refresh: as for ``write``.
    """
    search = evidence.search
    sections = []
    for section in SECTIONS:
        if is_shown(section, evidence):
            pieces = [render_piece(piece, evidence, files) for piece in section.pieces]
            content = Markup().join(dict.fromkeys(pieces))  # one reason is told once
            anchor = section.short.lower().replace(" ", "-")
            sections.append({**section._asdict(), "anchor": anchor, "content": content})
    # The theme has a colour for each width.
    return render_page(
        __name__,
        "report.html",
        len(evidence.widths),
        refresh,
        title=search.name,
        source=search.space,
        links=search.links,
        has_pages=bool(evidence.pages),
        sections=sections,
    )


def is_shown(section: Section, evidence: Evidence) -> bool:
    """Whether a section belongs to a search like this one; without, there is no word of it."""
    if section is FRONT:
        return len(evidence.search.maximise) > 1
    if section is PARAMETERS:
        return bool(evidence.parameters.others)
    if section is NOT_ENDED:
        return bool((evidence.all_trials["state"] == "RUNNING").any())
    return True


def render_piece(piece: PageElement, evidence: Evidence, files: DataFiles | None = None) -> Markup:
    """The piece, or the line that says why it is missing."""
    try:
        # What a figure looks like is settled when its axes and lines are made.
        with look():
            values = piece(evidence)
        if values is None:
            return Markup()
        template = f"{piece.__name__}.html"
        return render(__name__, template, evidence=evidence, files=files or DataFiles(), **values)
    except LeftOutError as missing:
        reason = str(missing)
    except Exception as error:  # one broken piece must not cost the page that GPU-days paid for
        reason = f"it could not be made ({type(error).__name__}: {error})"
    return render(__name__, "left_out.html", reason=reason)
