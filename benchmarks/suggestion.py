"""What one suggestion costs after 500 trials: ``WidthSampler`` against Optuna's ``GPSampler``, in
one run.

Both have the same 500 trials of one parameter, ours at five widths, the peer's at one, for it knows
no widths. Prints CPU seconds of a suggestion of both (medians, interleaved) and
``suggestion: ratio=`` ours / theirs.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings

import numpy as np
import optuna
from optuna.samplers import BaseSampler, GPSampler

from robsearch.study.width_sampler import Observation, WidthSampler

WIDTHS = (16.0, 32.0, 64.0, 128.0, 256.0)
LOW, HIGH = 0.5, 64.0
TRIALS = 500


def value(width: float, lam: float) -> float:
    """A peak of 0.7 that moves with width."""
    return 0.7 - 0.01 * math.log(lam / (3 * (width / 16) ** 0.4)) ** 2


def seconds(study: optuna.Study) -> float:
    """CPU seconds of one suggestion."""
    started = time.process_time()
    trial = study.ask()
    trial.suggest_float("lam", LOW, HIGH, log=True)
    used = time.process_time() - started
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return used


def study_with(sampler: BaseSampler) -> optuna.Study:
    return optuna.create_study(direction="maximize", sampler=sampler)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 suggestions instead of 15")
    n = 3 if parser.parse_args().quick else 15
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    noise = np.random.default_rng(0)
    lams = np.geomspace(LOW, HIGH, TRIALS // len(WIDTHS))
    observations = []
    theirs = study_with(GPSampler(seed=0))
    space = {"lam": optuna.distributions.FloatDistribution(LOW, HIGH, log=True)}
    for width in WIDTHS:
        for lam in lams:
            seen = value(width, lam) + 0.004 * noise.standard_normal()
            observations.append(Observation(width, {"lam": float(lam)}, (seen,)))
            trial = optuna.create_trial(params={"lam": float(lam)}, distributions=space, value=seen)
            theirs.add_trial(trial)
    ours = study_with(WidthSampler(seed=0).with_siblings(256.0, lambda: observations))
    seconds(ours), seconds(theirs)  # the first one loads libraries
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(n)]
    mine, peer = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"WidthSampler {mine:.4f} s, GPSampler {peer:.4f} s of CPU for a suggestion")
    print(f"suggestion: ratio={mine / peer:.3f} goal=1 n={n}")


if __name__ == "__main__":
    main()
