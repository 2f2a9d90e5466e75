"""One step of training and one of judging, on a whole GPU, to see how much of its memory a trial takes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch

from robsearch.data import load
from robsearch.evaluation import EVAL_CHUNK, best_device, judge, to_device
from robsearch.learner import Learner
from robsearch.memory import DeviceFullError, footprint, forget_peak, free
from robsearch.protocols import Images, Labels, Metrics, Split
from robsearch.recipe import Recipe
from robsearch.steps import gradient_that_fits, optimiser_step
from robsearch.trainer import batches
from robsearch.trial import Report

GPU = torch.device("cuda")
ALL_DUE = math.lcm(*range(1, 21), 100) - 1
"""The step after which all is due that a penalty does every 1 to 20, or every 100, steps."""


def rehearse(recipe: Recipe, folder: Path) -> Iterator[Report]:
    """Trains a few steps on full batches, judges one chunk of ``val`` and reports the memory that took.

    Nothing is written. The steps are those at the end of training, when weight perturbation is past its warmup, and
    are repeated until the optimiser's state is there and the micro-batch, halved where memory does not do, stays.

    Returns:
        One report, whose ``test`` holds in GiB ``training`` (the peak of a step) and the ``Footprint`` of both, and
        ``micro_batch``, the images at a time. Without room for one image it says so as a trial would.
    """
    free()  # a process that rehearsed another recipe starts from nothing
    try:
        found = _rehearsed(recipe)
    except DeviceFullError as error:
        report = Report(ended="FAIL", reason=str(error))
    else:
        report = Report(ended="COMPLETE", test=found)
    yield report


def _rehearsed(recipe: Recipe) -> Metrics:
    device, attack = best_device(), recipe.resolved_eval_attack
    data = load(recipe.data)
    images, val = to_device(data["train"], device), to_device(data["val"], device)
    learner = Learner.of(recipe, device)
    learner.epoch = recipe.epochs
    learner.model.train()
    _step_until_settled(learner, *next(batches(images, recipe)))
    training = footprint().peak
    judge(learner.judged, Split(val.images[:EVAL_CHUNK], val.labels[:EVAL_CHUNK]), attack)
    return {"training": training, **footprint()._asdict(), "micro_batch": learner.micro_batch}


def _step_until_settled(learner: Learner, x: Images, y: Labels) -> None:
    """Leaves the peak of one step, with the optimiser's state there and without an attempt that did not fit."""
    _step(learner, x, y)
    micro_batch = None
    while learner.micro_batch != micro_batch:
        micro_batch = learner.micro_batch
        free()
        forget_peak(GPU)
        _step(learner, x, y)


def _step(learner: Learner, x: Images, y: Labels) -> None:
    terms = gradient_that_fits(learner, x, y, learner.recipe.lam.lam(learner.lam), progress=1.0)
    if torch.isfinite(terms).all():  # as in training, where the trial would have ended
        optimiser_step(learner, ALL_DUE)
