"""A recipe: everything needed to train and judge one model. Each leaf is the thing it describes."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Literal

from robsearch.data.mixed import with_draw
from robsearch.data.npz import NpzImages
from robsearch.errors import (
    Condition,
    instance_of,
    is_whole,
    kind_problems,
    number,
    one_of,
    problems_of,
    refuse,
)
from robsearch.identity import DERIVATION, LATER, digest, recorded_fields, reference
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
from robsearch.parts.attacks import PGD, TwoLosses, scaled, scales, standing_pgd
from robsearch.parts.averaging import EMA
from robsearch.parts.models import MLP
from robsearch.parts.objectives import TRADES
from robsearch.parts.optimisers import SGD, Adam, Piecewise
from robsearch.parts.penalties import NormDecay
from robsearch.parts.pretrained import Pretrained
from robsearch.parts.schedules import FIRST_DROP, WAR, Fixed
from robsearch.parts.stopping import RobustOverfittingStopper
from robsearch.parts.weight_perturbation import WeightPerturbation
from robsearch.protocols import (
    Attack,
    Augment,
    Dataset,
    LayerMeasure,
    LearningRate,
    Measure,
    Model,
    Objective,
    Optimiser,
    Penalty,
    Schedule,
    TrainingLoop,
    natural_first,
)

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")

_LEAVES: dict[str, Any] = {
    "model": (Model, "such as WideResNet(depth=28, width=width)"),
    "data": (Dataset, "such as CIFAR10()"),
    "attack": (Attack, "such as PGD(eps=8 / 255)"),
    "objective": (Objective, "such as TRADES()"),
    "lam": (Schedule, "such as Fixed(6.0)"),
    "optimiser": (Optimiser, "such as SGD(lr=0.1)"),
    "learning_rate": (LearningRate, "such as Cosine()"),
}
"""The protocol of each part, and what fits."""

FOR_TRAINING = (
    "objective",
    "optimiser",
    "learning_rate",
    "augment",
    "batch_size",
    "batch_norm",
    "penalties",
    "averaging",
    "weight_perturbation",
    "clip_gradient",
    "eps_warmup",
    "precision",
)
"""The fields that only training reads: robsearch's loop all of them, one of a user's own those that
it names (``TrainingLoop.uses``)."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training and its judgement, as a tree of frozen dataclasses.

    What is left at None and follows from other fields is derived when it is used, so that
    ``dataclasses.replace`` of the training attack changes the judgement too: ``recipe.resolved``
    has it filled in.

    Attributes:
        model: what is trained, such as ``WideResNet(depth=28, width=4)``.
        data: where images come from; training uses ``train``, selection ``val``, final figures
            ``test``.
        attack: what training defends against.
        objective: two loss terms; ``natural + lam * robust`` is minimised.
        lam: lambda over training.
        eval_attack: what judges on ``val`` after each epoch. By default ``TwoLosses`` in the ball
            of the training ``PGD``, with its steps; needed when ``attack`` is not a ``PGD``.
        test_attack: what judges on ``test`` once training has ended. By default ``eval_attack``, if
            it is a ``PGD`` or ``TwoLosses`` with 20 steps or its own if more.
        optimiser: how the weights move along the gradient; has the base learning rate.
        learning_rate: the factor on the base rate over training.
        augment: a random transformation of each training batch, or None.
        epochs: passes over ``train``.
        batch_size: the most images per optimiser step; the batches of an epoch differ in size by at
            most one.
        stopper: ends training once robust accuracy on ``val`` has peaked, or None to train to the
            end.
        batch_norm: whose statistics enter BatchNorm's running ones: ``clean``, ``adversarial`` or
            ``both`` (each normalises by its own batch while training; judged are the running ones,
            on both kinds of image).
        penalties: regularisers beside the objective.
        averaging: the weights that are judged and deployed are this average of the trained ones, or
            None.
        weight_perturbation: adversarial weight perturbation, or None.
        measures: taken once training has ended. By default margins, local Lipschitz bounds, layer
            norms, spectra and feature change (see ``default_measures``).
        measured_epoch: whose model the measures and the figures on ``test`` are of: the ``best`` on
            ``val``, or the ``last``.
        measured_examples: of ``test`` and of ``train``, on which ``measures`` are taken, the same
            for every model; None for all. Accuracy is always that of all of ``test``.
        seed: of initialisation, data order, augmentation and attack starts; and of the splits and
            wrong labels of a data set with ``draw="seed"``.
        clip_gradient: the longest gradient (l2 norm, over all parameters) that a step is taken
            with; a longer one is shortened to it. None: as long as it is. What is clipped is the
            gradient of the whole batch's training loss, summed over micro-batches and processes
            and, with weight perturbation, at the perturbed weights; penalties that change
            gradients (``NormDecay``) and weight decay come after it and are not clipped.
        eps_warmup: the share of training, in [0, 1), over which the training attack's ``eps`` rises
            linearly from 0, and its ``step_size`` with it (``parts.attacks.scaled``). In the first
            step, where ``eps`` is 0, the adversarial images are the clean ones. Judging always has
            the full ``eps``.
        precision: ``bf16`` trains in bfloat16 where that loses nothing (see
            ``robsearch.training.precision``), on devices that have it in hardware. Judged and
            measured is always in float32.
        derivation: the rules by which what is left at None is derived. By those of before, 1,
            ``PGD`` judges on the cross-entropy alone, and only a ``PGD`` on ``test`` tells the
            measures its ball. A search that was begun under them goes on under them by itself.
        loop: a training loop of one's own in place of robsearch's (``protocols.TrainingLoop``), or
            None. Of the fields for training (``FOR_TRAINING``) those that it does not use are to be
            left at their defaults, and are not recorded.

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
    optimiser: Optimiser = SGD()
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
    clip_gradient: float | None = field(default=None, metadata=LATER)
    eps_warmup: float = field(default=0.0, metadata=LATER)
    precision: Literal["fp32", "bf16"] = field(default="fp32", metadata=LATER)
    derivation: int = field(default=DERIVATION, metadata=LATER)
    loop: TrainingLoop | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        problems = problems_of(*self._leaf_conditions(), *self._field_conditions())
        for part in dataclasses.fields(self):
            problems += kind_problems(getattr(self, part.name), f"Recipe.{part.name}")
        refuse(problems)

    @property
    def resolved(self) -> Recipe:
        """The same recipe with ``eval_attack``, ``test_attack`` and ``measures`` filled in, and
        ``data`` and ``lam`` as ``resolved_data`` and ``resolved_lam`` have them."""
        resolved = copy.copy(self)
        eval_attack = self.resolved_eval_attack
        test_attack = self._judge_on_test(eval_attack)
        derived = {
            "data": self.resolved_data,
            "lam": self.resolved_lam,
            "eval_attack": eval_attack,
            "test_attack": test_attack,
            "measures": self._measures_under(test_attack),
            # Nothing is left to be derived, so the rules do not tell two recipes apart.
            "derivation": DERIVATION,
        }
        # Not by replace: what follows from a recipe that was checked need not be checked again,
        # and a search that goes on compares thousands of them.
        for name, part in derived.items():
            object.__setattr__(resolved, name, part)
        return resolved

    def with_seed(self, seed: int) -> Recipe:
        """The same recipe with another seed, from 0."""
        # Not by replace: as in ``resolved``, all else of it was checked when it was made.
        seeded = copy.copy(self)
        object.__setattr__(seeded, "seed", seed)
        return seeded

    @property
    def resolved_data(self) -> Dataset:
        """Where images come from: ``data``, where its ``draw`` is ``seed`` with the recipe's seed
        for it."""
        return with_draw(self.data, self.seed)

    @property
    def resolved_lam(self) -> Schedule:
        """Lambda over training, with ``freeze_at="first_drop"`` of ``WAR`` as that share of
        training."""
        drop = self._first_drop
        if isinstance(self.lam, WAR) and self.lam.freeze_at == FIRST_DROP and drop is not None:
            return dataclasses.replace(self.lam, freeze_at=drop)
        return self.lam

    def trains_with(self, name: str) -> bool:
        """Whether a field of ``FOR_TRAINING`` is read: by robsearch's loop always, by one of a
        user's own if it says so."""
        if self.loop is None:
            return True
        # Before it has been refused, a loop may be anything.
        uses = getattr(self.loop, "uses", ())
        return isinstance(uses, tuple) and name in uses

    @property
    def _first_drop(self) -> float | None:
        if not self.trains_with("learning_rate"):
            return None
        drop = getattr(self.learning_rate, FIRST_DROP, None)
        return drop if isinstance(drop, float | int) else None

    @property
    def resolved_eval_attack(self) -> Attack:
        """What judges on ``val``: ``eval_attack``, or what is derived from ``attack``."""
        attack = self._judge_on_val()
        assert attack is not None, "a recipe without one is refused when it is made"
        return attack

    @property
    def resolved_test_attack(self) -> Attack:
        """What judges on ``test``: ``test_attack``, or what is derived from the attack on
        ``val``."""
        return self._judge_on_test(self.resolved_eval_attack)

    @property
    def resolved_measures(self) -> tuple[Measure | LayerMeasure, ...]:
        """What is measured: ``measures``, or the default ones under the attack on ``test``."""
        return self._measures_under(self.resolved_test_attack)

    def _judge_on_test(self, judge: Attack) -> Attack:
        """``test_attack``, or what is derived from the attack on ``val``."""
        if self.test_attack is not None:
            return self.test_attack
        if isinstance(judge, PGD | TwoLosses):
            return dataclasses.replace(judge, steps=max(20, judge.steps))
        return judge

    def _measures_under(self, judge: Attack) -> tuple[Measure | LayerMeasure, ...]:
        """``measures``, or the default ones under the attack on ``test``."""
        if self.measures is not None:
            return self.measures
        if self.derivation == 1 and not isinstance(judge, PGD):
            return default_measures(None)
        return default_measures(standing_pgd(judge))

    def _judge_on_val(self) -> Attack | None:
        attack = self.attack
        if self.eval_attack is not None or not isinstance(attack, PGD):
            return self.eval_attack
        if self.derivation == 1:
            return dataclasses.replace(attack, start="uniform")
        return TwoLosses.in_place_of(attack)

    def _leaf_conditions(self) -> Iterator[Condition]:
        for name, (protocol, example) in _LEAVES.items():
            value = getattr(self, name)
            is_lambda = name == "lam" and isinstance(value, Real)
            do = example
            if is_lambda:
                do = f"lam=Fixed(lam), with lam as what trial.suggest_float returned ({value:g})"
            if isinstance(value, NpzImages):
                do = "Mixed(CIFAR10(), extra=NpzImages('1m.npz'))"
            yield instance_of(f"Recipe.{name}", value, protocol, do)
        judge = "the attack that judges, such as TwoLosses(eps=...) with the eps of your attack"
        if self.eval_attack is None:
            judge += f": none is derived from {type(self.attack).__name__}"
        yield instance_of("Recipe.eval_attack", self._judge_on_val(), Attack, judge)
        if self.test_attack is not None:
            yield instance_of("Recipe.test_attack", self.test_attack, Attack, "AutoAttack()")
        yield from self._tuple_conditions("penalties", Penalty, "NormDecay()")
        if self.measures is not None:
            yield from self._tuple_conditions("measures", Measure, "LogitMargin()")
        yield from self._loop_conditions()

    def _loop_conditions(self) -> Iterator[Condition]:
        loop = self.loop
        if loop is None:
            return
        fits = instance_of("Recipe.loop", loop, TrainingLoop, "an object of your class")
        yield fits
        if not fits.fits:
            return
        kind = type(loop).__name__
        names = loop.uses
        is_known = isinstance(names, tuple) and set(names) <= set(FOR_TRAINING)
        do = f"name some of {', '.join(FOR_TRAINING)}, or none: ()"
        yield Condition(is_known, f"{kind}.uses to be a tuple of fields", repr(names), do)
        if not is_known:
            return
        for part in dataclasses.fields(self):
            value = getattr(self, part.name)
            unused = part.name in FOR_TRAINING and part.name not in names
            yield Condition(
                not unused or value == part.default,
                f"no {part.name}, which {kind} does not use",
                repr(value),
                f"leave it out, or name it in {kind}.uses if the loop reads it",
            )

    def _tuple_conditions(self, name: str, protocol: Any, example: str) -> Iterator[Condition]:
        leaves = getattr(self, name)
        do = f"pass such as {name}=({example},)"
        if not isinstance(leaves, tuple):
            yield Condition(False, f"Recipe.{name} to be a tuple", repr(leaves), do)
            return
        for i, leaf in enumerate(leaves):
            kind = LayerMeasure if isinstance(leaf, LayerMeasure) else protocol
            yield instance_of(f"Recipe.{name}[{i}]", leaf, kind, f"such as {example}")

    def _field_conditions(self) -> Iterator[Condition]:
        for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0)):
            value = getattr(self, name)
            fits = is_whole(value) and value >= least
            expected = f"Recipe.{name} to be a whole number, at least {least}"
            yield Condition(fits, expected, repr(value), f"pass {name}={least} or more")
        yield Condition(
            isinstance(self.stopper, RobustOverfittingStopper | None),
            "Recipe.stopper to be a RobustOverfittingStopper",
            repr(self.stopper),
            "pass RobustOverfittingStopper(patience=10), or None to train to the end",
        )
        n = self.measured_examples
        fits = n is None or (is_whole(n) and n >= 1)
        expected = "Recipe.measured_examples of at least 1, or None"
        yield Condition(fits, expected, repr(n), "None means all")
        if self.clip_gradient is not None:
            do = "pass the longest gradient, such as 1.0, or None"
            yield number("Recipe.clip_gradient", self.clip_gradient, do, above=0)
        yield from self._warmup_conditions()
        yield one_of("Recipe.batch_norm", self.batch_norm, "clean", "adversarial", "both")
        yield one_of("Recipe.precision", self.precision, "fp32", "bf16")
        yield one_of("Recipe.measured_epoch", self.measured_epoch, "best", "last")
        expected = f"Recipe.derivation of 1 to {DERIVATION}"
        fits = is_whole(self.derivation) and 1 <= self.derivation <= DERIVATION
        yield Condition(fits, expected, repr(self.derivation), "leave it out")
        yield Condition(
            natural_first(self.objective) or not isinstance(self.lam, WAR),
            "an objective that WAR can steer by L_nat / L_rob",
            self.objective,
            "use an objective whose first term is the natural loss, such as TRADES or PGDAT, or "
            "Fixed(lam)",
        )
        yield from self._war_conditions()
        yield from self._rate_conditions()

    def _rate_conditions(self) -> Iterator[Condition]:
        """Clipping, ``NormDecay`` and Adam's weight decay take gradients as they are. In layers
        with learning rates of their own these have other sizes, and so the three would act
        unevenly."""
        if not (isinstance(self.model, MLP | Pretrained) and self.model.has_own_rates):
            return
        layers = "for layers with learning rates of their own"
        clip = self.clip_gradient
        yield Condition(clip is None, f"no clip_gradient {layers}", clip, "leave it out")
        penalties = self.penalties if isinstance(self.penalties, tuple) else ()
        decays = any(isinstance(penalty, NormDecay) for penalty in penalties)
        yield Condition(not decays, f"no NormDecay {layers}", self.penalties, "leave it out")
        coupled = isinstance(self.optimiser, Adam) and self.optimiser.weight_decay > 0
        do = "pass AdamW, or weight_decay=0"
        yield Condition(not coupled, f"no weight decay of Adam {layers}", self.optimiser, do)

    def _war_conditions(self) -> Iterator[Condition]:
        if not isinstance(self.lam, WAR):
            return
        drop = self._first_drop
        if self.lam.freeze_at == FIRST_DROP:
            yield Condition(
                drop is not None and drop > self.lam.hold,
                f"with WAR(freeze_at={FIRST_DROP!r}), a learning rate that drops after its hold",
                self.learning_rate,
                "use Piecewise or Halving, give your own a property first_drop, or pass freeze_at "
                "as a share of training",
            )

    def _warmup_conditions(self) -> Iterator[Condition]:
        do = "give a share of training, such as 0.1, not an epoch"
        share = number("Recipe.eps_warmup", self.eps_warmup, do, at_least=0, below=1)
        yield share
        if not share.fits or self.eps_warmup == 0:
            return
        yield Condition(
            scales(self.attack),
            "with eps_warmup, a training attack whose every ball is a number, its field eps",
            repr(self.attack),
            "pass such as PGD, or eps_warmup=0",
        )
        hold = self.lam.hold if isinstance(self.lam, WAR) else 1.0
        yield Condition(
            hold >= self.eps_warmup,
            "WAR to hold lambda at least as long as eps_warmup",
            f"hold={hold:g} and eps_warmup={self.eps_warmup:g}",
            "until then the ratio of the losses is that of smaller perturbations: pass a longer "
            "hold (of form='log'), or eps_warmup=0",
        )

    def training_attack(self, progress: float) -> Attack | None:
        """What training defends against at ``progress`` in [0, 1]: ``attack``, in the share
        ``eps_warmup`` of training at a smaller ``eps``; None where that is 0."""
        if progress >= self.eps_warmup:
            return self.attack
        if progress == 0:
            return None
        attack: Attack = scaled(self.attack, progress / self.eps_warmup)
        return attack

    @property
    def digest(self) -> str:
        """What names the recipe for ever: two recipes with one digest train and judge the same
        model.

        What is derived counts as if it had been given. Fields that do not take part in comparison,
        such as the folder the data lies in, do not count. See ``robsearch.identity``.

        Raises:
            InputError: something in the recipe has no lasting name, such as a lambda.
        """
        return digest(self.resolved)

    def flat(self) -> dict[str, str | float]:
        """The tree as flat, stable names for tracking: ``model``, ``model.width``, ``lam``,
        ``attack.eps`` ...

        The measures, which change nothing of the training, are one text. What a loop of a user's
        own does not use is left out.
        """
        recipe = self.resolved
        left_out = {"measures"}
        left_out |= {name for name in FOR_TRAINING if not recipe.trains_with(name)}
        names = _flat(recipe, "")
        flat = {
            name: value for name, value in names.items() if name.partition(".")[0] not in left_out
        }
        return {**flat, "measures": ", ".join(map(repr, recipe.resolved_measures))}


