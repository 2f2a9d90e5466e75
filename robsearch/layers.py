"""The layers of a network that are linear maps: which there are, how large their inputs are, what feeds what."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn

from robsearch import operators
from robsearch.errors import InputError, refusal
from robsearch.modes import evaluating
from robsearch.operators import Affine, BatchNorm, Conv, Layer, Shape, Transposed, convolution, outputs
from robsearch.protocols import Images, PenaltyState


def layers(model: nn.Module) -> Iterator[tuple[str, Layer]]:
    """Name and module of each ``Conv2d`` and ``Linear``, on whose weights penalties act, in the model's order.

    Others are left alone, and so is a weight that is computed from others (``nn.utils.parametrizations``).
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and isinstance(module.weight, nn.Parameter):
            yield name, module


def trained(model: nn.Module) -> Iterator[tuple[str, Layer]]:
    """Those of ``layers`` whose weight is not frozen."""
    return ((name, layer) for name, layer in layers(model) if layer.weight.requires_grad)


def input_sizes(model: nn.Module) -> PenaltyState:
    """``input/<layer>`` for each convolution: (height, width) of its input in pixels, whole numbers on the CPU.

    They are zeros until the model's next forward fills them in, in place, by a hook on each convolution that then
    removes itself (from a deep copy of the model too, at the copy's first forward). A convolution that is run on
    several sizes counts with its first.
    """
    sizes = {name: torch.zeros(2, dtype=torch.int64) for name, layer in layers(model) if isinstance(layer, nn.Conv2d)}
    for name, size in sizes.items():
        _Once(model.get_submodule(name), size)
    return {f"input/{name}": size for name, size in sizes.items()}


class _Once:
    """A hook that writes a layer's input size down and goes; a class, so that copies and pickles carry it along."""

    def __init__(self, layer: nn.Module, size: Tensor) -> None:
        self.size = size
        self.handle = layer.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, layer: nn.Module, args: tuple[Tensor, ...], kwargs: Mapping[str, Any]) -> None:
        x = args[0] if args else kwargs["input"]
        self.size.copy_(torch.tensor(x.shape[-2:]))
        self.handle.remove()


def sized(model: nn.Module, state: PenaltyState) -> list[tuple[str, Layer, Shape]]:
    """The trained layers that the model has run, each with its input's shape.

    Raises:
        InputError: the state knows no convolution's size: it is not the one that ``init`` gave before a forward.
    """
    found = [(name, layer, _shape(layer, state.get(f"input/{name}"))) for name, layer in trained(model)]
    run = [item for item in found if 0 not in item[2]]
    if any(isinstance(layer, nn.Conv2d) for _, layer, _ in found) and all(len(shape) == 1 for _, _, shape in run):
        do = "call init before the model's first forward and hand on the state it returned"
        raise InputError(refusal("a state with the input size of each convolution", "none", do))
    return run


def _shape(layer: Layer, size: Tensor | None) -> Shape:
    if isinstance(layer, nn.Linear):
        return (layer.in_features,)
    return (layer.in_channels, *([0, 0] if size is None else size.tolist()))


class Traced(NamedTuple):
    """A linear map that a model ran.

    Attributes:
        name: in the model; the maps of an ``nn.MultiheadAttention`` are ``q_proj``, ``k_proj``, ``v_proj`` and
            ``out_proj`` below its name.
        module: the layer. Of a transposed convolution it is the convolution whose adjoint it is.
        shape: of one input of its first call; of a transposed convolution, of one output.
        batch_norm: the name of the BatchNorm that its output goes to as it is, or None; also where that output is
            used elsewhere too. Of several the first.
        adjoint: the map is the adjoint of ``module``: its singular values are the same, l1 and linf change places.
        owner: the model's own module that it is, or is part of.
    """

    name: str
    module: Affine
    shape: Shape
    batch_norm: str | None = None
    adjoint: bool = False
    owner: nn.Module | None = None

    @property
    def as_written(self) -> bool:
        """Whether it is the map that its weight and its settings say."""
        return bool(self.shape) and not (self.owner is not None and _computes_otherwise(self.owner))

    @property
    def reason(self) -> str:
        """Why it has no operator norm; empty if it has one."""
        if not self.as_written:
            return "it has a forward of its own"
        return "; ".join(operators.problems(self.module, self.shape, self.name or "the model"))


MAPS = (*get_args(Affine), *get_args(Transposed), nn.MultiheadAttention)
"""The modules that are linear maps, or are made of some."""


def traced(model: nn.Module, x: Images) -> list[Traced]:
    """The linear maps that the model runs on ``x``, in order of execution, by hooks that are gone afterwards.

    Convolutions and transposed ones of any dimension, ``Linear``, those of ``MultiheadAttention``, and ``BatchNorm``,
    also where the weight is frozen or computed from others. One that runs more than once counts with its first call.
    All layers' outputs are kept meanwhile: one image is enough. The model is in eval mode meanwhile.
    """
    named = model.named_modules()
    names: dict[nn.Module, str] = {module: name for name, module in named if isinstance(module, MAPS)}
    trace = _Trace(names)
    handles = [module.register_forward_hook(trace, with_kwargs=True) for module in names]
    try:
        # Tensors of the inference mode do not tell whether they were written to.
        with evaluating(model), torch.inference_mode(False), torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return list(trace.found.values())


