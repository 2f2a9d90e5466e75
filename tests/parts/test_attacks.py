"""Attacks against closed forms on linear models, and against the inequalities that define a
ball."""

import logging
import math
import subprocess
import sys
from dataclasses import dataclass

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from robsearch.data import Digits
from robsearch.errors import InputError
from robsearch.parts.attacks import (
    FGSM,
    PGD,
    AutoAttack,
    OwnLoss,
    WorstCase,
    cross_entropy,
    dlr,
    margin,
)
from robsearch.parts.attacks.autoattack import _give_common_numbers, _give_own_starts

SHAPE = (3, 2, 2)
PIXELS = math.prod(SHAPE)


def linear(seed: int = 0, classes: int = 3) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, classes))


def small_net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 1),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def first_logit(logits: Tensor) -> Tensor:
    return logits[:, 0]


def balanced(model: nn.Sequential, x: Tensor) -> nn.Sequential:
    """With a last bias such that each class has the same mean logit over ``x``: all classes are
    predicted."""
    with torch.no_grad():
        model.eval()[-1].bias -= model(x).mean(dim=0)
    return model


def weights_of(model: nn.Sequential) -> Tensor:
    return model[-1].weight[0].detach().view(1, *SHAPE)


def grey(n: int = 5) -> tuple[Tensor, Tensor]:
    """Images so far from 0 and 1 that the box is inactive at eps = 0.2."""
    return torch.full((n, *SHAPE), 0.5) + 0.1 * torch.rand(n, *SHAPE), torch.zeros(
        n, dtype=torch.long
    )


def lengths(move: Tensor) -> Tensor:
    return move.flatten(1).norm(dim=1)


@pytest.mark.parametrize("start", ["uniform", "gaussian", "none"])
def test_linf_on_a_linear_model_moves_each_pixel_by_eps_in_the_sign_of_its_weight(start):
    model, (x, y) = linear(), grey()
    adv = PGD(eps=0.2, step_size=0.05, steps=10, start=start)(model, x, y, first_logit)
    torch.testing.assert_close(adv - x, (0.2 * weights_of(model).sign()).expand_as(x))


@pytest.mark.parametrize("start", ["uniform", "gaussian", "none"])
def test_l2_on_a_linear_model_ends_on_the_sphere_along_the_weights(start):
    model, (x, y) = linear(), grey()
    adv = PGD(eps=0.2, step_size=0.1, steps=60, norm="l2", start=start)(model, x, y, first_logit)
    along = weights_of(model) / weights_of(model).norm()
    torch.testing.assert_close(adv - x, (0.2 * along).expand_as(x), atol=2e-4, rtol=0)
    torch.testing.assert_close(lengths(adv - x), torch.full((len(x),), 0.2))


@pytest.mark.parametrize(("norm", "length"), [("linf", 0.03 * PIXELS**0.5), ("l2", 0.03)])
def test_one_step_inside_the_ball_has_length_step_size(norm, length):
    model, (x, y) = linear(), grey()
    adv = PGD(eps=0.2, step_size=0.03, steps=1, norm=norm, start="none")(model, x, y, first_logit)
    torch.testing.assert_close(lengths(adv - x), torch.full((len(x),), length))


