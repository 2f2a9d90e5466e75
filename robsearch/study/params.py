"""The searched parameters of trials, as a person reads them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from numbers import Real
from typing import Any, TypeGuard

import pandas as pd

COLUMN = "param/"
"""Begins the name of a searched parameter among the columns of ``Search.trials``, and among
MLflow's parameters."""


STRANGE = re.compile(r"[^\w .:/-]", re.ASCII)
"""What MLflow refuses in the name of a parameter."""


def plain_name(name: str) -> str:
    """A parameter's name as MLflow takes it."""
    return STRANGE.sub("_", name)


def params_of(trial: pd.Series | Mapping[str, Any]) -> dict[str, Any]:
    """Those of a row of ``Search.trials``, by name, without what the trial was not asked for."""
    params = {}
    for column, value in trial.items():
        name = str(column)
        if name.startswith(COLUMN) and not is_missing(value):
            params[name.removeprefix(COLUMN)] = value
    return params


def is_missing(value: object) -> bool:
    """Whether a cell of a parameter says that the trial was not asked for it."""
    return isinstance(value, float) and math.isnan(value)


def value_text(value: object) -> str:
    """Three digits of a number; whole numbers and words as they are."""
    if not is_number(value):
        return str(value)
    is_short = value % 1 == 0 and abs(value) < 1e6
    return f"{value:.0f}" if is_short else f"{value:.3g}"


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is one, also NumPy's; True is a word."""
    return isinstance(value, Real) and not isinstance(value, bool)


def params_text(params: Mapping[str, Any], between: str = ", ") -> str:
    """``lam 0.507, lr 0.31, objective trades``."""
    return between.join(f"{name} {value_text(value)}" for name, value in params.items())


def others_than_lam(params: Mapping[str, Any]) -> dict[str, Any]:
    """Without lambda, which has a place of its own wherever trials are shown."""
    return {name: value for name, value in params.items() if name != "lam"}
