"""The contracts of all plugins but the penalties and the measures."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from robsearch.data import digest
from robsearch.protocols import Attack, Dataset, ImageSpec, LearningRate, Model, Objective, Schedule
from robsearch.testing.promises import (
    CLASSES,
    N,
    check_per_example,
    check_slope,
    contract,
    examples,
    is_number,
    left_alone,
    promise,
)
from robsearch.wording import counted

COLOURS = ImageSpec((3, 32, 32), 10, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@contract(Attack)
def check_attack(attack: Attack, /) -> None:
    """Images of the same shape and dtype, in [0, 1], detached; the model in eval mode meanwhile and left as it was.

    Also when the loss raises. The images lie in the ball if the attack has fields ``eps`` and ``norm``
    (``linf``, ``l2``), and repeat with torch's seed.
    """
    _attacked(attack, fails_at=1)
    _attacked(attack, fails_at=2)
    first, second = _attacked(attack), _attacked(attack, grad=False)
    promise(torch.equal(first, second), attack, "the same images from the same seed, also under no_grad", "others")


@contract(Objective)
def check_objective(objective: Objective, /) -> None:
    """``inner`` gives None or one loss per example; ``terms`` two finite batch means. All with finite gradients.

    In both logits, or only in the clean ones where ``inner`` is None. Confident logits are no exception.
    """
    y = torch.arange(N) % CLASSES
    for scale in (1.0, 1000.0):
        clean, adv = ((scale * torch.randn(N, CLASSES)).requires_grad_() for _ in "12")
        inner = objective.inner(clean.detach(), y)
        if inner is not None:
            values = inner(adv)
            check_per_example(objective, "the inner loss", values)
            check_slope(objective, "the inner loss", values, adv)
        _check_terms(objective, clean, clean if inner is None else adv, y)


@contract(Schedule)
def check_schedule(schedule: Schedule, /) -> None:
    """Lambda, finite and >= 0 whatever the terms, follows from a state that survives JSON and is never changed."""
    walk = random.Random(0)
    state = schedule.init()
    check_state(schedule, state)
    for step in range(200):
        natural, robust = (walk.choice((0.0, 1e-30, 1e6, 1e30, walk.lognormvariate(0, 2))) for _ in "12")
        before, copy = dict(state), json.loads(json.dumps(dict(state)))
        new, again = (schedule.update(start, natural, robust, step / 200) for start in (state, copy))
        check_state(schedule, new)
        promise(before == state == copy, schedule, "update to leave its state alone", f"{state}, was {before}")
        lams = schedule.lam(new), schedule.lam(again)
        same = new == again and lams[0] == lams[1]
        promise(same, schedule, "one next state from a state, also through JSON", f"{new} and {again}, lambda {lams}")
        state = new


@contract(Model)
def check_model(model: Model, /, images: ImageSpec = COLOURS) -> None:
    """A positive width; new networks, alike from torch's seed, from images in [0, 1] to finite logits (n, k).

    One image or several, in train and in eval mode; the logits depend on the image, with a finite gradient.
    """
    promise(0 < model.width < math.inf, model, "a finite width > 0", model.width)
    torch.manual_seed(0)
    first = model.build(images)
    torch.manual_seed(0)
    second = model.build(images)
    promise(isinstance(first, nn.Module), model, "an nn.Module from build", type(first).__name__)
    weights = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    promise(all(torch.equal(a, b) for a, b in weights), model, "the same weights from the same seed", "others")
    shared = {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}
    promise(not shared, model, "a new network from each build", f"{len(shared)} shared parameters")
    x = torch.stack([torch.zeros(images.shape), torch.ones(images.shape), *torch.rand(2, *images.shape)])
    _check_logits(model, first.train(), x, images.num_classes)
    _check_logits(model, second.eval(), x[:1], images.num_classes)
    _check_logits(model, second, x, images.num_classes)


@contract(Dataset)
def check_dataset(dataset: Dataset, /) -> None:
    """``train``, ``val`` and ``test``, the same from each read: uint8 images that fit ``spec``, labels 0 .. k-1."""
    digest(dataset)  # the store must be able to name the content
    spec, splits, again = dataset.spec, dataset.read(), dataset.read()
    fits = len(spec.mean) == len(spec.std) == spec.shape[0] and min(spec.std) > 0
    promise(fits, dataset, f"a mean and a positive std for each of {counted(spec.shape[0], 'channel')}", spec)
    promise({"train", "val", "test"} <= set(splits), dataset, "splits train, val and test", sorted(splits))
    for name, split in splits.items():
        images, labels = split
        expected, got = (len(labels), *spec.shape), f"{images.dtype} {tuple(images.shape)}"
        legal = images.dtype == torch.uint8 and images.shape == expected and len(labels) > 0
        promise(legal, dataset, f"{name}.images to be torch.uint8 {expected}, not empty", got)
        whole = labels.ndim == 1 and not labels.is_floating_point() and labels.dtype != torch.bool
        legal = whole and 0 <= int(labels.min()) <= int(labels.max()) < spec.num_classes
        got = f"{labels.dtype} {tuple(labels.shape)} from {labels.min()} to {labels.max()}"
        promise(legal, dataset, f"{name}.labels to be whole numbers in a row, 0 to {spec.num_classes - 1}", got)
        same = all(torch.equal(a, b) for a, b in zip(split, again[name], strict=True))
        promise(same, dataset, f"the same {name} from each read", "another")


@contract(LearningRate)
def check_learning_rate(learning_rate: LearningRate, /) -> None:
    """The factor is finite, at least 0 from progress 0 to 1, and a function of progress alone."""
    check_factors(learning_rate)


def check_factors(learning_rate: LearningRate) -> None:
    """The factors alone, also of what is no frozen dataclass."""
    first, second = ([learning_rate(i / 100) for i in range(101)] for _ in "12")
    bad = [factor for factor in first if not is_number(factor) or factor < 0]
    promise(not bad, learning_rate, "finite factors >= 0", bad)
    promise(first == second, learning_rate, "the same factor at the same progress", "others")


def _attacked(attack: Attack, grad: bool = True, fails_at: int = 0) -> Tensor:
    network, x, y = examples()
    given, modes, failure = x.clone(), list[bool](), ArithmeticError("the loss fails on purpose")

    def loss(logits: Tensor) -> Tensor:
        modes.append(any(module.training for module in network.modules()))
        if len(modes) == fails_at:
            raise failure
        return nn.functional.cross_entropy(logits, y, reduction="none")

    with left_alone(attack, network), torch.set_grad_enabled(grad):
        try:
            adv = attack(network, given, y.clone(), loss)
        except ArithmeticError as error:
            if error is failure:
                return x
            raise
    promise(not any(modes), attack, "the model in eval mode during the attack", "train mode")
    promise(torch.equal(given, x), attack, "the clean images untouched", "a change in them")
    check_images(attack, adv, x)
    return adv


def check_images(attack: Attack, adv: Tensor, x: Tensor) -> None:
    """Images like ``x``, in [0, 1] and in the attack's ball, detached."""
    got, asked = (f"{images.dtype} {tuple(images.shape)}" for images in (adv, x))
    promise(got == asked, attack, f"images of {asked}", got)
    promise(not adv.requires_grad, attack, "images without gradient", "requires_grad=True")
    low, high = adv.min().item(), adv.max().item()
    promise(0 <= low <= high <= 1, attack, "images in [0, 1]", f"{low:g} to {high:g}")
    order, eps = {"linf": math.inf, "l2": 2.0}.get(getattr(attack, "norm", "")), getattr(attack, "eps", None)
    if order is not None and eps is not None:
        distance = torch.linalg.vector_norm((adv - x).double().flatten(1), ord=order, dim=1).max().item()
        promise(distance <= eps * (1 + 1e-6) + 1e-6, attack, f"images within eps = {eps:g}", f"{distance:g} away")


