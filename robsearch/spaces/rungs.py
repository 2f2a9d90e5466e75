"""Fidelity: cheap trainings that choose which suggestions are trained in full."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from robsearch.errors import refuse_unless
from robsearch.recipe import Recipe

LONGEST_NAME = 40
"""Letters: it is a part of trials' names, which are folders'."""


@dataclass(frozen=True)
class Rung:
    """One rung of a fidelity ladder, below the full recipe (successive halving, arXiv 1502.07943).

    Each width has a study of its own for each rung, so values of different fidelity never meet in a sampler, a pruner
    or the law. When all trials of a rung have ended, the best of them are trained again one rung higher, from scratch,
    with the same parameters.

    Attributes:
        name: such as ``scout``; trials are called ``w4-scout-003``.
        change: from the full recipe to the cheap one: fewer attack steps, images or epochs. An importable function.
        keep: the share of this rung's trials that go on to the next, such as 0.25.

    Raises:
        InputError: a share outside (0, 1), or a name that could not be a folder's.
    """

    name: str
    change: Callable[[Recipe], Recipe]
    keep: float

    def __post_init__(self) -> None:
        plain = self.name.replace("_", "").isalnum() and len(self.name) <= LONGEST_NAME
        refuse_unless(
            (plain, "a rung's name of at most 40 letters, digits and '_'", repr(self.name), "such as 'scout'"),
            (0 < self.keep < 1, f"a share in (0, 1) to keep of rung {self.name!r}", self.keep, "such as keep=0.25"),
        )
