"""A network that does not begin at random weights but at those of a file."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from torch import nn

from robsearch.errors import InputError, instance_of, refuse, refuse_unless, refused
from robsearch.network.weights import content_sha256, load_weights, read_weights
from robsearch.protocols import ImageSpec, Model


@final
@dataclass(frozen=True)
class Pretrained:
    """A network that begins at the weights of a file, such as another program's checkpoint.

        Recipe(model=Pretrained(WideResNet(28, width), f"weights/w{width:g}.pt"), ...)

    A file has the weights of one width. Where a search has several, give each a file of its own;
    a file that does not fit a width's shapes is refused when the network is built, by ``check``
    and before a launch. The recipe's digest has the file's content in place of its path: whoever
    has the same file elsewhere has the same recipe. The path must be one that all nodes share.

    What is in the file is read without running it (``robsearch.network.weights``).

    Attributes:
        model: whose weights they are.
        weights: the path of a state dict, of torch or of safetensors; made absolute.
        key: the name in the checkpoint under which the weights are; by default the customary one
            that is there.
        sha256: of the file's bytes. Filled in from the file; given, it must be the file's.

    Raises:
        InputError: a field of another kind, no such file, or another content than ``sha256`` says.
    """

    model: Model
    weights: str | Path = field(compare=False)
    key: str | None = None
    sha256: str = ""

    def __post_init__(self) -> None:
        is_path = isinstance(self.weights, str | Path)
        do = "pass such as 'weights.pt'"
        refuse_unless(
            instance_of("Pretrained.model", self.model, Model, "WideResNet(28, 4)"),
            (is_path, "Pretrained.weights as a path", repr(self.weights), do),
        )
        # Of a user that nobody knows, ``~user`` stays as it is.
        file = Path(os.path.expanduser(self.weights)).absolute()
        # A dataclass that is frozen is changed so while it is made.
        object.__setattr__(self, "weights", str(file))
        sha256 = content_sha256(file)
        self._refuse_other_content(sha256)
        object.__setattr__(self, "sha256", sha256)

    @property
    def width(self) -> float:
        """That of the network."""
        return self.model.width

    @property
    def has_own_rates(self) -> bool:
        """Whether the network's layers have learning rates of their own."""
        return bool(getattr(self.model, "has_own_rates", False))

    def build(self, images: ImageSpec) -> nn.Module:
        """A new network from images ``(n, c, h, w)`` in [0, 1] to logits ``(n, k)``, with the
        file's weights.

        Raises:
            InputError: the file is not there any more, has changed, or does not fit the network.
        """
        model = self.model.build(images)
        saved = read_weights(Path(self.weights), self.key)
        self._refuse_other_content(saved.sha256)
        try:
            load_weights(model, saved)
        except InputError as error:
            refuse(f"at width {self.width:g}: {problem}" for problem in error.problems)
        return model

    def _refuse_other_content(self, sha256: str) -> None:
        if self.sha256 not in ("", sha256):
            expected = f"a file of the SHA-256 {self.sha256} at {self.weights}"
            do = "bring back the file that the recipe was made with"
            raise refused(expected, sha256, do)
