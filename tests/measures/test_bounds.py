"""Bounds from both sides of exact Lipschitz constants: lower bound <= truth <= upper bound."""

import itertools
import math

import pytest
import torch
from relu_regions import local_constant
from torch import Tensor, nn

from robsearch.errors import InputError
from robsearch.measures.bounds import GlobalBound
from robsearch.measures.interval import IntervalBound
from robsearch.measures.kl_gradient import KLGradient
from robsearch.measures.lipschitz import AttackRatio, LogitRatio
from robsearch.network import operators
from robsearch.parts.attacks import PGD
from robsearch.parts.models import MLP, PreActResNet, SmallCNN, WideResNet
from robsearch.protocols import ImageSpec
from robsearch.testing import check_layer_measure

IMAGES = ImageSpec((2, 8, 8), 3, (0.4, 0.5), (0.2, 0.3))
MODELS = [
    MLP(6),
    SmallCNN(0.25),
    WideResNet(10, 0.25),
    WideResNet(10, 0.25, "silu"),
    PreActResNet(18, 0.03),
]


def built(spec: object, seed: int = 0) -> nn.Module:
    """A network in double precision whose batch norms are not the identity."""
    torch.manual_seed(seed)
    model = spec.build(IMAGES).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model


def examples(n: int = 3, shape: tuple[int, ...] = IMAGES.shape) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, *shape, generator=generator, dtype=torch.float64), torch.arange(n) % 3


def bound(model: nn.Module, by: str = "entry", shape: tuple[int, ...] = IMAGES.shape) -> float:
    found = GlobalBound(by).by_layer(model, *examples(3, shape))
    assert list(found) == ["", "log10"]
    assert found[""].shape == (1,)
    return found[""].item()


def small_relu_net(*sizes: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    for into, out in itertools.pairwise(sizes):
        layers += [nn.Linear(into, out), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).double()


# --- the whole chain ---


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sizes", [(2, 8, 4), (3, 8, 4), (2, 6, 6, 3), (3, 5, 5, 5, 3)], ids=repr)
def test_lower_bounds_truth_upper_bounds(sizes, seed):
    model = small_relu_net(*sizes, seed=seed)
    (x, y), eps = examples(1, (1, 1, sizes[0])), 0.3
    truth = local_constant(model, (x - eps).clamp(0, 1), (x + eps).clamp(0, 1))
    attack = PGD(eps=eps, step_size=eps / 4, steps=10)
    lower = [
        m(model, x, y).item()
        for m in (LogitRatio(eps, starts=8), AttackRatio(attack), KLGradient(eps))
    ]
    upper = [
        IntervalBound(eps)(model, x, y).item(),
        *(bound(model, by, x.shape[1:]) for by in ("entry", "layer")),
    ]
    chain = [max(lower), truth, *upper]
    print(sizes, seed, *(f"{value:.3f}" for value in [*lower, truth, *upper]))
    assert all(a <= b * (1 + 1e-9) for a, b in itertools.pairwise(chain))
    assert 0.3 * truth < lower[0]
    assert upper[0] < 4 * truth


def test_the_exact_constant_sees_every_region():
    """|x1 - 1/2| + |x2 - 1/2|, and the first alone where x2 is pinned."""
    first = nn.Linear(2, 4).double()
    first.weight.data = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]], dtype=torch.float64)
    first.bias.data = -0.5 * first.weight.data.sum(1)
    last = nn.Linear(4, 1).double()
    last.weight.data = torch.tensor([[1.0, 3.0, 1.0, 1.0]], dtype=torch.float64)
    model = nn.Sequential(nn.Flatten(), first, nn.ReLU(), last)

    def constant(low: list[float], high: list[float]) -> float:
        return local_constant(model, torch.tensor([low]).double(), torch.tensor([high]).double())

    assert constant([0.0, 0.0], [1.0, 1.0]) == pytest.approx(4.0)
    assert constant([0.6, 0.0], [1.0, 1.0]) == pytest.approx(2.0)


# --- the global bound ---


def test_on_an_mlp_the_bound_is_the_sum_over_all_paths():
    model = built(MLP(4, depth=2))
    weights = [layer.weight.detach().abs() for layer in model if isinstance(layer, nn.Linear)]
    std = torch.tensor(IMAGES.std, dtype=torch.float64).repeat_interleave(64)
    assert bound(model) == pytest.approx((weights[2] @ weights[1] @ weights[0] / std).sum().item())


def test_by_layer_it_is_the_product_of_exact_norms_and_the_number_of_logits():
    model = built(SmallCNN(0.25))
    shapes = [(2, 8, 8), (4, 4, 4), (32,), (16,)]
    affine = [layer for layer in model if isinstance(layer, nn.Conv2d | nn.Linear)]
    norms = [
        operators.norm(layer, shape, "linf").item()
        for layer, shape in zip(affine, shapes, strict=True)
    ]
    assert bound(model, "layer") == pytest.approx(3 * math.prod(norms) / min(IMAGES.std))


