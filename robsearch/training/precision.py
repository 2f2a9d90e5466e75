"""Training in bfloat16: which part of a step is computed in 16 bits, and which devices can do that
in hardware."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robsearch.errors import refusal
from robsearch.network.modes import evaluating
from robsearch.protocols import Images, ImageSpec, Logits
from robsearch.recipe import Recipe
from robsearch.training.evaluation import seeded

EMULATE = "ROBSEARCH_EMULATE_BF16"
"""The environment variable that lets a device without the hardware train in bfloat16, slowly."""
CPU_FLAGS = {"amx_bf16", "avx512_bf16", "bf16"}
"""What Linux calls the instructions in ``/proc/cpuinfo``: Intel's, Intel's and AMD's, Arm's."""
CPU_INFO = Path("/proc/cpuinfo")


def precision_problems(recipe: Recipe, device: torch.device) -> list[str]:
    """What is wrong with training a recipe in its precision on a device; empty if nothing is."""
    if recipe.precision == "fp32" or has_bfloat16(device) or os.environ.get(EMULATE) == "1":
        return []
    expected = "a device with bfloat16 in hardware for precision='bf16'"
    do = (
        "train on a GPU of the Ampere generation or later or on a CPU with AMX or AVX512-BF16, or "
        f"pass precision='fp32' ({EMULATE}=1 trains without the hardware, more slowly than fp32)"
    )
    return [refusal(expected, f"a {device.type} without it", do)]


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies matrices of bfloat16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not CPU_INFO.exists():
        return False
    return not CPU_FLAGS.isdisjoint(CPU_INFO.read_text().split())


def network_of(model: nn.Module, recipe: Recipe) -> nn.Module:
    """What a training step calls in place of the model: the model itself in fp32, else a
    ``BFloat16`` around it."""
    if recipe.precision == "fp32":
        return model
    return BFloat16(model, recipe.data.spec)


class BFloat16(nn.Module):
    """A model whose forward and backward are in bfloat16, by torch's autocast.

    In float32 stay the weights, which the optimiser changes; the last linear map or convolution
    that a forward runs; and the logits, so that losses, softmax and WAR's ratio are, too.

    Autocast begins and ends with each forward. In one block around the whole attack it would keep
    the weights that a forward without gradient has rounded, and the training step after it would
    find no way back from these to the weights.

    Args:
        model: images in [0, 1] to logits; its modules and weights are shared, not copied.
        images: of the data set, on which the last layer is looked for.
    """

    def __init__(self, model: nn.Module, images: ImageSpec) -> None:
        super().__init__()
        self.model = model
        self.last = last_layer(model, images)

    def forward(self, x: Images) -> Logits:
        """The logits, (n, k), in float32."""
        device = x.device.type
        last: AbstractContextManager[None] = nullcontext()
        if self.last:
            last = _in_float32(self.model.get_submodule(self.last), device)
        with torch.autocast(device, torch.bfloat16), last:
            logits: Logits = self.model(x)
        return logits.float()


def last_layer(model: nn.Module, images: ImageSpec) -> str:
    """The name of the linear layer or convolution that a forward runs last; empty if it runs
    none."""
    names: list[str] = []
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            handles.append(module.register_forward_hook(lambda *_, name=name: names.append(name)))
    device = next(model.parameters()).device
    try:
        with evaluating(model), torch.no_grad(), seeded(device):
            model(torch.zeros(2, *images.shape, device=device))
    finally:
        for handle in handles:
            handle.remove()
    return names[-1] if names else ""


@contextmanager
def _in_float32(layer: nn.Module, device: str) -> Iterator[None]:
    """Inside the block the layer computes in float32, whatever autocast says."""
    full = torch.autocast(device, enabled=False)

    def enter(
        _: nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        full.__enter__()
        wide = {name: _wide(value) for name, value in kwargs.items()}
        return tuple(map(_wide, args)), wide

    def leave(*_: object) -> None:
        full.__exit__(None, None, None)

    handles = [
        layer.register_forward_pre_hook(enter, with_kwargs=True),
        layer.register_forward_hook(leave, always_call=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _wide(value: Any) -> Any:
    half = isinstance(value, Tensor) and value.is_floating_point()
    return value.float() if half else value
