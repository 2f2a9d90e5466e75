"""Running statistics, of BatchNorm above all: each batch counts once, whatever else the images go
through."""

import dataclasses

import pytest
import torch
from small_spaces import recipe
from torch import nn

from robsearch import EMA, TRADES, WeightPerturbation
from robsearch.training.learner import Learner
from robsearch.training.step import gradient, loss_terms

CPU = torch.device("cpu")


class Cumulative(nn.Module):
    """Statistics of all images since the beginning; that of the raw pixels can be computed by
    hand."""

    def __init__(self):
        super().__init__()
        self.norm, self.linear = nn.BatchNorm2d(1, momentum=None), nn.Linear(64, 10)
        self.usual = nn.BatchNorm2d(1, momentum=0.1)
        self.images = nn.InstanceNorm2d(1, momentum=0.5, track_running_stats=True)
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("mask", torch.tensor([-torch.inf, 3.0]))

    def forward(self, x):
        if self.training:
            self.calls = self.calls + 1  # another tensor takes the buffer's place
        return self.linear(self.norm(x).flatten(1)) + 0 * (self.usual(x) + self.images(x)).sum()


@dataclasses.dataclass(frozen=True)
class Counted:
    width: float = 1

    def build(self, images):
        return Cumulative()


BATCHES = ((0.1, 0.3), (0.4, 0.5), (0.7, 0.9))
"""The pixels of the clean and of the perturbed images of three batches."""


@pytest.mark.parametrize(("whose", "each"), [("clean", 1), ("adversarial", 1), ("both", 2)])
def test_a_cumulative_mean_counts_each_batch_once(whose, each):
    counting = recipe(8, batch_norm=whose, model=Counted(), objective=TRADES())
    model = Cumulative()
    for pixels in BATCHES:
        loss_terms(
            counting, model, *(torch.full((4, 1, 8, 8), pixel) for pixel in pixels), torch.arange(4)
        )
    clean, adversarial = (
        torch.tensor(pixels).mean().item() for pixels in zip(*BATCHES, strict=True)
    )  # 0.4, 0.5667
    expected = {"clean": clean, "adversarial": adversarial, "both": (clean + adversarial) / 2}[
        whose
    ]
    assert model.norm.running_mean.item() == pytest.approx(expected)
    assert (model.norm.num_batches_tracked.item(), model.calls.item()) == (3 * each, 3 * each)
    assert model.norm.momentum is None
    for layer in (model.usual, model.images):
        own = 0.0
        for pixels in BATCHES:
            for pixel in {"clean": pixels[:1], "adversarial": pixels[1:], "both": pixels}[whose]:
                own = (1 - layer.momentum) * own + layer.momentum * pixel
        assert layer.running_mean.item() == pytest.approx(own)


@pytest.mark.parametrize("awp", [None, WeightPerturbation(gamma=0.01)])
def test_the_attack_weight_perturbation_and_micro_batches_count_nothing_twice(awp):
    """6 images in micro-batches of 3: their means 0.2 and 0.6 enter as 0.4, also with a second
    batch of 0.8."""
    learner = Learner.of(
        recipe(8, batch_norm="clean", model=Counted(), weight_perturbation=awp), CPU
    )
    learner.micro_batch = 3
    pixels = torch.tensor([0.1, 0.2, 0.3, 0.5, 0.6, 0.7]).view(6, 1, 1, 1).expand(6, 1, 8, 8)
    for x, mean in ((pixels, 0.4), (torch.full_like(pixels, 0.8), 0.6)):
        gradient(learner, x, torch.arange(6), 1.0, 0.0)
        assert learner.model.norm.running_mean.item() == pytest.approx(mean)
    assert learner.model.norm.num_batches_tracked.item() == learner.model.calls.item() == 2
    assert learner.model.mask.tolist() == [-torch.inf, 3.0]


def test_an_average_keeps_whole_numbers_whole():
    """0.9 * 3 + 0.1 * 3 is a little less than 3 in floating point, and would be rounded down to
    2."""
    model = nn.Linear(2, 2)
    model.register_buffer("index", torch.arange(13))
    average = EMA(decay=0.9).build(model)
    for _ in range(3):
        average.update_parameters(model)
    assert torch.equal(average.module.index, model.index)
