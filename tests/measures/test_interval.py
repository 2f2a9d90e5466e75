"""The interval bound: exact where no ReLU changes, above every Jacobian of its box elsewhere."""

import itertools
import math

import pytest
import torch
from relu_regions import linf_to_l1
from torch import Tensor, nn

from robsearch.data import Digits, load
from robsearch.errors import InputError
from robsearch.measures import interval
from robsearch.measures.bounds import GlobalBound
from robsearch.measures.interval import IntervalBound
from robsearch.measures.lipschitz import LogitRatio
from robsearch.parts.models import MLP, SmallCNN, WideResNet
from robsearch.protocols import ImageSpec

IMAGES = ImageSpec((2, 8, 8), 3, (0.4, 0.5), (0.2, 0.3))
MODELS = {
    "mlp": lambda: MLP(5).build(IMAGES),
    "cnn": lambda: SmallCNN(0.25).build(IMAGES),
    "nested, normalised, pooled": lambda: nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)),
        nn.Sequential(nn.AvgPool2d(2), nn.ReLU(), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(36, 3),
        nn.ReLU(),
    ),
}


@pytest.fixture(params=MODELS)
def model(request) -> nn.Module:
    torch.manual_seed(0)
    built = MODELS[request.param]().double()
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return built.eval()


def examples(n: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, *IMAGES.shape, generator=generator, dtype=torch.float64), torch.arange(
        n
    ) % 3


def jacobian(model: nn.Module, x: Tensor) -> Tensor:
    return torch.autograd.functional.jacobian(lambda z: model(z[None])[0], x).flatten(1)


def one_pixel(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), *layers).double()


def linear(weight: list[list[float]], bias: list[float]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight))
    layer.weight.data, layer.bias.data = torch.tensor(weight), torch.tensor(bias)
    return layer


def at(model: nn.Module, x: float, eps: float) -> float:
    image = torch.full((1, 1, 1, 1), x, dtype=torch.float64)
    return IntervalBound(eps)(model, image, torch.zeros(1, dtype=torch.long)).item()


# --- by hand ---


@pytest.mark.parametrize("classes", [1, 4, 10])
def test_of_a_linear_map_it_is_the_exact_norm(classes):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(128, classes)).double()
    found = IntervalBound(0.3)(model, examples()[0], torch.zeros(3, dtype=torch.long))
    torch.testing.assert_close(
        found, torch.full((3,), linf_to_l1(model[1].weight.detach()), dtype=torch.float64)
    )


def test_above_12_logits_it_is_the_sum_of_all_entries():
    model = nn.Sequential(nn.Flatten(), nn.Linear(128, 13)).double()
    found = IntervalBound(0.3)(model, *examples())
    torch.testing.assert_close(found, model[1].weight.detach().abs().sum().expand(3))


def test_a_relu_that_may_change_has_any_slope_up_to_one():
    """``3 relu(x - 1/2) - 5 relu(1/2 - x)``: slope 3 above, 5 below, and anything from 0 to 8 on
    the kink."""
    model = one_pixel(linear([[1.0], [-1.0]], [-0.5, 0.5]), nn.ReLU(), linear([[3.0, -5.0]], [0.0]))
    assert [at(model, x, 0.1) for x in (0.7, 0.3, 0.5)] == pytest.approx([3.0, 5.0, 8.0])


def test_slopes_keep_their_signs_apart():
    """``|x - 1/2|``: the slope lies in [0, 1] + [-1, 0] = [-1, 1], and not up to 2."""
    model = one_pixel(linear([[1.0], [-1.0]], [-0.5, 0.5]), nn.ReLU(), linear([[1.0, 1.0]], [0.0]))
    assert at(model, 0.5, 0.1) == pytest.approx(1.0)


def test_only_what_is_an_image_counts():
    """``relu(-x - 0.1)`` is 0 on [0, 1], though not on all that is within 0.3 of 0.05;
    ``relu(x - 1.1)`` too."""
    assert at(one_pixel(linear([[-1.0]], [-0.1]), nn.ReLU()), 0.05, 0.3) == 0.0
    assert at(one_pixel(linear([[1.0]], [-1.1]), nn.ReLU()), 0.95, 0.3) == 0.0


def test_what_two_layers_cancel_is_seen():
    """``relu(relu(x) - relu(x) + 0.1)`` is constant; plain intervals give [-0.1, 0.3] and a slope
    up to 1."""
    first, second = linear([[1.0], [1.0]], [0.0, 0.0]), linear([[1.0, -1.0]], [0.1])
    assert at(one_pixel(first, nn.ReLU(), second, nn.ReLU()), 0.5, 0.1) == pytest.approx(
        0.0, abs=1e-12
    )


def test_what_an_open_relu_may_let_through_is_seen():
    """``relu(relu(x - 0.5) - 0.06)`` has slope 1 from 0.56 on, though at the centre, 0.5, it lies
    0.06 below that."""
    assert (
        at(
            one_pixel(linear([[1.0]], [-0.5]), nn.ReLU(), linear([[1.0]], [-0.06]), nn.ReLU()),
            0.5,
            0.1,
        )
        == 1.0
    )


