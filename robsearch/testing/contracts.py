"""The contracts of the plugins, each a check that says which promise is broken."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Mapping
from typing import Any, cast, get_args, get_type_hints

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robsearch.data import digest
from robsearch.data.store import split_problems
from robsearch.errors import counted
from robsearch.measures import LOG10
from robsearch.network.balls import length
from robsearch.parts.optimisers import LR_FACTOR, LrFactors
from robsearch.protocols import (
    About,
    Attack,
    Dataset,
    ImageSpec,
    LayerMeasure,
    LearningRate,
    Measure,
    Model,
    Objective,
    Optimiser,
    Penalty,
    PenaltyState,
    Schedule,
    looks_at_logits,
)
from robsearch.testing.promises import (
    CLASSES,
    SHAPE,
    N,
    check_per_example,
    check_slope,
    contract,
    described,
    examples,
    is_number,
    is_row,
    left_alone,
    promise,
)
from robsearch.training.learner import reloaded

COLOURS = ImageSpec((3, 32, 32), 10, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
_KINDS = get_args(get_type_hints(About)["kind"])
_NAME = re.compile(r"[\w\- :][\w\-. :]*(/[\w\- :][\w\-. :]*)*", re.ASCII)
EXTREMES = (0.0, 1e-30, 1e6, 1e30)
STEPS = 4
"""Optimiser steps of the check, numbered from 0: give a penalty that acts seldom a shorter
period."""


@contract(Attack)
def check_attack(attack: Attack, /) -> None:
    """Images of the same shape and dtype, in [0, 1], detached; the model in eval mode meanwhile and
    left as it was.

    Also when the loss raises. The images lie in the ball if the attack has fields ``eps`` and
    ``norm`` (``linf``, ``l2``), and repeat with torch's seed.
    """
    _attacked(attack, fails_at=1)
    _attacked(attack, fails_at=2)
    first = _attacked(attack)
    second = _attacked(attack, grad=False)
    expected = "the same images from the same seed, also under no_grad"
    do = "draw random numbers from torch's global generator alone"
    promise(torch.equal(first, second), attack, expected, "others", do)


@contract(Objective)
def check_objective(objective: Objective, /) -> None:
    """``inner`` gives None or one loss per example; ``terms`` two finite batch means. All with
    finite gradients.

    In both logits, or only in the clean ones where ``inner`` is None. Confident logits are no
    exception. An objective that says it is ``natural_first`` has a first term that does not look at
    adversarial logits.
    """
    y = torch.arange(N) % CLASSES
    # At 1,000 a softmax is 0 or 1, where a naive logarithm is infinite.
    for scale in (1.0, 1000.0):
        clean = (scale * torch.randn(N, CLASSES)).requires_grad_()
        adv = (scale * torch.randn(N, CLASSES)).requires_grad_()
        logits = clean.detach() if looks_at_logits(objective) else clean.detach()[:, :0]
        inner = objective.inner(logits, y)
        if inner is None:
            # Nothing was attacked: the images are trained on as they are.
            _check_terms(objective, clean, clean, y)
        else:
            values = inner(adv)
            check_per_example(objective, "the inner loss", values)
            check_slope(objective, "the inner loss", values, adv)
            _check_terms(objective, clean, adv, y)
        if getattr(objective, "natural_first", False):
            natural, _ = objective.terms(clean, adv, y)
            moved, _ = objective.terms(clean, adv + torch.randn_like(adv), y)
            expected = "natural_first=False, or a first term of clean logits alone"
            promise(torch.equal(natural, moved), objective, expected, "one of adversarial logits")


@contract(Schedule)
def check_schedule(schedule: Schedule, /) -> None:
    """Lambda, finite and >= 0 whatever the terms, follows from a state that survives JSON and is
    never changed."""
    walk = random.Random(0)
    state = schedule.init()
    check_state(schedule, state)
    for step in range(200):
        # Each draws a number of common size first, also where it takes an extreme one.
        natural = walk.choice((*EXTREMES, walk.lognormvariate(0, 2)))
        robust = walk.choice((*EXTREMES, walk.lognormvariate(0, 2)))
        before = dict(state)
        copy = json.loads(json.dumps(before))
        new = schedule.update(state, natural, robust, step / 200)
        repeated = schedule.update(copy, natural, robust, step / 200)
        check_state(schedule, new)
        got = f"{state}, was {before}"
        promise(before == state == copy, schedule, "update to leave its state alone", got)
        lams = (schedule.lam(new), schedule.lam(repeated))
        same = new == repeated and lams[0] == lams[1]
        got = f"{new} and {repeated}, lambda {lams}"
        promise(same, schedule, "one next state from a state, also through JSON", got)
        state = new


@contract(Model)
def check_model(model: Model, /, images: ImageSpec = COLOURS) -> None:
    """A positive width; new networks, alike from torch's seed, from images in [0, 1] to finite
    logits (n, k).

    One image or several, in train and in eval mode; the logits depend on the image, with a finite
    gradient.
    """
    promise(0 < model.width < math.inf, model, "a finite width > 0", model.width)
    torch.manual_seed(0)
    first = model.build(images)
    torch.manual_seed(0)
    second = model.build(images)
    kind = type(first).__name__
    promise(isinstance(first, nn.Module), model, "an nn.Module from build", kind)
    alike = _alike(first.state_dict(), second.state_dict())
    promise(alike, model, "the same weights from the same seed", "others")
    # A parameter is hashed by identity.
    shared = set(first.parameters()) & set(second.parameters())
    promise(not shared, model, "a new network from each build", f"{len(shared)} shared parameters")
    x = torch.rand(4, *images.shape)
    x[0] = 0
    x[1] = 1
    # One image alone only in eval mode: in train mode BatchNorm has no variance of it.
    _check_logits(model, first.train(), x, images.num_classes)
    _check_logits(model, second.eval(), x[:1], images.num_classes)
    _check_logits(model, second, x, images.num_classes)


@contract(Dataset)
def check_dataset(dataset: Dataset, /) -> None:
    """``train``, ``val`` and ``test``, the same from each read: uint8 images that fit ``spec``,
    labels 0 .. k-1."""
    digest(dataset)  # the store must be able to name the content
    spec = dataset.spec
    splits = dataset.read()
    repeated = dataset.read()
    of_channels = len(spec.mean) == len(spec.std) == spec.shape[0]
    fits = of_channels and min(spec.std) > 0
    channels = counted(spec.shape[0], "channel")
    promise(fits, dataset, f"a mean and a positive std for each of {channels}", spec)
    for problem in split_problems(spec, splits):
        raise AssertionError(f"{dataset!r}: {problem}")
    for name, split in splits.items():
        pairs = zip(split, repeated[name], strict=True)
        same = all(torch.equal(a, b) for a, b in pairs)
        promise(same, dataset, f"the same {name} from each read", "another")


@contract(LearningRate)
def check_learning_rate(learning_rate: LearningRate, /) -> None:
    """The factor is finite, at least 0 from progress 0 to 1, and a function of progress alone."""
    check_factors(learning_rate)


def check_factors(learning_rate: LearningRate) -> None:
    """The factors alone, also of what is no frozen dataclass."""
    first = [learning_rate(i / 100) for i in range(101)]
    second = [learning_rate(i / 100) for i in range(101)]
    bad = [i for i, factor in enumerate(first) if not is_number(factor) or factor < 0]
    got = f"{first[bad[0]]!r} at progress {bad[0] / 100:g}" if bad else ""
    do = "return a plain number for each progress from 0 to 1"
    promise(not bad, learning_rate, "finite factors >= 0", got, do)
    promise(first == second, learning_rate, "the same factor at the same progress", "others")


@contract(Optimiser)
def check_optimiser(optimiser: Optimiser, /) -> None:
    """A base rate above 0, and from ``build`` torch's optimiser of all parameters, each once, in
    groups at that rate times their factor.

    The rate of a step is what the groups say: at 0 no weight moves. Factors are those that a
    network asks for (``LrFactors``). Four steps of a small network end alike when they are
    repeated, and when half-way weights and optimiser go through ``torch.save`` (read with
    ``weights_only``) into new ones.
    """
    legal = is_number(optimiser.lr) and optimiser.lr > 0
    promise(legal, optimiser, "a finite lr > 0", optimiser.lr)
    first = _optimised(optimiser)
    repeated = _optimised(optimiser)
    promise(_alike(first, repeated), optimiser, "the same weights from the same start", "others")
    resumed = _optimised(optimiser, resumed_at=STEPS // 2)
    expected = "a resumed training to end like one that went on"
    promise(_alike(first, resumed), optimiser, expected, "another end")
    resting = _optimised(optimiser, rate=0.0)
    at_rest = _alike(resting, dict(_network().named_parameters()))
    promise(at_rest, optimiser, "steps at the lr of its groups", "steps where that is 0")
    moved = not _alike(first, resting)
    promise(moved, optimiser, "steps that move weights", "none")
    network = _network()
    asked = dict.fromkeys(dict(network.named_parameters()), LrFactors(sgd=2.0, adam=3.0))
    object.__setattr__(network, "lr_factors", asked)
    check_groups(optimiser, network)


def check_groups(optimiser: Optimiser, network: nn.Module) -> None:
    """The groups that ``build`` makes of a network's parameters, and their rates."""
    with left_alone(optimiser, network):
        built = optimiser.build(network)
    kind = type(built).__name__
    is_torchs = isinstance(built, torch.optim.Optimizer)
    promise(is_torchs, optimiser, "a torch.optim.Optimizer from build", kind)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    asked: Mapping[str, LrFactors] = getattr(network, "lr_factors", {})
    grouped = []
    for group in built.param_groups:
        factor = group.get(LR_FACTOR, 1.0)
        legal = is_number(factor) and factor > 0
        promise(legal, optimiser, f"a finite {LR_FACTOR} > 0", repr(factor))
        expected = f"a group at the base rate, {optimiser.lr:g}, times its {LR_FACTOR}, {factor:g}"
        same = math.isclose(group["lr"], optimiser.lr * factor)
        promise(same, optimiser, expected, f"lr {group['lr']:g}")
        for parameter in group["params"]:
            name = names.get(id(parameter), "a parameter of another model")
            grouped.append(name)
            fits = factor in asked.get(name, LrFactors())
            wanted = " or ".join(f"{wish:g}" for wish in dict.fromkeys(asked.get(name, (1.0,))))
            expected = f"{LR_FACTOR} {wanted} for {name}, as the network asks"
            promise(fits, optimiser, expected, f"{factor:g}")
    expected = "each parameter in one group"
    promise(sorted(grouped) == sorted(names.values()), optimiser, expected, sorted(grouped))


