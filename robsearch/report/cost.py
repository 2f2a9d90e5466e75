"""What the trainings of each width cost: time, memory, speed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.lines import Line2D

from robsearch.drawing.style import (
    JOINED,
    SOFT,
    filled,
    legend,
    log_axis,
    panels,
    svg,
    width_axis,
    width_entries,
)
from robsearch.metrics import MEASURE_SECONDS
from robsearch.report.evidence import CPU_MEMORY, GPU_MEMORY, SPEED, Evidence, LeftOutError


def cost_by_width(evidence: Evidence) -> dict[str, Any]:
    """Per width the sums and medians of all its trainings, pruned, failed, controls and scouts too,
    as far as they got."""
    if evidence.epochs.empty:
        raise LeftOutError("no epoch has ended yet")
    on_gpu = evidence.epochs[GPU_MEMORY].notna().any()
    memory = GPU_MEMORY if on_gpu else CPU_MEMORY
    costs = []
    for width, _, trials in evidence.by_width(evidence.all_trials):
        epochs = evidence.epochs[evidence.epochs["trial"].isin(trials["trial"])]
        # A trial without an epoch has cost nothing that is known.
        begun = trials[trials["trial"].isin(epochs["trial"])]
        costs.append(
            {
                "width": width,
                "trainings": len(begun),
                "seconds": recorded(begun["seconds"].sum()),
                "gpu_seconds": recorded(trials["gpu_seconds"].sum()),
                "median": recorded(begun["seconds"].median()),
                "speed": epochs[SPEED].median(),
                "memory": epochs[memory].max(),
                "measuring": trials[MEASURE_SECONDS].sum(min_count=1),
            }
        )
    failed_seconds = evidence.all_trials["failed_seconds"].sum()
    return {"costs": costs, "on_gpu": on_gpu, "failed_seconds": failed_seconds}


def recorded(seconds: float) -> float:
    """The same, NaN where it is 0: a search that was recorded without costs, or trained without a
    GPU."""
    return seconds or math.nan


def time_by_width(evidence: Evidence) -> dict[str, Any] | None:
    """How long each finished training took, against width, where there are several widths: a mark
    per training, and the median of each width."""
    trials = evidence.finished[evidence.finished["seconds"] > 0]
    if trials["width"].nunique() < 2:
        return None
    figure, (axes,) = panels(2.8)
    medians = trials.groupby("width")["seconds"].median()
    axes.plot(medians.index, medians, **JOINED)
    drawn = evidence.drawn(trials, np.log(trials["width"]), np.log(trials["seconds"]))
    for _, (color, marker), rows in evidence.by_width(drawn):
        axes.plot(rows["width"], rows["seconds"], marker, **filled(color))
    axes.set(xlabel="width", ylabel="time of a training (s)")
    width_axis(axes, evidence.widths)
    log_axis(axes, "y")
    spots = evidence.spots(axes, drawn, drawn["width"], drawn["seconds"])
    median = Line2D([], [], color=SOFT), "median"
    legend(figure, [*width_entries(evidence.widths, line=False), median])
    label = "Time of a training against width"
    return {"trials": trials, "svg": svg(figure, "times", label, spots)}
