"""Measures against exact values on linear models, and against rates counted by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from robsearch.errors import InputError
from robsearch.measures import InputMargin, LogitMargin, LogitRatio, rates, summary
from robsearch.parts.attacks import PGD

SHAPE = (2, 3, 3)
PIXELS = math.prod(SHAPE)
MEASURES = [
    LogitMargin(),
    InputMargin(),
    InputMargin(norm="l2"),
    LogitRatio(eps=0.1, starts=1, steps=2),
]


def linear(classes: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, classes)).double()


def examples(classes: int, n: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = 0.4 + 0.2 * torch.rand(n, *SHAPE, generator=generator, dtype=torch.float64)
    return x, torch.arange(n) % classes


def dropping_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Flatten(), nn.Linear(PIXELS, 3)
    ).double()


# --- rates ---


def test_rates_counted_by_hand():
    """Classes split at 1/2 and the attack mirrors every pixel: 0.1 flips to 0.9, while 0.5 + tie
    stays."""

    class Split(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            value = x.flatten(1)
            return torch.cat([0.5 - value, value - 0.5], dim=1)

    def attack(model, x, y, loss):
        return torch.where(x < 0.4, 1 - x, x)

    #        right, holds; wrong, holds; right, flips; wrong, flips to the label
    x = torch.tensor([0.9, 0.8, 0.1, 0.2]).view(4, 1, 1, 1)
    y = torch.tensor([1, 0, 0, 1])
    found = rates(Split(), x, y, attack)
    assert found.natural.tolist() == [1, 0, 1, 0]
    assert found.robust.tolist() == [1, 0, 0, 0]
    assert found.stable.tolist() == [1, 1, 0, 0]
    assert found.wrong_to_right.tolist() == [0, 0, 0, 1]
    torch.testing.assert_close(found.confidence, torch.tensor([0.8, 0.6, 0.8, 0.6]).sigmoid())
    torch.testing.assert_close(found.x_adv.flatten(), torch.tensor([0.9, 0.8, 0.9, 0.8]))


def test_the_attack_works_against_the_prediction_not_the_label():
    model, (x, y) = linear(3), examples(3)
    predicted = model(x).argmax(1)
    assert not torch.equal(predicted, y)
    told = {}

    def attack(model, x, y, loss):
        told["y"], told["loss"] = y, loss(model(x))
        return x

    found = rates(model, x, y, attack)
    assert torch.equal(told["y"], predicted)
    torch.testing.assert_close(told["loss"], F.cross_entropy(model(x), predicted, reduction="none"))
    assert found.stable.tolist() == [1.0] * len(x)


def test_on_a_linear_model_exactly_the_points_within_eps_of_the_boundary_are_unstable():
    model, (x, y) = linear(2), examples(2, n=40)
    distance = InputMargin()(model, x, model(x).argmax(1))
    eps = distance.median().item() * 1.001
    found = rates(model, x, y, PGD(eps=eps, step_size=eps / 4, steps=10))
    assert torch.equal(found.stable.bool(), distance > eps)
    assert 0 < found.stable.mean() < 1


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), eps=st.floats(0, 0.3))
def test_natural_and_stable_sandwich_robust(seed, eps):
    model, (x, _) = linear(3, seed), examples(3, n=24, seed=seed)
    y = torch.where(torch.rand(24) < 0.6, model(x).argmax(1), torch.arange(24) % 3)
    found = rates(model, x, y, PGD(eps=eps, step_size=0.05, steps=2))
    natural, robust, stable = (
        part.mean().item() for part in (found.natural, found.robust, found.stable)
    )
    assert max(0.0, natural + stable - 1) - 1e-12 <= robust <= min(natural, stable)
    assert torch.equal(found.robust, found.natural * found.stable)
    assert not (found.wrong_to_right * (found.natural + found.stable)).any()


def test_rates_refuse_an_attack_that_leaves_the_box():
    model, (x, y) = linear(3), examples(3)
    with pytest.raises(InputError, match="images in"):
        rates(model, x, y, lambda model, x, y, loss: x + 1)


# --- all measures ---


def test_names_and_kinds():
    assert [(m.name, m.about.kind) for m in MEASURES] == [
        ("margin/logit", "exact"),
        ("margin/input_first_order", "estimate"),
        ("margin/input_first_order_l2", "estimate"),
        ("lipschitz/logit_ratio", "lower bound"),
    ]


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
def test_a_measure_gives_one_detached_number_per_example_and_leaves_the_model_as_it_was(measure):
    model, (x, y) = dropping_net().train(), examples(3)
    model[1].eval()
    flags = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    found = measure(model, x, y)
    assert found.shape == (len(x),)
    assert found.isfinite().all()
    assert not found.requires_grad
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not x.requires_grad


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
def test_a_measure_runs_in_eval_mode_and_restores_after_an_error(measure):
    model, (x, y) = dropping_net().train(), examples(3)
    seen = []
    model[1].register_forward_hook(lambda module, *_: seen.append(module.training))
    nn.init.constant_(model[3].bias, math.nan)
    with pytest.raises(InputError, match="finite logits"):
        measure(model, x, y)
    assert seen == [False]
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("measure", [*MEASURES, lambda *args: rates(*args, PGD())], ids=repr)
def test_a_measure_works_under_no_grad(measure):
    model, (x, y) = linear(3), examples(3)
    with torch.no_grad():
        measure(model, x, y)


@pytest.mark.parametrize("measure", [*MEASURES, lambda *args: rates(*args, PGD())], ids=repr)
@pytest.mark.parametrize(
    ("change_x", "change_y", "message"),
    [
        (lambda x: x * 255, lambda y: y, "images in"),
        (lambda x: x * math.nan, lambda y: y, "images in"),
        (lambda x: x, lambda y: y + 1, "labels below 3"),
        (lambda x: x, lambda y: y - 1, "labels from 0"),
        (lambda x: x[:0], lambda y: y[:0], "at least one image"),
        (lambda x: -x, lambda y: y - 1, "images in.*\n.*labels from 0"),
    ],
)
def test_a_measure_refuses_bad_examples(measure, change_x, change_y, message):
    x, y = examples(3)
    with pytest.raises(InputError, match=message):
        measure(linear(3), change_x(x), change_y(y))


def test_a_measure_refuses_labels_of_another_batch(unchecked):
    x, y = examples(3)
    for measure in MEASURES:
        with pytest.raises(InputError, match="one label for each of 6 images"):
            measure(linear(3), x, y[:4])


# --- summary ---


def test_summary_by_hand():
    found = summary(torch.arange(101.0).flip(0))
    spread = math.sqrt(sum((i - 50) ** 2 for i in range(101)) / 100)
    assert found == pytest.approx(
        {
            "mean": 50.0,
            "se": spread / math.sqrt(101),
            "min": 0.0,
            "q05": 5.0,
            "q50": 50.0,
            "q95": 95.0,
        }
    )


def test_summary_averages_in_double_precision():
    assert summary(torch.tensor([2.0**25, 1.0]))["mean"] == 2**24 + 0.5


def test_one_value_has_no_standard_error_and_none_are_refused():
    assert math.isnan(summary(torch.tensor([2.0]))["se"])
    with pytest.raises(InputError):
        summary(torch.zeros(0))
