"""What a network has to be before anything is judged by it: found on a few images, in a moment."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from robsearch.errors import counted, refused
from robsearch.network.modes import checked_logits
from robsearch.protocols import Images, Labels
from robsearch.spaces.checking.checked_parts import refuse_weights
from robsearch.testing.promises import slope_fault

ALIKE = 0.02
"""How far an image's logits may move with the images beside it, relative to the largest: a half
float's rounding."""


def check_network(model: nn.Module, x: Images, y: Labels, classes: int) -> None:
    """Looks at a network in eval mode: logits of the right shape, finite weights and logits, one
    image's logits alone by itself, and a gradient for attacks to follow.

    Args:
        model: in eval mode.
        x: a few images in [0, 1], at least two of them for the look at neighbours.
        y: their labels.
        classes: of the data.

    Raises:
        InputError: the first that it is not.
    """
    before = x.clone()
    with torch.no_grad():
        logits = model(x)
        repeated = model(x)
        refuse_shape(logits, len(x), classes)
        if not torch.equal(x, before):
            raise refused(
                "images left as they are", "a change in them", "use no operation in place"
            )
        refuse_weights(model)
        checked_logits(model, x, y)
        # Else it draws at random, and nothing can be compared.
        if torch.equal(logits, repeated):
            _compare_alone(model, x, logits)
    leaf = before.requires_grad_()
    with torch.enable_grad():
        fault = slope_fault(model(leaf), leaf)
    if fault:
        raise refused("a finite gradient of the logits in the image", fault, "attacks follow it")


def _compare_alone(model: nn.Module, x: Images, logits: Tensor) -> None:
    tolerance = ALIKE * float(logits.abs().max())
    for n in {1, len(x) - 1} - {0}:
        alone = model(x[:n])
        refuse_shape(alone, n, logits.shape[1])
        if not torch.allclose(alone, logits[:n], rtol=0, atol=tolerance):
            expected = "an image's logits not to depend on the images beside it"
            why = "accuracy would depend on its size"
            raise refused(expected, "others", f"use no statistics of the batch in eval mode: {why}")


def refuse_shape(logits: Any, n: int, classes: int) -> None:
    """Refuses what is no row of floats for each image, one for each class."""
    if not isinstance(logits, Tensor):
        got = f"a {type(logits).__name__}"
        raise refused(f"logits of shape ({n}, {classes})", got, "return one tensor")
    if logits.shape != (n, classes) or not logits.is_floating_point():
        got = f"logits of shape {tuple(logits.shape)} for {counted(n, 'image')}, {logits.dtype}"
        raise refused(
            f"floats of shape ({n}, {classes})", got, "return one row of logits per image"
        )
