"""One layer as a linear map, its bias left out: what it does, its norms, its singular values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Complex, Float
from torch import Tensor, nn

from robsearch.errors import InputError, number, one_of, problems_of, refusal, refuse, refused
from robsearch.protocols import PerLayer, Scalar

Conv: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d
Transposed: TypeAlias = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
BatchNorm: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
Layer: TypeAlias = Conv | nn.Linear
Affine: TypeAlias = Layer | BatchNorm
Shape: TypeAlias = tuple[int, ...]
"""One input of a layer, without the batch: (channels, height, width) or (features,)."""
CONVOLUTIONS: dict[int, tuple[Any, Any, Any]] = {
    1: (nn.Conv1d, F.conv1d, F.conv_transpose1d),
    2: (nn.Conv2d, F.conv2d, F.conv_transpose2d),
    3: (nn.Conv3d, F.conv3d, F.conv_transpose3d),
}
"""By the number of dimensions: module, function and transposed function."""


def applied(layer: Layer, x: Tensor, weight: Tensor) -> Tensor:
    """The layer on ``x``, (n, *shape), as a linear map: without bias, with this weight, padded by
    zeros."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight)
    convolve: Callable[..., Tensor] = CONVOLUTIONS[len(layer.kernel_size)][1]
    return convolve(
        x,
        weight,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=layer.groups,
    )


def adjoint(layer: Layer, y: Tensor, weight: Tensor, shape: Shape) -> Tensor:
    """The transposed map of ``applied`` on outputs ``y``: (n, *shape), so that
    ``<A x, y> = <x, adjoint(y)>``.

    torch's transposed convolution is not enough: it cannot restore pixels that the stride left out
    at the end, nor padding that is wider on one side.
    """
    if isinstance(layer, nn.Linear):
        return F.linear(y, weight.T)
    transpose: Callable[..., Tensor] = CONVOLUTIONS[len(layer.kernel_size)][2]
    pixels = transpose(
        y,
        weight,
        stride=layer.stride,
        dilation=layer.dilation,
        groups=layer.groups,
    )
    for axis, (before, after) in enumerate(padding(layer)):
        side = shape[1 + axis]
        padded = before + side + after
        # Pixels that no tap reached, at the far end, are 0; then the padding is cut off again.
        not_reached = padded - pixels.shape[2 + axis]
        axes_after = [0, 0] * (len(shape) - 2 - axis)
        pixels = F.pad(pixels, [*axes_after, 0, not_reached])
        pixels = pixels.narrow(2 + axis, before, side)
    return pixels


def convolution(layer: Transposed) -> Conv:
    """The convolution whose adjoint a transposed one is: from inputs shaped as its outputs to its
    inputs."""
    twin = with_weight(layer, layer.weight)
    assert isinstance(twin, Conv)
    return twin


def with_weight(layer: Layer | Transposed, weight: Tensor) -> Layer:
    """A layer with the settings of this one and another weight, without bias and gradient; of a
    transposed convolution a convolution.

    It is made from the layer's arguments, because a copy would bring its hooks along.
    """
    inputs = weight.shape[1] * groups(layer)
    twin: Layer
    if isinstance(layer, nn.Linear):
        twin = nn.Linear(inputs, len(weight), bias=False, device="meta")
    else:
        twin = CONVOLUTIONS[len(layer.kernel_size)][0](
            inputs,
            len(weight),
            layer.kernel_size,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
            bias=False,
            padding_mode=layer.padding_mode,
            device="meta",
        )
    twin.weight = nn.Parameter(weight.detach(), False)
    return twin


def groups(layer: Layer | Transposed) -> int:
    """Into how many groups the channels are split; a linear layer's are one."""
    return 1 if isinstance(layer, nn.Linear) else layer.groups


