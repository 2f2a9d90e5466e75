"""What the trainings of each width cost: time, memory, speed."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pandas import DataFrame, concat, to_numeric

from .answer import swatch
from .evidence import Evidence, LeftOutError
from .markup import ABSENT, Html, row, table
from .numerals import duration, plain, whole

GPU_MEMORY, CPU_MEMORY = "memory/peak_gib", "memory/peak_rss_gib"
HEAD = (
    "Width", "Trainings", "Time in all", "GPU time", "One training, median", "Images a second, median",
    "Peak memory, GiB", "Measuring, in all",
)  # fmt: skip


def cost_by_width(evidence: Evidence) -> Html:
    """One row per width: all its trainings, pruned, failed, controls and scouts too, as far as they got."""
    if evidence.epochs.empty:
        raise LeftOutError("no epoch has ended yet")
    rows = [row(swatch(place, plain(width)), cells(evidence, width)) for place, width in enumerate(evidence.widths)]
    return table(caption(evidence), HEAD, [rows])


def caption(evidence: Evidence) -> str:
    """What counts, and whose memory it is."""
    on_gpu = GPU_MEMORY in evidence.epochs
    memory = "what tensors took on the GPU at once" if on_gpu else "that of the whole worker process, which trains many"
    among = "pruned and failed ones and controls" + (", and those of lower fidelity" if len(evidence.scouts) else "")
    return (
        f"All trainings of a width as far as they got, {among} among them; an epoch that "
        f"was done again after an interruption counts once. Peak memory is {memory}."
    )


def cells(evidence: Evidence, width: float) -> Iterator[object]:
    """A width's cells after its name."""
    trials = [frame[frame["width"] == width] for frame in (evidence.trials, evidence.controls, evidence.scouts)]
    epochs = evidence.epochs[evidence.epochs["trial"].isin([name for frame in trials for name in frame["trial"]])]
    seconds = epochs.groupby("trial")["time/epoch_seconds"].sum() if "time/epoch_seconds" in epochs else None
    yield whole(epochs["trial"].nunique())
    yield ABSENT if seconds is None else duration(float(seconds.sum()))
    yield duration(of(epochs, "time/gpu_seconds", "sum"))
    yield ABSENT if seconds is None else duration(float(seconds.median()))
    yield whole(of(epochs, "time/images_per_second", "median"))
    yield plain(of(epochs, GPU_MEMORY if GPU_MEMORY in epochs else CPU_MEMORY, "max"))
    yield duration(of(concat(trials), "time/measure_seconds", "sum"))


def of(frame: DataFrame, column: str, statistic: str) -> float:
    """A statistic of a column's numbers, NaN where there are none."""
    if column not in frame:
        return math.nan
    values = to_numeric(frame[column], errors="coerce").dropna()
    return float(getattr(values, statistic)()) if len(values) else math.nan
