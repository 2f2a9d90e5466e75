"""What bfloat16 changes in a trained net: paired trainings in fp32 and bf16, all judged in fp32.

Each pair has one recipe and one seed, so initial weights, batches and attack starts are the same
until rounding parts them. Both nets are those of their best epoch on ``val``, judged on all images
of ``test`` by ``TwoLosses`` (the worst case of cross-entropy and margin, 20 steps each). Printed
for each data set, width and lambda: the mean over pairs of robust and natural accuracy in bf16 less
in fp32, in points, with the half-width of its 95 % interval (Student's t over seeds), and the
number of pairs that a half-width of 0.7 points would take by their standard deviation.

Beside it, of the trained bf16 nets on the training images, in eval mode:

- *rounding*: the mean KL divergence between the outputs in bf16 and in fp32 at the same images, as
  a share of TRADES' robust term there (KL between the outputs at the clean and at the attacked
  images). That is what rounding alone adds to the term;
- *sign flips*: the share of pixels in which the sign of the inner loss's gradient differs between
  the two precisions, among those in which neither gradient is 0; at TRADES' Gaussian start, where
  the loss is nearly 0 and rounding has most to say, and at the attacked images.

A CPU without bfloat16 computes it in emulation: products are summed in fp32 and results rounded to
bf16, as the hardware does, but more slowly than fp32. So nothing here says how fast bf16 is.

Trainings are kept in ``--out``, and a run that was killed goes on with the next. The last line is
``precision: ratio=`` the largest share of rounding; n counts the pairs.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import math
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from record_surfaces import fashion
from scipy import stats
from torch import Tensor, nn

from robsearch import Recipe, train
from robsearch.data import load
from robsearch.metrics import VALUE
from robsearch.network.modes import evaluating
from robsearch.protocols import Split
from robsearch.training.evaluation import judge
from robsearch.training.precision import EMULATE, BFloat16
from search_spaces import quickstart

HALF_WIDTH = 0.7
"""Points."""


class Setting(NamedTuple):
    """What is trained in both precisions."""

    data: str
    width: float
    lam: float
    start: str = "gaussian"
    """Of the training attack."""


RECIPES: dict[str, Callable[[float, float], Recipe]] = {
    "digits": quickstart.recipe,
    "fashion": fashion,
}
SETTINGS = [
    *(Setting("digits", width, lam) for width in (16, 64) for lam in (1, 16, 64)),
    *(Setting("digits", 64, lam, "uniform") for lam in (16, 64)),
    *(Setting("fashion", 0.25, lam) for lam in (1, 16)),
]


def pair(job: tuple[Setting, int], epochs: int | None = None) -> dict[str, Any]:
    """Accuracies of both nets as percentages, and what rounding does to the one in bf16."""
    torch.set_num_threads(1)
    setting, seed = job
    recipe = RECIPES[setting.data](setting.width, setting.lam)
    attack = dataclasses.replace(recipe.attack, start=setting.start)
    recipe = dataclasses.replace(recipe, attack=attack, seed=seed, epochs=epochs or recipe.epochs)
    row: dict[str, Any] = {**setting._asdict(), "seed": seed}
    for precision in ("fp32", "bf16"):
        net = trained(dataclasses.replace(recipe, precision=precision))
        rates = judge(net, load(recipe.resolved_data)["test"], recipe.resolved_test_attack)
        row[f"{precision}/robust"] = 100 * rates["robust_accuracy"]
        row[f"{precision}/natural"] = 100 * rates["natural_accuracy"]
    return row | rounding(net, recipe)


def trained(recipe: Recipe) -> nn.Module:
    """The net of the best epoch on ``val``."""
    best = -math.inf
    weights = {}
    for epoch in train(recipe):
        if epoch.metrics[VALUE] > best:
            best = epoch.metrics[VALUE]
            weights = copy.deepcopy(epoch.state["judged"])
    net = recipe.model.build(recipe.data.spec)
    net.load_state_dict(weights)
    return net


def rounding(net: nn.Module, recipe: Recipe) -> dict[str, float]:
    split: Split = load(recipe.resolved_data)["train"]
    x = split.images.float() / 255
    in_bf16 = BFloat16(net, recipe.data.spec)
    attack = recipe.training_attack(1.0)
    with evaluating(net):
        with torch.no_grad():
            exact, rounded = net(x), in_bf16(x)
        attacked = attack(in_bf16, x, split.labels, recipe.objective.inner(rounded, split.labels))
        with torch.no_grad():
            robust = kl_divergence(in_bf16(attacked), rounded)
            added = kl_divergence(rounded, exact)
        start = x + 0.001 * torch.randn_like(x)
        at_start, at_end = (flips(net, in_bf16, x, where) for where in (start, attacked))
    return {"rounding": (added / robust).item(), "flips/start": at_start, "flips/end": at_end}


def kl_divergence(perturbed: Tensor, clean: Tensor) -> Tensor:
    """TRADES' robust term of two batches of logits."""
    return F.kl_div(
        perturbed.log_softmax(1), clean.log_softmax(1), log_target=True, reduction="batchmean"
    )


