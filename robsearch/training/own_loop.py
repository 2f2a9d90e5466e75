"""A training loop of a user's own: what it is given, and what is made of what it yields.

The loop trains, and that is all it does. The network is the recipe's, so that it can be built again
to be judged, exported and measured; judging, checkpoints, pruning and stopping are those of any
training.
"""

from __future__ import annotations

import itertools
import math
import random
import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from robsearch.errors import Condition, a, refuse_unless, refused
from robsearch.metrics import LAM
from robsearch.parts.schedules import Fixed
from robsearch.protocols import (
    Checkpoint,
    Images,
    Labels,
    LoopEpoch,
    Metrics,
    Split,
    State,
    TrainingLoop,
)
from robsearch.recipe import Recipe
from robsearch.training.learner import TrainedEpochs, reloaded, seed_epoch
from robsearch.training.memory import forget_peak
from robsearch.training.ranks import ALONE, Ranks

Batches = Callable[[], Iterator[tuple[Images, Labels]]]
"""Makes one pass over ``train``."""

OWN_METRICS = ("val", "val_raw", "test", "test_last", "test_raw", "time", "memory", "epoch", LAM)
"""Names of metrics, or of their first parts, that robsearch writes itself."""
ENDED = object()
_NAME = re.compile(r"[\w\- :][\w\-. :]*(/[\w\- :][\w\-. :]*)*", re.ASCII)


class GivenTraining:
    """What a loop of a user's own is given: ``protocols.Training``."""

    def __init__(self, learner: LoopLearner, train: Split, batches: Batches) -> None:
        self.recipe = learner.recipe
        self.model = learner.model
        self.device = learner.device
        self.train = train
        self.state = learner.loop_state
        self._learner = learner
        self._batches = batches

    @property
    def epochs(self) -> Iterator[int]:
        """The epochs that are left, each seeded when it begins."""
        learner = self._learner
        while True:
            epoch = learner.epoch + 1
            learner.begun = epoch
            learner.started = time.perf_counter()
            seed_all(self.recipe.seed, epoch)
            yield epoch
            yielded = learner.epoch == epoch
            refuse_unless((yielded, "a yield after each epoch", "none", "yield metrics, state"))

    @property
    def lam(self) -> float:
        """Lambda for the next step."""
        self._learner.reads_lam = True
        return self._learner.current_lam

    def advance_lam(self, natural: float, robust: float, progress: float) -> None:
        """Passes both terms of a step on to the schedule."""
        self._learner.advance_lam(natural, robust, progress)

    def batches(self) -> Iterator[tuple[Images, Labels]]:
        """One pass over ``train``; raises InputError if the loop does not use ``batch_size``."""
        kind = type(self.recipe.loop).__name__
        do = "name it there, or make batches of training.train"
        names = self.recipe.trains_with("batch_size")
        refuse_unless((names, f"'batch_size' in {kind}.uses for training.batches()", "none", do))
        return self._batches()


