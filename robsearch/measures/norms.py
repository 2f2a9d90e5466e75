"""Operator norms of a model's layers: how far each stretches its input at most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from robsearch import operators
from robsearch.errors import InputError, refuse_unless
from robsearch.layers import Traced, traced
from robsearch.modes import checked_logits, evaluating
from robsearch.operators import Affine, Shape
from robsearch.protocols import About, Images, Labels, PerLayer, Scalar


@dataclass(frozen=True)
class OperatorNorm:
    """The operator norm of each convolution, linear layer and BatchNorm that the model runs (arXiv 2009.08435).

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
            InputError: images outside [0, 1], labels out of range, logits not finite; all layers that pad otherwise
                than by zeros and all BatchNorms without running statistics, as they have no such norm.
        """
        with evaluating(model), torch.no_grad():
            checked_logits(model, x, y)
            run = traced(model, x[:1])
            problems = [item for t in run for item in operators.problems(t.module, t.shape, t.name or "the model")]
            if problems:
                raise InputError(*problems)
            chosen = _folded(run) if self.folded else ((t.name, t.module, t.shape) for t in run)
            return {name: self._of(layer, shape).reshape(1) for name, layer, shape in chosen}

    def _of(self, layer: Affine, shape: Shape) -> Scalar:
        return operators.spectral_norm(layer, shape) if self.norm == "l2" else operators.norm(layer, shape, self.norm)


def _folded(run: list[Traced]) -> Iterator[tuple[str, Affine, Shape]]:
    norms = {t.name: t.module for t in run if isinstance(t.module, nn.BatchNorm1d | nn.BatchNorm2d)}
    inside = {t.batch_norm for t in run}
    for t in run:
        if isinstance(t.module, nn.Conv2d | nn.Linear) and t.batch_norm is not None:
            yield t.name, operators.fold(t.module, norms[t.batch_norm]), t.shape
        elif t.name not in inside:
            yield t.name, t.module, t.shape
