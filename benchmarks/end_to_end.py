"""What a search costs until its answer is right: ``robsearch launch`` against plain Optuna, on real
trainings.

Both search lambda of the quickstart's recipe at each of its widths, in turns, ten trainings at
each, two at a time. Ours is ``robsearch.launch`` in a process of its own: sampler and pruner across
widths, Ray, MLflow, measures and report. The peer is what one writes with Optuna's documentation
open: a study for each width in a journal file, TPE, two processes that each ask, train and tell, no
pruning. It trains by the official TRADES procedure (``train_step.official_step``) with the same
recipe, judges on ``val`` by PGD-10 after each epoch and tells the best epoch. A second peer differs
in its judge alone, which is ours: what it is behind is not the judge's doing. Each training has one
thread.

After each training that has ended, each side recommends a lambda for the widest net: ours the
lambda* that ``robsearch`` prints, a peer's that of its best trial there. The truth is the cubic
through the mean over seeds of the recorded surface at that width (``benchmarks/data``, made by
``record_surfaces.py`` under the default judge). The search *is right* from the training on after
which its recommendation stays, to its end, within half a point of the best. Seconds count from the
start of the command.

Prints, for each side, how many searches were right, and medians over repetitions: the seconds and
trainings until they were, and the points that the last recommendation loses. The last line is
``end_to_end: ratio=`` the median over repetitions of our seconds over the first peer's, where a
side that never was right counts as if its last training had made it so. Searches are kept in
``--out``, and a run that was killed goes on with the next.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import pandas as pd
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from rich.console import Console
from torch import nn
from train_step import official_step

import robsearch
from robsearch import InputError, Recipe, RunOptions, Search, Space
from robsearch.data import load
from robsearch.parts.attacks import PGD
from robsearch.protocols import Split
from robsearch.training.evaluation import judge
from search_spaces import quickstart

TOLERANCE = 0.005
PARALLEL = 2
LAMS = (0.5, 64.0)
RECORDED = Path(__file__).parent / "data" / "digits.parquet"

OURS = "ours"
PEER = "Optuna"
PEER_OUR_JUDGE = "Optuna, our judge"
SIDES = (OURS, PEER, PEER_OUR_JUDGE)


class Size(NamedTuple):
    """How much is searched."""

    widths: tuple[float, ...]
    trials: int
    """At each width."""
    epochs: int


FULL = Size((16.0, 64.0, 256.0), 10, 60)
QUICK = Size((16.0, 64.0), 1, 3)


class Ended(NamedTuple):
    """A training that has ended, and what is recommended for the widest net from then on."""

    width: float
    lam: float
    value: float
    seconds: float
    recommended: float | None


def recipe(size: Size, width: float, lam: float) -> Recipe:
    return dataclasses.replace(quickstart.recipe(width, lam), epochs=size.epochs)


def in_processes(work: Callable[..., None], each: list[tuple[Any, ...]]) -> None:
    """Fresh ones, side by side."""
    spawned = multiprocessing.get_context("spawn")
    processes = [spawned.Process(target=work, args=arguments) for arguments in each]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            raise SystemExit(f"{work.__name__} ended with {process.exitcode}")


# --- ours ---


def our_search(size: Size, seed: int, folder: Path) -> list[Ended]:
    started = time.time()
    in_processes(launch_ours, [(size, seed, folder)])
    search = robsearch.load_search("ours", results=folder)
    storage = journal(folder / "ours" / "optuna.journal")
    at = {}
    for width in size.widths:
        for trial in ended_trials(storage, f"ours@w{width:g}"):
            at[f"w{width:g}-{trial.number:03d}"] = trial.datetime_complete.timestamp()
    order = search.trials.assign(at=search.trials["trial"].map(at)).sort_values("at")
    order = order[order["at"].notna()]
    ended = []
    for n, (_, trial) in enumerate(order.iterrows(), start=1):
        lam = lambda_star(dataclasses.replace(search, trials=order.iloc[:n]), size.widths[-1])
        ended.append(
            Ended(trial["width"], trial["lam"], trial["value"], trial["at"] - started, lam)
        )
    return ended


def lambda_star(search: Search, width: float) -> float | None:
    try:
        # Where the trials of a width do not place lambda*, the lambda of the highest mean.
        regret = search.ridge.regret
        if regret is None or width not in regret.widths:
            return None
        return regret.lams[regret.widths.index(width)]
    except InputError:  # no trial there yet
        return None


def launch_ours(size: Size, seed: int, folder: Path) -> None:
    def lam(trial: optuna.Trial, width: float) -> Recipe:
        return recipe(size, width, trial.suggest_float("lam", *LAMS, log=True))

    robsearch.launch(
        Space(lam, size.widths),
        name="ours",
        trials=size.trials * len(size.widths),
        seed=seed,
        options=RunOptions(results=folder, parallel=PARALLEL, models=False),
        console=Console(quiet=True),
    )


# --- plain Optuna ---


def optuna_search(size: Size, seed: int, folder: Path, our_judge: bool) -> list[Ended]:
    started = time.time()
    in_processes(
        optuna_worker, [(size, seed, number, folder, our_judge) for number in range(PARALLEL)]
    )
    storage = journal(folder / "optuna.journal")
    order = sorted(
        (trial.datetime_complete.timestamp(), width, trial.params["lam"], trial.value)
        for width in size.widths
        for trial in ended_trials(storage, f"{width:g}")
    )
    ended: list[Ended] = []
    wide: list[tuple[float, float]] = []
    for at, width, lam, value in order:
        if width == size.widths[-1]:
            wide.append((value, lam))
        best = max(wide)[1] if wide else None
        ended.append(Ended(width, lam, value, at - started, best))
    return ended


def optuna_worker(size: Size, seed: int, number: int, folder: Path, our_judge: bool) -> None:
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    studies = {}
    for at, width in enumerate(size.widths):
        studies[width] = optuna.create_study(
            study_name=f"{width:g}",
            storage=journal(folder / "optuna.journal"),
            sampler=optuna.samplers.TPESampler(seed=1000 * seed + 10 * at + number),
            direction="maximize",
            load_if_exists=True,
        )
    while True:
        tried = {width: len(study.get_trials(deepcopy=False)) for width, study in studies.items()}
        width = min(tried, key=lambda width: tried[width])
        if tried[width] >= size.trials:
            return
        trial = studies[width].ask()
        lam = trial.suggest_float("lam", *LAMS, log=True)
        torch.manual_seed(1000 * seed + trial.number)
        value = officially_trained(recipe(size, width, lam), lam, our_judge)
        studies[width].tell(trial, value)


def journal(file: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(file)))


def ended_trials(storage: JournalStorage, study: str) -> list[optuna.trial.FrozenTrial]:
    states = [optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED]
    return optuna.load_study(study_name=study, storage=storage).get_trials(states=states)


def officially_trained(trained: Recipe, lam: float, our_judge: bool) -> float:
    """The best epoch's robust accuracy on ``val``, under PGD-10 or our judge."""
    splits = load(trained.data)
    attack = trained.attack
    assert isinstance(attack, PGD)
    model = trained.model.build(trained.data.spec)
    optimiser = trained.optimiser.build(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda epoch: trained.learning_rate(epoch / trained.epochs)
    )
    best = 0.0
    for _ in range(trained.epochs):
        for x, y in shuffled(splits["train"], trained.batch_size):
            official_step(model, optimiser, attack, lam, x, y)
        schedule.step()
        if our_judge:
            rates = judge(model, splits["val"], trained.resolved_eval_attack)
            best = max(best, rates["robust_accuracy"])
        else:
            best = max(best, robust_accuracy(model, attack, splits["val"]))
    return best


