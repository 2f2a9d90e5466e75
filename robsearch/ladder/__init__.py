"""The evaluation ladder: robust accuracy under ever dearer attacks, each on the images that no attack before turned.

    for step in climb(model, test, PGD(eps=8 / 255, steps=20), "apgd", folder):
        print(f"{step.attack} {step.done}/{step.total}: {step.robust:.1%}")
    for standing in standings(read_ladder(folder)):
        print(standing.rung, standing.robust_accuracy)

    folder/ladder.parquet                           one row per image: what `read_ladder` reads
    folder/ladder.json                              the standings, for a person
    folder/ladder/<digest>/<attack>-<first>.parquet what one attack did to one chunk; a rerun skips what is there

The digest names the network with its weights, the images and labels, the attacks and the chunk. Of a network it knows
the tensors and the parts (types and settings), not the code of its ``forward``.

Every model is attacked from the same seeds, and each image from its own start (``robsearch.draws``): neither the chunk
nor what a model has lost before changes what an attack does to an image, but for rounding.
"""

from __future__ import annotations

from robsearch.ladder.climbing import RUNGS, Progress, climb
from robsearch.ladder.flips import Flip, flips
from robsearch.ladder.standings import Standing, read_ladder, standings

__all__ = ["RUNGS", "Flip", "Progress", "Standing", "climb", "flips", "read_ladder", "standings"]
