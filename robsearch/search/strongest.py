"""The strongest known robust accuracy of a trial, with its attack, n and interval, and how it was
selected.

Figures on different images are not compared: ``test`` comes before ``val``, on which trials are
selected. Of those on ``test`` the lowest is the strongest: it is the nearest to the worst case over
all attacks that were tried.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa

from robsearch.errors import InputError, counted
from robsearch.metrics import TEST_ROBUST, wilson
from robsearch.trials.ladder.results import ladder_facts, read_ladder, rung_results

TWO_LOSSES = " on cross-entropy, then on the margin"
"""What the name of ``TwoLosses`` adds to that of the ``PGD`` in whose place it judges."""
PREFIX = "strongest/"
"""Of the columns of ``Search.trials`` that have the fields of ``Figure``."""


class Figure(NamedTuple):
    """A robust accuracy and what it means.

    Attributes:
        robust_accuracy: share of all images.
        attack: such as ``PGD-20``, ``PGD-20 on cross-entropy, then on the margin``, ``APGD-T``
            (after PGD and APGD-CE, worst case), ``AutoAttack``.
        on: the split, ``test`` or ``val``.
        n: images; 0 if it was not recorded.
        low: lower end of Wilson's 95 % interval over the images; NaN without n.
        high: upper end.
    """

    robust_accuracy: float
    attack: str
    on: str
    n: int
    low: float
    high: float

    @property
    def text(self) -> str:
        """``robust``, and what ``short`` says."""
        return f"robust {self.short}"

    @property
    def short(self) -> str:
        """``40.7% [39.7%, 41.7%] under AutoAttack on 10,000 test images``."""
        interval = f" [{self.low:.1%}, {self.high:.1%}]" if self.n else ""
        images = counted(self.n, f"{self.on} image") if self.n else self.on
        return f"{self.robust_accuracy:.1%}{interval} under {self.attack} on {images}"

    @property
    def columns(self) -> dict[str, Any]:
        """As columns of ``Search.trials``."""
        return dict(zip(STRONGEST, self, strict=True))


STRONGEST = tuple(f"{PREFIX}{name}" for name in Figure._fields)


class Selection(NamedTuple):
    """How a trial was selected: as the best of so many by their robust accuracy on ``val``.

    Attributes:
        trials: that were compared.
        val: what the best of them has.
        optimism: by how much that is too good, about, as a share (``optimism``).
    """

    trials: int
    val: Figure
    optimism: float

    @property
    def text(self) -> str:
        """Without the figure itself:
        ``best of 40 trials, a maximum that is about 1.2 points too good``."""
        if self.trials < 2:
            return "the only trial of its width to choose from"
        text = f"best of {counted(self.trials, 'trial')}, a maximum"
        if self.val.n:
            text += f" that is about {100 * self.optimism:.1f} points too good"
        return text


def strongest(
    ladder: pa.Table | None, facts: Mapping[str, Any], setting: Mapping[str, str]
) -> Figure | None:
    """What is known of a trial; None before its first epoch.

    Args:
        ladder: of the trial, if it was evaluated (``ladder_of``).
        facts: its ``value``, ``best_epoch`` and averages over ``test``, as far as they are known.
        setting: of the search: attacks and numbers of images.
    """
    worst = None if ladder is None else _of_ladder(ladder)
    share = facts.get(TEST_ROBUST, math.nan)
    # The ladder is of the best epoch. A figure of another epoch is one of another network.
    of_best_epoch = facts.get("test/epoch", math.nan) == facts.get("best_epoch")
    if not pd.isna(share) and (of_best_epoch or worst is None):
        measured = figure(share, "test", setting)
        if worst is None or measured.robust_accuracy < worst.robust_accuracy:
            return measured
    if worst is not None:
        return worst
    value = facts.get("value", math.nan)
    return None if pd.isna(value) else figure(value, "val", setting)


def figure(share: float, on: str, setting: Mapping[str, str]) -> Figure:
    """Under a search's own attack on a split."""
    attack = "evaluation" if on == "val" else "test"
    examples = "validation" if on == "val" else "test"
    count = setting.get(f"{examples} examples", "")
    n = int(count) if count.isdigit() else 0  # it is in words where the data is searched
    low, high = wilson(share, n) if n else (math.nan, math.nan)
    recorded = setting.get(f"{attack} attack")
    name = attack_name(recorded) if recorded else f"the {attack} attack"
    return Figure(share, name, on, n, low, high)


