"""When a training ends before its last epoch."""

from __future__ import annotations

from dataclasses import dataclass

from robsearch.errors import count, number, refuse_unless


@dataclass(frozen=True)
class RobustOverfittingStopper:
    """Ends a training whose robust accuracy on ``val`` has peaked (robust overfitting, arXiv
    2002.11569).

    In adversarial training robust accuracy jumps when the learning rate drops, peaks soon after,
    and falls while natural accuracy still rises. The best epoch's checkpoint is the trial's, and
    the trial is complete: what is saved is only what would have been trained after the peak.

    Attributes:
        patience: epochs without a higher robust accuracy after which the best is taken for the
            peak. It should exceed the noise of one epoch: on 1,000 images the standard error of a
            rate is about 1.5 points.
        after: the share of training, in [0, 1), before which nothing is stopped and from which
            patience counts at the earliest; place it at the learning rate's first drop.

    Raises:
        InputError: all fields that do not fit, at once.
    """

    patience: int = 10
    after: float = 0.5

    def __post_init__(self) -> None:
        refuse_unless(
            count("patience", self.patience, "such as patience=10"),
            number("after", self.after, "0.5 is half of training", at_least=0, below=1),
        )

    def stops(self, epoch: int, epochs: int, best_epoch: int) -> bool:
        """Whether training ends after ``epoch`` of ``epochs``, the best so far being ``best_epoch``
        (all from 1)."""
        return epoch - max(best_epoch, self.after * epochs) >= self.patience
