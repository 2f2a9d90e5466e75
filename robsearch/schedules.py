"""Schedules: lambda over training. State in, state out: plain numbers that a checkpoint keeps bit for bit."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

from robsearch.errors import InputError, number, refusal
from robsearch.protocols import State

Target: TypeAlias = float | tuple[tuple[float, float], ...]

FLOOR = 1e-8
"""Both terms are taken to be at least this (nats) before their ratio, which is then finite and positive."""


@dataclass(frozen=True)
class Fixed:
    """The same lambda at each step.

    Raises:
        InputError: ``value`` is negative or not finite.
    """

    value: float

    def __post_init__(self) -> None:
        _refuse([_lambda_problem("value", self.value)])

    def init(self) -> State:
        """Nothing to remember."""
        return {}

    def update(self, state: State, natural: float, robust: float, progress: float) -> State:
        """The state as it is."""
        return state

    def lam(self, state: State) -> float:
        """``value``."""
        return self.value


@dataclass(frozen=True)
class Warmup:
    """Lambda rises linearly from 0 to ``value`` and stays: ``value * min(progress / until, 1)``.

    Attributes:
        value: the final lambda.
        until: the share of training, in (0, 1], at which it is reached.

    Raises:
        InputError: all fields that do not fit, at once.
    """

    value: float
    until: float

    def __post_init__(self) -> None:
        share = None if 0 < self.until <= 1 else refusal("until in (0, 1]", self.until, "for 0 use Fixed")
        _refuse([_lambda_problem("value", self.value), share])

    def init(self) -> State:
        """The share of training done: none."""
        return {"progress": 0.0}

    def update(self, state: State, natural: float, robust: float, progress: float) -> State:
        """The share of training done."""
        return {"progress": float(progress)}

    def lam(self, state: State) -> float:
        """Lambda at the state's progress."""
        return self.value * min(state["progress"] / self.until, 1.0)


