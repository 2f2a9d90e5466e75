"""How far an attack moves each layer's features."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robsearch.errors import instance_of, refuse_unless
from robsearch.measures.accuracy import attack_prediction
from robsearch.network.draws import at_once, in_parts
from robsearch.network.layers import MAPS, NotCoveredWarning
from robsearch.network.modes import checked_logits, evaluating
from robsearch.network.operators import BatchNorm
from robsearch.protocols import About, Attack, Images, Labels, PerExample, PerLayer


@dataclass(frozen=True)
class FeatureChange:
    """``||phi_l(x') - phi_l(x)||_2 / ||phi_l(x)||_2`` of each layer ``l``'s output ``phi_l`` (arXiv
    2011.07478).

    ``x'`` comes from the attack on the cross-entropy against the prediction ``yhat(x)``, as for the
    rates: the numbers are exact for this ``x'``, another attack gives others. The layers are the
    model's convolutions, transposed ones, linear layers and ``nn.MultiheadAttention``, each at its
    first call; those that the model does not run are left out. Images may be in any dimension of an
    output, each with its windows or tokens behind one another; where they cannot be told apart, a
    ``NotCoveredWarning`` names the layer. Where ``phi_l(x)`` is zero, or next to nothing beside
    ``phi_l(x')``, it counts as ``r ||phi_l(x')||`` with ``r`` the rounding of its dtype: the change
    is then ``1 / r``, 8e6 in float32, rather than infinite, and none is larger than ``1 + 1 / r``.
    Zero to zero is no change.

    Attributes:
        attack: such as ``PGD(steps=20)``.

    Raises:
        InputError: ``attack`` is not one.
    """

    attack: Attack

    def __post_init__(self) -> None:
        refuse_unless(instance_of("FeatureChange.attack", self.attack, Attack))

    name: ClassVar[str] = "features/change"
    about: ClassVar[About] = About("exact", "1", "arXiv 2011.07478", norm="l2")

    def by_layer(self, model: nn.Module, x: Images, y: Labels) -> Mapping[str, PerLayer]:
        """The relative change of each example, (n,), by the layers' names in the model's order.

        One forward pass, of ``x`` and ``x'`` together, and one of a single image, beside the
        attack's. No features are kept, but of that image.

        Raises:
            InputError: images outside [0, 1], also the attack's; labels out of range; logits or
                features not finite.
        """
        # Half of what memory has room for: an image and its attacked copy go together.
        images_at_once = at_once() or 2 * len(x)
        size = max(images_at_once // 2, 1)
        parts = [self._changes(model, *part) for part in in_parts(x.detach(), y, size)]
        changes = {}
        for name, _ in _maps(model):
            if all(name in part for part in parts):
                changes[name] = torch.cat([part[name] for part in parts])
        bad = [name for name, change in changes.items() if not change.isfinite().all()]
        got = f"NaN or infinity in {', '.join(bad)}"
        refuse_unless((not bad, "finite features", got, "look at the weights"))
        return changes

    def _changes(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
    ) -> dict[str, PerExample]:
        alone: dict[str, Tensor] = {}
        changes: dict[str, PerExample] = {}

        def remember(name: str, output: Tensor) -> None:
            alone.setdefault(name, output.clone())

        def compare(name: str, output: Tensor) -> None:
            if name in changes or name not in alone:
                return
            rows = _by_image(output, alone[name], 2 * len(x))
            if rows is not None:
                changes[name] = _change(*rows.split(len(x)))

        with evaluating(model), torch.no_grad():
            prediction = checked_logits(model, x, y).argmax(dim=1)
            x_adv = attack_prediction(self.attack, model, x, prediction)
            # One image by itself tells which dimension of an output the images are in.
            with _watched(model, remember):
                checked_logits(model, x[:1], y[:1])
            with _watched(model, compare):
                checked_logits(model, torch.cat([x, x_adv]), torch.cat([y, y]))
        left_out = ", ".join(name for name in alone if name not in changes)
        if left_out:
            reason = "images cannot be told apart in its output"
            message = f"features/change leaves out {left_out}: {reason}"
            warnings.warn(message, NotCoveredWarning, stacklevel=3)
        return changes


def _maps(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Convolutions, linear layers and attentions, by their names."""
    for name, module in model.named_modules():
        if isinstance(module, MAPS) and not isinstance(module, BatchNorm):
            yield name, module


@contextmanager
def _watched(model: nn.Module, observe: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Inside the block each layer's outputs are observed; afterwards no hook is left, even on an
    error."""
    handles = []
    for name, layer in _maps(model):
        hook = partial(_pass_on, observe, name)
        handles.append(layer.register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pass_on(
    observe: Callable[[str, Tensor], None],
    name: str,
    layer: nn.Module,
    inputs: object,
    output: Any,
) -> None:
    """A hook: an attention's output is a pair, of which the first is observed."""
    if isinstance(layer, nn.MultiheadAttention):
        output = output[0]
    observe(name, output.detach())


def _by_image(output: Tensor, alone: Tensor, images: int) -> Tensor | None:
    """The features of each image, (images, v), whichever dimension images are in; None if they
    cannot be told apart.

    Args:
        output: of all images.
        alone: of the first image by itself, which ``output`` has to begin with.
        images: how many there are.
    """
    differing = []
    for dimension, length in enumerate(alone.shape):
        if output.shape[dimension] != length:
            differing.append(dimension)
    if len(differing) != 1:
        return None
    dimension = differing[0]
    length = alone.shape[dimension]
    if output.shape[dimension] != images * length:
        return None
    by_image = output.movedim(dimension, 0).unflatten(0, (images, -1))
    rows: Tensor = by_image.flatten(1)
    if length == 1:
        return rows
    first = alone.movedim(dimension, 0).flatten()
    tolerance = 0.01 * first.abs().max().item()
    if not torch.allclose(rows[0], first, rtol=0.1, atol=tolerance):
        return None
    return rows


def _change(clean: Tensor, moved: Tensor) -> PerExample:
    """In float64, where no float32 feature's square over- or underflows; given back in the
    features' own dtype."""
    exact = torch.promote_types(clean.dtype, torch.float32)
    move = _length(moved.to(exact) - clean.to(exact))
    rounding = _length(moved) * torch.finfo(exact).eps
    floor = rounding.clamp_min(torch.finfo(torch.float64).tiny)
    start = torch.maximum(_length(clean), floor)
    return (move / start).to(exact)


def _length(rows: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return length