class LoopLearner(TrainedEpochs):
    """Everything that changes while a loop of a user's own trains one model, as ``Learner`` has it
    for robsearch's.

    ``epoch`` is the last one that the loop has yielded.

    Attributes:
        begun: the epoch that the loop has begun.
        loop_state: what the loop yielded to be kept.
        reads_lam: whether the loop has asked for lambda.
    """

    average = None

    def __init__(self, recipe: Recipe, model: nn.Module, device: torch.device) -> None:
        self.recipe = recipe
        self.model = model
        self.eval_model = model
        self.device = device
        self.ranks: Ranks = ALONE
        self.begun = 0
        self.loop_state: Mapping[str, Any] | None = None
        self.reads_lam = False
        self._advances = 0
        self._schedule = recipe.resolved_lam
        self._lam: State = self._schedule.init()
        self._lam_of_last_step = self.current_lam
        self._shapes = _shapes(model)
        self._is_first = True

    @classmethod
    def of(cls, recipe: Recipe, device: torch.device) -> LoopLearner:
        """Freshly initialised from the recipe's seed, the network as ``Learner`` has it."""
        seed_all(recipe.seed, 0)
        return cls(recipe, recipe.model.build(recipe.data.spec).to(device), device)

    @property
    def current_lam(self) -> float:
        """Lambda for the next step."""
        return self._schedule.lam(self._lam)

    def advance_lam(self, natural: float, robust: float, progress: float) -> None:
        """After a step."""
        self._advances += 1
        self._lam_of_last_step = self.current_lam
        self._lam = self._schedule.update(self._lam, natural, robust, progress)

    def passes(self, train: Split, batches: Batches) -> Generator[Metrics]:
        """Lets the loop train epoch by epoch, and yields the metrics of each.

        Raises:
            InputError: the loop yields something else than its protocol says, or nothing at all;
                it does not read lambda, or does not advance a lambda that is not constant.
        """
        loop = cast(TrainingLoop, self.recipe.loop)
        training = GivenTraining(self, train, batches)
        running = loop.train(training)
        do = "write it as a generator, with yield metrics, state"
        is_generator = isinstance(running, Generator)
        kind = type(loop).__name__
        expected = f"a generator from {kind}.train"
        refuse_unless((is_generator, expected, a(type(running).__name__), do))
        # Closed with the training, so that what the loop's finally blocks free is free at once.
        with closing(cast("Generator[object]", running)) as epochs:
            while self.epoch < self.recipe.epochs and not self.should_stop:
                forget_peak(self.device)
                yielded = next(epochs, ENDED)
                if yielded is ENDED:  # by a rule of the loop's own
                    break
                self.epoch += 1
                yield self._taken(yielded)
        refuse_unless((self.epoch > 0, f"an epoch from {kind}.train", "its end", do))

    def _taken(self, yielded: Any) -> Metrics:
        """The metrics of what the loop yielded; keeps the rest of it."""
        kind = type(self.recipe.loop).__name__
        metrics, state, eval_model = _parts(kind, yielded)
        if eval_model is None:
            eval_model = self.model
        refuse_unless(
            *_metric_conditions(kind, metrics),
            (
                isinstance(state, dict),
                f"{kind} to yield a dict of what it needs to go on",
                a(type(state).__name__),
                "yield metrics, {'optimiser': optimiser.state_dict()}",
            ),
            (
                self.begun == self.epoch,
                f"{kind} to yield once in each epoch of training.epochs",
                f"yield {self.epoch} in epoch {self.begun}",
                "write for epoch in training.epochs: ... yield metrics, state",
            ),
            *self._net_conditions(kind, "training.model", self.model),
            *self._net_conditions(kind, "the network to judge", eval_model),
        )
        self.loop_state = state
        self.eval_model = eval_model
        if self._is_first:
            self._refuse_what_fails_later(kind)
            self._is_first = False
        lam = self._lam_of_last_step if self._advances else self.current_lam
        return {**{name: float(value) for name, value in metrics.items()}, LAM: lam}

    def _refuse_what_fails_later(self, kind: str) -> None:
        """After the first epoch in this process: a state that could not be read, a lambda that does
        nothing."""
        got = ""
        try:
            reloaded(self.loop_state)
        except Exception as error:  # torch and pickle raise whatever the objects lead them to
            got = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        is_searched = self.reads_lam or self.current_lam == 0
        is_constant = isinstance(self.recipe.lam, Fixed)
        refuse_unless(
            (
                not got,
                f"{kind} to yield a state of tensors, numbers, texts, lists and dicts",
                got,
                "yield the state_dict() of an object in its place",
            ),
            (
                is_searched,
                f"{kind} to read training.lam",
                "no look at it",
                "multiply the robust term by it, or pass lam=Fixed(0.0) if there is none",
            ),
            (
                is_constant or self._advances > 0,
                f"{kind} to call training.advance_lam after each step, for lambda is not constant",
                "no call",
                "call it with both loss terms and the progress, or pass lam=Fixed(...)",
            ),
        )

    def _net_conditions(self, kind: str, what: str, net: Any) -> Iterator[Condition]:
        same = isinstance(net, nn.Module) and _shapes(net) == self._shapes
        got = a(type(net).__name__)
        if isinstance(net, nn.Module) and not same:
            got = _first_difference(self._shapes, _shapes(net))
        do = (
            "leave its layers as Model.build made them, and yield the net inside a wrapper, such "
            "as average.module"
        )
        yield Condition(same, f"{what} of {kind} with the names and shapes of its model", got, do)

    @property
    def state(self) -> Checkpoint:
        """What a checkpoint holds; ``judged`` are the weights to deploy, ``model`` those being
        trained, ``loop`` what the loop yielded."""
        return {
            "model": self.model.state_dict(),
            "judged": self.eval_model.state_dict(),
            "loop": self.loop_state,
            "lam": dict(self._lam),
            "epoch": self.epoch,
            "best": (self.best, self.best_epoch),
        }

    def load(self, state: Checkpoint) -> None:
        """Goes on from a checkpoint."""
        self.model.load_state_dict(state["model"])
        self.loop_state = state["loop"]
        self._lam = state["lam"]
        self.epoch = state["epoch"]
        self.best, self.best_epoch = state["best"]


