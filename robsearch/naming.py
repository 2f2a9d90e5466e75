"""Names made of numbers: short where they tell the numbers apart, with all digits where they would not."""

from __future__ import annotations

from collections.abc import Iterable


def exactly(number: float) -> str:
    """The number in six digits if these are all it has, else in as many as give it back."""
    short = f"{number:g}"
    return short if float(short) == number else repr(float(number))


def alike(numbers: Iterable[float]) -> bool:
    """Whether two different ones are equal to six digits."""
    different = set(numbers)
    return len({f"{number:g}" for number in different}) < len(different)


def names_of(numbers: Iterable[float]) -> dict[float, str]:
    """A name for each: in six digits, or exactly if two of them would have one name."""
    every = list(numbers)
    exact = alike(every)
    return {number: exactly(number) if exact else f"{number:g}" for number in every}