def attack_name(text: str) -> str:
    """Short: ``PGD-20`` of ``PGD(eps=..., steps=20, ...)``, ``AutoAttack``, a class's name.

    The record of a search, also of those from before, has its attacks only as text.
    """
    match = re.search(r"\w+(?=\(| object)|\w+$", text)
    name = match[0] if match else text
    if name == "AutoAttack":
        attacks = re.search(r"attacks=\((.*?)\)", text)
        return _ensemble(re.findall(r"[a-z]+-[a-z]+|square", attacks[0] if attacks else text))
    steps = _field("steps", text)
    if steps is None:
        return name
    if name not in ("PGD", "TwoLosses"):
        return name
    pgd = _pgd_name(steps, _field("restarts", text))
    return pgd if name == "PGD" else f"{pgd}{TWO_LOSSES}"


def _pgd_name(steps: int, restarts: int | None) -> str:
    several = restarts is not None and restarts != 1
    return f"PGD-{steps} with {restarts} restarts" if several else f"PGD-{steps}"


def optimism(values: Sequence[float], n: int) -> float:
    """By how much the highest of several shares of ``n`` images is too good, on average.

    Taken as normal: each is its true value plus the binomial error of ``n`` images, of variance
    ``e``, and all vary with variance ``v`` (not below ``e``). The expected highest of N lies
    ``m sqrt(v)`` above the mean (``m`` by Blom's formula), and the part ``e / v`` of that is error.
    It is an upper estimate where all are judged on the same images, whose errors agree in part.
    """
    count = len(values)
    if count < 2 or not n:
        return 0.0
    share = max(values)
    variance = float(pd.Series(values).var())
    error = share * (1 - share) / n
    highest = NormalDist().inv_cdf((count - 0.375) / (count + 0.25))
    spread = max(variance, error)
    return highest * error / math.sqrt(spread) if spread else 0.0


def figure_of(row: pd.Series) -> Figure | None:
    """The strongest known figure of a row of ``Search.trials``."""
    share, attack, on, n, low, high = (row.get(name, math.nan) for name in STRONGEST)
    return None if pd.isna(share) else Figure(share, attack, on, int(n), low, high)


def selection(rows: pd.DataFrame, best: pd.Series, setting: Mapping[str, str]) -> Selection:
    """How ``best`` was selected from the rows of its width."""
    val = figure(float(best["value"]), "val", setting)
    return Selection(len(rows), val, optimism(list(rows["value"]), val.n))


def ladder_of(folder: Path) -> pa.Table | None:
    """What ``robsearch evaluate`` found of a trial's best epoch; None without it or, with a
    warning, if damaged."""
    if not (folder / "ladder.parquet").exists():
        return None
    try:
        table = read_ladder(folder)
        rung_results(table)
    except InputError as error:
        warnings.warn(f"{'; '.join(error.problems)}: it is left out", stacklevel=2)
        return None
    return table


def _of_ladder(ladder: pa.Table) -> Figure | None:
    last = rung_results(ladder)[-1]
    if not last.attacks:
        return None
    attack = ladder_facts(ladder)["attack"]
    pgd = _pgd_name(attack["steps"], attack.get("restarts"))
    names = {"pgd": pgd, "two-losses": f"{pgd}{TWO_LOSSES}"}
    name = names.get(last.attacks[-1]) or _ensemble(last.attacks)
    return Figure(last.robust_accuracy, name, "test", last.n, last.low, last.high)


def _ensemble(attacks: Sequence[str]) -> str:
    """Of attacks one after the other: all four are AutoAttack, else the last names them."""
    return "AutoAttack" if {"fab-t", "square"} <= set(attacks) else attacks[-1].upper()


def _field(name: str, text: str) -> int | None:
    match = re.search(rf"\b{name}=(\d+)", text)
    return int(match[1]) if match else None
