"""Everything that changes while one model is trained, and what of it a checkpoint holds."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from robsearch.protocols import Checkpoint, PenaltyState, Schedule, State
from robsearch.recipe import Recipe
from robsearch.training.precision import network_of
from robsearch.training.ranks import ALONE, Ranks


def reloaded(value: Any) -> Any:
    """What a checkpoint would give back."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


class TrainedEpochs:
    """How far a training has come, and whether it goes on: what robsearch's loop shares with loops
    of a user's own.

    Attributes:
        recipe: that is trained.
        epoch: the last one that has begun, from 1; 0 before the first.
        started: when it began, by ``time.perf_counter``.
        best: the highest robust accuracy on ``val`` so far.
        best_epoch: whose that was.
    """

    recipe: Recipe
    epoch: int = 0
    started: float = 0.0
    best: float = -math.inf
    best_epoch: int = 0

    @property
    def should_stop(self) -> bool:
        """Whether the recipe's stopper ends training here."""
        stopper = self.recipe.stopper
        if stopper is None:
            return False
        return stopper.stops(self.epoch, self.recipe.epochs, self.best_epoch)

    def remember_best(self, value: float) -> None:
        """Remembers the best epoch so far."""
        # Of epochs that are equally good the first counts.
        if value > self.best:
            self.best = value
            self.best_epoch = self.epoch


@dataclass
class Learner(TrainedEpochs):
    """Everything that changes while one model is trained.

    ``network`` is what a step calls: the model in the recipe's precision (``precision``).
    ``micro_batch`` is the most images that go through the model at once, on each rank: the recipe's
    batch size, until that no longer fits into a device's memory. Each of the ``ranks`` has a
    learner of its own, and all stay the same.
    """

    recipe: Recipe
    model: nn.Module
    network: nn.Module
    optimiser: torch.optim.Optimizer
    schedule: Schedule
    lam: State
    penalties: list[PenaltyState]
    average: AveragedModel | None
    micro_batch: int
    ranks: Ranks = ALONE
    epoch: int = 0
    best: float = -math.inf
    best_epoch: int = 0

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        device: torch.device,
        ranks: Ranks = ALONE,
    ) -> Learner:
        """Freshly initialised from the recipe's seed."""
        seed_epoch(recipe.seed, 0)
        model = recipe.model.build(recipe.data.spec).to(device)
        return cls(
            recipe,
            model,
            network_of(model, recipe),
            average=recipe.averaging.build(model) if recipe.averaging else None,
            penalties=[penalty.init(model) for penalty in recipe.penalties],
            optimiser=recipe.optimiser.build(model),
            schedule=recipe.resolved_lam,
            lam=recipe.resolved_lam.init(),
            micro_batch=recipe.batch_size,
            ranks=ranks,
        )

    @property
    def eval_model(self) -> nn.Module:
        """The net that is judged and deployed: the average where the recipe asks for one."""
        return self.model if self.average is None else self.average.module

    def sync(self) -> None:
        """Gives all ranks one model: BatchNorm's running statistics (and InstanceNorm's) become
        their mean over ranks, all else rank 0's.

        In training each rank normalises by the statistics of its share, as by those of a
        micro-batch; so each has moved the running ones by its own. Weights differ only where the
        ranks' devices round differently.
        """
        if self.ranks.size > 1:
            _sync(self.model, self.ranks)
            if self.average is not None:
                _sync(self.eval_model, self.ranks)

    @property
    def state(self) -> Checkpoint:
        """What a checkpoint holds; ``judged`` are the weights to deploy, ``model`` those being
        trained."""
        return {
            "model": self.model.state_dict(),
            "judged": self.eval_model.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "optimiser": self.optimiser.state_dict(),
            "penalties": self.penalties,
            "lam": dict(self.lam),
            "micro_batch": self.micro_batch,
            "epoch": self.epoch,
            "best": (self.best, self.best_epoch),
        }

    def load(self, state: Checkpoint) -> None:
        """Goes on from a checkpoint."""
        device = next(self.model.parameters()).device
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.penalties = [
            {name: value.to(device) for name, value in saved.items()}
            for saved in state["penalties"]
        ]
        self.lam = state["lam"]
        self.epoch = state["epoch"]
        # Checkpoints that were written before there were micro-batches lack it.
        self.micro_batch = state.get("micro_batch", self.recipe.batch_size)
        self.best, self.best_epoch = state["best"]


@torch.no_grad()
def _sync(model: nn.Module, ranks: Ranks) -> None:
    statistics = set[int]()
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._NormBase):
            statistics |= {id(layer.running_mean), id(layer.running_var)}
    parameters_and_buffers = (*model.parameters(), *model.buffers())
    tensors = [tensor for tensor in parameters_and_buffers if not tensor.is_complex()]
    shares = []
    for tensor in tensors:
        if id(tensor) in statistics:
            shares.append(tensor / ranks.size)
            continue
        # Truth values have no sum.
        summable = tensor if tensor.is_floating_point() else tensor.long()
        shares.append(summable if ranks.leads else torch.zeros_like(summable))
    for tensor, total in zip(tensors, ranks.sum(shares), strict=True):
        tensor.copy_(total)


def seed_epoch(seed: int, epoch: int) -> None:
    """Seeds torch from (seed, epoch) alone: a resumed epoch draws what it would have drawn."""
    # torch takes seeds of 64 bits.
    torch.manual_seed((seed * 1_000_003 + epoch) % 2**63)