def shuffled(split: Split, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for chosen in torch.randperm(len(split.labels)).split(batch_size):
        yield split.images[chosen].float() / 255, split.labels[chosen]


def robust_accuracy(model: nn.Module, attack: PGD, split: Split) -> float:
    model.eval()
    x = split.images.float() / 255
    x_adv = (x + attack.eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    for _ in range(10):
        x_adv.requires_grad_()
        loss = nn.functional.cross_entropy(model(x_adv), split.labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, [x_adv])
        x_adv = x_adv.detach() + attack.step_size * gradient.sign()
        x_adv = torch.min(torch.max(x_adv, x - attack.eps), x + attack.eps).clamp(0, 1)
    with torch.no_grad():
        return (model(x_adv).argmax(dim=1) == split.labels).double().mean().item()


# --- the truth, and when a search is right ---


class Truth:
    """Robust accuracy over lambda at one width: the cubic in log lambda through the means over
    seeds of the recorded surface."""

    def __init__(self, width: float) -> None:
        rows = pd.read_parquet(RECORDED)
        rows = rows[rows["width"] == width]
        best = rows.groupby(["lam", "seed"])["val/robust_accuracy"].max()
        means = best.groupby("lam").mean()
        self.coefficients = np.polyfit(np.log(means.index.to_numpy(float)), means.to_numpy(), 3)
        self.highest = float(self(np.geomspace(*LAMS, 513)).max())

    def __call__(self, lam: Any) -> Any:
        return np.polyval(self.coefficients, np.log(lam))

    def lost(self, lam: float | None) -> float:
        """By the recommendation, a rate; everything without one."""
        return self.highest if lam is None else float(self.highest - self(lam))


class Answer(NamedTuple):
    """When a search was right: after how many trainings, of them at the widest net, and seconds;
    and what its last recommendation loses, in points."""

    right: bool
    trainings: int
    wide: int
    seconds: float
    lost: float


def answer(ended: list[Ended], truth: Truth) -> Answer:
    widest = ended[-1].width
    first = len(ended)
    while first and truth.lost(ended[first - 1].recommended) <= TOLERANCE:
        first -= 1
    right = first < len(ended)
    until = ended[: first + 1]
    wide = sum(training.width == widest for training in until)
    lost = 100 * truth.lost(ended[-1].recommended)
    return Answer(right, len(until), wide, until[-1].seconds, lost)


# --- repetitions ---


def searched(side: str, size: Size, seed: int) -> list[Ended]:
    with tempfile.TemporaryDirectory() as folder:
        if side == OURS:
            return our_search(size, seed, Path(folder))
        return optuna_search(size, seed, Path(folder), our_judge=side == PEER_OUR_JUDGE)


def repetitions(
    size: Size, sides: Sequence[str], n: int, kept: Path
) -> Iterator[dict[str, list[Ended]]]:
    """Each with all sides in turns; what ``kept`` holds is not done again."""
    known = {}
    for line in kept.read_text().splitlines() if kept.exists() else ():
        search = json.loads(line)
        known[search["side"], search["seed"]] = [Ended(*training) for training in search["ended"]]
    for seed in range(n):
        for side in sides if seed % 2 else sides[::-1]:
            if (side, seed) not in known:
                known[side, seed] = searched(side, size, seed)
                line = {"side": side, **notes(size, seed), "ended": known[side, seed]}
                with kept.open("a") as file:
                    file.write(json.dumps(line) + "\n")
        yield {side: known[side, seed] for side in sides}


def notes(size: Size, seed: int) -> dict[str, Any]:
    commit = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    return {
        "commit": subprocess.run(commit, capture_output=True, text=True).stdout.strip(),
        "hardware": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "size": size,
        "seed": seed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="one tiny search of ours and of the first peer"
    )
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("end_to_end.jsonl"))
    asked = parser.parse_args()
    size = QUICK if asked.quick else FULL
    n = 1 if asked.quick else asked.repetitions
    sides = (OURS, PEER) if asked.quick else SIDES
    truth = Truth(size.widths[-1])
    answers: dict[str, list[Answer]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "kept" if asked.quick else asked.out
        for number, searches in enumerate(repetitions(size, sides, n, kept), start=1):
            for side in sides:
                answers[side].append(answer(searches[side], truth))
            print(f"{number}/{n}: {[(side, tuple(answers[side][-1])) for side in sides]}")
    for side, reached in answers.items():
        trainings, wide, seconds, lost = (
            float(np.median([getattr(one, field) for one in reached]))
            for field in ("trainings", "wide", "seconds", "lost")
        )
        print(
            f"{side}: right in {sum(one.right for one in reached)} of {n} searches, after "
            f"{seconds:.0f} s, {trainings:g} trainings, {wide:g} of them at the widest net; at the "
            f"end {lost:.2f} points are lost"
        )
    ratios = [
        ours.seconds / peer.seconds for ours, peer in zip(answers[OURS], answers[PEER], strict=True)
    ]
    print(f"end_to_end: ratio={np.median(ratios):.2f} goal=0.33 n={n}")


if __name__ == "__main__":
    main()
