"""AutoAttack, by its authors' package: the yardstick of published robust accuracies."""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from robsearch.errors import (
    count,
    refusal,
    refuse,
    refuse_unless,
    refused,
)
from robsearch.network.balls import Norm, norm_condition, radius_condition
from robsearch.network.draws import normal, uniform
from robsearch.network.modes import checked_logits, evaluating
from robsearch.protocols import Images, Labels, Logits, Loss

CLASSES_NEEDED = {
    "apgd-ce": 2,
    "apgd-dlr": 3,
    "apgd-t": 4,
    "fab": 2,
    "fab-t": 2,
    "square": 2,
}
"""The attacks there are, each with the fewest classes that its loss is defined for."""

MOST_TARGETS = 9
"""Wrong classes that a targeted attack tries for each image, in the order of their logits."""


@dataclass(frozen=True)
class AutoAttack:
    """AutoAttack (arXiv 2003.01690): attacks in turn, each on the images that withstood those
    before it.

    By default the published ``standard`` version: APGD on the cross-entropy, APGD on the targeted
    DLR loss, FAB (arXiv 1907.02044) and Square (arXiv 1912.00049), with its own step sizes, 100
    iterations and 5,000 queries, whichever of the attacks are chosen. ``("apgd-ce", "apgd-t")`` is
    the part that does nearly all of the work in a fraction of the time. It brings its own losses:
    ``loss`` is not looked at.

    It gives back a perturbation only for images that it turned from ``y`` to another class. An
    image that ``y`` does not describe to begin with is not attacked, and one that withstood is
    given back as it came. So with labels as ``y`` the output has a robust accuracy and nothing
    else: never compute stability from it, nor a mean loss or a Lipschitz ratio.

    What becomes of an image follows from the fields, the model and the image: not from
    ``batch_size``, nor from the other images, but for rounding. torch's global generator is neither
    read nor moved. APGD starts each image from random numbers of its own; Square, which tries the
    same squares on all images, has all its random numbers in common.

    Attributes:
        eps: the ball's radius in pixel units, such as ``8 / 255``; 0 gives ``x`` back.
        norm: the ball, ``linf`` or ``l2`` (per image, over all its pixels).
        attacks: run in this order, out of ``apgd-ce``, ``apgd-dlr``, ``apgd-t`` (targeted),
            ``fab``, ``fab-t`` (targeted) and ``square``. ``apgd-t`` needs four classes and
            ``apgd-dlr`` three.
        seed: of the random starts of each attack.
        batch_size: images that are attacked at once.

    Raises:
        InputError: all fields that do not fit, at once.
    """

    eps: float = 8 / 255
    norm: Norm = "linf"
    attacks: tuple[str, ...] = ("apgd-ce", "apgd-t", "fab-t", "square")
    seed: int = 0
    batch_size: int = 250

    def __post_init__(self) -> None:
        fit_into_memory = "pass as many images as fit into memory"
        expected = f"attacks out of {', '.join(CLASSES_NEEDED)}"
        fits = isinstance(self.attacks, tuple) and len(self.attacks) > 0
        if fits:
            # As many as there are of them: each is one of these, and none comes twice.
            different = set(self.attacks) & set(CLASSES_NEEDED)
            fits = len(self.attacks) == len(different)
        refuse_unless(
            radius_condition("eps", self.eps, self.norm, or_zero=True),
            norm_condition(self.norm),
            (
                fits,
                expected,
                repr(self.attacks),
                "pass a tuple of one or more of these, each once",
            ),
            count("seed", self.seed, "pass 0 or more", least=0),
            count("batch_size", self.batch_size, fit_into_memory),
        )

    def __call__(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        loss: Loss | None = None,
    ) -> Images:
        """Images of the shape of ``x``, inside the ball and [0, 1], detached.

        Args:
            model: images in [0, 1] to logits, not probabilities; in eval mode meanwhile.
            x: float32 images in [0, 1].
            y: the classes that the prediction shall leave.
            loss: unused, for the attacks have their own.

        Raises:
            InputError: images that are not float32 or outside [0, 1], labels that do not fit,
                logits that are not finite or are probabilities, fewer classes than an attack needs,
                images too small for Square in l2.
        """
        x = x.detach().contiguous()  # the package cannot work with channels last
        if self.eps == 0:
            return x.clone()
        with evaluating(model), _parameters_at_rest(model), _globals_given_back():
            classes = self.refuse_unfit(model, x, y)
            adv = self._run(model, x, y, classes)
        return _inside(adv, x, self.eps, self.norm)

    def refuse_unfit(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
    ) -> int:
        """The number of classes of a model, and of images and labels, that the attacks can work
        with.

        Raises:
            InputError: as for a call, which asks this first.
        """
        if x.dtype != torch.float32:
            do = "convert images and model: the attacks compute in it"
            raise refused("float32 images", x.dtype, do)
        # An empty batch too shows how many classes the model has.
        images = max(len(x), len(y), 1)
        with torch.no_grad():
            for start in range(0, images, self.batch_size):
                part = slice(start, start + self.batch_size)
                classes = checked_logits(model, x[part], y[part]).shape[1]
        problems = self._class_problems(classes)
        square_in_l2 = "square" in self.attacks and self.norm == "l2"
        if square_in_l2 and min(x.shape[2:]) < 5:
            size = " x ".join(map(str, x.shape[2:]))
            expected = "images of 5 x 5 or more for square in l2"
            problems.append(refusal(expected, size, "leave square out of attacks"))
        refuse(problems)
        return classes

    def _class_problems(self, classes: int) -> list[str]:
        lacking = [name for name in self.attacks if CLASSES_NEEDED[name] > classes]
        if not lacking:
            return []
        need = max(CLASSES_NEEDED[name] for name in lacking)
        expected = f"at least {need} classes for {' and '.join(lacking)}"
        do = "give the model one logit per class"
        if classes > 1:
            others = tuple(name for name in self.attacks if name not in lacking)
            do = f"pass attacks={others or ('apgd-ce',)!r}"
        return [refusal(expected, classes, do)]

    def _run(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        classes: int,
    ) -> Images:
        # Here, for few need it and it takes its time.
        from pyautoattack import AutoAttack as Ensemble

        def forward(z: Images) -> Logits:
            # A copy, for Square writes into it; in float32, also under autocast.
            logits: Logits = model(z).float().clone()
            return logits

        ensemble = Ensemble(
            forward,
            norm=self.norm.capitalize(),
            eps=self.eps,
            seed=self.seed,
            device=x.device,
        )
        ensemble.attacks_to_run = list(self.attacks)
        for apgd in (ensemble.apgd, ensemble.apgd_targeted):
            _give_own_starts(apgd, self.seed)
        _give_common_numbers(ensemble.square)
        # The package takes nine targets as given, which fewer than ten classes do not have.
        for targeted in (ensemble.apgd_targeted, ensemble.fab):
            targeted.n_target_classes = min(MOST_TARGETS, classes - 1)
        adv: Images
        adv, _ = ensemble.run_standard_evaluation(x, y.long(), batch_size=self.batch_size)
        return adv


