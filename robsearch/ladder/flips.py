"""The alarm for a ranking that a cheap attack got wrong."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

import pyarrow as pa
from scipy.stats import binomtest

from robsearch.errors import InputError, refusal
from robsearch.ladder.files import Bools
from robsearch.ladder.standings import NATURAL, ladder_facts, standing_after


class Flip(NamedTuple):
    """Two models whose order on a cheap rung is reversed on a dear one.

    Attributes:
        first: the one ahead on the lower rung.
        second: the other.
        lower: the cheaper rung.
        higher: the dearer rung.
        ahead: robust accuracy of ``first`` minus that of ``second`` on the lower rung, in points: above 0.
        behind: that of ``second`` minus that of ``first`` on the higher rung, in points: above 0.
        p: of the higher rung's difference by McNemar's exact test (two-sided), on the images that only one of the two
            holds. It is for this pair and rung alone: among many, one in twenty falls below 0.05 by chance.
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
            f"but {self.behind:.2f} behind under {self.higher} ({verdict}: McNemar p = {self.p:.2g})"
        )


def flips(ladders: Mapping[str, pa.Table]) -> list[Flip]:
    """Every pair of models, and of rungs that both have finished, whose order is strictly reversed.

    Args:
        ladders: by the models' names, from ``read_ladder``.

    Raises:
        InputError: a table is not a ladder, or is of other images or another attack than the first.
    """
    rungs = _rungs(ladders)
    found = []
    for a, b in combinations(ladders, 2):
        shared = [rung for rung in rungs[a] if rung in rungs[b]]
        for lower, higher in combinations(shared, 2):
            below, above = (_lead(rungs[a][rung], rungs[b][rung]) for rung in (lower, higher))
            if below * above < 0:
                first, second = (a, b) if below > 0 else (b, a)
                points = 100 / len(rungs[a][lower])
                p = mcnemar(rungs[a][higher], rungs[b][higher])
                found.append(Flip(first, second, lower, higher, abs(below) * points, abs(above) * points, p))
    return found


def _rungs(ladders: Mapping[str, pa.Table]) -> dict[str, dict[str, Bools]]:
    """By model and rung, from cheap to dear: which images it holds."""
    facts = {name: ladder_facts(table) for name, table in ladders.items()}
    setting = {name: {key: told[key] for key in ("data", "attack", "seed")} for name, told in facts.items()}
    first = next(iter(setting), None)
    problems = [
        refusal(f"the images and the attack of {first} for {name}", told, "climb with the same for all")
        for name, told in setting.items()
        if told != setting[first]  # type: ignore[index]  # there is a first one if there is any
    ]
    if problems:
        raise InputError(*problems)
    return {
        name: {rung: standing_after(table, rung) for rung in facts[name]["rungs"] if rung != NATURAL}
        for name, table in ladders.items()
    }


def _lead(a: Bools, b: Bools) -> int:
    return int(a.sum()) - int(b.sum())


def mcnemar(a: Bools, b: Bools) -> float:
    """The two-sided p of the exact test by McNemar (1947, doi 10.1007/BF02295996) that both hold equally often."""
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue) if only_a + only_b else 1.0
