"""A search space: a Python function from a suggestion and a width to a recipe, and how it is to be
searched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robsearch.lazy import lazy_names

if TYPE_CHECKING:
    from robsearch.spaces.checking.draws import Draw, distributions, more_draws, suggestions
    from robsearch.spaces.checking.prices import Price, price_lines, prices
    from robsearch.spaces.checking.space_check import check
    from robsearch.spaces.definition import (
        UNNAMED,
        Space,
        Stage,
        derived_by,
        load_space,
        space,
        training_name,
    )
    from robsearch.spaces.settings import (
        AtLeast,
        ByCost,
        Equal,
        Rung,
        Weighted,
        apportion,
        contains,
        default_sampler,
        fresh_sampler,
        grid_size,
    )
else:
    __getattr__ = lazy_names(__name__, __file__)

__all__ = [
    "UNNAMED",
    "AtLeast",
    "ByCost",
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
    "derived_by",
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
