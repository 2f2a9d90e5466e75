"""The layers of a network that are linear maps: which there are, how large their inputs are, what
feeds what."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn

from robsearch.errors import refused
from robsearch.network import operators
from robsearch.network.modes import check_in_parts, evaluating
from robsearch.network.operators import (
    Affine,
    BatchNorm,
    Conv,
    Layer,
    Shape,
    Transposed,
    convolution,
    outputs,
)
from robsearch.protocols import Images, Labels, PenaltyState


def layers(model: nn.Module) -> Iterator[tuple[str, Layer]]:
    """Name and module of each ``Conv2d`` and ``Linear``, on whose weights penalties act, in the
    model's order.

    Others are left alone, and so is a weight that is computed from others
    (``nn.utils.parametrizations``).
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and isinstance(module.weight, nn.Parameter):
            yield name, module


def trained(model: nn.Module) -> Iterator[tuple[str, Layer]]:
    """Those of ``layers`` whose weight is not frozen."""
    for name, layer in layers(model):
        if layer.weight.requires_grad:
            yield name, layer


def input_sizes(model: nn.Module) -> PenaltyState:
    """``input/<layer>`` for each convolution: (height, width) of its input in pixels, whole numbers
    on the CPU.

    They are zeros until the model's next forward fills them in, in place, by a hook on each
    convolution that then removes itself (from a deep copy of the model too, at the copy's first
    forward). A convolution that is run on several sizes counts with its first.
    """
    sizes = {}
    for name, layer in layers(model):
        if isinstance(layer, nn.Conv2d):
            size = torch.zeros(2, dtype=torch.int64)
            _SizeHook(layer, size)
            sizes[f"input/{name}"] = size
    return sizes


