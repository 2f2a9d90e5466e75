"""Penalties against the layers' dense matrices, and against numbers worked out by hand."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robsearch.errors import InputError
from robsearch.parts.optimisers import SGD
from robsearch.parts.penalties import AverageMargin, NormDecay, Orthogonality, SingularValueClipping
from robsearch.parts.penalties.clipping import kernel_of, spectrum, surplus

CONVOLUTIONS = [
    ({"kernel_size": 3, "padding": 1}, (5, 6)),
    ({"kernel_size": 3}, (4, 5)),
    ({"kernel_size": 3, "stride": 2, "padding": 1}, (6, 7)),
    ({"kernel_size": 2, "stride": 3}, (6, 6)),
    ({"kernel_size": (3, 2), "stride": (1, 2), "padding": (2, 0)}, (5, 5)),
    ({"kernel_size": 3, "padding": 2, "dilation": 2}, (5, 6)),
    ({"kernel_size": 3, "padding": 1, "groups": 2}, (4, 4)),
    ({"kernel_size": (5, 3), "padding": "same"}, (3, 4)),
    ({"kernel_size": 5, "padding": 2}, (2, 3)),
]


def convolution(size: tuple[int, int], seed: int = 0, **kwargs) -> tuple[nn.Sequential, Tensor]:
    """A convolution in float64, and all unit images: one pixel of one channel is 1."""
    torch.manual_seed(seed)
    layer = nn.Conv2d(4, 6, bias=False, dtype=torch.float64, **kwargs)
    pixels = 4 * math.prod(size)
    return nn.Sequential(layer), torch.eye(pixels, dtype=torch.float64).view(pixels, 4, *size)


def linear(weight: list[list[float]]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight), bias=False)
    layer.weight.data = torch.tensor(weight)
    return layer


def steered(
    penalty: NormDecay, layer: nn.Module, state: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """What the penalty adds to a gradient of 0, and its next state."""
    layer.weight.grad = torch.zeros_like(layer.weight)
    state = penalty.before_step(layer, state, 0)
    return layer.weight.grad, state


# --- norm decay ---


@pytest.mark.parametrize("norm", ["l1", "linf"])
@pytest.mark.parametrize(("kwargs", "size"), CONVOLUTIONS, ids=str)
def test_without_memory_norm_decay_adds_the_subgradient_of_the_dense_matrixs_norm(
    kwargs, size, norm
):
    model, units = convolution(size, **kwargs)
    penalty = NormDecay(beta=0.3, mu=0.0, norm=norm)
    state = penalty.init(model)
    matrix = model(units).flatten(1)  # row i is the output for pixel i: the transposed matrix
    exact = matrix.abs().sum(0 if norm == "linf" else 1).max()
    (subgradient,) = torch.autograd.grad(exact, model[0].weight)

    model[0].weight.grad = torch.ones_like(model[0].weight)
    penalty.before_step(model, state, 0)
    torch.testing.assert_close(model[0].weight.grad, 1 + 0.3 * subgradient)
    assert 0 < subgradient.count_nonzero() < subgradient.numel()


@pytest.mark.parametrize(
    ("norm", "expected"), [("linf", [[0.0, 0.0], [1.0, 1.0]]), ("l1", [[1.0, 0.0], [1.0, 0.0]])]
)
def test_norm_decay_of_a_linear_layer_by_hand(norm, expected):
    """Rows of |W| sum to 3 and 3.5, columns to 4 and 2.5."""
    layer, penalty = linear([[1.0, -2.0], [3.0, 0.5]]), NormDecay(beta=0.1, norm=norm)
    gradient, state = steered(penalty, layer, penalty.init(layer))
    torch.testing.assert_close(gradient, 0.1 * torch.tensor(expected))
    assert state["direction/"].tolist() == expected


def test_norm_decays_direction_fades_by_mu_where_the_largest_row_has_moved_on():
    layer, penalty = linear([[1.0, -2.0], [3.0, 0.5]]), NormDecay(beta=1.0, mu=0.25)
    _, state = steered(penalty, layer, penalty.init(layer))
    layer.weight.data[0] = torch.tensor([3.0, -4.0])
    gradient, state = steered(penalty, layer, state)
    assert gradient.tolist() == [[1.0, -1.0], [0.25, 0.25]]
    gradient, _ = steered(penalty, layer, state)
    assert gradient.tolist() == [[1.0, -1.0], [0.0625, 0.0625]]  # set to the sign, not added to it


def test_descending_norm_decay_alone_lowers_the_norm_by_rate_times_beta_times_the_rows_length():
    """linf norm 10 + 8 = 18; each step of rate 0.1 takes 0.1 * 2 * 2 off; the other rows stay
    behind."""
    layer, penalty = linear([[10.0, -8.0], [1.0, 1.0]]), NormDecay(beta=2.0, mu=0.0)
    state = penalty.init(layer)
    for step in range(1, 6):
        gradient, state = steered(penalty, layer, state)
        layer.weight.data -= 0.1 * gradient
        assert layer.weight.abs().sum(1).max().item() == pytest.approx(18 - 0.4 * step)


def test_a_weight_without_gradient_and_other_layers_are_left_alone():
    """Of four convolutions one counts: the second is frozen, the third has no gradient, the fourth
    is not run."""
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), *(nn.Conv2d(2, 2, 1) for _ in range(3))
    )
    model[2].weight.requires_grad_(False)
    penalty = NormDecay(beta=1.0)
    state = penalty.init(model)
    hidden = model[:3](torch.rand(4, 1, 5, 5))
    model[3](hidden)
    hidden.sum().backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    new = penalty.before_step(model, state, 0)
    after = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert before.keys() == after.keys() == {"0.weight", "0.bias", "1.weight", "1.bias", "2.bias"}
    assert [name for name in after if not torch.equal(before[name], after[name])] == ["0.weight"]
    assert [name for name in state if not torch.equal(state[name], new[name])] == ["direction/0"]


# --- input sizes ---


@pytest.mark.parametrize("penalty", [NormDecay(), SingularValueClipping()], ids=repr)
def test_the_first_forward_writes_the_input_sizes_down_and_the_hooks_are_gone(penalty):
    model = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.ReLU(), nn.Conv2d(2, 2, 1))
    state = penalty.init(model)
    assert state["input/0"].tolist() == state["input/2"].tolist() == [0, 0]
    twin, pickled = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    for net, size in ((model, 9), (twin, 11), (pickled, 13), (model, 15)):
        net(torch.rand(1, 1, size, size + 2))
    assert state["input/0"].tolist() == [9, 11]
    assert state["input/2"].tolist() == [4, 5]
    for net in (model, twin, pickled):
        assert not any(
            module._forward_pre_hooks or module._forward_pre_hooks_with_kwargs
            for module in net.modules()
        )


def test_an_input_by_keyword_counts():
    layer = nn.Conv2d(1, 1, 1)
    state = NormDecay().init(layer)
    layer(input=torch.rand(1, 1, 3, 4))
    assert state["input/"].tolist() == [3, 4]


def test_without_input_sizes_the_penalties_refuse_instead_of_doing_nothing():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, 2))
    model(torch.rand(1, 1, 3, 3)).sum().backward()
    decay, clipping = NormDecay(), SingularValueClipping(every=1)
    with pytest.raises(InputError, match="call init before the model's first forward"):
        decay.before_step(model, decay.init(model), 0)
    with pytest.raises(InputError, match="call init before the model's first forward"):
        clipping.after_step(model, clipping.init(model), 0)
    with pytest.raises(InputError, match="call init before the model's first forward"):
        clipping.excess(model, {})


def test_norm_decay_names_all_convolutions_whose_padding_it_does_not_know():
    model = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=p, padding_mode=m) for p, m in PADDINGS))
    with pytest.raises(InputError) as caught:
        NormDecay().init(model)
    first, second = caught.value.problems
    assert first.startswith("expected zero padding in 0, got 'reflect'")
    assert second.startswith("expected zero padding in 3, got 'circular'")


PADDINGS = [
    (1, "reflect"),
    (0, "reflect"),
    (1, "zeros"),
    ("same", "circular"),
    ("valid", "circular"),
]


# --- singular value clipping ---


def circular(
    kernel: Tensor, size: tuple[int, int], groups: int = 1, stride: int = 1, dilation: int = 1
) -> Tensor:
    """The dense matrix, transposed, of a convolution that wraps around; the kernel starts at each
    output's pixel."""
    channels, down, right = kernel.shape[1] * groups, kernel.shape[2] - 1, kernel.shape[3] - 1
    units = torch.eye(channels * math.prod(size), dtype=kernel.dtype).view(-1, channels, *size)
    wrapped = F.pad(units, (0, right * dilation, 0, down * dilation), mode="circular")
    return F.conv2d(wrapped, kernel, stride=stride, dilation=dilation, groups=groups).flatten(1)


