"""A few honest numbers of what a measure says of examples and of layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean

import torch
from jaxtyping import Float, Int
from torch import Tensor

from robsearch.errors import count, refusal, refuse, refuse_unless
from robsearch.protocols import Metrics, PerExample, PerLayer


def summary(values: PerExample) -> Metrics:
    """``mean``, its standard error ``se``, ``min`` and quantiles ``q05``, ``q50``, ``q95`` of (n,)
    values.

    ``se`` is the sample's standard deviation over ``sqrt(n)``: it speaks of the draw of the
    examples, not of training seeds, and is NaN for one example.

    Raises:
        InputError: there are no values.
    """
    refuse_unless((len(values) > 0, "at least one value", 0, "measure at least one example"))
    values = values.detach().double()
    sd = values.std().item() if len(values) > 1 else math.nan
    levels = values.new_tensor([0.05, 0.5, 0.95])
    low, middle, high = values.quantile(levels).tolist()
    return {
        "mean": values.mean().item(),
        "se": sd / math.sqrt(len(values)),
        "min": values.min().item(),
        "q05": low,
        "q50": middle,
        "q95": high,
    }


def histogram(
    values: PerExample,
    span: tuple[float, float],
    bins: int = 200,
) -> tuple[Float[Tensor, "e"], Int[Tensor, "b"]]:
    """Edges and counts: ``bins`` equal bins over ``span``, one more below and one above, so all
    values count.

    Bin ``i`` holds the values with ``edges[i] <= value < edges[i + 1]``; the one above holds
    infinity too.

    Args:
        values: (n,) numbers, also infinite ones; the counts sum to n.
        span: (low, high), in the values' unit: a measure's ``about.span``.
        bins: between low and high.

    Returns:
        edges: ``-inf, low, ..., high, inf``, (bins + 3,), float64 on the CPU: they follow from
            ``span`` and ``bins``.
        counts: (bins + 2,), int64 on the CPU.

    Raises:
        InputError: NaN among the values, a span that is not finite and rising, fewer than one bin:
            all at once.
    """
    low, high = span
    lost = int(values.isnan().sum())
    rising = -math.inf < low < high < math.inf
    do = "look at the measure that gave them"
    refuse_unless(
        (lost == 0, "numbers", f"NaN in {lost} of {len(values)}", do),
        (rising, "a finite span from low to high", span, "pass a measure's about.span"),
        count("bins", bins, "200 is the default"),
    )
    share = torch.arange(bins + 1, dtype=torch.float64) / bins
    # Not linspace: this puts the ends at low and high, and the middle of a span such as (-0.5, 0.5)
    # at 0, exactly.
    inner = low * (1 - share) + high * share
    # By right=True a value on an edge belongs to the bin that the edge begins.
    exact = values.detach().double().cpu()
    bin_of = torch.bucketize(exact, inner, right=True)
    counts = bin_of.bincount(minlength=bins + 2)
    end = inner.new_tensor([math.inf])
    return torch.cat([-end, inner, end]), counts


def layer_summary(values: Mapping[str, Tensor]) -> Metrics:
    """``mean``, ``max`` and ``spread`` over layers; ``std`` and ``condition`` where any layer has
    several values.

    Each layer counts the same, however many values it has:

    - ``mean``: the average over layers of the layer's mean.
    - ``max``: the largest value of all.
    - ``spread``: the standard deviation over layers of the layers' means; 0 for one layer.
    - ``std``: the average over layers of the standard deviation within the layer; 0 for one value.
    - ``condition``: the average over layers of ``log10(largest / smallest)``, for values that are
      not negative. A ratio that the layer's floats cannot tell from infinity counts as ``1 / eps``
      of their type (6.9 in float32, 15.7 in float64), so a layer that loses a direction shows as
      that, not as infinity.

    Deviations are over all there is, not over a sample: n in the denominator, not n - 1.

    Args:
        values: one number or several for each layer.

    Raises:
        InputError: no layers; all layers without values, or with values that are not finite.
    """
    refuse(_problems(values))
    layers = [row.double() for row in values.values()]
    means = torch.stack([row.mean() for row in layers])
    summary = {
        "mean": means.mean().item(),
        "max": torch.cat(layers).max().item(),
        "spread": means.std(correction=0).item(),
    }
    if any(len(row) > 1 for row in layers):
        summary["std"] = fmean(row.std(correction=0).item() for row in layers)
        summary["condition"] = fmean(map(_condition, values.values()))
    return summary


def _condition(row: PerLayer) -> float:
    """log10 of the largest over the smallest value, at most that of 1 / eps; of a layer of zeros
    the most."""
    if len(row) == 1:
        return 0.0
    share = torch.finfo(row.dtype).eps
    largest = row.max().item()
    if largest > 0:
        share = max(row.min().item() / largest, share)
    return -math.log10(share)


def _problems(values: Mapping[str, Tensor]) -> list[str]:
    if not values:
        return [refusal("at least one layer", "none", "measure a model with layers")]
    problems = []
    for name, row in values.items():
        if len(row) == 0:
            expected = f"at least one value of layer {name!r}"
            problems.append(refusal(expected, 0, "leave the layer out"))
        elif not bool(row.isfinite().all()):
            expected = f"finite values of layer {name!r}"
            problems.append(refusal(expected, "NaN or infinity", "look at its weights"))
    return problems
