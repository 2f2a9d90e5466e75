"""The arms of the study of widths: constant lambdas, ways of choosing lambda, other settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from robsearch.claims.experiment import Findings
from robsearch.drawing.formatting import names_of
from robsearch.protocols import Schedule

Searched = Mapping[str, Sequence[float]]
"""Ways of choosing lambda, by name, each with the widths that must be searched for it."""


@dataclass(frozen=True)
class LambdaArm:
    """A constant lambda of the grid."""

    name: str
    lam: float


def lambda_arms(lams: Iterable[float]) -> tuple[LambdaArm, ...]:
    """``lam 4`` for 4."""
    return tuple(LambdaArm(f"lam {name}", lam) for lam, name in names_of(lams).items())


@dataclass(frozen=True)
class RateArm:
    """A constant lambda of the grid at another learning rate: ``lr`` times the base's."""

    name: str
    lam: float
    lr: float


def rate_arms(lams: Iterable[float], factors: Sequence[float]) -> tuple[RateArm, ...]:
    """``lam 4, lr x 0.5`` for 4 at half the learning rate."""
    arms = lambda_arms(lams)
    return tuple(
        RateArm(f"{arm.name}, lr x {factor:g}", arm.lam, factor)
        for arm in arms
        for factor in factors
    )


@dataclass(frozen=True)
class Way:
    """One way of choosing lambda at the widest net.

    Attributes:
        name: of the arm.
        schedule: from what the experiments before have found to lambda over training.
        searched: the widths that must be searched for it.
    """

    name: str
    schedule: Callable[[Findings], Schedule]
    searched: tuple[float, ...] = ()


@dataclass(frozen=True)
class Retuning:
    """The lambda that is best at one width, with another learning rate and weight decay.

    Attributes:
        of: what the lambda is called.
        width: where it is the best.
        lr: factor on the base's learning rate.
        decay: factor on the base's weight decay.
    """

    of: str
    width: float
    lr: float
    decay: float

    @property
    def factors(self) -> str:
        """In words."""
        return f"lr x {self.lr:g}, weight decay x {self.decay:g}"

    @property
    def name(self) -> str:
        """Of the arm."""
        return f"{self.of}, {self.factors}"