def _give_own_starts(apgd: Any, seed: int) -> None:
    """Each image starts from numbers of its own: the package draws them for the batch, by the place
    in it."""
    perturb = apgd.perturb
    run = apgd.attack_single_run
    draw = uniform if apgd.norm == "Linf" else normal
    turns = itertools.count()

    def from_the_first_turn(x: Images, y: Labels) -> Any:
        nonlocal turns
        # An image's numbers must not depend on the batches before its own.
        turns = itertools.count()
        return perturb(x, y)

    def from_own_starts(x: Images, y: Labels) -> Any:
        direction = apgd.normalize(draw(x, seed, next(turns)))
        return run(x, y, x_init=x + apgd.eps * direction)

    apgd.perturb = from_the_first_turn
    apgd.attack_single_run = from_own_starts


def _give_common_numbers(square: Any) -> None:
    """What is drawn for each image is drawn once for all: how many there are does not change the
    numbers after it."""
    choice = square.random_choice

    def common_choice(shape: Sequence[int]) -> Any:
        if len(shape) == 4:  # one draw for each image
            shape = [1, *shape[1:]]
        return choice(shape)

    square.random_choice = common_choice


def _inside(
    adv: Images,
    x: Images,
    eps: float,
    norm: str,
) -> Images:
    """Puts back what rounding left outside, by the last bits of a float, and moves nothing else."""
    if norm == "linf":
        return adv.clamp(x - eps, x + eps).clamp(0, 1)
    move = adv - x
    length = torch.linalg.vector_norm(move, dim=(1, 2, 3), keepdim=True)
    shortened = move.renorm(p=2, dim=0, maxnorm=eps)
    return torch.where(length > eps, shortened.add(x).clamp(0, 1), adv)


@contextmanager
def _parameters_at_rest(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient: FAB calls ``backward``, which would add to the ones that
    are there."""
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


@contextmanager
def _globals_given_back() -> Iterator[None]:
    """What the package sets for the whole process: torch's generators, Python's trace function, a
    chatty logger."""
    logger = logging.getLogger("auto-attack")
    trace = sys.gettrace()
    warnings_once = _WarningsOnce()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    logger.addFilter(warnings_once)
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        logger.removeFilter(warnings_once)
        sys.settrace(trace)  # a debugger's, or that of coverage


class _WarningsOnce(logging.Filter):
    """Lets warnings through, one of each kind: a flat loss is reported for every batch and target
    class.

    But none on the number of classes, which is refused here, while the package warns of three for
    ``apgd-dlr`` too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        # A line of the package's code stands for one kind of warning.
        is_warning = record.levelno >= logging.WARNING
        is_new = record.lineno not in self.seen
        self.seen.add(record.lineno)
        return is_warning and is_new and record.funcName != "check_n_classes"
