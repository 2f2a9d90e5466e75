"""Singular value clipping: every so many steps, no layer stretches anything by more than a
bound."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robsearch.errors import count, number, refuse_unless
from robsearch.network.layers import input_sizes, sized
from robsearch.network.operators import Layer, Shape, blocks, grid, kernel_of, spectrum
from robsearch.protocols import Penalty, PenaltyState


@dataclass(frozen=True)
class SingularValueClipping(Penalty):
    """Clips the singular values of convolutions and linear layers after every ``every`` steps
    (arXiv 2009.08435).

    A linear layer's come from its SVD, and afterwards none is above ``clip``. A convolution's are
    exact for circular padding on its own input size (Sedghi et al. 2019, arXiv 1805.10408): one
    small SVD for each frequency. Clipped, it is a filter as large as the image, of which only the
    taps of its kernel are kept; **this truncation brings back part of what was clipped** (a clip at
    1.0 became 1.37 in one trial, and 1.27 to 1.34 in the 3x3 layers of an untrained WRN-16-2 on
    32x32 images), and ``excess`` says how much. A layer within the bound keeps its weights bit for
    bit. Weights that are not finite are left alone.

    Padding: by zeros or otherwise, a layer is treated as circular. Stride: a strided convolution is
    clipped as the convolution of stride 1 that it takes its outputs from; it stretches no more than
    that one, often less. Dilation and groups are exact. An input smaller than the kernel counts as
    large as the kernel.

    The state holds ``input/<layer>``, a convolution's input size: zeros until the first forward
    after ``init`` writes it there through a hook that then removes itself.

    Attributes:
        clip: the largest singular value allowed, above 0; 0.1 to 2 in the paper.
        every: steps between clippings; 100 in the paper.

    Raises:
        InputError: all fields that do not fit, at once.
    """

    clip: float = 1.0
    every: int = 100

    def __post_init__(self) -> None:
        refuse_unless(
            number("clip", self.clip, "the paper uses 0.1 to 2", above=0),
            count("every", self.every, "100 is the paper's"),
        )

    def init(self, model: nn.Module) -> PenaltyState:
        """Input sizes for the model's next forward to fill in."""
        return input_sizes(model)

    def after_step(
        self,
        model: nn.Module,
        state: PenaltyState,
        step: int,
    ) -> PenaltyState:
        """Clips the weights in place after steps ``every - 1``, ``2 every - 1`` ...; the same
        state.

        Raises:
            InputError: the state is not the one that ``init`` gave before the model's first
                forward.
        """
        if (step + 1) % self.every == 0:
            with torch.no_grad():
                for _, layer, shape in sized(model, state):
                    # Subtracted, so that a layer within the bound stays bit for bit.
                    too_much = surplus(layer, shape, self.clip)
                    layer.weight.sub_(kernel_of(layer, too_much))
        return state

    def excess(
        self,
        model: nn.Module,
        state: PenaltyState,
    ) -> dict[str, float]:
        """How far each layer's largest singular value is above ``clip``, 0.37 where a clip at 1.0
        became 1.37.

        By the layer's name, in the units of the weights, at least 0. Right after a clipping it is
        what truncation to the kernel's size brought back; 0, up to rounding, for linear layers and
        for 1x1 kernels.

        Raises:
            InputError: the state is not the one that ``init`` gave before the model's first
                forward.
        """
        above = {}
        with torch.no_grad():
            for name, layer, shape in sized(model, state):
                largest = spectrum(layer, shape).max().item()
                above[name] = max(largest - self.clip, 0.0)
        return above


def surplus(layer: Layer, shape: Shape, clip: float) -> Tensor:
    """What to subtract from the layer so that no singular value is above ``clip``: 0 where none is.

    (out, in) for a linear layer; for a convolution (out, in / groups, height, width): a filter as
    large as the input, on which a smaller kernel stands at ``[..., 0::dilation, 0::dilation]``.
    """
    matrices = blocks(layer, shape)
    if not matrices.isfinite().all():
        channels = layer.weight.shape[:2]
        return layer.weight.new_zeros(*channels, *grid(layer, shape))
    u, values, vh = torch.linalg.svd(matrices, full_matrices=False)
    # U max(S - clip, 0) V^H: without it, what is left has no value above the clip.
    excess = (values - clip).clamp_min(0)
    above: Tensor = (u * excess[..., None, :]) @ vh
    if isinstance(layer, nn.Linear):
        return above
    # irfft2 transforms the last two axes: frequencies go there, channels to the front.
    by_channel = above.permute(0, 3, 4, 1, 2).flatten(0, 1)
    whole: Tensor = torch.fft.irfft2(by_channel, s=grid(layer, shape))
    return whole
