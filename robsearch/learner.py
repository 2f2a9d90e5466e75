"""Everything that changes while one model is trained, and what of it a checkpoint holds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from robsearch.protocols import Checkpoint, PenaltyState, State
from robsearch.ranks import ALONE, Ranks
from robsearch.recipe import Recipe


@dataclass
class Learner:
    """Everything that changes while one model is trained.

    ``micro_batch`` is the most images that go through the model at once, on each rank: the recipe's batch size, until
    a device's memory does not do. Each of the ``ranks`` has a learner of its own, and all stay the same.
    """

    recipe: Recipe
    model: nn.Module
    optimiser: torch.optim.Optimizer
    lam: State
    penalties: list[PenaltyState]
    average: AveragedModel | None
    micro_batch: int
    ranks: Ranks = ALONE
    epoch: int = 0
    best: float = -math.inf
    best_epoch: int = 0

    @classmethod
    def of(cls, recipe: Recipe, device: torch.device, ranks: Ranks = ALONE) -> Learner:
        """Freshly initialised from the recipe's seed."""
        seed_epoch(recipe.seed, 0)
        model = recipe.model.build(recipe.data.spec).to(device)
        average = recipe.averaging.build(model) if recipe.averaging else None
        penalties = [penalty.init(model) for penalty in recipe.penalties]
        optimiser, lam = recipe.optimiser.build(model), recipe.lam.init()
        return cls(recipe, model, optimiser, lam, penalties, average, recipe.batch_size, ranks)

    @property
    def judged(self) -> nn.Module:
        """The net that is judged and deployed: the average where the recipe asks for one."""
        return self.model if self.average is None else self.average.module

    def unite(self) -> None:
        """Gives all ranks one model: BatchNorm's running statistics (and InstanceNorm's) become their mean over ranks,
        all else rank 0's.

        In training each rank normalises by the statistics of its share, as by those of a micro-batch; so each has
        moved the running ones by its own. Weights differ only where the ranks' devices round differently.
        """
        if self.ranks.size > 1:
            _unite(self.model, self.ranks)
            if self.average is not None:
                _unite(self.judged, self.ranks)

    @property
    def peaked(self) -> bool:
        """Whether the recipe's stopper ends training here."""
        stopper = self.recipe.stopper
        return stopper is not None and stopper.stops(self.epoch, self.recipe.epochs, self.best_epoch)

    def note(self, value: float) -> None:
        """Remembers the best epoch so far."""
        if value > self.best:
            self.best, self.best_epoch = value, self.epoch

    @property
    def state(self) -> Checkpoint:
        """What a checkpoint holds; ``judged`` are the weights to deploy, ``model`` those being trained."""
        return {
            "model": self.model.state_dict(),
            "judged": self.judged.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "optimiser": self.optimiser.state_dict(),
            "penalties": self.penalties,
            "lam": dict(self.lam),
            "micro_batch": self.micro_batch,
            "epoch": self.epoch,
            "best": (self.best, self.best_epoch),
        }

    def load(self, state: Checkpoint) -> None:
        """Goes on from a checkpoint, also from one that was written before there were micro-batches."""
        device = next(self.model.parameters()).device
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.penalties = [{name: value.to(device) for name, value in each.items()} for each in state["penalties"]]
        self.lam, self.epoch = state["lam"], state["epoch"]
        self.micro_batch = state.get("micro_batch", self.recipe.batch_size)
        self.best, self.best_epoch = state["best"]


@torch.no_grad()
def _unite(model: nn.Module, ranks: Ranks) -> None:
    layers = [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._NormBase)]
    statistics = {id(mine) for layer in layers for mine in (layer.running_mean, layer.running_var)}
    held = [mine for mine in (*model.parameters(), *model.buffers()) if not mine.is_complex()]
    sent = [mine if mine.is_floating_point() else mine.long() for mine in held]  # no sums of truth values
    others = [mine if ranks.leads else torch.zeros_like(mine) for mine in sent]
    shares = [mine / ranks.size if id(mine) in statistics else other for mine, other in zip(held, others, strict=True)]
    for mine, total in zip(held, ranks.sum(shares), strict=True):
        mine.copy_(total)


def seed_epoch(seed: int, epoch: int) -> None:
    """Seeds torch from (seed, epoch) alone: a resumed epoch draws what it would have drawn."""
    torch.manual_seed((seed * 1_000_003 + epoch) % 2**63)
