"""A validation as one HTML page: the verdicts first, then each claim's evidence, tables and figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from itertools import count
from pathlib import Path
from string import Template
from typing import NamedTuple

import pandas as pd

from robsearch.claims.form import Part, Verdict
from robsearch.report.canvas import Drawing, variables
from robsearch.report.markup import Html, definitions, html, join, row, table, tag
from robsearch.wording import counted


class Page(NamedTuple):
    """What a page shows.

    Attributes:
        title: of the validation.
        source: where the evidence comes from, such as the names of its searches.
        verdicts: one for each claim.
        tables: by caption.
        figures: with their captions.
        widths: in the order of the figures' colours.
        setting: what is needed to judge and to repeat the numbers.
    """

    title: str
    source: str
    verdicts: Sequence[Verdict]
    tables: Mapping[str, pd.DataFrame]
    figures: Sequence[Drawing]
    widths: Sequence[float]
    setting: Mapping[str, object]


def write(page: Page, path: Path) -> None:
    """Writes the page as one file that opens offline."""
    template = Template(files("robsearch.report").joinpath("page.html").read_text(encoding="utf-8"))
    sections = list(_sections(page))
    text = template.substitute(
        title=html(page.title),
        space=html(page.source),
        links="",
        light=variables(len(page.widths), dark=False),
        dark=variables(len(page.widths), dark=True),
        contents=join((tag("a", title, href=f"#part-{place}") for place, (title, _) in enumerate(sections)), " "),
        body=join(
            (
                tag("section", tag("h2", title), *parts, id=f"part-{place}")
                for place, (title, parts) in enumerate(sections)
            ),
            "\n",
        ),
    )
    path.write_text(text, encoding="utf-8")


def _sections(page: Page) -> Iterator[tuple[str, list[Html]]]:
    yield "Verdicts", [_verdicts(page.verdicts)]
    yield "What each claim rests on", [tag("div", *_claim(verdict)) for verdict in page.verdicts]
    if page.figures:
        numbers = count(1)
        yield "Figures", [_figure(drawing, next(numbers)) for drawing in page.figures]
    if page.tables:
        yield "Tables", [frame_table(caption, frame) for caption, frame in page.tables.items()]
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    yield "How this was made", [definitions([*page.setting.items(), ("page written", written)])]


def _verdicts(verdicts: Sequence[Verdict]) -> Html:
    caption = (
        "Seeds are the units. Refuted: the 95 % interval of some part lies wholly below the smallest effect that "
        "matters, which was fixed beforehand; this is not corrected for the number of parts. Supported: that of every "
        "part lies above 0, after Holm's correction over the paper's primary claims."
    )
    rows = [
        row(
            verdict.claim.name,
            [verdict.claim.sentence, tag("b", verdict.answer), f"{verdict.p_holm:.2g}", verdict.seeds, why(verdict)],
        )
        for verdict in verdicts
    ]
    return table(caption, ["claim", "sentence", "verdict", "p (Holm, one-sided)", "seeds", "why not more"], [rows])


def why(verdict: Verdict) -> str:
    """What stands in the way of an answer."""
    if verdict.reason:
        return verdict.reason
    if verdict.answer == "inconclusive":
        return (
            f"about {counted(verdict.needed, 'seed')} would decide it"
            if verdict.needed
            else "more seeds than 1,000 would be needed"
        )
    return ""


def _claim(verdict: Verdict) -> list[Html]:
    claim = verdict.claim
    rows = [row(part.effect.what, part_cells(part)) for part in verdict.parts]
    caption = f"{claim.name}. {claim.sentence} ({claim.source}) What would change our mind: {claim.change}."
    if not rows:
        return [tag("p", caption, class_="note"), tag("p", verdict.reason, class_="absent")]
    head = ["effect, claimed to be above 0", "mean [95 % interval]", "unit", "smallest that matters", "p", "seeds"]
    return [table(caption, head, [rows])]


def part_cells(part: Part) -> list[str]:
    """Mean with interval, unit, delta, p, seeds."""
    found = part.found
    return [estimated(part), part.effect.unit, f"{part.effect.delta:.3g}", f"{found.p:.2g}", str(found.n)]


def estimated(part: Part) -> str:
    """``0.27 [0.20, 0.34]``; without seeds for an interval, the mean alone."""
    mean, low, high = part.found.mean, part.found.low, part.found.high
    if low == -math.inf:
        return f"{mean:.3g}" if math.isfinite(mean) else "not measured"
    return f"{mean:.3g} [{low:.3g}, {high:.3g}]"


def frame_table(caption: str, frame: pd.DataFrame) -> Html:
    """A data frame as a table; its first column names the rows."""
    first, *others = frame.columns
    rows = [row(each[first], [each[name] for name in others]) for each in frame.to_dict("records")]
    return table(caption, [first, *others], [rows])


def _figure(drawing: Drawing, number: int) -> Html:
    caption = tag("figcaption", tag("b", f"Figure {number}."), " ", drawing.caption)
    return tag("figure", tag("div", drawing.svg, class_="scroll"), caption)