@pytest.mark.parametrize(("activation", "slope"), [("relu", 1.0), ("silu", 1.0998394)])
def test_by_layer_a_residual_block_adds_its_branches_and_folds_its_batch_norm(activation, slope):
    model = built(WideResNet(10, 0.25, activation), seed=3)

    def norm(layer: nn.Module, size: int = 8) -> float:
        return operators.norm(layer, (layer.in_channels, size, size), "linf").item()

    def scale(layer: nn.BatchNorm2d) -> float:
        return (layer.weight.abs() / (layer.running_var + layer.eps).sqrt()).max().item()

    total, size = norm(model.stem) / min(IMAGES.std), 8
    for i, (block,) in enumerate(model.stages):
        inner = total * scale(block.bn1) * slope
        if i == 0:  # the stem feeds a batch norm directly, and the first block's shortcut
            inner = norm(operators.fold(model.stem, block.bn1)) / min(IMAGES.std) * slope
        folded = norm(operators.fold(block.conv1, block.bn2), size)
        size //= block.conv1.stride[0]
        branch = inner * folded * slope * norm(block.conv2, size)
        shortcut = (
            total
            if block.shortcut is None
            else inner * norm(block.shortcut, size * block.conv1.stride[0])
        )
        total = branch + shortcut
    last = model.linear.weight.abs().sum(1).max().item()
    assert bound(model, "layer") == pytest.approx(3 * last * total * scale(model.bn) * slope)


class Residual(nn.Module):
    """``x + conv(x)``, averaged over the image."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.conv(x)).mean((2, 3))


def test_a_product_of_layer_norms_is_no_bound_for_a_residual_net():
    """The branch is the identity: the truth is 2 for each of 3 logits, the product of the norms is
    1 for each."""
    conv, shape = nn.Conv2d(3, 3, 1, bias=False).double(), (3, 4, 4)
    conv.weight.data = torch.eye(3, dtype=torch.float64).view(3, 3, 1, 1)
    model, x = Residual(conv), torch.zeros(1, *shape, dtype=torch.float64)
    truth = (model(x + 1) - model(x)).abs().sum().item()
    product = 3 * operators.norm(conv, shape, "linf").item()
    assert truth == pytest.approx(6.0)
    assert product == pytest.approx(3.0)
    assert bound(model, shape=shape) == bound(model, "layer", shape) == pytest.approx(truth)


@pytest.mark.parametrize("spec", MODELS, ids=repr)
def test_every_model_has_a_bound_above_what_is_found_from_below(spec):
    model, (x, y) = built(spec), examples(3)
    found = LogitRatio(eps=1.0)(model, x, y).max().item()
    entry, layer = bound(model), bound(model, "layer")
    assert 0 < found <= entry <= layer * (1 + 1e-9)


@pytest.mark.parametrize("depth", [1, 2])
def test_it_is_exact_for_weights_of_one_sign(depth):
    model = built(MLP(5, depth))
    for parameter in model.parameters():
        parameter.data.abs_()
    x = torch.zeros(1, *IMAGES.shape, dtype=torch.float64)
    model[0].mean.zero_()
    assert bound(model) == pytest.approx((model(x + 1) - model(x)).sum().item())


def test_a_constant_network_has_bound_zero():
    model = built(MLP(4))
    nn.init.zeros_(model[-1].weight)
    assert bound(model) == bound(model, "layer") == 0.0


def test_deep_networks_do_not_overflow():
    model, x = (
        WideResNet(34, 1).build(ImageSpec((3, 32, 32), 10, (0.5,) * 3, (0.2,) * 3)),
        torch.rand(1, 3, 32, 32),
    )
    found = GlobalBound().by_layer(model, x, torch.tensor([0]))[""]
    assert found.dtype == torch.float64
    assert 1e6 < found.item() < math.inf


def test_the_bound_sees_the_model_in_eval_mode_and_leaves_it_as_it_was():
    check_layer_measure(GlobalBound())
    check_layer_measure(GlobalBound("layer"))
    model = built(WideResNet(10, 0.25)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    bound(model)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_the_bound_refuses_bad_examples_and_fields(unchecked):
    x, y = examples()
    with pytest.raises(InputError, match="images in"):
        GlobalBound().by_layer(built(MLP(4)), x * 255, y)
    with pytest.raises(InputError, match="by 'entry' or 'layer'"):
        GlobalBound("row")


def test_names_and_kinds():
    found = [
        (m.name, m.about.kind, m.about.norm)
        for m in (GlobalBound(), GlobalBound("layer"), IntervalBound(0.1))
    ]
    assert found == [
        ("lipschitz/global_bound", "upper bound", "linf to l1"),
        ("lipschitz/global_bound_by_layer", "upper bound", "linf to l1"),
        ("lipschitz/interval_bound", "upper bound", "linf to l1"),
    ]


@pytest.mark.parametrize("by", ["entry", "layer"])
def test_a_bound_beyond_all_floats_is_infinite_and_its_logarithm_is_not(by):
    layers = [nn.Linear(2, 2, bias=False) for _ in range(40)]
    for layer in layers:
        layer.weight.data = torch.tensor([[1e10, 0.0], [0.0, 1e10]])
    model = nn.Sequential(nn.Flatten(), *layers, nn.Linear(2, 2, bias=False))
    model[-1].weight.data.fill_(1.0)
    x, y = torch.zeros(1, 1, 1, 2), torch.tensor([0])
    found = GlobalBound(by).by_layer(model, x, y)
    assert found[""].item() == math.inf
    assert found["log10"].item() == pytest.approx(400 + math.log10(4))
    for layer in layers[:20]:
        layer.weight.data /= 1e10
    found = GlobalBound(by).by_layer(model, x, y)
    assert found[""].item() == pytest.approx(4e200)
    assert found["log10"].item() == pytest.approx(200 + math.log10(4))


def test_a_sum_of_branches_of_other_magnitudes_is_bounded_by_both_together():
    class Branches(nn.Module):
        def forward(self, x):
            x = x.flatten(1)
            return x + x * 1e20 * 1e20 + x * 1e15 * 1e16

    found = GlobalBound().by_layer(Branches(), torch.zeros(1, 1, 1, 2), torch.tensor([0]))
    assert found[""].item() == pytest.approx(2 * (1 + 1e40 + 1e31))
