"""The optimiser against a step done by hand; learning rates against their closed forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from robsearch.errors import InputError
from robsearch.optimisers import SGD, Cosine, Halving, OneCycle, Piecewise


def test_two_steps_by_hand():
    """w = 1, gradient 1, decay 0.5, momentum 0.9, lr 0.1: v = 1.5, w = 0.85; v = 1.35 + 1.425, w = 0.5725."""
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


def test_piecewise_drops_on_the_step_that_reaches_each_share():
    rate = Piecewise(drops=(0.5, 0.75), factor=0.1)
    assert [rate(p) for p in (0.0, 0.499, 0.5, 0.74, 0.75, 1.0)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_cosine_at_its_corners():
    assert [Cosine()(p) for p in (0.0, 1 / 3, 0.5, 1.0)] == pytest.approx([1.0, 0.75, 0.5, 0.0])
    assert [Cosine(final=0.2)(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.6, 0.2])


def test_halving_is_the_papers_schedule_over_100_epochs():
    """Constant for 75 epochs, halved at the start of each from there: exact in spite of rounding."""
    steps = 391
    rate = Halving(start=0.75, every=0.01)
    for epoch in range(100):
        expected = 1.0 if epoch < 75 else 0.5 ** (epoch - 74)
        assert rate(epoch * steps / (100 * steps)) == expected
        assert rate((epoch * steps + steps - 1) / (100 * steps)) == expected


@given(st.floats(0, 1), st.floats(0, 1))
@pytest.mark.parametrize("rate", [Piecewise(), Piecewise(drops=()), Cosine(), Cosine(0.1), Halving()], ids=repr)
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
