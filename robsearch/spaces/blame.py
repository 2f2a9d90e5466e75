"""Whose fault an error is: the part of a recipe whose code was at it, and the user's own line."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

from robsearch.errors import InputError, refusal
from robsearch.recipe import Recipe

_SEVERAL = ("penalties", "measures")
_ONE = (
    "model",
    "attack",
    "eval_attack",
    "test_attack",
    "objective",
    "lam",
    "optimiser",
    "learning_rate",
    "augment",
    "averaging",
    "weight_perturbation",
)
_NOT_THE_USERS = tuple(
    str(Path(folder)) + os.sep
    for folder in (Path(__file__).parents[1], Path(torch.__file__).parent, sysconfig.get_path("stdlib"))
)


class BrokenPartError(InputError):
    """A part gave what it must not give."""

    def __init__(self, part: str, *problems: str) -> None:
        self.part = part
        super().__init__(*problems)


class Blame:
    """Finds the part of a recipe that an error belongs to.

    Args:
        recipe: with all that is derived filled in.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.model: nn.Module | None = None
        several = {f"{name}[{i}]": leaf for name in _SEVERAL for i, leaf in enumerate(getattr(recipe, name) or ())}
        one = {name: getattr(recipe, name) for name in _ONE}
        self._leaves = {name: leaf for name, leaf in {**one, **several}.items() if leaf is not None}

    def problems(self, error: Exception, part: str) -> list[str]:
        """What to tell the user of an error.

        Args:
            error: that was raised.
            part: that was tried, if no other one's code was at it.
        """
        if isinstance(error, BrokenPartError):
            return [f"{self.named(error.part)}: {problem}" for problem in error.problems]
        part = self.part(error, part)
        if isinstance(error, InputError):
            return [f"{self.named(part)}: {problem}" for problem in error.problems]
        spec = self.recipe.data.spec
        expected = f"{self.named(part)} to work on a few images of {spec.shape} and {spec.num_classes} classes"
        if part == "model":
            expected = f"a model that maps {spec.shape} images to {spec.num_classes} logits"
        do = f"mend {self._leaves.get(part, 'what it names')}"
        line = own_line(error)
        return [refusal(expected, f"{type(error).__name__}: {error}" + (f" ({line})" if line else ""), do)]

    def named(self, part: str) -> str:
        """A part with the name of its class: ``penalties[0] NormDecay``."""
        leaf = self._leaves.get(part)
        return part if leaf is None else f"{part} {getattr(leaf, '__name__', type(leaf).__name__)}"

    def part(self, error: BaseException, otherwise: str) -> str:
        """The part whose code was the innermost when an error was raised."""
        for frame in reversed(list(_frames(error))):
            names = [name for name, leaf in self._leaves.items() if _runs(leaf, frame)]
            if names:
                return otherwise if otherwise in names else names[0]
            this = frame.f_locals.get("self")
            if isinstance(this, nn.Module) and self.model is not None and this in self.model.modules():
                return "model"
        return otherwise


def own_line(error: BaseException) -> str | None:
    """``file:line`` of the innermost line that is neither of robsearch, nor of torch, nor of Python."""
    files = [(_file(traceback.tb_frame), traceback.tb_lineno) for traceback in _tracebacks(error)]
    lines = [(file, number) for file, number in files if not _strange(file)]
    if not lines:
        return None
    file, number = lines[-1]
    here = os.path.join(os.getcwd(), "")
    return f"{file.removeprefix(here)}:{number}"


def _file(frame: FrameType) -> str:
    """Code of a script that was pickled by value does not know its file any more, but the script's globals do."""
    file = frame.f_code.co_filename
    return str(frame.f_globals.get("__file__", file)) if file.startswith("<dynamic") else file


def _strange(file: str) -> bool:
    own = file.startswith(("<frozen", *_NOT_THE_USERS))
    # Other packages lie inside the standard library's folder: a net of torchvision is worth its line.
    return own and ("site-packages" not in file or file.startswith(_NOT_THE_USERS[:2]))


def _runs(leaf: object, frame: FrameType) -> bool:
    """Whether a frame is of a leaf's code: a method, a function inside one, or the function that it is."""
    if frame.f_locals.get("self") is leaf or getattr(leaf, "__code__", None) is frame.f_code:
        return True
    module, name = frame.f_globals.get("__name__"), frame.f_code.co_qualname
    kinds = [] if callable(leaf) and hasattr(leaf, "__code__") else type(leaf).__mro__
    return any(kind.__module__ == module and name.startswith(f"{kind.__qualname__}.") for kind in kinds)


def _frames(error: BaseException) -> Iterator[FrameType]:
    return (traceback.tb_frame for traceback in _tracebacks(error))


def _tracebacks(error: BaseException) -> Iterator[Any]:
    traceback = error.__traceback__
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next
