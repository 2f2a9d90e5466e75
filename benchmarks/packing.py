"""What sharing a GPU by measured memory brings: a search with ``--gpus-per-trial auto`` and with a
GPU per trial.

Needs a GPU, and says so without one. Prints what was measured at each width, whether a trial
outgrew its share, and ``packing: ratio=`` the search's time with shares / without.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import optuna
import torch

from robsearch import (
    MLP,
    Digits,
    Fixed,
    Recipe,
    Resources,
    RunOptions,
    Search,
    SmallCNN,
    Space,
    launch,
    space,
)


@space(widths=(1, 4), resources=lambda width: Resources(cpus=0.5, gpus=1))
def digits(trial: optuna.Trial, width: float) -> Recipe:
    lam = Fixed(trial.suggest_float("lam", 0.5, 32.0, log=True))
    return Recipe(model=MLP(width=256 * width), data=Digits(), lam=lam, epochs=20, measures=())


@space(widths=(2, 8), resources=lambda width: Resources(cpus=0.5, gpus=1))
def convolutions(trial: optuna.Trial, width: float) -> Recipe:
    lam = Fixed(trial.suggest_float("lam", 0.5, 32.0, log=True))
    return Recipe(model=SmallCNN(width=width), data=Digits(), lam=lam, epochs=100, measures=())


def timed(searched: Space, trials: int, folder: Path, share: float | str) -> tuple[float, Search]:
    options = RunOptions(results=folder / str(share), gpus_per_trial=share)
    started = time.perf_counter()
    search = launch(searched, trials=trials, options=options)
    return time.perf_counter() - started, search


def outgrown(search: Search) -> list[str]:
    """Trials that failed or went on in micro-batches."""
    failed = search.trials.loc[search.trials["state"] == "FAIL", "trial"]
    epochs = search.epochs.reindex(columns=["trial", "train/micro_batch"])
    return sorted({*failed, *epochs.dropna()["trial"]})


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument(
        "--quick", action="store_true", help="8 short trials instead of 32 longer ones"
    )
    quick = options.parse_args().quick
    if not torch.cuda.is_available():
        raise SystemExit("packing: needs a GPU that torch can use; there is none")
    searched, trials = (digits, 8) if quick else (convolutions, 32)
    with tempfile.TemporaryDirectory() as folder:
        ours, search = timed(searched, trials, Path(folder), "auto")
        theirs, _ = timed(searched, trials, Path(folder), 1)
    print(
        f"{torch.cuda.get_device_name()}: {ours:.0f} s with shares, {theirs:.0f} s with a GPU "
        "for each trial"
    )
    print(f"outgrew their share: {', '.join(outgrown(search)) or 'none'}")
    print(f"packing: ratio={ours / theirs:.2f} goal=1.00 n={trials}")


if __name__ == "__main__":
    main()
