"""The change of features against products of matrices by hand, and against features read off one by
one."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robsearch.errors import InputError
from robsearch.measures.features import FeatureChange
from robsearch.network.layers import NotCoveredWarning, layers
from robsearch.parts.attacks import PGD
from robsearch.parts.models import WideResNet
from robsearch.protocols import ImageSpec
from robsearch.testing import check_layer_measure

SHAPE = (2, 3, 3)
PIXELS = math.prod(SHAPE)


def moved_by(change: Tensor | float):
    """An attack that adds the same to each image; shaped as FeatureChange needs it, nothing
    more."""
    return lambda model, x, y, loss: x + change


def linear_net() -> nn.Sequential:
    torch.manual_seed(0)
    first, second = nn.Linear(PIXELS, 5, bias=False), nn.Linear(5, 3, bias=False)
    return nn.Sequential(nn.Flatten(), first, second).double()


def examples(n: int = 6) -> tuple[Tensor, Tensor]:
    x = 0.3 + 0.4 * torch.rand(
        n, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    return x, torch.arange(n) % 3


def hooks(model: nn.Module) -> int:
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
        for m in model.modules()
    )


def test_on_a_linear_net_it_is_the_ratio_of_norms_by_hand():
    net, (x, y) = linear_net(), examples()
    change = 0.2 * torch.rand(SHAPE, dtype=torch.float64)
    first, second = (layer.weight.detach() for layer in net[1:])
    found = FeatureChange(moved_by(change)).by_layer(net, x, y)
    assert list(found) == ["1", "2"]
    moves = first @ change.flatten(), second @ first @ change.flatten()
    starts = x.flatten(1) @ first.T, x.flatten(1) @ (second @ first).T
    for name, move, start in zip(found, moves, starts, strict=True):
        torch.testing.assert_close(found[name], move.norm() / start.norm(dim=1))


def test_a_convolution_counts_all_its_channels_and_places_before_what_follows_works_in_place():
    """The kernel sums a pixel's channels, c and -c: features 1.0 and -1.0 become 1.2 and -1.2 at
    each of 9 places."""
    net = nn.Sequential(
        nn.Conv2d(2, 2, 1, bias=False), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(PIXELS, 3)
    )
    net[0].weight.data = torch.tensor([[1.0, 1.0], [-1.0, -1.0]]).view(2, 2, 1, 1)
    x, y = torch.full((4, *SHAPE), 0.5), torch.zeros(4, dtype=torch.long)
    found = FeatureChange(moved_by(0.1)).by_layer(net, x, y)
    torch.testing.assert_close(found["0"], torch.full((4,), 0.2))


def residual_net() -> nn.Module:
    torch.manual_seed(0)
    net = (
        WideResNet(depth=10, width=1).build(ImageSpec((3, 8, 8), 5, (0.5,) * 3, (0.2,) * 3)).train()
    )
    net(torch.rand(16, 3, 8, 8))  # statistics other than the first
    return net


def test_on_a_residual_net_each_layers_change_is_that_of_its_features_alone():
    net = residual_net()
    x, y = torch.rand(5, 3, 8, 8), torch.arange(5)
    shifted = (x + 0.05).clamp(0, 1)
    found = FeatureChange(lambda *_: shifted).by_layer(net, x, y)
    names = [name for name, _ in layers(net)]
    assert list(found) == names
    assert "stages.1.0.shortcut" in names
    net.eval()
    for name, layer in layers(net):
        seen: list[Tensor] = []
        handle = layer.register_forward_hook(lambda _, args, output, seen=seen: seen.append(output))
        with torch.no_grad():
            net(x), net(shifted)
        handle.remove()
        clean, moved = (features.flatten(1) for features in seen)
        torch.testing.assert_close(found[name], (moved - clean).norm(dim=1) / clean.norm(dim=1))
        assert found[name].min() > 0


def test_an_attack_that_moves_nothing_changes_nothing():
    net, x = residual_net(), torch.rand(5, 3, 8, 8)
    found = FeatureChange(moved_by(0.0)).by_layer(net, x, torch.arange(5))
    assert len(found) == len(list(layers(net)))
    assert all(change.max() < 1e-6 for change in found.values())


def test_the_attack_works_against_the_prediction_on_the_cross_entropy():
    net, (x, y) = linear_net(), examples()
    predicted, told = net(x).argmax(1), {}
    assert not torch.equal(predicted, y)

    def attack(model: nn.Module, x: Tensor, y: Tensor, loss) -> Tensor:
        told["y"], told["loss"], told["training"] = y, loss(model(x)), model.training
        return x

    FeatureChange(attack).by_layer(net.train(), x, y)
    assert torch.equal(told["y"], predicted)
    torch.testing.assert_close(told["loss"], F.cross_entropy(net(x), predicted, reduction="none"))
    assert not told["training"]
    assert net.training


class Winding(nn.Module):
    """Its layers are named in another order than they run in; one runs twice, one never, one
    without the images."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(2, 2, bias=False)
        self.twice = nn.Linear(2, 2, bias=False)
        self.never = nn.Linear(2, 2)
        self.aside = nn.Linear(2, 2)
        for layer, factor in ((self.last, 1.0), (self.twice, 3.0)):
            layer.weight.data = factor * torch.eye(2)

    def forward(self, x: Tensor) -> Tensor:
        features = self.twice(x.flatten(1))
        return self.last(self.twice(features - 4.0)) + 0 * self.aside(torch.ones(7, 2)).sum()


