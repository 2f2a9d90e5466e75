"""What a trial costs beyond its training: robsearch's reused workers against plain Ray Tune, in one
run.

Both run trials that import torch and report once, two at a time. The peer is ``tune.Tuner`` with
its defaults, which starts a process per trial. Prints seconds per trial of both and
``startup: ratio=`` ours / theirs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ray import tune

from robsearch import MLP, Digits, Recipe, cluster
from robsearch.trials.trial import Report

RECIPE = Recipe(model=MLP(16), data=Digits())
PARALLEL = 2


class Trivial:
    """Jobs that end at once (``cluster.Jobs``)."""

    stopping = False

    def __init__(self, trials: int) -> None:
        self.to_do, self.running = list(range(trials)), 0

    @property
    def finished(self) -> bool:
        return not self.to_do and not self.running

    def next(self) -> cluster.Job | None:
        if not self.to_do or self.running >= PARALLEL:
            return None
        self.running += 1
        return cluster.Job(f"trial-{self.to_do.pop()}", report_once, RECIPE, Path("unused"))

    def heard(self, job: cluster.Job, report: Report) -> bool:
        return True

    def gone(self, job: cluster.Job, error: str | None) -> None:
        assert error is None, error
        self.running -= 1


def report_once(recipe: Recipe, folder: Path) -> Iterator[Report]:
    import torch

    yield Report([{"epoch": 1, "value": float(torch.ones(1))}], ended="COMPLETE")


def plain(config: dict[str, object]) -> None:
    import torch

    tune.report({"value": float(torch.ones(1))})


def theirs(trials: int, folder: str) -> float:
    started = time.perf_counter()
    tune.Tuner(
        tune.with_resources(plain, {"cpu": 1}),
        tune_config=tune.TuneConfig(num_samples=trials),
        run_config=tune.RunConfig(storage_path=folder, verbose=0),
    ).fit()
    return (time.perf_counter() - started) / trials


def ours(trials: int, folder: str) -> float:
    started = time.perf_counter()
    cluster.run(Trivial(trials), Path(folder), max_retries=0)
    return (time.perf_counter() - started) / trials


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="8 trials each instead of 40")
    trials = 8 if options.parse_args().quick else 40
    with tempfile.TemporaryDirectory() as folder, cluster.connected(None, PARALLEL):
        ours(PARALLEL, folder)  # both then find Ray's own processes warm
        us, them = ours(trials, folder), theirs(trials, folder)
    print(f"seconds per trial: robsearch {us:.2f}, plain Ray Tune {them:.2f}")
    print(f"startup: ratio={us / them:.2f} goal=0.50 n={trials}")


if __name__ == "__main__":
    main()
