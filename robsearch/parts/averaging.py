"""Weight averaging: the model that is judged and deployed is a running mean of the one that is
trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from robsearch.errors import number, refuse_unless


@dataclass(frozen=True)
class EMA:
    """Exponential moving average of weights and of BatchNorm's statistics, updated after each
    optimiser step.

    ``average <- decay * average + (1 - decay) * weights`` (arXiv 2010.03593 uses 0.995).

    Raises:
        InputError: a decay outside [0, 1).
    """

    decay: float = 0.995

    def __post_init__(self) -> None:
        refuse_unless(number("EMA.decay", self.decay, "pass such as 0.995", at_least=0, below=1))

    def build(self, model: nn.Module) -> AveragedModel:
        """The average, which begins as a copy of the model; ``average.module`` is the net to
        judge."""
        return AveragedModel(model, multi_avg_fn=self._update, use_buffers=True)

    def _update(
        self,
        average: Sequence[Tensor],
        now: Sequence[Tensor],
        updates: Tensor | int,
    ) -> None:
        """Of tensors of one type. Whole numbers, such as indices, are copied: their mean would be
        rounded down."""
        if average[0].is_floating_point() or average[0].is_complex():
            get_ema_multi_avg_fn(self.decay)([*average], [*now], updates)
            return
        for averaged, trained in zip(average, now, strict=True):
            averaged.copy_(trained)
