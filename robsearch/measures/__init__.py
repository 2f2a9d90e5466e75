"""Measures of a trained model: numbers per example and per layer, in a few honest summaries."""

from __future__ import annotations

from robsearch.measures.accuracy import Rates, rates
from robsearch.measures.bounds import LOG10, GlobalBound
from robsearch.measures.distances import AttackDistance
from robsearch.measures.features import FeatureChange
from robsearch.measures.interval import IntervalBound
from robsearch.measures.kl_gradient import KLGradient
from robsearch.measures.lipschitz import AttackRatio, LogitRatio
from robsearch.measures.margins import InputMargin, LogitMargin, SampledMargin
from robsearch.measures.norms import OperatorNorm
from robsearch.measures.spectra import SingularValues
from robsearch.measures.summaries import histogram, layer_summary, summary

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
]
