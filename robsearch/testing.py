"""The contracts of the plugins, for ours and for yours: each raises AssertionError and says which promise is broken.

    def test_my_attack() -> None:
        check_attack(MyAttack(eps=8 / 255))

They need no test runner, take made-up images on the CPU, and leave torch's global generator as it was.
"""

from __future__ import annotations

import functools
import json
import math
import pickle
import random
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from robsearch.data import digest
from robsearch.protocols import Attack, Dataset, ImageSpec, LearningRate, Measure, Model, Objective, Schedule

COLOURS = ImageSpec((3, 32, 32), 10, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
_KINDS = ("exact", "lower bound", "upper bound", "estimate")
_NAME = re.compile(r"[\w\- :][\w\-. :]*(/[\w\- :][\w\-. :]*)*", re.ASCII)
_SHAPE, _CLASSES, _N = (3, 8, 8), 5, 6
_Check = TypeVar("_Check", bound=Callable[..., None])


def _contract(shape: type) -> Callable[[_Check], _Check]:
    """What all checks share: a leaf of a recipe, torch's generator given back, an error is a broken promise."""

    def contract(check: _Check) -> _Check:
        @functools.wraps(check)
        def checked(plugin: object, *args: Any, **kwargs: Any) -> None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                try:
                    _check_leaf(plugin, shape)
                    check(plugin, *args, **kwargs)
                except AssertionError:
                    raise
                except Exception as error:
                    _promise(False, plugin, "no error", f"{type(error).__name__}: {error}", error)

        return cast(_Check, checked)

    return contract


@_contract(Attack)
def check_attack(attack: Attack, /) -> None:
    """Images of the same shape and dtype, in [0, 1], detached; the model in eval mode meanwhile and left as it was.

    Also when the loss raises. The images lie in the ball if the attack has fields ``eps`` and ``norm``
    (``linf``, ``l2``), and repeat with torch's seed.
    """
    _attacked(attack, fails_at=1)
    _attacked(attack, fails_at=2)
    first, second = _attacked(attack), _attacked(attack, grad=False)
    _promise(torch.equal(first, second), attack, "the same images from the same seed, also under no_grad", "others")


@_contract(Objective)
def check_objective(objective: Objective, /) -> None:
    """``inner`` gives None or one loss per example; ``terms`` two finite batch means. All with finite gradients.

    In both logits, or only in the clean ones where ``inner`` is None. Confident logits are no exception.
    """
    y = torch.arange(_N) % _CLASSES
    for scale in (1.0, 1000.0):
        clean, adv = ((scale * torch.randn(_N, _CLASSES)).requires_grad_() for _ in "12")
        inner = objective.inner(clean.detach(), y)
        if inner is not None:
            values = inner(adv)
            _check_per_example(objective, "the inner loss", values)
            _check_slope(objective, "the inner loss", values, adv)
        _check_terms(objective, clean, clean if inner is None else adv, y)


@_contract(Schedule)
def check_schedule(schedule: Schedule, /) -> None:
    """Lambda, finite and >= 0 whatever the terms, follows from a state that survives JSON and is never changed."""
    walk = random.Random(0)
    state = schedule.init()
    _check_state(schedule, state)
    for step in range(200):
        natural, robust = (walk.choice((0.0, 1e-30, 1e6, 1e30, walk.lognormvariate(0, 2))) for _ in "12")
        before, copy = dict(state), json.loads(json.dumps(dict(state)))
        new, again = (schedule.update(start, natural, robust, step / 200) for start in (state, copy))
        _check_state(schedule, new)
        _promise(before == state == copy, schedule, "update to leave its state alone", f"{state}, was {before}")
        lams = schedule.lam(new), schedule.lam(again)
        same = new == again and lams[0] == lams[1]
        _promise(same, schedule, "one next state from a state, also through JSON", f"{new} and {again}, lambda {lams}")
        state = new


@_contract(Model)
def check_model(model: Model, /, images: ImageSpec = COLOURS) -> None:
    """A positive width; new networks, alike from torch's seed, from images in [0, 1] to finite logits (n, k).

    One image or several, in train and in eval mode; the logits depend on the image, with a finite gradient.
    """
    _promise(0 < model.width < math.inf, model, "a finite width > 0", model.width)
    torch.manual_seed(0)
    first = model.build(images)
    torch.manual_seed(0)
    second = model.build(images)
    _promise(isinstance(first, nn.Module), model, "an nn.Module from build", type(first).__name__)
    weights = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    _promise(all(torch.equal(a, b) for a, b in weights), model, "the same weights from the same seed", "others")
    shared = {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}
    _promise(not shared, model, "a new network from each build", f"{len(shared)} shared parameters")
    x = torch.stack([torch.zeros(images.shape), torch.ones(images.shape), *torch.rand(2, *images.shape)])
    _check_logits(model, first.train(), x, images.num_classes)
    _check_logits(model, second.eval(), x[:1], images.num_classes)
    _check_logits(model, second, x, images.num_classes)


@_contract(Dataset)
def check_dataset(dataset: Dataset, /) -> None:
    """``train``, ``val`` and ``test``, the same from each read: uint8 images that fit ``spec``, labels 0 .. k-1."""
    digest(dataset)  # the store must be able to name the content
    spec, splits, again = dataset.spec, dataset.read(), dataset.read()
    fits = len(spec.mean) == len(spec.std) == spec.shape[0] and min(spec.std) > 0
    _promise(fits, dataset, f"a mean and a positive std for each of {spec.shape[0]} channels", spec)
    _promise({"train", "val", "test"} <= set(splits), dataset, "splits train, val and test", sorted(splits))
    for name, split in splits.items():
        images, labels = split
        expected, got = (len(labels), *spec.shape), f"{images.dtype} {tuple(images.shape)}"
        legal = images.dtype == torch.uint8 and images.shape == expected and len(labels) > 0
        _promise(legal, dataset, f"{name}.images to be torch.uint8 {expected}, not empty", got)
        whole = labels.ndim == 1 and not labels.is_floating_point() and labels.dtype != torch.bool
        legal = whole and 0 <= int(labels.min()) <= int(labels.max()) < spec.num_classes
        got = f"{labels.dtype} {tuple(labels.shape)} from {labels.min()} to {labels.max()}"
        _promise(legal, dataset, f"{name}.labels to be whole numbers in a row, 0 to {spec.num_classes - 1}", got)
        same = all(torch.equal(a, b) for a, b in zip(split, again[name], strict=True))
        _promise(same, dataset, f"the same {name} from each read", "another")


@_contract(Measure)
def check_measure(measure: Measure, /) -> None:
    """One number per example, detached; a known kind, a name MLflow takes; the model, in eval mode, left as it was."""
    legal = bool(_NAME.fullmatch(measure.name))
    _promise(legal, measure, "a name of letters, digits, _ - . space : in parts a/b", repr(measure.name))
    _promise(measure.kind in _KINDS, measure, f"a kind out of {', '.join(_KINDS)}", repr(measure.kind))
    network, x, y = _examples()
    with _left_alone(measure, network.eval()):
        values = measure(network, x, y)
    _check_per_example(measure, "a call", values)
    _promise(not values.requires_grad, measure, "numbers without gradient", "requires_grad=True")


@_contract(LearningRate)
def check_learning_rate(learning_rate: LearningRate, /) -> None:
    """The factor is finite, at least 0 from progress 0 to 1, and a function of progress alone."""
    first, second = ([learning_rate(i / 100) for i in range(101)] for _ in "12")
    bad = [factor for factor in first if not _is_number(factor) or factor < 0]
    _promise(not bad, learning_rate, "finite factors >= 0", bad)
    _promise(first == second, learning_rate, "the same factor at the same progress", "others")


def _promise(kept: bool, plugin: object, expected: str, got: object, cause: Exception | None = None) -> None:
    # Not an assert statement: python -O would take the contract away.
    if not kept:
        raise AssertionError(f"{plugin!r}: expected {expected}, got {got}") from cause


def _check_leaf(plugin: object, shape: type) -> None:
    """What makes an object a leaf of a recipe: the methods, frozen, a value that pickles."""
    _promise(not isinstance(plugin, type), plugin, "an instance", "a class")
    asked = (name for name in vars(shape) if name == "__call__" or not name.startswith("_"))
    missing = [name for name in asked if not hasattr(plugin, name)]
    _promise(not missing, plugin, f"all of robsearch.protocols.{shape.__name__}", f"no {', '.join(missing)}")
    frozen = is_dataclass(plugin) and getattr(plugin, "__dataclass_params__").frozen  # noqa: B009 - not in the stubs
    _promise(frozen, plugin, "a frozen dataclass", f"a {type(plugin).__name__}")
    copy = pickle.loads(pickle.dumps(plugin))
    same = copy == plugin and hash(copy) == hash(plugin) and repr(copy) == repr(plugin)
    _promise(same, plugin, "an equal value of the same repr from pickle", copy)


def _examples() -> tuple[nn.Module, Tensor, Tensor]:
    """Images, and a network with all that can be disturbed: a frozen layer amid train mode, statistics, gradients."""
    torch.manual_seed(0)
    linear, last = nn.Linear(math.prod(_SHAPE), 16), nn.Linear(16, _CLASSES)
    network = nn.Sequential(nn.Flatten(), linear, nn.BatchNorm1d(16).eval(), nn.SiLU(), nn.BatchNorm1d(16), last)
    x = torch.rand(_N, *_SHAPE).mul(1.5).sub(0.25).clamp(0, 1)
    linear.weight.grad = torch.ones_like(linear.weight)
    last.bias.requires_grad_(False)
    return network, x, torch.arange(_N) % _CLASSES


@contextmanager
def _left_alone(plugin: object, model: nn.Module) -> Iterator[None]:
    def found() -> dict[str, dict[str, Any]]:
        return {
            "training flags": {name or "the model": module.training for name, module in model.named_modules()},
            "weights and statistics": {name: value.clone() for name, value in model.state_dict().items()},
            "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
            "gradients": {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()},
        }

    before = found()
    yield
    for what, after in found().items():
        changed = [name for name, value in before[what].items() if not _same(value, after[name])]
        _promise(not changed, plugin, f"the model's {what} untouched", f"a change in {', '.join(changed)}")


def _same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a is b


def _attacked(attack: Attack, grad: bool = True, fails_at: int = 0) -> Tensor:
    network, x, y = _examples()
    given, modes, failure = x.clone(), list[bool](), ArithmeticError("the loss fails on purpose")

    def loss(logits: Tensor) -> Tensor:
        modes.append(any(module.training for module in network.modules()))
        if len(modes) == fails_at:
            raise failure
        return nn.functional.cross_entropy(logits, y, reduction="none")

    with _left_alone(attack, network), torch.set_grad_enabled(grad):
        try:
            adv = attack(network, given, y.clone(), loss)
        except ArithmeticError as error:
            if error is failure:
                return x
            raise
    _promise(not any(modes), attack, "the model in eval mode during the attack", "train mode")
    _promise(torch.equal(given, x), attack, "the clean images untouched", "a change in them")
    _check_images(attack, adv, x)
    return adv


def _check_images(attack: Attack, adv: Tensor, x: Tensor) -> None:
    got, asked = (f"{images.dtype} {tuple(images.shape)}" for images in (adv, x))
    _promise(got == asked, attack, f"images of {asked}", got)
    _promise(not adv.requires_grad, attack, "images without gradient", "requires_grad=True")
    low, high = adv.min().item(), adv.max().item()
    _promise(0 <= low <= high <= 1, attack, "images in [0, 1]", f"{low:g} to {high:g}")
    order, eps = {"linf": math.inf, "l2": 2.0}.get(getattr(attack, "norm", "")), getattr(attack, "eps", None)
    if order is not None and eps is not None:
        distance = torch.linalg.vector_norm((adv - x).double().flatten(1), ord=order, dim=1).max().item()
        _promise(distance <= eps * (1 + 1e-6) + 1e-6, attack, f"images within eps = {eps:g}", f"{distance:g} away")


def _check_per_example(plugin: object, what: str, values: Tensor) -> None:
    legal = values.shape == (_N,) and values.is_floating_point()
    got = f"{values.dtype} {tuple(values.shape)}"
    _promise(legal, plugin, f"{what} to give one float per example, ({_N},)", got)
    _promise(not bool(values.isnan().any()), plugin, f"{what} to give numbers", "NaN")


def _check_slope(plugin: object, what: str, value: Tensor, leaf: Tensor) -> None:
    total = value.sum()
    slope = torch.autograd.grad(total, leaf, retain_graph=True, allow_unused=True)[0] if total.requires_grad else None
    legal = slope is not None and bool(slope.isfinite().all())
    _promise(legal, plugin, f"{what} to have a finite gradient", "none" if slope is None else "NaN or infinity")


def _check_terms(objective: Objective, clean: Tensor, adv: Tensor, y: Tensor) -> None:
    terms = objective.terms(clean, adv, y)
    _promise(isinstance(terms, tuple) and len(terms) == 2, objective, "two terms, (natural, robust)", terms)
    twice = objective.terms(clean.repeat(2, 1), adv.repeat(2, 1), y.repeat(2))
    for name, term, double in zip(("natural", "robust"), terms, twice, strict=True):
        _promise(term.shape == () and bool(term.isfinite()), objective, f"a finite scalar as {name} term", term)
        got = f"{term:g}, and {double:g} for the batch twice"
        _promise(torch.allclose(term, double, rtol=1e-4), objective, f"the {name} term to be a batch mean", got)
    for name, logits in {"clean": clean, "adversarial": adv}.items():
        _check_slope(objective, f"the terms in the {name} logits", terms[0] + terms[1], logits)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_state(schedule: Schedule, state: Mapping[str, float]) -> None:
    legal = isinstance(state, Mapping) and all(isinstance(k, str) and _is_number(v) for k, v in state.items())
    _promise(legal, schedule, "a state that maps names to finite numbers", state)
    before, lam = dict(state), schedule.lam(state)
    _promise(_is_number(lam) and lam >= 0, schedule, "lambda finite and >= 0", f"{lam!r} in state {state}")
    _promise(before == state, schedule, "lam to leave its state alone", f"{state}, was {before}")


def _check_logits(model: Model, network: nn.Module, x: Tensor, classes: int) -> None:
    x = x.clone().requires_grad_()
    logits = network(x)
    legal = logits.shape == (len(x), classes) and bool(logits.isfinite().all())
    _promise(legal, model, f"finite logits of shape ({len(x)}, {classes})", f"{tuple(logits.shape)}: {logits}")
    _check_slope(model, "the logits", logits, x)
    differ = len(x) == 1 or bool((logits != logits[:1]).any())
    _promise(differ, model, "logits that depend on the image", "the same for all images")
