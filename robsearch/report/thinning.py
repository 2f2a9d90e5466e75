"""Which of thousands of trials a figure draws: those that others of their width do not cover.

A page with every mark of 5,000 trials is slow to make, to send and to scroll, and shows a blot.
Where there are more trials than a reader could tell apart, one of each cell of a grid over the
figure stands for all in it. Curves, means and counts are those of all trials.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from pandas import DataFrame, Series

MOST_DRAWN = 300
"""Trials that one panel draws, for about; a search with fewer has all of them."""
FINEST = 128
"""Cells along each axis at first; a mark is about as wide as one."""


def uncovered(
    rows: DataFrame, x: Series[float], y: Series[float], always: Series[bool]
) -> Series[bool]:
    """Which of the rows are drawn: all, or of each cell and width the last, which lies on top.

    Args:
        rows: with their ``width``.
        x: where each is drawn, on an axis that is drawn evenly (of a log axis the log).
        y: the same.
        always: those that are drawn in any case.
    """
    if len(rows) <= MOST_DRAWN:
        return pd.Series(True, rows.index)
    cells = float(FINEST)
    shares = {"x": _share(x), "y": _share(y)}
    while True:
        cell_of = {name: np.floor(share * cells) for name, share in shares.items()}
        drawn = ~DataFrame({"width": rows["width"], **cell_of}).duplicated(keep="last")
        if drawn.sum() <= MOST_DRAWN or cells < 2:
            return drawn | always
        cells /= 1.2


def _share(values: Series[float]) -> Series[float]:
    """From 0 to 1 over what is finite."""
    finite = values[np.isfinite(values)]
    span = finite.max() - finite.min()
    return (values - finite.min()) / span if span > 0 else values * 0