def all_values(layer: nn.Conv2d, size: tuple[int, int]) -> Tensor:
    """``spectrum`` over the whole plane, sorted: columns of the half plane count twice but for the
    self-conjugate."""
    half = spectrum(layer, (4, *size))
    twice = [1 if q in (0, size[1] / 2) else 2 for q in range(half.shape[2])]
    return half.repeat_interleave(torch.tensor(twice), dim=2).flatten().sort().values


CIRCULAR = [({}, (5, 6)), ({}, (4, 5)), ({"dilation": 2}, (6, 5)), ({"groups": 2}, (4, 4))]


@pytest.mark.parametrize(("kwargs", "size"), CIRCULAR, ids=str)
def test_the_spectrum_is_that_of_the_dense_circular_matrix(kwargs, size):
    layer = convolution(size, kernel_size=3, **kwargs)[0][0]
    dense = torch.linalg.svdvals(circular(layer.weight.detach(), size, **kwargs)).sort().values
    torch.testing.assert_close(all_values(layer, size), dense[-len(all_values(layer, size)) :])
    assert (
        dense[: -len(all_values(layer, size))].abs().sum() < 1e-9
    )  # 6 outputs of 4 inputs add only zeros


@pytest.mark.parametrize(("kwargs", "size"), CIRCULAR, ids=str)
def test_before_truncation_the_dense_singular_values_are_clipped_and_nothing_else(kwargs, size):
    layer = convolution(size, kernel_size=3, **kwargs)[0][0]
    clip = spectrum(layer, (4, *size)).median().item()
    whole = torch.zeros(*layer.weight.shape[:2], *size, dtype=torch.float64)
    kernel_of(layer, whole).copy_(layer.weight.detach())
    groups = kwargs.get("groups", 1)
    before, after = (
        torch.linalg.svdvals(circular(kernel, size, groups))
        for kernel in (whole, whole - surplus(layer, (4, *size), clip))
    )
    assert before.max() > 1.5 * clip
    torch.testing.assert_close(after, before.clamp_max(clip))