class _SizeHook:
    """A hook that writes a layer's input size down and goes; a class, so that copies and pickles
    carry it along."""

    def __init__(self, layer: nn.Module, size: Tensor) -> None:
        self.size = size
        self.handle = layer.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(
        self,
        layer: nn.Module,
        args: tuple[Tensor, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        x = args[0] if args else kwargs["input"]
        self.size.copy_(torch.tensor(x.shape[-2:]))
        self.handle.remove()


def sized(model: nn.Module, state: PenaltyState) -> list[tuple[str, Layer, Shape]]:
    """The trained layers that the model has run, each with its input's shape.

    Raises:
        InputError: the state knows no convolution's size: it is not the one that ``init`` gave
            before a forward.
    """
    run: list[tuple[str, Layer, Shape]] = []
    has_convolutions = False
    for name, layer in trained(model):
        shape: Shape
        if isinstance(layer, nn.Linear):
            shape = (layer.in_features,)
        else:
            has_convolutions = True
            size = state.get(f"input/{name}", torch.zeros(2))
            shape = (layer.in_channels, *size.tolist())
        # Zeros say that the model has not run the layer.
        if 0 not in shape:
            run.append((name, layer, shape))
    if has_convolutions and all(len(shape) == 1 for _, _, shape in run):
        do = "call init before the model's first forward and hand on the state it returned"
        raise refused("a state with the input size of each convolution", "none", do)
    return run


class Traced(NamedTuple):
    """A linear map that a model ran.

    Attributes:
        name: in the model; the maps of an ``nn.MultiheadAttention`` are ``q_proj``, ``k_proj``,
            ``v_proj`` and ``out_proj`` below its name.
        module: the layer. Of a transposed convolution it is the convolution whose adjoint it is.
        shape: of one input of its first call; of a transposed convolution, of one output.
        owner: the model's own module that it is, or is part of.
        batch_norm: the name of the BatchNorm that its output goes to as it is, or None; also where
            that output is used elsewhere too. Of several the first.
        adjoint: the map is the adjoint of ``module``: its singular values are the same, l1 and linf
            change places.
    """

    name: str
    module: Affine
    shape: Shape
    owner: nn.Module
    batch_norm: str | None = None
    adjoint: bool = False

    @property
    def as_written(self) -> bool:
        """Whether it is the map that its weight and its settings say."""
        return bool(self.shape) and not _computes_otherwise(self.owner)

    @property
    def reason(self) -> str:
        """Why it has no operator norm; empty if it has one."""
        if not self.as_written:
            return "it has a forward of its own"
        name = self.name or "the model"
        return "; ".join(operators.problems(self.module, self.shape, name))


MAPS = (*get_args(Affine), *get_args(Transposed), nn.MultiheadAttention)
"""The modules that are linear maps, or are made of some."""


def traced(model: nn.Module, x: Images) -> list[Traced]:
    """The linear maps that the model runs on ``x``, in order of execution, by hooks that are gone
    afterwards.

    Convolutions and transposed ones of any dimension, ``Linear``, those of ``MultiheadAttention``,
    and ``BatchNorm``, also where the weight is frozen or computed from others. One that runs more
    than once counts with its first call. All layers' outputs are kept meanwhile: one image is
    enough. The model is in eval mode meanwhile.
    """
    names = {module: name for name, module in model.named_modules() if isinstance(module, MAPS)}
    trace = _Trace(names)
    handles = [module.register_forward_hook(trace, with_kwargs=True) for module in names]
    try:
        # Tensors of the inference mode do not tell whether they were written to.
        with evaluating(model), torch.inference_mode(False), torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return list(trace.maps.values())


class _Trace:
    """A hook on all layers: what ran, and whose output a BatchNorm got, as it was when the layer
    gave it."""

    def __init__(self, names: Mapping[nn.Module, str]) -> None:
        self.names = names
        self.maps: dict[str, Traced] = {}
        self.outputs: list[tuple[str, Tensor, int]] = []

    def __call__(
        self,
        module: nn.Module,
        args: tuple[Tensor, ...],
        kwargs: Mapping[str, Any],
        output: Any,
    ) -> None:
        name = self.names[module]
        if isinstance(module, nn.MultiheadAttention):
            for part, layer in _projections(module):
                path = f"{name}.{part}" if name else part
                traced = Traced(path, layer, tuple(layer.weight.shape[1:]), module)
                self.maps.setdefault(path, traced)
            return
        x = args[0] if args else kwargs["input"]
        if name in self.maps:
            return
        self.maps[name] = _traced(name, module, x, output)
        if isinstance(module, BatchNorm):
            self._feed(x, name)
        elif not isinstance(module, nn.Linear) or x.ndim == 2:
            # A linear layer over tokens has its features last, and a BatchNorm wants them second.
            self.outputs.append((name, output, output._version))

    def _feed(self, x: Tensor, batch_norm: str) -> None:
        """Notes at the layers that gave ``x`` that this BatchNorm gets it."""
        for name, output, version in self.outputs:
            layer = self.maps[name]
            # The version tells whether the output was changed in place on its way.
            if output is x and output._version == version and layer.batch_norm is None:
                self.maps[name] = layer._replace(batch_norm=batch_norm)


def _traced(name: str, module: nn.Module, x: Tensor, output: Tensor) -> Traced:
    if isinstance(module, Transposed):
        dims = len(module.kernel_size)
        twin = convolution(module)
        shape = tuple(output.shape[-1 - dims :])
        if outputs(twin, shape) != x.shape[-dims:]:
            shape = ()  # an output_padding of a stride or more: it is the adjoint of no convolution
        return Traced(name, twin, shape, module, adjoint=True)
    assert isinstance(module, Affine)
    shape = tuple(x.shape[1:] or x.shape)
    if isinstance(module, Conv):
        shape = tuple(x.shape[-1 - len(module.kernel_size) :])
    return Traced(name, module, shape, module)


def _projections(attention: nn.MultiheadAttention) -> Iterator[tuple[str, Layer]]:
    """The matrices of an attention, whose first three it keeps in one."""
    weights: Sequence[Tensor]
    if attention.in_proj_weight is None:
        weights = [attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight]
    else:
        weights = attention.in_proj_weight.chunk(3)
    for part, weight in zip(("q_proj", "k_proj", "v_proj"), weights, strict=True):
        yield part, operators.with_weight(attention.out_proj, weight)
    yield "out_proj", attention.out_proj


class Weights(NamedTuple):
    """The weights of one layer, biases among them, and whether norms, singular values and feature
    change cover it."""

    layer: str
    type: str
    weights: int
    covered: bool
    reason: str = ""


class NotCoveredWarning(UserWarning):
    """A measure of layers leaves weights out, because no norm is defined for them."""


def coverage(model: nn.Module, run: list[Traced]) -> list[Weights]:
    """Every layer of a model that has weights of its own, each weight once: those that have norms
    first.

    Args:
        model: the model.
        run: what ``traced`` found.
    """
    reasons = {id(traced.owner): traced.reason for traced in run}
    modules = []
    for name, module in model.named_modules():
        reason = "no operator norm is defined for it"
        if isinstance(module, MAPS):
            reason = "the model does not run it as a module"
        modules.append((reasons.get(id(module), reason), name, module))
    # A weight that several layers share counts as covered if one of them has a norm.
    modules.sort(key=lambda row: row[0] != "")
    counted: set[nn.Parameter] = set()
    rows = []
    for reason, name, module in modules:
        for label, weights in _parameters(name, module):
            new = [weight for weight in weights if weight not in counted]
            counted.update(new)
            if new:
                size = sum(weight.numel() for weight in new)
                rows.append(Weights(label, type(module).__name__, size, reason == "", reason))
    return rows


def _parameters(name: str, module: nn.Module) -> Iterator[tuple[str, list[nn.Parameter]]]:
    """By label, the parameters of a module: of a layer together, of what contains layers its own by
    their names."""
    if isinstance(module, MAPS) or not list(module.children()):
        yield name or "the model", list(module.parameters())
    else:
        for parameter, weight in module.named_parameters(prefix=name, recurse=False):
            yield parameter, [weight]


def _computes_otherwise(module: nn.Module) -> bool:
    """Whether a user's class computes something else with the weight than the layer that it is
    derived from."""
    base = next(kind for kind in MAPS if isinstance(module, kind))
    for name in ("forward", "_conv_forward"):
        if getattr(type(module), name, None) is not getattr(base, name, None):
            return True
    return False


def covered_share(rows: list[Weights]) -> float:
    """The share of all weights that norms, singular values and feature change cover; 1 without
    weights."""
    total = sum(row.weights for row in rows)
    covered = sum(row.weights for row in rows if row.covered)
    return covered / total if total else 1.0


def not_covered(rows: list[Weights], most: int = 8) -> str:
    """A sentence on the layers that have no norm; empty if all have one."""
    left_out = [row for row in rows if not row.covered]
    if not left_out:
        return ""
    total = sum(row.weights for row in rows)
    covered = total - sum(row.weights for row in left_out)
    descriptions = [
        f"{row.layer} ({row.type}, {row.weights:,}: {row.reason})" for row in left_out[:most]
    ]
    names = ", ".join(descriptions)
    if len(left_out) > most:
        names += f" and {len(left_out) - most} more layers"
    return f"{covered:,} of {total:,} weights are covered; not covered: {names}"


def covered_maps(model: nn.Module, x: Images, y: Labels) -> list[Traced]:
    """What ``traced`` finds, of examples that ``checked_logits`` takes; a ``NotCoveredWarning``
    names the weights that have no norm."""
    with evaluating(model), torch.no_grad():
        check_in_parts(model, x, y)
        run = traced(model, x[:1])
    sentence = not_covered(coverage(model, run))
    if sentence:
        warnings.warn(f"norms and spectra: {sentence}", NotCoveredWarning, stacklevel=3)
    return run
