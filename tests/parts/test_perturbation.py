"""Adversarial weight perturbation: sizes, restoration and gradients against a step done by hand."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robsearch.errors import InputError
from robsearch.parts.weight_perturbation import WeightPerturbation

Setting = tuple[nn.Sequential, Callable[[], Tensor]]


def setting(seed: int = 0) -> Setting:
    """A smooth network with BatchNorm, in train mode, and its loss on clean and perturbed
    images."""
    torch.manual_seed(seed)
    layers = [
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(64, 3),
    ]
    model = nn.Sequential(*layers).double()
    x = torch.rand(2, 8, 2, 4, 4, dtype=torch.float64)
    y = torch.arange(8) % 3

    def loss() -> Tensor:
        return F.cross_entropy(model(x[0]), y) + 6.0 * F.cross_entropy(model(x[1]), y)

    return model, loss


def never() -> Tensor:
    raise AssertionError("the loss is not asked for")


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(model: nn.Module, before: dict[str, Tensor]) -> list[str]:
    return [
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    ]


def test_one_weight_by_hand():
    """loss = 3 w, slope 3: w = -2 rises by 0.1 * |-2| to -1.8, where the loss is -5.4."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, -2.0)
    with WeightPerturbation(gamma=0.1).perturbed_weights(layer, lambda: 3 * layer.weight.sum()):
        assert layer.weight.item() == pytest.approx(-1.8)
    assert layer.weight.item() == -2.0


@pytest.mark.parametrize("seed", range(3))
def test_each_layer_moves_along_its_gradient_by_gamma_of_its_own_size(seed):
    model, loss = setting(seed)
    weights = [model[0].weight, model[4].weight]
    own, slopes = [w.detach().clone() for w in weights], torch.autograd.grad(loss(), weights)
    others = [p for p in model.parameters() if p.ndim == 1]
    before = [p.clone() for p in others]
    with WeightPerturbation(gamma=0.02).perturbed_weights(model, loss):
        for weight, start, slope in zip(weights, own, slopes, strict=True):
            step = weight.detach() - start
            torch.testing.assert_close(step.norm(), 0.02 * start.norm())
            torch.testing.assert_close(step / step.norm(), slope / slope.norm())
        assert all(map(torch.equal, others, before))


def test_weights_come_back_bit_for_bit_and_statistics_do_not_see_the_extra_pass():
    model, loss = setting()
    before = snapshot(model)
    with WeightPerturbation(gamma=0.3).perturbed_weights(model, loss):
        assert changed(model, before) == ["0.weight", "4.weight"]
    assert changed(model, before) == []
    assert all(p.grad is None for p in model.parameters())


def test_statistics_count_the_pass_inside_the_block_once():
    model, loss = setting()
    with WeightPerturbation().perturbed_weights(model, loss):
        loss().backward()
    assert model[1].num_batches_tracked.item() == 2  # the loss has two forwards


def test_everything_comes_back_when_the_block_raises():
    model, loss = setting()
    before = snapshot(model)
    with (
        pytest.raises(ArithmeticError),
        WeightPerturbation(gamma=0.3).perturbed_weights(model, loss),
    ):
        raise ArithmeticError
    assert changed(model, before) == []


def test_everything_comes_back_when_the_extra_pass_raises():
    model, loss = setting()
    before = snapshot(model)

    def failing() -> Tensor:
        loss()
        raise ArithmeticError

    with (
        pytest.raises(ArithmeticError),
        WeightPerturbation(gamma=0.3).perturbed_weights(model, failing),
    ):
        pass
    assert changed(model, before) == []


def test_the_loss_is_higher_at_the_perturbed_weights_of_a_smooth_network():
    for seed in range(5):
        model, loss = setting(seed)
        clean = loss().item()
        with WeightPerturbation(gamma=0.005).perturbed_weights(model, loss):
            assert loss().item() > clean


def test_gradients_are_those_at_the_perturbed_weights():
    model, loss = setting()
    own = torch.autograd.grad(loss(), list(model.parameters()))
    twin = copy.deepcopy(model)
    with WeightPerturbation(gamma=0.1).perturbed_weights(model, loss):
        twin.load_state_dict(model.state_dict())
        loss().backward()
    found = [p.grad.clone() for p in model.parameters()]

    model.load_state_dict(twin.state_dict())  # the loss reads model
    torch.testing.assert_close(found, list(torch.autograd.grad(loss(), list(model.parameters()))))
    assert not torch.allclose(found[0], own[0], rtol=1e-3)


def test_gradients_that_were_there_are_neither_used_nor_cleared():
    model, loss = setting()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    with WeightPerturbation().perturbed_weights(model, loss):
        pass
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert model[4].weight.grad is None


def test_weights_that_are_frozen_unused_or_without_slope_stay():
    model, _ = setting()
    model[0].weight.requires_grad_(False)
    model.add_module("unused", nn.Linear(2, 2))
    before = snapshot(model)
    with WeightPerturbation(gamma=0.1).perturbed_weights(model, lambda: 0 * model[4].weight.sum()):
        assert changed(model, before) == []


def test_it_works_under_no_grad():
    model, loss = setting()
    before = snapshot(model)
    with torch.no_grad(), WeightPerturbation(gamma=0.1).perturbed_weights(model, loss):
        assert not torch.is_grad_enabled()
        assert changed(model, before) == ["0.weight", "4.weight"]


def test_nothing_happens_before_the_warmups_end_or_at_gamma_0():
    model, loss = setting()
    before, awp = snapshot(model), WeightPerturbation(gamma=0.1, warmup=0.5)
    for waiting in (
        awp.perturbed_weights(model, loss, progress=0.499),
        WeightPerturbation(gamma=0).perturbed_weights(model, never),
    ):
        with waiting:
            assert changed(model, before) == []
    with awp.perturbed_weights(model, loss, progress=0.5):
        assert changed(model, before) == ["0.weight", "4.weight"]
    with (
        pytest.raises(InputError, match="progress with a warmup"),
        awp.perturbed_weights(model, loss),
    ):
        pass


def test_backward_after_the_block_is_an_error_not_a_wrong_gradient():
    model, loss = setting()
    with WeightPerturbation().perturbed_weights(model, loss):
        late = loss()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        late.backward()


def test_refuses_all_bad_fields_at_once():
    with pytest.raises(InputError) as caught:
        WeightPerturbation(gamma=1.0, warmup=50.0)
    assert len(caught.value.problems) == 2
    with pytest.raises(InputError, match="gamma"):
        WeightPerturbation(gamma=math.nan)
