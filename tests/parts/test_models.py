"""The networks have the sizes one computes by hand, at every width, and normalise inside."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import Optimizer
from torch.utils.flop_counter import FlopCounterMode

from robsearch.data import Digits
from robsearch.errors import InputError
from robsearch.measures import IntervalBound
from robsearch.parts.models import MLP, Normalize, PreActResNet, SmallCNN, WideResNet
from robsearch.parts.optimisers import SGD, Adam, AdamW
from robsearch.parts.penalties import NormDecay
from robsearch.protocols import ImageSpec, Model
from robsearch.recipe import Recipe

DIGITS = ImageSpec((1, 8, 8), 10, (0.3,), (0.4,))
FASHION = ImageSpec((1, 28, 28), 10, (0.286,), (0.353,))
CIFAR = ImageSpec((3, 32, 32), 10, (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))
ODD = ImageSpec((3, 9, 11), 7, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))

MODELS = (
    MLP(width=16),
    MLP(width=0.25, depth=1),
    SmallCNN(width=1),
    SmallCNN(width=0.01),
    PreActResNet(width=0.125),
    PreActResNet(depth=34, width=0.01),
    WideResNet(depth=10, width=1),
    WideResNet(depth=16, width=0.25, activation="silu"),
    WideResNet(depth=10, width=0.01),
)


def built(model: Model, images: ImageSpec, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return model.build(images).eval()


def batch(images: ImageSpec, n: int = 3) -> torch.Tensor:
    return torch.rand(n, *images.shape, generator=torch.Generator().manual_seed(1))


def parameters(model: Model, images: ImageSpec) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in model.build(images).parameters())


@pytest.mark.parametrize(
    "images", [DIGITS, FASHION, CIFAR, ODD], ids=lambda spec: "x".join(map(str, spec.shape))
)
@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_images_become_finite_logits_and_gradients(model: Model, images: ImageSpec) -> None:
    assert isinstance(model, Model)
    x = batch(images).requires_grad_()
    logits = built(model, images).train()(x)
    assert logits.shape == (3, images.num_classes)
    assert bool(logits.isfinite().all())
    (gradient,) = torch.autograd.grad(logits.square().sum(), x)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_the_same_seed_builds_the_same_network_from_a_pickled_description(model: Model) -> None:
    x = batch(DIGITS)
    copied = pickle.loads(pickle.dumps(model))
    assert copied == model
    assert torch.equal(built(model, DIGITS)(x), built(copied, DIGITS)(x))
    assert not torch.equal(built(model, DIGITS)(x), built(model, DIGITS, seed=1)(x))


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_normalisation_is_inside(model: Model) -> None:
    plain = CIFAR._replace(mean=(0.0,) * 3, std=(1.0,) * 3)
    x = batch(CIFAR)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (CIFAR.mean, CIFAR.std))
    torch.testing.assert_close(built(model, CIFAR)(x), built(model, plain)((x - mean) / std))
    network = built(model, CIFAR)
    assert isinstance(next(m for m in network.modules() if not list(m.children())), Normalize)
    assert [b.flatten().tolist() for name, b in network.named_buffers() if "bn" not in name] == [
        pytest.approx(CIFAR.mean),
        pytest.approx(CIFAR.std),
    ]


@pytest.mark.parametrize(
    ("model", "images", "count"),
    [
        (MLP(16), DIGITS, (64 * 16 + 16) + (16 * 16 + 16) + (16 * 10 + 10)),
        (MLP(256, depth=1), FASHION, (784 * 256 + 256) + (256 * 10 + 10)),
        (
            SmallCNN(1),
            DIGITS,
            (9 * 16 + 16) + (9 * 16 * 32 + 32) + (32 * 2 * 2 * 64 + 64) + (64 * 10 + 10),
        ),
        (
            SmallCNN(2),
            FASHION,
            (9 * 32 + 32) + (9 * 32 * 64 + 64) + (64 * 7 * 7 * 128 + 128) + (128 * 10 + 10),
        ),
        (PreActResNet(), CIFAR, 11_172_170),
        (WideResNet(28, 10), CIFAR, 36_479_194),
        (WideResNet(34, 10), CIFAR, 46_160_474),
    ],
    ids=repr,
)
def test_parameter_counts(model: Model, images: ImageSpec, count: int) -> None:
    assert parameters(model, images) == count


@pytest.mark.parametrize(("depth", "width"), [(10, 1), (28, 4), (34, 10), (16, 0.5)])
def test_wide_resnet_has_the_parameters_of_its_formula(depth: int, width: float) -> None:
    n, a = (depth - 4) // 6, round(16 * width)
    b, c = 2 * a, 4 * a
    convolutions = 9 * (3 * 16 + 16 * a + a * b + b * c + (2 * n - 1) * (a * a + b * b + c * c))
    shortcuts = (16 * a if a != 16 else 0) + a * b + b * c
    norms = 2 * (16 + a + b + (2 * n - 1) * (a + b + c) + c)
    assert (
        parameters(WideResNet(depth, width), CIFAR)
        == convolutions + shortcuts + norms + 10 * c + 10
    )


def test_wrn_34_10_costs_6_66_billion_multiplications() -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        WideResNet(34, 10).build(CIFAR).eval()(torch.empty(1, 3, 32, 32))
    assert counter.get_total_flops() / 2e9 == pytest.approx(6.66, abs=0.005)


@pytest.mark.parametrize(
    ("model", "channels"),
    [
        (WideResNet(10, 0.25), [16, 4, 4, 8, 8, 16, 16]),
        (WideResNet(10, 0.5), [16, 8, 8, 16, 16, 32, 32]),
        (WideResNet(10, 0.01), [16, 1, 1, 1, 1, 1, 1]),
        (SmallCNN(0.25), [4, 8]),
        (SmallCNN(0.01), [1, 1]),
        (PreActResNet(width=0.25), [16] * 5 + [32] * 4 + [64] * 4 + [128] * 4),
    ],
    ids=repr,
)
def test_fractional_widths_round_the_channels(model: Model, channels: list[int]) -> None:
    three_by_three = [m for m in built(model, CIFAR).modules() if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in three_by_three if m.kernel_size == (3, 3)] == channels


def test_mlp_hidden_units_are_its_width() -> None:
    linear = [m for m in built(MLP(2.6, depth=3), DIGITS).modules() if isinstance(m, nn.Linear)]
    assert [m.out_features for m in linear] == [3, 3, 3, 10]


def test_a_silu_network_differs_from_a_relu_network_in_its_activation_only() -> None:
    relu, silu = (built(WideResNet(10, 1, activation=name), CIFAR) for name in ("relu", "silu"))
    for a, b in zip(relu.parameters(), silu.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(relu(batch(CIFAR)), silu(batch(CIFAR)))


@pytest.mark.parametrize("model", [WideResNet(16, 2), PreActResNet(width=0.5)], ids=repr)
def test_residual_networks_start_as_documented(model: Model) -> None:
    network = built(model, CIFAR)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * math.prod(module.kernel_size)
            n = module.weight.numel()
            assert module.weight.std().item() == pytest.approx(
                math.sqrt(2 / fan_out), rel=4 / math.sqrt(2 * n)
            )
        if isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == 1).all())
            assert bool((module.bias == 0).all())
    linear = next(m for m in network.modules() if isinstance(m, nn.Linear))
    assert bool((linear.bias == 0).all())
    assert linear.weight.abs().max().item() <= 1 / math.sqrt(linear.in_features)


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (lambda: MLP(0, depth=0), 2),
        (lambda: MLP(math.nan), 1),
        (lambda: SmallCNN(-1.0), 1),
        (lambda: PreActResNet(depth=20, width=math.inf), 2),
        (lambda: WideResNet(depth=27, width=0, activation="tanh"), 3),
        (lambda: WideResNet(depth=4), 1),
    ],
)
def test_bad_fields_are_refused_all_at_once(build: object, count: int) -> None:
    assert callable(build)
    with pytest.raises(InputError, match=r"expected .*, got .*: ") as caught:
        build()
    assert len(caught.value.problems) == count


@pytest.mark.parametrize("spec", [CIFAR._replace(mean=(0.5,)), CIFAR._replace(std=(1.0, 0.0, 1.0))])
def test_a_spec_that_cannot_normalise_is_refused(spec: ImageSpec) -> None:
    with pytest.raises(InputError, match="one mean and one positive std for each of 3 channels"):
        MLP(4).build(spec)


# --- initialisation and parametrisation of the MLP ---


@pytest.mark.parametrize(
    ("init", "variance", "of_biases"),
    [
        ("torch", 1 / 3, 1 / 3 / 1000),
        ("he", 2, 0),
        ("lecun", 1, 0),
        ("ntk", 1, 0.01),
    ],
)
def test_an_mlp_begins_as_its_initialisation_says(
    init: str, variance: float, of_biases: float
) -> None:
    """Variance times the numbers that enter: 64 in the first layer, then 1,000."""
    layers = linears(built(MLP(1000, depth=2, init=init), DIGITS))
    for layer in layers:
        expected = variance / layer.in_features
        assert layer.weight.var().item() == pytest.approx(expected, rel=0.05)
    assert layers[1].bias.var().item() == pytest.approx(of_biases, rel=0.15)


def linears(network: nn.Module) -> list[nn.Linear]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Linear)]


@pytest.mark.parametrize("init", ["torch", "he", "lecun"])
def test_at_the_base_width_mup_is_the_standard_parametrisation(init: str) -> None:
    standard = built(MLP(32, init=init), DIGITS)
    mup = built(MLP(32, init=init, parametrisation="mup", base_width=32), DIGITS)
    assert type(mup) is type(standard) is nn.Sequential
    pairs = zip(standard.state_dict().values(), mup.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


STEPS = 4
OPTIMISERS = {
    "sgd": SGD(lr=0.02, momentum=0.9, weight_decay=0.01),
    "adam": Adam(lr=0.002, eps=1e-20),
    "adamw": AdamW(lr=0.002, eps=1e-20, weight_decay=0.1),
}


def real_digits() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = Digits(train=30).read()["train"]
    return images.double() / 255, labels


def steps(network: nn.Module, optimiser: Optimizer, forward: Any = None) -> torch.Tensor:
    """The logits after a few steps of cross-entropy."""
    x, y = real_digits()
    forward = forward or network
    for _ in range(STEPS):
        optimiser.zero_grad()
        F.cross_entropy(forward(x), y).backward()
        optimiser.step()
    return forward(x).detach()


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_mup_is_table_8_of_its_paper(kind: str) -> None:
    """There the last layer's output is divided by m, its weights have m times ours, and the rates
    are m (SGD) and 1 (Adam) for the last layer's weights, 1 and 1/m between hidden layers, m and 1
    for all else that is wide."""
    m = 4.0
    made = OPTIMISERS[kind]
    network = built(MLP(64, parametrisation="mup", base_width=16), DIGITS).double().train()
    theirs = copy.deepcopy(network)
    *_, last = linears(theirs)
    with torch.no_grad():
        last.weight.mul_(m)

    def forward(x: torch.Tensor) -> torch.Tensor:
        return theirs[:-1](x) @ last.weight.T / m + last.bias

    rates = {
        "sgd": (m, m, 1.0, m, m, 1.0),
        "adam": (1.0, 1.0, 1 / m, 1.0, 1.0, 1.0),
    }[kind]
    groups = []
    for weight, rate in zip(theirs.parameters(), rates, strict=True):
        decay = made.weight_decay / rate
        groups.append({"params": [weight], "lr": made.lr * rate, "weight_decay": decay})
    if kind == "sgd":
        optimiser: Optimizer = torch.optim.SGD(groups, lr=made.lr, momentum=0.9)
    else:
        optimiser = torch.optim.Adam(groups, lr=made.lr, eps=1e-20)
    ours = steps(network, made.build(network))
    torch.testing.assert_close(ours, steps(theirs, optimiser, forward), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_ntk_is_the_network_with_its_multipliers(kind: str) -> None:
    """``V x / sqrt(fan_in) + 0.1 c``, moved by torch's optimiser in V and c."""
    made = dataclasses.replace(OPTIMISERS[kind], lr=10 * OPTIMISERS[kind].lr)
    network = built(MLP(24, init="ntk"), DIGITS).double().train()
    theirs = copy.deepcopy(network)
    del theirs.lr_factors
    with torch.no_grad():
        for layer in linears(theirs):
            layer.weight.mul_(math.sqrt(layer.in_features))
            layer.bias.div_(0.1)

    def forward(x: torch.Tensor) -> torch.Tensor:
        x = theirs[:2](x)
        *hidden, last = linears(theirs)
        for layer in hidden:
            x = multiplied(layer, x).relu()
        return multiplied(last, x)

    def multiplied(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        return x @ layer.weight.T / math.sqrt(layer.in_features) + 0.1 * layer.bias

    ours = steps(network, made.build(network))
    expected = steps(theirs, made.build(theirs), forward)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


WIDTHS = (128, 256, 512)


def growth(made: Any, **how: Any) -> list[float]:
    """Of each layer's output, the slope of log change on log width (the coordinate check).

    The last layer begins at 0, as the authors of muP advise for it: the first logits, which fall
    with width in any case, else decide in which direction the first steps go.
    """
    changes = []
    for width in WIDTHS:
        moved = []
        for seed in range(2):
            network = built(MLP(width, **how), DIGITS, seed).double()
            nn.init.zeros_(linears(network)[-1].weight)
            before = outputs(network)
            steps(network, made.build(network))
            pairs = zip(before, outputs(network), strict=True)
            moved.append([(after - start).abs().mean().item() for start, after in pairs])
        changes.append(torch.tensor(moved).mean(dim=0).log())
    logs = torch.tensor(WIDTHS).double().log()
    centred = logs - logs.mean()
    slopes: list[float] = (
        centred @ torch.stack(changes).double() / centred.square().sum()
    ).tolist()
    return slopes


def outputs(network: nn.Module) -> list[torch.Tensor]:
    x, _ = real_digits()
    seen = []
    with torch.no_grad():
        for layer in network:
            x = layer(x)
            if isinstance(layer, nn.Linear):
                seen.append(x)
    return seen


@pytest.mark.parametrize(("kind", "init"), [("sgd", "torch"), ("adam", "he")])
def test_under_mup_activations_change_alike_at_all_widths_and_else_they_do_not(
    kind: str, init: str
) -> None:
    made = {"sgd": SGD(lr=0.005, weight_decay=0.0), "adam": Adam(lr=0.0005, eps=1e-20)}[kind]
    mup = growth(made, init=init, parametrisation="mup", base_width=128)
    standard = growth(made, init=init)
    assert max(map(abs, mup)) < 0.2
    assert min(standard[1:]) > 0.5


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"parametrisation": "mup"}, "base_width > 0"),
        ({"base_width": 16}, "no base_width without muP"),
        ({"init": "ntk", "parametrisation": "mup", "base_width": 16}, "with init='ntk'"),
    ],
)
def test_an_mlp_refuses_what_does_not_fit_together(fields: dict[str, Any], refused: str) -> None:
    with pytest.raises(InputError, match=refused):
        MLP(32, **fields)


