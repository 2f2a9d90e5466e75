"""Whose fault an error is: the part of a recipe whose code was at it, and the user's own line."""

from __future__ import annotations

import dataclasses
from traceback import walk_tb
from types import FrameType
from typing import Any

from torch import nn

from robsearch.errors import InputError, described_error, refusal
from robsearch.recipe import Recipe
from robsearch.testing.advice import advice
from robsearch.testing.promises import BrokenPromiseError

KINDS = {
    "model": "Model",
    "attack": "Attack",
    "eval_attack": "Attack",
    "test_attack": "Attack",
    "objective": "Objective",
    "penalties": "Penalty",
    "lam": "Schedule",
    "optimiser": "Optimiser",
    "learning_rate": "LearningRate",
    "measures": "Measure",
    "loop": "TrainingLoop",
}
"""The protocols of a recipe's parts."""


class CheckedPart:
    """A part of a recipe in a wrapper that refuses what the part must not give.

    Args:
        leaf: the part.
        part: its name, such as ``penalties[0]``.
    """

    def __init__(self, leaf: Any, part: str) -> None:
        self.leaf = leaf
        self.part = part


class PartFinder:
    """Finds the part of a recipe that an error belongs to.

    Args:
        recipe: with all that is derived filled in.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.model: nn.Module | None = None
        self._leaves: dict[str, Any] = {}
        for field in dataclasses.fields(recipe):
            value = getattr(recipe, field.name)
            if isinstance(value, tuple):
                self._leaves |= {f"{field.name}[{i}]": leaf for i, leaf in enumerate(value)}
            elif not isinstance(value, int | float | str | None):
                self._leaves[field.name] = value

    def problems(self, error: Exception, part: str) -> list[str]:
        """What to tell the user of an error.

        Args:
            error: that was raised.
            part: that was tried, if no other one's code was at it.
        """
        part = self.part(error, part)
        name = self.name(part)
        if isinstance(error, InputError):
            return [f"{name}: {problem}" for problem in error.problems]
        if isinstance(error, BrokenPromiseError):
            return [f"{name}: {error.problem}: {error.do or 'correct it'}"]
        if isinstance(error, AssertionError) and "expected" in str(error):
            # A promise of ``robsearch.testing`` was broken; other assertions are the user's own.
            text = str(error).removeprefix(f"{self._leaves.get(part)!r}: ")
            return [f"{name}: {text}: correct it"]
        spec = self.recipe.data.spec
        expected = f"{name} to work on a few images of {spec.shape} and {spec.num_classes} classes"
        if part == "model":
            expected = f"a model that maps {spec.shape} images to {spec.num_classes} logits"
        got = described_error(error)
        kind = KINDS.get(part.partition("[")[0], "")
        do = advice(kind, error) or f"correct {self._leaves.get(part, 'what it names')}"
        return [refusal(expected, got, do)]

    def name(self, part: str) -> str:
        """A part with the name of its class: ``penalties[0] NormDecay``."""
        if part not in self._leaves:
            return part
        leaf = self._leaves[part]
        return f"{part} {getattr(leaf, '__name__', type(leaf).__name__)}"

    def part(self, error: BaseException, otherwise: str) -> str:
        """The part whose code was the innermost when an error was raised."""
        for frame, _ in reversed(list(walk_tb(error.__traceback__))):
            parts = [name for name, leaf in self._leaves.items() if _runs(leaf, frame)]
            if parts:
                return otherwise if otherwise in parts else parts[0]
            this = frame.f_locals.get("self")
            if isinstance(this, CheckedPart):
                return this.part
            modules = self.model.modules() if self.model else ()
            if isinstance(this, nn.Module) and this in modules:
                return "model"
        return otherwise


def _runs(leaf: object, frame: FrameType) -> bool:
    """Whether a frame is of a leaf's code: a method, a function inside one, or the function that it
    is."""
    code = getattr(leaf, "__code__", None)
    if frame.f_locals.get("self") is leaf or code is frame.f_code:
        return True
    if code is not None:
        return False
    module = frame.f_globals.get("__name__")
    name = frame.f_code.co_qualname
    for kind in type(leaf).__mro__:
        if kind.__module__ == module and name.startswith(f"{kind.__qualname__}."):
            return True
    return False