def seed_all(seed: int, epoch: int) -> None:
    """Seeds ``random``, NumPy and torch from (seed, epoch) alone."""
    seed_epoch(seed, epoch)
    of_both = seed * 1_000_003 + epoch
    random.seed(of_both)
    np.random.seed(of_both % 2**32)


def _parts(kind: str, yielded: Any) -> tuple[Any, Any, Any]:
    is_epoch = isinstance(yielded, tuple) and 1 <= len(yielded) <= 3
    do = "yield metrics, state, or metrics, state, network"
    expected = f"{kind} to yield a tuple of metrics and state"
    if not is_epoch:
        raise refused(expected, a(type(yielded).__name__), do)
    epoch = LoopEpoch(*yielded)
    return epoch.metrics, epoch.state, epoch.eval_model


def _metric_conditions(kind: str, metrics: Any) -> Iterator[Condition]:
    do = "yield such as {'train/loss': loss.item()}"
    if not isinstance(metrics, Mapping):
        got = a(type(metrics).__name__)
        yield Condition(False, f"{kind} to yield metrics as a dict", got, do)
        return
    for name, value in metrics.items():
        is_name = isinstance(name, str) and bool(_NAME.fullmatch(name))
        is_theirs = name in OWN_METRICS or (is_name and name.partition("/")[0] in OWN_METRICS)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        what = f"a metric of {kind}"
        yield Condition(is_name, f"{what} with a name such as 'train/loss'", repr(name), do)
        yield Condition(
            not is_theirs,
            f"{what} with a name that robsearch does not write itself",
            repr(name),
            "choose another; val and test are judged by robsearch",
        )
        yield Condition(is_number, f"{what}, {name!r}, as a number", repr(value), "use .item()")


def _shapes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in _tensors(net)}


def _tensors(net: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in net.state_dict().items():
        if isinstance(value, torch.Tensor):
            yield name, value


def _first_difference(
    expected: Mapping[str, tuple[int, ...]], got: Mapping[str, tuple[int, ...]]
) -> str:
    for name in itertools.chain(expected, got):
        if expected.get(name) != got.get(name):
            sides = [_side(shapes.get(name)) for shapes in (got, expected)]
            return f"{name} {sides[0]} in place of {sides[1]}"
    return "the same"


def _side(shape: tuple[int, ...] | None) -> str:
    return "nowhere" if shape is None else f"of {math.prod(shape)} numbers {shape}"
