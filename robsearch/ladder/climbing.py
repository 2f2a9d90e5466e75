"""Running the attacks, chunk by chunk, and taking up what an earlier run left."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from robsearch.attacks import PGD, AutoAttack
from robsearch.errors import number, refuse_unless
from robsearch.evaluation import images_at_once
from robsearch.files import replacing
from robsearch.ladder.chunks import Chunks, examples
from robsearch.ladder.files import Piece, described, network_digest, split_digest, write
from robsearch.ladder.standings import NATURAL, standings
from robsearch.modes import checked_logits, evaluating
from robsearch.protocols import Split

RUNGS: Mapping[str, tuple[str, ...]] = {
    "pgd": ("pgd",),
    "apgd-ce": ("apgd-ce",),
    "apgd": ("apgd-t",),
    "autoattack": ("fab-t", "square"),
}
"""From cheap to dear, each with the attacks that it adds to those of the rungs below it.

So ``autoattack`` is the standard ensemble (arXiv 2003.01690) after PGD: but for other random starts, its robust
accuracy is at most the ensemble's. With three classes ``apgd-dlr`` stands in for ``apgd-t``, whose loss needs four;
with two neither has a loss, and ``apgd`` adds nothing to ``apgd-ce``. A ``Standing`` names what was run.
"""

Plan: TypeAlias = Mapping[str, tuple[str, ...]]


class Progress(NamedTuple):
    """One attack is through with one more chunk.

    Attributes:
        rung: ``natural`` first, then those of ``RUNGS``.
        attack: one of the rung's own.
        done: chunks that the attack is through with.
        total: chunks that there are.
        robust: share of all images that nothing has turned so far: it never rises.
        resumed: the chunk's file was there already.
    """

    rung: str
    attack: str
    done: int
    total: int
    robust: float
    resumed: bool


def climb(model: nn.Module, split: Split, pgd: PGD, rung: str, folder: Path, *, chunk: int = 250) -> Iterator[Progress]:
    """Attacks up to ``rung``, and writes the ladder into ``folder`` when the iterator is through.

    What is there already is not done again, and dearer rungs that an earlier climb finished stay in the ladder. Where
    the device's memory does not do, an attack goes on with half as many images at a time, with a warning. At ``eps=0``
    no attack turns anything: robust accuracy is natural accuracy.

    Args:
        model: images in [0, 1] to logits, in float32, on the device where the attacks shall run.
        split: the images; they may be a read-only memory map.
        pgd: the lowest rung's attack, with PGD-20 the usual one; its ``eps`` and ``norm`` hold for the whole ladder.
        rung: how far to go, one of ``RUNGS``.
        folder: of this model's ladder; made if it is not there.
        chunk: images per file, by their place in the split, and the most that are attacked at once.

    Raises:
        InputError: arguments that do not fit; a model or images that an attack of the rung cannot work with.
    """
    refuse_unless(
        (isinstance(pgd, PGD), "a PGD as the lowest rung", repr(pgd), "pass PGD(eps=8 / 255, steps=20)"),
        (rung in RUNGS, f"a rung out of {', '.join(RUNGS)}", repr(rung), "pass one of these"),
        number("chunk", chunk, ">= 1", "pass as many images as fit into memory", whole=True),
        (len(split.images) > 0, "at least one image", 0, "pass a split with images"),
        (len(split.images) == len(split.labels), "a label for each image", len(split.labels), "pass them together"),
    )
    plan = _plan(_classes(model, split, pgd, rung))
    chunks = Chunks(model, split, pgd, chunk, folder, split_digest(split), network_digest(model))
    chunks.pieces.mkdir(parents=True, exist_ok=True)
    return _steps(chunks, plan, rung)


def _plan(classes: int) -> Plan:
    stand_in: tuple[str, ...] = {2: (), 3: ("apgd-dlr",)}.get(classes, RUNGS["apgd"])
    return {NATURAL: (NATURAL,), **RUNGS, "apgd": stand_in}


def _upto(plan: Plan, rung: str) -> list[str]:
    """The attacks of a rung and of all below it."""
    rungs = list(plan)
    return [attack for name in rungs[: rungs.index(rung) + 1] for attack in plan[name]]


def _classes(model: nn.Module, split: Split, pgd: PGD, rung: str) -> int:
    """The model's classes, after a look at two images that finds what an attack could not work with."""
    x, y = examples(model, split, np.arange(min(2, len(split.images))))
    with evaluating(model), torch.no_grad():
        logits = checked_logits(model, x, y)
    low, high, k = int(split.labels.min()), int(split.labels.max()), logits.shape[1]
    refuse_unless(
        (k > 1, "at least 2 classes", k, "give the model one logit per class"),
        (low >= 0 and high < k, f"labels from 0 to {k - 1}", f"{low} to {high}", "build the model for these classes"),
    )
    if pgd.eps > 0 and (attacks := tuple(_upto(_plan(k), rung)[2:])):
        # With classes that the model does not see there it checks all that it is handed, and attacks nothing.
        AutoAttack(pgd.eps, pgd.norm, attacks)(model, x, (logits.argmax(dim=1) + 1) % k)
    return k