def test_the_step_follows_the_gradient_at_the_current_iterate():
    """Maximising -(x - 0.6)^2 from 0.5 in steps of 0.04: 0.54, 0.58, 0.62 and back to 0.58."""
    x, y = torch.full((1, 1, 1, 1), 0.5), torch.zeros(1, dtype=torch.long)

    def peak(logits: Tensor) -> Tensor:
        return -((logits[:, 0] - 0.6) ** 2)

    for steps, end in [(1, 0.54), (2, 0.58), (3, 0.62), (4, 0.58)]:
        adv = PGD(eps=0.2, step_size=0.04, steps=steps, start="none")(nn.Flatten(), x, y, peak)
        assert adv.item() == pytest.approx(end, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    eps=st.floats(0, 1),
    step_size=st.floats(0.01, 1),
    steps=st.integers(0, 3),
    restarts=st.integers(1, 2),
    norm=st.sampled_from(["linf", "l2"]),
    start=st.sampled_from(["uniform", "gaussian"]),
    seed=st.integers(0, 99),
)
def test_stays_in_the_ball_and_in_the_box(eps, step_size, steps, restarts, norm, start, seed):
    model = linear(seed)
    x, y = torch.rand(4, *SHAPE).mul(1.4).sub(0.2).clamp(0, 1), torch.tensor([0, 1, 2, 0])
    before = x.clone()
    adv = PGD(eps, step_size, steps, norm, start, restarts)(model, x, y, cross_entropy(y))
    assert adv.shape == x.shape
    assert adv.dtype == x.dtype
    assert not adv.requires_grad
    assert torch.equal(x, before)
    assert ((adv >= 0) & (adv <= 1)).all()
    if norm == "linf":
        assert ((adv >= x - eps) & (adv <= x + eps)).all()
    else:
        assert (lengths(adv - x) <= eps + 1e-6).all()


def test_no_steps_give_the_start():
    torch.manual_seed(0)
    x, y = torch.full((2000, *SHAPE), 0.5), torch.zeros(2000, dtype=torch.long)

    def start(name: str, norm: str = "linf") -> Tensor:
        return PGD(eps=0.1, steps=0, start=name, norm=norm)(linear(), x, y, first_logit) - x

    assert torch.equal(start("none"), torch.zeros_like(x))
    assert start("gaussian").std().item() == pytest.approx(0.001, rel=0.02)
    assert start("uniform").std().item() == pytest.approx(0.1 / 3**0.5, rel=0.02)
    # The radius of a uniform point of a ball in d dimensions has mean d / (d + 1).
    radius = lengths(start("uniform", "l2")) / 0.1
    assert radius.mean().item() == pytest.approx(PIXELS / (PIXELS + 1), rel=0.01)
    assert radius.max().item() <= 1 + 1e-6


def test_fgsm_is_one_sign_step_of_length_eps():
    model, (x, _) = small_net().eval(), grey()
    y = torch.tensor([0, 1, 2, 0, 1])
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), y), leaf)
    assert gradient.abs().min() > 0
    torch.testing.assert_close(
        FGSM(eps=0.1)(model, x, y, cross_entropy(y)), x + 0.1 * gradient.sign()
    )


def test_restarts_keep_the_highest_loss_of_each_image():
    model, (x, _) = small_net().eval(), grey(16)
    y = torch.arange(16) % 3
    loss = cross_entropy(y)
    one = PGD(eps=0.3, step_size=0.1, steps=2)
    torch.manual_seed(1)
    runs = [one(model, x, y, loss) for _ in range(3)]
    torch.manual_seed(1)
    best = PGD(eps=0.3, step_size=0.1, steps=2, restarts=3)(model, x, y, loss)
    values = torch.stack([loss(model(run)) for run in runs])
    assert len(set(values.argmax(dim=0).tolist())) > 1, (
        "the example must need more than one of the runs"
    )
    assert torch.equal(best, torch.stack(runs)[values.argmax(dim=0), torch.arange(16)])


def test_runs_in_eval_mode_and_gives_each_submodule_its_own_mode_back():
    model, (x, y) = small_net().train(), grey()
    model[1].eval()
    flags = [module.training for module in model.modules()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    seen = []
    model[3].register_forward_hook(lambda module, *_: seen.append(module.training))
    PGD(steps=2)(model, x, y, first_logit)
    assert seen == [False, False]
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())


def test_gives_the_modes_back_when_the_loss_raises():
    model, (x, y) = small_net().train(), grey()
    model[1].eval()
    flags = [module.training for module in model.modules()]

    def broken(logits: Tensor) -> Tensor:
        raise RuntimeError("broken loss")

    with pytest.raises(RuntimeError, match="broken loss"):
        PGD(steps=2)(model, x, y, broken)
    assert [module.training for module in model.modules()] == flags


