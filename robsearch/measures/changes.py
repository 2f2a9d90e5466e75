"""How far a network's entries may move: the network itself is run on bounds in place of values.

Layers written as modules or as functions, strides, padding, folded batch norms and residual sums
thus count as the network computes them, and what has no known bound is refused by its name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robsearch.errors import InputError, refusal, refused

LARGE = 1e30
"""Bounds above this are held as multiples: small enough for float32, too, to multiply them by any
sound layer."""
SLOPES = {
    "relu": 1.0,
    "relu_": 1.0,
    "silu": 1.0998394,
    "sigmoid": 0.25,
    "tanh": 1.0,
    "softplus": 1.0,
}
"""The largest slope of each activation; SiLU's is 1.09983932... at 2.39936..., rounded up."""


class UnknownOperationError(InputError):
    """A network has an operation of whose change no bound is known."""


class Change(Tensor):
    """Bounds, entry by entry, on ``|z(x) - z(x')|`` of the tensor ``z`` in whose place it stands.

    torch's functions pass them on: ``|W| d`` for a layer, ``slope d`` for an activation, ``d + e``
    for a sum. Bounds that would leave the range of floats are held as multiples of
    ``exp(exponent)``: all operations multiply their result when their bounds are multiplied.
    """

    exponent: float = 0.0
    operations: ClassVar[frozenset[str]]
    expected: ClassVar[str] = "operations whose change has a known bound"
    do: ClassVar[str] = (
        "build the model of convolutions, linear layers, batch norms, ReLU or SiLU, sums and means"
    )

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The function's result for bounds.

        Raises:
            UnknownOperationError: the function is none of ``operations``, or multiplies changes
                with each other.
        """
        name = func.__name__
        options = dict(kwargs or {})
        with torch._C.DisableTorchFunctionSubclass():
            if name in _FACTS:
                fact = func(*args, **options)
                if not isinstance(fact, Tensor):
                    return fact
            if name not in cls.operations or not _fits(name, args, options):
                raise UnknownOperationError(refusal(cls.expected, name, cls.do))
            changes = [value for value in (*args, *options.values()) if isinstance(value, Change)]
            log = max(change.exponent for change in changes)
            entering = [cls.entering(name, _in_units_of(log, arg)) for arg in args]
            options = {key: _in_units_of(log, value) for key, value in options.items()}
            rule: Callable[..., Tensor] = _RULES.get(name, func)
            size = rule(*entering, **options)
            # Deep networks leave the range of floats, so the size is kept apart as an exponent.
            peak = float(size.detach().amax()) if size.numel() else 0.0
            if LARGE < peak < math.inf:
                size = size / peak
                log += math.log(peak)
            if options.get("inplace") or name in _IN_PLACE:
                size = args[0].copy_(size)
            result = size.as_subclass(cls)
            result.exponent = log
            return result

    @classmethod
    def entering(cls, name: str, value: Any) -> Any:
        """What the operation is given for one of its arguments."""
        return value


class LayerChange(Change):
    """Lets only the largest entry into each operation, so that layers multiply by their linf
    operator norms.

    But into a batch norm all of them: what a convolution feeds to it is bounded for both together.
    """

    @classmethod
    def entering(cls, name: str, value: Any) -> Any:
        """The largest entry, everywhere."""
        if not isinstance(value, Change) or name == "batch_norm":
            return value
        return value.amax().expand_as(value).clone().as_subclass(cls)


class AffineChange(Change):
    """Knows affine operations only."""

    expected = "nn.Sequential of affine modules and nn.ReLU"
    do = "write the model so, each ReLU as a module, or leave this measure out"


def _in_units_of(log: float, value: Any) -> Any:
    """Bounds as a multiple of ``exp(log)``; anything else as it is."""
    if not isinstance(value, Change) or value.exponent == log:
        return value
    factor = math.exp(value.exponent - log)
    size = value.as_subclass(Tensor) * factor
    return size.as_subclass(type(value))


def propagated(module: nn.Module, size: Tensor, kind: type[Change] = Change) -> Tensor:
    """How far each entry of the module's output moves at most if its input's entries move by
    ``size`` at most.

    Args:
        module: in eval mode.
        size: at least 0, shaped as the module's input; the result is differentiable in it.
        kind: which operations are known and what enters them.

    Raises:
        InputError: an operation that ``kind`` does not know; names it.
    """
    after, log = propagated_in_logs(module, size, kind)
    return after * math.exp(log) if log else after


def propagated_in_logs(
    module: nn.Module,
    size: Tensor,
    kind: type[Change] = Change,
) -> tuple[Tensor, float]:
    """As ``propagated``, but the bounds are the tensor times ``exp`` of the number, which may be
    beyond any float."""
    after = module(size.as_subclass(kind))
    if not isinstance(after, Change):
        return torch.zeros_like(after, dtype=size.dtype), 0.0
    return after.as_subclass(Tensor), after.exponent


def _conv2d(
    d: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *rest: Any,
    **options: Any,
) -> Tensor:
    return F.conv2d(d, weight.to(d.dtype).abs(), None, *rest, **options)


def _batch_norm(
    d: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training or var is None:
        raise refused("batch norms with running statistics", "none", "build them so")
    scale = (var.to(d.dtype) + eps).rsqrt()
    if weight is not None:
        scale = scale * weight.to(d.dtype).abs()
    return d * scale.view(1, -1, *[1] * (d.ndim - 2))


def _dropout(
    d: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Tensor:
    if training:
        do = "call it with self.training"
        raise refused("dropout in eval mode", "dropout that is always on", do)
    return d


def _sum(a: Any, b: Any, alpha: float = 1.0) -> Tensor:
    total: Tensor = _change_of(a) + abs(alpha) * _change_of(b)
    return total


def _change_of(value: Any) -> Any:
    """A constant does not change, but may have the larger shape."""
    if isinstance(value, Change):
        return value
    if isinstance(value, Tensor):
        return torch.zeros_like(value)
    return 0.0


def _activation(slope: float) -> Callable[..., Tensor]:
    return lambda d, *_, **__: slope * d


def _fits(name: str, args: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """No changes but one, which comes first: two may be added, and a constant may come first in a
    product."""
    are_changes = [isinstance(value, Change) for value in (*args, *options.values())]
    if name in _SUMS:
        return True
    return sum(are_changes) == 1 and (are_changes[0] or name in _PRODUCTS)


_SUMS = {"add", "add_", "sub", "sub_", "__radd__", "__rsub__"}
_PRODUCTS = {"mul", "__rmul__"}
_IN_PLACE = {"relu_", "add_", "sub_"}
_LIKE_VALUES = {
    "flatten",
    "reshape",
    "view",
    "mean",
    "avg_pool2d",
    "adaptive_avg_pool2d",
    "contiguous",
    "clone",
}
"""Affine with weights of at least 0 and no constant: bounds go through them as values do."""
_FACTS = {"dim", "size", "numel", "is_floating_point", "__len__", "__get__"}
"""Answered as for values, where the answer is not a tensor."""
_CASTS = {"float", "double", "half", "bfloat16", "to", "type_as"}
_RULES: Mapping[str, Callable[..., Tensor]] = {
    "conv2d": _conv2d,
    "linear": lambda d, weight, bias=None: F.linear(d, weight.to(d.dtype).abs()),
    "batch_norm": _batch_norm,
    "dropout": _dropout,
    "pad": lambda d, pad, mode="constant", value=None: F.pad(d, pad, mode),
    "neg": lambda d: d,
    "div": lambda d, by: d / abs(by),
    **dict.fromkeys(_CASTS, lambda d, *_, **__: d),
    **dict.fromkeys(_SUMS, _sum),
    **dict.fromkeys(_PRODUCTS, lambda a, b: abs(a) * abs(b)),
    **{name: _activation(slope) for name, slope in SLOPES.items()},
}
"""What an operation does to bounds where that is not what it does to values."""
AffineChange.operations = frozenset({*_RULES, *_LIKE_VALUES} - {*SLOPES})
Change.operations = frozenset({*_RULES, *_LIKE_VALUES, "max_pool2d"})
