"""Opens a network that robsearch exported. A copy comes with each model, so this file needs torch
only.

What is saved names this module and ``opened``: where either must change, the module gets another
name.
"""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor, fx, nn


class Exported(nn.Module):
    """A program of ``torch.export`` as MLflow saves it; reading it back gives what ``opened``
    gives.

    Args:
        program: the bytes of a ``pt2`` archive.
        one_by_one: whether the program takes one image, not any number of them.
    """

    def __init__(self, program: bytes, one_by_one: bool) -> None:
        super().__init__()
        self.saved = torch.frombuffer(bytearray(program), dtype=torch.uint8)
        self.one_by_one = one_by_one

    def __reduce__(self) -> tuple[object, ...]:
        return opened, (self.saved, self.one_by_one)


class OneByOne(nn.Module):
    """A network that torch could export for one image only: it is called once for each image."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """The logits of any number of images but none."""
        return torch.cat([self.network(image) for image in images.split(1)])


def opened(saved: Tensor, one_by_one: bool) -> nn.Module:
    """The network in eval mode, on the device of ``saved`` (which is the ``map_location`` of
    ``torch.load``).

    The mode is part of the program: ``train()`` and ``eval()`` set ``training`` and change no
    number.
    """
    program = torch.export.load(io.BytesIO(saved.cpu().numpy().tobytes())).module()
    del program.train, program.eval  # torch replaced these two by functions that only raise
    _follow_the_images(program)
    network = OneByOne(program) if one_by_one else program
    return network.eval().to(saved.device)


def _follow_the_images(program: fx.GraphModule) -> None:
    """Makes new tensors on the images' device, not where the network was exported, and takes any
    floating type."""
    graph = program.graph
    images = next(node for node in graph.nodes if node.op == "placeholder")
    with graph.inserting_after(images):
        device = graph.call_function(getattr, (images, "device"))

    def moved(argument: Any) -> Any:
        return device if isinstance(argument, torch.device) else argument

    for node in list(graph.nodes):
        # It would insist on the type and the device of the export.
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            graph.erase_node(node)
            continue
        node.args = fx.node.map_aggregate(node.args, moved)
        node.kwargs = fx.node.map_aggregate(node.kwargs, moved)
    program.recompile()
