"""Two real optimiser steps and one judged batch of a recipe: what of it fails, in which part, at
which line.

All that a trial calls is called, by the functions that a trial calls, on a few images: so nothing
has to be said about models, attacks or measures in advance. Attacks take one step, and AutoAttack
is asked only whether it could run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import nn

from robsearch.errors import InputError, own_line, refused
from robsearch.measures.changes import UnknownOperationError
from robsearch.network.modes import checked_logits, evaluating
from robsearch.protocols import LayerMeasure, Measure, Split
from robsearch.recipe import Recipe
from robsearch.spaces.checking.checked_parts import (
    CheckedAttack,
    CheckedAugment,
    CheckedObjective,
    CheckedPenalty,
    refuse_weights,
)
from robsearch.spaces.checking.networks import check_network, refuse_shape
from robsearch.spaces.checking.part_finder import PartFinder
from robsearch.spaces.checking.recipe_structure import ATTACKING, autoattacks, with_single_steps
from robsearch.testing.contracts import check_factors, check_groups, check_state
from robsearch.testing.promises import described, is_row, left_alone
from robsearch.training.batching import least_images
from robsearch.training.evaluation import best_device, judge, sampled, to_device, to_float
from robsearch.training.learner import Learner, reloaded, seed_epoch
from robsearch.training.own_loop import LoopLearner
from robsearch.training.precision import precision_problems
from robsearch.training.trainer import NonFiniteLossError, passes, train_epoch
from robsearch.trials.child.server import stage
from robsearch.trials.measurement import Measurement
from robsearch.trials.memory_probe import ALL_DUE

FEW = 4
"""Images of the step."""
MORE = 32
"""What fails on the few is tried on more: a loss over ranks, or a measure of quantiles, may need
them."""
HUGE = 1e4
"""Logits beyond it are those of a net that has diverged."""


class Task(NamedTuple):
    """A recipe to try.

    Attributes:
        recipe: to be tried.
        split: at least ``MORE`` images of its data, or of its data's shape.
        whole: whether steps and a judged batch are taken; else the model alone is looked at.
        gpu: whether it would be trained on one.
    """

    recipe: Recipe
    split: Split
    whole: bool = True
    gpu: bool = True


class Outcome(NamedTuple):
    """What came of it: problems, each with what to do, what was not tried, and the images that
    BatchNorm needs."""

    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    least: int = 1


def try_recipe(task: Task) -> Outcome:
    """Everything that fails, on a few images and on more."""
    batch = task.recipe.batch_size
    first = _FirstStep(task, min(FEW, batch))
    outcome = first.outcome()
    if outcome.problems and batch > FEW and not first.slow:
        return _FirstStep(task, min(MORE, batch)).outcome()
    return outcome


def try_shapes(task: Task) -> Outcome:
    """Builds the model on the meta device, where tensors have shapes and no values, for one that
    does not fit into memory."""
    spec = task.recipe.data.spec
    try:
        with torch.device("meta"), torch.no_grad():
            model = task.recipe.model.build(spec).eval()
            logits = model(torch.zeros(FEW, *spec.shape))
        refuse_shape(logits, FEW, spec.num_classes)
    except Exception as error:
        if "meta" in f"{type(error).__name__}: {error}".lower():
            # The model looks at a value, and there are none.
            return Outcome(notes=("not even its shapes could be tried",))
        return Outcome(tuple(PartFinder(task.recipe).problems(error, "model")))
    return Outcome(notes=("only its shapes were tried",))


class _SlowError(Exception):
    """Nothing is wrong, but there is no more time."""


class _FirstStep:
    """One recipe on ``n`` images."""

    def __init__(self, task: Task, n: int) -> None:
        self.whole = task.whole
        self.resolved = task.recipe.resolved
        self.recipe = with_single_steps(task.recipe)
        self.measures_by_default = task.recipe.measures is None
        self.gpu = task.gpu
        self.device = best_device() if task.gpu else torch.device("cpu")
        few = Split(task.split.images[:n], task.split.labels[:n])
        self.split = to_device(few, self.device)
        self.x = to_float(self.split.images)
        self.y = self.split.labels
        self.parts = PartFinder(self.recipe)
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.slow = False
        self.least = 1

    def outcome(self) -> Outcome:
        torch.manual_seed(self.recipe.seed)
        try:
            model = self._model()
            if model is not None and self.whole:
                self._precision()
                self._judge(model)
                self._schedules()
                if self.recipe.trains_with("optimiser"):
                    self._optimiser(model)
                if self.recipe.loop is None:
                    self._train()
                else:
                    self._train_by_loop()
                self.parts.model = model
                # The last, for it takes longest: what a wide net leaves untried is little.
                self._measure(model)
        except _SlowError:
            self.slow = True
        return Outcome(tuple(dict.fromkeys(self.problems)), tuple(self.notes), self.least)

    @contextmanager
    def _trying(self, part: str, building: bool = False) -> Iterator[None]:
        """What is raised inside is a problem of the part whose code was at it, or else of the one
        named."""
        stage(part)
        try:
            yield
        except TimeoutError as error:
            # A model, or a whole loop with a loader of its own, may only be slow.
            may_be_slow = self.parts.part(error, part) in ("model", "loop")
            of_the_user = own_line(error) is not None and not may_be_slow
            if building or of_the_user:
                self.problems += self.parts.problems(error, part)
            else:  # as on a machine without the GPU that would train it
                name = self.parts.name(part)
                self.notes.append(f"{name} had no end within the time limit: no more was tried")
            raise _SlowError from error
        except Exception as error:
            self.problems += self.parts.problems(error, part)

    # --- the model ---

    def _model(self) -> nn.Module | None:
        """The net, if nothing is wrong with it by itself."""
        model: nn.Module | None = None
        with self._trying("model", building=True):
            model = self.recipe.model.build(self.recipe.data.spec)
            if not isinstance(model, nn.Module):
                raise refused("an nn.Module from build", type(model).__name__, "return the net")
            self.parts.model = model.to(self.device)
        if model is None or self.problems:
            return None
        self.least = least_images(model.train())
        with self._trying("model"), evaluating(model):
            self._look_at(model)
        return None if self.problems else model

    def _look_at(self, model: nn.Module) -> None:
        if not any(weight.requires_grad for weight in model.parameters()):
            raise refused("a weight that is trained", "none", "leave requires_grad on")
        check_network(model, self.x, self.y, self.recipe.data.spec.num_classes)

    # --- judging ---

    def _judge(self, model: nn.Module) -> None:
        for name in ATTACKING:
            for autoattack in autoattacks(getattr(self.resolved, name)):
                with self._trying(name), evaluating(model):
                    autoattack.refuse_unfit(model, self.x, self.y)
        with self._trying("eval_attack"):
            judge(model, self.split, CheckedAttack(self.recipe.eval_attack, "eval_attack"))
        with self._trying("test_attack"):
            attack = CheckedAttack(self.recipe.test_attack, "test_attack")
            Measurement(model, attack, (), None).examples(sampled(self.split, None))

    def _measure(self, model: nn.Module) -> None:
        for i, measure in enumerate(self.recipe.resolved_measures):
            part = f"measures[{i}]"
            with self._trying(part), evaluating(model), left_alone(measure, model):
                try:
                    self._values_of(measure, model)
                except UnknownOperationError as error:
                    name = type(measure).__name__
                    if self.measures_by_default:
                        self.notes.append(f"{name} cannot be measured, and is left out: {error}")
                        continue
                    raise InputError(f"{error}, or leave {name} out of measures=(...)") from error

    def _values_of(self, measure: Measure | LayerMeasure, model: nn.Module) -> None:
        if isinstance(measure, Measure):
            values = measure(model, self.x, self.y)
            _refuse_numbers(values, "one float per image", len(self.x))
            return
        by_layer = measure.by_layer(model, self.x, self.y)
        if not isinstance(by_layer, Mapping):
            raise refused("a mapping from layers to floats", repr(by_layer), "return a dict")
        for layer, values in by_layer.items():
            _refuse_numbers(values, f"floats in a row for layer {layer!r}")

    # --- training ---

    def _precision(self) -> None:
        problems = precision_problems(self.recipe, self.device)
        if problems and self.gpu:
            self.notes.append("bfloat16 was tried without the hardware that training in it needs")
        elif problems:
            self.problems += problems

    def _schedules(self) -> None:
        with self._trying("learning_rate"):
            check_factors(self.recipe.learning_rate)
        with self._trying("lam"):
            lam = self.recipe.lam
            state = lam.init()
            # From 0 to 1, both of them included.
            for step in range(21):
                check_state(lam, state)
                state = lam.update(state, 1.0, 0.5, step / 20)

    def _optimiser(self, model: nn.Module) -> None:
        with self._trying("optimiser"):
            check_groups(self.recipe.optimiser, model)

    def _train(self) -> None:
        """Of a batch, and of one with an image less, at the end of training: all is due that is
        done seldom."""
        recipe = self.recipe
        n = len(self.x)
        penalties = []
        for i, penalty in enumerate(recipe.penalties):
            penalties.append(CheckedPenalty(penalty, f"penalties[{i}]"))
        checked = replace(
            recipe,
            attack=CheckedAttack(recipe.attack, "attack"),
            objective=CheckedObjective(recipe.objective, "objective"),
            penalties=tuple(penalties),
            augment=recipe.augment and CheckedAugment(recipe.augment, "augment"),
            eps_warmup=0.0,  # the attack is tried at its full eps
            epochs=ALL_DUE + 1,
            batch_size=n,
        )
        with self._trying("training"):
            learner = Learner.of(checked, self.device)
            self.parts.model = learner.model
            self._train_epoch(learner, 1, n)
            with evaluating(learner.model), torch.no_grad():
                largest = learner.model(self.x).abs().max()
            # What is computed from such logits may not be finite. NaN counts as diverged, too.
            diverged = not bool(largest < HUGE)
            try:
                self._train_epoch(learner, ALL_DUE + 1, max(1, n - 1))
            except NonFiniteLossError:
                return  # the learning rate was too high, which is the search's to find
            except (InputError, AssertionError):
                if not diverged:
                    raise
                return
            with evaluating(learner.eval_model), torch.no_grad():
                checked_logits(learner.eval_model, self.x, self.y)

    def _train_by_loop(self) -> None:
        """Two epochs by a loop of the user's own, the second as after a checkpoint."""
        changes: dict[str, Any] = {"epochs": 2, "stopper": None}
        if self.recipe.trains_with("batch_size"):
            changes["batch_size"] = len(self.x)
        recipe = replace(self.recipe, **changes)
        with self._trying("loop"):
            first = LoopLearner.of(recipe, self.device)
            self.parts.model = first.model
            self._next_epoch(first)
            refuse_weights(first.model)
            second = LoopLearner.of(recipe, self.device)
            self.parts.model = second.model
            second.load(reloaded(first.state))
            self._next_epoch(second)

    def _next_epoch(self, learner: LoopLearner) -> None:
        with closing(passes(learner, self.split)) as epochs:
            next(epochs)

    def _train_epoch(self, learner: Learner, epoch: int, n: int) -> None:
        learner.epoch = epoch
        seed_epoch(self.recipe.seed, epoch)
        batch = Split(self.split.images[:n], self.split.labels[:n])
        train_epoch(learner, batch)
        refuse_weights(learner.model)


def _refuse_numbers(values: Any, expected: str, n: int | None = None) -> None:
    if not is_row(values, n):
        raise refused(expected, described(values), "return a tensor of floats")
    if bool(values.isnan().any()):
        raise refused(expected, "NaN", "look at what it divides by")
