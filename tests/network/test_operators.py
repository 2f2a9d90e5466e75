"""Single layers against their dense matrices: norms, singular values, transposes, folding."""

import math
import random
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from dense_layers import dense, units
from torch import Tensor, nn

from robsearch.errors import InputError
from robsearch.network.operators import (
    adjoint,
    applied,
    extent,
    fold,
    norm,
    problems,
    reshaped,
    scales,
    singular_values,
    spectral_norm,
)

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


def convolutions(n: int = 300) -> Iterator[tuple[nn.Conv2d, tuple[int, int, int]]]:
    """Random convolutions in float64, with a bias, each with the shape of an input that it fits
    on."""
    draw = random.Random(0)

    def pair(low: int, high: int) -> tuple[int, int]:
        return draw.randint(low, high), draw.randint(low, high)

    while n:
        torch.manual_seed(n)
        groups, (into, out), same = draw.choice([1, 1, 2]), pair(1, 3), draw.random() < 0.2
        stride, padding = ((1, 1), "same") if same else (pair(1, 3), pair(0, 3))
        form = (groups * into, groups * out, pair(1, 4), stride, padding, pair(1, 2), groups)
        layer, shape = nn.Conv2d(*form, dtype=torch.float64), (groups * into, *pair(1, 7))
        if not problems(layer, shape):
            n -= 1
            yield layer, shape


def wrapped(layer: nn.Conv2d, shape: tuple[int, ...]) -> Tensor:
    """The matrix of the convolution that wraps around; the kernel starts at each output's pixel."""
    down, right = (side - 1 for side in extent(layer))
    images = F.pad(units(shape), (0, right, 0, down), mode="circular")
    weight = layer.weight.detach()
    return (
        F.conv2d(images, weight, None, layer.stride, 0, layer.dilation, layer.groups).flatten(1).T
    )


# --- l1 and linf ---


def test_the_l1_and_linf_norms_are_those_of_the_dense_matrix():
    """300 of 300 random strides, paddings, dilations, groups, kernels and input sizes."""
    kinds = set()
    for layer, shape in convolutions():
        sizes = dense(layer, shape).abs()
        expected = torch.stack([sizes.sum(dim=1).max(), sizes.sum(dim=0).max()])
        ours = torch.stack([norm(layer, shape, "linf"), norm(layer, shape, "l1")])
        torch.testing.assert_close(
            ours, expected, msg=f"{layer} on {shape}: {ours} is not {expected}"
        )
        kinds.add((layer.stride[0] > 1, layer.groups, layer.dilation[0], layer.padding == "same"))
    assert len(kinds) >= 10


def test_at_stride_2_the_sum_over_the_kernel_is_not_the_l1_norm():
    """A 3x3 kernel of ones on 5x5 pixels: each output sees up to nine inputs, each input reaches at
    most four."""
    layer = nn.Conv2d(1, 1, 3, stride=2, padding=1, bias=False)
    nn.init.ones_(layer.weight)
    assert norm(layer, (1, 5, 5), "l1").item() == 4.0 < layer.weight.abs().sum().item() == 9.0
    assert norm(layer, (1, 5, 5), "linf").item() == 9.0
    assert (
        norm(layer, (1, 1, 1), "linf").item() == 1.0
    )  # one pixel: only the kernel's middle meets it


def test_the_norms_of_a_linear_layer_by_hand():
    """Rows of |W| sum to 3 and 3.5, columns to 4 and 2.5; W / 2 is (0.5, -1; 1.5, 0.25)."""
    layer = nn.Linear(2, 2)
    layer.weight.data = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
    assert (norm(layer, (2,), "linf").item(), norm(layer, (2,), "l1").item()) == (3.5, 4.0)
    trace, determinant = 1 + 4 + 9 + 0.25, (0.5 + 6) ** 2
    largest = math.sqrt((trace + math.sqrt(trace**2 - 4 * determinant)) / 2)
    assert spectral_norm(layer, (2,)).item() == pytest.approx(largest)
    assert norm(layer, (7, 2), "linf").item() == 3.5  # on each of 7 places alone


