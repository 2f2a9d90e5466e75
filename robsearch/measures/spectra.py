"""Singular values of a model's layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from robsearch.errors import one_of, refuse_unless
from robsearch.network.layers import covered_maps
from robsearch.network.operators import BatchNorm, Layer, Shape, reshaped, singular_values
from robsearch.protocols import About, Images, Labels, PerLayer


@dataclass(frozen=True)
class SingularValues:
    """All singular values of each convolution, transposed or not, and each linear layer that the
    model runs.

    The matrices of ``nn.MultiheadAttention`` are among them. Weights of other layers have none: a
    ``NotCoveredWarning`` names them.

    ``reshaped``: of the weight as an (out, in * kernel height * kernel width) matrix, as arXiv
    2011.07478 and much other work has it. Cheap, and for a kernel larger than 1x1 not those of the
    map that the layer is. Of a convolution by groups all rows stand below each other.

    ``circular``: of the layer's own matrix on its own input size, stride, dilation and groups
    included, **as if it wrapped around the image** (arXiv 1805.10408): exact for circular padding
    only. Networks here pad by zeros, and their layers' values differ near the border. One SVD for
    each frequency of the image, so it takes long for wide layers on large images.

    Attributes:
        method: ``reshaped`` or ``circular``; the same for linear layers.

    Raises:
        InputError: ``method`` is another.
    """

    method: Literal["reshaped", "circular"] = "reshaped"

    def __post_init__(self) -> None:
        refuse_unless(one_of("method", self.method, "reshaped", "circular"))

    @property
    def name(self) -> str:
        """``spectra/reshaped`` or ``spectra/circular``."""
        return f"spectra/{self.method}"

    @property
    def about(self) -> About:
        """Exact (of a layer that wraps around, where circular), a pure number."""
        source = "arXiv 2011.07478" if self.method == "reshaped" else "arXiv 1805.10408"
        return About("exact", "1", source, norm="l2")

    def by_layer(self, model: nn.Module, x: Images, y: Labels) -> Mapping[str, PerLayer]:
        """All values of each layer, the largest first, with their multiplicity, by layer in order
        of execution.

        Raises:
            InputError: images outside [0, 1], labels out of range, logits not finite.
        """
        values = {}
        for layer in covered_maps(model, x, y):
            # How a layer pads does not matter here, so that more layers count than have norms.
            if layer.as_written and not isinstance(layer.module, BatchNorm):
                values[layer.name] = self._of(layer.module, layer.shape)
        return values

    def _of(self, layer: Layer, shape: Shape) -> PerLayer:
        if self.method == "circular":
            return singular_values(layer, shape)
        values: PerLayer = torch.linalg.svdvals(reshaped(layer))
        return values