def test_truncation_brings_an_excess_back_by_hand():
    """Kernel (1, 1) on 4 pixels: values 2, sqrt 2, 0, sqrt 2. Clipped at 1 its two taps are (1 +
    sqrt 2) / 4 each, and their sum, the value at frequency 0, is (1 + sqrt 2) / 2 = 1.207."""
    layer, clipping = (
        nn.Conv2d(1, 1, (1, 2), bias=False, dtype=torch.float64),
        SingularValueClipping(clip=1.0, every=1),
    )
    nn.init.ones_(layer.weight)
    state = clipping.init(layer)
    layer(torch.rand(1, 1, 1, 4, dtype=torch.float64))
    assert clipping.excess(layer, state) == {"": pytest.approx(1.0)}
    clipping.after_step(layer, state, 0)
    assert layer.weight.flatten().tolist() == pytest.approx([(1 + math.sqrt(2)) / 4] * 2)
    assert clipping.excess(layer, state) == {"": pytest.approx((math.sqrt(2) - 1) / 2)}


def test_a_1x1_kernel_and_a_linear_layer_are_clipped_as_matrices_without_excess():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Flatten(), nn.Linear(5 * 4, 3)).double()
    clipping = SingularValueClipping(clip=0.4, every=1)
    state = clipping.init(model)
    model(torch.rand(1, 3, 2, 2).double())
    before = [torch.linalg.svdvals(model[i].weight.detach().flatten(1)) for i in (0, 2)]
    assert clipping.after_step(model, state, 0) is state
    for i, values in zip((0, 2), before, strict=True):
        assert values.max() > 0.4
        torch.testing.assert_close(
            torch.linalg.svdvals(model[i].weight.flatten(1)), values.clamp_max(0.4)
        )
    assert clipping.excess(model, state) == {
        "0": pytest.approx(0, abs=1e-9),
        "2": pytest.approx(0, abs=1e-9),
    }


