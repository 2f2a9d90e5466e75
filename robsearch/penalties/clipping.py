"""Singular value clipping: every so many steps, no layer stretches anything by more than a bound."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robsearch.errors import number, refuse_unless
from robsearch.layers import input_sizes, sized
from robsearch.operators import Layer, Shape, blocks, grid, kernel_of, spectrum
from robsearch.protocols import Labels, Logits, PenaltyState, Scalar


@dataclass(frozen=True)
class SingularValueClipping:
    """Clips the singular values of convolutions and linear layers after every ``every`` steps (arXiv 2009.08435).

    A linear layer's come from its SVD, and afterwards none is above ``clip``. A convolution's are exact for circular
    padding on its own input size (Sedghi et al. 2019, arXiv 1805.10408): one small SVD for each frequency. Clipped,
    it is a filter as large as the image, of which only the taps of its kernel are kept; **this truncation brings
    back part of what was clipped** (a clip at 1.0 became 1.37 in one trial, and 1.27 to 1.34 in the 3x3 layers of an
    untrained WRN-16-2 on 32x32 images), and ``excess`` says how much. A layer within the bound keeps its weights
    bit for bit. Weights that are not finite are left alone.

    Padding: by zeros or otherwise, a layer is treated as circular. Stride: a strided convolution is clipped as the
    convolution of stride 1 that it takes its outputs from; it stretches no more than that one, often less.
    Dilation and groups are exact. An input smaller than the kernel counts as large as the kernel.

    The state holds ``input/<layer>``, a convolution's input size: zeros until the first forward after ``init``
    writes it there through a hook that then removes itself.

    Attributes:
        clip: the largest singular value allowed, above 0; 0.1 to 2 in the paper.
        every: steps between clippings; 100 in the paper.

    Raises:
        InputError: all fields that do not fit, at once.
    """

    clip: float = 1.0
    every: int = 100

    def __post_init__(self) -> None:
        whole = isinstance(self.every, int) and not isinstance(self.every, bool)
        refuse_unless(
            number("clip", self.clip, "> 0", "the paper uses 0.1 to 2"),
            (whole and self.every >= 1, "every a whole number >= 1", self.every, "100 is the paper's"),
        )

    def init(self, model: nn.Module) -> PenaltyState:
        """Input sizes for the model's next forward to fill in."""
        return input_sizes(model)

    def loss(self, model: nn.Module, clean_logits: Logits, y: Labels) -> Scalar | None:
        """None."""
        return None

    def before_step(self, model: nn.Module, state: PenaltyState, step: int) -> PenaltyState:
        """Nothing: the same state."""
        return state

    def after_step(self, model: nn.Module, state: PenaltyState, step: int) -> PenaltyState:
        """Clips the weights in place after steps ``every - 1``, ``2 every - 1`` ...; the same state.

        Raises:
            InputError: the state is not the one that ``init`` gave before the model's first forward.
        """
        if (step + 1) % self.every == 0:
            with torch.no_grad():
                for _, layer, shape in sized(model, state):
                    layer.weight.sub_(kernel_of(layer, surplus(layer, shape, self.clip)))
        return state

    def excess(self, model: nn.Module, state: PenaltyState) -> dict[str, float]:
        """How far each layer's largest singular value is above ``clip``, 0.37 where a clip at 1.0 became 1.37.

        By the layer's name, in the units of the weights, at least 0. Right after a clipping it is what truncation
        to the kernel's size brought back; 0, up to rounding, for linear layers and for 1x1 kernels.

        Raises:
            InputError: the state is not the one that ``init`` gave before the model's first forward.
        """
        with torch.no_grad():
            largest = {name: spectrum(layer, shape).max().item() for name, layer, shape in sized(model, state)}
        return {name: max(value - self.clip, 0.0) for name, value in largest.items()}


def surplus(layer: Layer, shape: Shape, clip: float) -> Tensor:
    """What to subtract from the layer so that no singular value is above ``clip``: 0 where none is.

    (out, in) for a linear layer; for a convolution (out, in / groups, height, width): a filter as large as the
    input, on which a smaller kernel stands at ``[..., 0::dilation, 0::dilation]``.
    """
    matrices = blocks(layer, shape)
    if not bool(matrices.isfinite().all()):
        return layer.weight.new_zeros(*layer.weight.shape[:2], *grid(layer, shape))
    u, values, vh = torch.linalg.svd(matrices, full_matrices=False)
    above: Tensor = (u * (values - clip).clamp_min(0)[..., None, :]) @ vh
    if isinstance(layer, nn.Linear):
        return above
    whole: Tensor = torch.fft.irfft2(above.permute(0, 3, 4, 1, 2).flatten(0, 1), s=grid(layer, shape))
    return whole
