"""Measures of a trained model: numbers per example and per layer, in a few honest summaries."""

from __future__ import annotations

import math

from robsearch.errors import InputError, refusal
from robsearch.measures.accuracy import Rates, rates
from robsearch.measures.bounds import LOG10, GlobalBound
from robsearch.measures.distances import AttackDistance
from robsearch.measures.features import FeatureChange
from robsearch.measures.histograms import histogram
from robsearch.measures.interval import IntervalBound
from robsearch.measures.kl_gradient import KLGradient
from robsearch.measures.lipschitz import AttackRatio, LogitRatio
from robsearch.measures.margins import InputMargin, LogitMargin, SampledMargin
from robsearch.measures.norms import OperatorNorm
from robsearch.measures.spectra import SingularValues
from robsearch.measures.summaries import layer_summary, wilson
from robsearch.protocols import Metrics, PerExample

__all__ = [
    "LOG10",
    "AttackDistance",
    "AttackRatio",
    "FeatureChange",
    "GlobalBound",
    "InputMargin",
    "IntervalBound",
    "KLGradient",
    "LogitMargin",
    "LogitRatio",
    "OperatorNorm",
    "Rates",
    "SampledMargin",
    "SingularValues",
    "histogram",
    "layer_summary",
    "rates",
    "summary",
    "wilson",
]


def summary(values: PerExample) -> Metrics:
    """``mean``, its standard error ``se``, ``min`` and quantiles ``q05``, ``q50``, ``q95`` of (n,) values.

    ``se`` is the sample's standard deviation over ``sqrt(n)``: it speaks of the draw of the examples, not of
    training seeds, and is NaN for one example.

    Raises:
        InputError: there are no values.
    """
    if len(values) == 0:
        raise InputError(refusal("at least one value", 0, "measure at least one example"))
    values = values.detach().double()
    spread = values.std().item() if len(values) > 1 else math.nan
    low, middle, high = values.quantile(values.new_tensor([0.05, 0.5, 0.95])).tolist()
    return {
        "mean": values.mean().item(),
        "se": spread / math.sqrt(len(values)),
        "min": values.min().item(),
        "q05": low,
        "q50": middle,
        "q95": high,
    }
