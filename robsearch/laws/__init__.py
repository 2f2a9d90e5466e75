"""Lambda as a function of width: the laws, and the ridge that estimates lambda*(width) from all trials."""

from __future__ import annotations

from robsearch.laws.families import Affine as Affine
from robsearch.laws.families import Constant as Constant
from robsearch.laws.families import PerWidth as PerWidth
from robsearch.laws.families import PowerLaw as PowerLaw
from robsearch.laws.points import Point as Point
from robsearch.laws.resampling import compare_laws as compare_laws
from robsearch.laws.resampling import seed_bootstrap as seed_bootstrap
from robsearch.laws.ridge import Optimum as Optimum
from robsearch.laws.ridge import Region as Region
from robsearch.laws.ridge import Ridge as Ridge
from robsearch.laws.ridge import Searched as Searched
from robsearch.laws.ridge import Surface as Surface
from robsearch.laws.ridge import fieller as fieller
from robsearch.laws.ridge import fit_ridge as fit_ridge