@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("restarts", [1, 2])
def test_parameters_need_no_gradient_and_gather_none(trainable, restarts):
    model, (x, y) = small_net().requires_grad_(trainable), grey()
    with torch.no_grad():
        adv = PGD(eps=0.1, steps=2, restarts=restarts)(model, x, y, first_logit)
    assert not torch.equal(adv, x)
    assert not adv.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad is trainable for parameter in model.parameters())


@pytest.mark.parametrize("scale", [1e-30, 1.0])
def test_a_vanishing_gradient_still_gives_a_full_l2_step(scale):
    model, (x, y) = linear(), grey()
    adv = PGD(eps=0.2, step_size=0.1, steps=1, norm="l2", start="none")(
        model, x, y, lambda logits: scale * logits[:, 0]
    )
    torch.testing.assert_close(lengths(adv - x), torch.full((len(x),), 0.1))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_gradient_means_no_move(norm):
    model, (x, y) = linear(), grey()
    adv = PGD(eps=0.2, steps=2, norm=norm, start="none")(
        model, x, y, lambda logits: 0 * logits[:, 0]
    )
    assert torch.equal(adv, x)


def test_refuses_all_bad_fields_at_once():
    with pytest.raises(InputError) as caught:
        PGD(eps=8.0, step_size=-1.0, steps=-1, restarts=0)
    assert [p.split(", got")[0] for p in caught.value.problems] == [
        "expected eps in [0, 1]",
        "expected step_size in (0, 1]",
        "expected steps >= 0, a whole number",
        "expected restarts >= 1, a whole number",
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"eps": -0.1},
        {"eps": math.nan},
        {"eps": math.inf, "norm": "l2"},
        {"step_size": 0.0},
        {"step_size": math.nan},
        {"start": "none", "restarts": 2},
    ],
    ids=str,
)
def test_refuses(fields):
    with pytest.raises(InputError):
        PGD(**fields)


def test_refuses_unknown_names(unchecked):
    with pytest.raises(InputError) as caught:
        PGD(norm="l1", start="zero")
    assert ["norm" in problem or "start" in problem for problem in caught.value.problems] == [
        True,
        True,
    ]


@pytest.mark.parametrize("eps", [-0.1, 8.0, math.nan])
def test_fgsm_refuses(eps):
    with pytest.raises(InputError, match="expected eps"):
        FGSM(eps=eps)


def test_an_l2_ball_may_be_wider_than_the_box():
    assert PGD(eps=2.0, step_size=1.5, norm="l2").eps == 2.0


# --- losses ---

Z = torch.tensor([[1.0, 4.0, 2.0]]).expand(3, 3)
EACH = torch.tensor([0, 1, 2])


def test_cross_entropy_of_a_share_of_one_quarter_is_log_4():
    assert cross_entropy(torch.tensor([0]))(
        torch.tensor([[0.0, math.log(3)]])
    ).item() == pytest.approx(math.log(4))


def test_margin_is_the_best_other_logit_less_the_labels():
    assert margin(EACH)(Z).tolist() == [3, -2, 2]


def test_dlr_divides_the_margin_by_first_less_third():
    torch.testing.assert_close(dlr(EACH)(Z), torch.tensor([1, -2 / 3, 2 / 3]))


def test_the_ratio_equals_the_authors_code():
    from pyautoattack.autopgd_base import APGDAttack

    torch.manual_seed(0)
    z, y = torch.randn(50, 6), torch.arange(50) % 6
    torch.testing.assert_close(dlr(y)(z), APGDAttack(None, eps=0.1).dlr_loss(z, y))


def test_the_ratio_does_not_see_the_scale_and_shift_of_the_logits():
    torch.manual_seed(0)
    z, y = torch.randn(9, 5, dtype=torch.float64), torch.arange(9) % 5
    torch.testing.assert_close(dlr(y)(100 * z + 7), dlr(y)(z))


def test_losses_have_finite_slopes_where_all_logits_tie():
    y = torch.tensor([0, 1])
    for loss in (cross_entropy(y), margin(y), dlr(y)):
        z = torch.zeros(2, 4, requires_grad=True)
        loss(z).sum().backward()
        assert z.grad.isfinite().all()


