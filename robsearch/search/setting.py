"""What a search is, for a person who judges its figures: the space with its ranges, not one of its suggestions."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from robsearch.data import load
from robsearch.identity import reference
from robsearch.protocols import Objective
from robsearch.recipe import ADDRESS
from robsearch.spaces import Draw, distributions
from robsearch.study import range_text

SEARCHED = "searched"
"""Stands where suggestions differ."""
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
    known = [load(data) for data in dict.fromkeys(recipe.data for recipe in recipes)]
    examples = {name: _common([len(splits[name].labels) for splits in known]) for name in ("train", "val", "test")}
    optimiser, rate = (_common([getattr(one, name) for one in recipes]) for name in ("optimiser", "learning_rate"))
    epochs, batch = (_common([getattr(one, name) for one in recipes]) for name in ("epochs", "batch_size"))
    also = {name.replace("_", " "): _common([getattr(one, name) for one in recipes]) for name in ALSO}
    return {
        "model": _common([one.model for one in recipes]),
        "data": _common([one.data for one in recipes]),
        "training examples": examples["train"],
        "validation examples": examples["val"],
        "test examples": examples["test"],
        "training attack": _common([one.attack for one in recipes]),
        "evaluation attack": _common([one.resolved_eval_attack for one in recipes]),
        "test attack": _common([one.resolved_test_attack for one in recipes]),
        "objective": _common([one.objective for one in recipes]),
        MINIMISED: " or ".join(dict.fromkeys(_minimised(one.objective) for one in recipes)),
        LAMBDA: _common([one.lam for one in recipes]),
        "optimiser": f"{optimiser}, {rate}",
        "length": f"{epochs} epoch{'s' * (epochs != '1')}, batches of {batch}",
        **{label: text for label, text in also.items() if text not in ("None", "()")},
        **{f"{RANGE}{name}": range_text(one) for name, one in distributions(draws).items()},
        "search seed": str(seed),
    }


def _common(values: Sequence[Any]) -> str:
    """What the values have in common, as text: fields in which they differ are ``searched``."""
    first = values[0]
    if all(type(one) is type(first) and one == first for one in values):
        return _text(first)
    kinds = {type(one): [each for each in values if type(each) is type(one)] for one in values}
    if len(kinds) > 1:
        objects = any(one is None or dataclasses.is_dataclass(one) for one in values)
        return " or ".join(sorted(map(_common, kinds.values()))) if objects else SEARCHED
    if isinstance(first, tuple) and len(set(map(len, values))) == 1:
        inside = [_common(each) for each in zip(*values, strict=True)]
        return f"({', '.join(inside)}{',' * (len(inside) == 1)})"
    if not dataclasses.is_dataclass(first):
        return SEARCHED
    fields = [field.name for field in dataclasses.fields(first) if field.repr]
    inside = [f"{name}={_common([getattr(one, name) for one in values])}" for name in fields]
    return f"{type(first).__name__}({', '.join(inside)})"


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
    patterns = [re.escape(text).replace(SEARCHED, ".+?") for text in texts]
    return not texts or any(all(re.fullmatch(pattern, text) for text in texts) for pattern in patterns)
