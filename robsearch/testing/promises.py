"""What the contracts share: promises, the examples they are tried on, a model that is left as it
was."""

from __future__ import annotations

import functools
import math
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from robsearch.errors import a, described_error, instance_of, shortened
from robsearch.testing.advice import advice

SHAPE = (3, 8, 8)
CLASSES = 5
N = 6
_Check = TypeVar("_Check", bound=Callable[..., None])


def contract(shape: type) -> Callable[[_Check], _Check]:
    """What all checks share: a leaf of a recipe, torch's generator given back, an error is a broken
    promise."""

    def promised(check: _Check) -> _Check:
        @functools.wraps(check)
        def checked(plugin: object, *args: Any, **kwargs: Any) -> None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                try:
                    check_leaf(plugin, shape)
                    check(plugin, *args, **kwargs)
                # A promise that is broken tells so itself; anything else is an error of the plugin.
                except AssertionError:
                    raise
                except Exception as error:
                    do = advice(shape.__name__, error) or ""
                    promise(False, plugin, "no error", described_error(error), do, error)

        return cast(_Check, checked)

    return promised


class BrokenPromiseError(AssertionError):
    """A promise of a contract that a plugin does not keep.

    Attributes:
        problem: what was expected and what came.
        do: what to do about it; empty if that is plain.
    """

    def __init__(self, plugin: object, problem: str, do: str) -> None:
        self.problem = problem
        self.do = do
        super().__init__(f"{plugin!r}: {problem}" + (f": {do}" if do else ""))


def promise(
    holds: bool,
    plugin: object,
    expected: str,
    got: object,
    do: str = "",
    cause: Exception | None = None,
) -> None:
    """Raises BrokenPromiseError, an AssertionError, with the plugin, what was expected and got, and
    what to do, unless the promise is kept."""
    # Not an assert statement: python -O would take the contract away.
    if not holds:
        problem = f"expected {expected}, got {shortened(f'{got}')}"
        raise BrokenPromiseError(plugin, problem, do) from cause


def check_leaf(plugin: object, shape: type) -> None:
    """What makes an object a leaf of a recipe: the methods, frozen, a value that pickles."""
    promise(not isinstance(plugin, type), plugin, "an instance", "a class")
    missing = []
    for name in vars(shape):
        is_promised = name == "__call__" or not name.startswith("_")
        if is_promised and not hasattr(plugin, name):
            missing.append(name)
    expected = f"all of robsearch.protocols.{shape.__name__}"
    promise(not missing, plugin, expected, f"no {', '.join(missing)}")
    frozen = is_dataclass(plugin) and getattr(plugin, "__dataclass_params__").frozen  # noqa: B009 - not in the stubs
    do = "write @dataclass(frozen=True) above the class"
    promise(frozen, plugin, "a frozen dataclass", a(type(plugin).__name__), do)
    fits = instance_of(type(plugin).__name__, plugin, shape)
    promise(fits.fits, plugin, fits.expected, fits.got, fits.do)
    # Ray sends recipes to workers as pickles, and a worker's copy must be the same recipe.
    copy = pickle.loads(pickle.dumps(plugin))
    same = copy == plugin and hash(copy) == hash(plugin) and repr(copy) == repr(plugin)
    promise(same, plugin, "an equal value of the same repr from pickle", copy)


def examples() -> tuple[nn.Module, Tensor, Tensor]:
    """Images, and a network with all that can be disturbed: a frozen layer amid train mode,
    statistics, gradients."""
    torch.manual_seed(0)
    linear = nn.Linear(math.prod(SHAPE), 16)
    last = nn.Linear(16, CLASSES)
    network = nn.Sequential(
        nn.Flatten(),
        linear,
        nn.BatchNorm1d(16).eval(),
        nn.SiLU(),
        nn.BatchNorm1d(16),
        last,
    )
    # A sixth of the pixels at each end of [0, 1], where an attack may leave it.
    x = torch.rand(N, *SHAPE).mul(1.5).sub(0.25).clamp(0, 1)
    linear.weight.grad = torch.ones_like(linear.weight)
    last.bias.requires_grad_(False)
    return network, x, torch.arange(N) % CLASSES


