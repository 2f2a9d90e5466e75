"""A validation as one HTML page: the verdicts first, then each claim's evidence, tables and
figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from robsearch.claims.claim import Verdict, estimated, why
from robsearch.claims.experiment import Findings
from robsearch.drawing.notebook import paragraph, table
from robsearch.drawing.pages import render, render_page
from robsearch.drawing.style import Drawing
from robsearch.trials.files import make_way

PACKAGE = "robsearch.claims"
REPORT = "report.html"
SECTIONS = {
    "verdicts": "Verdicts",
    "evidence": "What each claim rests on",
    "figures": "Figures",
    "tables": "Tables",
    "setting": "How this was made",
}
"""The titles, by the name of the template and of the anchor."""


@dataclass(frozen=True)
class Validation:
    """A paper's claims, judged.

    Attributes:
        name: of the validation; its searches are called ``NAME-EXPERIMENT``.
        folder: where the verdicts, the tables and the page lie.
        verdicts: one for each claim.
        findings: the evidence, by experiment.
        tables: what else the study shows, by caption.
        figures: the effects with their intervals, and those of the study.
    """

    name: str
    folder: Path
    verdicts: tuple[Verdict, ...]
    findings: Findings
    tables: Mapping[str, pd.DataFrame]
    figures: Sequence[Drawing]

    def _repr_html_(self) -> str:
        """What a notebook shows: the claims with their verdicts, and where the page is."""
        heads = ["claim", "", "verdict", "seeds", ""]
        rows = [
            [each.claim.name, each.claim.sentence, each.answer, each.seeds, why(each)]
            for each in self.verdicts
        ]
        return table(heads, rows) + paragraph(self.folder / REPORT, "Page")


def write(validation: Validation, widths: int, setting: Mapping[str, object]) -> None:
    """Writes the page as one file that opens offline.

    Args:
        validation: what is shown.
        widths: how many colours its figures need.
        setting: what is needed to judge and to repeat the numbers; ``searches`` among it, the names
            of those that the evidence comes from.
    """
    sections = []
    for name, title in SECTIONS.items():
        # A study may have no figures or no tables; the other sections are never empty.
        if getattr(validation, name, True):
            content = render(
                PACKAGE,
                f"{name}.html",
                validation=validation,
                setting=setting,
                why=why,
                estimated=estimated,
            )
            sections.append({"anchor": name, "short": title, "title": title, "content": content})
    text = render_page(
        PACKAGE,
        "page.html",
        widths,
        title=validation.name,
        source=setting["searches"],
        sections=sections,
    )
    report = validation.folder / REPORT
    make_way(report)
    report.write_text(text, encoding="utf-8")
