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

    The usual augmentation of CIFAR-10; ``CropFlip(flip=False)`` is for images whose mirror is something else,
    such as digits. Every one of the ``(2 padding + 1)**2`` crops is equally likely. Draws from torch's global
    generator of the batch's device.

    Attributes:
        padding: pixels of zeros on each side before the crop; 0 only flips.
        flip: whether to mirror half of the images.

    Raises:
        InputError: ``padding`` is not a whole number of pixels >= 0.
    """

    padding: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.padding, bool) or not isinstance(self.padding, int) or self.padding < 0:
            raise InputError(refusal("padding >= 0, in whole pixels", self.padding, "use 4 for CIFAR-10"))

    def __call__(self, x: Images) -> Images:
        """A new batch ``(n, c, h, w)`` of the same type and device; ``x`` is left as it was."""
        n, c, h, w = x.shape
        top, left = torch.randint(2 * self.padding + 1, (2, n, 1), device=x.device)
        forward = torch.arange(w, device=x.device)
        rows, columns = top + torch.arange(h, device=x.device), left + forward
        if self.flip:
            mirrored = torch.rand(n, 1, device=x.device) < 0.5
            columns = left + torch.where(mirrored, forward.flip(0), forward)
        image = torch.arange(n, device=x.device)[:, None, None, None]
        channel = torch.arange(c, device=x.device)[None, :, None, None]
        return F.pad(x, [self.padding] * 4)[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