def test_a_strided_convolution_stretches_no_more_than_the_one_of_stride_1_that_is_clipped():
    layer = convolution((6, 6), kernel_size=3, stride=2)[0][0]
    strided = torch.linalg.matrix_norm(circular(layer.weight.detach(), (6, 6), stride=2), ord=2)
    assert 0.2 < strided / spectrum(layer, (4, 6, 6)).max() < 1


def test_an_input_smaller_than_the_kernel_counts_as_large_as_it():
    layer = convolution((2, 2), kernel_size=3, padding=1)[0][0]
    assert torch.equal(spectrum(layer, (4, 2, 2)), spectrum(layer, (4, 3, 3)))


def test_clipping_waits_for_every_steps_and_leaves_weights_within_the_bound_bit_for_bit():
    layer = linear([[3.0, 0.0], [0.0, 0.5]])
    clipping, loose = (
        SingularValueClipping(clip=1.0, every=3),
        SingularValueClipping(clip=3.5, every=1),
    )
    loose.after_step(layer, loose.init(layer), 0)
    reached = []
    for step in range(3):
        clipping.after_step(layer, clipping.init(layer), step)
        reached.append(layer.weight.tolist())
    assert reached[0] == reached[1] == [[3.0, 0.0], [0.0, 0.5]]
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[1.0, 0.0], [0.0, 0.5]]))

    model, units = convolution((4, 4), kernel_size=3)
    state, before = clipping.init(model), model[0].weight.clone()
    model(units)
    SingularValueClipping(
        clip=spectrum(model[0], (4, 4, 4)).max().item() * 1.001, every=1
    ).after_step(model, state, 0)
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize(
    "model", [linear([[math.nan, 0.0]]), nn.Conv2d(1, 1, 2)], ids=["linear", "conv"]
)
def test_weights_that_are_not_finite_are_left_for_the_trainer_to_find(model):
    model.weight.data[..., 0] = math.nan
    clipping = SingularValueClipping(every=1)
    state, before = clipping.init(model), model.weight.clone()
    model(torch.rand(1, 1, 3, 2))
    clipping.after_step(model, state, 0)
    torch.testing.assert_close(model.weight, before, equal_nan=True, rtol=0, atol=0)


# --- average margin ---


def test_the_average_margin_by_hand():
    """Margins 12, 4 and -3 under tau = 10 leave 0, 6 and, truncated, 10; only the second has a
    slope."""
    logits = torch.tensor(
        [[12.0, 0.0, -1.0], [-1.0, 3.0, -2.0], [3.0, 2.0, 0.0]], requires_grad=True
    )
    loss = AverageMargin(mu=0.3, tau=10.0).loss(nn.Identity(), logits, torch.tensor([0, 1, 2]))
    assert loss.item() == pytest.approx(0.3 * 16 / 3)
    loss.backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.0] * 3, [0.1, -0.1, 0.0], [0.0] * 3]))


def test_the_average_margin_needs_another_class():
    with pytest.raises(InputError, match="at least 2 classes"):
        AverageMargin().loss(nn.Identity(), torch.zeros(2, 1), torch.zeros(2, dtype=torch.long))


# --- orthogonality ---


def orthogonality(model: nn.Module) -> Tensor:
    return Orthogonality(beta=0.5).loss(model, torch.zeros(1, 2), torch.zeros(1, dtype=torch.long))


