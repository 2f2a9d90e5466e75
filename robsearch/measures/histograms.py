"""Histograms of per-example numbers: bins that are the same for every model, so that counts can be compared."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from robsearch.errors import number, refuse_unless
from robsearch.protocols import PerExample


def histogram(
    values: PerExample, span: tuple[float, float], bins: int = 200
) -> tuple[Float[Tensor, "e"], Int[Tensor, "b"]]:
    """Edges and counts: ``bins`` equal bins over ``span``, one more below and one above, so all values count.

    Bin ``i`` holds the values with ``edges[i] <= value < edges[i + 1]``; the one above holds infinity too.

    Args:
        values: (n,) numbers, also infinite ones; the counts sum to n.
        span: (low, high), in the values' unit: a measure's ``about.span``.
        bins: between low and high.

    Returns:
        edges: ``-inf, low, ..., high, inf``, (bins + 3,), float64 on the CPU: they follow from ``span`` and ``bins``.
        counts: (bins + 2,), int64 on the CPU.

    Raises:
        InputError: NaN among the values, a span that is not finite and rising, fewer than one bin: all at once.
    """
    low, high = span
    lost = int(values.isnan().sum())
    rising = math.isfinite(low) and math.isfinite(high) and low < high
    refuse_unless(
        (lost == 0, "numbers", f"NaN in {lost} of {len(values)}", "look at the measure that gave them"),
        (rising, "a finite span from low to high", span, "pass a measure's about.span"),
        number("bins", bins, ">= 1", "200 is the default", whole=True),
    )
    share = torch.arange(bins + 1, dtype=torch.float64) / bins
    # Not linspace: this puts the ends at low and high, and the middle of a span such as (-0.5, 0.5) at 0, exactly.
    inner = low * (1 - share) + high * share
    # By right=True a value on an edge belongs to the bin that the edge begins.
    places = torch.bucketize(values.detach().double().cpu(), inner, right=True)
    ends = inner.new_tensor([math.inf])
    return torch.cat([-ends, inner, ends]), places.bincount(minlength=bins + 2)