def _optimised(
    optimiser: Optimiser,
    resumed_at: int | None = None,
    rate: float = 1.0,
) -> dict[str, Tensor]:
    """The weights after a few steps at ``rate`` times the base rate, as the trainer takes them."""
    network = _network()
    check_groups(optimiser, network)
    built = optimiser.build(network)
    for step in range(STEPS):
        if step == resumed_at:
            weights, state = reloaded((network.state_dict(), built.state_dict()))
            network = _network()
            network.load_state_dict(weights)
            built = optimiser.build(network)
            built.load_state_dict(state)
        torch.manual_seed(step)
        network.zero_grad(set_to_none=True)
        logits = network(torch.rand(N, *SHAPE))
        F.cross_entropy(logits, torch.arange(N) % CLASSES).backward()
        for group in built.param_groups:
            group["lr"] = rate * optimiser.lr * group.get(LR_FACTOR, 1.0)
        built.step()
    return dict(network.named_parameters())


def _attacked(attack: Attack, grad: bool = True, fails_at: int = 0) -> Tensor:
    network, x, y = examples()
    images = x.clone()
    modes: list[bool] = []
    failure = ArithmeticError("the loss fails on purpose")

    def loss(logits: Tensor) -> Tensor:
        modes.append(any(module.training for module in network.modules()))
        if len(modes) == fails_at:
            raise failure
        return F.cross_entropy(logits, y, reduction="none")

    with left_alone(attack, network), torch.set_grad_enabled(grad):
        try:
            adv = attack(network, images, y.clone(), loss)
        except ArithmeticError as error:
            # It came through the attack, as it should; another error is its own.
            if error is failure:
                return x
            raise
    expected = "the model in eval mode during the attack"
    do = "put the attack under `with robsearch.network.modes.evaluating(model):`"
    promise(not any(modes), attack, expected, "train mode", do)
    do = "begin with a copy, x.clone()"
    promise(torch.equal(images, x), attack, "the clean images untouched", "a change in them", do)
    check_images(attack, adv, x)
    return adv


