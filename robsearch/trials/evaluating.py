"""A trained network, whoever trained it: up the ladder of attacks, looked over for gradient
masking, and measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from robsearch.parts.attacks import PGD
from robsearch.protocols import Split
from robsearch.training.evaluation import images_at_once, sampled, to_float
from robsearch.trials.files import DamagedError, read_json, unless_damaged, write_json

if TYPE_CHECKING:
    from robsearch.trials.masking import Check

MASKING_EXAMPLES = 500
"""Test images on which signs of gradient masking are looked for."""


class Progress(NamedTuple):
    """How far a long job is, from 0 to 1, and in words."""

    share: float
    text: str


def evaluate_network(
    model: nn.Module, test: Split, pgd: PGD, rung: str, folder: Path
) -> Iterator[Progress]:
    """Takes a network up the evaluation ladder, and looks for signs of gradient masking.

    Writes ``ladder.parquet``, ``ladder.json`` and ``masking.json`` into the folder; what is there
    already is not done again.

    Args:
        model: images in [0, 1] to logits, on the device of the images.
        test: the images.
        pgd: the lowest rung, whose eps and norm hold for the whole ladder.
        rung: how far to go.
        folder: of this network alone: that its checks are there is taken as done.

    Raises:
        InputError: a model or images that an attack of the rung cannot work with.
    """
    # A worker that only trains need not load what these need.
    from robsearch.trials.ladder.running import run_ladder
    from robsearch.trials.masking import checks

    for step in run_ladder(model, test, pgd, rung, folder):
        text = f"{step.attack} {step.done}/{step.total}, {step.robust:.1%} stand"
        yield Progress(step.share, text)
    if pgd.eps > 0 and not read_checks(folder):
        yield Progress(1.0, "looking for gradient masking")
        few = sampled(test, MASKING_EXAMPLES).split
        batch = images_at_once(model, few, 250)
        results = checks(model, to_float(few.images), few.labels, pgd, batch=batch)
        write_json(folder / "masking.json", [check._asdict() for check in results])


def read_checks(folder: Path) -> list[Check]:
    """The gradient-masking checks of an evaluated network; empty if there are none, or, with a
    warning, if the file is damaged.
    """
    advice = "`robsearch evaluate` makes the checks again"
    return unless_damaged(_checks, folder / "masking.json", advice) or []


def _checks(file: Path) -> list[Check]:
    from robsearch.trials.masking import Check

    entries = read_json(file)
    with suppress(TypeError):
        if isinstance(entries, list):
            return [Check(**entry) for entry in entries]
    raise DamagedError(file, "is not a list of checks")
