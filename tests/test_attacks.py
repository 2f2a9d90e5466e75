"""Attacks against closed forms on linear models, and against the inequalities that define a ball."""

import math

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robsearch.attacks import FGSM, PGD
from robsearch.errors import InputError

SHAPE = (3, 2, 2)
PIXELS = math.prod(SHAPE)


@pytest.fixture
def unchecked():
    """As users run it: without the test run's type checks, which would refuse a bad value first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def linear(seed: int = 0, classes: int = 3) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, classes))


def small_net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 3)
    )


def first_logit(logits: Tensor) -> Tensor:
    return logits[:, 0]


def cross_entropy(y: Tensor):
    return lambda logits: F.cross_entropy(logits, y, reduction="none")


def weights_of(model: nn.Sequential) -> Tensor:
    return model[-1].weight[0].detach().view(1, *SHAPE)


def grey(n: int = 5) -> tuple[Tensor, Tensor]:
    """Images so far from 0 and 1 that the box is inactive at eps = 0.2."""
    return torch.full((n, *SHAPE), 0.5) + 0.1 * torch.rand(n, *SHAPE), torch.zeros(n, dtype=torch.long)


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
    torch.testing.assert_close(FGSM(eps=0.1)(model, x, y, cross_entropy(y)), x + 0.1 * gradient.sign())


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
    assert len(set(values.argmax(dim=0).tolist())) > 1, "the example must need more than one of the runs"
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
    adv = PGD(eps=0.2, steps=2, norm=norm, start="none")(model, x, y, lambda logits: 0 * logits[:, 0])
    assert torch.equal(adv, x)


def test_refuses_all_bad_fields_at_once():
    with pytest.raises(InputError) as caught:
        PGD(eps=8.0, step_size=-1.0, steps=-1, restarts=0)
    assert [p.split(",")[0] for p in caught.value.problems] == [
        "expected eps from 0 to 1",
        "expected step_size > 0",
        "expected steps >= 0",
        "expected restarts >= 1",
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
    assert ["norm" in problem or "start" in problem for problem in caught.value.problems] == [True, True]


@pytest.mark.parametrize("eps", [0.0, -0.1, 8.0, math.nan])
def test_fgsm_refuses(eps):
    with pytest.raises(InputError, match="expected eps"):
        FGSM(eps=eps)


def test_an_l2_ball_may_be_wider_than_the_box():
    assert PGD(eps=2.0, step_size=1.5, norm="l2").eps == 2.0
