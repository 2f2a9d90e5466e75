"""The strongest known robust accuracy of a trial, with its attack, n and interval, and how it was selected.

Figures on different images are not compared: ``test`` comes before ``val``, on which trials are selected. Of those on
``test`` the lowest is the strongest: it is the nearest to the worst case over all attacks that were tried.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple, Protocol

import pandas as pd
import pyarrow as pa

from robsearch.errors import InputError
from robsearch.ladder import read_ladder, standings
from robsearch.ladder.standings import ladder_facts
from robsearch.measures import wilson
from robsearch.wording import counted

PREFIX = "strongest/"
"""Of the columns of ``Search.trials`` that have the fields of ``Figure``."""


class Searched(Protocol):
    """Of a ``Search`` what a text needs."""

    def best(self, width: float) -> pd.Series | None:
        """The best trial of a width."""
        ...

    def selection(self, width: float) -> Selection | None:
        """How it was selected."""
        ...


class Figure(NamedTuple):
    """A robust accuracy and what it means.

    Attributes:
        robust_accuracy: share of all images.
        attack: such as ``PGD-20``, ``APGD-T`` (after PGD and APGD-CE, worst case), ``AutoAttack``.
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
        """``robust 40.7% [39.7%, 41.7%] under AutoAttack on 10,000 test images``."""
        interval = f" [{self.low:.1%}, {self.high:.1%}]" if self.n else ""
        images = counted(self.n, f"{self.on} image") if self.n else self.on
        return f"robust {self.robust_accuracy:.1%}{interval} under {self.attack} on {images}"

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
        """Without the figure itself: ``best of 40 trials, a maximum that is about 1.2 points too good``."""
        if self.trials < 2:
            return "the only trial of its width to choose from"
        good = f", a maximum that is about {100 * self.optimism:.1f} points too good" if self.val.n else ", a maximum"
        return f"best of {counted(self.trials, 'trial')}{good}"


def strongest(ladder: pa.Table | None, facts: Mapping[str, Any], setting: Mapping[str, str]) -> Figure | None:
    """What is known of a trial; None before its first epoch.

    Args:
        ladder: of the trial, if it was evaluated (``ladder_of``).
        facts: its ``value``, ``best_epoch`` and averages over ``test``, as far as they are known.
        setting: of the search: attacks and numbers of images.
    """
    share, epoch = (facts.get(name, math.nan) for name in ("test/robust_accuracy", "test/epoch"))
    worst = _of_ladder(ladder) if ladder is not None else None
    found = [worst] if worst else []
    if not pd.isna(share) and (worst is None or epoch == facts.get("best_epoch")):  # the ladder is of the best epoch
        found.append(figure(share, "test", setting))
    if found:
        return min(found, key=lambda each: each.robust_accuracy)
    value = facts.get("value", math.nan)
    return None if pd.isna(value) else figure(value, "val", setting)


def figure(share: float, on: str, setting: Mapping[str, str]) -> Figure:
    """Under a search's own attack on a split."""
    attack, examples = {"val": ("evaluation", "validation"), "test": ("test", "test")}[on]
    known = setting.get(f"{examples} examples", "")
    n = int(known) if known.isdigit() else 0  # it is in words where the data is searched
    low, high = wilson(share, n) if n else (math.nan, math.nan)
    named = attack_name(setting[f"{attack} attack"]) if f"{attack} attack" in setting else f"the {attack} attack"
    return Figure(share, named, on, n, low, high)


def attack_name(text: str) -> str:
    """Short: ``PGD-20`` of ``PGD(eps=..., steps=20, ...)``, ``AutoAttack``, a class's name."""
    named = re.search(r"\w+(?=\(| object)|\w+$", text)
    name, steps, restarts = named[0] if named else text, _field("steps", text), _field("restarts", text)
    if name == "AutoAttack":
        return _ensemble(re.findall(r"[a-z]+-[a-z]+|square", (re.search(r"attacks=\((.*?)\)", text) or [text])[0]))
    if name != "PGD" or steps is None:
        return name
    return f"PGD-{steps}" + (f" with {restarts} restarts" if restarts not in (None, "1") else "")


def optimism(values: Sequence[float], n: int) -> float:
    """By how much the highest of several shares of ``n`` images is too good, on average.

    Taken as normal: each is its true value plus the binomial error of ``n`` images, of variance ``e``, and all vary
    with variance ``v`` (not below ``e``). The expected highest of N lies ``m sqrt(v)`` above the mean (``m`` by Blom's
    formula), and the part ``e / v`` of that is error. It is an upper estimate where all are judged on the same images,
    whose errors agree in part.
    """
    count = len(values)
    if count < 2 or not n:
        return 0.0
    share, variance = max(values), float(pd.Series(values).var())
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


def strongest_text(search: Searched, width: float) -> str:
    """Of the best trial of a width the strongest known figure, and then what it was selected by."""
    best, chosen = search.best(width), search.selection(width)
    if best is None or chosen is None:
        return "no trial has finished"
    found = figure_of(best)
    if found is None or found.on == "val":
        return f"{chosen.val.text}, {chosen.text}"
    return f"{found.text}; selected on val: {chosen.val.text.removeprefix('robust ')}, {chosen.text}"


def ladder_of(folder: Path) -> pa.Table | None:
    """What ``robsearch evaluate`` found of a trial's best epoch; None without it or, with a warning, if damaged."""
    if not (folder / "ladder.parquet").exists():
        return None
    try:
        table = read_ladder(folder)
        standings(table)
    except InputError as error:
        warnings.warn(f"{'; '.join(error.problems)}: it is left out", stacklevel=2)
        return None
    return table


def _of_ladder(ladder: pa.Table) -> Figure | None:
    last = standings(ladder)[-1]
    if not last.attacks:
        return None
    pgd = ", ".join(f"{name}={value}" for name, value in ladder_facts(ladder)["attack"].items())
    name = _ensemble(last.attacks[1:]) if last.attacks[1:] else attack_name(f"PGD({pgd})")
    return Figure(last.robust_accuracy, name, "test", last.n, last.low, last.high)


def _ensemble(attacks: Sequence[str]) -> str:
    """Of attacks one after the other: all four are AutoAttack, else the last names them."""
    return "AutoAttack" if {"fab-t", "square"} <= set(attacks) else attacks[-1].upper()


def _field(name: str, text: str) -> str | None:
    found = re.search(rf"\b{name}=(\d+)", text)
    return found[1] if found else None
