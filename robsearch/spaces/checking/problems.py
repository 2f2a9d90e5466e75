"""What is wrong with a space, each once: most faults show at every width, in every suggestion."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

NUMBER = re.compile(r"(?<![\w.\[])\d[\d.]*(?:e[-+]?\d+)?(?![\w\]])")
"""One that stands by itself, not in a name or behind a bracket."""


class Problem(NamedTuple):
    """One sentence of a refusal, and where it was seen.

    Attributes:
        text: of the refusal.
        width: at which it was seen, or None if it belongs to none.
        origin: the suggestion, the rung or the control that has it.
        draw: the number of the suggestion, where there are several at a width.
    """

    text: str
    width: float | None = None
    origin: str = ""
    draw: int = 0

    def is_of_one_recipe_with(self, other: Problem) -> bool:
        """Whether both are of one suggestion at one width."""
        return self[1:] == other[1:]


def merged(problems: Sequence[Problem]) -> list[str]:
    """A sentence for each problem, with all widths at which it was seen.

    Two problems of different recipes whose texts differ in numbers alone are one. Of one recipe all
    stay.
    """
    groups: list[list[Problem]] = []
    by_words: dict[str, list[list[Problem]]] = {}
    for problem in problems:
        alike = by_words.setdefault(NUMBER.sub("#", problem.text), [])
        for group in alike:
            if not any(
                problem.is_of_one_recipe_with(other) and problem.text != other.text
                for other in group
            ):
                group.append(problem)
                break
        else:
            alike.append([problem])
            groups.append(alike[-1])
    return [_sentence(group) for group in groups]


def _sentence(group: Sequence[Problem]) -> str:
    first = group[0]
    widths = list(dict.fromkeys(p.width for p in group if p.width is not None))
    if not widths:
        return first.text
    *others, last = [f"{width:g}" for width in widths]
    where = f"at width {last}"
    if others:
        where = f"at widths {', '.join(others)} and {last}"
    origins = "; ".join(dict.fromkeys(p.origin for p in group if p.origin))
    if origins:
        where += f" ({origins})"
    return f"{where}: {first.text}"