def check_images(attack: Attack, adv: Tensor, x: Tensor) -> None:
    """Images like ``x``, in [0, 1] and in the attack's ball, detached."""
    expected = described(x)
    got = described(adv)
    promise(got == expected, attack, f"images of {expected}", got)
    do = "return adv.detach()"
    promise(not adv.requires_grad, attack, "images without gradient", "requires_grad=True", do)
    low = adv.min().item()
    high = adv.max().item()
    do = "return the images, not what is added to them, after clamp(0, 1)"
    promise(0 <= low <= high <= 1, attack, "images in [0, 1]", f"{low:g} to {high:g}", do)
    norm = getattr(attack, "norm", None)
    eps = getattr(attack, "eps", None)
    if norm in ("linf", "l2") and eps is not None:
        distance = length((adv - x).double(), norm).max().item()
        near = distance <= eps * (1 + 1e-6) + 1e-6
        do = "project after each step, as in x + (adv - x).clamp(-eps, eps) for linf"
        promise(near, attack, f"images within eps = {eps:g}", f"{distance:g} away", do)


def _check_terms(
    objective: Objective,
    clean: Tensor,
    adv: Tensor,
    y: Tensor,
) -> None:
    terms = objective.terms(clean, adv, y)
    pair = isinstance(terms, tuple) and len(terms) == 2
    do = "return both batch means, not their sum"
    promise(pair, objective, "two terms, (natural, robust)", described(terms), do)
    twice = objective.terms(
        clean.repeat(2, 1),
        adv.repeat(2, 1),
        y.repeat(2),
    )
    for name, term, double in zip(("natural", "robust"), terms, twice, strict=True):
        scalar = term.shape == () and bool(term.isfinite())
        promise(scalar, objective, f"a finite scalar as {name} term", term)
        same = torch.allclose(term, double, rtol=1e-4)
        got = f"{term:g}, and {double:g} for the batch twice"
        promise(same, objective, f"the {name} term to be a batch mean", got)
    for name, logits in {"clean": clean, "adversarial": adv}.items():
        check_slope(objective, f"the terms in the {name} logits", terms[0] + terms[1], logits)


