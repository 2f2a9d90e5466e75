"""Running the attacks, chunk by chunk, and taking up what an earlier run left."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from robsearch.errors import number, refuse_unless
from robsearch.identity import NUMERICS
from robsearch.network.modes import checked_logits, evaluating
from robsearch.parts.attacks import PGD, AutoAttack, TwoLosses, cross_entropy
from robsearch.parts.attacks.autoattack import CLASSES_NEEDED
from robsearch.protocols import Images, Labels, Split
from robsearch.training.evaluation import (
    EVAL_SEED,
    images_at_once,
    in_batches,
    to_device,
    to_float,
)
from robsearch.trials.files import replacing
from robsearch.trials.ladder.digests import digest, network_digest, split_digest
from robsearch.trials.ladder.files import (
    ChunkResult,
    Facts,
    Indices,
    described,
    read_chunk,
    write,
    write_chunk,
)
from robsearch.trials.ladder.results import NATURAL, rung_results

RUNGS: Mapping[str, tuple[str, ...]] = {
    "pgd": ("pgd",),
    "two-losses": ("two-losses",),
    "apgd-ce": ("apgd-ce",),
    "apgd": ("apgd-t",),
    "autoattack": ("fab-t", "square"),
}
"""From cheap to dear, each with the attacks that it adds to those of the rungs below it.

