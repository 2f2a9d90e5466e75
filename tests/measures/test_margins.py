"""Margins against exact distances: of linear models and of nets cut by hand."""

import math

import pytest
import torch
from known_margins import NORMS, PIXELS, SHAPE, by_pixel, examples, linear, linear_margin, pixels
from torch import Tensor, nn

from robsearch.errors import InputError
from robsearch.measures.distances import AttackDistance
from robsearch.measures.margins import InputMargin, LogitMargin, SampledMargin
from robsearch.testing import check_measure

MARGINS = [
    LogitMargin(),
    *(InputMargin(norm) for norm in NORMS),
    *(SampledMargin(0.1, samples=3, norm=norm) for norm in NORMS),
    *(AttackDistance(norm, steps=3, rounds=3) for norm in NORMS),
]


# --- logits and first order ---


def test_the_logit_margin_by_hand():
    logits = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [1.0, 1.0, 0.0]])
    identity = nn.Flatten()
    x, y = logits.div(4).view(4, 3, 1, 1), torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(
        LogitMargin()(identity, x, y) * 4, torch.tensor([1.0, -2.0, -1.0, 0.0])
    )


@pytest.mark.parametrize("norm", NORMS)
def test_the_input_margin_of_a_linear_model_is_its_linear_margin(norm):
    model, (x, y) = linear(4), examples(4, n=12)
    exact = linear_margin(model, x, y, norm)
    assert exact.min() < 0 < exact.max()
    assert exact.abs().max() < 1
    torch.testing.assert_close(InputMargin(norm=norm)(model, x, y), exact)


@pytest.mark.parametrize("norm", NORMS)
def test_moving_by_the_input_margin_reaches_the_boundary_of_a_linear_model(norm):
    model, (x, _) = linear(3), examples(3, n=20)
    y = model(x).argmax(1)
    margin = InputMargin(norm=norm)(model, x, y)
    for share, kept in [(0.99, True), (1.01, False)]:
        for i in range(20):
            eps = share * margin[i].item()
            moved = [
                x[i : i + 1]
                + eps * dual_direction(model[1].weight[k] - model[1].weight[y[i]], norm)
                for k in range(3)
                if k != y[i]
            ]
            assert all(model(z).argmax(1).item() == y[i].item() for z in moved) is kept


def dual_direction(gradient: Tensor, norm: str) -> Tensor:
    direction = gradient.sign() if norm == "linf" else gradient / gradient.norm()
    return direction.detach().view(1, *SHAPE)


@pytest.mark.parametrize(("norm", "diameter"), [("linf", 1.0), ("l2", PIXELS**0.5)])
def test_without_gradient_the_margin_is_the_boxs_diameter_with_its_sign(norm, diameter):
    model, x = linear(2), examples(2, n=2)[0]
    nn.init.zeros_(model[1].weight)
    model[1].bias.data = torch.tensor([1.0, -1.0], dtype=torch.float64)
    found = InputMargin(norm=norm)(model, x, torch.tensor([0, 1]))
    assert found.tolist() == pytest.approx([diameter, -diameter])
    assert SampledMargin(0.3, 2, norm)(model, x, torch.tensor([0, 1])).tolist() == pytest.approx(
        [0.3, -0.3]
    )
    assert SampledMargin(9.0, 2, "l2")(model, x, torch.tensor([0, 0])).tolist() == pytest.approx(
        [PIXELS**0.5] * 2
    )
    model[1].bias.data.zero_()
    assert InputMargin(norm=norm)(model, x, torch.tensor([0, 1])).tolist() == [0.0, 0.0]


def steep_third(x: Tensor) -> Tensor:
    """One pixel t near 1/2, label 0: f_0 = 1, f_1 = 0.9 + (t - 1/2) / 10, f_2 = 4 (t - 1/2), f_3 =
    -1 + 9 (t - 1/2)."""
    t = x.flatten(1)[:, 0] - 0.5
    return torch.stack([torch.ones_like(t), 0.9 + t / 10, 4 * t, -1 + 9 * t], dim=1)


