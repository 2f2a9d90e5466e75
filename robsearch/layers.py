"""The layers of a network that are linear maps: which there are, how large their inputs are, what feeds what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robsearch.errors import InputError, refusal
from robsearch.modes import evaluating
from robsearch.operators import Affine, Layer, Shape
from robsearch.protocols import Images, PenaltyState


def layers(model: nn.Module) -> Iterator[tuple[str, Layer]]:
    """Name and module of each ``Conv2d`` and ``Linear``, in the model's order.

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
    """A layer that a model ran.

    Attributes:
        name: in the model.
        module: the layer.
        shape: of one input of its first call.
        batch_norm: the name of the BatchNorm that its output goes to as it is, or None; also where that output is
            used elsewhere too. Of several the first.
    """

    name: str
    module: Affine
    shape: Shape
    batch_norm: str | None = None


def traced(model: nn.Module, x: Images) -> list[Traced]:
    """The layers that the model runs on ``x``, in order of execution, by hooks that are gone afterwards.

    ``Conv2d``, ``Linear`` and ``BatchNorm``, also where the weight is frozen or computed from others. One that runs
    more than once counts with its first call. All layers' outputs are kept meanwhile: one image is enough. The model
    is in eval mode meanwhile.
    """
    named = model.named_modules()
    names: dict[nn.Module, str] = {module: name for name, module in named if isinstance(module, Affine)}
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

    def __call__(self, module: Affine, args: tuple[Tensor, ...], kwargs: Mapping[str, Any], output: Tensor) -> None:
        name, x = self.names[module], args[0] if args else kwargs["input"]
        if name in self.found:
            return
        shape = x.shape[-3:] if isinstance(module, nn.Conv2d) else x.shape[1:] or x.shape
        self.found[name] = Traced(name, module, tuple(shape))
        if isinstance(module, nn.Conv2d) or (isinstance(module, nn.Linear) and x.ndim == 2):
            self.outputs.append((name, output, output._version))
        elif not isinstance(module, nn.Linear):
            self._feed(x, name)

    def _feed(self, x: Tensor, batch_norm: str) -> None:
        for name, output, version in self.outputs:
            if output is x and output._version == version and self.found[name].batch_norm is None:
                self.found[name] = self.found[name]._replace(batch_norm=batch_norm)
