"""What judging a model after each epoch costs: its share of the epoch's adversarial training, in
one run.

The proportions are CIFAR-10's with its defaults, 45,000 training images to 5,000 validation images,
TRADES with PGD-10: nine batches of 100 are trained, then 100 images are judged, by the recipe's own
``eval_attack``. Random images do, for the cost does not depend on what they show. Prints the median
seconds of both and ``judging: ratio=`` judging / training.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from robsearch import CIFAR10, Recipe, WideResNet
from robsearch.protocols import Split
from robsearch.training.evaluation import judge
from robsearch.training.trainer import Learner, train_epoch

BATCH = 100


def images(n: int, device: torch.device) -> Split:
    generator = torch.Generator().manual_seed(n)
    x = torch.randint(0, 256, (n, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return Split(x.to(device), (torch.arange(n) % 10).to(device))


def timed(work: object, device: torch.device) -> float:
    assert callable(work)
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="3 rounds instead of 15")
    options.add_argument("--device", default="cpu")
    options.add_argument("--depth", type=int, default=10)
    options.add_argument("--width", type=float, default=1)
    options.add_argument("--scale", type=int, default=1, help="times as many images")
    asked = options.parse_args()
    device, rounds = torch.device(asked.device), 3 if asked.quick else 15
    recipe = Recipe(
        model=WideResNet(depth=asked.depth, width=asked.width), data=CIFAR10(), batch_size=BATCH
    )
    learner, attack = Learner.of(recipe, device), recipe.resolved_eval_attack
    train, val = images(9 * BATCH * asked.scale, device), images(BATCH * asked.scale, device)
    learner.epoch = 1
    pairs = []
    for _ in range(rounds + 1):
        epoch = timed(lambda: train_epoch(learner, train), device)
        pairs.append((epoch, timed(lambda: judge(learner.eval_model, val, attack), device)))
    training, judging = (statistics.median(column) for column in zip(*pairs[1:], strict=True))
    share = statistics.median(judged / trained for trained, judged in pairs[1:])
    print(f"WRN-{asked.depth}-{asked.width:g} on {device}, {attack}")
    print(
        f"{len(train.labels)} images trained in {training:.2f} s, {len(val.labels)} judged in "
        f"{judging:.2f} s"
    )
    print(f"judging: ratio={share:.3f} goal=0.10 n={rounds}")


if __name__ == "__main__":
    main()
