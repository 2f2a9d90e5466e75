"""Searches with a planted law, and how their reports are read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from robsearch import report
from robsearch.drawing.formatting import THIN
from robsearch.laws import Point, ResponseSurface, fit_ridge
from robsearch.report.evidence import Evidence
from robsearch.spaces import AtLeast
from robsearch.study import ParamRange

WIDTHS = (4.0, 16.0)

STAR = {4.0: 2.0, 16.0: 4.0}
"""The planted lambda*: a law of exponent 0.5."""


@dataclass(frozen=True)
class Search:
    """What ``report.write`` needs, and nothing more."""

    trials: pd.DataFrame
    epochs: pd.DataFrame
    ridge: ResponseSurface
    name: str = "planted"
    space: str = "search_spaces.quickstart:digits"
    widths: tuple[float, ...] = WIDTHS
    links: Mapping[str, str] = field(default_factory=lambda: {"MLflow UI": "robsearch ui planted"})
    setting: Mapping[str, str] = field(
        default_factory=lambda: {"attack": "PGD(eps=8/255)", "test examples": "297"}
    )
    subject_to: tuple[AtLeast, ...] = ()
    maximise: tuple[str, ...] = ("val/robust_accuracy",)
    front: pd.DataFrame = field(default_factory=pd.DataFrame)
    layers: pd.DataFrame = field(default_factory=pd.DataFrame)
    ranges: Mapping[str, ParamRange] = field(default_factory=dict)


def trial(width: float, number: int, lam: float) -> dict[str, Any]:
    value = 0.4 + 0.01 * width - 0.02 * math.log(lam / STAR[width]) ** 2
    return {
        "trial": f"w{width:g}-{number:03d}",
        "width": width,
        "number": number,
        "control": None,
        "lam": lam,
        "state": "COMPLETE",
        "value": value,
        "best_epoch": 2,
        "epochs": 3,
        "seconds": 60.0,
        "seed": 7,
        "reason": None,
        "test/robust_accuracy": value - 0.01,
        "test/robust_accuracy_se": 0.005,
        "test/natural_accuracy": 0.8,
        "test/stability": 0.6,
        "test_last/robust_accuracy": 0.35,
        "test/lipschitz/logit_ratio/mean": 30.0 / lam,
        "test/margin/logit/mean": 2.0,
    }


def searched(rows: list[dict[str, Any]]) -> Search:
    done = [row for row in rows if row["state"] == "COMPLETE" and row["control"] is None]
    ridge = fit_ridge([Point(row["width"], row["lam"], row["value"], row["seed"]) for row in done])
    metrics = {"val/robust_accuracy": 0.3, "train/natural_loss": 1.0, "train/robust_loss": 0.2}
    epochs = [
        {"trial": row["trial"], "epoch": epoch, "train/lam": row["lam"], **metrics}
        for row in rows
        for epoch in (1, 2, 3)
    ]
    return Search(
        pd.DataFrame(rows), pd.DataFrame(epochs), ridge, layers=layers("w4-002", "w16-003")
    )


def layers(*trials: str) -> pd.DataFrame:
    """Two layers of each trial: operator norms 2 and 4, singular values of mean 1 and 2, the
    largest 3 and 6."""
    measures = {
        "norms/linf": ((2.0, 2.0), (4.0, 4.0)),
        "spectra/reshaped": ((1.0, 3.0), (2.0, 6.0)),
    }
    return pd.DataFrame(
        {
            "trial": trial,
            "width": float(trial.partition("-")[0][1:]),
            "measure": measure,
            "layer": f"layers.{place}",
            "position": place,
            "kind": "exact",
            "mean": mean,
            "max": largest,
        }
        for trial in trials
        for measure, values in measures.items()
        for place, (mean, largest) in enumerate(values)
    )


def page(search: Search, folder: Path) -> str:
    path = report.write(search, folder / "new" / "report.html")
    return path.read_text(encoding="utf-8")


def cells(text: str, first: str) -> list[str]:
    """The cells of the first table row that begins with ``first``."""
    row = next(
        row for row in re.findall(r"<tr>(.*?)</tr>", text) if bare(row.split("</th>")[0]) == first
    )
    return [bare(cell) for cell in re.findall(r"<td>(.*?)</td>", row)]


def bare(text: str) -> str:
    """Without tags, as a browser shows it."""
    return re.sub(r"[ \n]+", " ", re.sub(r"<[^>]*>", "", text)).replace(THIN, " ").strip()


def piece(make: Any, search: Search) -> str:
    """One piece of the page."""
    return report.render_piece(make, Evidence.of(search))


def drawn_axes(
    module: Any, make: Any, search: Search, monkeypatch: pytest.MonkeyPatch
) -> list[Any]:
    figures: list[Any] = []
    svg = module.svg
    monkeypatch.setattr(
        module,
        "svg",
        lambda figure, *more, **over: (figures.append(figure), svg(figure, *more, **over))[1],
    )
    make(Evidence.of(search))
    return list(figures[0].axes)


def section(text, name="λ*-by-width"):
    found = text[text.index(f'<section id="{name}">') :]
    return found[: found.index("</section>")]
