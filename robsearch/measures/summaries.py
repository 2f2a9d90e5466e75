"""A few honest numbers of what a measure says of each layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist

import torch
from torch import Tensor

from robsearch.errors import InputError, refusal
from robsearch.protocols import Metrics, PerLayer


def layer_summary(values: Mapping[str, Tensor]) -> Metrics:
    """``mean``, ``max`` and ``spread`` over layers; ``std`` and ``condition`` where any layer has several values.

    Each layer counts the same, however many values it has:

    - ``mean``: the average over layers of the layer's mean.
    - ``max``: the largest value of all.
    - ``spread``: the standard deviation over layers of the layers' means; 0 for one layer.
    - ``std``: the average over layers of the standard deviation within the layer; 0 for one value.
    - ``condition``: the average over layers of ``log10(largest / smallest)``, for values that are not negative. A
      ratio that the layer's floats cannot tell from infinity counts as ``1 / eps`` of their type (6.9 in float32,
      15.7 in float64), so a layer that loses a direction shows as that, not as infinity.

    Deviations are over all there is, not over a sample: n in the denominator, not n - 1.

    Args:
        values: one number or several for each layer.

    Raises:
        InputError: no layers; all layers without values, or with values that are not finite.
    """
    _refuse_unfit(values)
    means = torch.stack([row.double().mean() for row in values.values()])
    found = {
        "mean": means.mean().item(),
        "max": max(row.max().item() for row in values.values()),
        "spread": means.std(correction=0).item(),
    }
    if any(len(row) > 1 for row in values.values()):
        found["std"] = _average([row.double().std(correction=0).item() for row in values.values()])
        found["condition"] = _average([_condition(row) for row in values.values()])
    return found


def _condition(row: PerLayer) -> float:
    """log10 of the largest over the smallest value, at most that of 1 / eps; of a layer of zeros the most."""
    eps = torch.finfo(row.dtype).eps
    largest, smallest = row.max().item(), row.min().item()
    if len(row) == 1:
        return 0.0
    return -math.log10(max(smallest / largest, eps) if largest > 0 else eps)


def _average(numbers: list[float]) -> float:
    return math.fsum(numbers) / len(numbers)


def _refuse_unfit(values: Mapping[str, Tensor]) -> None:
    problems = [] if values else [refusal("at least one layer", "none", "measure a model with layers")]
    for name, row in values.items():
        if len(row) == 0:
            problems.append(refusal(f"at least one value of layer {name!r}", 0, "leave the layer out"))
        elif not bool(row.isfinite().all()):
            problems.append(refusal(f"finite values of layer {name!r}", "NaN or infinity", "look at its weights"))
    if problems:
        raise InputError(*problems)


def wilson(share: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """The interval for a share of ``n`` examples (Wilson 1927, doi 10.1080/01621459.1927.10502953).

    The shares that a score test does not reject: inside [0, 1], also where the share is 0 or 1.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(middle - half, 0.0), min(middle + half, 1.0)
