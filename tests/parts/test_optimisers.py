"""Optimisers against steps done by hand and torch's own; learning rates against their closed
forms."""

import math
from typing import ClassVar

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from robsearch.errors import InputError
from robsearch.parts.optimisers import (
    SGD,
    Adam,
    AdamW,
    Cosine,
    Halving,
    LrFactors,
    OneCycle,
    Piecewise,
)


def test_two_steps_by_hand():
    """w = 1, gradient 1, decay 0.5, momentum 0.9, lr 0.1: v = 1.5, w = 0.85; v = 1.35 + 1.425, w =
    0.5725."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    optimiser = SGD(lr=0.1, momentum=0.9, weight_decay=0.5).build(model)
    reached = []
    for _ in range(2):
        optimiser.zero_grad()
        model(torch.ones(1, 1)).sum().backward()
        optimiser.step()
        reached.append(model.weight.item())
    assert reached == pytest.approx([0.85, 0.5725])


def test_build_passes_every_field_and_every_parameter():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    (group,) = SGD(lr=0.2, momentum=0.8, weight_decay=1e-3, nesterov=True).build(model).param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]) == (
        0.2,
        0.8,
        1e-3,
        True,
    )
    assert len(group["params"]) == 4


def two_steps(optimiser):
    """The weight 1 after one and two steps along the gradients 1 and -3."""
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, 1.0)
    built = optimiser.build(model)
    reached = []
    for slope in (1.0, -3.0):
        model.weight.grad = torch.full_like(model.weight, slope)
        built.step()
        reached.append(model.weight.item())
    return reached


def test_two_steps_of_adam_by_hand():
    """Means of the gradients 1, -3 and their squares with the weights 1/2 and 1/4 for the past:
    m = 1, then (1/4 - 3/2) / (3/4); v = 1, then (3/16 + 27/4) / (15/16)."""
    first = 1 - 0.1 * 1 / (1 + 1e-3)
    mean, square = (0.25 - 1.5) / 0.75, (3 / 16 + 27 / 4) / (15 / 16)
    second = first - 0.1 * mean / (math.sqrt(square) + 1e-3)
    made = Adam(lr=0.1, betas=(0.5, 0.25), eps=1e-3)
    assert two_steps(made) == pytest.approx([first, second], rel=1e-12)


def test_adams_decay_enters_the_gradient_and_that_of_adamw_the_weight():
    """The first step of Adam has the length lr whatever the gradient; AdamW takes lr * decay off
    first."""
    adam, _ = two_steps(Adam(lr=0.1, eps=1e-300, weight_decay=0.5))
    adamw, _ = two_steps(AdamW(lr=0.1, eps=1e-300, weight_decay=0.5))
    assert (adam, adamw) == (pytest.approx(0.9), pytest.approx(0.95 - 0.1))


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW])
def test_decay_spares_norms_and_biases_where_it_is_told_to(kind):
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    decayed, spared = kind(weight_decay=0.1, decay_norms=False).build(model).param_groups
    assert (len(decayed["params"]), decayed["weight_decay"]) == (1, 0.1)
    assert (len(spared["params"]), spared["weight_decay"]) == (3, 0.0)


class Paced(nn.Linear):
    lr_factors: ClassVar = {"weight": LrFactors(sgd=4.0, adam=0.5)}


@pytest.mark.parametrize(("kind", "factor"), [(SGD, 4.0), (Adam, 0.5), (AdamW, 0.5)])
def test_a_network_that_asks_for_factors_gets_a_group_for_each(kind, factor):
    weight, bias = kind(lr=0.1, weight_decay=0.2).build(Paced(3, 2)).param_groups
    assert (weight["lr"], weight["lr_factor"]) == (0.1 * factor, factor)
    assert weight["lr"] * weight["weight_decay"] == pytest.approx(0.1 * 0.2)
    assert (bias["lr"], bias["weight_decay"]) == (0.1, 0.2)
    assert "lr_factor" not in bias


def test_piecewise_drops_on_the_step_that_reaches_each_share():
    rate = Piecewise(drops=(0.5, 0.75), factor=0.1)
    assert [rate(p) for p in (0.0, 0.499, 0.5, 0.74, 0.75, 1.0)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )


def test_cosine_at_its_corners():
    assert [Cosine()(p) for p in (0.0, 1 / 3, 0.5, 1.0)] == pytest.approx([1.0, 0.75, 0.5, 0.0])
    assert [Cosine(final=0.2)(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.6, 0.2])


def test_halving_is_the_papers_schedule_over_100_epochs():
    """Constant for 75 epochs, halved at the start of each from there: exact in spite of
    rounding."""
    steps = 391
    rate = Halving(start=0.75, every=0.01)
    for epoch in range(100):
        expected = 1.0 if epoch < 75 else 0.5 ** (epoch - 74)
        assert rate(epoch * steps / (100 * steps)) == expected
        assert rate((epoch * steps + steps - 1) / (100 * steps)) == expected


@given(st.floats(0, 1), st.floats(0, 1))
@pytest.mark.parametrize(
    "rate", [Piecewise(), Piecewise(drops=()), Cosine(), Cosine(0.1), Halving()], ids=repr
)
def test_factors_lie_in_0_1_and_never_rise(rate, one, other):
    early, late = sorted((one, other))
    assert 1.0 >= rate(early) >= rate(late) >= 0.0


def test_one_cycle_rises_to_the_base_rate_and_falls_in_straight_lines():
    rate = OneCycle(peak=0.4, start=0.2, final=0.1)
    assert [rate(p) for p in (0.0, 0.2, 0.4, 0.7, 1.0)] == pytest.approx([0.2, 0.6, 1.0, 0.55, 0.1])


@pytest.mark.parametrize("rate", [Piecewise(), Cosine(), Halving()], ids=repr)
def test_training_starts_at_the_base_rate(rate):
    assert rate(0.0) == 1.0


@pytest.mark.parametrize(
    ("make", "problems"),
    [
        (lambda: SGD(lr=0.0, momentum=1.0, weight_decay=-1.0), 3),
        (lambda: SGD(lr=math.nan), 1),
        (lambda: SGD(momentum=0.0, nesterov=True), 1),
        (lambda: Adam(lr=0.0, betas=(0.9, 1.0), eps=0.0, weight_decay=-1.0), 4),
        (lambda: Piecewise(drops=(50.0, 75.0), factor=0.0), 2),
        (lambda: Piecewise(drops=(0.75, 0.5)), 1),
        (lambda: Cosine(final=-0.1), 1),
        (lambda: OneCycle(peak=1.0, start=-1.0, final=2.0), 3),
        (lambda: Halving(start=75.0, every=0.0), 2),
    ],
)
def test_refuses_all_bad_fields_at_once(make, problems):
    with pytest.raises(InputError) as caught:
        make()
    assert len(caught.value.problems) == problems
