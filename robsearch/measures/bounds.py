"""A bound from above on a whole network's Lipschitz constant, anywhere: how far its logits move if
each pixel does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from robsearch.errors import one_of, refuse_unless
from robsearch.measures.changes import Change, LayerChange, propagated_in_logs
from robsearch.network.modes import check_in_parts, evaluating
from robsearch.protocols import About, Images, Labels, PerLayer

LOG10 = "log10"
"""The name under which a measure of layers gives the logarithm of a number of the whole model."""


@dataclass(frozen=True)
class GlobalBound:
    """At least ``||f(x) - f(x')||_1 / ||x - x'||_inf`` for any two images: one row for the whole
    model.

    With ``d`` bounding each entry's change, from 1 for each pixel: a layer gives ``|W| d`` (a batch
    norm with its fixed statistics too), an activation its largest slope times ``d`` (1 for ReLU,
    1.0998394 for SiLU), a sum the sum of both sides, so that a residual block is
    ``d + |branch| d``; the bound is the sum over the logits. On a multilayer perceptron it is the
    sum over all paths of the product of ``|weights|``, the path norm (arXiv 1503.00036).

    ``by="layer"`` lets only the largest entry through to the next layer: a product of exact linf
    operator norms (arXiv 1312.6199, section 4.3; 2009.08435 for convolutions), a batch norm folded
    into the layer that feeds it, sums over residual branches, times the number of logits. It is
    never below ``by="entry"``.

    The bound of a deep network can be larger than any float: its logarithm to the base 10 is given
    beside it.

    Both hold for any weights and say little of deep networks: the bound grows with each layer while
    cancelling signs, which are left out, keep the network itself from moving.

    Attributes:
        by: ``entry``, or ``layer``.

    Raises:
        InputError: ``by`` is another.
    """

    by: Literal["entry", "layer"] = "entry"

    def __post_init__(self) -> None:
        refuse_unless(one_of("by", self.by, "entry", "layer"))

    @property
    def name(self) -> str:
        """``lipschitz/global_bound``, followed by ``_by_layer`` for that one."""
        if self.by == "layer":
            return "lipschitz/global_bound_by_layer"
        return "lipschitz/global_bound"

    @property
    def about(self) -> About:
        """An upper bound, in logits per pixel unit."""
        source = "arXiv 1503.00036" if self.by == "entry" else "arXiv 1312.6199, section 4.3"
        return About("upper bound", "logits per pixel unit", source, norm="linf to l1")

    def by_layer(self, model: nn.Module, x: Images, y: Labels) -> Mapping[str, PerLayer]:
        """The bound, (1,) in float64, under the name ``""``, and its logarithm under ``log10``.

        Of the examples, only the size matters. The bound is infinite where it is beyond float64.

        Raises:
            InputError: an operation without a known bound; images outside [0, 1], labels out of
                range, logits not finite.
        """
        kind = Change if self.by == "entry" else LayerChange
        with evaluating(model), torch.no_grad():
            check_in_parts(model, x, y)
            logits, log = propagated_in_logs(
                model,
                torch.ones_like(x[:1], dtype=torch.float64),
                kind,
            )
            total = logits.sum()
            if self.by == "layer":
                total = logits.amax() * logits.numel()
            whole = total
            if log:
                # Beyond float64 this is infinite, and math.exp would raise.
                factor = torch.tensor(log, dtype=torch.float64).exp()
                whole = total * factor.to(total.device)
            log10 = total.log10() + log / math.log(10)
            return {"": whole[None], LOG10: log10[None]}