def test_layers_stand_in_the_models_order_and_count_with_their_first_call():
    """Pixels go from 1/2 to 3/4. Twice: from 1.5 to 2.25, then from 3 (1.5 - 4) = -7.5 to -5.25,
    and so does last."""
    x, y = torch.full((3, 1, 1, 2), 0.5), torch.zeros(3, dtype=torch.long)
    found = FeatureChange(moved_by(0.25)).by_layer(Winding(), x, y)

    def approx(change: float):
        return pytest.approx([change] * 3)

    assert {name: change.tolist() for name, change in found.items()} == {
        "last": approx(0.3),
        "twice": approx(0.5),
    }
    assert list(found) == ["last", "twice"]


class Folded(nn.Module):
    """Nine tokens of two features: with images in the second dimension, behind one another in rows,
    and mixed."""

    def __init__(self):
        super().__init__()
        self.second, self.rows, self.mixed = (nn.Linear(2, 2, bias=False) for _ in range(3))
        self.head = nn.Linear(18, 3)

    def forward(self, x):
        z = x.flatten(2).permute(2, 0, 1)  # (tokens, n, features)
        second = self.second(z)
        rows = self.rows(z.transpose(0, 1).flatten(0, 1))
        mixed = self.mixed(z.flatten(0, 1))
        return self.head(
            second.transpose(0, 1).flatten(1)
            + rows.view(len(x), -1)
            + mixed.view(9, len(x), 2).mean()
        )


@pytest.mark.parametrize("n", [1, 6])
def test_images_may_be_in_any_dimension_and_a_layer_that_mixes_them_is_named(n):
    torch.manual_seed(0)
    net, (x, y) = Folded().double(), examples(n)
    net.rows.weight.data = net.second.weight.data
    with pytest.warns(
        NotCoveredWarning, match=r"features/change leaves out mixed: images cannot be told apart"
    ):
        found = FeatureChange(moved_by(0.1)).by_layer(net, x, y)
    assert list(found) == ["second", "rows", "head"]
    features = (x.flatten(2).mT @ net.second.weight.T).flatten(1)
    move = 3 * (0.1 * net.second.weight.sum(dim=1)).norm()
    torch.testing.assert_close(found["second"], move / features.norm(dim=1))
    torch.testing.assert_close(found["rows"], found["second"])