def batch_norm(
    kind: type[nn.Module], gamma: list[float] | None, variance: list[float]
) -> nn.Module:
    layer = kind(len(variance), eps=1.0, affine=gamma is not None, dtype=torch.float64).eval()
    layer.running_var.copy_(torch.tensor(variance))
    layer.running_mean.fill_(3.0)
    if gamma is not None:
        layer.weight.data = torch.tensor(gamma, dtype=torch.float64)
    return layer


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (batch_norm(nn.BatchNorm2d, [1.0, -6.0], [0.0, 3.0]), (2, 2, 3), 3.0),  # 6 / sqrt(3 + 1)
        (batch_norm(nn.BatchNorm2d, None, [8.0, 3.0]), (2, 1, 2), 0.5),
        (batch_norm(nn.BatchNorm1d, [5.0], [24.0]), (1,), 1.0),
    ],
    ids=str,
)
def test_all_norms_of_a_batch_norm_are_its_largest_factor(layer, shape, expected):
    assert scales(layer).abs().max().item() == expected
    assert norm(layer, shape, "l1").item() == norm(layer, shape, "linf").item() == expected
    assert spectral_norm(layer, shape).item() == expected
    assert torch.linalg.matrix_norm(dense(layer, shape), ord=2).item() == pytest.approx(expected)


# --- l2 ---


def test_the_spectral_norm_is_the_dense_matrixs_and_early_stopping_stays_below():
    for layer, shape in convolutions():
        largest = torch.linalg.matrix_norm(dense(layer, shape), ord=2).item()
        assert spectral_norm(layer, shape, tolerance=0).item() == pytest.approx(
            largest, rel=1e-9, abs=1e-12
        ), layer
        assert spectral_norm(layer, shape).item() == pytest.approx(largest, rel=1e-3, abs=1e-12), (
            layer
        )
        for early in (spectral_norm(layer, shape, steps=1), spectral_norm(layer, shape, steps=3)):
            assert early.item() <= largest * (1 + 1e-12)


def test_more_steps_never_lower_the_spectral_norm_and_in_float32_it_stays_below_too():
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, 3, padding=1)
    largest = torch.linalg.matrix_norm(dense(layer.double(), (8, 9, 9)), ord=2).item()
    layer.float()
    found = [
        spectral_norm(layer, (8, 9, 9), steps, 0).item() for steps in (1, 2, 5, 10, 20, 40, 80, 300)
    ]
    assert all(b >= a * (1 - 1e-6) for a, b in pairwise(found))
    assert found[0] < 0.9 * largest
    assert found[-1] == pytest.approx(
        largest, rel=1e-6
    )  # its vectors lose their orthogonality, not the bound


def test_the_spectral_norm_needs_no_global_randomness_and_takes_matrices_of_low_rank():
    layer = nn.Conv2d(2, 2, 3, padding=1, bias=False)
    state = torch.get_rng_state()
    first = spectral_norm(layer, (2, 5, 5))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(spectral_norm(layer, (2, 5, 5)), first)
    nn.init.zeros_(layer.weight)
    assert spectral_norm(layer, (2, 5, 5)).item() == 0.0
    layer.weight.data[
        0, 1, 1, 1
    ] = -3.0  # all else is nothing: rank 25 of 50, and every value 3 or 0
    assert spectral_norm(layer, (2, 5, 5)).item() == pytest.approx(3.0)


def test_the_adjoint_is_the_transposed_matrix():
    for layer, shape in convolutions():
        matrix, out = dense(layer, shape), applied(layer, units(shape)[:1], layer.weight).shape[1:]
        y = torch.randn(2, *out, dtype=torch.float64)
        torch.testing.assert_close(
            adjoint(layer, y, layer.weight, shape).flatten(1), y.flatten(1) @ matrix
        )