def test_with_fewer_classes_those_of_the_largest_logits_count_at_a_backward_pass_each():
    """At t = 1/2 the distances are 0.1 / 0.1 = 1 to class 1, 1 / 4 to class 2, 2 / 9 to class 3."""
    net, (x, y) = nn.Flatten(), pixels([[0.5]])
    passes: list[int] = []

    def forward(images: Tensor) -> Tensor:
        logits = steep_third(images)
        logits.register_hook(lambda _: passes.append(1))
        return logits

    net.forward = forward
    for classes, distance, cost in [
        (1, 1.0, 1),
        (2, 1 / 4, 2),
        (3, 2 / 9, 3),
        (None, 2 / 9, 3),
        (99, 2 / 9, 3),
    ]:
        passes.clear()
        assert InputMargin(classes=classes)(net, x, y).item() == pytest.approx(distance)
        assert len(passes) == cost
        assert SampledMargin(1.0, samples=1, classes=classes)(net, x, y).item() == pytest.approx(
            distance
        )


# --- sampled ---


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", range(4))
def test_the_sampled_margin_of_a_linear_model_is_its_linear_margin(norm, seed):
    """2,400 points go in several parts: each must meet its own image's label and classes."""
    model, (x, y) = linear(4, seed), examples(4)
    x = (x - 0.4) * 5  # for logits in many orders
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    found = SampledMargin(radius=1.0 if norm == "linf" else 4.0, samples=400, norm=norm)(
        model, x, y
    )
    torch.testing.assert_close(found, linear_margin(model, x, y, norm))
    assert sizes == [6, 996, 996, 408]


def test_the_sampled_margin_looks_at_the_steeper_slope_further_off():
    """With ``f_0 - f_1 = 1/4 - t^2``, t = x - 1/2: at x = 0.6 lead 0.24 and slope 0.2, but 2 * 0.3
    at radius 0.2."""
    net, (x, y) = by_pixel(lambda p: 0.25 - (p[:, 0] - 0.5) ** 2), pixels([[0.6]])
    assert InputMargin()(net, x, y).item() == 1.0  # 1.2, clipped
    torch.manual_seed(0)
    wide, narrow = (SampledMargin(radius, samples=100)(net, x, y).item() for radius in (0.35, 0.2))
    assert 0.24 / 0.9 <= wide <= 1.05 * 0.24 / 0.9
    assert wide < 0.4  # the true distance
    assert narrow == 0.2  # 0.24 / 0.6, were it not for the radius


def test_the_image_itself_is_one_of_the_points():
    """The lead falls by 2 close to x = 1/2 and by 0.1 further off."""
    net, (x, y) = (
        by_pixel(lambda p: 0.1 - 2 * (p[:, 0] - 0.5).clamp(-1e-9, 1e-9) - 0.1 * (p[:, 0] - 0.5)),
        pixels([[0.5]]),
    )
    assert SampledMargin(1.0, samples=3)(net, x, y).item() == pytest.approx(0.1 / 2.1)


def test_the_sampled_margin_is_an_estimate_for_it_may_miss_a_cliff():
    """A cliff of width 1e-4 at distance 0.05: no sample meets it, but there is an adversarial
    example behind it."""
    net, (x, y) = by_pixel(lambda p: 1 - 2e4 * (p[:, 0] - 0.55).clamp(0, 1e-4)), pixels([[0.5]])
    torch.manual_seed(0)
    assert SampledMargin(0.1, samples=5)(net, x, y).item() == 0.1
    assert 0.05 <= AttackDistance()(net, x, y).item() < 0.1


@pytest.mark.parametrize("norm", NORMS)
def test_the_points_fill_the_ball_and_stay_in_the_box(norm):
    """In 18 dimensions half of an l2 ball's points lie beyond 0.5^(1/18) = 0.96 of its radius."""
    seen: list[Tensor] = []
    model, (x, y) = linear(3), examples(3)
    x[0] = 1.0
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    torch.manual_seed(0)
    SampledMargin(0.2, samples=100, norm=norm)(model, x, y)
    points = torch.cat(seen[1:]).unflatten(0, (100, 6))
    assert ((points >= 0) & (points <= 1)).all()
    away = (points - x).flatten(2).norm(p=math.inf if norm == "linf" else 2, dim=2)
    assert away.max() <= 0.2 * (1 + 1e-12)
    share = (away[:, 1:] / 0.2 < (0.5 ** (1 / 18))).double().mean().item()
    assert share == pytest.approx(0.5, abs=0.1)
    assert (points - x)[:, 1:].mean().abs() < 0.01


def test_where_the_prediction_is_right_sampling_never_raises_the_first_order_margin():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 16), nn.ReLU(), nn.Linear(16, 4)).double()
    x = examples(4, n=20)[0]
    y = net(x).argmax(1)
    first, sampled = InputMargin()(net, x, y), SampledMargin(1.0, samples=20)(net, x, y)
    assert (sampled <= first).all()
    assert (sampled < first).any()
    assert (sampled > 0).all()


