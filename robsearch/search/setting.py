"""What a search is, for a person who judges its figures: the space with its ranges, not one of its suggestions."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from robsearch.data import load
from robsearch.identity import reference
from robsearch.protocols import Objective
from robsearch.recipe import ADDRESS
from robsearch.spaces import Draw, distributions
from robsearch.study import range_text

SEARCHED = "searched"
"""Stands where suggestions differ."""
BY_WIDTH = "by width"
"""Stands where only the width makes a difference."""
RANGE = "range of "
"""Begins the label of a searched parameter."""
LAMBDA = "lambda"
MINIMISED = "minimised"
ALSO = ("augment", "penalties", "averaging", "weight_perturbation", "stopper", "batch_norm", "measured_epoch")
"""Fields of a recipe that are told under their own names."""
SINCE_SPACES = {LAMBDA, MINIMISED, *(name.replace("_", " ") for name in ALSO)}
"""Labels that a setting has only since it tells the space: before, it told the first suggestion of the search."""
OF_RECIPES = {
    "model", "data", "training attack", "evaluation attack", "test attack", "objective", "optimiser", "length",
}  # fmt: skip
"""Labels that told the first suggestion then."""


def setting(draws: Sequence[Draw], seed: int) -> dict[str, str]:
    """What a reader must know to judge the figures, but for what each driver ran on.

    Args:
        draws: suggestions; those of the thinnest width show by what they differ what is searched.
        seed: of the search.
    """
    recipes = [draw.recipe for draw in draws if draw.width == draws[0].width]
    thin_to_wide = list({draw.width: draw.recipe for draw in reversed(draws)}.values())  # of the same suggestion

    def told(name: str) -> str:
        return _told([getattr(one, name) for one in recipes], [getattr(one, name) for one in thin_to_wide])

    known = [load(data) for data in dict.fromkeys(recipe.data for recipe in recipes)]
    examples = {name: _common([len(splits[name].labels) for splits in known]) for name in ("train", "val", "test")}
    epochs = told("epochs")
    also = {name.replace("_", " "): told(name) for name in ALSO}
    return {
        "model": told("model"),
        "data": told("data"),
        "training examples": examples["train"],
        "validation examples": examples["val"],
        "test examples": examples["test"],
        "training attack": told("attack"),
        "evaluation attack": told("resolved_eval_attack"),
        "test attack": told("resolved_test_attack"),
        "objective": told("objective"),
        MINIMISED: " or ".join(dict.fromkeys(_minimised(one.objective) for one in recipes)),
        LAMBDA: told("lam"),
        "optimiser": f"{told('optimiser')}, {told('learning_rate')}",
        "length": f"{epochs} epoch{'s' * (epochs != '1')}, batches of {told('batch_size')}",
        **{label: text for label, text in also.items() if text not in ("None", "()")},
        **{f"{RANGE}{name}": range_text(one) for name, one in distributions(draws).items()},
        "search seed": str(seed),
    }


def _told(suggestions: Sequence[Any], widths: Sequence[Any]) -> str:
    """A part of the recipe as text.

    Args:
        suggestions: its values at one width; where they differ, it is ``searched``.
        widths: its values in one suggestion; where they differ, it is told ``by width``.
    """
    if _same(widths):
        return _common(suggestions)
    if _same(suggestions):
        return _common(widths, BY_WIDTH)
    first = suggestions[0]
    alike = all(type(one) is type(first) for one in (*suggestions, *widths))
    if not (alike and dataclasses.is_dataclass(first)):
        return SEARCHED
    return _of_fields(
        first, lambda name: _told(*([getattr(one, name) for one in all_] for all_ in (suggestions, widths)))
    )


def _common(values: Sequence[Any], differing: str = SEARCHED) -> str:
    """What the values have in common, as text, with a word for the fields in which they differ."""
    first = values[0]
    if _same(values):
        return _text(first)
    kinds = {type(one): [each for each in values if type(each) is type(one)] for one in values}
    if len(kinds) > 1:
        objects = any(one is None or dataclasses.is_dataclass(one) for one in values)
        return " or ".join(sorted(_common(each, differing) for each in kinds.values())) if objects else differing
    if isinstance(first, tuple) and len(set(map(len, values))) == 1:
        inside = [_common(each, differing) for each in zip(*values, strict=True)]
        return f"({', '.join(inside)}{',' * (len(inside) == 1)})"
    if not dataclasses.is_dataclass(first):
        return differing
    return _of_fields(first, lambda name: _common([getattr(one, name) for one in values], differing))


def _of_fields(leaf: Any, text: Callable[[str], str]) -> str:
    fields = [field.name for field in dataclasses.fields(leaf) if field.repr]
    return f"{type(leaf).__name__}({', '.join(f'{name}={text(name)}' for name in fields)})"


def _same(values: Sequence[Any]) -> bool:
    return all(type(one) is type(values[0]) and one == values[0] for one in values)


def _minimised(objective: Objective) -> str:
    """The two terms in words, as ``train/natural_loss`` and ``train/robust_loss`` of the record are only names."""
    names = getattr(objective, "term_names", ("the first term", "the second"))
    return f"{names[0]} + lambda * {names[1]}"


def _text(value: Any) -> str:
    """A function by its name, and no addresses, which are others in every process."""
    is_function = callable(value) and not dataclasses.is_dataclass(value)
    return (is_function and reference(value)) or ADDRESS.sub("", str(value))


# -- between searches ----------------------------------------------------------------------------------------------


def comparable(told: Mapping[str, str], searched: set[str]) -> dict[str, str]:
    """The part of a setting that tells the space.

    One that was recorded before settings did so tells one suggestion: where more than lambda was searched, nobody
    knows which of its parts are fixed.
    """
    if LAMBDA in told or searched <= {"lam"}:
        return dict(told)
    return {label: text for label, text in told.items() if label not in OF_RECIPES}


def unknown(told: Mapping[str, str], label: str) -> bool:
    """Whether a setting that lacks a label says nothing by that: it was recorded before there was one."""
    return LAMBDA not in told and (label in SINCE_SPACES | OF_RECIPES or label.startswith(RANGE))


def agree(texts: Sequence[str]) -> bool:
    """Whether all may describe one thing: ``PGD(eps=searched)`` and the ``PGD(eps=0.1)`` of one suggestion may."""
    patterns = [re.escape(text).replace(SEARCHED, ".+?").replace(re.escape(BY_WIDTH), ".+?") for text in texts]
    return not texts or any(all(re.fullmatch(pattern, text) for text in texts) for pattern in patterns)
