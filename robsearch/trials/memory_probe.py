"""One step of training and one of judging, on a whole GPU, to see how much of its memory a trial
takes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import torch

from robsearch.data import load
from robsearch.errors import shortened
from robsearch.protocols import Images, Labels, Metrics, Split
from robsearch.recipe import Recipe
from robsearch.training.evaluation import EVAL_CHUNK, best_device, judge, to_device
from robsearch.training.learner import Learner
from robsearch.training.memory import DeviceFullError, footprint, forget_peak, free
from robsearch.training.mixing import extra_of
from robsearch.training.step import gradient_that_fits, optimiser_step
from robsearch.training.trainer import batches
from robsearch.trials.trial import Report

GPU = torch.device("cuda")
ALL_DUE = math.lcm(*range(1, 21), 100) - 1
"""The step after which all is due that a penalty does every 1 to 20, or every 100, steps."""


def probe_memory(recipe: Recipe, folder: Path) -> Iterator[Report]:
    """Trains a few steps on full batches, judges one chunk of ``val`` and reports the memory that
    took.

    A set that a whole GPU has no room for is streamed, and counts with a batch of its images.
    Nothing is written. The steps are those at the end of training, when weight perturbation is past
    its warmup, and are repeated until the optimiser's state is there and the micro-batch, which is
    halved where memory runs out, no longer changes.

    Returns:
        One report, whose ``test`` holds in GiB ``training`` (the peak of a step) and the
        ``Footprint`` of both, and ``micro_batch``, the images at a time. Without room for one image
        it says so as a trial would.
    """
    free()  # this process may have probed another recipe before
    try:
        report = Report(ended="COMPLETE", test=_measured(recipe))
    except DeviceFullError as error:
        report = Report(ended="FAIL", reason=shortened(str(error)))
    yield report


def _measured(recipe: Recipe) -> Metrics:
    device = best_device()
    data = recipe.resolved_data
    splits = load(data)
    images, val = to_device(splits["train"], device), to_device(splits["val"], device)
    extra = extra_of(data, splits, device)
    learner = Learner.of(recipe, device)
    learner.epoch = recipe.epochs
    learner.model.train()
    with closing(batches(images, recipe, extra=extra)) as first:
        x, y, _ = next(first)
    _step(learner, x, y)
    # Now the optimiser's state is there. A step that was done again does not show its own peak.
    micro_batch = None
    while learner.micro_batch != micro_batch:
        micro_batch = learner.micro_batch
        free()
        forget_peak(GPU)
        _step(learner, x, y)
    training = footprint().peak
    chunk = Split(val.images[:EVAL_CHUNK], val.labels[:EVAL_CHUNK])
    judge(learner.eval_model, chunk, recipe.resolved_eval_attack)
    return {"training": training, **footprint()._asdict(), "micro_batch": learner.micro_batch}


def _step(learner: Learner, x: Images, y: Labels) -> None:
    lam = learner.schedule.lam(learner.lam)
    terms = gradient_that_fits(learner, x, y, lam, progress=1.0)
    if torch.isfinite(terms).all():  # a training would have ended otherwise
        optimiser_step(learner, ALL_DUE)
