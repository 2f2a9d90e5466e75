"""How fast one training step of TRADES is: robsearch's against the official procedure, in one run.

The peer is written from the description of TRADES' published code (arXiv 1901.08573): float32, the
default memory layout, the clean images' forward at every step of the attack and once more in the
loss, Polyak's SGD. Ours is ``training.step`` as a trial runs it, with the same net, the same images
and the same attack (PGD-10 from a Gaussian start). Both train on the same device and with as many
threads; the rounds alternate, and each counts as the seconds of one step.

Prints, for each net, the images per second of both and the ratio of theirs to ours with its 95 %
lower bound: the ratio that all but the worst few of the rounds reach (the order statistic that lies
below the median with 97.5 % confidence). The last line is ``train_step: ratio=`` the smallest
ratio of medians.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from robsearch import CIFAR10, MLP, PGD, TRADES, Fixed, Recipe, WideResNet
from robsearch.protocols import Split
from robsearch.training.evaluation import best_device
from robsearch.training.learner import Learner
from robsearch.training.trainer import train_epoch

LAM = 6.0
ATTACK = PGD(eps=8 / 255, step_size=2 / 255, steps=10, start="gaussian")
DATA = CIFAR10()
"""Only its shape and normalisation: images are random bytes."""
NETS = {
    "MLP-256": (MLP(width=256), 128),
    "WRN-10-1": (WideResNet(depth=10, width=1), 128),
    "WRN-16-1": (WideResNet(depth=16, width=1), 128),
    "WRN-16-4": (WideResNet(depth=16, width=4), 128),
    "WRN-28-10": (WideResNet(depth=28, width=10), 4),
}
"""Each with its batch size."""
GOALS = {"fp32": 1.4, "bf16": 3.0}


def official_step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    attack: PGD,
    lam: float,
    x: Tensor,
    y: Tensor,
) -> None:
    kl = nn.KLDivLoss(reduction="sum")
    model.eval()
    x_adv = x + 0.001 * torch.randn_like(x)
    for _ in range(attack.steps):
        x_adv.requires_grad_()
        loss = kl(F.log_softmax(model(x_adv), dim=1), F.softmax(model(x), dim=1))
        (gradient,) = torch.autograd.grad(loss, [x_adv])
        x_adv = x_adv.detach() + attack.step_size * gradient.sign()
        x_adv = torch.min(torch.max(x_adv, x - attack.eps), x + attack.eps).clamp(0, 1)
    model.train()
    optimiser.zero_grad()
    natural = F.cross_entropy(model(x), y)
    robust = kl(F.log_softmax(model(x_adv), dim=1), F.softmax(model(x), dim=1)) / len(x)
    (natural + lam * robust).backward()
    optimiser.step()


def recipe_of(
    model: MLP | WideResNet,
    batch_size: int,
    precision: Literal["fp32", "bf16"],
) -> Recipe:
    return Recipe(
        model=model,
        data=DATA,
        attack=ATTACK,
        objective=TRADES(),
        lam=Fixed(LAM),
        epochs=100_000,
        batch_size=batch_size,
        precision=precision,
    )


def seconds(work: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def lower_bound(ratios: list[float]) -> float:
    """Of the median, at 97.5 % confidence, by the binomial distribution of its rank."""
    rank = int(stats.binom.ppf(0.025, len(ratios), 0.5))
    return sorted(ratios)[max(rank - 1, 0)]


def compare(
    name: str,
    precision: Literal["fp32", "bf16"],
    rounds: int,
    device: torch.device,
) -> float:
    """Prints one line and returns the ratio of medians."""
    description, batch_size = NETS[name]
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (batch_size, *DATA.spec.shape), generator=generator).byte()
    labels = torch.randint(10, (batch_size,), generator=generator)
    split = Split(images.to(device), labels.to(device))

    torch.manual_seed(0)
    model = description.build(DATA.spec).to(device)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    learner = Learner.of(recipe_of(description, batch_size, precision), device)
    learner.epoch = 1

    def theirs() -> None:
        official_step(model, optimiser, ATTACK, LAM, split.images.float() / 255, split.labels)

    def ours() -> None:
        learner.model.train()
        train_epoch(learner, split)

    theirs(), ours()  # the first step chooses kernels and takes memory
    pairs = [(seconds(theirs, device), seconds(ours, device)) for _ in range(rounds)]
    peer, mine = (float(np.median(column)) for column in zip(*pairs, strict=True))
    least = lower_bound([slow / fast for slow, fast in pairs])
    print(
        f"{name}, batch {batch_size}, {precision}: {batch_size / mine:.1f} images/s, official "
        f"{batch_size / peer:.1f}; ratio {peer / mine:.2f}, at least {least:.2f}, n={rounds}"
    )
    return peer / mine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="WRN-10-1 alone, 3 rounds")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--precision", choices=GOALS, default="fp32")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    nets = ["WRN-10-1"] if options.quick else options.nets
    rounds = 3 if options.quick else options.rounds
    device = best_device()
    print(f"{device.type}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    ratios = [compare(name, options.precision, rounds, device) for name in nets]
    goal = GOALS[options.precision]
    print(f"train_step: ratio={min(ratios):.2f} goal={goal:g} n={rounds}")


if __name__ == "__main__":
    main()
