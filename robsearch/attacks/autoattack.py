"""AutoAttack, by its authors' package: the yardstick of published robust accuracies."""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

import torch
from torch import nn

from robsearch.draws import normal, uniform
from robsearch.errors import InputError, number, refusal, refuse_unless
from robsearch.modes import checked_logits, evaluating
from robsearch.protocols import Images, Labels, Logits, Loss

CLASSES_NEEDED = {"apgd-ce": 2, "apgd-dlr": 3, "apgd-t": 4, "fab": 2, "fab-t": 2, "square": 2}
"""The attacks there are, each with the fewest classes that its loss is defined for."""

MOST_TARGETS = 9
"""Wrong classes that a targeted attack tries for each image, in the order of their logits."""


@dataclass(frozen=True)
class AutoAttack:
    """AutoAttack (arXiv 2003.01690): attacks in turn, each on the images that withstood those before it.

    By default the published ``standard`` version: APGD on the cross-entropy, APGD on the targeted DLR loss,
    FAB (arXiv 1907.02044) and Square (arXiv 1912.00049), with its own step sizes, 100 iterations and 5,000 queries,
    whichever of the attacks are chosen. ``("apgd-ce", "apgd-t")`` is the part that does nearly all of the work in a
    fraction of the time. It brings its own losses: ``loss`` is not looked at.

    It gives back a perturbation only for images that it turned from ``y`` to another class. An image that ``y``
    does not describe to begin with is not attacked, and one that withstood is given back as it came. So with labels
    as ``y`` the output has a robust accuracy and nothing else: never compute stability from it, nor a mean loss or
    a Lipschitz ratio.

    What becomes of an image follows from the fields, the model and the image: not from ``batch_size``, nor from the
    other images, but for rounding. torch's global generator is neither read nor moved. APGD starts each image from
    random numbers of its own; Square, which tries the same squares on all images, has all its random numbers in common.

    Attributes:
        eps: the ball's radius in pixel units, such as ``8 / 255``; 0 gives ``x`` back.
        norm: the ball, ``linf`` or ``l2`` (per image, over all its pixels).
        attacks: run in this order, out of ``apgd-ce``, ``apgd-dlr``, ``apgd-t`` (targeted), ``fab``, ``fab-t``
            (targeted) and ``square``. ``apgd-t`` needs four classes and ``apgd-dlr`` three.
        seed: of the random starts of each attack.
        batch_size: images that are attacked at once.

    Raises:
        InputError: all fields that do not fit, at once.
    """

    eps: float = 8 / 255
    norm: Literal["linf", "l2"] = "linf"
    attacks: tuple[str, ...] = ("apgd-ce", "apgd-t", "fab-t", "square")
    seed: int = 0
    batch_size: int = 250

    def __post_init__(self) -> None:
        most = 1.0 if self.norm == "linf" else inf
        known = f"attacks out of {', '.join(CLASSES_NEEDED)}"
        once = isinstance(self.attacks, tuple) and 0 < len(self.attacks) == len(set(self.attacks) & set(CLASSES_NEEDED))
        refuse_unless(
            (
                0 <= self.eps <= most and self.eps < inf,
                f"eps from 0 to {most:g}",
                self.eps,
                "give it in pixel units, 8/255 and not 8",
            ),
            (self.norm in ("linf", "l2"), "norm 'linf' or 'l2'", repr(self.norm), "pass one of these"),
            (once, known, repr(self.attacks), "pass a tuple of one or more of these, each once"),
            number("seed", self.seed, ">= 0", "pass 0 or more", whole=True),
            number("batch_size", self.batch_size, ">= 1", "pass as many images as fit into memory", whole=True),
        )

    def __call__(self, model: nn.Module, x: Images, y: Labels, loss: Loss | None = None) -> Images:
        """Images of the shape of ``x``, inside the ball and [0, 1], detached.

        Args:
            model: images in [0, 1] to logits, not probabilities; in eval mode meanwhile.
            x: float32 images in [0, 1].
            y: the classes that the prediction shall leave.
            loss: unused, for the attacks have their own.

        Raises:
            InputError: images that are not float32 or outside [0, 1], labels that do not fit, logits that are not
                finite or are probabilities, fewer classes than an attack needs, images too small for Square in l2.
        """
        x = x.detach().contiguous()  # the package cannot work with channels last
        if self.eps == 0:
            return x.clone()
        with ExitStack() as left_alone:
            for guard in (evaluating(model), _parameters_at_rest(model), _globals_given_back()):
                left_alone.enter_context(guard)
            classes = self.refuse_unfit(model, x, y)
            adv = self._run(model, x, y, classes)
        return _inside(adv, x, self.eps, self.norm)

    def refuse_unfit(self, model: nn.Module, x: Images, y: Labels) -> int:
        """The number of classes of a model, and of images and labels, that the attacks can work with.

        Raises:
            InputError: as for a call, which asks this first.
        """
        if x.dtype != torch.float32:
            raise InputError(refusal("float32 images", x.dtype, "convert images and model: the attacks compute in it"))
        parts = [slice(i, i + self.batch_size) for i in range(0, max(len(x), len(y), 1), self.batch_size)]
        with torch.no_grad():
            logits = torch.cat([checked_logits(model, x[part], y[part]) for part in parts])
        classes = logits.shape[1]
        problems = self._class_problems(classes)
        if "square" in self.attacks and self.norm == "l2" and min(x.shape[2:]) < 5:
            size = " x ".join(map(str, x.shape[2:]))
            problems.append(refusal("images of 5 x 5 or more for square in l2", size, "leave square out of attacks"))
        if problems:
            raise InputError(*problems)
        return classes

    def _class_problems(self, classes: int) -> list[str]:
        lacking = [name for name in self.attacks if CLASSES_NEEDED[name] > classes]
        if not lacking:
            return []
        rest = tuple(name for name in self.attacks if name not in lacking) or ("apgd-ce",)
        need = max(CLASSES_NEEDED[name] for name in lacking)
        do = f"pass attacks={rest!r}" if classes > 1 else "give the model one logit per class"
        return [refusal(f"at least {need} classes for {' and '.join(lacking)}", classes, do)]

    def _run(self, model: nn.Module, x: Images, y: Labels, classes: int) -> Images:
        from pyautoattack import AutoAttack as Ensemble  # here, for it is needed by few and takes its time

        def forward(z: Images) -> Logits:
            # A copy, for Square writes into it; in float32, also under autocast.
            logits: Logits = model(z).float().clone()
            return logits

        norm = {"linf": "Linf", "l2": "L2"}[self.norm]
        ensemble = Ensemble(forward, norm=norm, eps=self.eps, seed=self.seed, device=x.device)
        ensemble.attacks_to_run = list(self.attacks)
        for apgd in (ensemble.apgd, ensemble.apgd_targeted):
            _give_own_starts(apgd, self.seed)
        _give_common_numbers(ensemble.square)
        ensemble.apgd_targeted.n_target_classes = ensemble.fab.n_target_classes = min(MOST_TARGETS, classes - 1)
        adv: Images = ensemble.run_standard_evaluation(x, y.long(), batch_size=self.batch_size)[0]
        return adv


