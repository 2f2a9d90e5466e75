"""A comparison as a person reads it: what to deploy and lambda*, what was measured, what differs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pandas as pd
from rich.console import RenderableType
from rich.text import Text

from robsearch.naming import names_of
from robsearch.search.comparing import OVER_SEEDS, RATES, Comparison
from robsearch.search.grid import Grid
from robsearch.search.strongest import STRONGEST
from robsearch.search.table import duration
from robsearch.study import others_than_lam, params_of, params_text

ABSENT = "-"
SHOWN = ("test/lipschitz/logit_ratio/mean", "test/margin/logit/mean")
"""The measures that are shown where there are several of a kind; the files have all."""


def shown(comparison: Comparison) -> Iterator[RenderableType]:
    """What ``robsearch compare`` prints, in parts."""
    yield strongest(comparison)
    yield deployed(comparison)
    yield judged(comparison)
    rows = comparison.rows
    for _, row in rows.iterrows():
        if others_than_lam(params := params_of(row)):
            yield Text(f"{row['trial']} of {row['search']}: {params_text(params)}")
    for problem, own in rows.groupby("lam_star_problem", sort=False)["search"]:
        yield Text(f"lambda* of {', '.join(own.unique())}: {problem}")
    for note in comparison.notes:
        yield Text(f"note: {note}")
    for label, texts in comparison.differences.items():
        yield Text(f"{label} differs: " + "; ".join(f"{text} in {name}" for name, text in texts.items()))


def strongest(comparison: Comparison) -> Grid:
    """The strongest known robust accuracy of the trial to deploy."""
    cells = [[ABSENT] * 5 if pd.isna(row[STRONGEST[0]]) else _figure(row) for _, row in comparison.rows.iterrows()]
    heads = ["best trial", "robust %", "under", "images", "best of"]
    return _table("The strongest known robust accuracy; intervals at 95 %", heads, comparison.rows, cells)


def _figure(row: pd.Series) -> list[str]:
    share, attack, on, n, low, high = (row[name] for name in STRONGEST)
    interval = f" {_percent(low)}..{_percent(high)}" if n else ""
    return [row["trial"], _percent(share) + interval, attack, f"{n:,.0f} {on}" if n else on, f"{row['best_of']:.0f}"]


def deployed(comparison: Comparison) -> Grid:
    """The trial to deploy, lambda* with its interval, and what training took."""
    rows = comparison.rows
    seeds, gpus = bool(rows["seeds"].max() > 1), "width_gpu_seconds" in rows
    heads = ["best trial", "its lam", "lambda*", "one training", "GPU time in all" if gpus else "trained in all"]
    heads += ["robust % over seeds"] if seeds else []
    cells = [
        [
            ABSENT if pd.isna(row["trial"]) else row["trial"],
            _number(row["lam"]),
            _within(row, "lam_star", _number),
            duration(row["trial_seconds"]),
            duration(row["width_gpu_seconds" if gpus else "width_seconds"]),
            *([_over_seeds(row)] if seeds else []),
        ]
        for _, row in rows.iterrows()
    ]
    title = "The trial to deploy, best on val; lambda* from the trials that were fitted; intervals at 95 %"
    return _table(title, heads, rows, cells)


def judged(comparison: Comparison) -> Grid:
    """Rates, Lipschitz and margin of the trial to deploy, each with its interval."""
    measures = chosen(comparison.measures)
    heads = [f"{name.split('/')[1].removesuffix('_accuracy')} %" for name in RATES]
    heads += [" ".join(name.split("/")[1:-1]) for name in measures]
    cells = [
        [_within(row, name, _percent) for name in RATES] + [_within(row, name, _number) for name in measures]
        for _, row in comparison.rows.iterrows()
    ]
    return _table("The same trials on test; intervals at 95 % over test images", heads, comparison.rows, cells)


def chosen(measures: list[str]) -> list[str]:
    """One Lipschitz and one margin measure."""
    kinds = [[name for name in measures if name.startswith(f"test/{kind}/")] for kind in ("lipschitz", "margin")]
    return [next((name for name in of_kind if name in SHOWN), of_kind[0]) for of_kind in kinds if of_kind]


def _table(title: str, heads: list[str], rows: pd.DataFrame, cells: list[list[str]]) -> Grid:
    widths = names_of(rows["width"])
    names = [[widths[row["width"]], str(row["search"])] for _, row in rows.iterrows()]
    whole = [[*name, *of_row] for name, of_row in zip(names, cells, strict=True)]
    return Grid(["width", "search", *heads], whole, Text(title, style="bold"), keys=2)


def _over_seeds(row: pd.Series) -> str:
    return ABSENT if row["seeds"] < 2 else f"{_within(row, OVER_SEEDS, _percent)} ({row['seeds']})"


def _within(row: pd.Series, name: str, text: Callable[[float], str]) -> str:
    """The number, and its interval without a space, so that it wraps between the two."""
    number, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if not math.isfinite(number):
        return ABSENT
    return text(number) if math.isnan(low) else f"{text(number)} {text(low)}..{text(high)}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _number(number: float) -> str:
    return f"{number:.3g}" if math.isfinite(number) else ABSENT
