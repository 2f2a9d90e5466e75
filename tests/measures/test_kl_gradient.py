"""The KL divergence's gradient against closed forms, finite differences and the logits' own
constant."""

import math

import pytest
import torch
from relu_regions import linf_to_l1
from torch import Tensor, nn

from robsearch.errors import InputError
from robsearch.measures.kl_gradient import KLGradient

SHAPE = (2, 3, 3)
PIXELS = math.prod(SHAPE)


def linear(classes: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, classes)).double()


def examples(classes: int, n: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = 0.4 + 0.2 * torch.rand(n, *SHAPE, generator=generator, dtype=torch.float64)
    return x, torch.arange(n) % classes


def on_the_boundary(n: int) -> tuple[nn.Sequential, Tensor, Tensor]:
    """Two logits that are equal at every example, so that going up or down is the same by
    symmetry."""
    model = linear(2)
    x, y = examples(2, n)
    model[1].bias.data.zero_()
    row = model[1].weight[0] - model[1].weight[1]
    far = (x.flatten(1) - 0.5) @ row / (row @ row)
    x = x - (far[:, None] * row).view_as(x)
    model[1].bias.data[1] = (0.5 * row).sum()
    return model, x.detach(), y


def test_the_kl_gradient_of_two_linear_logits_has_a_closed_form():
    """``grad KL = (sigma(z') - sigma(z)) w`` for the logits' difference ``z``; at z = 0 it ends at
    ``eps ||w||_1``."""
    model, x, y = on_the_boundary(6)
    torch.testing.assert_close(model(x)[:, 0], model(x)[:, 1])
    length = (model[1].weight[0] - model[1].weight[1]).abs().sum().detach()
    exact = length * ((0.1 * length).sigmoid() - 0.5)
    # 0.001 N(0, 1) away, then 9 steps of 0.025: every pixel reaches its bound before the last
    # gradient.
    torch.testing.assert_close(KLGradient(eps=0.1)(model, x, y), exact.expand(6))


@pytest.mark.parametrize("n", [1, 3, 40])
def test_the_kl_gradient_is_each_examples_own(n):
    """The released code sums over the batch: 40 times as much for 40 images."""
    model, x, y = on_the_boundary(n)
    alone = [KLGradient(eps=0.1)(model, x[i : i + 1], y[i : i + 1]) for i in range(min(n, 3))]
    torch.testing.assert_close(KLGradient(eps=0.1)(model, x, y)[:3], torch.cat(alone))


def test_the_kl_gradient_against_finite_differences():
    """One step: the gradient at the start, which the seed gives."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x, y = examples(3, n=2)
    torch.manual_seed(1)
    found = KLGradient(eps=0.1, steps=1)(model, x, y)
    torch.manual_seed(1)
    start = x + 0.001 * torch.randn_like(x)

    def divergence(near: Tensor) -> Tensor:
        p, q = model(x).softmax(1), model(near).softmax(1)
        return (p * (p / q).log()).sum(1)

    steps = torch.eye(PIXELS, dtype=x.dtype).view(PIXELS, *SHAPE) * 1e-5
    slopes = torch.stack([(divergence(start + s) - divergence(start - s)) / 2e-5 for s in steps])
    torch.testing.assert_close(found, slopes.abs().sum(0).detach(), rtol=1e-5, atol=1e-9)


def test_the_largest_kl_gradient_counts_not_the_last():
    """Two logits that stop moving 0.1 from ``x``: steps of 0.05 pass that, and there the gradient
    is 0."""

    class Saturating(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            z = (x.flatten(1) - 0.5).clamp(-0.1, 0.1) * 40
            return torch.cat([z, -z], dim=1)

    x, y = torch.full((8, 1, 1, 1), 0.5), torch.zeros(8, dtype=torch.long)
    torch.manual_seed(0)
    few = KLGradient(eps=0.4, step_size=0.05, steps=2)(Saturating(), x, y)
    torch.manual_seed(0)
    many = KLGradient(eps=0.4, step_size=0.05, steps=8)(Saturating(), x, y)
    assert (few > 30).all()
    assert (many >= few).all()


def test_the_kl_gradient_is_never_above_the_norm_of_the_logits():
    model, (x, y) = linear(4), examples(4)
    model[1].weight.data.mul_(30)
    found = KLGradient(eps=0.3)(model, x, y)
    assert (found <= linf_to_l1(model[1].weight.detach()) * (1 + 1e-9)).all()
    assert found.max() > 0.3 * linf_to_l1(model[1].weight.detach())


def test_kl_gradient_refuses_all_bad_fields_at_once():
    with pytest.raises(InputError) as caught:
        KLGradient(eps=8.0, step_size=0.0, steps=0)
    assert len(caught.value.problems) == 3
