"""Schedules: lambda over training. State in, state out: plain numbers that a checkpoint keeps bit
for bit."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, TypeAlias

from robsearch.errors import Condition, number, one_of, refuse_unless, refused
from robsearch.identity import LATER, sparse_repr
from robsearch.protocols import State

Target: TypeAlias = float | tuple[tuple[float, float], ...]

FIRST_DROP = "first_drop"
"""A ``freeze_at`` that the recipe's learning rate resolves."""

FLOOR = 1e-8
"""Both terms are taken to be at least this (nats) before their ratio, which is then finite and
positive."""


@dataclass(frozen=True)
class Fixed:
    """The same lambda at each step.

    Raises:
        InputError: ``value`` is negative or not finite.
    """

    value: float

    def __post_init__(self) -> None:
        refuse_unless(number("value", self.value, "lambda is a weight", at_least=0))

    def init(self) -> State:
        """Nothing to remember."""
        return {}

    def update(
        self,
        state: State,
        natural: float,
        robust: float,
        progress: float,
    ) -> State:
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
        refuse_unless(
            number("value", self.value, "lambda is a weight", at_least=0),
            number("until", self.until, "for 0 use Fixed", above=0, at_most=1),
        )

    def init(self) -> State:
        """The share of training done: none."""
        return {"progress": 0.0}

    def update(
        self,
        state: State,
        natural: float,
        robust: float,
        progress: float,
    ) -> State:
        """The share of training done."""
        return {"progress": float(progress)}

    def lam(self, state: State) -> float:
        """Lambda at the state's progress."""
        return self.value * min(state["progress"] / self.until, 1.0)


