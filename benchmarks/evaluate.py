"""What judging is worth, and what it costs: the ladder beside AutoAttack, and the default judge
beside APGD and beside the judge of before.

1. The order of nets. 30 MLPs on digits (five widths, six lambdas of TRADES, short trainings) are
   judged on all of ``val`` by PGD-10 on the cross-entropy, which judged before, by ``TwoLosses``
   with 10 steps, which judges now, and by APGD-CE with APGD-T: Kendall's and Spearman's
   correlations with the latter, the mean difference, and what the two judges cost in gradient
   images and in CPU time, taken in turns, by thirds of the nets from weak to robust.
2. The ladder. On one of the nets and the same images of ``test``, in turns: the nested ladder up to
   ``apgd``, and the standard AutoAttack by itself.

The last line has the ladder's time over AutoAttack's; the lines above have the difference of their
robust accuracies, in points.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from scipy.stats import kendalltau, spearmanr
from torch import nn

from robsearch import PGD, AutoAttack, Recipe, TwoLosses
from robsearch.data import load
from robsearch.protocols import Attack, Split
from robsearch.training.evaluation import judge, to_float
from robsearch.training.trainer import train
from robsearch.trials.ladder.results import read_ladder, rung_results
from robsearch.trials.ladder.running import run_ladder
from search_spaces.quickstart import recipe

WIDTHS = (8, 16, 32, 64, 128)
LAMS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
EPS = 0.15
PGD_10 = PGD(eps=EPS, step_size=EPS / 4, steps=10)
JUDGE = TwoLosses.in_place_of(PGD_10)
APGD = AutoAttack(eps=EPS, attacks=("apgd-ce", "apgd-t"), batch_size=1000)
STANDARD = AutoAttack(eps=EPS, batch_size=1000)
TURNS = 5
"""Of the two judges on each net; the fastest counts."""


class Counting(nn.Module):
    """Counts the images whose gradient is asked for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.gradients = 0

    def forward(self, x: torch.Tensor) -> Any:
        self.gradients += len(x) * x.requires_grad
        return self.model(x)


def trained(made: Recipe) -> nn.Module:
    # Nobody looks at what is judged after each epoch.
    cheap = replace(made, eval_attack=PGD(eps=EPS, step_size=EPS, steps=1), measures=())
    *_, epoch = train(cheap, device=torch.device("cpu"))
    model = made.model.build(made.data.spec)
    model.load_state_dict(epoch.state["judged"])
    return model.eval()


def cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def judged(model: nn.Module, val: Split) -> dict[str, float]:
    """Robust accuracy in points under the three attacks, and the two judges' ratios of cost."""

    def robust(attack: Attack, net: nn.Module = model) -> float:
        return 100 * judge(net, val, attack)["robust_accuracy"]

    before, now = Counting(model), Counting(model)
    points = {"before": robust(PGD_10, before), "now": robust(JUDGE, now), "apgd": robust(APGD)}
    seconds: dict[str, list[float]] = {"before": [], "now": []}
    for _ in range(TURNS):
        seconds["before"].append(cpu_seconds(lambda: robust(PGD_10)))
        seconds["now"].append(cpu_seconds(lambda: robust(JUDGE)))
    return {
        **points,
        "gradients": now.gradients / before.gradients,
        "time": min(seconds["now"]) / min(seconds["before"]),
    }


def rank(nets: list[nn.Module], val: Split) -> None:
    rows = sorted((judged(model, val) for model in nets), key=lambda row: row["now"])
    apgd = [row["apgd"] for row in rows]
    print(f"{len(rows)} nets, {len(val.labels)} images of val, eps {EPS}")
    for name, attack in (("before", PGD_10), ("now", JUDGE)):
        points = [row[name] for row in rows]
        above = [a - b for a, b in zip(points, apgd, strict=True)]
        print(
            f"{name}: Kendall {kendalltau(points, apgd).statistic:.3f} Spearman "
            f"{spearmanr(points, apgd).statistic:.3f} with APGD, above it by "
            f"{statistics.mean(above):.2f} points (standard deviation "
            f"{statistics.stdev(above):.2f}, {min(above):.2f} to {max(above):.2f}); {attack}"
        )
    third = -(-len(rows) // 3)
    for first in range(0, len(rows), third):
        part = rows[first : first + third]
        gradients = statistics.median(row["gradients"] for row in part)
        seconds = statistics.median(row["time"] for row in part)
        print(
            f"robust {part[0]['now']:.0f} to {part[-1]['now']:.0f} %: cost over that of before "
            f"{gradients:.2f} in gradients, {seconds:.2f} in CPU time"
        )


def climbed(model: nn.Module, test: Split) -> tuple[float, float]:
    """Robust accuracy in points by the ladder up to ``apgd``, and its CPU seconds."""
    pgd = replace(PGD_10, steps=20)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def climb() -> None:
            list(run_ladder(model, test, pgd, "apgd", folder, chunk=STANDARD.batch_size))

        seconds = cpu_seconds(climb)
        return 100 * rung_results(read_ladder(folder))[-1].robust_accuracy, seconds


def autoattacked(model: nn.Module, test: Split) -> tuple[float, float]:
    """The same by AutoAttack."""
    x = to_float(test.images)
    y = test.labels.long()
    fooled = []
    seconds = cpu_seconds(lambda: fooled.append(model(STANDARD(model, x, y)).argmax(1) == y))
    return 100 * fooled[0].double().mean().item(), seconds


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="6 nets, 150 images, 1 turn")
    options.add_argument("--epochs", type=int, default=20, help="of each training")
    quick = options.parse_args().quick
    asked = options.parse_args()
    quick = asked.quick
    epochs = 4 if quick else asked.epochs
    lams = LAMS[::3] if quick else LAMS
    widths = WIDTHS[::2] if quick else WIDTHS
    made = [replace(recipe(width, lam), epochs=epochs) for width in widths for lam in lams]
    splits = load(made[0].data)
    nets = [trained(each) for each in made]
    n = 150 if quick else None
    rank(nets, Split(*(part[:n] for part in splits["val"])))
    test = Split(*(part[:n] for part in splits["test"]))
    pairs = []
    for _ in range(1 if quick else 3):
        (robust, seconds), (least, longest) = (
            climbed(nets[-1], test),
            autoattacked(nets[-1], test),
        )
        pairs.append(seconds / longest)
        print(
            f"ladder to apgd {robust:.2f} % in {seconds:.1f} s, AutoAttack {least:.2f} % in "
            f"{longest:.1f} s, {len(test.labels)} images of test: {robust - least:+.2f} points"
        )
    print(f"evaluate: ratio={statistics.median(pairs):.3f} goal=0.35 n={len(pairs)}")


if __name__ == "__main__":
    main()
