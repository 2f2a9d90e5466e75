"""A trial that is being trained, as the driver follows it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from robsearch.checkpoints import best_epoch
from robsearch.costs import cost_of
from robsearch.protocols import Metrics
from robsearch.study import Study, Suggestion, others_than_lam, params_text
from robsearch.trainer import VALUE


@dataclass
class Live:
    """A trial that is being trained, or waits to be continued.

    Attributes:
        suggestion: what is trained.
        study: whose it is.
        started: when it was handed out (Unix seconds).
        heard: when it last reported an epoch.
        before: seconds of the epochs that were saved before it was handed out.
        history: its epochs so far.
        attempt: the number of the attempt that reported last.
    """

    suggestion: Suggestion
    study: Study
    started: float = field(default_factory=time.time)
    heard: float = 0.0
    before: float = 0.0
    history: list[Metrics] = field(default_factory=list)
    attempt: int = 0

    @property
    def best(self) -> Metrics:
        """The epoch with the best value so far."""
        return self.history[best_epoch(self.history) - 1]

    def spent(self, state: str, gpus: float) -> dict[str, float]:
        """What the storage is to remember of what it took, now that it has ended.

        Args:
            state: how it ended.
            gpus: that it held.
        """
        now, cost = time.time(), cost_of(self.history, {}, {})
        found = {"seconds": cost.seconds, "wall_seconds": self.before + now - self.started}
        lost = now - max(self.started, self.heard) if state == "FAIL" else 0.0
        if state == "FAIL":
            found["lost_seconds"] = lost
        if gpus:
            found |= {"gpu_seconds": cost.gpu_seconds, "lost_gpu_seconds": lost * gpus}
        return found

    def line(self, state: str, reason: str | None, collapsed: bool = False) -> str:
        """What is printed when it has ended."""
        words = {"COMPLETE": "done", "PRUNED": "pruned", "FAIL": "FAILED"}
        start = f"{self.suggestion.trial:<9} {words[state]:<6}"
        params = self.suggestion.params
        if reason:
            return " ".join(filter(None, [start, params_text(params, "  "), reason]))
        lam, best, seconds = self.history[-1]["train/lam"], self.best, cost_of(self.history, {}, {}).seconds
        rates = f"val robust {best[VALUE]:5.1%} natural {best['val/natural_accuracy']:5.1%}"
        more = params_text(others_than_lam(params), "  ")
        told = f"lam {lam:<6.3g} {more}{'  ' if more else ''}{rates}"
        told = f"{start} {told} epoch {best['epoch']:.0f}/{len(self.history)} {seconds:.1f} s"
        return f"{told}, collapsed" if collapsed else told
