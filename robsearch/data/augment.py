"""Random transformations of a training batch, on the batch's own device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from robsearch.errors import InputError, refusal
from robsearch.protocols import Images


@dataclass(frozen=True)
class CropFlip:
    """Random crop after zero padding, then a horizontal flip with probability 1/2, independently per image.

    The usual augmentation of CIFAR-10 (``padding=4``); ``padding=0`` only flips. Every one of the
    ``(2 padding + 1)**2`` crops is equally likely. Draws from torch's global generator of the batch's device.

    Raises:
        InputError: ``padding`` is not a whole number of pixels >= 0.
    """

    padding: int = 4

    def __post_init__(self) -> None:
        if isinstance(self.padding, bool) or not isinstance(self.padding, int) or self.padding < 0:
            raise InputError(refusal("padding >= 0, in whole pixels", self.padding, "use 4 for CIFAR-10"))

    def __call__(self, x: Images) -> Images:
        """A new batch ``(n, c, h, w)`` of the same type and device; ``x`` is left as it was."""
        n, c, h, w = x.shape
        top, left = torch.randint(2 * self.padding + 1, (2, n, 1), device=x.device)
        flip = torch.rand(n, 1, device=x.device) < 0.5
        forward = torch.arange(w, device=x.device)
        rows = top + torch.arange(h, device=x.device)
        columns = left + torch.where(flip, forward.flip(0), forward)
        image = torch.arange(n, device=x.device)[:, None, None, None]
        channel = torch.arange(c, device=x.device)[None, :, None, None]
        return F.pad(x, [self.padding] * 4)[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
