"""Which recipes differ in more than numbers, and the same recipes with everything cheap that can be."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from robsearch.attacks import PGD, AutoAttack
from robsearch.identity import compared_fields
from robsearch.recipe import Recipe

EXACT = ("model", "data")
"""What counts with its numbers, for they make shapes."""


def structure(recipe: Recipe) -> str:
    """The same text for two recipes that differ in numbers only, other than the model's and the data's."""
    whole = recipe.resolved
    exact = [repr(getattr(whole, name)) for name in EXACT]
    return repr([*exact, *(_kinds(getattr(whole, f.name)) for f in dataclasses.fields(whole) if f.name not in EXACT)])


def _kinds(node: Any) -> object:
    if isinstance(node, bool) or not isinstance(node, int | float):
        if dataclasses.is_dataclass(node) and not isinstance(node, type):
            fields = [_kinds(getattr(node, field.name)) for field in compared_fields(node)]
            return [type(node).__module__, type(node).__qualname__, *fields]
        return [_kinds(each) for each in node] if isinstance(node, tuple) else repr(node)
    return "a number"


def cheapened(recipe: Recipe) -> Recipe:
    """The resolved recipe with attacks and measures of one step; of AutoAttack only the ball is kept."""
    whole = recipe.resolved
    names = ("attack", "eval_attack", "test_attack", "measures")
    return dataclasses.replace(whole, **{name: _replaced(getattr(whole, name), _cheap) for name in names})


def autoattacks(node: Any) -> Iterator[AutoAttack]:
    """Those in a tree."""
    if isinstance(node, AutoAttack):
        yield node
    elif isinstance(node, tuple):
        for each in node:
            yield from autoattacks(each)
    elif dataclasses.is_dataclass(node):
        for field in dataclasses.fields(node):
            yield from autoattacks(getattr(node, field.name))


def _cheap(node: Any) -> Any:
    if isinstance(node, AutoAttack):
        return PGD(eps=node.eps, step_size=node.eps, steps=1, norm=node.norm)
    counts = {name: getattr(node, name, None) for name in ("steps", "restarts", "starts")}
    ones = {name: 1 for name, count in counts.items() if isinstance(count, int) and count > 1}
    return _changed(node, **ones) if ones else node


def _replaced(node: Any, change: Callable[[Any], Any]) -> Any:
    """A tree with ``change`` applied to each of its dataclasses, the innermost first."""
    if isinstance(node, tuple):
        return tuple(_replaced(each, change) for each in node)
    if not dataclasses.is_dataclass(node) or isinstance(node, type):
        return node
    old = {field.name: getattr(node, field.name) for field in dataclasses.fields(node) if field.init}
    new = {name: _replaced(value, change) for name, value in old.items()}
    changes = {name: value for name, value in new.items() if value is not old[name]}
    return change(_changed(node, **changes) if changes else node)


def _changed(node: Any, **changes: Any) -> Any:
    """A class of the user's may refuse the change: then it is tried as it is."""
    try:
        return dataclasses.replace(node, **changes)
    except Exception:
        return node