LEFT_ALONE = {
    "training flags": "give each module its own back, as robsearch.network.modes.evaluating does",
    "requires_grad": "put it back, also on an error",
    "parameters": "work on copy.deepcopy(model)",
    "weights and statistics": "work on copy.deepcopy(model), or in eval mode",
    "frozen weights and statistics": "leave out what has requires_grad=False",
    "gradients": "use torch.autograd.grad(loss, x), not backward(), which adds to the weights' own",
    "frozen weights' gradients": "leave out what has requires_grad=False",
}
"""What to do where a part of a recipe changes these of the model."""


@contextmanager
def left_alone(plugin: object, model: nn.Module, but: str = "") -> Iterator[None]:
    """Promises that the block leaves the model as it was, ``but`` for one thing, named as
    ``_snapshot`` does."""
    before = _snapshot(model)
    yield
    for what, after in _snapshot(model).items():
        if what == but:
            continue
        changed = [name for name, value in before[what].items() if not _same(value, after[name])]
        got = f"a change in {', '.join(changed)}"
        promise(not changed, plugin, f"the model's {what} untouched", got, LEFT_ALONE[what])


def _snapshot(model: nn.Module) -> dict[str, dict[str, Any]]:
    """All that can be disturbed in a model, as copies; what is trained, and its gradients, apart
    from the rest."""
    parameters = dict(model.named_parameters())
    trained = {name for name, parameter in parameters.items() if parameter.requires_grad}
    values = {}
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):
            values[name] = value.clone()
    gradients = {}
    for name, parameter in parameters.items():
        gradients[name] = None if parameter.grad is None else parameter.grad.clone()
    return {
        "training flags": {
            name or "the model": module.training for name, module in model.named_modules()
        },
        "requires_grad": {name: name in trained for name in parameters},
        # A parameter that was replaced has another identity.
        "parameters": {name: id(parameter) for name, parameter in parameters.items()},
        "weights and statistics": values,
        "frozen weights and statistics": _without(trained, values),
        "gradients": gradients,
        "frozen weights' gradients": _without(trained, gradients),
    }


def _without(names: set[str], values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return a is b or bool(a == b)


def described(value: Any) -> str:
    """A tensor's type and shape, ``torch.float32 (6,)``; the text of anything else."""
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)


def is_row(values: Any, n: int | None = None) -> bool:
    """Whether these are floats in a row, (n,)."""
    if not isinstance(values, Tensor) or not values.is_floating_point():
        return False
    return values.ndim == 1 and n in (None, len(values))


def check_per_example(plugin: object, what: str, values: Tensor) -> None:
    """One float per example, (N,), none of them NaN."""
    expected = f"{what} to give one float per example, ({N},)"
    do = "reduce over all dimensions but the first, as in .flatten(1).sum(1)"
    promise(is_row(values, N), plugin, expected, described(values), do)
    promise(not bool(values.isnan().any()), plugin, f"{what} to give numbers", "NaN")


def slope_fault(value: Tensor, leaf: Tensor) -> str:
    """What is wrong with the gradient of a value's sum in ``leaf``; empty if it is finite."""
    total = value.sum()
    slope = None
    if total.requires_grad:
        (slope,) = torch.autograd.grad(total, leaf, retain_graph=True, allow_unused=True)
    if slope is None:
        return "none"
    return "" if bool(slope.isfinite().all()) else "NaN or infinity"


def check_slope(plugin: object, what: str, value: Tensor, leaf: Tensor) -> None:
    """A finite gradient of the value's sum in ``leaf``."""
    fault = slope_fault(value, leaf)
    promise(not fault, plugin, f"{what} to have a finite gradient", fault)


def is_number(value: object) -> bool:
    """A finite int or float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