@pytest.mark.parametrize("classes", [12, 13])
def test_slopes_add_up_over_the_logits(classes):
    model = one_pixel(
        linear([[1.0]], [-0.5]), nn.ReLU(), linear([[1.0]] * classes, [0.0] * classes)
    )
    assert at(model, 0.5, 0.1) == pytest.approx(classes)


# --- against Jacobians ---


def test_where_no_relu_changes_it_is_the_norm_of_the_jacobian(model):
    x, y = examples()
    exact = [linf_to_l1(jacobian(model, image)) for image in x]
    torch.testing.assert_close(IntervalBound(1e-9)(model, x, y), torch.tensor(exact, dtype=x.dtype))


@pytest.mark.parametrize("eps", [0.01, 0.1, 1.0])
def test_no_jacobian_in_the_box_is_above_it(model, eps):
    x, y = examples()
    bound = IntervalBound(eps)(model, x, y)
    for _ in range(10):
        near = (x + eps * (2 * torch.rand_like(x) - 1).sign() * torch.rand(1)).clamp(0, 1)
        assert all(
            linf_to_l1(jacobian(model, z)) <= b * (1 + 1e-9)
            for z, b in zip(near, bound, strict=True)
        )
    assert (LogitRatio(eps)(model, x, y) <= bound * (1 + 1e-9)).all()
    assert (bound <= GlobalBound().by_layer(model, x, y)[""] * (1 + 1e-9)).all()


def test_it_grows_with_eps(model):
    bounds = [IntervalBound(eps)(model, *examples()) for eps in (0.001, 0.01, 0.1, 1.0)]
    assert all((small <= large * (1 + 1e-9)).all() for small, large in itertools.pairwise(bounds))
    assert (bounds[0] < bounds[-1]).all()


def test_on_trained_networks_it_lies_between_the_ratio_and_the_global_bound():
    """Single precision; a network of 64-16-16-10 after 300 steps of Adam."""
    splits = load(Digits())
    train, test = (
        (split.images.float() / 255, split.labels.long())
        for split in (splits["train"], splits["test"])
    )
    torch.manual_seed(0)
    model = MLP(16).build(Digits().spec)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(300):
        chosen = torch.randint(len(train[0]), (128,))
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(train[0][chosen]), train[1][chosen]).backward()
        optimiser.step()
    x, y = (part[:50] for part in test)
    everywhere = GlobalBound().by_layer(model, x, y)[""].item()
    for eps, most in ((0.01, 2.5), (0.15, 12.0)):
        lower, upper = LogitRatio(eps)(model, x, y), IntervalBound(eps)(model, x, y)
        print(
            eps, lower.mean().item(), upper.mean().item(), everywhere, (upper / lower).mean().item()
        )
        assert (lower <= upper * (1 + 1e-5)).all()
        assert upper.max() <= everywhere * (1 + 1e-5)
        assert (upper / lower).mean() < most


# --- as a measure ---


def test_examples_in_parts_are_the_same_examples(model, monkeypatch):
    x, y = examples(7)
    whole = IntervalBound(0.1)(model, x, y)
    sizes = []
    monkeypatch.setattr(
        interval,
        "_slopes",
        lambda *args, true=interval._slopes: sizes.append(len(args[1])) or true(*args),
    )
    for entries in (1, 3 * interval._entries(list(interval._pieces(model)), x[:1])):
        monkeypatch.setattr(interval, "ENTRIES", entries)
        torch.testing.assert_close(IntervalBound(0.1)(model, x, y), whole)
    assert sizes == [1] * 7 + [3, 3, 1]


def test_the_model_is_in_eval_mode_and_left_as_it_was(model):
    x, y = examples()
    expected = IntervalBound(0.1)(model, x, y)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        found = IntervalBound(0.1)(model, x, y)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad
    assert not x.requires_grad
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("wrong", "named"),
    [(nn.SiLU(), "got silu"), (nn.MaxPool2d(2), "got max_pool2d"), (nn.Tanh(), "got tanh")],
)
def test_what_is_neither_affine_nor_relu_is_refused(wrong, named):
    model = nn.Sequential(nn.Conv2d(2, 2, 1), wrong, nn.Flatten(), nn.LazyLinear(3)).double()
    model(examples()[0])
    with pytest.raises(InputError, match=named):
        IntervalBound(0.1)(model, *examples())


def test_a_network_that_is_no_sequence_is_refused():
    with pytest.raises(InputError, match=r"nn.Sequential of affine modules and nn.ReLU, got relu"):
        IntervalBound(0.1)(WideResNet(10, 0.25).build(IMAGES).double(), *examples())


def test_bad_examples_and_fields_are_refused(unchecked):
    x, y = examples()
    model = MODELS["mlp"]().double()
    with pytest.raises(InputError, match="images in"):
        IntervalBound(0.1)(model, x * 255, y)
    model[-1].bias.data.fill_(math.nan)
    with pytest.raises(InputError, match="finite logits"):
        IntervalBound(0.1)(model, x, y)
    for eps in (0.0, 8.0):
        with pytest.raises(InputError, match=r"eps in \(0, 1\]"):
            IntervalBound(eps)
