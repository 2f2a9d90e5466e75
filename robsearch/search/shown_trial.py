"""One trial of a search, as a person looks at it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from robsearch.drawing.formatting import ABSENT, duration, exactly
from robsearch.drawing.notebook import paragraph, table
from robsearch.search.strongest import Figure, figure_of
from robsearch.study import params_of, params_text

RATES = ("natural_accuracy", "robust_accuracy", "stability")


@dataclass(frozen=True, eq=False)
class ShownTrial:
    """One trial: a recipe at one width with one seed.

    Attributes:
        row: its row of ``Search.trials``.
        epochs: its rows of ``Search.epochs``.
        folder: where all of it lies.
    """

    row: pd.Series = field(repr=False)
    epochs: pd.DataFrame = field(repr=False)
    folder: Path

    @property
    def name(self) -> str:
        """Such as ``w4-017``."""
        return str(self.row["trial"])

    @property
    def strongest(self) -> Figure | None:
        """Its strongest known robust accuracy; None before its first epoch."""
        return figure_of(self.row)

    def _repr_html_(self) -> str:
        """What a notebook shows: what was tried, what came of it, and the rates on ``val`` at the
        best epoch and on ``test``."""
        rates = [
            [name.replace("_", " "), *(self._rate(f"{split}/{name}") for split in ("val", "test"))]
            for name in RATES
        ]
        facts = [[label, text] for label, text in self._facts().items() if text]
        shown = paragraph(self.row["state"], self.name) + table(["", ""], facts)
        return shown + table(["", "val", "test"], rates)

    def _facts(self) -> dict[str, str]:
        row = self.row
        strongest = self.strongest
        return {
            "width": exactly(row["width"]),
            "lambda": _text(row["lam"], ".3g"),
            "suggested": params_text(params_of(row)),
            "seed": _text(row["seed"], ".0f"),
            "epochs": f"{_text(row['epochs'], '.0f')} of {_text(row['recipe_epochs'], '.0f')}",
            "best epoch": _text(row["best_epoch"], ".0f"),
            "trained for": duration(row["seconds"]),
            "strongest figure": strongest.text if strongest else "",
            "reason": _text(row["reason"], ""),
            "folder": str(self.folder),
        }

    def _rate(self, name: str) -> str:
        # Robust accuracy on ``val`` is what decides, and has a column of its own.
        rate = self.row["value"] if name == "val/robust_accuracy" else self.row.get(name)
        return _text(rate, ".1%") or ABSENT


def _text(cell: Any, how: str) -> str:
    """A cell as text; empty where the trial has none."""
    return "" if pd.isna(cell) else format(cell, how)