def test_features_of_norm_zero_give_a_finite_change():
    """Layer 1 takes x - 1/2 (by its bias), so x = 1/2 is mapped to 0; a dead layer maps all to
    0."""
    alive, dead = nn.Linear(2, 2), nn.Linear(2, 2)
    alive.weight.data, alive.bias.data = torch.eye(2), torch.full((2,), -0.5)
    nn.init.zeros_(dead.weight), nn.init.zeros_(dead.bias)
    net = nn.Sequential(nn.Flatten(), alive, dead)
    x = torch.tensor([0.5, 0.25]).view(2, 1, 1, 1).expand(2, 1, 1, 2)
    found = FeatureChange(moved_by(0.125)).by_layer(net, x, torch.zeros(2, dtype=torch.long))
    assert found["1"].tolist() == pytest.approx([1 / torch.finfo(torch.float32).eps, 0.5])
    assert found["2"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_features_whose_squares_leave_float32_have_their_change(scale):
    net, (x, y) = linear_net().float(), examples()
    expected = FeatureChange(moved_by(0.1)).by_layer(net, x.float(), y)
    net[1].weight.data *= scale
    net[2].weight.data /= scale
    found = FeatureChange(moved_by(0.1)).by_layer(net, x.float(), y)
    for name, change in found.items():
        assert change.dtype == torch.float32
        torch.testing.assert_close(change, expected[name])


def test_the_model_is_left_as_it_was_and_a_users_hook_stays():
    net, (x, y) = (
        nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(0.5), *linear_net()).double().train(),
        examples(),
    )
    net[1].eval()
    flags = [module.training for module in net.modules()]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    graphs: list[bool] = []
    net[3].register_forward_hook(lambda *_: graphs.append(torch.is_grad_enabled()))
    found = FeatureChange(PGD(steps=2)).by_layer(net, x, y)
    assert [module.training for module in net.modules()] == flags
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert hooks(net) == 1
    assert graphs == [False, True, True, False, False]  # x, two steps, one image, x with x'
    assert not any(change.requires_grad for change in found.values())


class Failing(nn.Module):
    """Fails at its ``at``-th forward pass, after the first layer."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.net, self.calls, self.at = linear_net(), 0, at

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        features = self.net[1](self.net[0](x))
        if self.calls == self.at:
            raise ArithmeticError("on purpose")
        return self.net[2](features)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_after_an_error_no_hook_is_left_and_the_mode_is_back(at):
    """The first forward is that of the prediction, the second the attack's, the third that of x and
    x' together."""
    net, (x, y) = Failing(at).train(), examples()
    with pytest.raises(ArithmeticError):
        FeatureChange(PGD(steps=1)).by_layer(net, x, y)
    assert net.calls == at
    assert hooks(net) == 0
    assert all(module.training for module in net.modules())


def test_bad_examples_and_attacks_are_refused(unchecked):
    net, (x, y) = linear_net(), examples()
    for attack, images, labels, message in [
        (moved_by(0.0), x * 255, y, "images in"),
        (moved_by(1.0), x, y, "images in"),
        (moved_by(0.0), x, y + 1, "labels below 3"),
        (moved_by(0.0), x[:0], y[:0], "at least one image"),
        (lambda model, x, y, loss: x[:4], x, y, "one label for each of 10 images"),
    ]:
        with pytest.raises(InputError, match=message):
            FeatureChange(attack).by_layer(net, images, labels)
        assert hooks(net) == 0


def test_features_that_are_not_finite_are_refused_by_name():
    net, (x, y) = linear_net(), examples()
    net.insert(2, nn.Hardtanh())
    nn.init.constant_(net[1].weight, math.inf)
    with pytest.raises(InputError, match=r"finite features.* in 1:"):
        FeatureChange(moved_by(0.1)).by_layer(net, x, y)


@pytest.mark.parametrize("attack", [PGD, "PGD"])
def test_something_else_than_an_attack_is_refused(attack, unchecked):
    with pytest.raises(InputError, match="an Attack"):
        FeatureChange(attack)


def test_it_keeps_the_contract_of_a_layer_measure():
    measure = FeatureChange(PGD(steps=2))
    check_layer_measure(measure)
    assert (measure.name, measure.about.kind, measure.about.unit) == (
        "features/change",
        "exact",
        "1",
    )
