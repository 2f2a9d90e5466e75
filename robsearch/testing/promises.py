"""What the contracts share: promises, the examples they are tried on, a model that is left as it was."""

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

from robsearch.wording import a

SHAPE, CLASSES, N = (3, 8, 8), 5, 6
_Check = TypeVar("_Check", bound=Callable[..., None])


def contract(shape: type) -> Callable[[_Check], _Check]:
    """What all checks share: a leaf of a recipe, torch's generator given back, an error is a broken promise."""

    def promised(check: _Check) -> _Check:
        @functools.wraps(check)
        def checked(plugin: object, *args: Any, **kwargs: Any) -> None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                try:
                    check_leaf(plugin, shape)
                    check(plugin, *args, **kwargs)
                except AssertionError:
                    raise
                except Exception as error:
                    promise(False, plugin, "no error", f"{type(error).__name__}: {error}", error)

        return cast(_Check, checked)

    return promised


def promise(kept: bool, plugin: object, expected: str, got: object, cause: Exception | None = None) -> None:
    """Raises AssertionError, with the plugin and what was expected and got, unless the promise is kept."""
    # Not an assert statement: python -O would take the contract away.
    if not kept:
        raise AssertionError(f"{plugin!r}: expected {expected}, got {got}") from cause


def check_leaf(plugin: object, shape: type) -> None:
    """What makes an object a leaf of a recipe: the methods, frozen, a value that pickles."""
    promise(not isinstance(plugin, type), plugin, "an instance", "a class")
    asked = (name for name in vars(shape) if name == "__call__" or not name.startswith("_"))
    missing = [name for name in asked if not hasattr(plugin, name)]
    promise(not missing, plugin, f"all of robsearch.protocols.{shape.__name__}", f"no {', '.join(missing)}")
    frozen = is_dataclass(plugin) and getattr(plugin, "__dataclass_params__").frozen  # noqa: B009 - not in the stubs
    promise(frozen, plugin, "a frozen dataclass", a(type(plugin).__name__))
    copy = pickle.loads(pickle.dumps(plugin))
    same = copy == plugin and hash(copy) == hash(plugin) and repr(copy) == repr(plugin)
    promise(same, plugin, "an equal value of the same repr from pickle", copy)


def examples() -> tuple[nn.Module, Tensor, Tensor]:
    """Images, and a network with all that can be disturbed: a frozen layer amid train mode, statistics, gradients."""
    torch.manual_seed(0)
    linear, last = nn.Linear(math.prod(SHAPE), 16), nn.Linear(16, CLASSES)
    network = nn.Sequential(nn.Flatten(), linear, nn.BatchNorm1d(16).eval(), nn.SiLU(), nn.BatchNorm1d(16), last)
    x = torch.rand(N, *SHAPE).mul(1.5).sub(0.25).clamp(0, 1)
    linear.weight.grad = torch.ones_like(linear.weight)
    last.bias.requires_grad_(False)
    return network, x, torch.arange(N) % CLASSES


@contextmanager
def left_alone(plugin: object, model: nn.Module, but: str = "") -> Iterator[None]:
    """Promises that the block leaves the model as it was, ``but`` for one thing, named as ``_found`` does."""
    before = _found(model)
    yield
    for what, after in _found(model).items():
        changed = [name for name, value in before[what].items() if not _same(value, after[name])]
        kept = not changed or what == but
        promise(kept, plugin, f"the model's {what} untouched", f"a change in {', '.join(changed)}")


def _found(model: nn.Module) -> dict[str, dict[str, Any]]:
    """All that can be disturbed in a model, as copies; what is trained, and its gradients, apart from the rest."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    values = {name: value.clone() for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    gradients = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    return {
        "training flags": {name or "the model": module.training for name, module in model.named_modules()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "parameters": {name: id(p) for name, p in model.named_parameters()},
        "weights and statistics": values,
        "frozen weights and statistics": {name: value for name, value in values.items() if name not in trained},
        "gradients": gradients,
        "frozen weights' gradients": {name: value for name, value in gradients.items() if name not in trained},
    }


def _same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a is b or a == b


def check_per_example(plugin: object, what: str, values: Tensor) -> None:
    """One float per example, (N,), none of them NaN."""
    legal = values.shape == (N,) and values.is_floating_point()
    got = f"{values.dtype} {tuple(values.shape)}"
    promise(legal, plugin, f"{what} to give one float per example, ({N},)", got)
    promise(not bool(values.isnan().any()), plugin, f"{what} to give numbers", "NaN")


def check_slope(plugin: object, what: str, value: Tensor, leaf: Tensor) -> None:
    """A finite gradient of the value's sum in ``leaf``."""
    total = value.sum()
    slope = torch.autograd.grad(total, leaf, retain_graph=True, allow_unused=True)[0] if total.requires_grad else None
    legal = slope is not None and bool(slope.isfinite().all())
    promise(legal, plugin, f"{what} to have a finite gradient", "none" if slope is None else "NaN or infinity")


def is_number(value: object) -> bool:
    """A finite int or float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