# --- singular values ---


def test_the_singular_values_are_all_those_of_the_dense_matrix_that_wraps_around():
    """An image smaller than the kernel or not divided by the stride counts as the next larger one
    that fits."""
    strided = 0
    for layer, shape in convolutions():
        sides = zip(shape[1:], extent(layer), layer.stride, strict=True)
        whole = (
            shape[0],
            *(math.ceil(max(side, kernel) / step) * step for side, kernel, step in sides),
        )
        ours, exact = singular_values(layer, shape), torch.linalg.svdvals(wrapped(layer, whole))
        torch.testing.assert_close(ours, exact, rtol=0, atol=1e-9, msg=f"{layer} on {shape}")
        strided += whole == shape and max(layer.stride) > 1
    assert strided >= 20  # which count as they are


@pytest.mark.parametrize(
    ("kwargs", "shape"),
    [
        ({"padding": 1}, (4, 5, 6)),
        ({"padding": 1, "stride": 2}, (4, 4, 6)),
        ({"padding": (2, 1), "dilation": (2, 1), "stride": (1, 3)}, (4, 5, 6)),
        ({"padding": 1, "stride": 2, "groups": 2}, (4, 6, 4)),
        ({"padding": "same"}, (4, 3, 4)),
    ],
    ids=str,
)
def test_the_singular_values_are_those_of_a_layer_that_pads_circularly(kwargs, shape):
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3, padding_mode="circular", dtype=torch.float64, **kwargs)
    matrix, ours = dense(layer, shape), singular_values(layer, shape)
    torch.testing.assert_close(ours, torch.linalg.svdvals(matrix))
    energy = (
        layer.weight.square().sum().item() * matrix.shape[0] / 6
    )  # each row holds its channel's kernel once
    assert ours.square().sum().item() == pytest.approx(energy)


def test_the_singular_values_of_a_difference_by_hand():
    """Kernel (1, -1) on 4 pixels: |1 - exp(2 pi i f / 4)| is 0, sqrt 2, 2, sqrt 2. At stride 2 both
    rows are apart."""
    layer = nn.Conv2d(1, 1, (1, 2), bias=False, dtype=torch.float64)
    layer.weight.data = torch.tensor([[[[1.0, -1.0]]]], dtype=torch.float64)
    assert singular_values(layer, (1, 1, 4)).tolist() == pytest.approx(
        [2, math.sqrt(2), math.sqrt(2), 0], abs=1e-12
    )
    layer.stride = (1, 2)
    assert singular_values(layer, (1, 1, 4)).tolist() == pytest.approx([math.sqrt(2)] * 2)


def test_the_singular_values_of_a_linear_layer_are_its_matrixs_and_reshaped_is_flat():
    layer, kernel = nn.Linear(3, 2), nn.Conv2d(4, 6, (2, 3), groups=2)
    torch.testing.assert_close(
        singular_values(layer, (3,)), torch.linalg.svdvals(layer.weight.detach())
    )
    assert torch.equal(reshaped(layer), layer.weight)
    assert torch.equal(reshaped(kernel), kernel.weight.reshape(6, 12))
    assert not reshaped(kernel).requires_grad


# --- folding ---


def test_a_folded_layer_does_what_the_layer_and_then_the_batch_norm_do():
    for layer, shape in convolutions(60):
        out = layer.out_channels
        norms = batch_norm(nn.BatchNorm2d, torch.randn(out).tolist(), torch.rand(out).tolist())
        state, before = torch.get_rng_state(), layer.weight.clone()
        folded = fold(layer, norms)
        assert torch.equal(torch.get_rng_state(), state)
        torch.testing.assert_close(dense(folded, shape), dense(nn.Sequential(layer, norms), shape))
        assert torch.equal(layer.weight, before)
        assert (folded.bias, folded.weight.requires_grad) == (None, False)