def flips(net: nn.Module, in_bf16: nn.Module, clean: Tensor, where: Tensor) -> float:
    """Each network is compared with its own outputs at the clean images, as the attack does."""
    signs = []
    for network in (net, in_bf16):
        x = where.clone().requires_grad_()
        loss = kl_divergence(network(x), network(clean).detach())
        (gradient,) = torch.autograd.grad(loss, [x])
        signs.append(gradient.sign())
    both = (signs[0] != 0) & (signs[1] != 0)
    return (signs[0] != signs[1])[both].double().mean().item()


def show(rows: pd.DataFrame) -> None:
    for setting, group in rows.groupby(list(Setting._fields)):
        texts = []
        for kind in ("robust", "natural"):
            less = group[f"bf16/{kind}"] - group[f"fp32/{kind}"]
            n = len(less)
            sd = less.std(ddof=1) if n > 1 else math.nan
            half = stats.t.ppf(0.975, n - 1) * sd / math.sqrt(n) if n > 1 else math.nan
            texts.append(f"{kind} {less.mean():+.2f} ± {half:.2f}")
            if kind == "robust":
                texts.append(f"{needed(sd)} pairs for ± {HALF_WIDTH}")
        name = "{} width {:g} lambda {:g}, {} start".format(*setting)
        print(
            f"{name}: {', '.join(texts)}; fp32 {group['fp32/robust'].mean():.1f} % robust; "
            f"rounding {group['rounding'].max():.3%} at most, sign flips "
            f"{group['flips/start'].mean():.1%} at the start, {group['flips/end'].mean():.2%} at "
            f"the end; n={n}"
        )


def needed(sd: float) -> str:
    """Pairs for the half-width that is wanted."""
    for n in range(2, 1000):
        if stats.t.ppf(0.975, n - 1) * sd / np.sqrt(n) <= HALF_WIDTH:
            return str(n)
    return "unknown"


def done(file: Path) -> Iterator[dict[str, Any]]:
    if file.exists():
        yield from map(json.loads, file.read_text().splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two pairs of one short training")
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--data", choices=RECIPES, nargs="+", default=list(RECIPES))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("precision.jsonl"))
    asked = parser.parse_args()
    os.environ[EMULATE] = "1"
    settings = [setting for setting in SETTINGS if setting.data in asked.data]
    epochs = None
    with tempfile.TemporaryDirectory() as folder:
        file = asked.out
        if asked.quick:
            settings, epochs, asked.seeds = SETTINGS[1:2], 5, 2
            file = Path(folder) / "kept"
        rows = list(done(file))
        known = {(Setting(*(row[field] for field in Setting._fields)), row["seed"]) for row in rows}
        jobs = [(setting, seed) for seed in range(asked.seeds) for setting in settings]
        left = [job for job in jobs if job not in known]
        quickstart.recipe(16, 1).optimiser.build(nn.Linear(1, 1))  # imports torch's compiler once
        with multiprocessing.get_context("fork").Pool(asked.workers, maxtasksperchild=1) as pool:
            for row in pool.imap(partial(pair, epochs=epochs), left):
                rows.append(row)
                with file.open("a") as kept:
                    kept.write(json.dumps(row) + "\n")
    frame = pd.DataFrame(rows)
    show(frame)
    print(f"precision: ratio={frame['rounding'].max():.4f} goal=0.02 n={len(frame)}")


if __name__ == "__main__":
    main()
