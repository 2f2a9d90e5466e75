"""The same attack in a smaller ball, for training that begins with an easier adversary."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from numbers import Real
from typing import Any

LENGTHS = ("eps", "step_size")
"""Fields of an attack that are lengths in the ball's norm."""


def scaled(attack: Any, factor: float) -> Any:
    """The attack with each ``eps`` and ``step_size`` times ``factor``, also those of the attacks
    that it holds."""
    changes: dict[str, Any] = {}
    for name, value in _init_fields(attack):
        if name in LENGTHS and isinstance(value, Real):
            changes[name] = factor * float(value)
        elif isinstance(value, tuple | list):
            changes[name] = tuple(scaled(item, factor) for item in value)
        elif _is_instance(value):
            changes[name] = scaled(value, factor)
    return dataclasses.replace(attack, **changes) if changes else attack


def scales(attack: Any) -> bool:
    """Whether ``scaled`` makes another ball of it: it has an ``eps``, or it holds attacks and each
    of them does."""
    fields = dict(_init_fields(attack))
    if "eps" in fields:
        return isinstance(fields["eps"], Real)
    held = [value for value in fields.values() if _is_instance(value)]
    for value in fields.values():
        if isinstance(value, tuple | list):
            held += value
    return bool(held) and all(map(scales, held))


def _init_fields(node: Any) -> Iterator[tuple[str, Any]]:
    if _is_instance(node):
        for field in dataclasses.fields(node):
            if field.init:
                yield field.name, getattr(node, field.name)


def _is_instance(node: Any) -> bool:
    return dataclasses.is_dataclass(node) and not isinstance(node, type)