``two-losses`` is the default judge (``TwoLosses``), whichever judged the search, so that searches
of all days can be compared under it. ``autoattack`` is the standard ensemble (arXiv 2003.01690)
after both: but for other random starts, its robust accuracy is at most the ensemble's. With three
classes ``apgd-dlr`` stands in for
``apgd-t``, whose loss needs four; with two neither has a loss, and ``apgd`` adds nothing to
``apgd-ce``. A ``RungResult`` names what was run.
"""

Plan: TypeAlias = Mapping[str, tuple[str, ...]]


class AttackProgress(NamedTuple):
    """One attack is through with one more chunk.

    Attributes:
        rung: ``natural`` first, then those of ``RUNGS``.
        attack: one of the rung's own.
        done: chunks that the attack is through with.
        total: chunks that there are.
        share: of all chunks of all attacks that are wanted, from 0 to 1.
        robust: share of all images that nothing has turned so far: it never rises.
        resumed: the chunk's file was there already.
    """

    rung: str
    attack: str
    done: int
    total: int
    share: float
    robust: float
    resumed: bool


def run_ladder(
    model: nn.Module, split: Split, pgd: PGD, rung: str, folder: Path, *, chunk: int = 250
) -> Iterator[AttackProgress]:
    """Attacks up to ``rung``, and writes the ladder into ``folder`` when the iterator is through.

    What is there already is not done again, and dearer rungs that an earlier run finished stay in
    the ladder. Where memory runs out, an attack goes on with half as many images at a time, with a
    warning. At ``eps=0`` no attack turns anything: robust accuracy is natural
    accuracy.

    Args:
        model: images in [0, 1] to logits, in float32, on the device where the attacks shall run.
        split: the images; they may be a read-only memory map.
        pgd: the lowest rung's attack, with PGD-20 the usual one; its ``eps`` and ``norm`` hold for
            the whole ladder.
        rung: how far to go, one of ``RUNGS``.
        folder: of this model's ladder; made if it is not there.
        chunk: images per file, by their place in the split, and the most that are attacked at once.

    Raises:
        InputError: arguments that do not fit; a model or images that an attack of the rung cannot
            work with.
    """
    n = len(split.images)
    labels = len(split.labels)
    do = "pass PGD(eps=8 / 255, steps=20)"
    refuse_unless(
        (isinstance(pgd, PGD), "a PGD as the lowest rung", repr(pgd), do),
        (rung in RUNGS, f"a rung out of {', '.join(RUNGS)}", repr(rung), "pass one of these"),
        number("chunk", chunk, "pass as many images as fit into memory", at_least=1, whole=True),
        (n > 0, "at least one image", 0, "pass a split with images"),
        (n == labels, "a label for each image", labels, "pass them together"),
    )
    # What does not fit is refused here, not when the caller first asks the iterator.
    plan = _plan(_classes(model, split, pgd, rung))
    chunks = Chunks(
        model,
        split,
        pgd,
        chunk,
        folder,
        data=split_digest(split),
        network=network_digest(model),
    )
    chunks.results.mkdir(parents=True, exist_ok=True)
    if rung == "pgd" and not any(chunks.results.glob("two-losses-*")):
        # A ladder from before there was this rung keeps the dearer ones that it has.
        plan = {name: attacks for name, attacks in plan.items() if name != "two-losses"}
    return _steps(chunks, plan, rung)


def _plan(classes: int) -> Plan:
    stand_in: tuple[str, ...] = {2: (), 3: ("apgd-dlr",)}.get(classes, RUNGS["apgd"])
    return {NATURAL: (NATURAL,), **RUNGS, "apgd": stand_in}


def _attacks_up_to(plan: Plan, rung: str) -> list[str]:
    """The attacks of a rung and of all below it."""
    rungs = list(plan)
    return [attack for name in rungs[: rungs.index(rung) + 1] for attack in plan[name]]


def _classes(model: nn.Module, split: Split, pgd: PGD, rung: str) -> int:
    """The model's classes, after a look at two images that finds what an attack could not work
    with."""
    x, y = examples(model, split, np.arange(min(2, len(split.images))))
    with evaluating(model), torch.no_grad():
        logits = checked_logits(model, x, y)
    k = logits.shape[1]
    low = int(split.labels.min())
    high = int(split.labels.max())
    fits = low >= 0 and high < k
    do = "build the model for these classes"
    refuse_unless(
        (k > 1, "at least 2 classes", k, "give the model one logit per class"),
        (fits, f"labels from 0 to {k - 1}", f"{low} to {high}", do),
    )
    attacks = tuple(name for name in _attacks_up_to(_plan(k), rung) if name in CLASSES_NEEDED)
    if pgd.eps > 0 and attacks:
        # With classes that the model does not see there it checks all that it is handed, and
        # attacks nothing.
        AutoAttack(pgd.eps, pgd.norm, attacks)(model, x, (logits.argmax(dim=1) + 1) % k)
    return k


def _steps(chunks: Chunks, plan: Plan, rung: str) -> Iterator[AttackProgress]:
    wanted = _attacks_up_to(plan, rung)
    n = len(chunks.split.images)
    total = math.ceil(n / chunks.size)
    upright = n
    results: dict[str, list[ChunkResult]] = defaultdict(list)
    for name, attack, result, resumed in _attack_all(chunks, plan, wanted):
        results[attack].append(result)
        upright -= int((~result.held).sum())
        if attack in wanted:
            done = len(results[attack])
            share = (wanted.index(attack) + done / total) / len(wanted)
            yield AttackProgress(
                name,
                attack,
                done,
                total,
                share,
                robust=upright / n,
                resumed=resumed,
            )
    # An attack of a dearer rung may have been stopped halfway.
    finished = {attack: parts for attack, parts in results.items() if len(parts) == total}
    _record(chunks, plan, finished)


def _attack_all(
    chunks: Chunks, plan: Plan, wanted: list[str]
) -> Iterator[tuple[str, str, ChunkResult, bool]]:
    """(rung, attack, what it did to a chunk, whether that was there), up to the first that is
    neither there nor wanted.

    An attack is handed the images that stand after all before it.
    """
    robust = np.ones(len(chunks.split.images), dtype=bool)
    fitting = images_at_once(chunks.model, chunks.split, chunks.size)
    attacks = [(rung, attack) for rung in plan for attack in plan[rung]]
    for rung, attack in attacks:
        batch = fitting
        for first in range(0, len(robust), chunks.size):
            index = first + np.flatnonzero(robust[first : first + chunks.size])
            result, resumed = chunks.result(attack, first, index, batch, run=attack in wanted)
            if result is None:
                return
            robust[index] = result.held
            # What did not fit into memory once is not tried again.
            batch = min(batch, result.batch)
            yield rung, attack, result, resumed


def _record(chunks: Chunks, plan: Plan, finished: Mapping[str, list[ChunkResult]]) -> None:
    """Writes what the finished attacks did: ``ladder.parquet``, and ``ladder.json`` for a
    person."""
    # A rung counts only if all rungs below it are finished, too.
    reached = list(itertools.takewhile(lambda rung: finished.keys() >= {*plan[rung]}, plan))
    results = {attack: finished[attack] for rung in reached for attack in plan[rung]}
    # Later attacks write over nothing: each was handed only what stood.
    broken_by = np.full(len(chunks.split.images), None, dtype=object)
    for attack, parts in results.items():
        for part in parts:
            broken_by[part.rows[~part.held]] = attack
    natural = broken_by != NATURAL
    broken_by[~natural] = None
    columns = {
        "index": np.arange(len(natural)),
        "label": chunks.split.labels.cpu().numpy(),
        "natural": natural,
        "broken_by": pa.array(broken_by, pa.string()),
    }
    facts = {
        **chunks.facts,
        "rungs": {rung: plan[rung] for rung in reached},
        "seconds": {name: sum(part.seconds for part in parts) for name, parts in results.items()},
        "batch": {name: min(part.batch for part in parts) for name, parts in results.items()},
        "devices": sorted({part.device for parts in results.values() for part in parts}),
    }
    table = described(pa.table(columns), facts)
    write(chunks.folder / "ladder.parquet", table)
    summary = {**facts, "standings": [result._asdict() for result in rung_results(table)]}
    with replacing(chunks.folder / "ladder.json") as unfinished:
        unfinished.write_text(json.dumps(summary, indent=2) + "\n")


@dataclass(frozen=True)
class Chunks:
    """A network and the images it is attacked on, in chunks of ``size``; ``data`` and ``network``
    are their digests."""

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
        return {
            "network": self.network,
            "data": self.data,
            "attack": asdict(self.pgd),
            "seed": EVAL_SEED,
            "chunk": self.size,
            "numerics": NUMERICS,
            "pyautoattack": version("pyautoattack"),
        }

    @property
    def results(self) -> Path:
        """The folder into which nothing else is written."""
        return self.folder / "ladder" / digest(sorted(self.facts.items()))

    def result(
        self, attack: str, first: int, index: Indices, batch: int, run: bool
    ) -> tuple[ChunkResult | None, bool]:
        """What ``attack`` did to the images ``index`` of the chunk from ``first`` on, and whether
        it was there already.

        Args:
            attack: ``natural``, ``pgd``, ``two-losses``, or one of AutoAttack's.
            first: where in the split the chunk begins.
            index: the chunk's images that stand so far.
            batch: the most images at a time.
            run: run the attack if need be; else there may be no result.
        """
        file = self.results / f"{attack}-{first:07d}.parquet"
        facts = {**self.facts, "piece": attack, "first": first}
        result = read_chunk(file, index, facts)
        if result is not None or not run:
            return result, True
        result = self._run(attack, first, index, batch)
        write_chunk(file, result, facts)
        return result, False

    def _run(self, attack: str, first: int, index: Indices, batch: int) -> ChunkResult:
        started = time.perf_counter()
        held = np.ones(len(index), dtype=bool)
        # At eps=0 no attack turns anything.
        if len(index) and (self.pgd.eps > 0 or attack == NATURAL):
            # These two always see the whole chunk, whatever an attack before them turned.
            whole = np.arange(first, min(first + self.size, len(self.split.images)))
            rows = whole if attack in (NATURAL, "pgd") else index
            x, y = examples(self.model, self.split, rows)
            robust, batch = in_batches(partial(self._holds, attack), x, y, batch)
            held = robust.cpu().numpy()[np.isin(rows, index)]
        device = _device(self.model, self.split)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        return ChunkResult(
            index,
            held,
            time.perf_counter() - started,
            batch,
            name,
        )

    def _holds(self, attack: str, x: Images, y: Labels) -> Tensor:
        pgd = self.pgd
        adv = x
        if attack == "pgd":
            adv = pgd(self.model, x, y, cross_entropy(y))
        elif attack == "two-losses":
            adv = TwoLosses.in_place_of(pgd)(self.model, x, y)
        elif attack != NATURAL:
            ensemble = AutoAttack(
                pgd.eps,
                pgd.norm,
                (attack,),
                EVAL_SEED,
                batch_size=len(x),
            )
            adv = ensemble(self.model, x, y)
        with evaluating(self.model), torch.no_grad():
            return checked_logits(self.model, adv, y).argmax(dim=1) == y


def examples(model: nn.Module, split: Split, index: Indices) -> tuple[Images, Labels]:
    """Some images, as floats, and their labels, on the model's device."""
    rows = torch.from_numpy(index).to(split.images.device)
    images, labels = to_device(Split(split.images[rows], split.labels[rows]), _device(model, split))
    return to_float(images), labels.long()


def _device(model: nn.Module, split: Split) -> torch.device:
    tensors = itertools.chain(model.parameters(), model.buffers())
    return next((tensor.device for tensor in tensors), split.images.device)
