"""Evidence of a study under wrong labels as if nature were known: trainings from a table of
accuracies, ratios from a power of lambda."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import pandas as pd

from robsearch.claims.claim import Evidence
from robsearch.claims.experiment import Findings

EPOCHS = 10


class Training(NamedTuple):
    """One training: where it stands, and what it reached, as shares."""

    experiment: str
    arm: str
    width: float
    seed: int
    lam: float
    on_val: float
    last: float
    best: float = 0.5
    ratio: float = 10.0
    operations: float = 1.0


def constants(
    width: float,
    seed: int,
    values: Mapping[float, tuple[float, float]],
    *,
    experiment: str = "grid",
    ratio: float = 1.0,
    operations: float = 1.0,
) -> list[Training]:
    """A grid's trainings: by lambda the shares on val and on test; the ratio of the losses is
    ``ratio`` times lambda."""
    return [
        Training(
            experiment,
            f"lam {lam:g}",
            width,
            seed,
            lam,
            on_val,
            last,
            best=last + 0.01,
            ratio=ratio * lam,
            operations=operations,
        )
        for lam, (on_val, last) in values.items()
    ]


def findings(trainings: Iterable[Training]) -> Findings:
    """The evidence by experiment; each names its trials as the others do."""
    trials, epochs = [], []
    numbers = Counter[str]()
    for training in trainings:
        numbers[training.experiment] += 1
        names = {
            "experiment": training.experiment,
            "trial": f"t{numbers[training.experiment]}",
            "arm": training.arm,
            "width": training.width,
            "seed": training.seed,
        }
        trials.append(
            {
                **names,
                "lam": training.lam,
                "collapsed": False,
                "test/robust_accuracy": training.best,
                "test/natural_accuracy": 0.9,
                "test/stability": 0.6,
                "test_last/robust_accuracy": training.last,
                "test_last/natural_accuracy": 0.8,
                "test_last/stability": 0.7,
                "gradients": 1.0,
                "operations": training.operations,
                "seconds": 2.0,
            }
        )
        epochs += [
            {
                **names,
                "epoch": epoch,
                "progress": (epoch - 0.5) / EPOCHS,
                "train/natural_loss": training.ratio,
                "train/robust_loss": 1.0,
                "train/lam": training.lam,
                "val/robust_accuracy": training.on_val if epoch == EPOCHS else 0.0,
            }
            for epoch in range(1, EPOCHS + 1)
        ]
    all_trials, all_epochs = pd.DataFrame(trials), pd.DataFrame(epochs)
    return {
        str(name): Evidence(rows, all_epochs[all_epochs["experiment"] == name])
        for name, rows in all_trials.groupby("experiment", sort=False)
    }