def test_the_text_of_an_mlp_of_before_is_what_it_was() -> None:
    assert repr(MLP(8)) == "MLP(width=8, depth=2)"
    assert repr(MLP(8, init="he")) == "MLP(width=8, depth=2, init='he')"


def test_bounds_see_the_layers_of_a_paced_network() -> None:
    """``IntervalBound`` takes Sequentials; that the rates differ changes nothing in the layers."""
    network = built(MLP(8, parametrisation="mup", base_width=4), DIGITS)
    plain = nn.Sequential(*network)
    x, y = batch(DIGITS), torch.arange(3)
    bound = IntervalBound(0.01)
    assert torch.equal(bound(network, x, y), bound(plain, x, y))


def test_thin_residual_networks_do_not_have_their_channels_last():
    """torch's gradient of a 1x1 convolution of stride 2 with the channels last wrote beyond its
    memory on CPUs with AVX2 where there were few channels."""
    images = Digits().spec
    for model, last in (
        (WideResNet(10, 0.5), False),
        (WideResNet(10, 1), True),
        (PreActResNet(18, 0.125), False),
        (PreActResNet(18, 0.25), True),
    ):
        weight = model.build(images).stages[0][0].conv1.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) is last


def test_layers_with_rates_of_their_own_refuse_what_would_not_know_of_them():
    for model in (MLP(8, init="ntk"), MLP(8, parametrisation="mup", base_width=4)):
        recipe = partial(Recipe, model=model, data=Digits())
        for changes in (
            {"clip_gradient": 1.0},
            {"penalties": (NormDecay(1e-3),)},
            {"optimiser": Adam(weight_decay=0.1)},
        ):
            with pytest.raises(InputError, match="for layers with learning rates of their own"):
                recipe(**changes)
        assert recipe(optimiser=AdamW(weight_decay=0.1)).model == model
