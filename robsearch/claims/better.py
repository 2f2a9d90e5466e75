"""Is one search better than another? The networks that would be deployed, paired over the images of
``test`` and, where there are several of each, over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from robsearch.claims.images import IMAGES, NUMBER, from_bits, with_images
from robsearch.claims.statistics import LEAST_SEEDS, LEVEL, crossed_estimate
from robsearch.drawing.formatting import names_of
from robsearch.errors import counted
from robsearch.metrics import TEST_NATURAL, TEST_ROBUST, paired_difference
from robsearch.search import Search
from robsearch.search.commands.compare import seeds_of, trained_at

METRICS = {TEST_ROBUST: "robust", TEST_NATURAL: "natural"}
Over = Literal["seeds and images", "seeds", "images"]


class Difference(NamedTuple):
    """How much more accurate the network of one search is than that of another, at one width.

    Attributes:
        search: whose accuracy it is.
        than: whose is subtracted.
        width: of both networks.
        metric: of ``test``.
        points: the difference in percentage points: means over seeds.
        low: the lower end of its 95 % interval.
        high: the upper end.
        over: what the interval is over. ``seeds and images``: at least three seeds that both
            have, each judged on the same images. ``seeds``: at least three of each, not the same.
            ``images``: single networks; it says nothing of other seeds.
        seeds: of each search.
        images: of ``test``.
        times_as_long: seconds of all trainings at the width, as a multiple of the other's.
    """

    search: str
    than: str
    width: float
    metric: str
    points: float
    low: float
    high: float
    over: Over
    seeds: tuple[int, int]
    images: int
    times_as_long: float

    @property
    def answer(self) -> str:
        """Which is better, as far as the interval tells."""
        if self.low > 0:
            return f"{self.search} is better"
        if self.high < 0:
            return f"{self.than} is better"
        return "no difference is shown"


def better(search: Search, than: Search) -> list[Difference]:
    """The differences of two searches that were judged alike, at each width that both have.

    Args:
        search: whose accuracies are on the plus side.
        than: whose are subtracted.

    Returns:
        Natural and robust accuracy on ``test`` at each width where both have a best trial that was
        measured; empty where the test images are not the same number.
    """
    differences = []
    for width in sorted({*search.widths} & {*than.widths}):
        ours = _deployed(search, width)
        theirs = _deployed(than, width)
        if ours is not None and theirs is not None:
            longer = _seconds(search, width) / max(_seconds(than, width), 1e-9)
            names = (search.name, than.name)
            differences += list(_differences(names, width, ours, theirs, longer))
    return differences


def _deployed(search: Search, width: float) -> pd.DataFrame | None:
    """The trainings of the best trial's suggestion, with their images."""
    best = search.best(width)
    if best is None:
        return None
    trials = with_images(seeds_of(search, best), search.folder / "trials")
    known = trials[NUMBER].notna().sum() if NUMBER in trials else 0
    if known < LEAST_SEEDS:
        # Of fewer seeds nothing is said: the network that would be deployed stands for itself.
        trials = trials[trials["trial"] == best["trial"]]
    return trials


def _seconds(search: Search, width: float) -> float:
    return float(trained_at(search, width)["seconds"].sum())


def _differences(
    names: tuple[str, str],
    width: float,
    ours: pd.DataFrame,
    theirs: pd.DataFrame,
    longer: float,
) -> Iterator[Difference]:
    for metric in METRICS:
        tables = [_rights(trials, metric) for trials in (ours, theirs)]
        a, b = tables
        if a.empty or b.empty or a.shape[1] != b.shape[1]:
            continue
        mean, low, high, over = _estimate(a, b)
        seeds = (len(a), len(b))
        if over == "seeds and images":
            seeds = (len(a.index.intersection(b.index)),) * 2
        yield Difference(
            *names,
            width,
            metric,
            100 * mean,
            100 * low,
            100 * high,
            over,
            seeds,
            a.shape[1],
            longer,
        )


def _rights(trials: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Whether each image is right, a row for each seed; a training of which that is not known is
    left out."""
    rows = {}
    column = f"{IMAGES}{metric}"
    if column not in trials:
        return pd.DataFrame()
    for seed, bits, images in zip(trials["seed"], trials[column], trials[NUMBER], strict=True):
        if isinstance(bits, bytes):
            rows[seed] = from_bits(bits, int(images))
    return pd.DataFrame.from_dict(rows, orient="index")


def _estimate(a: pd.DataFrame, b: pd.DataFrame) -> tuple[float, float, float, Over]:
    """The mean difference of shares, its interval, and what that is over."""
    common = a.index.intersection(b.index)
    if len(common) >= LEAST_SEEDS:
        paired = crossed_estimate(a.loc[common].to_numpy() - b.loc[common].to_numpy())
        return paired.mean, paired.low, paired.high, "seeds and images"
    if min(len(a), len(b)) >= LEAST_SEEDS:
        # Welch (1947): the two have variances of their own.
        of_a = a.mean(axis=1)
        of_b = b.mean(axis=1)
        # Seeds that all agree tell nothing of their spread.
        if of_a.nunique() > 1 or of_b.nunique() > 1:
            result = stats.ttest_ind(of_a, of_b, equal_var=False)
            low, high = result.confidence_interval(LEVEL)
            return float(of_a.mean() - of_b.mean()), float(low), float(high), "seeds"
    by_image = a.mean(axis=0).to_numpy() - b.mean(axis=0).to_numpy()
    if len(a) == len(b) == 1:
        ahead = int((by_image > 0).sum())
        behind = int((by_image < 0).sum())
        low, high = paired_difference(ahead, behind, len(by_image), LEVEL)
        return float(by_image.mean()), low, high, "images"
    error = float(by_image.std(ddof=1)) / math.sqrt(len(by_image))
    reach = float(stats.norm.ppf((1 + LEVEL) / 2)) * error
    mean = float(np.mean(by_image))
    return mean, mean - reach, mean + reach, "images"


def difference_lines(differences: list[Difference]) -> Iterator[str]:
    """What ``robsearch compare A B`` says of them, a sentence each."""
    names = names_of(pd.Series([each.width for each in differences], dtype=float))
    for each in differences:
        kind = METRICS[each.metric]
        interval = f"{each.points:+.1f} [{each.low:+.1f}, {each.high:+.1f}] points {kind}"
        yield (
            f"width {names[each.width]}: {each.answer}: {each.search} less {each.than} "
            f"{interval} ({_basis(each)}), in {each.times_as_long:.2g} times the training time"
        )


def _basis(difference: Difference) -> str:
    images = counted(difference.images, "image")
    first, second = difference.seeds
    match difference.over:
        case "seeds and images":
            return f"95 %, {counted(first, 'paired seed')} x {images}"
        case "seeds":
            return f"95 %, over {first} and over {counted(second, 'seed')}, {images}"
    networks = "one network each"
    if (first, second) != (1, 1):
        networks = f"means over {first} and over {counted(second, 'seed')}"
    return f"95 %, {networks}, {images}: other seeds may differ more"