def _check_terms(objective: Objective, clean: Tensor, adv: Tensor, y: Tensor) -> None:
    terms = objective.terms(clean, adv, y)
    promise(isinstance(terms, tuple) and len(terms) == 2, objective, "two terms, (natural, robust)", terms)
    twice = objective.terms(clean.repeat(2, 1), adv.repeat(2, 1), y.repeat(2))
    for name, term, double in zip(("natural", "robust"), terms, twice, strict=True):
        promise(term.shape == () and bool(term.isfinite()), objective, f"a finite scalar as {name} term", term)
        got = f"{term:g}, and {double:g} for the batch twice"
        promise(torch.allclose(term, double, rtol=1e-4), objective, f"the {name} term to be a batch mean", got)
    for name, logits in {"clean": clean, "adversarial": adv}.items():
        check_slope(objective, f"the terms in the {name} logits", terms[0] + terms[1], logits)


def check_state(schedule: Schedule, state: Mapping[str, float]) -> None:
    """A state of finite numbers, and lambda in it finite and >= 0."""
    legal = isinstance(state, Mapping) and all(isinstance(k, str) and is_number(v) for k, v in state.items())
    promise(legal, schedule, "a state that maps names to finite numbers", state)
    before, lam = dict(state), schedule.lam(state)
    promise(is_number(lam) and lam >= 0, schedule, "lambda finite and >= 0", f"{lam!r} in state {state}")
    promise(before == state, schedule, "lam to leave its state alone", f"{state}, was {before}")


def _check_logits(model: Model, network: nn.Module, x: Tensor, classes: int) -> None:
    x = x.clone().requires_grad_()
    logits = network(x)
    legal = logits.shape == (len(x), classes) and bool(logits.isfinite().all())
    promise(legal, model, f"finite logits of shape ({len(x)}, {classes})", f"{tuple(logits.shape)}: {logits}")
    check_slope(model, "the logits", logits, x)
    differ = len(x) == 1 or bool((logits != logits[:1]).any())
    promise(differ, model, "logits that depend on the image", "the same for all images")
