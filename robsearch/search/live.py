"""A trial that is being trained, as the driver follows it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from robsearch.checkpoints import best_epoch
from robsearch.protocols import Metrics
from robsearch.study import Study, Suggestion, others_than_lam, params_text
from robsearch.trainer import VALUE


@dataclass
class Live:
    """The suggestion, whose it is, its epochs so far, and the number of the attempt that reported last."""

    suggestion: Suggestion
    study: Study
    started: float = field(default_factory=time.time)
    history: list[Metrics] = field(default_factory=list)
    attempt: int = 0

    @property
    def best(self) -> Metrics:
        """The epoch with the best value so far."""
        return self.history[best_epoch(self.history) - 1]

    def line(self, state: str, reason: str | None) -> str:
        """What is printed when it has ended."""
        words = {"COMPLETE": "done", "PRUNED": "pruned", "FAIL": "FAILED"}
        start = f"{self.suggestion.trial:<9} {words[state]:<6}"
        params = self.suggestion.params
        if reason:
            return " ".join(filter(None, [start, params_text(params, "  "), reason]))
        lam, best, seconds = self.history[-1]["train/lam"], self.best, time.time() - self.started
        rates = f"val robust {best[VALUE]:5.1%} natural {best['val/natural_accuracy']:5.1%}"
        more = params_text(others_than_lam(params), "  ")
        told = f"lam {lam:<6.3g} {more}{'  ' if more else ''}{rates}"
        return f"{start} {told} epoch {best['epoch']:.0f}/{len(self.history)} {seconds:.1f} s"
