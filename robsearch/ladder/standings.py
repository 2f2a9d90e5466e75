"""A finished ladder as numbers: robust accuracy on each rung, with its interval and its cost."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from robsearch.errors import InputError, refusal
from robsearch.ladder.files import Bools, Facts, facts_of, read
from robsearch.measures import wilson

NATURAL = "natural"
"""The rung without an attack."""


class Standing(NamedTuple):
    """Where a model stands on one rung.

    Attributes:
        rung: ``natural`` (no attack), or one of ``RUNGS``.
        attacks: all that were run up to here, in this order.
        n: images.
        robust_accuracy: share classified correctly and turned by none of ``attacks``.
        low: lower end of its 95 % interval (Wilson 1927, doi 10.1080/01621459.1927.10502953).
        high: upper end.
        attacked: images that stood when this rung's own attacks began; 0 where it has none.
        broken: those of them that they turned.
        seconds: wall time of this rung's own attacks, summed over all chunks, whenever they were run.
    """

    rung: str
    attacks: tuple[str, ...]
    n: int
    robust_accuracy: float
    low: float
    high: float
    attacked: int
    broken: int
    seconds: float


def read_ladder(folder: Path) -> pa.Table:
    """The ladder that ``climb`` wrote into a folder last.

    Returns:
        One row per image, in the split's order: ``index``, ``label``, ``natural`` (classified correctly without an
        attack), ``broken_by`` (the attack that turned it; null where it stood, or was wrong to begin with). What it
        was measured with is in the schema's metadata.

    Raises:
        InputError: there is none, or it is damaged.
    """
    file = folder / "ladder.parquet"
    if not file.exists():
        raise InputError(refusal(f"a ladder in {folder}", "none", "climb to its end first"))
    try:
        return read(file)[0]
    except ValueError as error:
        raise InputError(
            refusal(f"a ladder in {file}", str(error), "climb again: it takes up what is there")
        ) from error


def standings(table: pa.Table) -> list[Standing]:
    """The rungs that a ladder has finished, natural accuracy first.

    Args:
        table: from ``read_ladder``.

    Raises:
        InputError: the table is not a ladder.
    """
    facts, found = ladder_facts(table), []
    before, attacks = np.ones(len(table), dtype=bool), tuple[str, ...]()
    for rung, own in facts["rungs"].items():
        after = standing_after(table, rung)
        if rung != NATURAL:
            attacks += tuple(own)
        low, high = wilson(after.mean().item(), len(after))
        attacked = int(before.sum()) if own and rung != NATURAL else 0
        broken = int(before.sum() - after.sum()) if rung != NATURAL else 0
        seconds = sum(facts["seconds"][attack] for attack in own)
        found.append(Standing(rung, attacks, len(after), after.mean().item(), low, high, attacked, broken, seconds))
        before = after
    return found


def standing_after(table: pa.Table, rung: str) -> Bools:
    """Which images are classified correctly and turned by no attack up to a rung that the ladder has finished."""
    own = ladder_facts(table)["rungs"]
    names = list(own)
    tried = [attack for name in names[: names.index(rung) + 1] for attack in own[name]]
    broken = np.isin(table["broken_by"].to_numpy().astype(str), tried)
    standing: Bools = table["natural"].to_numpy() & ~broken
    return standing


def ladder_facts(table: pa.Table) -> Facts:
    """What a ladder was measured with.

    Raises:
        InputError: the table is not a ladder.
    """
    try:
        facts = facts_of(table)
    except ValueError:
        facts = {}
    if "rungs" not in facts:
        raise InputError(refusal("a ladder's table", "one without its metadata", "pass what read_ladder returns"))
    return facts