def test_dlr_of_two_classes_is_the_margin_and_says_so():
    z, y = torch.tensor([[1.0, 4.0]]), torch.tensor([0])
    with pytest.warns(UserWarning, match="needs 3 classes, got 2: the margin"):
        assert dlr(y)(z).item() == 3


@pytest.mark.parametrize("loss", [margin, dlr, cross_entropy])
def test_pgd_climbs_each_loss_along_the_same_line_where_only_two_classes_count(loss):
    """The third class is far below both, and moves by no pixel: all losses rise with z_1 - z_0
    alone."""
    model, (x, y) = linear(), grey()
    with torch.no_grad():
        model[-1].weight[2].zero_()
        model[-1].bias.copy_(torch.tensor([0.0, 0.0, -50.0]))
    along = (model[-1].weight[1] - model[-1].weight[0]).detach().sign().view(1, *SHAPE)
    adv = PGD(eps=0.2, step_size=0.05, steps=10)(model, x, y, loss(y))
    torch.testing.assert_close(adv - x, (0.2 * along).expand_as(x))


# --- the worst case over several attacks ---


@dataclass(frozen=True)
class Shift:
    """Adds a number to each pixel."""

    by: float

    def __call__(self, model, x, y, loss):
        return x + self.by


class Band(nn.Module):
    """One pixel p to the logits (|p - 0.5|, 0.1): class 0 outside 0.4 to 0.6, class 1 inside."""

    def forward(self, x):
        away = (x.flatten(1) - 0.5).abs()
        return torch.cat([away, torch.full_like(away, 0.1)], dim=1)


def pixels(*values: float) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1)


def test_the_first_success_counts_else_the_highest_loss():
    """Label 1, inside. From 0.5 no shift leaves the band, from 0.58 the second is the first to,
    from 0.43 the first."""
    x, y = pixels(0.5, 0.58, 0.43), torch.tensor([1, 1, 1])
    attack = WorstCase((Shift(-0.04), Shift(0.08), Shift(0.05)))
    assert (Band()(attack(Band(), x, y, margin(y))).argmax(1) == y).tolist() == [True, False, False]
    torch.testing.assert_close(attack(Band(), x, y, margin(y)), pixels(0.58, 0.66, 0.39))
    calm = attack(Band(), x, y, lambda logits: -margin(y)(logits))
    torch.testing.assert_close(
        calm, pixels(0.46, 0.66, 0.39), msg="a success counts, whatever its loss"
    )


def test_the_worst_case_is_no_average():
    """Each shift turns one of the two images, so each leaves an accuracy of a half; together they
    leave none."""
    x, y = pixels(0.45, 0.55), torch.tensor([1, 1])

    def accuracy(*attacks):
        return (
            (Band()(WorstCase(attacks)(Band(), x, y, margin(y))).argmax(1) == y)
            .float()
            .mean()
            .item()
        )

    assert accuracy(Shift(0.08)) == accuracy(Shift(-0.08)) == 0.5
    assert accuracy(Shift(0.08), Shift(-0.08)) == 0


def test_an_image_is_robust_if_and_only_if_it_withstands_each_attack():
    torch.manual_seed(2)
    x, _ = grey(64)
    model = balanced(small_net(), x)
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    attacks = (Shift(0.1), FGSM(eps=0.003), Shift(-0.1))
    alone = torch.stack(
        [model(attack(model, x, y, cross_entropy(y))).argmax(1) == y for attack in attacks]
    )
    together = model(WorstCase(attacks)(model, x, y, cross_entropy(y))).argmax(1) == y
    assert 0 < together.sum() < alone.sum(dim=1).min(), "no attack alone must find them all"
    assert torch.equal(together, alone.all(dim=0))