# --- all margins ---


@pytest.mark.parametrize("margin", MARGINS, ids=repr)
def test_a_margin_keeps_the_contract(margin):
    check_measure(margin)


def test_margins_names_and_kinds():
    assert [(m.name, m.about.kind) for m in MARGINS] == [
        ("margin/logit", "exact"),
        ("margin/input_first_order", "estimate"),
        ("margin/input_first_order_l2", "estimate"),
        ("margin/input_sampled", "estimate"),
        ("margin/input_sampled_l2", "estimate"),
        ("margin/attack_distance", "upper bound"),
        ("margin/attack_distance_l2", "upper bound"),
    ]


@pytest.mark.parametrize("margin", MARGINS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_margin_works_under_no_grad_and_keeps_the_dtype(margin, dtype):
    x, y = examples(3)
    with torch.no_grad():
        assert margin(linear(3).to(dtype), x.to(dtype), y).dtype == dtype


@pytest.mark.parametrize("margin", MARGINS, ids=repr)
@pytest.mark.parametrize("wants_gradient", [False, True])
def test_a_margin_leaves_the_images_as_they_were(margin, wants_gradient):
    x, y = examples(3)
    assert not margin(linear(3), x.requires_grad_(wants_gradient), y).requires_grad
    assert x.requires_grad is wants_gradient
    assert x.grad is None


@pytest.mark.parametrize("margin", MARGINS, ids=repr)
def test_a_margin_looks_in_eval_mode_and_gives_the_model_back_also_after_an_error(margin):
    model, (x, y) = (
        nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(0.5), *linear(3)).double().train(),
        examples(3),
    )
    model[1].eval()
    modes: list[bool] = []
    model[0].register_forward_hook(lambda module, *_: modes.append(module.training))
    margin(model, x, y)
    assert [module.training for module in model] == [True, False, True, True]
    nn.init.constant_(model[3].bias, math.nan)
    with pytest.raises(InputError, match="finite logits"):
        margin(model, x, y)
    assert [module.training for module in model] == [True, False, True, True]
    assert modes
    assert not any(modes)


@pytest.mark.parametrize("margin", [AttackDistance(), SampledMargin(0.5)], ids=repr)
def test_logits_that_are_not_finite_further_off_are_refused(margin):
    net, (x, y) = (
        by_pixel(lambda p: torch.where(p[:, 0] == 0.5, 1 + p[:, 0], math.nan)),
        pixels([[0.5]]),
    )
    with pytest.raises(InputError, match="finite logits"):
        margin(net, x, y)


@pytest.mark.parametrize("margin", MARGINS, ids=repr)
@pytest.mark.parametrize(
    ("change_x", "change_y", "message"),
    [
        (lambda x: x * 255, lambda y: y, "images in"),
        (lambda x: x * math.nan, lambda y: y, "images in"),
        (lambda x: x, lambda y: y + 1, "labels below 3"),
        (lambda x: x[:0], lambda y: y[:0], "at least one image"),
        (lambda x: -x, lambda y: y - 1, "images in.*\n.*labels from 0"),
    ],
)
def test_a_margin_refuses_bad_examples(margin, change_x, change_y, message):
    x, y = examples(3)
    with pytest.raises(InputError, match=message):
        margin(linear(3), change_x(x), change_y(y))


def test_margins_refuse_a_single_class():
    x, _ = examples(1)
    for margin in MARGINS:
        with pytest.raises(InputError, match="at least 2 classes"):
            margin(linear(1), x, torch.zeros(len(x), dtype=torch.long))


def test_margins_refuse_all_bad_fields_at_once(unchecked):
    for count, make in [
        (2, lambda: InputMargin(norm="l1", classes=0)),
        (4, lambda: SampledMargin(radius=0.0, samples=0, norm="l1", classes=0)),
        (4, lambda: AttackDistance(norm="l1", steps=0, rounds=0, largest=-1.0)),
        (1, lambda: SampledMargin(radius=8.0)),
        (1, lambda: AttackDistance(largest=8.0)),
        (1, lambda: SampledMargin(radius=math.inf, norm="l2")),
    ]:
        with pytest.raises(InputError) as caught:
            make()
        assert len(caught.value.problems) == count
    assert AttackDistance("l2", largest=8.0).largest == 8.0
