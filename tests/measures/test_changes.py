"""Bounds on how far entries move, operation by operation, against dense matrices and slopes."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robsearch.errors import InputError
from robsearch.measures import changes

SHAPE = (2, 8, 8)


def image() -> Tensor:
    return torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_slope_of_silu_is_rounded_up():
    z = torch.linspace(2.3, 2.5, 200_001, dtype=torch.float64).requires_grad_()
    (slopes,) = torch.autograd.grad(F.silu(z).sum(), z)
    assert slopes.max() <= changes.SLOPES["silu"] <= slopes.max() + 1e-7


@pytest.mark.parametrize("name", sorted({*changes.SLOPES} - {"relu_"}))
def test_no_activation_is_steeper_than_its_slope(name):
    z = torch.linspace(-8, 8, 10_001, dtype=torch.float64)
    values = getattr(F, name)(z)
    steepest = ((values[1:] - values[:-1]) / (z[1:] - z[:-1])).max().item()
    assert 0.999 * changes.SLOPES[name] < steepest <= changes.SLOPES[name] * (1 + 1e-9)


class Function(nn.Module):
    """A function of the images as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


KERNEL = torch.linspace(-1, 1, 36, dtype=torch.float64).view(2, 2, 3, 3)
SHIFT = torch.tensor([1.0, -2.0], dtype=torch.float64).view(1, 2, 1, 1)
AFFINE = {
    "subtract": lambda x: x - SHIFT,
    "subtract from": lambda x: 1 - x,
    "constant first": lambda x: SHIFT - x,
    "scale": lambda x: SHIFT * x,
    "scale back": lambda x: x * -3,
    "divide": lambda x: x / SHIFT,
    "twice": lambda x: x + x.clone(),
    "once and a half": lambda x: torch.add(x, x.contiguous(), alpha=0.5),
    "in place": lambda x: (x * 1).add_(x),
    "negative": lambda x: -x,
    "reshape": lambda x: x.reshape(len(x), -1).view(x.shape[0], 2, 8, 8),
    "average pool": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "adaptive pool": nn.AdaptiveAvgPool2d(2),
    "flat": nn.Flatten(),
    "drop": nn.Dropout().eval(),
    "strided": lambda x: F.conv2d(x, KERNEL, torch.ones(2).double(), stride=2, padding=1),
    "circular": nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular").double(),
    "padded": lambda x: F.pad(x, (1, 1, 1, 1), value=-5.0),
    "broadcast": lambda x: x + torch.ones(2, 1, 1, 1, 1, dtype=torch.float64),
    "batch norm": nn.BatchNorm2d(2, affine=False).double().eval(),
}


@pytest.mark.parametrize("name", AFFINE)
def test_an_affine_operation_gives_the_absolute_row_sums_of_its_matrix(name):
    x = torch.zeros(1, *SHAPE, dtype=torch.float64)
    matrix = torch.autograd.functional.jacobian(AFFINE[name], x).detach().abs()
    for kind in (changes.Change, changes.AffineChange):
        with torch.no_grad():
            found = changes.propagated(Function(AFFINE[name]), torch.ones_like(x), kind)
        torch.testing.assert_close(found, matrix.sum(dim=(-4, -3, -2, -1)))
        assert type(found) is Tensor


def test_a_change_is_passed_on_entry_by_entry():
    """For ``size`` instead of ones: ``|W| size``, by the gradient of the output in the input."""
    x = image()
    matrix = torch.autograd.functional.jacobian(AFFINE["strided"], x).abs()
    found = changes.propagated(Function(AFFINE["strided"]), x)
    torch.testing.assert_close(found.detach(), (matrix * x).sum(dim=(-4, -3, -2, -1)))


def test_padding_by_reflection_is_bounded_though_both_images_of_a_pixel_may_cancel():
    layer, x = nn.Conv2d(2, 4, 3, padding=2, padding_mode="reflect").double(), image()
    rows = torch.autograd.functional.jacobian(layer, x).abs().sum(dim=(-4, -3, -2, -1))
    found = changes.propagated(layer, torch.ones_like(x)).detach()
    assert (found >= rows - 1e-9).all()
    assert (found > rows + 1e-3).any()


def test_in_place_activations_change_what_else_looks_at_the_tensor():
    def twice(x: Tensor) -> Tensor:
        y = x * 1
        F.silu(y, inplace=True)
        return y + y

    size = torch.ones(1, 1, 1, 1)
    assert changes.propagated(Function(twice), size).item() == pytest.approx(2 * 1.0998394)
    assert size.item() == 1.0


def test_max_pooling_takes_the_largest_change():
    size = torch.tensor([[[[1.0, 2.0], [0.0, 3.0]]]])
    assert changes.propagated(nn.MaxPool2d(2), size).item() == 3.0


def test_what_does_not_look_at_the_image_does_not_move():
    constant = Function(lambda x: torch.zeros(len(x), 3))
    assert changes.propagated(constant, torch.ones(1, *SHAPE)).tolist() == [[0.0] * 3]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (nn.GELU(), "got gelu"),
        (lambda x: x * x, "got mul"),
        (lambda x: 1 / x.clamp_min(0.5), "got clamp_min"),
        (lambda x: 1 / (x + 1), "got __rdiv__"),
        (lambda x: x / (x + 1), "got div"),
        (lambda x: x * (x > 0), "got gt"),
        (lambda x: torch.cat([x, x]), "got cat"),
        (lambda x: x.mT, "got __get__"),
        (lambda x: F.dropout(x, 0.5), "dropout that is always on"),
        (
            nn.BatchNorm2d(2, track_running_stats=False).double(),
            "batch norms with running statistics",
        ),
    ],
)
def test_what_has_no_known_bound_is_refused_by_name(wrong, named):
    with pytest.raises(InputError, match=named):
        changes.propagated(Function(wrong).eval(), torch.ones(1, *SHAPE))


def test_activations_are_not_affine():
    for activation in (nn.ReLU(), nn.SiLU(), nn.MaxPool2d(2)):
        with pytest.raises(InputError, match="affine modules"):
            changes.propagated(activation, torch.ones(1, *SHAPE), changes.AffineChange)
