"""Operator norms of a model's layers: how far each stretches its input at most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from robsearch.errors import one_of, refuse_unless
from robsearch.network import operators
from robsearch.network.layers import Traced, covered_maps
from robsearch.network.operators import BatchNorm
from robsearch.protocols import About, Images, Labels, PerLayer, Scalar


@dataclass(frozen=True)
class OperatorNorm:
    """The operator norm of each convolution, linear layer and BatchNorm that the model runs (arXiv
    2009.08435).

    Transposed convolutions and the matrices of ``nn.MultiheadAttention`` are among them. Which
    weights of a model have no such norm, a ``NotCoveredWarning`` says: of LayerNorm, embeddings,
    layers that pad otherwise than by zeros, BatchNorms without running statistics, parameters
    outside of layers.

    ``linf`` and ``l1`` are exact, on the layer's own input size, with its own stride, zero padding,
    dilation and groups. ``l2`` is exact for linear layers and BatchNorm and a lower bound for
    convolutions, see ``operators.spectral_norm``. Biases do not matter. Activations and sums are
    left out, so that the product of all is no bound for a network with shortcuts.

    Attributes:
        norm: ``l1``, ``linf`` or ``l2``, of the layer's inputs and of its outputs.
        folded: a BatchNorm that gets the output of a convolution or linear layer as it is counts as
            part of that layer, not on its own (WideResNet: ``conv1`` with ``bn2``), as their norms'
            product can be far larger than the norm of the two together.

    Raises:
        InputError: ``norm`` is another, ``folded`` not a bool.
    """

    norm: Literal["l1", "linf", "l2"] = "linf"
    folded: bool = False

    def __post_init__(self) -> None:
        do = "pass one of these"
        refuse_unless(
            one_of("norm", self.norm, "l1", "linf", "l2"),
            (isinstance(self.folded, bool), "folded True or False", repr(self.folded), do),
        )

    @property
    def name(self) -> str:
        """``norms/linf``, or ``norms_folded/linf``."""
        family = "norms_folded" if self.folded else "norms"
        return f"{family}/{self.norm}"

    @property
    def about(self) -> About:
        """Exact; for l2 a lower bound. A pure number."""
        kind: Literal["lower bound", "exact"] = "lower bound" if self.norm == "l2" else "exact"
        return About(kind, "1", "arXiv 2009.08435", norm=self.norm)

    def by_layer(self, model: nn.Module, x: Images, y: Labels) -> Mapping[str, PerLayer]:
        """One number for each layer, (1,), in order of execution.

        Raises:
            InputError: images outside [0, 1], labels out of range, logits not finite.
        """
        covered = [layer for layer in covered_maps(model, x, y) if not layer.reason]
        if self.folded:
            covered = list(_folded(covered))
        return {layer.name: self._of(layer)[None] for layer in covered}

    def _of(self, layer: Traced) -> Scalar:
        if self.norm == "l2":
            return operators.spectral_norm(layer.module, layer.shape)
        kind: Literal["l1", "linf"] = self.norm
        # The rows of an adjoint are the columns of the convolution that stands for it.
        if layer.adjoint:
            kind = "linf" if kind == "l1" else "l1"
        return operators.norm(layer.module, layer.shape, kind)


def _folded(run: list[Traced]) -> Iterator[Traced]:
    batch_norms = {}
    for layer in run:
        if isinstance(layer.module, BatchNorm):
            batch_norms[layer.name] = layer.module
    folded_away = {layer.batch_norm for layer in run}
    for layer in run:
        if isinstance(layer.module, BatchNorm):
            if layer.name not in folded_away:
                yield layer
        elif layer.batch_norm in batch_norms:
            batch_norm = batch_norms[layer.batch_norm]
            both = operators.fold(layer.module, batch_norm, layer.adjoint)
            yield layer._replace(module=both)
        else:
            yield layer
