"""What the trainings of each width cost: time, memory, speed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

from matplotlib.lines import Line2D
from pandas import DataFrame, concat, to_numeric

from robsearch.costs import MEASURE

from .answer import swatch
from .canvas import (
    SOFT,
    Drawing,
    filled,
    legend,
    log_axis,
    look,
    panels,
    svg,
    tone,
    width_axis,
    width_entries,
)
from .evidence import Evidence, LeftOutError
from .hover import layer, spots
from .markup import Html, row, table
from .numerals import duration, plain, whole

GPU_MEMORY, CPU_MEMORY = "memory/peak_gib", "memory/peak_rss_gib"
HEAD = (
    "Width", "Trainings", "Time in all", "GPU time", "One training, median", "Images a second, median",
    "Peak memory, GiB", "Measuring, in all",
)  # fmt: skip


def cost_by_width(evidence: Evidence) -> list[Html | Drawing]:
    """One row per width: all its trainings, pruned, failed, controls and scouts too, as far as they got."""
    if evidence.epochs.empty:
        raise LeftOutError("no epoch has ended yet")
    rows = [row(swatch(place, plain(width)), cells(evidence, width)) for place, width in enumerate(evidence.widths)]
    listed: Html = table(caption(evidence), HEAD, [rows])
    several = evidence.finished[evidence.finished["seconds"] > 0]["width"].nunique() > 1
    return [listed, times(evidence)] if several else [listed]


def times(evidence: Evidence) -> Drawing:
    """How long each finished training took, against width, and the median of each width."""
    finished = evidence.finished[evidence.finished["seconds"] > 0]
    middle = finished.groupby("width")["seconds"].median()
    with look():
        figure, (axes,) = panels(2.8)
        axes.plot(middle.index, middle, color=SOFT, linewidth=1.0, zorder=1.5)
        for width in evidence.widths:
            own = finished[finished["width"] == width]
            color, marker = tone(evidence.widths, width)
            axes.plot(own["width"], own["seconds"], marker, **filled(color))
        axes.set(xlabel="width", ylabel="time of a training (s)")
        width_axis(axes, evidence.widths)
        log_axis(axes, "y")
        found = spots(axes, evidence, finished, finished["width"], finished["seconds"])
        legend(figure, [*width_entries(evidence.widths, line=False), (Line2D([], [], color=SOFT), "median")])
        drawn = svg(figure, "times", "Time of a training against width", partial(layer, found=found))
    told = "How long each finished training took, with its judging on validation, both axes logarithmic. Line: the "
    return Drawing(drawn, f"{told}median of each width. {evidence.sample(finished, 'finished trial')}.")


def caption(evidence: Evidence) -> str:
    """What counts, and whose memory it is."""
    on_gpu = GPU_MEMORY in evidence.epochs
    memory = "what tensors took on the GPU at once" if on_gpu else "that of the whole worker process, which trains many"
    among = "pruned and failed ones and controls" + (", and those of lower fidelity" if len(evidence.scouts) else "")
    return (
        f"All trainings of a width as far as they got, {among} among them; an epoch that "
        f"was done again after an interruption counts once. GPU time is that of training and measuring, times the GPUs "
        f"held.{failures(evidence)} Peak memory is {memory}."
    )


def failures(evidence: Evidence) -> str:
    """What failed trials took, with what came after their last epochs; empty where none failed."""
    seconds = known(evidence.search.trials, "failed_seconds", "sum")
    return "" if math.isnan(seconds) else f" Trials that failed took {duration(seconds)} in all."


def cells(evidence: Evidence, width: float) -> Iterator[object]:
    """A width's cells after its name."""
    trials = [frame[frame["width"] == width] for frame in (evidence.trials, evidence.controls, evidence.scouts)]
    all_of_them = concat(trials)
    epochs = evidence.epochs[evidence.epochs["trial"].isin(all_of_them["trial"])]
    begun = all_of_them[all_of_them["trial"].isin(epochs["trial"])]
    yield whole(len(begun))
    yield duration(known(begun, "seconds", "sum"))
    yield duration(known(all_of_them, "gpu_seconds", "sum"))
    yield duration(known(begun, "seconds", "median"))
    yield whole(of(epochs, "time/images_per_second", "median"))
    yield plain(of(epochs, GPU_MEMORY if GPU_MEMORY in epochs else CPU_MEMORY, "max"))
    yield duration(of(all_of_them, MEASURE, "sum"))


def known(frame: DataFrame, column: str, statistic: str) -> float:
    """The same, NaN where all are 0: a search that was recorded without costs, or trained without a GPU."""
    return of(frame, column, statistic) or math.nan


def of(frame: DataFrame, column: str, statistic: str) -> float:
    """A statistic of a column's numbers, NaN where there are none."""
    if column not in frame:
        return math.nan
    values = to_numeric(frame[column], errors="coerce").dropna()
    return float(getattr(values, statistic)()) if len(values) else math.nan
