"""A finished ladder as numbers: robust accuracy on each rung, and whether rungs disagree on the
order of models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from robsearch.errors import refusal, refuse, refuse_unless, refused
from robsearch.metrics import Metrics, wilson
from robsearch.trials.ladder.files import Bools, Facts, facts_of, read

NATURAL = "natural"
"""The rung without an attack."""
Alternative: TypeAlias = Literal["two-sided", "greater"]


class RungResult(NamedTuple):
    """The robust accuracy of a model on one rung.

    Attributes:
        rung: ``natural`` (no attack), or one of ``RUNGS``.
        attacks: all that were run up to here, in this order.
        n: images.
        robust_accuracy: share classified correctly and turned by none of ``attacks``.
        low: lower end of its 95 % interval (Wilson 1927, doi 10.1080/01621459.1927.10502953).
        high: upper end.
        attacked: images that stood when this rung's own attacks began; 0 where it has none.
        broken: those of them that they turned.
        seconds: wall time of this rung's own attacks, summed over all chunks, whenever they were
            run.
    """

    rung: str
    attacks: tuple[str, ...]
    n: int
    robust_accuracy: float
    low: float
    high: float
    attacked: int
    broken: int
    seconds: float


def read_ladder(folder: Path) -> pa.Table:
    """The ladder that ``run_ladder`` wrote into a folder last.

    Returns:
        One row per image, in the split's order: ``index``, ``label``, ``natural`` (classified
        correctly without an attack), ``broken_by`` (the attack that turned it; null where it stood,
        or was wrong to begin with). What it was measured with is in the schema's metadata.

    Raises:
        InputError: there is none, or it is damaged.
    """
    file = folder / "ladder.parquet"
    do = "run the ladder to its end first"
    refuse_unless((file.exists(), f"a ladder in {folder}", "none", do))
    try:
        return read(file)[0]
    except ValueError as error:
        do = "run it again: it takes up what is there"
        raise refused(f"a ladder in {file}", error, do) from error


def rung_results(table: pa.Table) -> list[RungResult]:
    """The rungs that a ladder has finished, natural accuracy first.

    Args:
        table: from ``read_ladder``.

    Raises:
        InputError: the table is not a ladder.
    """
    seconds = ladder_facts(table)["seconds"]
    results = []
    attacks: tuple[str, ...] = ()
    n = len(table)
    before = n
    for rung, names, robust in robust_by_rung(table):
        after = int(robust.sum())
        share = after / n
        low, high = wilson(share, n)
        attacked = broken = 0
        if rung != NATURAL:
            attacks += names
            attacked = before if names else 0
            broken = before - after
        own_seconds = sum(seconds[attack] for attack in names)
        result = RungResult(
            rung,
            attacks,
            n,
            share,
            low,
            high,
            attacked,
            broken,
            own_seconds,
        )
        results.append(result)
        before = after
    return results


def robust_by_rung(table: pa.Table) -> Iterator[tuple[str, tuple[str, ...], Bools]]:
    """Each rung that a ladder has finished, its own attacks, and which images are classified
    correctly and turned by no attack up to there."""
    broken_by = table["broken_by"].to_numpy().astype(str)
    robust: Bools = table["natural"].to_numpy()
    for rung, names in ladder_facts(table)["rungs"].items():
        robust = robust & ~np.isin(broken_by, names)
        yield rung, tuple(names), robust


def ladder_facts(table: pa.Table) -> Facts:
    """What a ladder was measured with.

    Raises:
        InputError: the table is not a ladder.
    """
    try:
        facts = facts_of(table)
    except ValueError:
        facts = {}
    got = "one without its metadata"
    refuse_unless(("rungs" in facts, "a ladder's table", got, "pass what read_ladder returns"))
    return facts


class RankReversal(NamedTuple):
    """Two models whose order on a cheap rung is reversed on a dear one.

    Attributes:
        first: the one ahead on the lower rung.
        second: the other.
        lower: the cheaper rung.
        higher: the dearer rung.
        ahead: robust accuracy of ``first`` minus that of ``second`` on the lower rung, in points:
            above 0.
        behind: that of ``second`` minus that of ``first`` on the higher rung, in points: above 0.
        p: of the higher rung's difference by McNemar's exact test (two-sided), on the images that
            only one of the two holds. It is for this pair and rung alone: among many, one in twenty
            falls below 0.05 by chance.
    """

    first: str
    second: str
    lower: str
    higher: str
    ahead: float
    behind: float
    p: float

    @property
    def beyond_noise(self) -> bool:
        """The higher rung tells the two apart: ``p < 0.05``."""
        return self.p < 0.05

    def __str__(self) -> str:
        verdict = "beyond noise" if self.beyond_noise else "within noise"
        return (
            f"{self.first} is {self.ahead:.2f} points ahead of {self.second} under {self.lower}, "
            f"but {self.behind:.2f} behind under {self.higher} ({verdict}: McNemar p = "
            f"{self.p:.2g})"
        )


def rank_reversals(ladders: Mapping[str, pa.Table]) -> list[RankReversal]:
    """Every pair of models, and of rungs that both have finished, whose order is strictly reversed.

    Args:
        ladders: by the models' names, from ``read_ladder``.

    Raises:
        InputError: a table is not a ladder, or is of other images or another attack than the first.
    """
    robust = _robust_images(ladders)
    reversals = []
    for a, b in combinations(ladders, 2):
        shared = [rung for rung in robust[a] if rung in robust[b]]
        for lower, higher in combinations(shared, 2):
            below = _lead(robust[a][lower], robust[b][lower])
            above = _lead(robust[a][higher], robust[b][higher])
            if below * above < 0:
                first, second = (a, b) if below > 0 else (b, a)
                reversal = RankReversal(
                    first,
                    second,
                    lower,
                    higher,
                    ahead=abs(below),
                    behind=abs(above),
                    p=mcnemar(robust[a][higher], robust[b][higher]),
                )
                reversals.append(reversal)
    return reversals


def shared_rung(ladders: Mapping[str, pa.Table]) -> str | None:
    """The dearest rung that all models have finished; None if they share none.

    Args:
        ladders: by the models' names, from ``read_ladder``.

    Raises:
        InputError: a table is not a ladder, or is of other images or another attack than the first.
    """
    dearest = None
    by_model = list(_robust_images(ladders).values())
    for rung in by_model[0] if by_model else ():
        if all(rung in robust for robust in by_model):
            dearest = rung
    return dearest


def _robust_images(ladders: Mapping[str, pa.Table]) -> dict[str, dict[str, Bools]]:
    """By model and rung, from cheap to dear: which images it holds."""
    by_model = {}
    problems = []
    first: tuple[str, Facts] | None = None
    for name, table in ladders.items():
        facts = ladder_facts(table)
        setting = {key: facts[key] for key in ("data", "attack", "seed")}
        first = first or (name, setting)
        if setting != first[1]:
            expected = f"the images and the attack of {first[0]} for {name}"
            problems.append(refusal(expected, setting, "run the ladder with the same for all"))
        by_model[name] = {
            rung: robust for rung, _, robust in robust_by_rung(table) if rung != NATURAL
        }
    refuse(problems)
    return by_model


def _lead(a: Bools, b: Bools) -> float:
    """By how many points more images are held."""
    return 100 * (int(a.sum()) - int(b.sum())) / len(a)


def mcnemar(a: Any, b: Any, alternative: Alternative = "two-sided") -> float:
    """The p of the exact test by McNemar (1947, doi 10.1007/BF02295996) that both hold equally
    often.

    Args:
        a: which images one of them holds, as truth values of NumPy or torch.
        b: which the other.
        alternative: ``greater`` if only a lead of ``a`` counts.
    """
    # It takes half a second to import, which every look at a search would pay for.
    from scipy.stats import binomtest

    only_a = int((a & ~b).sum())
    differ = int((a ^ b).sum())
    if differ == 0:
        return 1.0
    return float(binomtest(only_a, differ, alternative=alternative).pvalue)


def ladder_metrics(ladder: pa.Table) -> Metrics:
    """The figures of a finished ladder, as ``ladder/RUNG/robust_accuracy`` and others."""
    metrics = {}
    for result in rung_results(ladder):
        for name in ("robust_accuracy", "low", "high", "attacked", "seconds"):
            metrics[f"ladder/{result.rung}/{name}"] = float(getattr(result, name))
    return metrics