def check_state(schedule: Schedule, state: Mapping[str, float]) -> None:
    """A state of finite numbers, and lambda in it finite and >= 0."""
    legal = isinstance(state, Mapping) and _is_named(state, is_number)
    promise(legal, schedule, "a state that maps names to finite numbers", state)
    before = dict(state)
    lam = schedule.lam(state)
    legal = is_number(lam) and lam >= 0
    promise(legal, schedule, "lambda finite and >= 0", f"{lam!r} in state {state}")
    promise(before == state, schedule, "lam to leave its state alone", f"{state}, was {before}")


def _is_named(state: Mapping[Any, Any], fits: Callable[[Any], bool]) -> bool:
    """Whether all its keys are names, and all its values fit."""
    return all(isinstance(name, str) and fits(value) for name, value in state.items())


def _check_logits(
    model: Model,
    network: nn.Module,
    x: Tensor,
    classes: int,
) -> None:
    x = x.clone().requires_grad_()
    logits = network(x)
    finite = bool(logits.isfinite().all())
    legal = finite and logits.shape == (len(x), classes)
    expected = f"finite logits of shape ({len(x)}, {classes})"
    promise(legal, model, expected, f"{tuple(logits.shape)}: {logits}")
    check_slope(model, "the logits", logits, x)
    others = logits[1:]
    differ = len(others) == 0 or bool((others != logits[0]).any())
    promise(differ, model, "logits that depend on the image", "the same for all images")


