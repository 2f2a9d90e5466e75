"""Lambda as a function of width: the laws, and the surface that estimates lambda*(width) from all
trials."""

from __future__ import annotations

from robsearch.laws.families import Constant as Constant, PowerLaw as PowerLaw
from robsearch.laws.points import Optimum as Optimum, Point as Point
from robsearch.laws.regret import Loss as Loss, RegretMap as RegretMap
from robsearch.laws.response_surface import (
    ResponseSurface as ResponseSurface,
    fit_ridge as fit_ridge,
)