def test_the_worst_case_refuses_what_is_no_attack(unchecked):
    with pytest.raises(InputError, match="at least one attack, got none"):
        WorstCase(())
    for one in (PGD(), None):
        with pytest.raises(InputError, match=r"to be a tuple of attacks, got .*: pass WorstCase"):
            WorstCase(one)
    with pytest.raises(InputError) as caught:
        WorstCase((PGD(), PGD, "pgd"))
    assert [problem.split(" ")[1] for problem in caught.value.problems] == [
        "WorstCase.attacks[1]",
        "WorstCase.attacks[2]",
    ]


# --- AutoAttack ---

FAST = ("apgd-ce", "apgd-t")


@pytest.fixture(scope="module")
def digits():
    """An MLP with some robustness, and digits that it has not seen."""
    train, val = (Digits().read()[name] for name in ("train", "val"))
    x, y = train.images.float() / 255, train.labels
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(100):
        rows = torch.randint(len(x), (128,))
        adv = PGD(eps=0.1, step_size=0.05, steps=3)(model, x[rows], y[rows], cross_entropy(y[rows]))
        optimiser.zero_grad()
        F.cross_entropy(model(adv), y[rows]).backward()
        optimiser.step()
    return model, val.images[:40].float() / 255, val.labels[:40]


def right(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(dim=1) == y


@pytest.fixture(scope="module")
def standard(digits) -> Tensor:
    model, x, y = digits
    return AutoAttack(eps=0.15)(model, x, y)


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.15), ("l2", 0.8)])
def test_autoattack_stays_in_the_ball_and_is_at_least_as_strong_as_pgd_20(
    digits, standard, norm, eps
):
    model, x, y = digits
    l2 = AutoAttack(eps=eps, norm="l2", attacks=(*FAST, "fab-t"))
    adv = standard if norm == "linf" else l2(model, x, y, cross_entropy(y))
    pgd = PGD(eps=eps, step_size=eps / 4, steps=20, norm=norm)(model, x, y, cross_entropy(y))
    assert adv.shape == x.shape
    assert not adv.requires_grad
    assert ((adv >= 0) & (adv <= 1)).all()
    if norm == "linf":
        assert ((adv >= x - eps) & (adv <= x + eps)).all()
    else:
        assert (lengths(adv - x) <= eps + 1e-6).all()
    robust = right(model, adv, y).sum().item()
    assert 0 < robust <= right(model, pgd, y).sum().item() < right(model, x, y).sum().item()
    fast = AutoAttack(eps=eps, norm=norm, attacks=FAST)(model, x, y)
    assert robust <= right(model, fast, y).sum().item() <= robust + 1


def test_autoattack_is_the_authors_standard_version_but_for_the_random_numbers(digits, standard):
    from pyautoattack import AutoAttack as Theirs

    model, x, y = digits
    theirs = Theirs(model, norm="Linf", eps=0.15, version="standard", seed=0)
    for apgd in (theirs.apgd, theirs.apgd_targeted):
        _give_own_starts(apgd, 0)
    _give_common_numbers(theirs.square)
    torch.testing.assert_close(standard, theirs.run_standard_evaluation(x, y)[0], atol=1e-7, rtol=0)
    model.zero_grad()


@pytest.mark.parametrize(
    ("attacks", "unsure"), [(FAST, 0), (("apgd-t",), 0), (("fab",), 0.06), (("fab-t",), 0.06)]
)
def test_on_a_linear_model_robust_is_a_distance_to_each_boundary_above_eps(attacks, unsure):
    """Distance (linf) to the boundary with class k: (z_y - z_k) / ||w_y - w_k||_1. FAB steps 5 %
    beyond it."""
    torch.manual_seed(1)
    x = 0.3 + 0.4 * torch.rand(40, *SHAPE)
    model = balanced(linear(classes=4), x)
    with torch.no_grad():
        logits, weight = model(x), model[-1].weight
        y = logits.argmax(dim=1)
        slopes = (weight[y][:, None] - weight).abs().sum(dim=2)
        gaps = logits.gather(1, y[:, None]) - logits
        distance = torch.where(slopes > 0, gaps / slopes, math.inf).amin(dim=1)
    near, far = distance.sort().values[19:21].tolist()
    eps = (near + far) / 2
    assert distance.max() < 0.3, "the box must not get in the way"
    adv = AutoAttack(eps=eps, attacks=attacks)(model, x, y)
    clear = (distance < (1 - unsure) * eps) | (distance > eps)
    assert clear.sum() > 35
    assert torch.equal(right(model, adv, y)[clear], (distance > eps)[clear])


