"""The attack distance against exact distances: of linear models, of nets cut by hand, of a grid."""

import itertools
import math

import pytest
import torch
from known_margins import NORMS, PIXELS, by_pixel, examples, linear, linear_margin, pixels
from torch import Tensor, nn

from robsearch.measures.distances import AttackDistance
from robsearch.measures.margins import InputMargin


@pytest.mark.parametrize("norm", NORMS)
def test_the_attack_distance_is_at_least_the_linear_margin_and_within_six_percent(norm):
    model, (x, _) = linear(4), examples(4, n=40)
    y = model(x).argmax(1)
    exact = linear_margin(model, x, y, norm)
    assert exact.max() < 0.4  # so the box is never in the way
    torch.manual_seed(0)
    found = AttackDistance(norm)(model, x, y)
    assert (found >= exact * (1 - 1e-9)).all()
    assert (found <= exact * 1.06).all()
    assert (found / exact).mean() < 1.02


@pytest.mark.parametrize("norm", NORMS)
def test_each_example_of_a_batch_has_its_own_radius(norm):
    """Class 1 below 0.1: one batch with distances from 0.0001 to 0.4."""
    exact = torch.tensor([1e-4, 1e-3, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4]).double()
    net, (x, y) = by_pixel(lambda p: p[:, 0] - 0.1), pixels([[0.1 + d] for d in exact.tolist()])
    torch.manual_seed(0)
    ratio = AttackDistance(norm, rounds=12)(net, x, y) / exact
    assert ratio.min() >= 1 - 1e-9
    assert ratio.max() <= 1.01


@pytest.mark.parametrize("start", [0.4, 0.5, 0.55, 0.6, 0.75])
def test_on_a_line_it_is_the_distance_to_the_nearer_end(start):
    """Class 0 is kept between 0.35 and 0.8: ``f_0 - f_1`` is the distance to the nearer end."""
    net, (x, y) = (
        by_pixel(lambda p: torch.minimum(0.8 - p[:, 0], p[:, 0] - 0.35)),
        pixels([[start]]),
    )
    exact = min(0.8 - start, start - 0.35)
    assert exact <= AttackDistance(rounds=12)(net, x, y).item() <= 1.01 * exact


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", [0, 1, 4])
def test_in_the_plane_it_is_never_below_the_distance_that_a_grid_tells(norm, seed):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 12), nn.ReLU(), nn.Linear(12, 3)).double()
    net[1].weight.data *= 4
    axis = torch.linspace(0, 1, 201, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    classes = net(grid[:, None, None, :]).argmax(1)
    x = torch.rand(24, 1, 1, 2, dtype=torch.float64)
    y = net(x).argmax(1)
    apart = torch.cdist(x.flatten(1), grid, p=math.inf if norm == "linf" else 2)
    nearest = apart.masked_fill(classes == y[:, None], math.inf).amin(1)
    found = AttackDistance(norm)(net, x, y)
    reached = nearest.isfinite()
    assert reached.sum() >= 20
    # A grid's cell may hide the boundary's last bit.
    assert (found >= nearest - 0.005 * 2**0.5)[reached].all()
    assert (found / nearest)[reached].median() < 1.03


def test_the_box_keeps_the_distance_longer():
    """Class 1 from x1 + x2 = 1.8 on: from (0.9, 0.5) it takes 0.2 in both, but x1 ends at 1, so x2
    must rise 0.3."""
    net, (x, y) = by_pixel(lambda p: 1.8 - p.sum(1)), pixels([[0.9, 0.5]])
    assert InputMargin()(net, x, y).item() == pytest.approx(0.2)
    assert 0.3 <= AttackDistance(rounds=12)(net, x, y).item() <= 1.01 * 0.3


@pytest.mark.parametrize("norm", NORMS)
def test_wrong_already_is_no_distance(norm):
    model, (x, y) = linear(4), examples(4, n=12)
    wrong = model(x).argmax(1) != y
    found = AttackDistance(norm)(model, x, y)
    assert torch.equal(found == 0, wrong)
    assert 0 < wrong.sum() < 12


@pytest.mark.parametrize(("norm", "diameter"), [("linf", 1.0), ("l2", 2**0.5)])
def test_where_nothing_is_found_it_is_the_boxs_diameter(norm, diameter):
    x, y = pixels([[0.5, 0.5], [0.1, 0.2]])
    assert (
        AttackDistance(norm)(by_pixel(lambda p: 1 + 0 * p[:, 0]), x, y).tolist() == [diameter] * 2
    )
    near = by_pixel(lambda p: 0.7 - p[:, 0])
    assert AttackDistance(norm, largest=0.3)(near, x, y).tolist() == pytest.approx(
        [0.2, diameter], rel=0.05
    )


def test_an_adversarial_example_on_the_way_counts_though_the_climb_goes_on_past_it():
    """Class 1 from 0.7 to 0.8 alone, and the way up leads right: 0.5, 0.75, then 0.9, the ball's
    end."""
    net, (x, y) = (
        by_pixel(lambda p: torch.where(p[:, 0] < 0.8, 0.7, 1.8) - p[:, 0]),
        pixels([[0.5]]),
    )
    assert AttackDistance(steps=4, rounds=1, largest=0.4)(net, x, y).item() == pytest.approx(0.25)


def test_a_start_without_gradient_is_tried_again_at_random():
    """Flat to 0.1 on both sides, then down by 10: class 1 from distance 0.2 on."""
    net, (x, y) = (
        by_pixel(lambda p: 1 - 10 * ((p[:, 0] - 0.5).abs() - 0.1).clamp_min(0)),
        pixels([[0.5]] * 16),
    )
    torch.manual_seed(0)
    assert AttackDistance(rounds=1)(net, x, y).tolist() == [1.0] * 16
    found = AttackDistance(rounds=12)(net, x, y)
    assert (found >= 0.2).all()
    assert (found <= 0.22).all()


@pytest.mark.parametrize("norm", NORMS)
def test_more_rounds_never_raise_it(norm):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 16), nn.ReLU(), nn.Linear(16, 4)).double()
    x = examples(4, n=20)[0]
    y = net(x).argmax(1)
    bounds = []
    for rounds in (1, 2, 3, 5, 8, 12):
        torch.manual_seed(0)
        bounds.append(AttackDistance(norm, rounds=rounds)(net, x, y))
    for fewer, more in itertools.pairwise(bounds):
        assert (more <= fewer).all()
    assert bounds[-1].mean() < bounds[2].mean() < bounds[0].mean()


@pytest.mark.parametrize("norm", NORMS)
def test_each_distance_is_that_of_a_point_it_saw_in_the_box_with_another_prediction(norm):
    model, (x, y) = linear(3), examples(3)
    x[0], x[1] = 0.0, 1.0
    seen: list[tuple[Tensor, Tensor]] = []
    model.register_forward_hook(
        lambda _, args, logits: seen.append((args[0].detach(), logits.argmax(1)))
    )
    found = AttackDistance(norm, steps=4, rounds=3, largest=0.3)(model, x, y)
    points, predicted = (torch.stack(part) for part in zip(*seen, strict=True))
    assert len(points) == 3 * 5
    assert ((points >= 0) & (points <= 1)).all()
    away = (points - x).flatten(2).norm(p=math.inf if norm == "linf" else 2, dim=2)
    assert away.max() <= 0.3 * (1 + 1e-12)
    nearest = away.masked_fill(predicted == y, math.inf).amin(0)
    torch.testing.assert_close(
        found, nearest.where(nearest.isfinite(), torch.tensor(PIXELS**0.5 if norm == "l2" else 1.0))
    )
