"""What a search wants: metrics to be as high as possible, and others to be high enough."""

from __future__ import annotations

import math
from dataclasses import dataclass

from robsearch.errors import refuse_unless


@dataclass(frozen=True)
class AtLeast:
    """A constraint: a metric of the best epoch on ``val`` is at least so high.

    Attributes:
        metric: one that the trainer reports after each epoch, such as ``val/natural_accuracy``.
        value: in the metric's unit: rates are shares, so 84 % is 0.84.

    Raises:
        InputError: a value that is not finite.
    """

    metric: str
    value: float

    def __post_init__(self) -> None:
        finite = math.isfinite(self.value)
        refuse_unless((finite, f"a finite least value of {self.metric}", self.value, "such as 0.84"))

    def shortfall(self, found: float) -> float:
        """How much is missing; 0 or less where the constraint is met (Optuna's sign)."""
        return self.value - found
