"""Objectives against their formulas, worked out in float64 with gradients by hand."""

import math

import pytest
import torch
from torch import Tensor

from robsearch.errors import InputError
from robsearch.objectives import PGDAT, TRADES, Standard

N, K = 6, 4


def logits(seed: int, scale: float = 2.0) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(seed)
    clean, adv = scale * torch.randn(2, N, K, dtype=torch.float64)
    return clean, adv, torch.arange(N) % K


def cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    """-log of the label's share of exp(z), from the definition."""
    return -torch.log(z.exp()[torch.arange(len(y)), y] / z.exp().sum(1))


@pytest.mark.parametrize("seed", range(3))
def test_trades_value_and_gradient_follow_the_formula(seed):
    clean, adv, y = logits(seed)
    p, q = (z.exp() / z.exp().sum(1, keepdim=True) for z in (clean, adv))
    kl = (p * (p / q).log()).sum(1, keepdim=True)
    onehot = torch.eye(K, dtype=torch.float64)[y]
    lam = 6.0

    clean.requires_grad_()
    adv.requires_grad_()
    natural, robust = TRADES().terms(clean, adv, y)
    (natural + lam * robust).backward()

    torch.testing.assert_close(natural.detach(), cross_entropy(clean.detach(), y).mean())
    torch.testing.assert_close(robust.detach(), kl.mean())
    torch.testing.assert_close(clean.grad, ((p - onehot) + lam * p * ((p / q).log() - kl)) / N)
    torch.testing.assert_close(adv.grad, lam * (q - p) / N)


def test_trades_attack_maximises_the_same_kl_with_the_clean_prediction_held_fixed():
    clean, adv, y = logits(0)
    clean.requires_grad_()
    adv.requires_grad_()
    loss = TRADES().inner(clean, y)
    value = loss(adv)
    assert value.shape == (N,)
    torch.testing.assert_close(value.mean(), TRADES().terms(clean, adv, y)[1])
    value.sum().backward()
    assert clean.grad is None
    assert adv.grad.abs().sum() > 0
    assert loss(clean.detach()).abs().max().item() < 1e-12


def test_trades_is_finite_where_a_softmax_rounds_to_zero():
    clean = torch.tensor([[500.0, -500.0]], requires_grad=True)
    adv = torch.tensor([[-500.0, 500.0]], requires_grad=True)
    natural, robust = TRADES().terms(clean, adv, torch.tensor([0]))
    (natural + robust).backward()
    assert robust.item() == pytest.approx(1000.0)
    assert clean.grad.isfinite().all()
    assert adv.grad.isfinite().all()


def test_pgdat_at_lam_1_is_madrys_loss_where_the_attack_raised_every_loss():
    clean, _, y = logits(1)
    adv = clean.clone()
    adv[torch.arange(N), y] -= 1.0  # less for the label: a higher cross-entropy, for each example
    natural, robust = PGDAT().terms(clean, adv, y)
    torch.testing.assert_close(natural, cross_entropy(clean, y).mean())
    torch.testing.assert_close(natural + robust, cross_entropy(adv, y).mean())


def test_pgdat_clips_each_example_not_the_mean():
    """Cross-entropies (log 2, log 2) and, perturbed, (log 4, log 4/3): only the first rise counts."""
    clean = torch.zeros(2, 2)
    adv = torch.tensor([[1 / 4, 3 / 4], [3 / 4, 1 / 4]]).log().requires_grad_()
    natural, robust = PGDAT().terms(clean, adv, torch.tensor([0, 0]))
    assert natural.item() == pytest.approx(math.log(2))
    assert robust.item() == pytest.approx(math.log(2) / 2)
    robust.backward()
    assert adv.grad[0].abs().sum() > 0
    assert adv.grad[1].abs().sum() == 0


def test_pgdat_attack_maximises_the_cross_entropy_against_the_label():
    clean, adv, y = logits(2)
    torch.testing.assert_close(PGDAT().inner(clean, y)(adv), cross_entropy(adv, y))


def test_standard_training_has_no_attack_and_no_robust_term():
    clean, adv, y = logits(3)
    natural, robust = Standard().terms(clean, adv, y)
    assert Standard().inner(clean, y) is None
    torch.testing.assert_close(natural, cross_entropy(clean, y).mean())
    assert robust.item() == 0.0
    assert robust.shape == ()


def test_label_smoothing_mixes_in_the_mean_over_all_classes():
    clean, adv, y = logits(4)
    uniform = -(clean.exp() / clean.exp().sum(1, keepdim=True)).log().mean(1)
    expected = (0.8 * cross_entropy(clean, y) + 0.2 * uniform).mean()
    torch.testing.assert_close(Standard(label_smoothing=0.2).terms(clean, adv, y)[0], expected)


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_standard_refuses_a_share_outside_0_1(share):
    with pytest.raises(InputError, match="label_smoothing"):
        Standard(label_smoothing=share)


@pytest.mark.parametrize("objective", [Standard(), PGDAT(), TRADES()], ids=repr)
def test_terms_do_not_depend_on_the_order_of_the_batch(objective):
    clean, adv, y = logits(5)
    order = torch.randperm(N)
    for there, here in zip(
        objective.terms(clean, adv, y), objective.terms(clean[order], adv[order], y[order]), strict=True
    ):
        torch.testing.assert_close(there, here)