@dataclass(frozen=True)
class WAR:
    """Width Adjusted Regularization (idea: arXiv 2010.01279): keep a wide net's loss ratio at a thin net's.

    The ratio is ``L_nat / L_rob``, natural over robust term. The thin net is trained with a tuned lambda and
    its ratio becomes ``target`` (zeta). A wide net at the same lambda has a smaller natural and a larger
    robust term, so its ratio lies below zeta, and lambda rises until they agree. After each optimiser step,
    with both terms floored at 1e-8:

    - ``log`` (ours): ``log lam += alpha * (log zeta - log(EMA L_nat / EMA L_rob))`` from ``lam_init``, inside
      [lam_min, lam_max]. Two separate averages, both unbiased from the first step; an average of ratios
      would follow the few batches whose robust term is nearly 0.
    - ``paper``: ``lam = max(lam + alpha * (zeta - L_nat / L_rob), 0)`` from 0, on the raw terms of the step.
      [rec]onstructed: the paper's rule as we remember it, not read in its text or code; the authors
      published none. The cap ``lam_max`` is ours; ``ema`` and ``lam_min`` do not apply. At its
      ``alpha = 0.1`` it limit-cycled in a small experiment; 0.01 settled.

    Use it only with objectives whose first term is the natural loss. As robust overfitting sets in, the
    ratio falls at every width, and a constant zeta winds lambda up to its cap: give the thin run's ratio over
    its epochs as ``target``, or freeze lambda at the learning rate's first drop.

    Attributes:
        target: zeta, or (progress, zeta) pairs with rising progress in [0, 1], interpolated linearly and
            constant before the first and after the last pair.
        lam_init: the first lambda: the thin net's (``log``), 0 (``paper``).
        form: which update, ``log`` or ``paper``.
        alpha: the gain per optimiser step.
        ema: the weight of the past in the averages of ``log``, in [0, 1); 0 takes the step alone.
        lam_min: lambda's lower bound, above 0 (``log``).
        lam_max: lambda's cap, in both forms.
        freeze_at: from this progress on the state no longer changes; 1 never freezes.

    Raises:
        InputError: all fields that do not fit, at once.
    """

    target: Target
    lam_init: float = 0.0
    form: Literal["log", "paper"] = "log"
    alpha: float = 0.1
    ema: float = 0.9
    lam_min: float = 0.01
    lam_max: float = 100.0
    freeze_at: float = 1.0

    def __post_init__(self) -> None:
        checks = [
            (self.form in ("log", "paper"), "form 'log' or 'paper'", repr(self.form), "pass one of these"),
            number("alpha", self.alpha, "> 0", "0.1 is the paper's"),
            number("ema", self.ema, "in [0, 1)", "0.9 averages about 10 steps"),
            number("lam_min", self.lam_min, "> 0", "the log form never reaches 0"),
            (
                self.lam_min < self.lam_max < math.inf,
                "lam_max above lam_min, a finite number",
                self.lam_max,
                "cap it, say at 100",
            ),
            number("freeze_at", self.freeze_at, "in (0, 1]", "pass 1 to never freeze"),
            (
                self.form != "log" or self.lam_min <= self.lam_init <= self.lam_max,
                "lam_init from lam_min to lam_max",
                self.lam_init,
                "pass the thin net's lambda",
            ),
            (
                self.form != "paper" or self.lam_init == 0,
                "lam_init=0 for form='paper'",
                self.lam_init,
                "leave it out: this form starts at 0",
            ),
        ]
        problems = [refusal(expected, got, do) for fits, expected, got, do in checks if not fits]
        _refuse([*problems, _target_problem(self.target)])

    def init(self) -> State:
        """Lambda, the two running averages and the weight they hold so far (1 when unbiased)."""
        return {"lam": float(self.lam_init), "natural": 0.0, "robust": 0.0, "weight": 0.0}

    def update(self, state: State, natural: float, robust: float, progress: float) -> State:
        """The state after a step with these two terms.

        Unchanged once frozen, and after a term that is not finite: divergence is the trainer's to judge.
        """
        if progress >= self.freeze_at or not (math.isfinite(natural) and math.isfinite(robust)):
            return state
        ema = self.ema if self.form == "log" else 0.0
        new = {
            "natural": ema * state["natural"] + (1 - ema) * natural,
            "robust": ema * state["robust"] + (1 - ema) * robust,
            "weight": ema * state["weight"] + (1 - ema),
        }
        ratio = max(new["natural"] / new["weight"], FLOOR) / max(new["robust"] / new["weight"], FLOOR)
        return {"lam": self._next(state["lam"], self.zeta(progress), ratio), **new}

    def lam(self, state: State) -> float:
        """Lambda for the next step: from 0 (``log``: from ``lam_min``) to ``lam_max``."""
        return state["lam"]

    def zeta(self, progress: float) -> float:
        """The target ratio at ``progress``."""
        if not isinstance(self.target, tuple):
            return self.target
        i = bisect_right(self.target, progress, key=lambda pair: pair[0])
        if i == 0 or i == len(self.target):
            return self.target[max(i - 1, 0)][1]
        (p0, z0), (p1, z1) = self.target[i - 1 : i + 1]
        return z0 + (z1 - z0) * (progress - p0) / (p1 - p0)

    def _next(self, lam: float, zeta: float, ratio: float) -> float:
        if self.form == "paper":
            return min(max(lam + self.alpha * (zeta - ratio), 0.0), self.lam_max)
        # A longer step would leave the interval anyway; bounding it keeps exp() from overflowing.
        reach = math.log(self.lam_max / self.lam_min)
        step = self.alpha * (math.log(zeta) - math.log(ratio))
        return min(max(lam * math.exp(min(max(step, -reach), reach)), self.lam_min), self.lam_max)


def _refuse(problems: list[str | None]) -> None:
    found = [problem for problem in problems if problem]
    if found:
        raise InputError(*found)


def _lambda_problem(name: str, value: float) -> str | None:
    return None if 0 <= value < math.inf else refusal(f"{name} finite and >= 0", value, "lambda is a weight")


def _target_problem(target: Target) -> str | None:
    do = "pass the thin run's L_nat / L_rob, or a tuple of (progress, ratio) pairs"
    if not isinstance(target, tuple):
        return None if 0 < target < math.inf else refusal("target > 0, a finite number", target, do)
    progress = [p for p, _ in target]
    rising = all(p < q for p, q in pairwise(progress)) and all(0 <= p <= 1 for p in progress)
    if target and rising and all(0 < zeta < math.inf for _, zeta in target):
        return None
    return refusal("target pairs with rising progress in [0, 1] and ratios > 0", target, do)