def test_each_attack_runs_on_what_withstood_those_before_it(digits):
    model, x, y = digits
    first, both = (
        AutoAttack(eps=0.15, attacks=attacks)(model, x, y) for attacks in (FAST[:1], FAST)
    )
    turned, turned_by_both = ((adv != x).flatten(1).any(dim=1) for adv in (first, both))
    assert 0 < turned.sum() < turned_by_both.sum()
    assert torch.equal(both[turned], first[turned])


def test_autoattack_runs_in_eval_mode():
    x, _ = grey()
    model, seen = balanced(small_net(), x).train(), []
    model[3].register_forward_hook(lambda module, *_: seen.append(module.training))
    AutoAttack(eps=0.1, attacks=("apgd-ce",))(model, x, torch.arange(5) % 3)
    assert seen
    assert not any(seen)
    assert all(module.training for module in model.modules())


def test_only_images_that_it_turned_are_changed(digits):
    model, x, y = digits
    adv = AutoAttack(eps=0.15, attacks=("apgd-ce",))(model, x, y)
    changed = (adv != x).flatten(1).any(dim=1)
    assert torch.equal(changed, right(model, x, y) & ~right(model, adv, y))
    assert 0 < changed.sum() < right(model, x, y).sum()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"])
def test_each_attack_follows_its_own_seed_and_leaves_the_generator_alone(digits, name):
    model, x, y = digits
    runs = []
    for outside in (1, 2):
        torch.manual_seed(outside)
        before = torch.random.get_rng_state()
        runs.append(AutoAttack(eps=0.15, attacks=(name,))(model, x[:5], y[:5]))
        assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(*runs)
    assert not torch.equal(runs[0], x[:5])
    if not name.startswith("fab"):  # its only run starts at the image itself
        once, again = (
            AutoAttack(eps=0.15, attacks=(name,), seed=seed)(model, x, y) for seed in (0, 7)
        )
        assert not torch.equal(once, again)  # of most images APGD finds the same corner of the ball


def test_any_batch_size_will_do(digits):
    model, x, y = digits
    x, y = x[:6], y[:6]
    counts = [
        right(model, AutoAttack(eps=0.15, attacks=FAST, batch_size=size)(model, x, y), y)
        .sum()
        .item()
        for size in (1, 4, 1000)
    ]
    assert max(counts) - min(counts) <= 1


def test_leaves_gradients_flags_and_trace_function_alone(digits):
    model, x, y = digits
    model[1].weight.grad = torch.ones_like(model[1].weight)
    model[3].bias.requires_grad_(False)
    model.train()[2].eval()
    traced = sys.gettrace()

    def trace(*_):
        return None

    try:
        sys.settrace(trace)
        AutoAttack(eps=0.15, attacks=("apgd-ce", "fab-t"))(model, x[:5], y[:5])
        assert sys.gettrace() is trace
    finally:
        sys.settrace(traced)
        bias, model[3].bias.requires_grad = model[3].bias.requires_grad, True
    assert not bias
    assert [module.training for module in model.modules()] == [True, True, True, False, True]
    assert torch.equal(model[1].weight.grad, torch.ones_like(model[1].weight))
    assert all(parameter.grad is None for parameter in [model[1].bias, *model[3].parameters()])
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.zero_grad()


