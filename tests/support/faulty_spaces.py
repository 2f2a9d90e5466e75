"""Spaces whose trials meet a fault each, as their numbers say. Workers import this module."""

import dataclasses
import os
import signal
import threading
import time
from pathlib import Path

import optuna
import torch
from small_spaces import recipe
from torch import nn

from robsearch import MLP, PGD, PGDAT, TRADES, Recipe, space
from robsearch.trials.loading import newest_checkpoint

ROOM = 20
"""Images at a time for which the memory of a ``Greedy`` net does."""


@dataclasses.dataclass(frozen=True)
class Faulty(TRADES):
    """TRADES that meets a fault in its ``at``-th training step, by default the first of epoch 3.

    ``here`` is the trial's folder, with a file ``pid`` of the last process, and a file ``met`` from
    the fault on: a process that goes on with the trial meets it in its first step. Steps last
    ``seconds`` at least: with 0.15 an epoch (2 steps) is long enough to be saved.
    """

    fault: str = "none"
    here: str = ""
    at: int = 5
    seconds: float = 0.0

    def terms(self, clean_logits, adv_logits, y):
        natural, robust = super().terms(clean_logits, adv_logits, y)
        time.sleep(self.seconds)
        STEPS[self.here] = STEPS.get(self.here, 0) + 1
        here = Path(self.here)
        if not here.is_dir():  # the first step of `check`, before there are trials
            return natural, robust
        if STEPS[self.here] == 1:
            (here / "pid").write_text(str(os.getpid()))
        before = (here / "met").exists()
        if self.fault != "none" and STEPS[self.here] == (1 if before else self.at):
            if not before:
                (here / "met").touch()
            natural = FAULTS[self.fault](natural, here, before)
        return natural, robust


STEPS: dict[str, int] = {}


def raises(natural, here, before):
    raise RuntimeError("a fault [/of] the objective\nwith more to say")


def becomes_nan(natural, here, before):
    return natural * torch.nan


def dies(natural, here, before):
    os.kill(os.getpid(), signal.SIGKILL)


def dies_once(natural, here, before):
    return natural if before else dies(natural, here, before)


def truncates_and_dies_once(natural, here, before):
    if not before:
        os.truncate(newest_checkpoint(here).folder / "state.pt", 100)
    return dies_once(natural, here, before)


def hangs(natural, here, before):
    time.sleep(1e6)


def hangs_once(natural, here, before):
    return natural if before else hangs(natural, here, before)


def fills_the_disk(natural, here, before):
    """For every checkpoint of the next seconds: /dev/full refuses each byte as a full disk does."""
    full = here / "full"
    full.mkdir()
    (full / "state.pt").symlink_to("/dev/full")
    links = [here / "a1" / f"epoch-{epoch:04d}" for epoch in (3, 4)]
    for link in links:
        link.symlink_to(full)
    threading.Timer(6.0, lambda: [link.unlink() for link in links]).start()
    return natural


FAULTS = {
    "raises": raises,
    "nan": becomes_nan,
    "dies": dies,
    "dies once": dies_once,
    "truncates": truncates_and_dies_once,
    "hangs": hangs,
    "hangs once": hangs_once,
    "disk": fills_the_disk,
}


@dataclasses.dataclass(frozen=True)
class Greedy(MLP):
    """An MLP that asks the allocator for 2**60 bytes when more than ``room`` images are trained on
    at once."""

    room: float = ROOM

    def build(self, images):
        return GreedyNet(super().build(images), self.room)


class GreedyNet(nn.Module):
    def __init__(self, body, room):
        super().__init__()
        self.body, self.room = body, room

    def forward(self, x):
        if self.training and len(x) > self.room:
            torch.empty(2**60, dtype=torch.uint8, device=x.device)
        return self.body(x)


def greedy(width: float, lam: float, room: float = ROOM) -> Recipe:
    """Nothing random in the attack: the same images, in however many pieces."""
    attack = PGD(eps=0.1, step_size=0.05, steps=2, start="none")
    return recipe(
        width, lam, model=Greedy(width=width, depth=1, room=room), attack=attack, objective=PGDAT()
    )


def faulty(trial: optuna.Trial, width: float, faults: dict[int, str]) -> Recipe:
    lam, fault = trial.suggest_float("lam", 0.5, 32.0, log=True), faults.get(trial.number, "none")
    if fault == "memory":
        return greedy(width, lam)
    here = Path(os.environ["ROBSEARCH_TEST_TRIALS"]) / f"w{width:g}-{trial.number:03d}"
    seconds = 0.0 if fault in ("none", "raises", "nan") else 0.15
    return recipe(width, lam, objective=Faulty(fault=fault, here=str(here), seconds=seconds))


@space(widths=(4,))
def many(trial: optuna.Trial, width: float) -> Recipe:
    faults = {1: "raises", 2: "nan", 3: "dies once", 4: "memory", 5: "disk", 6: "truncates"}
    return faulty(trial, width, faults)


@space(widths=(4,))
def silent(trial: optuna.Trial, width: float) -> Recipe:
    return faulty(trial, width, {1: "hangs", 2: "dies", 3: "hangs once"})


@space(widths=(4,))
def sound(trial: optuna.Trial, width: float) -> Recipe:
    """Long enough to be interrupted half-way: six seconds each at least."""
    here = Path(os.environ["ROBSEARCH_TEST_TRIALS"]) / f"w{width:g}-{trial.number:03d}"
    lam = trial.suggest_float("lam", 0.5, 32.0, log=True)
    return recipe(width, lam, objective=Faulty(here=str(here), seconds=0.15), epochs=20)
