"""How far an attack moves each layer's features."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robsearch.draws import at_once, in_parts
from robsearch.errors import InputError, refusal
from robsearch.layers import MAPS, NotCoveredWarning
from robsearch.modes import checked_logits, evaluating
from robsearch.operators import BatchNorm
from robsearch.protocols import About, Attack, Images, Labels, PerExample, PerLayer


@dataclass(frozen=True)
class FeatureChange:
    """``||phi_l(x') - phi_l(x)||_2 / ||phi_l(x)||_2`` of each layer ``l``'s output ``phi_l`` (arXiv 2011.07478).

    ``x'`` comes from the attack on the cross-entropy against the prediction ``yhat(x)``, as for the rates: the
    numbers are exact for this ``x'``, another attack gives others. The layers are the model's convolutions,
    transposed ones, linear layers and ``nn.MultiheadAttention``, each at its first call; those that the model does
    not run are left out. Images may be in any dimension of an output, each with its windows or tokens behind one
    another; where they cannot be told apart, a ``NotCoveredWarning`` names the layer. Where ``phi_l(x)`` is zero,
    or next to nothing beside ``phi_l(x')``, it counts as ``r ||phi_l(x')||`` with ``r`` the rounding of its dtype:
    the change is then ``1 / r``, 8e6 in float32, rather than infinite, and none is larger than ``1 + 1 / r``. Zero
    to zero is no change.

    Attributes:
        attack: such as ``PGD(steps=20)``.

    Raises:
        InputError: ``attack`` is not one.
    """

    attack: Attack

    def __post_init__(self) -> None:
        if isinstance(self.attack, type) or not isinstance(self.attack, Attack):
            raise InputError(refusal("an Attack", repr(self.attack), "pass an instance, such as PGD()"))

    @property
    def name(self) -> str:
        """``features/change``."""
        return "features/change"

    @property
    def about(self) -> About:
        """Exact, a pure number."""
        return About("exact", "1", "arXiv 2011.07478", norm="l2")

    def by_layer(self, model: nn.Module, x: Images, y: Labels) -> Mapping[str, PerLayer]:
        """The relative change of each example, (n,), by the layers' names in the model's order.

        One forward pass, of ``x`` and ``x'`` together, and one of a single image, beside the attack's. No features
        are kept, but of that image.

        Raises:
            InputError: images outside [0, 1], also the attack's; labels out of range; logits or features not finite.
        """
        size = max((at_once() or 2 * len(x)) // 2, 1)
        parts = [self._moved(model, *part) for part in in_parts(x.detach(), y, size)]
        everywhere = [name for name in parts[0] if all(name in part for part in parts)]
        found = {name: torch.cat([part[name] for part in parts]) for name in everywhere}
        bad = [name for name, change in found.items() if not bool(change.isfinite().all())]
        if bad:
            raise InputError(refusal("finite features", f"NaN or infinity in {', '.join(bad)}", "look at the weights"))
        return {name: found[name] for name, _ in _maps(model) if name in found}

    def _moved(self, model: nn.Module, x: Images, y: Labels) -> dict[str, PerExample]:
        with evaluating(model), torch.no_grad():
            before = checked_logits(model, x, y).argmax(dim=1)
            x_adv = self.attack(model, x, before, lambda z: F.cross_entropy(z, before, reduction="none"))
            alone: dict[str, Tensor] = {}
            found: dict[str, PerExample] = {}

            def note(name: str, output: Tensor) -> None:
                rows = _by_image(output, alone[name], 2 * len(x)) if name in alone and name not in found else None
                if rows is not None:
                    found[name] = _change(*rows.split(len(x)))

            with _watched(model, lambda name, output: alone.setdefault(name, output.clone())):
                checked_logits(model, x[:1], y[:1])
            with _watched(model, note):
                checked_logits(model, torch.cat([x, x_adv]), torch.cat([y, y]))
        if lost := ", ".join(name for name in alone if name not in found):
            told = f"features/change leaves out {lost}: images cannot be told apart in its output"
            warnings.warn(told, NotCoveredWarning, stacklevel=3)
        return found


def _maps(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Convolutions, linear layers and attentions, by their names."""
    for name, module in model.named_modules():
        if isinstance(module, MAPS) and not isinstance(module, BatchNorm):
            yield name, module


@contextmanager
def _watched(model: nn.Module, note: Callable[[str, Tensor], object]) -> Iterator[None]:
    """Inside the block each layer's outputs are noted; afterwards no hook is left, even on an error."""
    handles = [layer.register_forward_hook(_hook(name, note)) for name, layer in _maps(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(name: str, note: Callable[[str, Tensor], object]) -> Callable[[nn.Module, object, Any], None]:
    def hook(layer: nn.Module, inputs: object, output: Any) -> None:
        if isinstance(layer, nn.MultiheadAttention):
            output = output[0]
        note(name, output.detach())

    return hook


def _by_image(output: Tensor, alone: Tensor, images: int) -> Tensor | None:
    """The features of each image, (images, v), whichever dimension images are in; None if they cannot be told apart.

    Args:
        output: of all images.
        alone: of the first image by itself, which ``output`` has to begin with.
        images: how many there are.
    """
    where = [d for d, (many, one) in enumerate(zip(output.shape, alone.shape, strict=True)) if many != one]
    if len(where) != 1 or output.shape[where[0]] != images * alone.shape[where[0]]:
        return None
    rows = output.movedim(where[0], 0).unflatten(0, (images, -1)).flatten(1)
    first = alone.movedim(where[0], 0).flatten()
    order = alone.shape[where[0]] == 1 or torch.allclose(rows[0], first, rtol=0.1, atol=0.01 * first.abs().max().item())
    return rows if order else None


def _change(clean: Tensor, moved: Tensor) -> PerExample:
    """In float64, where no float32 feature's square over- or underflows; given back in the features' own dtype."""
    exact = torch.promote_types(clean.dtype, torch.float32)
    start, end, move = (
        torch.linalg.vector_norm(part, dim=1, dtype=torch.float64)
        for part in (clean, moved, moved.to(exact) - clean.to(exact))
    )
    floor = (end * torch.finfo(exact).eps).clamp_min(torch.finfo(torch.float64).tiny)
    change: PerExample = (move / torch.maximum(start, floor)).to(exact)
    return change
