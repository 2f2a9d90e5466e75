"""Whether single images of ``test`` are right, by training: with them an interval also holds for
other test images, not only for other seeds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from robsearch.claims.seeds import Numbers, contrast, in_points
from robsearch.claims.statistics import Effect, Estimate, crossed_estimate, estimate
from robsearch.trials.files import read_parquet, unless_damaged

IMAGES = "images/"
"""``images/test/robust_accuracy``: which images are right, in their order, one bit each, eight a
byte. None for a training of which that is not known."""
NUMBER = "test_images"
"""The column of how many images ``test`` has."""
COLUMNS = {
    "test/natural_accuracy": "natural_accuracy",
    "test/robust_accuracy": "robust_accuracy",
    "test_last/natural_accuracy": "last_natural_accuracy",
    "test_last/robust_accuracy": "last_robust_accuracy",
}
"""Metrics, and the columns of a trial's ``test.parquet`` that they average."""


def with_images(trials: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The trials with ``images/METRIC`` for each of ``COLUMNS``, and ``test_images``.

    Args:
        trials: with ``trial``.
        folder: of the trials' folders.
    """
    rows = []
    for trial in trials["trial"]:
        table = unless_damaged(read_parquet, folder / str(trial) / "test.parquet")
        rows.append({} if table is None else dict(_of_table(table)))
    images = pd.DataFrame(rows, index=trials.index, dtype=object)
    return trials.join(images.where(images.notna(), None))


def _of_table(table: pa.Table) -> Iterator[tuple[str, object]]:
    if "index" not in table.column_names:
        # Which image a row is of is not known.
        return
    table = table.sort_by("index")
    yield NUMBER, table.num_rows
    for metric, column in COLUMNS.items():
        if column in table.column_names:
            yield f"{IMAGES}{metric}", as_bits(table[column].to_numpy())


def as_bits(rights: np.ndarray) -> bytes:
    """One bit for each image."""
    return np.packbits(rights > 0.5).tobytes()


def accuracy_effect(
    what: str,
    trials: pd.DataFrame,
    metric: str,
    arm: str,
    other: str,
    delta: float,
    *,
    more: float = 0.0,
    expected: float | None = None,
) -> Effect:
    """An accuracy of one arm less that of another, in points, paired by seed.

    Its interval is over seeds and images of ``test`` where both are known image by image, else over
    seeds alone.

    Args:
        what: see ``Effect``.
        trials: as ``contrast`` takes them; with ``images/METRIC`` and ``test_images``, or without.
        metric: the column of the accuracy.
        arm: of which it is.
        other: that is subtracted.
        delta: see ``Effect``.
        more: points that are added to each difference.
        expected: see ``Effect``.
    """
    per_seed = tuple(points + more for points in in_points(contrast(trials, metric, arm, other)))
    by_image = image_differences(trials, metric, arm, other)
    exact = None
    if by_image is not None and len(by_image) == len(per_seed):
        exact = crossed_estimate(100 * by_image + more)
    return Effect(what, "points", per_seed, delta, exact, expected)


def points_apart(trials: pd.DataFrame, metric: str, arm: str, other: str) -> Estimate:
    """The estimate of ``accuracy_effect``."""
    effect = accuracy_effect("", trials, metric, arm, other, 0.0)
    return effect.exact or estimate(effect.per_seed)


def image_differences(
    trials: pd.DataFrame,
    metric: str,
    arm: str,
    other: str,
) -> Numbers | None:
    """Of each image whether one arm is right less whether another is, averaged over the widths that
    both have: (seeds, images), or None where it is not known."""
    column = f"{IMAGES}{metric}"
    if column not in trials or trials[NUMBER].isna().all():
        return None
    table = trials.pivot(index=["seed", "width"], columns="arm", values=column)
    if not {arm, other} <= set(table):
        return None
    images = int(trials[NUMBER].dropna().iloc[0])
    # An arm may be held against itself, so the two columns have names of their own.
    pairs = pd.DataFrame({"ours": table[arm], "theirs": table[other]}).dropna()
    by_seed: dict[int, list[Numbers]] = {}
    for seed, ours, theirs in zip(
        pairs.index.get_level_values("seed"), pairs["ours"], pairs["theirs"], strict=True
    ):
        difference = from_bits(ours, images) - from_bits(theirs, images)
        by_seed.setdefault(seed, []).append(difference)
    return np.array([np.mean(widths, axis=0) for widths in by_seed.values()]) if by_seed else None


def from_bits(bits: bytes, images: int) -> Numbers:
    """0 or 1 for each image."""
    numbers = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=images)
    return numbers.astype(float)
