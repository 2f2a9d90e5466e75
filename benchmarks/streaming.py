"""What it costs to stream a set that does not fit: images trained per second, of the same training
with its set resident, in one run.

Two processes train the same recipe on the same stored set of random images, an epoch in turn. One
has room for a quarter of the images' bytes and streams; the other has room for all. Both must end
every epoch with the same loss, bit for bit. There is a step of PGD: with a longer attack, images
are needed more slowly. Prints the medians and the peak memory of both processes, of what they took
after the model was built, and ``streaming: ratio=`` streamed / resident.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

from robsearch import MLP, PGD, Recipe
from robsearch.data import load
from robsearch.metrics import NATURAL_LOSS
from robsearch.protocols import ImageSpec, Split
from robsearch.training import streaming
from robsearch.training.evaluation import best_device, to_device
from robsearch.training.learner import Learner, seed_epoch
from robsearch.training.memory import GIB, forget_peak, free_bytes, peak
from robsearch.training.trainer import train_epoch

SIDE = 64
FEW = 64


@dataclass(frozen=True)
class Noise:
    """Random images, made in a file of ``folder`` so that making them takes no memory."""

    images: int
    folder: str = field(compare=False)

    @property
    def spec(self) -> ImageSpec:
        return ImageSpec((3, SIDE, SIDE), 10, (0.5,) * 3, (0.29,) * 3)

    def read(self) -> Mapping[str, Split]:
        shape = (self.images, *self.spec.shape)
        file = Path(self.folder) / "noise"
        random = np.random.default_rng(0)
        with file.open("wb") as sink:
            for _ in range(self.images):
                sink.write(random.bytes(3 * SIDE * SIDE))
        images = torch.from_numpy(np.memmap(file, np.uint8, "r+", shape=shape))
        labels = torch.arange(self.images) % 10
        few = Split(images[:FEW], labels[:FEW])
        return {"train": Split(images, labels), "val": few, "test": few}


def trained(end: Connection, data: Noise, room: float) -> None:
    """Trains an epoch whenever it is asked, and says images per second, loss and peak memory."""
    torch.set_num_threads(1)
    device = best_device()
    # A model whose step is short beside what an image weighs.
    recipe = Recipe(
        model=MLP(width=32, depth=1), data=data, attack=PGD(eps=0.03, steps=1), batch_size=128
    )
    learner = Learner.of(recipe, device)
    before = sum(peak(device).values())
    train = load(data)["train"]
    streaming.RESIDENT_SHARE = room * train.images.nbytes / free_bytes(device)
    train = to_device(train, device)
    streams = streaming.streamed(train) is not None
    forget_peak(device)
    while end.recv():
        learner.epoch += 1
        seed_epoch(recipe.seed, learner.epoch)
        started = time.perf_counter()
        metrics = train_epoch(learner, train)
        speed = data.images / (time.perf_counter() - started)
        end.send((streams, speed, metrics[NATURAL_LOSS], sum(peak(device).values()) - before))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument(
        "--quick", action="store_true", help="72 MiB and 3 rounds, not 2 GiB and 7"
    )
    asked = options.parse_args()
    size, rounds = (9 * 2**23, 3) if asked.quick else (2**31, 7)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ROBSEARCH_CACHE"] = folder
        data = Noise(size // (3 * SIDE * SIDE), folder)
        spawned = multiprocessing.get_context("spawn")
        # Made in a process of its own, for what it takes does not count.
        storing = spawned.Process(target=load, args=(data,))
        storing.start()
        storing.join()
        (Path(folder) / "noise").unlink()
        ends = []
        for room in (0.25, 2.0):
            end, other = spawned.Pipe()
            spawned.Process(target=trained, args=(other, data, room), daemon=True).start()
            other.close()
            ends.append(end)
        pairs = []
        # The first epoch of each reads the file, and is not counted.
        for _ in range(rounds + 1):
            pair = []
            for end in ends:
                end.send(True)
                pair.append(end.recv())
            pairs.append(pair)
        for end in ends:
            end.send(False)
    streamed, resident = zip(*pairs, strict=True)
    assert all(epoch[0] for epoch in streamed)
    assert not any(epoch[0] for epoch in resident)
    assert [epoch[2] for epoch in streamed] == [epoch[2] for epoch in resident]
    print(f"{data.images} images, {size / GIB:.2f} GiB, on {best_device()}")
    for name, epochs in (("streamed", streamed), ("resident", resident)):
        speed = statistics.median(epoch[1] for epoch in epochs[1:])
        print(f"{name}: {speed:.0f} images/s, peak memory {epochs[-1][3]:.2f} GiB")
    ratio = statistics.median(ours[1] / theirs[1] for ours, theirs in pairs[1:])
    print(f"streaming: ratio={ratio:.3f} goal=0.95 n={rounds}")


if __name__ == "__main__":
    main()
