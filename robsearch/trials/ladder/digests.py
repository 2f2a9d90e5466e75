"""Names of what a ladder is of: a network with its weights, images and labels."""

from __future__ import annotations

import hashlib
import re

import torch
from torch import Tensor, nn

from robsearch.identity import former_home
from robsearch.protocols import Split
from robsearch.training.streaming import StreamedImages

TOGETHER = 256
"""Streamed images that are hashed at a time."""


def network_digest(model: nn.Module) -> str:
    """Names a network: its parts in order, its parameters and all its buffers, on whatever device
    they are."""
    # A network moves with its module: digests keep the name that the module had first.
    kinds = [type(part) for part in model.modules()]
    types = [f"{former_home(kind.__module__)}.{kind.__qualname__}" for kind in kinds]
    # The repr of a function has its address, which differs in each process.
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(model))
    tensors: list[object] = []
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        tensors += [name, tensor]
    return digest(text, types, *tensors)


def split_digest(split: Split) -> str:
    """Names images and labels, on whatever device they are."""
    return digest(split.images, split.labels.long())


def digest(*parts: object) -> str:
    """16 hexadecimal digits from tensors, by type, shape and bytes, and from anything else by its
    ``repr``."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            sha.update(repr((part.dtype, tuple(part.shape))).encode())
            sha.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        elif isinstance(part, StreamedImages):
            # What a tensor of them would give.
            sha.update(repr((torch.uint8, part.shape)).encode())
            for start in range(0, len(part), TOGETHER):
                images = part.copied(slice(start, start + TOGETHER))
                sha.update(images.flatten().numpy().data)
        else:
            sha.update(repr(part).encode())
        sha.update(b"\0")
    return sha.hexdigest()[:16]
