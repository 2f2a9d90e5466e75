"""Random transformations of a training batch, on the batch's own device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from robsearch.errors import is_whole, refuse_unless
from robsearch.protocols import Images


@dataclass(frozen=True)
class CropFlip:
    """Random crop after zero padding, then a horizontal flip with probability 1/2, independently
    per image.

    The usual augmentation of CIFAR-10; ``CropFlip(flip=False)`` is for images whose mirror is
    something else, such as digits. Every one of the ``(2 padding + 1)**2`` crops is equally likely.
    Draws from torch's global generator of the batch's device.

    Attributes:
        padding: pixels of zeros on each side before the crop; 0 only flips.
        flip: whether to mirror half of the images.

    Raises:
        InputError: ``padding`` is not a whole number of pixels >= 0.
    """

    padding: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        fits = is_whole(self.padding) and self.padding >= 0
        refuse_unless(
            (
                fits,
                "padding >= 0, in whole pixels",
                self.padding,
                "use 4 for CIFAR-10",
            )
        )

    def __call__(self, x: Images) -> Images:
        """A new batch ``(n, c, h, w)`` of the same type and device; ``x`` is left as it was."""
        n, c, h, w = x.shape
        device = x.device
        top, left = torch.randint(2 * self.padding + 1, (2, n, 1), device=device)
        rows = top + torch.arange(h, device=device)
        columns = torch.arange(w, device=device).expand(n, w)
        if self.flip:
            mirrored = torch.rand(n, 1, device=device) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        columns = left + columns
        padded = F.pad(x, [self.padding] * 4)
        # One index for each axis, which together span (n, c, h, w).
        return padded[
            torch.arange(n, device=device)[:, None, None, None],
            torch.arange(c, device=device)[:, None, None],
            rows[:, None, :, None],
            columns[:, None, None, :],
        ]
