"""The loss terms of images with a right and with a wrong label, each by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small_spaces import recipe
from torch import Tensor

from robsearch import SGD, TRADES, Digits, Standard
from robsearch.data import load, wrong_labels
from robsearch.metrics import APART, NATURAL_LOSS, ROBUST_LOSS
from robsearch.spaces.checking.first_step import Outcome, Task, try_recipe
from robsearch.training.evaluation import to_float
from robsearch.training.learner import Learner
from robsearch.training.step import gradient
from robsearch.training.trainer import train

NOISY = Digits(train=100, label_noise=0.3)
CPU = torch.device("cpu")


@pytest.mark.parametrize("draw", [0, 5])
def test_the_wrong_labels_are_those_that_differ(draw: int) -> None:
    noisy = replace(NOISY, draw=draw)
    labels, right = (load(each)["train"].labels for each in (noisy, replace(noisy, label_noise=0)))
    wrong = wrong_labels(noisy, 100)
    assert torch.equal(wrong, labels != right)
    assert wrong.sum() == 30
    assert wrong_labels(Digits(train=100), 100) is None
    assert wrong_labels("a set of another kind", 100) is None


def test_the_terms_are_those_of_each_kind_of_label() -> None:
    """At a learning rate of next to nothing the net stays as it was drawn, and so does its loss."""
    still = recipe(8, data=NOISY, objective=Standard(), optimiser=SGD(lr=1e-12), lam=0.0, epochs=1)
    (epoch,) = train(still)
    learner = Learner.of(still, CPU)
    images, labels = load(NOISY)["train"]
    with torch.no_grad():
        losses = F.cross_entropy(learner.model(to_float(images)), labels, reduction="none")
    wrong = wrong_labels(NOISY, 100)
    metrics = epoch.metrics
    assert metrics["train/natural_loss_wrong"] == pytest.approx(losses[wrong].mean().item())
    assert metrics["train/natural_loss_right"] == pytest.approx(losses[~wrong].mean().item())
    assert metrics["train/robust_loss_wrong"] == 0


def test_both_kinds_together_are_the_whole() -> None:
    (*_, epoch) = train(recipe(8, data=NOISY, epochs=15))
    for name in (NATURAL_LOSS, ROBUST_LOSS):
        right, wrong = (epoch.metrics[f"{name}_{kind}"] for kind in ("right", "wrong"))
        assert epoch.metrics[name] == pytest.approx(0.7 * right + 0.3 * wrong)
    # What a net has not learned by heart it finds hard.
    assert epoch.metrics["train/natural_loss_wrong"] > epoch.metrics["train/natural_loss_right"]


def test_micro_batches_add_up_also_one_without_a_wrong_label() -> None:
    wrong = torch.tensor([True] * 3 + [False] * 7)
    terms = []
    for micro_batch in (10, 4):
        learner = Learner.of(recipe(8, objective=Standard()), CPU)
        learner.micro_batch = micro_batch
        torch.manual_seed(0)
        x, y = torch.rand(10, 1, 8, 8), torch.arange(10)
        terms.append(gradient(learner, x, y, 0.0, 0.0, wrong))
    assert terms[0].shape == (4,)
    torch.testing.assert_close(*terms, rtol=1e-6, atol=1e-7)


def test_without_label_noise_nothing_is_apart() -> None:
    (epoch,) = train(recipe(8, epochs=1))
    assert not APART.keys() & epoch.metrics.keys()


def test_where_all_labels_are_wrong_there_are_no_right_ones() -> None:
    (epoch,) = train(recipe(8, data=Digits(train=100, label_noise=1.0), epochs=1))
    assert "train/natural_loss_right" not in epoch.metrics
    assert epoch.metrics["train/natural_loss_wrong"] == pytest.approx(epoch.metrics[NATURAL_LOSS])


def test_what_is_looked_at_moves_nothing() -> None:
    gradients = []
    for wrong in (None, torch.tensor([True] * 3 + [False] * 7)):
        torch.manual_seed(0)
        learner = Learner.of(recipe(8), CPU)
        x, y = torch.rand(10, 1, 8, 8), torch.arange(10)
        terms = gradient(learner, x, y, 2.0, 0.0, wrong)
        gradients.append([weight.grad for weight in learner.model.parameters()] + [terms[:2]])
    assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("label_noise", [0.3, 1.0])
def test_a_space_with_wrong_labels_passes_its_check(label_noise: float) -> None:
    noisy = Digits(train=100, label_noise=label_noise)
    outcome = try_recipe(Task(recipe(8, data=noisy), load(noisy)["train"], gpu=False))
    assert outcome == Outcome()


class Followed(TRADES):
    """It divides by the length of its own gradient in the logits."""

    def terms(self, clean_logits: Tensor, adv_logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        natural, robust = super().terms(clean_logits, adv_logits, y)
        (slope,) = torch.autograd.grad(natural, clean_logits, retain_graph=True)
        return natural, robust / (1 + slope.norm())


class Spread(TRADES):
    """It has no value of a single image."""

    def terms(self, clean_logits: Tensor, adv_logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        natural, robust = super().terms(clean_logits, adv_logits, y)
        return natural + clean_logits.std(dim=0).mean(), robust


def test_an_objective_that_follows_the_gradient_of_its_logits_trains() -> None:
    (epoch,) = train(recipe(8, data=NOISY, objective=Followed(), epochs=1))
    assert epoch.metrics.keys() >= APART.keys()


def test_an_objective_that_needs_two_images_trains() -> None:
    """One of the 100 labels is wrong, so its mean is of a single image."""
    noisy = replace(NOISY, label_noise=0.01)
    (epoch,) = train(recipe(8, data=noisy, objective=Spread(), epochs=1))
    assert "train/natural_loss_wrong" not in epoch.metrics
    assert "train/robust_loss_wrong" in epoch.metrics
