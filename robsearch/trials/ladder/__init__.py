"""The evaluation ladder: robust accuracy under ever dearer attacks, each on the images that no
attack before turned.

    from robsearch.trials.ladder.results import read_ladder, rung_results
    from robsearch.trials.ladder.running import run_ladder

    for step in run_ladder(model, test, PGD(eps=8 / 255, steps=20), "apgd", folder):
        print(f"{step.attack} {step.done}/{step.total}: {step.robust:.1%}")
    for result in rung_results(read_ladder(folder)):
        print(result.rung, result.robust_accuracy)

    folder/ladder.parquet                           one row per image: what `read_ladder` reads
    folder/ladder.json                              the same rung by rung, for a person
    folder/ladder/<digest>/<attack>-<first>.parquet what one attack did to one chunk; a rerun skips
    what is there

The digest names the network with its weights, the images and labels, the attacks and the chunk. Of
a network it knows the tensors and the parts (types and settings), not the code of its ``forward``.

Every model is attacked from the same seeds, and each image from its own start
(``robsearch.network.draws``): neither the chunk nor what a model has lost before changes what
an attack does to an image, but for rounding.
"""