def default_measures(attack: PGD | None) -> tuple[Measure | LayerMeasure, ...]:
    """What is measured of every trial, under the ``PGD`` that stands for the attack that judges on
    ``test``; lower bounds are named as such.

    Lipschitz figures are for linf; without a ``PGD`` there is no eps, and what needs one is left
    out.
    """
    measures: list[Measure | LayerMeasure] = [
        LogitMargin(),
        SingularValues(),
        OperatorNorm("linf"),
        OperatorNorm("l1"),
        OperatorNorm("l2"),
        OperatorNorm("linf", folded=True),
    ]
    if attack is None:
        return (*measures, InputMargin())
    measures += [InputMargin(attack.norm), FeatureChange(attack)]
    if attack.norm == "linf" and attack.eps > 0:
        measures += [LogitRatio(attack.eps), AttackRatio(attack), GlobalBound()]
    return tuple(measures)


def _text(node: object) -> str:
    """A function by its name, and no addresses: they are others in every process, and MLflow keeps
    the first text."""
    name = reference(node) if callable(node) else None
    return name or ADDRESS.sub("", str(node))


def _flat(node: object, prefix: str) -> dict[str, str | float]:
    if not dataclasses.is_dataclass(node):
        return {prefix: node if isinstance(node, int | float | str) else _text(node)}
    fields = [field for field in recorded_fields(node) if field.compare]
    if prefix and len(fields) == 1 and fields[0].name == "value":
        return _flat(getattr(node, "value"), prefix)  # noqa: B009 - Fixed(6.0) is tracked as lam = 6.0
    flat: dict[str, str | float] = {prefix: type(node).__name__} if prefix else {}
    for part in fields:
        child = getattr(node, part.name)
        name = f"{prefix}.{part.name}" if prefix else part.name
        if isinstance(child, tuple) and any(map(dataclasses.is_dataclass, child)):
            flat.update(_flat_items(child, name))
        else:
            flat.update(_flat(child, name))
    return flat


def _flat_items(items: tuple[object, ...], prefix: str) -> dict[str, str | float]:
    """By the items' classes, and from the second of a class on by its number: ``PGD``, ``PGD2``."""
    flat: dict[str, str | float] = {}
    seen: Counter[str] = Counter()
    for item in items:
        kind = type(item).__name__
        seen[kind] += 1
        number = str(seen[kind]) if seen[kind] > 1 else ""
        flat.update(_flat(item, f"{prefix}.{kind}{number}"))
    return flat
