"""Which recipes differ in more than numbers, and recipes whose attacks take a single step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from robsearch.identity import compared_fields
from robsearch.parts.attacks import PGD, AutoAttack
from robsearch.recipe import Recipe

EXACT = ("model", "data")
"""What counts with its numbers, for they make shapes."""
ATTACKING = ("attack", "eval_attack", "test_attack", "measures", "loop")
"""What attacks, or may hold an attack."""


def structure(recipe: Recipe) -> str:
    """The same text for two recipes that differ in numbers only, other than the model's and the
    data's."""
    resolved = recipe.resolved
    exact = [repr(getattr(resolved, name)) for name in EXACT]
    others = [field.name for field in dataclasses.fields(resolved) if field.name not in EXACT]
    kinds = [_kinds(getattr(resolved, name)) for name in others]
    return repr([*exact, *kinds])


def _kinds(node: Any) -> object:
    if isinstance(node, int | float) and not isinstance(node, bool):
        return "a number"
    if isinstance(node, tuple):
        return [_kinds(item) for item in node]
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        fields = [_kinds(getattr(node, field.name)) for field in compared_fields(node)]
        return [type(node).__module__, type(node).__qualname__, *fields]
    return repr(node)


def with_single_steps(recipe: Recipe) -> Recipe:
    """The resolved recipe with attacks and measures of one step; of AutoAttack only the ball is
    kept."""
    resolved = recipe.resolved
    changes = {name: _with_single_steps(getattr(resolved, name)) for name in ATTACKING}
    return dataclasses.replace(resolved, **changes)


def autoattacks(node: Any) -> Iterator[AutoAttack]:
    """Those in a tree."""
    if isinstance(node, AutoAttack):
        yield node
    elif isinstance(node, tuple):
        for item in node:
            yield from autoattacks(item)
    elif dataclasses.is_dataclass(node):
        for field in dataclasses.fields(node):
            yield from autoattacks(getattr(node, field.name))


def _with_single_steps(node: Any) -> Any:
    """A tree whose attacks and measures take one step, the innermost changed first."""
    if isinstance(node, tuple):
        return tuple(_with_single_steps(item) for item in node)
    if not dataclasses.is_dataclass(node) or isinstance(node, type):
        return node
    changes = {}
    for field in dataclasses.fields(node):
        old = getattr(node, field.name)
        new = _with_single_steps(old)
        if field.init and new is not old:
            changes[field.name] = new
    node = _changed(node, changes)
    if isinstance(node, AutoAttack):
        return PGD(eps=node.eps, step_size=node.eps, steps=1, norm=node.norm)
    ones = {}
    for name in ("steps", "restarts", "starts"):
        count = getattr(node, name, None)
        if isinstance(count, int) and count > 1:
            ones[name] = 1
    return _changed(node, ones)


def _changed(node: Any, changes: Mapping[str, Any]) -> Any:
    """A class of the user's may refuse the change: then it is tried as it is."""
    if not changes:
        return node
    try:
        return dataclasses.replace(node, **changes)
    except Exception:
        return node
