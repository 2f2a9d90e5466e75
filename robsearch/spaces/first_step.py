"""Two real optimiser steps and one judged batch of a recipe: what of it fails, in which part, at which line.

All that a trial calls is called, by the functions that a trial calls, on a few images: so nothing has to be said about
models, attacks or measures in advance. Attacks take one step, and AutoAttack is asked only whether it could run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robsearch.batching import least_images
from robsearch.child import stage
from robsearch.errors import refusal
from robsearch.evaluation import best_device, judge, sampled, to_device, to_float
from robsearch.learner import Learner, seed_epoch
from robsearch.measurement import Measurement
from robsearch.modes import checked_logits, evaluating
from robsearch.protocols import LayerMeasure, Measure, Split
from robsearch.recipe import Recipe
from robsearch.rehearsal import ALL_DUE
from robsearch.spaces.blame import Blame, BrokenPartError, own_line
from robsearch.spaces.structures import autoattacks, cheapened
from robsearch.spaces.watched import (
    WatchedAttack,
    WatchedAugment,
    WatchedObjective,
    WatchedPenalty,
    promised,
    refuse_weights,
)
from robsearch.testing.contracts import check_factors, check_state
from robsearch.testing.promises import left_alone
from robsearch.trainer import NonFiniteLossError, train_epoch
from robsearch.wording import counted

FEW, MORE = 4, 32
"""Images of the step. What fails on the few is tried on more: a loss over ranks, or a measure of quantiles, may need
them."""
HUGE = 1e4
"""Logits beyond it are those of a net that has diverged."""
JUDGES = ("eval_attack", "test_attack")
ALIKE = 0.02
"""How far an image's logits may move with the images beside it, relative to the largest: a half float's rounding."""


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


class Found(NamedTuple):
    """What came of it: problems, each with what to do, what was not tried, and the images that BatchNorm needs."""

    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    least: int = 1


def tried(task: Task) -> Found:
    """Everything that fails, on a few images and on more."""
    batch = task.recipe.batch_size
    attempt = _Attempt(task, min(FEW, batch))
    first = attempt.found()
    again = first.problems and batch > FEW and not attempt.slow
    return _Attempt(task, min(MORE, batch)).found() if again else first


def without_memory(task: Task) -> Found:
    """Builds the model on the meta device, where tensors have shapes and no values, for one that does not fit."""
    spec = task.recipe.data.spec
    try:
        with torch.device("meta"), torch.no_grad():
            logits = task.recipe.model.build(spec).eval()(torch.zeros(FEW, *spec.shape))
        _refuse_shape(logits, FEW, spec.num_classes)
    except Exception as error:
        if "meta" in f"{type(error).__name__}: {error}".lower():  # it looks at a value, and there are none
            return Found(notes=("not even its shapes could be tried",))
        return Found(tuple(Blame(task.recipe).problems(error, "model")))
    return Found(notes=("only its shapes were tried",))


class _SlowError(Exception):
    """Nothing is wrong, but there is no more time."""


class _Attempt:
    """One recipe on ``n`` images."""

    def __init__(self, task: Task, n: int) -> None:
        self.whole, self.given, self.recipe = task.whole, task.recipe.resolved, cheapened(task.recipe)
        self.device = best_device() if task.gpu else torch.device("cpu")
        self.split = to_device(Split(task.split.images[:n], task.split.labels[:n]), self.device)
        self.x, self.y = to_float(self.split.images), self.split.labels
        self.blame = Blame(self.recipe)
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.slow = False
        self.least = 1

    def found(self) -> Found:
        torch.manual_seed(self.recipe.seed)
        try:
            model = self._model()
            if model is not None and self.whole:
                self._judge(model)
                self._schedules()
                self._train()
                self.blame.model = model
                self._measure(model)  # the last, for it takes longest: what a wide net leaves untried is little
        except _SlowError:
            self.slow = True
        return Found(tuple(dict.fromkeys(self.problems)), tuple(self.notes), self.least)

    @contextmanager
    def _part(self, name: str, building: bool = False) -> Iterator[None]:
        """What is raised inside is a problem of the part whose code was at it, or else of the one named."""
        stage(name)
        try:
            yield
        except TimeoutError as error:
            mine = own_line(error) is not None and self.blame.part(error, name) != "model"
            if building or mine:
                self.problems += self.blame.problems(error, name)
            else:  # as on a machine without the GPU that would train it
                self.notes.append(f"{self.blame.named(name)} had no end within the time limit: no more was tried")
            raise _SlowError from error
        except Exception as error:
            self.problems += self.blame.problems(error, name)

    # -- the model ---------------------------------------------------------------------------------------------

    def _model(self) -> nn.Module | None:
        """The net, if nothing is wrong with it by itself."""
        model: nn.Module | None = None
        with self._part("model", building=True):
            model = self.recipe.model.build(self.recipe.data.spec)
            if not isinstance(model, nn.Module):
                raise _broken("model", "an nn.Module from build", type(model).__name__, "return the net")
            self.blame.model = model.to(self.device)
        if model is None or self.problems:
            return None
        self.least = least_images(model.train())
        with self._part("model"), promised("model"), evaluating(model):
            self._look_at(model)
        return None if self.problems else model

    def _look_at(self, model: nn.Module) -> None:
        n, classes = len(self.x), self.recipe.data.spec.num_classes
        if not any(weight.requires_grad for weight in model.parameters()):
            raise _broken("model", "a weight that is trained", "none", "leave requires_grad on")
        x = self.x.clone()
        with torch.no_grad():
            logits, again = model(x), model(x)
            _refuse_shape(logits, n, classes)
            if not torch.equal(x, self.x):
                raise _broken("model", "images left as they are", "a change in them", "use no operation in place")
            refuse_weights("model", model)
            checked_logits(model, x, self.y)
            if torch.equal(logits, again):  # else it draws at random, and nothing can be compared
                self._compare_alone(model, logits)
        leaf = self.x.clone().requires_grad_()
        logits = model(leaf)
        slope = torch.autograd.grad(logits.sum(), leaf, allow_unused=True)[0] if logits.requires_grad else None
        if slope is None or not bool(slope.isfinite().all()):
            got = "none" if slope is None else "NaN or infinity"
            raise _broken("model", "a finite gradient of the logits in the image", got, "attacks follow it")

    def _compare_alone(self, model: nn.Module, logits: Tensor) -> None:
        for n in {1, len(self.x) - 1} - {0}:
            alone = model(self.x[:n])
            _refuse_shape(alone, n, logits.shape[1])
            if not torch.allclose(alone, logits[:n], rtol=0, atol=ALIKE * float(logits.abs().max())):
                do = "use no statistics of the batch in eval mode: accuracy would depend on its size"
                raise _broken("model", "an image's logits not to depend on the images beside it", "others", do)

    # -- judging -----------------------------------------------------------------------------------------------

    def _judge(self, model: nn.Module) -> None:
        for name in ("attack", "eval_attack", "test_attack", "measures"):
            for attack in autoattacks(getattr(self.given, name)):
                with self._part(name), evaluating(model):
                    attack.refuse_unfit(model, self.x, self.y)
        eval_attack, test_attack = (WatchedAttack(getattr(self.recipe, name), name) for name in JUDGES)
        with self._part("eval_attack"):
            judge(model, self.split, eval_attack)
        with self._part("test_attack"):
            Measurement(model, test_attack, (), None).examples(sampled(self.split, None))

    def _measure(self, model: nn.Module) -> None:
        for i, measure in enumerate(self.recipe.resolved_measures):
            part = f"measures[{i}]"
            with self._part(part), evaluating(model), promised(part), left_alone(measure, model):
                if isinstance(measure, Measure):
                    _refuse_numbers(part, measure(model, self.x, self.y), "one float per image", len(self.x))
                else:
                    self._measure_layers(part, measure, model)

    def _measure_layers(self, part: str, measure: LayerMeasure, model: nn.Module) -> None:
        values = measure.by_layer(model, self.x, self.y)
        if not isinstance(values, Mapping):
            raise _broken(part, "a mapping from layers to floats", repr(values), "return a dict")
        for layer, numbers in values.items():
            _refuse_numbers(part, numbers, f"floats in a row for layer {layer!r}", None)

    # -- training ----------------------------------------------------------------------------------------------

    def _schedules(self) -> None:
        with self._part("learning_rate"), promised("learning_rate"):
            check_factors(self.recipe.learning_rate)
        with self._part("lam"), promised("lam"):
            lam = self.recipe.lam
            state = lam.init()
            for step in range(21):
                check_state(lam, state)
                state = lam.update(state, 1.0, 0.5, step / 20)

    def _train(self) -> None:
        """Of a batch, and of one with an image less, at the end of training: all is due that is done seldom."""
        recipe, n = self.recipe, len(self.x)
        watched = replace(
            recipe,
            attack=WatchedAttack(recipe.attack, "attack"),
            objective=WatchedObjective(recipe.objective),
            penalties=tuple(WatchedPenalty(each, f"penalties[{i}]") for i, each in enumerate(recipe.penalties)),
            augment=recipe.augment and WatchedAugment(recipe.augment),
            epochs=ALL_DUE + 1,
            batch_size=n,
        )
        with self._part("training"):
            learner = Learner.of(watched, self.device)
            self.blame.model = learner.model
            for epoch, images in ((1, n), (ALL_DUE + 1, max(1, n - 1))):
                learner.epoch = epoch
                seed_epoch(recipe.seed, epoch)
                part = Split(self.split.images[:images], self.split.labels[:images])
                diverged = epoch > 1 and _diverged(learner.model, self.x)
                try:
                    train_epoch(learner, part)
                    refuse_weights("training", learner.model)
                except (NonFiniteLossError, BrokenPartError) as error:
                    forgiven = diverged or (epoch > 1 and isinstance(error, NonFiniteLossError))
                    if not forgiven:
                        raise
                    return  # the learning rate was too high, which is the search's to find
            with evaluating(learner.judged), torch.no_grad():
                checked_logits(learner.judged, self.x, self.y)


def _diverged(model: nn.Module, x: Tensor) -> bool:
    """Whether the first step made logits so large that what is computed from them may not be finite."""
    with evaluating(model), torch.no_grad():
        logits = model(x)
    return not bool(logits.abs().max() < HUGE)


def _refuse_shape(logits: Any, n: int, classes: int) -> None:
    if not isinstance(logits, Tensor):
        raise _broken("model", f"logits of shape ({n}, {classes})", f"a {type(logits).__name__}", "return one tensor")
    if logits.shape != (n, classes) or not logits.is_floating_point():
        got = f"logits of shape {tuple(logits.shape)} for {counted(n, 'image')}, {logits.dtype}"
        raise _broken("model", f"floats of shape ({n}, {classes})", got, "return one row of logits per image")


def _refuse_numbers(part: str, values: Any, what: str, n: int | None) -> None:
    fits = isinstance(values, Tensor) and values.is_floating_point() and values.ndim == 1 and n in (None, len(values))
    if not fits:
        got = f"{values.dtype} {tuple(values.shape)}" if isinstance(values, Tensor) else repr(values)
        raise _broken(part, what, got, "return a tensor of floats")
    if bool(values.isnan().any()):
        raise _broken(part, what, "NaN", "look at what it divides by")


def _broken(part: str, expected: str, got: object, do: str) -> BrokenPartError:
    return BrokenPartError(part, refusal(expected, got, do))
