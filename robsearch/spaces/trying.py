"""Which of a space's recipes are tried in a child process, on which images, and what is said of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import psutil
import torch

from robsearch.batching import share_problems
from robsearch.child import GIB, Limits, Lost, in_child
from robsearch.data import load
from robsearch.errors import InputError, refusal
from robsearch.evaluation import sampled
from robsearch.protocols import Dataset, Split
from robsearch.recipe import Recipe
from robsearch.resources import Resources
from robsearch.spaces.definition import Space
from robsearch.spaces.first_step import MORE, Found, Task, tried, without_memory
from robsearch.spaces.structures import structure

SECONDS, GIB_AT_MOST, SHARE = 30.0, 4.0, 0.5
"""What one recipe may take: time (ROBSEARCH_CHECK_SECONDS changes it), memory, and its share of what is free."""


class Subject(NamedTuple):
    """A recipe of a space: at which width, and from which suggestion, rung or control."""

    width: float
    recipe: Recipe
    origin: str


class Tried(NamedTuple):
    """What came of the tries: problems that refuse the space, and notes on what could not be tried."""

    subject: Subject
    found: Found


def first_step_problems(space: Space, subjects: Sequence[Subject], say: Callable[[str], None]) -> list[str]:
    """What fails in the first steps of each structure at the smallest and the largest width, and in all models."""
    problems: list[str] = []
    splits: dict[Dataset, Split] = {}
    chosen = list(_distinct(space, subjects))
    for dataset in dict.fromkeys(subject.recipe.data for subject, _ in chosen):
        splits[dataset] = _images(dataset, problems, say)
    tasks = [Task(each.recipe, splits[each.recipe.data], whole, on_gpu(space, each.width)) for each, whole in chosen]
    outcomes = _outcomes(tasks)
    for (subject, _), found in zip(chosen, outcomes, strict=True):
        where = f"at width {subject.width:g}" + f" ({subject.origin})" * bool(subject.origin)
        problems += [f"{where}: {problem}" for problem in found.problems]
        for note in found.notes:
            say(f"{where}: {note}")
    least = {_model(subject): found.least for (subject, _), found in zip(chosen, outcomes, strict=True)}
    return problems + list(_share_problems(space, subjects, least))


def _share_problems(space: Space, subjects: Sequence[Subject], least: Mapping[str, int]) -> Iterator[str]:
    """Batches of which a process would have too few images; where the data is not here, nobody can tell."""
    images: dict[Dataset, int] = {}
    for dataset in dict.fromkeys(subject.recipe.data for subject in subjects):
        with suppress(Exception):  # which is told by itself; and data may take long to say that it is not there
            images[dataset] = len(load(dataset)["train"].labels)
    for subject in subjects:
        recipe, taken = subject.recipe, _resources(space, subject.width)
        if taken and recipe.data in images:
            enough = least.get(_model(subject), 1)
            for problem in share_problems(enough, images[recipe.data], recipe.batch_size, taken.processes):
                yield f"at width {subject.width:g}: {problem}"


def _resources(space: Space, width: float) -> Resources | None:
    """What a training at a width takes; None where the space does not say it, which is refused by itself."""
    with suppress(Exception):
        taken: object = space.resources(width) if space.resources else Resources()
        return taken if isinstance(taken, Resources) else None
    return None


def _model(subject: Subject) -> str:
    return repr((subject.recipe.model, subject.recipe.data))


def data_problems(datasets: Iterable[Dataset]) -> Iterator[str]:
    """Why data could not be put into the node's store."""
    for dataset in dict.fromkeys(datasets):
        try:
            load(dataset)
        except InputError as error:
            yield from error.problems
        except Exception as error:
            yield _broken_read(dataset, error)


def limits() -> Limits:
    """Of one recipe, on this machine at this moment."""
    free = SHARE * psutil.virtual_memory().available / GIB
    return Limits(float(os.environ.get("ROBSEARCH_CHECK_SECONDS", SECONDS)), min(GIB_AT_MOST, free))


def _distinct(space: Space, subjects: Sequence[Subject]) -> Iterator[tuple[Subject, bool]]:
    """Structures at the smallest and the largest width in whole; of those between, the models that are new."""
    ends = {min(space.widths), max(space.widths)}
    seen = set[object]()
    for subject in subjects:
        whole = subject.width in ends
        key = structure(subject.recipe) if whole else _model(subject)
        if (whole, key) not in seen:
            seen.add((whole, key))
            yield subject, whole


def _outcomes(tasks: Sequence[Task]) -> list[Found]:
    """Of each task; what does not fit into memory is tried once more, without."""
    most = limits()
    found = in_child(tried, tasks, most)
    large = [i for i, each in enumerate(found) if isinstance(each, Lost) and each.memory]
    for i, shapes in zip(large, in_child(without_memory, [tasks[i] for i in large], most), strict=True):
        note = f"{tasks[i].recipe.model} takes {found[i].reason} here"
        found[i] = shapes
        if isinstance(shapes, Found):
            found[i] = Found(shapes.problems, tuple(f"{note}: {each}" for each in shapes.notes))
    return [
        _refused(each, task.recipe) if isinstance(each, Lost) else each for each, task in zip(found, tasks, strict=True)
    ]


def _refused(lost: Lost, recipe: Recipe) -> Found:
    leaf = getattr(recipe.resolved, lost.stage, None)
    at = f" at the part {lost.stage!r}" if lost.stage else ""
    what = f"{recipe.model} to be built and to take a step"
    do = f"mend {leaf or 'the recipe'}; if it is only slow, set ROBSEARCH_CHECK_SECONDS"
    return Found((refusal(what, lost.reason + at, do),))


def on_gpu(space: Space, width: float) -> bool:
    """Whether a training at a width would be on a GPU where there is one."""
    taken = _resources(space, width)
    return taken is not None and (space.resources is None or taken.gpus > 0)


def _images(dataset: Dataset, problems: list[str], say: Callable[[str], None]) -> Split:
    """Images of the data, with its largest label among the first; random ones of its shape where it is not here."""
    spec = dataset.spec
    try:
        train = load(dataset)["train"]
        few = sampled(train, MORE).split
        last = int(train.labels.argmax())
        return Split(
            torch.cat([train.images[last : last + 1], few.images[1:]]),
            torch.cat([train.labels[last : last + 1], few.labels[1:]]),
        )
    except Exception as error:
        missing = isinstance(error, OSError | InputError) and _while_reading(error, dataset)
        for text in error.problems if isinstance(error, InputError) else [_broken_read(dataset, error)]:
            if missing:
                say(f"random images take the place of the data, which is not here: {text}")
            else:
                problems.append(text)
    images = torch.randint(256, (MORE, *spec.shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Split(images, torch.arange(MORE).flip(0) % spec.num_classes)


def _broken_read(dataset: Dataset, error: Exception) -> str:
    what = f"{type(dataset).__name__} to be read"
    return refusal(what, f"{type(error).__name__}: {error}", f"mend {dataset!r}")


def _while_reading(error: Exception, dataset: Dataset) -> bool:
    """Whether the data set itself raised it: the store's refusals are of data that is there."""
    traceback = error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_code.co_name == "read" and frame.f_locals.get("self") is dataset:
            return True
        traceback = traceback.tb_next
    return False
