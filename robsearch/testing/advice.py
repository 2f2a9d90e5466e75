"""What to do about the errors that are met most often when a person writes a part of a recipe."""

from __future__ import annotations

from typing import NamedTuple

UNDER_NO_GRAD = "attacks are called under no_grad: use torch.enable_grad()"


class Advice(NamedTuple):
    """A sentence for an error of one kind of part.

    Attributes:
        words: of the error's text.
        do: what to do.
        kinds: the protocols to whose parts it applies; empty for all.
    """

    words: str
    do: str
    kinds: tuple[str, ...] = ()


ADVICE = (
    Advice("does not require grad", UNDER_NO_GRAD, ("Attack",)),
    Advice(
        "does not require grad",
        "compute it from the images or the logits inside torch.enable_grad(), without detach()",
    ),
    Advice(
        "implicitly created only for scalar outputs",
        "a loss gives one number per image: sum it first, as in "
        "torch.autograd.grad(loss(model(x)).sum(), x)",
    ),
    Advice(
        "positional argument",
        "the loss knows its labels: call loss(model(x))",
        ("Attack",),
    ),
    Advice(
        "'Tensor' object is not callable",
        "inner returns a function: lambda logits: F.cross_entropy(logits, y, reduction='none')",
        ("Objective",),
    ),
    Advice(
        "leaf Variable that requires grad",
        "change weights under torch.no_grad()",
    ),
    Advice("call numpy() on Tensor that requires grad", "return a tensor that is detached"),
    Advice(
        "optimizer can only optimize Tensors",
        "build is given the model: pass model.parameters()",
        ("Optimiser",),
    ),
    Advice(
        "before Module.__init__()",
        "call super().__init__() first in its __init__",
        ("Model",),
    ),
    Advice('missing the required "forward"', "write def forward(self, x)", ("Model",)),
    Advice(
        "shapes cannot be multiplied",
        "build its first layer for images.shape, which build is given",
        ("Model",),
    ),
    Advice(
        "channels, but got",
        "build its first layer for images.shape[0] channels, which build is given",
        ("Model",),
    ),
    Advice("Output size is too small", "pool less: the images are smaller than that", ("Model",)),
    Advice("must have the same dtype", "leave its weights in float32", ("Model",)),
    Advice(
        "division by zero",
        "it is asked from progress 0 to 1, both included",
        ("LearningRate",),
    ),
    Advice(
        "division by zero",
        "a term may be 0: divide by such as max(robust, 1e-12)",
        ("Schedule",),
    ),
    Advice(
        "'NoneType' object is not subscriptable",
        "training.state is None at the beginning: look before you load from it",
        ("TrainingLoop",),
    ),
    Advice(
        "must match the size of tensor",
        "labels are whole numbers (n,) and logits floats (n, classes): F.one_hot(y, classes) "
        "makes them alike",
        ("Objective", "Penalty", "Measure"),
    ),
)


def advice(kind: str, error: BaseException) -> str | None:
    """What to do about an error of a part.

    Args:
        kind: the name of the part's protocol, such as ``Attack``.
        error: that it raised.

    Returns:
        A sentence, or None if the error is none of those that are met often.
    """
    text = str(error)
    for known in ADVICE:
        if known.words in text and (not known.kinds or kind in known.kinds):
            return known.do
    return None
