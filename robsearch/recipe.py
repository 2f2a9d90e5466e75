"""A recipe: everything needed to train and judge one model. Each leaf is the thing it describes."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from robsearch.attacks import PGD
from robsearch.averaging import EMA
from robsearch.errors import InputError, refusal
from robsearch.identity import compared_fields, digest, reference
from robsearch.kinds import is_whole, kind_problems
from robsearch.measures import (
    AttackRatio,
    FeatureChange,
    GlobalBound,
    InputMargin,
    LogitMargin,
    LogitRatio,
    OperatorNorm,
    SingularValues,
)
from robsearch.objectives import TRADES
from robsearch.optimisers import SGD, Piecewise
from robsearch.perturbation import WeightPerturbation
from robsearch.protocols import (
    Attack,
    Augment,
    Dataset,
    LayerMeasure,
    LearningRate,
    Measure,
    Model,
    Objective,
    Penalty,
    Schedule,
)
from robsearch.schedules import WAR, Fixed
from robsearch.stopping import RobustOverfittingStopper
from robsearch.wording import a

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")

_LEAVES: dict[str, Any] = {
    "model": Model,
    "data": Dataset,
    "attack": Attack,
    "objective": Objective,
    "lam": Schedule,
    "optimiser": SGD,
    "learning_rate": LearningRate,
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training and its judgement, as a tree of frozen dataclasses.

    What is left at None and follows from other fields is derived when it is used, so that ``dataclasses.replace`` of
    the training attack changes the judgement too: ``recipe.resolved`` has it filled in.

    Attributes:
        model: what is trained, such as ``WideResNet(depth=28, width=4)``.
        data: where images come from; training uses ``train``, selection ``val``, final figures ``test``.
        attack: what training defends against.
        objective: two loss terms; ``natural + lam * robust`` is minimised.
        lam: lambda over training.
        eval_attack: what judges on ``val`` after each epoch. By default the training ``PGD`` from a uniform start;
            needed when ``attack`` is not a ``PGD``.
        test_attack: what judges on ``test`` once training has ended. By default ``eval_attack``, if it is a ``PGD``
            with 20 steps or its own if more.
        optimiser: with the base learning rate.
        learning_rate: the factor on the base rate over training.
        augment: a random transformation of each training batch, or None.
        epochs: passes over ``train``.
        batch_size: the most images per optimiser step; the batches of an epoch differ in size by at most one.
        stopper: ends training once robust accuracy on ``val`` has peaked, or None to train to the end.
        batch_norm: whose statistics enter BatchNorm's running ones: ``clean``, ``adversarial`` or ``both`` (each
            normalises by its own batch while training; judged are the running ones, on both kinds of image).
        penalties: regularisers beside the objective.
        averaging: the weights that are judged and deployed are this average of the trained ones, or None.
        weight_perturbation: adversarial weight perturbation, or None.
        measures: taken once training has ended. By default margins, local Lipschitz bounds, layer norms, spectra
            and feature change (see ``default_measures``).
        measured_epoch: whose model the measures and the figures on ``test`` are of: the ``best`` on ``val``, or the
            ``last``.
        measured_examples: of ``test`` and of ``train``, on which ``measures`` are taken, the same for every model;
            None for all. Accuracy is always that of all of ``test``.
        seed: of initialisation, data order, augmentation and attack starts.

    Raises:
        InputError: all fields that do not fit, at once.
    """

    model: Model
    data: Dataset
    attack: Attack = PGD(start="gaussian")
    objective: Objective = TRADES()
    lam: Schedule = Fixed(6.0)
    eval_attack: Attack | None = None
    test_attack: Attack | None = None
    optimiser: SGD = SGD()
    learning_rate: LearningRate = Piecewise()
    augment: Augment | None = None
    epochs: int = 100
    batch_size: int = 128
    stopper: RobustOverfittingStopper | None = None
    batch_norm: Literal["clean", "adversarial", "both"] = "both"
    penalties: tuple[Penalty, ...] = ()
    averaging: EMA | None = None
    weight_perturbation: WeightPerturbation | None = None
    measures: tuple[Measure | LayerMeasure, ...] | None = None
    measured_epoch: Literal["best", "last"] = "best"
    measured_examples: int | None = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [
            *self._leaf_problems(),
            *self._number_problems(),
            *self._pairing_problems(),
            *(
                each
                for f in dataclasses.fields(self)
                for each in kind_problems(getattr(self, f.name), f"Recipe.{f.name}")
            ),
        ]
        if problems:
            raise InputError(*problems)

    @property
    def resolved(self) -> Recipe:
        """The same recipe with ``eval_attack``, ``test_attack`` and ``measures`` filled in."""
        return dataclasses.replace(
            self,
            eval_attack=self.resolved_eval_attack,
            test_attack=self.resolved_test_attack,
            measures=self.resolved_measures,
        )

    @property
    def resolved_eval_attack(self) -> Attack:
        """What judges on ``val``: ``eval_attack``, or what is derived from ``attack``."""
        found = self._judge_on_val()
        assert found is not None, "a recipe without one is refused when it is made"
        return found

    @property
    def resolved_test_attack(self) -> Attack:
        """What judges on ``test``: ``test_attack``, or what is derived from the attack on ``val``."""
        judge = self.test_attack or self.resolved_eval_attack
        if self.test_attack is None and isinstance(judge, PGD):
            return dataclasses.replace(judge, steps=max(20, judge.steps))
        return judge

    @property
    def resolved_measures(self) -> tuple[Measure | LayerMeasure, ...]:
        """What is measured: ``measures``, or the default ones under the attack on ``test``."""
        return default_measures(self.resolved_test_attack) if self.measures is None else self.measures

    def _judge_on_val(self) -> Attack | None:
        if self.eval_attack is None and isinstance(self.attack, PGD):
            return dataclasses.replace(self.attack, start="uniform")
        return self.eval_attack

    def _leaf_problems(self) -> list[str]:
        leaves: list[tuple[str, object, Any]] = [(n, getattr(self, n), shape) for n, shape in _LEAVES.items()]
        leaves.append(("eval_attack", self._judge_on_val(), Attack))
        if self.test_attack is not None:
            leaves.append(("test_attack", self.test_attack, Attack))
        for name, shapes in (("measures", (Measure, LayerMeasure)), ("penalties", (Penalty,))):
            several = getattr(self, name)
            each = several if isinstance(several, tuple) else (several,)
            if several is None and name == "measures":
                continue
            leaves += [(f"{name}[{i}]", leaf, _nearest(leaf, shapes)) for i, leaf in enumerate(each)]
        return [
            refusal(f"Recipe.{name} to be {a(shape.__name__)}", repr(leaf), _how_to_fit(leaf, shape))
            for name, leaf, shape in leaves
            if isinstance(leaf, type) or not isinstance(leaf, shape)
        ]

    def _number_problems(self) -> list[str]:
        lowest = {"epochs": 1, "batch_size": 1, "seed": 0}
        return [
            refusal(
                f"Recipe.{name} to be a whole number, at least {least}",
                repr(value),
                f"pass {name}={least} or more",
            )
            for name, least in lowest.items()
            if not is_whole(value := getattr(self, name)) or value < least
        ]

    def _kind_problems(self) -> Iterator[str]:
        for field in dataclasses.fields(self):
            yield from kind_problems(getattr(self, field.name), f"Recipe.{field.name}")

    def _pairing_problems(self) -> list[str]:
        problems = []
        if not isinstance(self.stopper, RobustOverfittingStopper | None):
            do = "pass RobustOverfittingStopper(patience=10), or None to train to the end"
            problems.append(refusal("Recipe.stopper to be a RobustOverfittingStopper", repr(self.stopper), do))
        n = self.measured_examples
        if n is not None and (not is_whole(n) or n < 1):
            problems.append(refusal("Recipe.measured_examples of at least 1, or None", repr(n), "None means all"))
        if self.batch_norm not in (options := ("clean", "adversarial", "both")):
            problems.append(refusal(f"Recipe.batch_norm among {options}", repr(self.batch_norm), "pass one of them"))
        if self.measured_epoch not in ("best", "last"):
            problems.append(refusal("Recipe.measured_epoch 'best' or 'last'", repr(self.measured_epoch), "pass one"))
        if isinstance(self.lam, WAR) and not getattr(self.objective, "natural_first", True):
            do = "use an objective whose first term is the natural loss, such as TRADES or PGDAT, or Fixed(lam)"
            problems.append(refusal("an objective that WAR can steer by L_nat / L_rob", self.objective, do))
        return problems

    @property
    def digest(self) -> str:
        """What names the recipe for ever: two recipes with one digest train and judge the same model.

        What is derived counts as if it had been given. Fields that do not take part in comparison, such as the folder
        the data lies in, do not count. See ``robsearch.identity``.

        Raises:
            InputError: something in the recipe has no lasting name, such as a lambda.
        """
        return digest(self.resolved)

    def flat(self) -> dict[str, str | float]:
        """The tree as flat, stable names for tracking: ``model``, ``model.width``, ``lam``, ``attack.eps`` ...

        The measures, which change nothing of the training, are one text.
        """
        whole = self.resolved
        flat = {name: value for name, value in _flat(whole, "").items() if not name.startswith("measures.")}
        return flat | {"measures": ", ".join(map(repr, whole.resolved_measures))}