def _give_own_starts(apgd: Any, seed: int) -> None:
    """Each image starts from numbers of its own: the package draws them for the batch, by the place in it."""
    perturb, run = apgd.perturb, apgd.attack_single_run
    draw = uniform if apgd.norm == "Linf" else normal
    turns = itertools.count()

    def from_the_first_turn(x: Images, y: Labels) -> Any:
        nonlocal turns
        turns = itertools.count()
        return perturb(x, y)

    def from_own_starts(x: Images, y: Labels) -> Any:
        return run(x, y, x_init=x + apgd.eps * apgd.normalize(draw(x, seed, next(turns))))

    apgd.perturb, apgd.attack_single_run = from_the_first_turn, from_own_starts


def _give_common_numbers(square: Any) -> None:
    """What is drawn for each image is drawn once for all: how many there are does not change the numbers after it."""
    choice = square.random_choice
    square.random_choice = lambda shape: choice([1, *shape[1:]]) if len(shape) == 4 else choice(shape)


def _inside(adv: Images, x: Images, eps: float, norm: str) -> Images:
    """Puts back what rounding left outside, by the last bits of a float, and moves nothing else."""
    if norm == "linf":
        return adv.clamp(x - eps, x + eps).clamp(0, 1)
    move = adv - x
    outside = torch.linalg.vector_norm(move, dim=(1, 2, 3), keepdim=True) > eps
    return torch.where(outside, move.renorm(p=2, dim=0, maxnorm=eps).add(x).clamp(0, 1), adv)


@contextmanager
def _parameters_at_rest(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient: FAB calls ``backward``, which would add to the ones that are there."""
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
    """What the package sets for the whole process: torch's generators, Python's trace function, a chatty logger."""
    logger, trace, once = logging.getLogger("auto-attack"), sys.gettrace(), _WarningsOnce()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    logger.addFilter(once)
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        logger.removeFilter(once)
        sys.settrace(trace)


class _WarningsOnce(logging.Filter):
    """Lets warnings through, one of each kind: a flat loss is reported for every batch and target class.

    But none on the number of classes, which is refused here, while the package warns of three for ``apgd-dlr`` too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        told = record.levelno < logging.WARNING or record.funcName == "check_n_classes" or record.lineno in self.seen
        self.seen.add(record.lineno)
        return not told
