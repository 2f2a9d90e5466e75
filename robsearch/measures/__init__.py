"""Measures of a trained model: one number per example, in a few honest summaries."""

from __future__ import annotations

import math

from robsearch.errors import InputError, refusal
from robsearch.measures.accuracy import Rates, rates
from robsearch.measures.lipschitz import LogitRatio
from robsearch.measures.margins import InputMargin, LogitMargin
from robsearch.protocols import Metrics, PerExample

__all__ = ["InputMargin", "LogitMargin", "LogitRatio", "Rates", "rates", "summary"]


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
