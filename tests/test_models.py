"""The networks have the sizes one computes by hand, at every width, and normalise inside."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from robsearch.errors import InputError
from robsearch.models import MLP, Normalize, PreActResNet, SmallCNN, WideResNet
from robsearch.protocols import ImageSpec, Model

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


@pytest.mark.parametrize("images", [DIGITS, FASHION, CIFAR, ODD], ids=lambda spec: "x".join(map(str, spec.shape)))
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
        (SmallCNN(1), DIGITS, (9 * 16 + 16) + (9 * 16 * 32 + 32) + (32 * 2 * 2 * 64 + 64) + (64 * 10 + 10)),
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
    assert parameters(WideResNet(depth, width), CIFAR) == convolutions + shortcuts + norms + 10 * c + 10


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
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=4 / math.sqrt(2 * n))
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
