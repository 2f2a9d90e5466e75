"""The report of a search: one HTML file that opens offline, the answer first, in light and dark."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.resources import files
from itertools import count
from pathlib import Path
from string import Template
from typing import NamedTuple

from robsearch.wording import counted

from .against_width import rates_against_width
from .answer import answer
from .belief import belief_over_width
from .by_layer import norms_and_spectra
from .canvas import Drawing, variables
from .cost import cost_by_width
from .crest import lam_against_width
from .evidence import Evidence, LeftOutError, Searched
from .failures import failures
from .front import front_of_metrics, several_metrics
from .markup import Html, definitions, html, join, left_out, link, tag
from .measured import lipschitz_and_margin, natural_against_robust
from .numerals import plain
from .response import accuracy_against_lam
from .training import accuracy_over_epochs, ratio_over_epochs
from .trial_table import all_trials

__all__ = ["Searched", "write"]


Content = Html | Drawing | list[Html | Drawing]


class Section(NamedTuple):
    """A part of the page: its title, the entry in the list of contents, what makes it, and which searches have it."""

    title: str
    short: str
    make: Callable[[Evidence], Content]
    wanted: Callable[[Evidence], bool] = lambda _: True


def write(search: Searched, path: Path, pages: Mapping[str, str] | None = None) -> Path:
    """Writes the report of a search, finished or not, to ``path`` and returns it.

    What the search cannot fill is left out with a line that says why.

    Args:
        search: to be told of.
        path: of the HTML file.
        pages: the address of each trial's run, by its name, as far as it is known: points and names link there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(search, pages), encoding="utf-8")
    return path


def page(search: Searched, pages: Mapping[str, str] | None = None) -> str:
    """The whole page as text."""
    evidence = Evidence.of(search, pages)
    template = Template(files(__name__).joinpath("page.html").read_text(encoding="utf-8"))
    widths = len(evidence.widths)
    return template.substitute(
        title=html(search.name),
        space=html(search.space),
        links=join([*(link(label, target) for label, target in search.links.items()), *runs_told(evidence)], " · "),
        light=variables(widths, dark=False),
        dark=variables(widths, dark=True),
        contents=join((tag("a", each.short, href=f"#{anchor(each)}") for each in sections(evidence)), " "),
        body=join(parts(evidence), "\n"),
    )


def runs_told(evidence: Evidence) -> list[Html]:
    """Where names and points lead, if they lead anywhere."""
    told = "trials' names and points lead to their runs, while the MLflow UI is up"
    return [tag("span", told)] if evidence.pages else []


def sections(evidence: Evidence) -> list[Section]:
    """Those that a search of this kind has."""
    return [section for section in SECTIONS if section.wanted(evidence)]


def parts(evidence: Evidence) -> Iterator[Html]:
    """The sections in order, figures numbered as they come."""
    numbers = count(1)
    for section in sections(evidence):
        made = attempt(section, evidence)
        pieces = made if isinstance(made, list) else [made]
        content = [figure(piece, next(numbers)) if isinstance(piece, Drawing) else piece for piece in pieces]
        yield tag("section", tag("h2", section.title), *content, id=anchor(section))


def attempt(section: Section, evidence: Evidence) -> Content:
    """The section, or the line that says why it is missing."""
    try:
        return section.make(evidence)
    except LeftOutError as reason:
        return left_out(reason)
    except Exception as error:  # one broken section must not cost the page that GPU-days paid for
        return left_out(f"it could not be made ({type(error).__name__}: {error})")


def figure(drawing: Drawing, number: int) -> Html:
    """A numbered figure with its caption."""
    caption = tag("figcaption", tag("b", f"Figure {number}."), " ", drawing.caption)
    return tag("figure", tag("div", drawing.svg, class_="scroll"), caption)


def anchor(section: Section) -> str:
    """The section's id in the page."""
    return section.short.lower().replace(" ", "-")


def setting(evidence: Evidence) -> Html:
    """What is needed to judge and to repeat the numbers."""
    search, trials = evidence.search, evidence.trials
    seeds = trials["seed"].nunique()
    facts = {
        "space": search.space,
        "widths": ", ".join(plain(width) for width in evidence.widths),
        "trials": ", ".join(
            counted(len(rows), noun)
            for rows, noun in ((trials, "trial"), (evidence.scouts, "scout"), (evidence.controls, "control"))
            if len(rows) or noun != "scout"
        ),
        "training seeds": str(seeds) if seeds else "not recorded",
        **search.setting,
        "page written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    return definitions(facts.items())


SECTIONS = (
    Section("The answer", "Answer", answer),
    Section("Robust accuracy against λ", "Accuracy by λ", accuracy_against_lam),
    Section("λ* against width", "λ* by width", lam_against_width),
    Section("What the trials say together", "Belief", belief_over_width),
    Section("The front", "Front", front_of_metrics, several_metrics),
    Section("Natural against robust accuracy", "Trade-off", natural_against_robust),
    Section("Natural accuracy, stability and robust accuracy by width", "Decomposition", rates_against_width),
    Section("The best trials over training", "Training", accuracy_over_epochs),
    Section("The ratio of the two terms over training", "Ratio of terms", ratio_over_epochs),
    Section("Lipschitz ratio and margin", "Lipschitz and margin", lipschitz_and_margin),
    Section("Layer norms and spectra", "Layers", norms_and_spectra),
    Section("Cost by width", "Cost", cost_by_width),
    Section("Failures", "Failures", failures),
    Section("All trials", "All trials", all_trials),
    Section("How this was made", "Setting", setting),
)
