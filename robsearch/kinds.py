"""Kinds of numbers: True is no count and 2.0 is no number of steps, though Python would take both."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator
from functools import cache
from numbers import Integral, Real
from typing import Any, Union, get_args, get_origin, get_type_hints

from robsearch.errors import refusal


def is_whole(value: object) -> bool:
    """An integer, also NumPy's, and no bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def kind_problems(node: Any, name: str) -> Iterator[str]:
    """The fields of robsearch's own classes in a tree that hold another kind of number than they are declared to."""
    if isinstance(node, tuple):
        for i, each in enumerate(node):
            yield from kind_problems(each, f"{name}[{i}]")
    elif dataclasses.is_dataclass(node) and not isinstance(node, type):
        hints = _hints(type(node)) if type(node).__module__.partition(".")[0] == "robsearch" else {}
        for field in dataclasses.fields(node):
            value, at = getattr(node, field.name), f"{name}.{field.name}"
            if _misfits(value, hint := hints.get(field.name, Any)):
                whole = "a whole number" if float not in _flat(hint) else "a number"
                yield refusal(
                    f"{at} to be {whole}", repr(value), "pass such as 3" if "whole" in whole else "pass such as 0.5"
                )
            yield from kind_problems(value, at)


@cache
def _hints(kind: type) -> dict[str, Any]:
    try:
        return get_type_hints(kind)
    except NameError:  # a type that only a checker of types knows
        return {}


def _flat(hint: Any) -> set[Any]:
    return {hint}.union(*map(_flat, get_args(hint))) if get_args(hint) else {hint}


def _misfits(value: Any, hint: Any) -> bool:
    """Whether a number, or one in a tuple, is of another kind than its annotation; all else is not judged here."""
    if get_origin(hint) in (Union, types.UnionType):
        return all(_misfits(value, each) for each in get_args(hint))
    if get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            return isinstance(value, Real)
        inner = get_args(hint)
        each = inner[:1] * len(value) if inner[1:] == (...,) else inner
        return any(_misfits(*pair) for pair in zip(value, each, strict=False))
    if hint is int:
        return isinstance(value, Real) and not is_whole(value)
    if hint is float:
        return isinstance(value, bool)
    return hint is type(None) and value is not None