class _Trace:
    """A hook on all layers: what ran, and whose output a BatchNorm got, as it was when the layer gave it."""

    def __init__(self, names: Mapping[nn.Module, str]) -> None:
        self.names, self.found = names, dict[str, Traced]()
        self.outputs: list[tuple[str, Tensor, int]] = []

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        name = self.names[module]
        if isinstance(module, nn.MultiheadAttention):
            prefix = f"{name}." if name else ""
            for part, layer in _projections(module):
                shape = (layer.in_features,)
                self.found.setdefault(prefix + part, Traced(prefix + part, layer, shape, owner=module))
            return
        x = args[0] if args else kwargs["input"]
        if name in self.found:
            return
        self.found[name] = _traced(name, module, x, output)
        if not isinstance(module, BatchNorm) and (not isinstance(module, nn.Linear) or x.ndim == 2):
            self.outputs.append((name, output, output._version))
        elif isinstance(module, BatchNorm):
            self._feed(x, name)

    def _feed(self, x: Tensor, batch_norm: str) -> None:
        for name, output, version in self.outputs:
            if output is x and output._version == version and self.found[name].batch_norm is None:
                self.found[name] = self.found[name]._replace(batch_norm=batch_norm)


def _traced(name: str, module: nn.Module, x: Tensor, output: Tensor) -> Traced:
    if isinstance(module, Transposed):
        dims, twin = len(module.kernel_size), convolution(module)
        shape = tuple(output.shape[-1 - dims :])
        if outputs(twin, shape) != x.shape[-dims:]:
            shape = ()  # an output_padding of a stride or more: it is the adjoint of no convolution
        return Traced(name, twin, shape, adjoint=True, owner=module)
    assert isinstance(module, Affine)
    shape = tuple(x.shape[-1 - len(module.kernel_size) :] if isinstance(module, Conv) else x.shape[1:] or x.shape)
    return Traced(name, module, shape, owner=module)


def _projections(attention: nn.MultiheadAttention) -> Iterator[tuple[str, nn.Linear]]:
    """The matrices of an attention, whose first three it keeps in one."""
    stacked = attention.in_proj_weight
    own = (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
    inner = own if stacked is None else stacked.chunk(3)
    for part, weight in zip(("q_proj", "k_proj", "v_proj"), inner, strict=True):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        layer.weight = nn.Parameter(weight.detach(), False)
        yield part, layer
    yield "out_proj", attention.out_proj


class Weights(NamedTuple):
    """The weights of one layer, biases among them, and whether norms, singular values and feature change cover it."""

    layer: str
    type: str
    weights: int
    covered: bool
    reason: str = ""


class NotCoveredWarning(UserWarning):
    """A measure of layers leaves weights out, because no norm is defined for them."""


def coverage(model: nn.Module, run: list[Traced]) -> list[Weights]:
    """Every layer of a model that has weights of its own, each weight once: those that have norms first.

    Args:
        model: the model.
        run: what ``traced`` found.
    """
    reasons = {id(t.owner): t.reason for t in run}
    seen: set[int] = set()
    found = []
    for covered in (True, False):
        for name, module in model.named_modules():
            reason = reasons.get(id(module), _why_not(module))
            if covered != (reason == ""):
                continue
            for label, weights in _own(name, module, whole=covered or isinstance(module, MAPS)):
                fresh = {id(weight): weight.numel() for weight in weights if id(weight) not in seen}
                seen |= fresh.keys()
                if fresh:
                    found.append(Weights(label, type(module).__name__, sum(fresh.values()), covered, reason))
    return found


def _own(name: str, module: nn.Module, whole: bool) -> Iterator[tuple[str, list[nn.Parameter]]]:
    """By label, the parameters of a module: of a layer together, of what contains layers its own by their names."""
    if whole or not any(True for _ in module.children()):
        yield name or "the model", list(module.parameters())
    else:
        prefix = f"{name}." if name else ""
        yield from ((prefix + own, [weight]) for own, weight in module.named_parameters(recurse=False))


def _computes_otherwise(module: nn.Module) -> bool:
    """Whether a user's class computes something else with the weight than the layer that it is derived from."""
    base = next(kind for kind in MAPS if isinstance(module, kind))
    return any(getattr(type(module), name, 0) is not getattr(base, name, 0) for name in ("forward", "_conv_forward"))


def _why_not(module: nn.Module) -> str:
    if isinstance(module, MAPS):
        return "the model does not run it as a module"
    return "no operator norm is defined for it"


def covered_share(found: list[Weights]) -> float:
    """The share of all weights that norms, singular values and feature change cover; 1 without weights."""
    total = sum(each.weights for each in found)
    return sum(each.weights for each in found if each.covered) / total if total else 1.0


def not_covered(found: list[Weights], most: int = 8) -> str:
    """A sentence on the layers that have no norm; empty if all have one."""
    left = [each for each in found if not each.covered]
    if not left:
        return ""
    total, covered = (sum(each.weights for each in group) for group in (found, [e for e in found if e.covered]))
    named = [f"{each.layer} ({each.type}, {each.weights:,}: {each.reason})" for each in left[:most]]
    rest = f" and {len(left) - most} more layers" if len(left) > most else ""
    return f"{covered:,} of {total:,} weights are covered; not covered: {', '.join(named)}{rest}"


def warn_of_rest(model: nn.Module, run: list[Traced]) -> None:
    """Says by a ``NotCoveredWarning`` which weights of a model have no norm."""
    if told := not_covered(coverage(model, run)):
        warnings.warn(f"norms and spectra: {told}", NotCoveredWarning, stacklevel=3)