def test_a_linear_layer_folds_and_a_wrong_batch_norm_does_not():
    layer, norms = nn.Linear(3, 2).double(), batch_norm(nn.BatchNorm1d, [2.0, -0.5], [3.0, 0.0])
    torch.testing.assert_close(
        dense(fold(layer, norms), (3,)), dense(nn.Sequential(layer, norms), (3,))
    )
    with pytest.raises(
        InputError, match="expected a BatchNorm of the layer's 2 output channels, got 1"
    ):
        fold(layer, nn.BatchNorm1d(1))
    with pytest.raises(InputError, match="expected running statistics in the BatchNorm, got none"):
        fold(layer, nn.BatchNorm1d(2, track_running_stats=False))


# --- refusals ---


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        (
            nn.Conv2d(2, 1, 3, padding=1, padding_mode="reflect"),
            (2, 5, 5),
            "expected zero padding in it, got 'reflect'",
        ),
        (nn.Conv2d(2, 1, 3, padding="same", padding_mode="circular"), (2, 5, 5), "got 'circular'"),
        (
            nn.Conv2d(2, 1, 3),
            (3, 5, 5),
            r"expected the shape of an input of it, Conv2d\(2, 1, .* got \(3, 5, 5\)",
        ),
        (nn.Conv2d(2, 1, 3), (2, 5), r"got \(2, 5\)"),
        (
            nn.Conv2d(2, 1, 3, dilation=2),
            (2, 5, 4),
            r"as large as the kernel of it, got \(2, 5, 4\)",
        ),
        (nn.Linear(3, 2), (2,), "Linear"),
        (nn.BatchNorm2d(3), (2, 5, 5), "BatchNorm2d"),
        (
            nn.BatchNorm1d(2, track_running_stats=False),
            (2,),
            "expected running statistics in it, got none",
        ),
    ],
    ids=str,
)
def test_a_layer_that_has_no_norm_says_why(layer, shape, words):
    (problem,) = problems(layer, shape, "it")
    with pytest.raises(InputError, match=words):
        raise InputError(problem)
    for of in (lambda: norm(layer, shape, "l1"), lambda: spectral_norm(layer, shape)):
        with pytest.raises(InputError, match=words.replace(" it,", " the layer,")):
            of()


def test_all_problems_come_at_once_and_a_padding_mode_that_pads_nothing_is_none(unchecked):
    layer = nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")
    with pytest.raises(InputError) as caught:
        norm(layer, (2, 5, 5), "l2")
    assert len(caught.value.problems) == 3
    with pytest.raises(InputError) as caught:
        spectral_norm(layer, (2, 5, 5), steps=0, tolerance=math.nan)
    assert len(caught.value.problems) == 4
    with pytest.raises(InputError, match="the shape of an input"):
        singular_values(layer, (2, 5, 5))
    for padding in (0, "valid"):
        assert (
            problems(nn.Conv2d(1, 1, 3, padding=padding, padding_mode="circular"), (1, 3, 3)) == []
        )
    assert problems(nn.Conv2d(1, 1, 1, padding="same", padding_mode="circular"), (1, 3, 3)) == []


def test_norms_work_in_inference_mode_and_carry_no_gradient():
    layer = nn.Conv2d(2, 3, 3, padding=1)
    outside = [
        norm(layer, (2, 4, 4), "l1"),
        spectral_norm(layer, (2, 4, 4)),
        singular_values(layer, (2, 4, 4)).max(),
    ]
    assert not any(value.requires_grad for value in outside)
    assert {(value.dtype, value.shape) for value in outside} == {(torch.float32, torch.Size())}
    with torch.inference_mode():
        inside = [
            norm(layer, (2, 4, 4), "l1"),
            spectral_norm(layer, (2, 4, 4)),
            singular_values(layer, (2, 4, 4)).max(),
        ]
    assert outside == inside
