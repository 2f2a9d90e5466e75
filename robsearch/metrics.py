"""Names of metrics: what a trial records of each epoch and of the test split, and what decides."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TypeAlias

Metrics: TypeAlias = dict[str, float]

VALUE = "val/robust_accuracy"
"""What selection maximises; a trial's value is this metric at its best epoch."""

VAL_NATURAL = "val/natural_accuracy"

TEST_ROBUST = "test/robust_accuracy"
TEST_NATURAL = "test/natural_accuracy"
TEST_STABILITY = "test/stability"
TEST_EPOCH = "test/epoch"
"""The epoch whose model was measured."""

LAM = "train/lam"
NATURAL_LOSS = "train/natural_loss"
ROBUST_LOSS = "train/robust_loss"
APART = {
    "train/natural_loss_right": (NATURAL_LOSS, False),
    "train/robust_loss_right": (ROBUST_LOSS, False),
    "train/natural_loss_wrong": (NATURAL_LOSS, True),
    "train/robust_loss_wrong": (ROBUST_LOSS, True),
}
"""The same over the images whose label is right, and over those whose label is wrong, where a data
set has ``label_noise``."""
LEARNING_RATE = "train/learning_rate"
MICRO_BATCH = "train/micro_batch"

TRAIN_SECONDS = "time/train_seconds"
EPOCH_SECONDS = "time/epoch_seconds"
EPOCH_GPU_SECONDS = "time/gpu_seconds"
IMAGES_PER_SECOND = "time/images_per_second"
MEASURE_SECONDS = "time/measure_seconds"
MEASURE_GPU_SECONDS = "time/measure_gpu_seconds"

RATES = {
    "natural_accuracy": "natural",
    "robust_accuracy": "robust",
    "stability": "stable",
    "wrong_to_right": "wrong_to_right",
}
"""Names of the accuracy family on any split, and the fields of ``measures.Rates`` they average."""


def wilson(share: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """The interval for a share of ``n`` examples (Wilson 1927, doi 10.1080/01621459.1927.10502953).

    The shares that a score test does not reject: inside [0, 1], also where the share is 0 or 1.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def paired_difference(first: int, second: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The interval for the difference of two shares of the same ``n`` examples (Agresti and Min
    2005, Statistics in Medicine 24, 729-740: Wald's, with half an example more in each of the four
    cells).

    Args:
        first: examples that count towards the first share alone.
        second: towards the second share alone.
        n: all examples.
        level: of the interval.

    Returns:
        Both ends for the first share less the second, inside [-1, 1].
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    larger = n + 2
    middle = (first - second) / larger
    half = z * math.sqrt(first + second + 1 - (first - second) ** 2 / larger) / larger
    return max(middle - half, -1.0), min(middle + half, 1.0)
