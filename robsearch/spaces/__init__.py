"""A search space: a Python function from a suggestion and a width to a recipe, and how it is to be searched."""

from robsearch.spaces.allocation import Allocation, ByCost, Equal, Weighted, apportion
from robsearch.spaces.checking import Draw, check, distributions, more_draws, suggestions
from robsearch.spaces.costing import Price, price_lines, prices
from robsearch.spaces.definition import UNNAMED, Control, Define, Space, Stage, load_space, space, training_name
from robsearch.spaces.goals import AtLeast
from robsearch.spaces.manner import contains, default_sampler, fresh_sampler, grid_size
from robsearch.spaces.rungs import Rung

__all__ = [
    "UNNAMED",
    "Allocation",
    "AtLeast",
    "ByCost",
    "Control",
    "Define",
    "Draw",
    "Equal",
    "Price",
    "Rung",
    "Space",
    "Stage",
    "Weighted",
    "apportion",
    "check",
    "contains",
    "default_sampler",
    "distributions",
    "fresh_sampler",
    "grid_size",
    "load_space",
    "more_draws",
    "price_lines",
    "prices",
    "space",
    "suggestions",
    "training_name",
]