class Failing(nn.Module):
    """Fails at its third forward."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.calls = model, 0

    def forward(self, x):
        self.calls += 1
        if self.calls == 3:
            raise RuntimeError("broken model")
        return self.model(x)


def test_gives_everything_back_when_the_model_fails(digits):
    model, x, y = digits
    failing, before, logger = (
        Failing(model).train(),
        torch.random.get_rng_state(),
        logging.getLogger("auto-attack"),
    )
    with pytest.raises(RuntimeError, match="broken model"):
        AutoAttack()(failing, x, y)
    assert all(module.training for module in failing.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert logger.filters == []


def test_quiet_but_for_one_warning_of_each_kind(digits, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    model, x, y = digits
    AutoAttack(eps=0.15, attacks=FAST)(model, x[:5], y[:5])
    assert caplog.records == []
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.zeros_(flat[1].weight)
    AutoAttack(eps=0.15, attacks=("apgd-t",), batch_size=2)(flat, x[:4], flat(x[:4]).argmax(dim=1))
    assert ["zero gradient" in record.message for record in caplog.records] == [True]
    assert capfd.readouterr() == ("", "")


def test_two_classes_are_refused_with_what_to_use_instead():
    model, (x, y) = linear(classes=2), grey()
    with pytest.raises(InputError) as caught:
        AutoAttack()(model, x, y)
    (problem,) = caught.value.problems
    assert problem == (
        "expected at least 4 classes for apgd-t, got 2: pass attacks=('apgd-ce', 'fab-t', 'square')"
    )
    adv = AutoAttack(eps=0.5, attacks=("apgd-ce", "fab-t"))(model, x, model(x).argmax(dim=1))
    assert not right(model, adv, model(x).argmax(dim=1)).any()


def test_three_classes_do_for_the_dlr_loss_but_not_for_its_targeted_form(caplog):
    model, (x, y) = linear(classes=3), grey()
    AutoAttack(attacks=("apgd-dlr",))(model, x, y)
    assert caplog.records == []
    with pytest.raises(
        InputError, match=r"4 classes for apgd-t, got 3: pass attacks=\('apgd-ce',\)"
    ):
        AutoAttack(attacks=("apgd-t",))(model, x, y)
    with pytest.raises(
        InputError,
        match="4 classes for apgd-ce and apgd-t, got 1: give the model one logit per class",
    ):
        AutoAttack(attacks=FAST)(linear(classes=1), x, y)


def test_refuses_probabilities(digits):
    model, x, y = digits
    with pytest.raises(InputError, match="expected logits, got rows from 0 to 1 that sum to 1"):
        AutoAttack()(nn.Sequential(model, nn.Softmax(dim=1)), x, y)
    AutoAttack(attacks=("apgd-ce",))(nn.Sequential(model, nn.LogSoftmax(dim=1)), x, y)


def test_refuses_examples_that_do_not_fit(digits):
    model, x, y = digits
    attack = AutoAttack(attacks=("apgd-ce",), batch_size=7)
    for images, labels, problem in [
        (x + 0.5, y, "images in"),
        (x, y - 1, "labels from 0"),
        (x, y + 10, "labels below 10"),
        (x, y[:35], "one label for each"),
        (x[:35], y, "at least one image"),
        (x[:0], y[:0], "at least one image"),
        (x.double(), y, "float32 images"),
    ]:
        with pytest.raises(InputError, match=problem):
            jaxtyped_off(attack, model, images, labels)


def jaxtyped_off(attack, *args):
    """A batch whose lengths differ: the checks of the test run would refuse it first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        return attack(*args)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(("norm", "shape"), [("linf", (3, 5, 9)), ("l2", (3, 11, 6))])
def test_images_of_any_shape_and_memory_order_will_do(norm, shape):
    torch.manual_seed(0)
    x = torch.rand(4, *shape).to(memory_format=torch.channels_last)
    model = balanced(nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 5)), x)
    y = model(x).argmax(dim=1)
    for name in ("apgd-dlr", "apgd-t", "fab", "square"):
        adv = AutoAttack(eps=1.0, norm=norm, attacks=(name,))(model, x, y)
        assert not right(model, adv, y).any(), name


def test_square_in_l2_refuses_images_below_5_pixels():
    x, y = grey()
    with pytest.raises(InputError, match="5 x 5 or more for square in l2, got 2 x 2"):
        AutoAttack(norm="l2", attacks=("square",))(linear(), x, y)
    AutoAttack(attacks=("square",))(linear(), x, y)