def default_measures(attack: Attack | None) -> tuple[Measure | LayerMeasure, ...]:
    """What is measured of every trial, under the attack that judges on ``test``; lower bounds are named as such.

    Lipschitz figures are for linf; without a ``PGD`` there is no eps, and what needs one is left out.
    """
    found: list[Measure | LayerMeasure] = [LogitMargin(), SingularValues()]
    found += [OperatorNorm("linf"), OperatorNorm("l1"), OperatorNorm("l2"), OperatorNorm("linf", folded=True)]
    if not isinstance(attack, PGD):
        return (*found, InputMargin())
    found += [InputMargin(attack.norm), FeatureChange(attack)]
    if attack.norm == "linf" and attack.eps > 0:
        found += [LogitRatio(attack.eps), AttackRatio(attack), GlobalBound()]
    return tuple(found)


def _nearest(leaf: object, shapes: tuple[type, ...]) -> type:
    return next((shape for shape in shapes if isinstance(leaf, shape)), shapes[0])


def _how_to_fit(leaf: object, shape: type) -> str:
    if isinstance(leaf, type):
        return f"pass an instance, {leaf.__name__}(...), not the class"
    if leaf is None:
        return f"pass {a(shape.__name__)}"
    return f"give it the methods of robsearch.protocols.{shape.__name__}, or pass one that has them"


def _text(node: object) -> str:
    """A function by its name, and no addresses: they are others in every process, and MLflow keeps the first text."""
    named = reference(node) if callable(node) else None
    return named or ADDRESS.sub("", str(node))


def _flat(node: object, prefix: str) -> dict[str, str | float]:
    if not dataclasses.is_dataclass(node):
        return {prefix: node if isinstance(node, int | float | str) else _text(node)}
    fields = compared_fields(node)
    if prefix and len(fields) == 1 and fields[0].name == "value":
        return _flat(getattr(node, "value"), prefix)  # noqa: B009 - Fixed(6.0) is tracked as lam = 6.0
    flat: dict[str, str | float] = {prefix: type(node).__name__} if prefix else {}
    for field in fields:
        child, name = getattr(node, field.name), f"{prefix}.{field.name}".lstrip(".")
        if isinstance(child, tuple) and any(dataclasses.is_dataclass(item) for item in child):
            seen: Counter[str] = Counter()
            for item in child:
                kind = type(item).__name__
                seen[kind] += 1
                flat |= _flat(item, f"{name}.{kind}" + (str(seen[kind]) if seen[kind] > 1 else ""))
        else:
            flat |= _flat(child, name)
    return flat
