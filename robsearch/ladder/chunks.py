"""One attack on one chunk of images: taken from disk if it is there, else run and written down."""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from robsearch.attacks import PGD, AutoAttack, cross_entropy
from robsearch.draws import own_draws
from robsearch.evaluation import EVAL_SEED, seeded, to_float
from robsearch.identity import NUMERICS
from robsearch.ladder.files import Facts, Indices, Piece, digest, read_piece, write_piece
from robsearch.ladder.standings import NATURAL
from robsearch.memory import out_of_memory
from robsearch.modes import checked_logits, evaluating
from robsearch.protocols import Images, Labels, Split
from robsearch.wording import counted


@dataclass(frozen=True)
class Chunks:
    """A network and the images it is attacked on, in chunks of ``size``; ``data`` and ``network`` are their digests."""

    model: nn.Module
    split: Split
    pgd: PGD
    size: int
    folder: Path
    data: str
    network: str

    @property
    def facts(self) -> Facts:
        """All that the outcome follows from, but for the device."""
        settings = {"attack": asdict(self.pgd), "seed": EVAL_SEED, "chunk": self.size, "numerics": NUMERICS}
        return {"network": self.network, "data": self.data, **settings, "pyautoattack": version("pyautoattack")}

    @property
    def pieces(self) -> Path:
        """The folder into which nothing else is written."""
        return self.folder / "ladder" / digest(sorted(self.facts.items()))

    def piece(self, attack: str, first: int, index: Indices, batch: int, run: bool) -> tuple[Piece | None, bool]:
        """What ``attack`` did to the images ``index`` of the chunk from ``first`` on, and whether it was there already.

        Args:
            attack: ``natural``, ``pgd``, or one of AutoAttack's.
            first: where in the split the chunk begins.
            index: the chunk's images that stand so far.
            batch: the most images at a time.
            run: run the attack if need be; else there may be no piece.
        """
        file = self.pieces / f"{attack}-{first:07d}.parquet"
        facts = {**self.facts, "piece": attack, "first": first}
        found = read_piece(file, index, facts)
        if found is not None or not run:
            return found, True
        made = self._run(attack, first, index, batch)
        write_piece(file, made, facts)
        return made, False

    def _run(self, attack: str, first: int, index: Indices, batch: int) -> Piece:
        started, held = time.perf_counter(), np.zeros(0, dtype=bool)
        whole = np.arange(first, min(first + self.size, len(self.split.images)))
        rows = whole if attack in (NATURAL, "pgd") else index
        if len(index) and self.pgd.eps == 0 and attack != NATURAL:
            held = np.ones(len(index), dtype=bool)
        elif len(index):
            x, y = examples(self.model, self.split, rows)
            found, batch = in_batches(lambda a, b: self._holds(attack, a, b), x, y, batch)
            held = found.cpu().numpy()[np.isin(rows, index)]
        device = _device(self.model, self.split)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        return Piece(index, held, time.perf_counter() - started, batch, name)

    def _holds(self, attack: str, x: Images, y: Labels) -> Tensor:
        adv = x
        if attack == "pgd":
            adv = self.pgd(self.model, x, y, cross_entropy(y))
        elif attack != NATURAL:
            ensemble = AutoAttack(self.pgd.eps, self.pgd.norm, (attack,), seed=EVAL_SEED, batch_size=len(x))
            adv = ensemble(self.model, x, y)
        with evaluating(self.model), torch.no_grad():
            return checked_logits(self.model, adv, y).argmax(dim=1) == y


def examples(model: nn.Module, split: Split, index: Indices) -> tuple[Images, Labels]:
    """Some images, as floats, and their labels, on the model's device."""
    device, rows = _device(model, split), torch.from_numpy(index).to(split.images.device)
    return to_float(split.images[rows].to(device)), split.labels[rows].to(device).long()


def _device(model: nn.Module, split: Split) -> torch.device:
    tensors = itertools.chain(model.parameters(), model.buffers())
    return next((tensor.device for tensor in tensors), split.images.device)


def in_batches(holds: Callable[[Images, Labels], Tensor], x: Images, y: Labels, batch: int) -> tuple[Tensor, int]:
    """``holds`` of all images, each from its own start, and how many images at a time the memory did for.

    Out of memory, it begins anew with half as many at a time, until not even one fits.
    """

    def own(a: Images, b: Labels) -> Tensor:
        with own_draws(EVAL_SEED, batch):
            return holds(a, b)

    while True:
        try:
            with seeded(x.device):
                return torch.cat([own(a, b) for a, b in zip(x.split(batch), y.split(batch), strict=True)]), batch
        except RuntimeError as error:
            if min(batch, len(x)) == 1 or not out_of_memory(error):
                raise
        batch = min(batch, len(x)) // 2
        warnings.warn(f"out of memory: going on with {counted(batch, 'image')} at a time", stacklevel=2)
        torch.cuda.empty_cache()