@dataclass(frozen=True)
class WAR:
    """Width Adjusted Regularization (idea: arXiv 2010.01279): keep a wide net's loss ratio at a
    thin net's.

    The ratio is ``L_nat / L_rob``, natural over robust term. The thin net is trained with a tuned
    lambda and its ratio becomes ``target`` (zeta). A wide net at the same lambda has a smaller
    natural and a larger robust term, so its ratio lies below zeta, and lambda rises until they
    agree. After each optimiser step, with both terms floored at 1e-8:

    - ``log`` (ours): ``log lam += alpha * (log zeta - log(EMA L_nat / EMA L_rob))`` from
      ``lam_init``, inside [lam_min, lam_max]. Two separate averages, both unbiased from the first
      step; an average of ratios would follow the few batches whose robust term is nearly 0.
    - ``paper``: ``lam = max(lam + alpha * (zeta - L_nat / L_rob), 0)`` from 0, on the raw terms of
      the step. [rec]onstructed: the paper's rule as we remember it, not read in its text or code;
      the authors published none. The cap ``lam_max`` is ours; ``ema`` and ``lam_min`` do not apply.
      At its ``alpha = 0.1`` it limit-cycled in a small experiment; 0.01 settled.

    Use it only with objectives whose first term is the natural loss. As robust overfitting sets in,
    the ratio falls at every width, and a constant zeta winds lambda up to its cap: give the thin
    run's ratio over its epochs as ``target``, or freeze lambda at the learning rate's first drop.
    At the start a wide net merely learns faster, and its ratio says little: ``hold`` waits.

    Attributes:
        target: zeta, or (progress, zeta) pairs with rising progress in [0, 1], interpolated as
            ``interpolation`` says and constant before the first and after the last pair.
        lam_init: the first lambda: the thin net's (``log``), 0 (``paper``).
        form: which update, ``log`` or ``paper``.
        alpha: the gain, per optimiser step or per training as ``alpha_per`` says.
        ema: the weight of the past in the averages of ``log``, in [0, 1); 0 takes the step alone.
        lam_min: lambda's lower bound, above 0 (``log``).
        lam_max: lambda's cap, in both forms.
        freeze_at: from this progress on the state no longer changes; 1 never freezes. At
            ``first_drop`` it is where the recipe's learning rate first drops, which
            ``Recipe.resolved_lam`` fills in.
        hold: until this progress lambda stays what it is at first, while the averages are taken; 0
            never holds. With ``paper`` that would be 0.
        alpha_per: ``step``, or ``progress``: a step then counts for the share of training since the
            one before, so that how fast lambda moves does not depend on how many steps there are.
            An ``alpha`` of 0.1 per step is one of 0.1 times the steps of the training.
        interpolation: of the target between pairs, ``linear`` or ``log``, in log zeta.

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
    freeze_at: float | Literal["first_drop"] = 1.0
    hold: float = field(default=0.0, metadata=LATER)
    alpha_per: Literal["step", "progress"] = field(default="step", metadata=LATER)
    interpolation: Literal["linear", "log"] = field(default="linear", metadata=LATER)

    __repr__ = sparse_repr

    def __post_init__(self) -> None:
        low = self.lam_min
        high = self.lam_max
        if self.form == "paper":
            expected = "lam_init=0 for form='paper'"
            do = "leave it out: this form starts at 0"
            lam_init = Condition(self.lam_init == 0, expected, self.lam_init, do)
        else:
            do = "pass the thin net's lambda, from lam_min to lam_max"
            lam_init = number("lam_init", self.lam_init, do, at_least=low, at_most=high)
        refuse_unless(
            one_of("form", self.form, "log", "paper"),
            number("alpha", self.alpha, "0.1 is the paper's", above=0),
            number("ema", self.ema, "0.9 averages about 10 steps", at_least=0, below=1),
            number("lam_min", low, "the log form never reaches 0", above=0),
            number("lam_max", high, "cap it above lam_min, say at 100", above=low),
            self._freeze_condition(),
            self._hold_condition(),
            one_of("alpha_per", self.alpha_per, "step", "progress"),
            one_of("interpolation", self.interpolation, "linear", "log"),
            lam_init,
            _target_condition(self.target),
        )

    def _freeze_condition(self) -> Condition:
        # A word is resolved later, to a share of training.
        share = 1.0 if self.freeze_at == FIRST_DROP else self.freeze_at
        do = f"pass 1 to never freeze, or {FIRST_DROP!r}"
        return number("freeze_at", share, do, above=0, at_most=1)

    def _hold_condition(self) -> Condition:
        if self.form == "paper":
            do = "leave it out: lambda would be held at 0"
            return Condition(self.hold == 0, "hold=0 for form='paper'", self.hold, do)
        frozen = self.freeze_at
        if not isinstance(frozen, int | float) or not 0 < frozen <= 1:
            frozen = 1.0
        do = "give a share of training, such as 0.1, before freeze_at"
        return number("hold", self.hold, do, at_least=0, below=frozen)

    def init(self) -> State:
        """Lambda, the two running averages and the weight they hold so far (1 when unbiased); the
        last progress where the gain is per progress."""
        state = {
            "lam": float(self.lam_init),
            "natural": 0.0,
            "robust": 0.0,
            "weight": 0.0,
        }
        return state if self.alpha_per == "step" else {**state, "progress": 0.0}

    def update(
        self,
        state: State,
        natural: float,
        robust: float,
        progress: float,
    ) -> State:
        """The state after a step with these two terms.

        Unchanged once frozen, and after a term that is not finite: divergence is the trainer's to
        judge.
        """
        if isinstance(self.freeze_at, str):
            do = "use recipe.resolved_lam, or pass the share of training"
            raise refused("the progress at which WAR freezes", repr(self.freeze_at), do)
        if progress >= self.freeze_at:
            return state
        if not (math.isfinite(natural) and math.isfinite(robust)):
            return state
        ema = self.ema if self.form == "log" else 0.0
        new = {
            "natural": ema * state["natural"] + (1 - ema) * natural,
            "robust": ema * state["robust"] + (1 - ema) * robust,
            "weight": ema * state["weight"] + (1 - ema),
        }
        gain = self.alpha
        if self.alpha_per == "progress":
            gain *= progress - state["progress"]
            new["progress"] = float(progress)
        if progress < self.hold:
            return {"lam": state["lam"], **new}
        # Over the weight they hold so far, averages are unbiased from the first step on.
        natural_mean = max(new["natural"] / new["weight"], FLOOR)
        robust_mean = max(new["robust"] / new["weight"], FLOOR)
        ratio = natural_mean / robust_mean
        lam = self._next(state["lam"], self.zeta(progress), ratio, gain)
        return {"lam": lam, **new}

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
        before, zeta_before = self.target[i - 1]
        after, zeta_after = self.target[i]
        if self.interpolation == "log":
            share = (progress - before) / (after - before)
            return math.exp((1 - share) * math.log(zeta_before) + share * math.log(zeta_after))
        rise = zeta_after - zeta_before
        return zeta_before + rise * (progress - before) / (after - before)

    def _next(
        self,
        lam: float,
        zeta: float,
        ratio: float,
        gain: float,
    ) -> float:
        if self.form == "paper":
            lam = lam + gain * (zeta - ratio)
            return min(max(lam, 0.0), self.lam_max)
        # A longer step would leave the interval anyway; bounding it keeps exp() from overflowing.
        reach = math.log(self.lam_max / self.lam_min)
        step = gain * (math.log(zeta) - math.log(ratio))
        lam = lam * math.exp(min(max(step, -reach), reach))
        return min(max(lam, self.lam_min), self.lam_max)


def _target_condition(target: Target) -> Condition:
    do = "pass the thin run's L_nat / L_rob, or a tuple of (progress, ratio) pairs"
    if not isinstance(target, tuple):
        return number("target", target, do, above=0)
    progress = [pair[0] for pair in target]
    fits = (
        bool(target)
        and all(first < second for first, second in pairwise(progress))
        and all(0 <= share <= 1 for share in progress)
        and all(0 < zeta < math.inf for _, zeta in target)
    )
    expected = "target pairs with rising progress in [0, 1] and ratios > 0"
    return Condition(fits, expected, target, do)
