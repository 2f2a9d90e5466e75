"""A space for two GPUs that are not there: torch.cuda answers for one of 16 GiB on workers that the
test says so to."""

import dataclasses
import os
import time
from pathlib import Path

import optuna
import ray
import torch
from small_spaces import recipe

from robsearch import TRADES, Recipe, space

GIB = 2**30
TOTAL, CONTEXT = 16, 1
NOTES = "ROBSEARCH_TEST_NOTES"
HELD = [0.0]
"""GiB at the peak, as the objective sets them."""


def answer(notes: Path) -> None:
    """Replaces what robsearch asks of torch.cuda; notes each limit that it sets beside the
    process's number."""
    torch.cuda.device_count = lambda: 1
    torch.cuda.mem_get_info = lambda device=None: ((TOTAL - CONTEXT) * GIB, TOTAL * GIB)
    torch.cuda.memory_reserved = lambda device=None: 0
    torch.cuda.max_memory_reserved = lambda device=None: int(HELD[0] * GIB)
    torch.cuda.reset_peak_memory_stats = lambda device=None: None
    torch.cuda.set_per_process_memory_fraction = lambda share, device=None: noted(
        notes / "limits", share
    )


def noted(file: Path, *words: object) -> None:
    with file.open("a") as notes:
        notes.write(" ".join(map(str, words)) + "\n")


if NOTES in os.environ:
    answer(Path(os.environ[NOTES]))


@dataclasses.dataclass(frozen=True)
class Heavy(TRADES):
    """TRADES that takes so many GiB and notes when it was at work, by its lambda.

    Where trials share a GPU, the first ``together`` of them wait for each other: they run at once,
    or not at all.
    """

    gib: float = 1.0
    lam: float = 1.0
    together: int = 1

    def terms(self, clean_logits, adv_logits, y):
        if not ray.is_initialized():  # the first step of a check
            return super().terms(clean_logits, adv_logits, y)
        if self.gib > TOTAL:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        HELD[0] = self.gib
        notes = Path(os.environ[NOTES])
        share = ray.get_runtime_context().get_assigned_resources()["GPU"]
        noted(notes / "work", self.gib, self.lam, share, time.time())
        begun = notes / f"begun-{self.gib:g}-{self.lam}"
        if share < 1 and not begun.exists():
            begun.touch()
            end = time.monotonic() + 100
            while (
                len(list(notes.glob(f"begun-{self.gib:g}-*"))) < self.together
                and time.monotonic() < end
            ):
                time.sleep(0.05)
        noted(notes / "work", self.gib, self.lam, share, time.time())
        return super().terms(clean_logits, adv_logits, y)


@space(widths=(4, 8))
def heavy(trial: optuna.Trial, width: float) -> Recipe:
    """6 GiB at width 4, of which 2 share a GPU of 16 GiB, and 12 GiB at width 8."""
    lam = trial.suggest_float("lam", 0.5, 32.0, log=True)
    return recipe(
        width, lam, objective=Heavy(gib=1.5 * width, lam=lam, together=4), epochs=2, measures=()
    )


@space(widths=(4, 16))
def too_heavy(trial: optuna.Trial, width: float) -> Recipe:
    """24 GiB at width 16, for one image as for many."""
    lam = trial.suggest_float("lam", 0.5, 32.0, log=True)
    return recipe(width, lam, objective=Heavy(gib=1.5 * width, lam=lam))


@space(widths=(4,))
def batched(trial: optuna.Trial, width: float) -> Recipe:
    """Three draws that need not take the same memory."""
    size = trial.suggest_int("batch_size", 10, 100)
    return recipe(width, trial.suggest_float("lam", 0.5, 32.0, log=True), batch_size=size)
