"""Lambda as a function of width: the laws, and the surface that estimates lambda*(width) from all
trials."""

from __future__ import annotations

from robsearch.laws.families import Constant as Constant, PowerLaw as PowerLaw
from robsearch.laws.points import Point as Point
from robsearch.laws.response_surface import (
    Optimum as Optimum,
    ResponseSurface as ResponseSurface,
    fieller as fieller,
    fit_ridge as fit_ridge,
)
