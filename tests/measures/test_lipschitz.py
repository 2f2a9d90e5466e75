"""Lower bounds of local Lipschitz constants, against linear maps whose constants have closed
forms."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from relu_regions import linf_to_l1
from torch import Tensor, nn

from robsearch.errors import InputError
from robsearch.measures.kl_gradient import KLGradient
from robsearch.measures.lipschitz import AttackRatio, LogitRatio
from robsearch.parts.attacks import FGSM, PGD
from robsearch.testing import check_measure

SHAPE = (2, 3, 3)
PIXELS = math.prod(SHAPE)
ATTACK = PGD(eps=0.1, step_size=0.05, steps=4)
MEASURES = [LogitRatio(eps=0.1), AttackRatio(ATTACK), KLGradient(eps=0.1)]


def linear(classes: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, classes)).double()


def examples(classes: int, n: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = 0.4 + 0.2 * torch.rand(n, *SHAPE, generator=generator, dtype=torch.float64)
    return x, torch.arange(n) % classes


# --- the logit ratio ---


def test_the_ratio_of_a_linear_logit_is_the_l1_norm_of_its_weights():
    model, (x, _) = linear(1), examples(1)
    found = LogitRatio(eps=0.1)(model, x, torch.zeros(len(x), dtype=torch.long))
    torch.testing.assert_close(found, model[1].weight.abs().sum().expand(len(x)).detach())


@pytest.mark.parametrize("seed", range(5))
def test_the_ratio_of_a_linear_map_comes_near_its_exact_norm_and_never_above(seed):
    model, (x, y) = linear(4, seed), examples(4)
    exact = linf_to_l1(model[1].weight.detach())
    found = LogitRatio(eps=0.1)(model, x, y)
    assert (found <= exact * (1 + 1e-9)).all()
    assert found.max().item() > 0.95 * exact
    assert found.min().item() > 0.75 * exact


def test_more_starts_and_steps_never_lower_the_bound():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 16), nn.ReLU(), nn.Linear(16, 4)).double()
    x, y = examples(4)

    def bound(**kwargs) -> Tensor:
        torch.manual_seed(0)
        return LogitRatio(eps=0.1, **kwargs)(model, x, y)

    assert (bound(starts=1, steps=10) >= bound(starts=1, steps=3)).all()
    assert (bound(starts=3) >= bound(starts=1)).all()
    assert bound(starts=3).mean() > bound(starts=1).mean()


def test_the_best_ratio_seen_counts_not_the_last():
    """|f(x) - f(x')| is a hat of 0.05 around x: steps of 0.1 overshoot it, and the ratio falls to
    0."""
    hat = nn.Flatten()
    hat.forward = lambda x: (0.05 - (x.flatten(1) - 0.5).abs()).clamp_min(0)
    x, y = torch.full((64, 1, 1, 1), 0.5), torch.zeros(64, dtype=torch.long)
    torch.manual_seed(0)
    starts_only = LogitRatio(eps=0.1, steps=0, starts=1)(hat, x, y)
    torch.manual_seed(0)
    climbed = LogitRatio(eps=0.1, step_size=0.1, steps=3, starts=1)(hat, x, y)
    assert (climbed >= starts_only).all()
    assert starts_only.max().item() == pytest.approx(1.0, abs=1e-4)


def test_a_point_that_rounds_to_the_example_itself_does_not_count():
    model, (x, y) = linear(3).float(), examples(3)
    assert LogitRatio(eps=1e-12)(model, x.float(), y).tolist() == [0.0] * len(x)


def test_logit_ratio_refuses_all_bad_fields_at_once():
    with pytest.raises(InputError) as caught:
        LogitRatio(eps=8.0, step_size=0.0, steps=-1, starts=0)
    assert len(caught.value.problems) == 4
    with pytest.raises(InputError, match="eps"):
        LogitRatio(eps=0.0)


@pytest.mark.parametrize(
    ("starts", "maps", "mean", "exact"),
    [(4, 100, (0.90, 0.95), (1, 15)), (20, 30, (0.96, 0.99), (3, 20))],
)
def test_on_random_linear_maps_to_10_logits_the_ratio_is_seldom_exact_and_never_above(
    starts, maps, mean, exact
):
    x, y = torch.full((1, 1, 8, 8), 0.5, dtype=torch.float64), torch.zeros(1, dtype=torch.long)
    shares = torch.zeros(maps, dtype=torch.float64)
    for seed in range(maps):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double()
        found = LogitRatio(eps=0.1, starts=starts, steps=5)(model, x, y).item()
        shares[seed] = found / linf_to_l1(model[1].weight.detach())
    assert shares.max() <= 1 + 1e-9
    assert mean[0] < shares.mean() < mean[1]
    assert exact[0] <= (shares > 1 - 1e-9).sum() <= exact[1]


# --- the ratio at an attack's example ---


def test_the_attack_ratio_by_hand():
    """One pixel and logits (2 x, -x): a step of 0.25 moves them by 0.5 and 0.25, so the ratio is
    3."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False))
    model[1].weight.data = torch.tensor([[2.0], [-1.0]])
    x, y = torch.tensor([0.25, 0.5]).view(2, 1, 1, 1), torch.tensor([0, 1])
    assert AttackRatio(FGSM(eps=0.25))(model, x, y).tolist() == pytest.approx([3.0, 3.0])


def test_the_attack_ratio_is_taken_at_the_attacks_example_against_the_prediction():
    model, (x, y) = linear(3), examples(3)
    predicted = model(x).argmax(1)
    assert not torch.equal(predicted, y)
    told = {}

    def attack(model, x, y, loss):
        told["y"], told["loss"] = y, loss(model(x))
        return x + 0.05 * torch.arange(1.0, len(x) + 1).view(-1, 1, 1, 1)

    found = AttackRatio(attack)(model, x, y)
    assert torch.equal(told["y"], predicted)
    torch.testing.assert_close(told["loss"], F.cross_entropy(model(x), predicted, reduction="none"))
    one_way = model[1].weight.detach().sum(dim=1).abs().sum()  # every pixel moves by the same
    torch.testing.assert_close(found, one_way.expand(len(x)))


def test_the_attack_ratio_is_never_above_the_exact_norm_of_a_linear_map_nor_what_ascent_finds():
    model, (x, y) = linear(4), examples(4)
    found = AttackRatio(ATTACK)(model, x, y)
    assert (found <= linf_to_l1(model[1].weight.detach()) * (1 + 1e-9)).all()
    assert (found <= LogitRatio(eps=0.1, starts=20)(model, x, y) * (1 + 1e-9)).all()
    assert found.min() > 0


@pytest.mark.parametrize("move", [0.0, 0.9e-5])
def test_an_attack_that_hardly_moves_has_ratio_zero(move):
    model, (x, y) = linear(3), examples(3)
    assert AttackRatio(lambda model, x, y, loss: x + move)(model, x, y).tolist() == [0.0] * len(x)


def test_each_example_has_its_own_threshold():
    model, (x, y) = linear(3), examples(3)
    moves = torch.tensor([0.0, 1e-3] * 3, dtype=torch.float64).view(-1, 1, 1, 1)
    found = AttackRatio(lambda model, x, y, loss: x + moves)(model, x, y)
    assert (found > 0).tolist() == [False, True] * 3


def test_the_attack_ratio_refuses_an_attack_that_leaves_the_box():
    model, (x, y) = linear(3), examples(3)
    with pytest.raises(InputError, match="images in"):
        AttackRatio(lambda model, x, y, loss: x + 1)(model, x, y)


@pytest.mark.parametrize("wrong", [PGD, 8 / 255])
def test_the_attack_ratio_refuses_what_is_no_attack(unchecked, wrong):
    with pytest.raises(InputError, match="an attack"):
        AttackRatio(wrong)


# --- all three ---


def seen_by(model: nn.Module) -> list[Tensor]:
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    return seen


@pytest.mark.parametrize(
    ("measure", "passes"),
    [(LogitRatio(eps=0.1), 1 + 4 * 11), (KLGradient(eps=0.1), 1 + 10)],
    ids=repr,
)
def test_perturbed_points_stay_in_the_ball_and_the_box(measure, passes):
    model, x = linear(3), torch.zeros(4, *SHAPE, dtype=torch.float64)
    x[:2] = 1
    seen = seen_by(model)
    measure(model, x, torch.tensor([0, 1, 2, 0]))
    assert len(seen) == passes
    for near in seen:
        assert ((near >= 0) & (near <= 1)).all()
        assert ((near - x).abs() <= 0.1 + 1e-12).all()
    assert any((near != x).any() for near in seen)


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
def test_a_constant_model_has_constant_zero(measure):
    model, (x, y) = linear(3), examples(3)
    nn.init.zeros_(model[1].weight)
    assert measure(model, x, y).tolist() == [0.0] * len(x)


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
def test_a_measure_keeps_its_contract(measure):
    check_measure(measure)


def test_three_names_and_all_are_lower_bounds():
    assert [(m.name, m.about.kind, m.about.unit) for m in MEASURES] == [
        ("lipschitz/logit_ratio", "lower bound", "logits per pixel unit"),
        ("lipschitz/attack_ratio", "lower bound", "logits per pixel unit"),
        ("lipschitz/kl_gradient", "lower bound", "nats per pixel unit"),
    ]


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
def test_a_measure_works_in_single_precision_under_no_grad(measure):
    model, (x, y) = linear(3), examples(3)
    torch.manual_seed(0)
    exact = measure(model, x, y)
    with torch.no_grad():
        torch.manual_seed(0)
        found = measure(model.float(), x.float(), y)
    assert found.dtype == torch.float32
    assert (found <= exact.max() * 1.05).all()


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
@pytest.mark.parametrize(
    ("change_x", "change_y", "message"),
    [
        (lambda x: x * 255, lambda y: y, "images in"),
        (lambda x: x, lambda y: y + 1, "labels below 3"),
        (lambda x: x[:0], lambda y: y[:0], "at least one image"),
    ],
)
def test_a_measure_refuses_bad_examples(
    measure, change_x: Callable[[Tensor], Tensor], change_y: Callable[[Tensor], Tensor], message
):
    x, y = examples(3)
    with pytest.raises(InputError, match=message):
        measure(linear(3), change_x(x), change_y(y))


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
def test_a_measure_runs_in_eval_mode_and_restores_after_an_error(measure):
    model, (x, y) = nn.Sequential(nn.Dropout(0.5), *linear(3)).train(), examples(3)
    seen = []
    model[0].register_forward_hook(lambda module, *_: seen.append(module.training))
    nn.init.constant_(model[2].bias, math.nan)
    with pytest.raises(InputError, match="finite logits"):
        measure(model, x, y)
    assert seen == [False]
    assert all(module.training for module in model.modules())
