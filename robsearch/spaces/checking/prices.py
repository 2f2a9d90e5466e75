"""What a launch of a space would take on this machine, if it is one that would train."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from robsearch.recipe import Recipe
from robsearch.spaces.checking.draws import Draw
from robsearch.spaces.checking.recipes import limits, on_gpu
from robsearch.spaces.definition import Space
from robsearch.trials.child.client import in_child
from robsearch.trials.child.server import Lost
from robsearch.trials.pricing import TrainingCost, measure_cost

SECONDS = 20.0
"""Which one width's measurement may take; where it is not enough, wider nets are not measured at
all."""
TRAININGS = 10
"""Of each width, as in a launch that is not told otherwise."""


class Price(NamedTuple):
    """Of a width: the seconds of a step and the hours of one training with its judging, or why it
    is not known."""

    width: float
    step: float | None = None
    hours: float | None = None
    reason: str = ""


def prices(space: Space, draws: Sequence[Draw]) -> Iterator[Price]:
    """Of each width, thin to wide, by its first suggestion, on one device; measures are not
    counted."""
    # Backwards, so that of each width the first suggestion is the one that stays.
    recipes = {draw.width: draw.recipe for draw in reversed(draws)}
    reason = ""
    for width in sorted(recipes):
        gpu = on_gpu(space, width)
        if gpu and space.resources and not torch.cuda.is_available():
            yield Price(width, reason="trainings want a GPU, and this machine has none")
        # What a narrower net could not do in time, a wider one cannot either.
        elif reason:
            yield Price(width, reason=reason)
        else:
            limit = limits()._replace(seconds=SECONDS)
            (cost,) = in_child(_cost, [(recipes[width], gpu)], limit)
            if isinstance(cost, TrainingCost):
                seconds = recipes[width].epochs * cost.training + cost.judging
                yield Price(width, cost.step, seconds / 3600)
            else:
                reason = cost.reason.partition("\n")[0] if isinstance(cost, Lost) else str(cost)
                yield Price(width, reason=reason)


def price_lines(widths: Sequence[Price]) -> Iterator[str]:
    """For a person: each width, and all of them together."""
    for price in widths:
        if price.hours is None:
            yield f"width {price.width:g}: the cost was not measured ({price.reason})"
        else:
            yield (
                f"width {price.width:g}: {price.step:.3g} s a step, {_hours(price.hours)} a "
                "training on this machine"
            )
    if widths and all(price.hours is not None for price in widths):
        total = TRAININGS * sum(price.hours or 0.0 for price in widths)
        yield (
            f"{TRAININGS} trainings of each width, one after another: about {_hours(total)}, "
            "without measures"
        )


def _hours(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{60 * hours:.1f} min" if hours >= 1 / 60 else f"{3600 * hours:.2g} s"


def _cost(task: tuple[Recipe, bool]) -> TrainingCost:
    recipe, gpu = task
    if not gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return measure_cost(recipe)