def _steps(chunks: Chunks, plan: Plan, rung: str) -> Iterator[Progress]:
    wanted = _upto(plan, rung)
    n, turned = len(chunks.split.images), 0
    total = -(-n // chunks.size)
    found: dict[str, list[Piece]] = defaultdict(list)
    for name, attack, piece, resumed in _walk(chunks, plan, wanted):
        found[attack].append(piece)
        turned += int((~piece.held).sum())
        if attack in wanted:
            yield Progress(name, attack, len(found[attack]), total, (n - turned) / n, resumed)
    _record(chunks, plan, {attack: pieces for attack, pieces in found.items() if len(pieces) == total})


def _walk(chunks: Chunks, plan: Plan, wanted: list[str]) -> Iterator[tuple[str, str, Piece, bool]]:
    """(rung, attack, what it did to a chunk, whether that was there), up to the first that is neither there nor wanted.

    An attack is handed the images that stand after all before it.
    """
    standing = np.ones(len(chunks.split.images), dtype=bool)
    fitting = images_at_once(chunks.model, chunks.split, chunks.size)
    for rung, attack in ((rung, attack) for rung, attacks in plan.items() for attack in attacks):
        batch = fitting
        for first in range(0, len(standing), chunks.size):
            index = first + np.flatnonzero(standing[first : first + chunks.size])
            piece, resumed = chunks.piece(attack, first, index, batch, run=attack in wanted)
            if piece is None:
                return
            standing[index], batch = piece.held, min(batch, piece.batch)
            yield rung, attack, piece, resumed


def _record(chunks: Chunks, plan: Plan, found: Mapping[str, list[Piece]]) -> None:
    """Writes what the finished attacks did: ``ladder.parquet``, and ``ladder.json`` for a person."""
    reached = list(itertools.takewhile(lambda rung: all(attack in found for attack in plan[rung]), plan))
    found = {attack: found[attack] for rung in reached for attack in plan[rung]}
    broken_by = np.full(len(chunks.split.images), None, dtype=object)
    for attack, piece in ((attack, piece) for attack, pieces in found.items() for piece in pieces):
        broken_by[piece.rows[~piece.held]] = attack
    natural = broken_by != NATURAL
    broken_by[~natural] = None
    table = pa.table(
        {
            "index": np.arange(len(natural)),
            "label": chunks.split.labels.cpu().numpy(),
            "natural": natural,
            "broken_by": pa.array(broken_by, pa.string()),
        }
    )
    facts = {
        **chunks.facts,
        "rungs": {rung: plan[rung] for rung in reached},
        "seconds": {attack: sum(piece.seconds for piece in pieces) for attack, pieces in found.items()},
        "batch": {attack: min(piece.batch for piece in pieces) for attack, pieces in found.items()},
        "devices": sorted({piece.device for pieces in found.values() for piece in pieces}),
    }
    table = described(table, facts)
    write(chunks.folder / "ladder.parquet", table)
    told = {**facts, "standings": [standing._asdict() for standing in standings(table)]}
    with replacing(chunks.folder / "ladder.json") as unfinished:
        unfinished.write_text(json.dumps(told, indent=2) + "\n")
