"""``--gpus-per-trial auto``: how many trials of each width share a GPU, by the memory that one of them takes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from robsearch import cluster
from robsearch.cluster import Job
from robsearch.errors import InputError, refusal
from robsearch.naming import names_of
from robsearch.recipe import Recipe
from robsearch.rehearsal import rehearse
from robsearch.schedules import Fixed
from robsearch.search.workplace import WHOLE, Means, Stoppable, asked
from robsearch.spaces import Space, suggestions
from robsearch.trial import Report
from robsearch.wording import counted

SPARE = 1.1
"""The peak is taken this many times: other batches fragment memory otherwise."""
MOST = 64
"""Trials on one GPU: its memory may hold more, but they would only wait for each other."""
MAX_RETRIES = 1


@dataclass(frozen=True)
class Need:
    """What a trial takes of a GPU's memory, in GiB, as measured on a whole one.

    Attributes:
        training: the peak of an optimiser step.
        peak: that of training and judging.
        context: beside the tensors: the CUDA context, and other programs on the GPU.
        total: all the memory of the smallest GPU that was measured on.
        micro_batch: images of a batch at a time, fewer than ``batch`` where even a whole GPU does not do.
        batch: images per optimiser step.
    """

    training: float
    peak: float
    context: float
    total: float
    micro_batch: float
    batch: int

    @property
    def gib(self) -> float:
        """What is set aside for it: its context, and its peak with something to spare."""
        return SPARE * self.peak + self.context

    @property
    def per_gpu(self) -> int:
        """How many such trials share a GPU; one has it for itself also if there is nothing to spare."""
        return max(1, min(MOST, int(self.total / self.gib)))


def packed(means: Means, space: Space, folder: Path, owner: Stoppable, console: Console) -> dict[float, float]:
    """Rehearses each width on a GPU of the connected cluster, and says what was found, one line a width.

    A width for which the space asks for no GPU, or for several, is left as it is. Rehearsed are the recipes that
    ``check`` draws there, those that differ only in lambda and seed once; the largest decides.

    Args:
        means: how long a rehearsal may be silent.
        space: that is searched.
        folder: of the search.
        owner: of the search; when it stops, so does this.
        console: where it is said.

    Returns:
        The share of a GPU for one trial of each width that was measured: none where it was stopped before.

    Raises:
        InputError: training or judging fails on a whole one; names the widths.
    """
    console.print("--gpus-per-trial auto: trying a step of each width on a whole GPU", highlight=False)
    takes = {width: asked(space, width) for width in space.widths}
    recipes = {width: several for width, several in _distinct(space).items() if 0 < takes[width].gpus <= 1}
    rehearsals = _Rehearsals(recipes, folder, owner)
    cluster.run(rehearsals, folder, MAX_RETRIES, means.hang_after, lambda line: console.print(line, soft_wrap=True))
    if owner.stopping:
        return {}
    needs = rehearsals.needs()
    for width, need in needs.items():
        each = replace(takes[width], gpus=1 / need.per_gpu)
        at_once, on_gpus = cluster.slots(each), cluster.slots(replace(each, cpus=min(each.cpus, 1e-3)))
        console.print(line(width, need, each.cpus, at_once, on_gpus), soft_wrap=True, highlight=False)
    if len(kinds := cluster.gpu_kinds()) > 1 and needs:
        smallest = min(need.total for need in needs.values())
        text = f"GPUs of several kinds ({', '.join(kinds)}): the shares suit those of {smallest:.1f} GiB or more"
        console.print(f"{text}; on smaller ones training goes on in micro-batches", soft_wrap=True, highlight=False)
    return {width: 1 / need.per_gpu for width, need in needs.items()}


def line(width: float, need: Need, cpus: float, at_once: int, on_gpus: int) -> str:
    """What was measured at a width, and how many trials that lets run.

    Args:
        width: of the net.
        need: what was measured.
        cpus: of one trial.
        at_once: how many trials fit on the cluster.
        on_gpus: how many would if there were no end of CPUs.
    """
    text = f"width {width:g}: {need.peak:.1f} GiB (training {need.training:.1f}) and {need.context:.1f} beside it "
    text += f"of {need.total:.1f} GiB"
    if need.micro_batch < need.batch:
        text += f", with {need.micro_batch:g} of {counted(need.batch, 'image')} at a time"
    text += f": {need.per_gpu} trials share a GPU" if need.per_gpu > 1 else ": a GPU for each trial"
    bound = f"; CPUs are the limit: {at_once} at once, not {on_gpus}, with {counted(cpus, 'CPU')} each"
    return text + bound * (at_once < on_gpus)


class _Rehearsals:
    """Hands the rehearsals out (``cluster.Jobs``), and remembers what was measured."""

    def __init__(self, recipes: Mapping[float, Iterable[Recipe]], folder: Path, owner: Stoppable) -> None:
        names = names_of(recipes)
        jobs = [
            (width, Job(f"rehearsal of w{names[width]}, {i}", rehearse, recipe, folder, WHOLE))
            for width, several in recipes.items()
            for i, recipe in enumerate(several)
        ]
        self._width_of = {job.name: width for width, job in jobs}
        self._waiting, self._running = deque(job for _, job in jobs), set[str]()
        self._owner = owner
        self._found: dict[float, list[Need]] = {}
        self._problems: dict[float, str] = {}

    @property
    def finished(self) -> bool:
        return not (self._waiting or self._running)

    @property
    def stopping(self) -> bool:
        return self._owner.stopping

    def next(self) -> Job | None:
        if not self._waiting:
            return None
        job = self._waiting.popleft()
        self._running.add(job.name)
        return job

    def heard(self, job: Job, report: Report) -> bool:
        width = self._width_of[job.name]
        if report.ended == "COMPLETE":
            need = Need(**report.test, batch=job.recipe.batch_size)
            self._found.setdefault(width, []).append(need)
        else:
            self._problems[width] = f"at width {width:g}: {report.reason}"
        return True

    def gone(self, job: Job, error: str | None) -> None:
        self._running.discard(job.name)
        if error:
            width = self._width_of[job.name]
            expected = f"a training step and a judging of width {width:g} on a whole GPU"
            self._problems[width] = refusal(expected, error, "mend the space, or see what its trials say without auto")

    def needs(self) -> dict[float, Need]:
        """By width, the largest need, on the smallest GPU that any was measured on.

        Raises:
            InputError: what failed, one sentence per width.
        """
        if self._problems:
            raise InputError(*(self._problems[width] for width in sorted(self._problems)))
        largest = {width: max(several, key=lambda need: need.gib) for width, several in sorted(self._found.items())}
        smallest = min((need.total for several in self._found.values() for need in several), default=0.0)
        return {width: replace(need, total=smallest) for width, need in largest.items()}


def _distinct(space: Space) -> dict[float, list[Recipe]]:
    """By width, the recipes drawn there without those that differ from another in lambda and seed only."""
    found: dict[float, dict[str, Recipe]] = {}
    for draw in suggestions(space):
        alike = repr(replace(draw.recipe, lam=Fixed(1.0), seed=0))
        found.setdefault(draw.width, {}).setdefault(alike, draw.recipe)
    return {width: list(several.values()) for width, several in found.items()}
