"""Objectives against their formulas, worked out in float64 with gradients by hand."""

import math

import pytest
import torch
from torch import Tensor

from robsearch.errors import InputError
from robsearch.parts.objectives import ALP, MART, PGDAT, TRADES, Standard

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
    """Cross-entropies (log 2, log 2) and, perturbed, (log 4, log 4/3): only the first rise
    counts."""
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


@pytest.mark.parametrize("smoothed", [Standard, PGDAT, TRADES])
def test_label_smoothing_mixes_the_mean_over_all_classes_into_the_natural_term_alone(smoothed):
    clean, adv, y = logits(4)
    uniform = -(clean.exp() / clean.exp().sum(1, keepdim=True)).log().mean(1)
    expected = (0.8 * cross_entropy(clean, y) + 0.2 * uniform).mean()
    natural, robust = smoothed(label_smoothing=0.2).terms(clean, adv, y)
    torch.testing.assert_close(natural, expected)
    assert torch.equal(robust, smoothed().terms(clean, adv, y)[1])


@pytest.mark.parametrize("smoothed", [PGDAT, TRADES])
def test_the_attack_knows_nothing_of_label_smoothing(smoothed):
    clean, adv, y = logits(5)
    assert torch.equal(
        smoothed(label_smoothing=0.2).inner(clean, y)(adv), smoothed().inner(clean, y)(adv)
    )


@pytest.mark.parametrize("smoothed", [Standard, PGDAT, TRADES])
@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_refuses_a_share_outside_0_1(smoothed, share):
    with pytest.raises(InputError, match="label_smoothing"):
        smoothed(label_smoothing=share)


def by_hand(term) -> tuple[Tensor, Tensor, Tensor]:
    """Value and gradients (clean, adv) of a term written with exp and log alone, by central
    differences."""
    clean, adv, y = logits(6)
    step, slopes = 1e-6, []
    for z in (clean, adv):
        slope = torch.zeros_like(z)
        for i in range(z.numel()):
            held = z.view(-1)[i].item()
            ends = []
            for there in (held + step, held - step):
                z.view(-1)[i] = there
                ends.append(term(clean, adv, y).item())
            z.view(-1)[i] = held
            slope.view(-1)[i] = (ends[0] - ends[1]) / (2 * step)
        slopes.append(slope)
    return term(clean, adv, y), *slopes


def softmax(z: Tensor) -> Tensor:
    return z.exp() / z.exp().sum(1, keepdim=True)


def mart_bce(clean: Tensor, adv: Tensor, y: Tensor) -> Tensor:
    others = torch.stack(
        [torch.cat([q[:label], q[label + 1 :]]) for q, label in zip(softmax(adv), y, strict=True)]
    )
    return (cross_entropy(adv, y) - (1 - others.max(1).values).log()).mean()


def mart_kl(clean: Tensor, adv: Tensor, y: Tensor) -> Tensor:
    p, q = softmax(clean), softmax(adv)
    return ((p * (p / q).log()).sum(1) * (1 - p[torch.arange(len(y)), y])).mean()


def alp_ce(clean: Tensor, adv: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(adv, y).mean()


def alp_pairs(clean: Tensor, adv: Tensor, y: Tensor) -> Tensor:
    return sum((a - b) ** 2 for a, b in zip(clean.flatten(), adv.flatten(), strict=True)) / len(y)


@pytest.mark.parametrize(
    ("objective", "position", "term"),
    [(MART(), 0, mart_bce), (MART(), 1, mart_kl), (ALP(), 0, alp_ce), (ALP(), 1, alp_pairs)],
)
def test_value_and_gradient_follow_the_formula(objective, position, term):
    value, slope_clean, slope_adv = by_hand(term)
    clean, adv, y = logits(6)
    got = objective.terms(clean.requires_grad_(), adv.requires_grad_(), y)[position]
    got.backward()
    torch.testing.assert_close(got.detach(), value)
    for z, slope in ((clean, slope_clean), (adv, slope_adv)):
        torch.testing.assert_close(
            torch.zeros_like(z) if z.grad is None else z.grad, slope, atol=1e-8, rtol=1e-6
        )


def test_mart_by_hand():
    """Adversarial (1/2, 1/4, 1/4), label 0: BCE = log 2 - log 3/4. Clean (1/4, 1/2, 1/4): KL = 1/4
    log 2, times 3/4."""
    clean, adv = torch.tensor([[1.0, 2.0, 1.0]]).log(), torch.tensor([[2.0, 1.0, 1.0]]).log()
    bce, kl = MART().terms(clean, adv, torch.tensor([0]))
    assert bce.item() == pytest.approx(math.log(2) - math.log(3 / 4))
    assert kl.item() == pytest.approx(3 / 4 * (-math.log(2) / 4 + math.log(2) / 2))


def test_mart_is_finite_where_the_strongest_wrong_class_rounds_to_one():
    """Of logits (-500, 500) the label has -1000 nats, and 1 - p_1 = p_0 is the same once more."""
    adv = torch.tensor([[-500.0, 500.0]], requires_grad=True)
    bce, _ = MART().terms(torch.zeros(1, 2), adv, torch.tensor([0]))
    bce.backward()
    assert bce.item() == pytest.approx(2000.0)
    torch.testing.assert_close(adv.grad, torch.tensor([[-2.0, 2.0]]))


@pytest.mark.parametrize("objective", [MART(), ALP()], ids=repr)
def test_mart_and_alp_attack_the_cross_entropy_against_the_label(objective):
    clean, adv, y = logits(2)
    torch.testing.assert_close(objective.inner(clean, y)(adv), cross_entropy(adv, y))


@pytest.mark.parametrize("objective", [Standard(), PGDAT(), TRADES(), MART(), ALP()], ids=repr)
def test_natural_first_says_whether_the_first_term_looks_at_clean_images_alone(objective):
    clean, adv, y = logits(7)
    first, moved = (
        objective.terms(clean, adv, y)[0],
        objective.terms(clean, adv + torch.randn(N, K), y)[0],
    )
    assert torch.equal(first, moved) is objective.natural_first
    if objective.natural_first:
        torch.testing.assert_close(first, cross_entropy(clean, y).mean())


@pytest.mark.parametrize("objective", [Standard(), PGDAT(), TRADES(), MART(), ALP()], ids=repr)
def test_terms_do_not_depend_on_the_order_of_the_batch(objective):
    clean, adv, y = logits(5)
    order = torch.randperm(N)
    for there, here in zip(
        objective.terms(clean, adv, y),
        objective.terms(clean[order], adv[order], y[order]),
        strict=True,
    ):
        torch.testing.assert_close(there, here)