def test_orthogonality_by_hand():
    """W W^T - I is 3 I for 2 I: 0.5 * 2 * 9. A rotation costs nothing, nor do two orthonormal
    columns of three."""
    assert orthogonality(linear([[2.0, 0.0], [0.0, 2.0]])).item() == 9.0
    assert orthogonality(linear([[0.6, 0.8], [-0.8, 0.6]])).item() == pytest.approx(0, abs=1e-12)
    assert orthogonality(linear([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])).item() == 0.0
    both = nn.Sequential(linear([[2.0, 0.0], [0.0, 2.0]]), nn.BatchNorm1d(2), linear([[3.0]]))
    assert orthogonality(both).item() == 9.0 + 0.5 * 64


def test_where_rows_outnumber_columns_the_gradient_is_that_of_the_other_product():
    torch.manual_seed(0)
    layer = nn.Conv2d(1, 12, 2).double()
    weight = layer.weight.flatten(1)
    other = 0.5 * (weight @ weight.T - torch.eye(12)).square().sum()
    ours = orthogonality(layer)
    assert (other - ours).item() == pytest.approx(0.5 * (12 - 4))
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, layer.weight)[0] for loss in (ours, other))
    )


def test_orthogonality_takes_a_convolution_by_groups_and_skips_frozen_weights():
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 2, groups=2).double()
    blocks = [layer.weight[:3].flatten(1), layer.weight[3:].flatten(1)]
    expected = 0.5 * sum((w @ w.T - torch.eye(3)).square().sum() for w in blocks)
    torch.testing.assert_close(orthogonality(layer), expected)
    layer.weight.requires_grad_(False)
    assert orthogonality(layer) is None


# --- weight decay, the optimiser's own penalty ---


def test_weight_decay_can_spare_batch_norm_and_biases():
    """Gradients of 0, decay 0.5 and rate 1 halve what decays in one step, and leave the rest bit
    for bit."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
    kept = {}
    for decay_norms in (True, False):
        twin = copy.deepcopy(model)
        optimiser = SGD(lr=1.0, weight_decay=0.5, decay_norms=decay_norms).build(twin)
        for parameter in twin.parameters():
            nn.init.ones_(parameter)
            parameter.grad = torch.zeros_like(parameter)
        optimiser.step()
        kept[decay_norms] = [n for n, p in twin.named_parameters() if p.flatten()[0].item() == 1.0]
        assert {p.flatten()[0].item() for p in twin.parameters()} <= {0.5, 1.0}
        assert sum(len(group["params"]) for group in optimiser.param_groups) == 6
    assert kept == {True: [], False: ["0.bias", "1.weight", "1.bias", "3.bias"]}


# --- all penalties ---


def test_a_penalty_does_nothing_where_it_has_nothing_to_do():
    layer, state = linear([[3.0, 0.5]]), {"some": torch.ones(1)}
    layer.weight.grad = torch.zeros_like(layer.weight)
    unused = [
        NormDecay().after_step(layer, state, 99),
        SingularValueClipping().before_step(layer, state, 99),
        *(
            method(layer, state, 99)
            for p in (AverageMargin(), Orthogonality())
            for method in (p.before_step, p.after_step)
        ),
    ]
    assert all(given is state for given in unused)
    assert (layer.weight.tolist(), layer.weight.grad.tolist()) == ([[3.0, 0.5]], [[0.0, 0.0]])
    logits, y = torch.zeros(1, 2), torch.zeros(1, dtype=torch.long)
    assert (
        NormDecay().loss(layer, logits, y) is SingularValueClipping().loss(layer, logits, y) is None
    )
    assert AverageMargin().init(layer) == Orthogonality().init(layer) == {}


@pytest.mark.parametrize(
    ("make", "problems"),
    [
        (lambda: NormDecay(beta=-1.0, mu=1.0, norm="l2"), 3),
        (lambda: NormDecay(beta=math.nan), 1),
        (lambda: SingularValueClipping(clip=0.0, every=0), 2),
        (lambda: SingularValueClipping(every=1.5), 1),
        (lambda: SingularValueClipping(every=True), 1),
        (lambda: AverageMargin(mu=-0.1, tau=0.0), 2),
        (lambda: Orthogonality(beta=math.inf), 1),
    ],
)
def test_refuses_all_bad_fields_at_once(make, problems, unchecked):
    with pytest.raises(InputError) as caught:
        make()
    assert len(caught.value.problems) == problems
    assert all(problem.startswith("expected ") for problem in caught.value.problems)