class Keeping(nn.Module):
    """The image itself as logits, each output kept."""

    def __init__(self):
        super().__init__()
        self.outputs = []

    def forward(self, x):
        self.outputs.append(x.flatten(1))
        return self.outputs[-1]


def test_square_does_not_write_into_the_models_own_tensors():
    """The brightest of 12 pixels is the class, ahead by 0.1: it falls if eps is above half of this,
    and not below."""
    x, y = torch.full((1, *SHAPE), 0.5), torch.tensor([0])
    x[0, 0, 0, 0] = 0.6
    for eps, robust in [(0.04, True), (0.06, False)]:
        model = Keeping()
        adv = AutoAttack(eps=eps, attacks=("square",))(model, x, y)
        assert right(nn.Flatten(), adv, y).item() is robust
        assert all(output.isfinite().all() for output in model.outputs)


def test_autoattack_refuses_all_bad_fields_at_once(unchecked):
    with pytest.raises(InputError) as caught:
        AutoAttack(eps=-0.1, norm="l1", attacks=("pgd",), seed=-1, batch_size=0)
    assert [problem.split(" ")[1] for problem in caught.value.problems] == [
        "eps",
        "norm",
        "attacks",
        "seed",
        "batch_size",
    ]


@pytest.mark.parametrize("attacks", [(), ("fab", "fab"), ["fab"], "fab"], ids=str)
def test_autoattack_refuses_no_repeated_and_unordered_attacks(unchecked, attacks):
    with pytest.raises(InputError, match="attacks out of apgd-ce"):
        AutoAttack(attacks=attacks)


def test_the_package_behind_it_is_imported_by_a_call_alone():
    code = (
        "import sys, robsearch.parts.attacks as a; a.AutoAttack(); sys.exit('pyautoattack' in "
        "sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- an attack with a loss of its own ---


@pytest.mark.parametrize(
    ("name", "loss"), [("margin", margin), ("dlr", dlr), ("cross_entropy", cross_entropy)]
)
def test_an_own_loss_is_climbed_whatever_loss_is_handed_over(name, loss):
    torch.manual_seed(0)
    model, x, y = (
        nn.Sequential(nn.Flatten(), nn.Linear(12, 4)),
        torch.rand(6, 3, 2, 2),
        torch.arange(6) % 4,
    )
    pgd = PGD(eps=0.1, step_size=0.05, steps=3, start="none")
    own = OwnLoss(pgd, name)(model, x, y, lambda logits: -cross_entropy(y)(logits))
    torch.testing.assert_close(own, pgd(model, x, y, loss(y)), rtol=0, atol=0)


def test_the_margin_turns_an_image_whose_cross_entropy_leads_astray():
    """On one pixel: brighter, nine classes come near the label's but not over it; darker, one
    overtakes it."""

    class Astray(nn.Module):
        def forward(self, x):
            t = x.flatten(1)[:, :1] - 0.5
            nine = (0.95 - 4 * (0.1 - t).clamp_min(0)).expand(-1, 9)
            return torch.cat([torch.ones_like(t), 0.96 - 10 * t, nine], dim=1)

    x, y = torch.full((1, 1, 1, 1), 0.5), torch.zeros(1, dtype=torch.long)
    pgd = PGD(eps=0.1, step_size=0.02, steps=10, start="none")
    assert Astray()(pgd(Astray(), x, y, cross_entropy(y))).argmax(1) == 0
    assert Astray()(OwnLoss(pgd)(Astray(), x, y)).argmax(1) == 1
    assert Astray()(WorstCase((pgd, OwnLoss(pgd)))(Astray(), x, y, cross_entropy(y))).argmax(1) == 1


def test_an_own_loss_refuses_what_it_does_not_know(unchecked):
    with pytest.raises(InputError) as refused:
        OwnLoss(PGD, "hinge")
    assert len(refused.value.problems) == 2