def padding(layer: Conv) -> list[tuple[int, int]]:
    """Pixels of padding before and after, for each dimension: (above, below) and (left, right)."""
    if isinstance(layer.padding, str):
        if layer.padding == "valid":
            return [(0, 0)] * len(layer.kernel_size)
        # As torch does: of an odd number the larger half comes after.
        return [((side - 1) // 2, side // 2) for side in extent(layer)]
    return [(pad, pad) for pad in layer.padding]


def extent(layer: Conv) -> tuple[int, ...]:
    """Height and width of the kernel with its holes, in pixels."""
    axes = zip(layer.kernel_size, layer.dilation, strict=True)
    return tuple(1 + dilation * (taps - 1) for taps, dilation in axes)


def misfit(layer: Affine, shape: Shape, name: str = "the layer") -> list[str]:
    """The problem with a shape that is not that of an input of the layer; empty if it may be."""
    if isinstance(layer, Conv):
        has_all_axes = len(shape) == 1 + len(layer.kernel_size)
        fits = has_all_axes and shape[0] == layer.in_channels
    elif isinstance(layer, nn.Linear):
        fits = shape[-1:] == (layer.in_features,)
    else:
        fits = shape[:1] == (layer.num_features,)
    if fits:
        return []
    expected = f"the shape of an input of {name}, {layer}"
    do = "pass the shape of one input, without the batch"
    return [refusal(expected, shape, do)]


def reshaped(layer: Layer) -> Float[Tensor, "o i"]:
    """The weight as a matrix, (out, in / groups * kernel height * kernel width); a convolution's
    own is larger."""
    return weight_of(layer).flatten(1)


def weight_of(layer: Layer) -> Tensor:
    """The weight, without gradient; one of 16 bits as float32."""
    weight = layer.weight.detach()
    return weight.to(torch.promote_types(weight.dtype, torch.float32))


def scales(batch_norm: BatchNorm) -> Float[Tensor, "c"]:
    """What BatchNorm multiplies each channel by in eval mode:
    ``gamma / sqrt(running variance + eps)``.

    Raises:
        InputError: it keeps no running statistics: what it does depends on the batch.
    """
    if batch_norm.running_var is None:
        raise InputError(*without_statistics(batch_norm, "the BatchNorm"))
    scale = (batch_norm.running_var + batch_norm.eps).rsqrt()
    if batch_norm.weight is None:
        return scale
    return batch_norm.weight.detach() * scale


def without_statistics(batch_norm: BatchNorm, name: str) -> list[str]:
    """The problem with a BatchNorm that keeps no running statistics; empty if it keeps them."""
    if batch_norm.running_var is not None:
        return []
    do = "build it with track_running_stats=True: otherwise it is no linear map"
    return [refusal(f"running statistics in {name}", "none", do)]


def fold(layer: Layer, batch_norm: BatchNorm, adjoint: bool = False) -> Layer:
    """One layer, without bias, that does what ``layer`` and then ``batch_norm`` in eval mode do, as
    linear maps.

    A new module, without gradient; its weight is the layer's, each output channel times BatchNorm's
    factor. With ``adjoint`` the layer stands for its adjoint, as in ``convolution``, which the
    BatchNorm follows.

    Raises:
        InputError: the BatchNorm has another number of channels, or no running statistics.
    """
    weight = layer.weight.detach()
    channels = groups(layer) * weight.shape[1] if adjoint else len(weight)
    if batch_norm.num_features != channels:
        expected = f"a BatchNorm of the layer's {channels} output channels"
        do = "pass the one that the layer feeds"
        raise refused(expected, batch_norm.num_features, do)
    scale = scales(batch_norm).to(weight)
    kernel = [1] * (weight.ndim - 2)
    if adjoint:
        by_group = weight.unflatten(0, (groups(layer), -1))
        scaled = by_group * scale.view(groups(layer), 1, -1, *kernel)
        folded = scaled.flatten(0, 1)
    else:
        folded = weight * scale.view(-1, 1, *kernel)
    return with_weight(layer, folded)


# --- norms ---

CHECKED_EVERY = 10
"""Steps between two looks at how much the l2 norm still grows: on a GPU each look waits for it."""


def norm(layer: Affine, shape: Shape, kind: Literal["l1", "linf"]) -> Scalar:
    """The layer's exact operator norm on inputs of this shape, from linf to linf or from l1 to l1.

    ``linf`` is the largest row sum of the absolute values of the layer's whole matrix, ``l1`` the
    largest column sum. For a convolution with kernel ``K`` that is the largest entry of
    ``conv(ones, |K|)``, and of its adjoint on ones: exact for any stride, zero padding, dilation,
    groups, kernel and input size (arXiv 2009.08435, whose closed form knows fewer). On ones the
    channels sum up first, so it costs little more than one sum over ``|K|``. A BatchNorm counts as
    in eval mode: the largest ``|gamma| / sqrt(running variance + eps)``.

    Args:
        layer: the layer; its bias does not matter.
        shape: of one input, (channels, height, width) or (features,).
        kind: ``linf`` or ``l1``.

    Raises:
        InputError: it pads, but not by zeros; the shape is not the layer's; a BatchNorm without
            running statistics.
    """
    options = problems_of(one_of("kind", kind, "l1", "linf"))
    refuse(problems(layer, shape) + options)
    if isinstance(layer, BatchNorm):
        return scales(layer).abs().max()
    sizes = weight_of(layer).abs()
    rows = kind == "linf"
    if rows:
        taps = sizes.sum(dim=1)
    else:
        by_group = sizes.unflatten(0, (groups(layer), -1))
        taps = by_group.sum(dim=1).flatten(0, 1)
    if isinstance(layer, nn.Linear):
        return taps.max()
    sums = taps.double()
    # Each step sums over the kernel's next dimension and appends the dimension of its tap sets.
    for axis in range(len(layer.kernel_size)):
        tap_sets = _tap_sets(layer, shape, axis, rows).to(sums)
        sums = torch.tensordot(sums, tap_sets, dims=([1], [0]))
    return sums.max().to(taps.dtype)


def _tap_sets(
    layer: Conv,
    shape: Shape,
    axis: int,
    rows: bool,
) -> Bool[Tensor, "k p"]:
    """Which taps meet the image at an output (rows), or reach an input from any output: each set of
    taps once."""
    before, _ = padding(layer)[axis]
    image = torch.arange(shape[1 + axis])
    steps = torch.arange(outputs(layer, shape)[axis])
    positions = steps * layer.stride[axis] - before
    taps = torch.arange(layer.kernel_size[axis]) * layer.dilation[axis]
    # (tap, output, pixel)
    reached = (taps[:, None] + positions)[..., None] == image
    other = 2 if rows else 1
    sets: Tensor = reached.any(dim=other).unique(dim=1)
    return sets


def spectral_norm(
    layer: Affine,
    shape: Shape,
    steps: int = 200,
    tolerance: float = 1e-4,
) -> Scalar:
    """The layer's operator norm from l2 to l2, its largest singular value, on inputs of this shape.

    Exact for a linear layer, by its SVD, and for a BatchNorm. For a convolution, with its own
    stride and zero padding, a **lower bound** that converges: power iteration on ``A^T A`` that
    keeps the whole Krylov space (Golub and Kahan's bidiagonalisation), always from the same start.
    The largest ``||A x||`` over the space's unit vectors only grows; it ends where that grew by
    less than ``tolerance`` over the last ten steps.

    Args:
        layer: the layer; its bias does not matter.
        shape: of one input, (channels, height, width) or (features,).
        steps: at most so many products with ``A`` and with ``A^T``.
        tolerance: relative.

    Raises:
        InputError: as for ``norm``; ``steps`` below 1 or a ``tolerance`` that is not a number >= 0.
    """
    options = problems_of(
        number("steps", steps, "200 is the default", at_least=1),
        number("tolerance", tolerance, "1e-4 is the default", at_least=0),
    )
    refuse(problems(layer, shape) + options)
    if isinstance(layer, BatchNorm):
        return scales(layer).abs().max()
    if isinstance(layer, nn.Linear):
        largest: Tensor = torch.linalg.svdvals(weight_of(layer))[0]
        return largest
    weight = weight_of(layer)
    # A GPU's convolutions of float32 round to TF32, and what they find could be above the norm.
    exact = weight.double() if weight.is_cuda else weight
    return _krylov(layer, shape, exact, steps, tolerance).to(weight.dtype)


def _krylov(
    layer: Conv,
    shape: Shape,
    weight: Tensor,
    steps: int,
    tolerance: float,
) -> Scalar:
    # The same start everywhere, so that a layer has the same norm in every process.
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(1, *shape, generator=generator).to(weight)
    right, _ = _unit(start)
    diagonal: list[Tensor] = []
    above: list[Tensor] = []
    left = weight.new_zeros(())
    beta = left
    last = left
    best = left
    # Golub and Kahan: A restricted to the Krylov space is the bidiagonal matrix of these two lists.
    for step in range(1, steps + 1):
        left, alpha = _unit(applied(layer, right, weight) - beta * left)
        diagonal.append(alpha)
        if step % CHECKED_EVERY == 0 or step == steps:
            matrix = torch.diag(torch.stack(diagonal))
            if above:
                matrix += torch.diag(torch.stack(above), 1)
            best = torch.linalg.svdvals(matrix)[0]
            if bool(best - last <= tolerance * best):
                break
            last = best
        right, beta = _unit(adjoint(layer, left, weight, shape) - alpha * right)
        above.append(beta)
    return best


def _unit(x: Tensor) -> tuple[Tensor, Tensor]:
    """``x`` over its l2 norm, or 0 for 0; and the norm."""
    length: Tensor = torch.linalg.vector_norm(x)
    tiny = torch.finfo(x.dtype).tiny
    return x / length.clamp_min(tiny), length


def outputs(layer: Conv, shape: Shape) -> tuple[int, ...]:
    """Height and width of the output; below 1 where the kernel does not fit."""
    axes = zip(shape[1:], padding(layer), extent(layer), layer.stride, strict=True)
    return tuple((side + sum(pads) - kernel) // stride + 1 for side, pads, kernel, stride in axes)


def problems(layer: Affine, shape: Shape, name: str = "the layer") -> list[str]:
    """Why the layer has no norm on inputs of this shape, one sentence each; empty if it has one."""
    reasons = misfit(layer, shape, name)
    if layer.weight is not None and layer.weight.is_complex():
        do = "leave it out: norms are of real maps"
        reasons.append(refusal(f"real weights in {name}", layer.weight.dtype, do))
    if isinstance(layer, BatchNorm):
        return reasons + without_statistics(layer, name)
    if isinstance(layer, nn.Linear):
        return reasons
    if not reasons and min(outputs(layer, shape)) < 1:
        expected = f"an input as large as the kernel of {name}"
        reasons.append(refusal(expected, shape, "pass larger images"))
    if layer.padding_mode != "zeros" and pads(layer):
        do = "build it with padding_mode='zeros': the norm is exact for no other"
        reasons.append(refusal(f"zero padding in {name}", repr(layer.padding_mode), do))
    return reasons


def pads(layer: Conv) -> bool:
    """Whether it pads its inputs at all; where it does not, its ``padding_mode`` means nothing."""
    return any(max(pair) > 0 for pair in padding(layer))


# --- singular values ---


def singular_values(layer: Layer, shape: Shape) -> PerLayer:
    """All singular values of the layer on inputs of this shape, with their multiplicity, the
    largest first.

    Exact for a convolution that wraps around (circular padding; Sedghi et al. 2019, arXiv
    1805.10408): one small SVD for each frequency and group. With stride ``(s, t)`` the output's
    frequency sees the input's ``s t`` aliases of it: its block is theirs side by side, over
    ``sqrt(s t)``. There are as many as the smaller side of the whole matrix has entries, so that
    mean and deviation are those of the whole matrix.

    An input smaller than the kernel counts as large as the kernel; one that the stride does not
    divide, as large as the next multiple. With zero padding, as most layers have, these are not the
    layer's own values.

    Args:
        layer: the layer; how it pads does not matter.
        shape: of one input, (channels, height, width) or (features,).

    Raises:
        InputError: the shape is not the layer's.
    """
    refuse(misfit(layer, shape))
    if isinstance(layer, nn.Linear):
        return spectrum(layer, shape)
    outputs_of_side = []
    for side, stride in zip(grid(layer, shape), layer.stride, strict=True):
        outputs_of_side.append(math.ceil(side / stride))
    half = _strided_blocks(layer, outputs_of_side)
    values: Tensor = torch.linalg.svdvals(half)
    last = len(layer.kernel_size)
    # Of a real kernel each frequency has a twin with the same values, but for the first and, if
    # their number is even, the middle one.
    repeats = torch.full((half.shape[last],), 2, device=values.device)
    repeats[0] = 1
    if outputs_of_side[-1] % 2 == 0:
        repeats[-1] = 1
    repeated = values.repeat_interleave(repeats, dim=last)
    return repeated.flatten().sort(descending=True).values


def _strided_blocks(
    layer: Conv, outputs_of_side: list[int]
) -> Complex[Tensor, "g *frequencies o i"]:
    """The blocks by group and frequency of the output; in the last dimension only of the half of
    the frequencies that differ."""
    dims = len(layer.kernel_size)
    sides = []
    split = []
    for count, stride in zip(outputs_of_side, layer.stride, strict=True):
        sides.append(count * stride)
        split += [stride, count]
    kernel = _spaced(layer)
    waves = torch.fft.fftn(kernel, s=sides, dim=tuple(range(2, 2 + dims)))
    waves = waves / math.sqrt(math.prod(layer.stride))
    # (group, out, in, alias, frequency, alias, frequency, ...): the aliases join the inputs.
    aliased = waves.view(layer.groups, -1, waves.shape[1], *split)
    half: Tensor = aliased[..., : outputs_of_side[-1] // 2 + 1]
    aliases = range(3, 3 + 2 * dims, 2)
    frequencies = range(4, 4 + 2 * dims, 2)
    ordered = half.permute(0, *frequencies, 1, 2, *aliases)
    return ordered.flatten(2 + dims)


def spectrum(layer: Layer, shape: Shape) -> Float[Tensor, "*blocks r"]:
    """Singular values of the layer at stride 1 on inputs of this shape; a convolution's by group
    and by frequency.

    Of the frequencies, only those of the real FFT's half plane: the others repeat them. ``r`` is
    the smaller of a block's inputs and outputs.
    """
    values: Tensor = torch.linalg.svdvals(blocks(layer, shape))
    return values


def blocks(
    layer: Layer, shape: Shape
) -> Float[Tensor, "o i"] | Complex[Tensor, "g *frequencies o i"]:
    """The layer's matrix at stride 1; a convolution's by group and frequency, as if it wrapped
    around.

    Shifts and reflections of the kernel only turn their phases.
    """
    if isinstance(layer, nn.Linear):
        return weight_of(layer)
    end = 2 + len(layer.kernel_size)
    transformed: Tensor = torch.fft.rfftn(
        _spaced(layer),
        s=grid(layer, shape),
        dim=tuple(range(2, end)),
    )
    by_group: Tensor = transformed.unflatten(0, (layer.groups, -1))
    return by_group.permute(0, *range(3, end + 1), 1, 2)


def kernel_of(layer: Layer, whole: Tensor) -> Tensor:
    """The taps that the layer's kernel has of a filter as large as its input; a linear layer's is
    whole."""
    if isinstance(layer, nn.Linear):
        return whole
    sides = zip(extent(layer), layer.dilation, strict=True)
    taps: list[Any] = [slice(0, side, dilation) for side, dilation in sides]
    return whole[(..., *taps)]


def _spaced(layer: Conv) -> Float[Tensor, "o i *sides"]:
    """The kernel with its holes."""
    weight = weight_of(layer)
    spaced = weight.new_zeros(*weight.shape[:2], *extent(layer))
    kernel_of(layer, spaced).copy_(weight)
    return spaced


def grid(layer: Layer, shape: Shape) -> tuple[int, ...]:
    """Height and width of the plane that a convolution wraps around; () for a linear layer."""
    if isinstance(layer, nn.Linear):
        return ()
    return tuple(map(max, shape[1:], extent(layer)))
