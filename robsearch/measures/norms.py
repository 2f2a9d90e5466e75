"""Operator norms of a model's layers: how far each stretches its input at most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from robsearch import operators
from robsearch.errors import refuse_unless
from robsearch.layers import Traced, traced, warn_of_rest
from robsearch.modes import check_in_parts, evaluating
from robsearch.operators import BatchNorm
from robsearch.protocols import About, Images, Labels, PerLayer, Scalar


@dataclass(frozen=True)
class OperatorNorm:
    """The operator norm of each convolution, linear layer and BatchNorm that the model runs (arXiv 2009.08435).

    Transposed convolutions and the matrices of ``nn.MultiheadAttention`` are among them. Which weights of a model have
    no such norm, a ``NotCoveredWarning`` says: of LayerNorm, embeddings, layers that pad otherwise than by zeros,
    BatchNorms without running statistics, parameters outside of layers.

    ``linf`` and ``l1`` are exact, on the layer's own input size, with its own stride, zero padding, dilation and
    groups. ``l2`` is exact for linear layers and BatchNorm and a lower bound for convolutions, see
    ``operators.spectral_norm``. Biases do not matter. Activations and sums are left out, so that the product of all
    is no bound for a network with shortcuts.

    Attributes:
        norm: ``l1``, ``linf`` or ``l2``, of the layer's inputs and of its outputs.
        folded: a BatchNorm that gets the output of a convolution or linear layer as it is counts as part of that
            layer, not on its own (WideResNet: ``conv1`` with ``bn2``), as their norms' product can be far larger than
            the norm of the two together.

    Raises:
        InputError: ``norm`` is another, ``folded`` not a bool.
    """

    norm: Literal["l1", "linf", "l2"] = "linf"
    folded: bool = False

    def __post_init__(self) -> None:
        refuse_unless(
            (self.norm in ("l1", "linf", "l2"), "norm 'l1', 'linf' or 'l2'", repr(self.norm), "pass one of these"),
            (isinstance(self.folded, bool), "folded True or False", repr(self.folded), "pass one of these"),
        )

    @property
    def name(self) -> str:
        """``norms/linf``, or ``norms_folded/linf``."""
        return f"norms{'_folded' if self.folded else ''}/{self.norm}"

    @property
    def about(self) -> About:
        """Exact; for l2 a lower bound. A pure number."""
        return About("lower bound" if self.norm == "l2" else "exact", "1", "arXiv 2009.08435", norm=self.norm)

    def by_layer(self, model: nn.Module, x: Images, y: Labels) -> Mapping[str, PerLayer]:
        """One number for each layer, (1,), in order of execution.

        Raises:
            InputError: images outside [0, 1], labels out of range, logits not finite.
        """
        with evaluating(model), torch.no_grad():
            check_in_parts(model, x, y)
            run = traced(model, x[:1])
            warn_of_rest(model, run)
            covered = [t for t in run if not t.reason]
            return {t.name: self._of(t).reshape(1) for t in (_folded(covered) if self.folded else covered)}

    def _of(self, layer: Traced) -> Scalar:
        if self.norm == "l2":
            return operators.spectral_norm(layer.module, layer.shape)
        kind: Literal["l1", "linf"] = self.norm
        if layer.adjoint:
            kind = "linf" if kind == "l1" else "l1"
        return operators.norm(layer.module, layer.shape, kind)


def _folded(run: list[Traced]) -> Iterator[Traced]:
    norms = {t.name: t.module for t in run if isinstance(t.module, BatchNorm)}
    inside = {t.batch_norm for t in run} & norms.keys()
    for t in run:
        norm = norms.get(t.batch_norm or "")
        if isinstance(norm, BatchNorm) and not isinstance(t.module, BatchNorm):
            yield t._replace(module=operators.fold(t.module, norm, t.adjoint))
        elif t.name not in inside:
            yield t