# --- measures ---


@contract(Measure)
def check_measure(measure: Measure, /) -> None:
    """One number per example, detached; a name MLflow takes, a known kind; the model, in eval mode,
    left as it was."""
    _check_words(measure)
    network, x, y = examples()
    with left_alone(measure, network.eval()):
        values = measure(network, x, y)
    check_per_example(measure, "a call", values)
    expected = "numbers without gradient"
    do = "return them after detach()"
    promise(not values.requires_grad, measure, expected, "requires_grad=True", do)


@contract(LayerMeasure)
def check_layer_measure(measure: LayerMeasure, /) -> None:
    """Numbers in a row for each layer, detached; words and model as for ``check_measure``, also on
    convolutions."""
    _check_words(measure)
    network, x, y = examples()
    kernels = nn.Sequential(
        nn.Conv2d(SHAPE[0], 4, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(5),
    )
    kernels(x)
    for model in (network.eval(), kernels.eval()):
        with left_alone(measure, model):
            rows = measure.by_layer(model, x, y)
        expected = "by_layer to give a mapping from layers' names"
        promise(isinstance(rows, Mapping), measure, expected, type(rows))
        names = {LOG10, *dict(model.named_modules())}
        unknown = sorted(rows.keys() - names)
        promise(not unknown, measure, f"names of layers, {sorted(names)}", unknown)
        for name, values in rows.items():
            _check_layer(measure, name, values)


def _check_layer(measure: LayerMeasure, name: str, values: Tensor) -> None:
    legal = is_row(values) and len(values) > 0
    expected = f"one or more floats in a row for layer {name!r}"
    promise(legal, measure, expected, described(values))
    promise(not bool(values.isnan().any()), measure, f"layer {name!r} to have numbers", "NaN")
    promise(not values.requires_grad, measure, "numbers without gradient", "requires_grad=True")


def _check_words(measure: Measure | LayerMeasure) -> None:
    legal = bool(_NAME.fullmatch(measure.name))
    expected = "a name of letters, digits, _ - . space : in parts a/b"
    promise(legal, measure, expected, repr(measure.name))
    about = measure.about
    expected = "about to be a robsearch.protocols.About"
    promise(isinstance(about, About), measure, expected, repr(about))
    promise(about.kind in _KINDS, measure, f"a kind out of {', '.join(_KINDS)}", repr(about.kind))
    got = f"{about.unit!r}, {about.source!r}"
    promise(bool(about.unit and about.source), measure, "a unit and a source", got)
    low, high = about.span or (0, 1)
    promise(low < high, measure, "a span from low to high", about.span)


# --- penalties ---


@contract(Penalty)
def check_penalty(penalty: Penalty, /) -> None:
    """A state of named tensors; a finite loss with a gradient, or None; each method changes its own
    place only.

    ``before_step`` changes gradients of trained weights, ``after_step`` trained weights, in place;
    ``init`` and ``loss`` nothing; none the state it is given. Four steps of a small network with
    convolutions, BatchNorm and frozen parts end alike when they are repeated, and when half-way
    weights and state go through ``torch.save`` (read with ``weights_only``) into a new network on
    which ``init`` is not called.
    """
    first = _trained(penalty)
    repeated = _trained(penalty)
    resumed = _trained(penalty, resumed_at=STEPS // 2)
    expected = "the same weights and state from the same start"
    promise(_alike(first, repeated), penalty, expected, "others")
    expected = "a resumed training to end like one that went on"
    promise(_alike(first, resumed), penalty, expected, "another end")


def _trained(penalty: Penalty, resumed_at: int | None = None) -> dict[str, Tensor]:
    network = _network()
    with left_alone(penalty, network):
        state = penalty.init(network)
    _check_state(penalty, "init", state)
    for step in range(STEPS):
        if step == resumed_at:
            weights, state = reloaded((network.state_dict(), state))
            network = _network()
            network.load_state_dict(weights)
        state = _step(penalty, network, state, step)
    named_state = {f"state {name}": value for name, value in state.items()}
    return network.state_dict() | named_state


def _network() -> nn.Module:
    """Convolutions with a stride and with groups, statistics that move and that are frozen, a
    frozen bias."""
    torch.manual_seed(0)
    last = nn.Linear(16 * 4, CLASSES)
    last.bias.requires_grad_(False)
    strided = nn.Conv2d(SHAPE[0], 4, 3, stride=2, padding=1)
    grouped = nn.Conv2d(4, 4, 3, padding=1, groups=2)
    return nn.Sequential(
        nn.Sequential(
            strided,
            nn.BatchNorm2d(4),
            nn.SiLU(),
        ),
        nn.Sequential(
            grouped,
            nn.BatchNorm2d(4).eval(),
            nn.SiLU(),
        ),
        nn.Flatten(),
        last,
    )


def _step(
    penalty: Penalty,
    network: nn.Module,
    state: PenaltyState,
    step: int,
) -> PenaltyState:
    torch.manual_seed(step)
    x = torch.rand(N, *SHAPE)
    y = torch.arange(N) % CLASSES
    network.zero_grad(set_to_none=True)
    logits = network(x)
    with left_alone(penalty, network):
        added = penalty.loss(network, logits, y)
        confident = penalty.loss(network, 1000 * logits, y)
    _check_loss(penalty, network, added)
    _check_loss(penalty, network, confident)
    total = F.cross_entropy(logits, y)
    if added is not None:
        total = total + added
    total.backward()
    state = _called(penalty, "before_step", "gradients", network, state, step)
    _descend(penalty, network)
    return _called(penalty, "after_step", "weights and statistics", network, state, step)


def _descend(penalty: Penalty, network: nn.Module) -> None:
    for name, weight in network.named_parameters():
        if weight.requires_grad:
            finite = weight.grad is not None and bool(weight.grad.isfinite().all())
            promise(finite, penalty, f"a finite gradient from before_step in {name}", weight.grad)
            weight.data.sub_(cast(Tensor, weight.grad), alpha=0.1)


def _called(
    penalty: Penalty,
    method: str,
    changes: str,
    network: nn.Module,
    state: PenaltyState,
    step: int,
) -> PenaltyState:
    # Copies: a method may change the state's tensors in place.
    before = {name: value.clone() for name, value in state.items()}
    with left_alone(penalty, network, but=changes):
        new: PenaltyState = getattr(penalty, method)(network, state, step)
    promise(_alike(before, state), penalty, f"{method} to leave its state alone", "a change in it")
    _check_state(penalty, method, new)
    return new


def _check_state(penalty: Penalty, method: str, state: Any) -> None:
    legal = type(state) is dict and _is_named(state, torch.is_tensor)
    promise(legal, penalty, f"{method} to give a dict of named tensors", state)
    attached = ", ".join(name for name, value in state.items() if value.requires_grad)
    expected = f"{method} to give a state without gradient"
    promise(not attached, penalty, expected, f"one in {attached}")
    survives = _alike(state, reloaded(state))
    promise(survives, penalty, f"{method}'s state to survive torch.save", "another")


def _check_loss(penalty: Penalty, network: nn.Module, loss: Tensor | None) -> None:
    if loss is None:
        return
    legal = isinstance(loss, Tensor) and loss.shape == () and bool(loss.isfinite())
    promise(legal, penalty, "a finite scalar as loss, or None", loss)
    promise(loss.requires_grad, penalty, "a loss with a gradient", "none")
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    slopes = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    for slope in slopes:
        finite = slope is None or bool(slope.isfinite().all())
        promise(finite, penalty, "a loss with a finite gradient", "NaN or infinity")


def _alike(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    if a.keys() != b.keys():
        return False
    pairs = [(a[name], b[name]) for name in a]
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)
