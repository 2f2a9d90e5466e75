"""The extension points: read this first, then ``recipe.py`` and ``training/trainer.py``.

A recipe is a tree of frozen dataclasses, and each leaf is the thing it describes:
``PGD(eps=8/255)`` is the configuration, the attack, the tracked parameters and the test id. Nothing
is registered; pass your own object. An object fits when it is a frozen dataclass with the methods
below (``robsearch.testing`` checks it). A recipe is known for ever by its digest:
``robsearch.identity`` says what in an object counts towards it.

Symbols: images are floats in [0, 1]; ``eps`` and ``step_size`` are in the same pixel units (8/255);
``lam`` is lambda, the strength of robust regularisation (TRADES' beta).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

from jaxtyping import Float, Int, UInt8
from torch import Tensor, device as Device, nn, optim

from robsearch.metrics import Metrics as Metrics

Images: TypeAlias = Float[Tensor, "n c h w"]
Labels: TypeAlias = Int[Tensor, "n"]
Logits: TypeAlias = Float[Tensor, "n k"]
PerExample: TypeAlias = Float[Tensor, "n"]
PerLayer: TypeAlias = Float[Tensor, "v"]
Scalar: TypeAlias = Float[Tensor, ""]

Loss: TypeAlias = Callable[[Logits], PerExample]
"""What an attack maximises: logits of the perturbed images to one number per example."""

State: TypeAlias = Mapping[str, float]
"""The state of a schedule: plain numbers, so that it survives a checkpoint bit for bit."""

Inner = TypeVar("Inner", bound=Callable[..., Loss | None])
_LABELS_ONLY = "robsearch_labels_only"

PenaltyState: TypeAlias = dict[str, Tensor]
"""The state of a penalty: named tensors, kept in the checkpoint."""


class ImageSpec(NamedTuple):
    """What a model must know of a data set to be built: ``shape`` is (channels, height, width)."""

    shape: tuple[int, int, int]
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Split(NamedTuple):
    """One split of a data set. Images may be a read-only memory map: gather from them, never
    write."""

    images: UInt8[Tensor, "n c h w"]
    labels: Int[Tensor, "n"]


@runtime_checkable
class Dataset(Protocol):
    """A labelled image data set: ``Digits``, ``CIFAR10``."""

    @property
    def spec(self) -> ImageSpec:
        """Shape, classes and normalisation, known without reading the data."""
        ...

    def read(self) -> Mapping[str, Split]:
        """The splits ``train``, ``val`` and ``test`` from their source; ``data.load`` caches them
        in Arrow.

        Raises:
            InputError: the source is not there; names the folder looked in and how to get the data.
        """
        ...


@runtime_checkable
class Model(Protocol):
    """The description of a network: ``MLP``, ``WideResNet``."""

    @property
    def width(self) -> float:
        """The quantity that a search over widths varies (k of a WRN-d-k)."""
        ...

    def build(self, images: ImageSpec) -> nn.Module:
        """A freshly initialised network from images in [0, 1] to logits (normalisation inside)."""
        ...


@runtime_checkable
class Attack(Protocol):
    """Maximises a loss inside a ball: ``PGD``."""

    def __call__(self, model: nn.Module, x: Images, y: Labels, loss: Loss) -> Images:
        """Perturbed images: same shape, inside the ball around ``x``, inside [0, 1], without
        gradient.

        The model is in eval mode during the attack and back in its own mode afterwards, even on an
        error.
        """
        ...


@runtime_checkable
class Objective(Protocol):
    """What is minimised, as two terms; the trainer minimises ``natural + lam * robust``.

    Two attributes are optional, for what a class does not say has its default:

    - ``natural_first``: whether the first term is the loss on clean images alone. True by default;
      set it to False where the first term looks at adversarial images, so that WAR, which steers
      by the ratio of the two, refuses the objective.
    - ``term_names``: two texts that say what the terms are, where the first is not the loss on
      clean images.
    """

    def inner(self, clean_logits: Logits, y: Labels) -> Loss | None:
        """The loss the training attack maximises, or None to train without an attack.

        Marked with ``labels_only`` it does not look at ``clean_logits``, which are then not
        computed.
        """
        ...

    def terms(self, clean_logits: Logits, adv_logits: Logits, y: Labels) -> tuple[Scalar, Scalar]:
        """(natural, robust): batch means, never their sum, because WAR and the record need both."""
        ...


def natural_first(objective: Objective) -> bool:
    """Whether an objective's first term is the loss on clean images alone: yes unless it says
    no."""
    return bool(getattr(objective, "natural_first", True))


def labels_only(inner: Inner) -> Inner:
    """Marks an objective's method ``inner`` that looks at labels alone: it is given logits of no
    class, (n, 0), and a training step saves one forward.

    The mark is the method's own: a subclass that has another ``inner`` is given the logits.
    """
    setattr(inner, _LABELS_ONLY, True)
    return inner


def looks_at_logits(objective: Objective) -> bool:
    """Whether an objective's ``inner`` has to be given the clean logits: yes unless it is marked
    with ``labels_only``."""
    return not getattr(objective.inner, _LABELS_ONLY, False)


@runtime_checkable
class Penalty(Protocol):
    """A regulariser beside the objective: ``NormDecay``, ``AverageMargin``. State in, state out.

    A penalty acts in one or more of three places of an optimiser step: it adds to the loss, changes
    the gradients before the step, or changes the weights after it. A class that inherits from this
    one does nothing in the places that it leaves out.
    """

    def init(self, model: nn.Module) -> PenaltyState:
        """The state before the first optimiser step; empty for most."""
        return {}

    def loss(self, model: nn.Module, clean_logits: Logits, y: Labels) -> Scalar | None:
        """What is added to the training loss, or None."""
        return None

    def before_step(self, model: nn.Module, state: PenaltyState, step: int) -> PenaltyState:
        """Called after backward, with gradients in place, before optimiser step number ``step``
        (from 0)."""
        return state

    def after_step(self, model: nn.Module, state: PenaltyState, step: int) -> PenaltyState:
        """Called after optimiser step number ``step``."""
        return state


@runtime_checkable
class Schedule(Protocol):
    """Lambda over training: ``Fixed``, ``Warmup``. State in, state out."""

    def init(self) -> State:
        """The state before the first optimiser step."""
        ...

    def update(self, state: State, natural: float, robust: float, progress: float) -> State:
        """The next state, after a step with these two terms; ``progress`` in [0, 1] is the share of
        training done."""
        ...

    def lam(self, state: State) -> float:
        """Lambda for the next step: finite and at least 0."""
        ...


@runtime_checkable
class Optimiser(Protocol):
    """How the weights move along the gradient: ``SGD``, ``AdamW``."""

    @property
    def lr(self) -> float:
        """The base learning rate, above 0; a ``LearningRate`` multiplies it over training."""
        ...

    def build(self, model: nn.Module) -> optim.Optimizer:
        """torch's optimiser of all parameters of this model, each once, without state.

        Before each step the trainer sets the ``lr`` of each of its groups, to the base rate times
        the ``LearningRate`` times the group's ``lr_factor``, which is 1 where a group says nothing.
        What else a step depends on is in its ``state_dict``. A network may ask for factors
        (``robsearch.parts.optimisers.LrFactors``); ``parameter_groups`` there makes such groups.
        """
        ...


@runtime_checkable
class LearningRate(Protocol):
    """The learning rate over training: ``Piecewise``, ``Cosine``.

    One attribute is optional: ``first_drop``, the share of training at which it first drops by a
    jump; ``WAR(freeze_at="first_drop")`` takes it from here.
    """

    def __call__(self, progress: float) -> float:
        """The factor on the optimiser's base rate at ``progress`` in [0, 1]."""
        ...


class LoopEpoch(NamedTuple):
    """What a training loop of one's own yields after each pass; a plain tuple of two or three does.

    Attributes:
        metrics: numbers by name, such as ``{"train/loss": 0.3}``. Names that begin with ``val``,
            ``test``, ``time`` or ``memory``, and ``train/lam``, are robsearch's own.
        state: all that the loop needs to go on from here, beside the weights of the network that it
            was given, which are kept anyway: ``{"optimiser": optimiser.state_dict()}``. Of tensors,
            numbers, texts, lists and dicts, for it is read without running code.
        eval_model: the network to judge and deploy, such as an average of weights, if that is not
            the one being trained. It has the same names and shapes.
    """

    metrics: Mapping[str, float]
    state: Mapping[str, Any] = {}
    eval_model: nn.Module | None = None


class Training(Protocol):
    """What a training loop of one's own is given, by robsearch, to train one network."""

    @property
    def recipe(self) -> Any:
        """The ``Recipe`` that is trained."""
        ...

    @property
    def model(self) -> nn.Module:
        """The recipe's network on ``device``, in train mode: freshly made from the recipe's seed,
        or with the weights of the checkpoint. The loop trains it in place."""
        ...

    @property
    def device(self) -> Device:
        """The process's GPU, else the CPU."""
        ...

    @property
    def train(self) -> Split:
        """Images and labels to train on. On a large set the images are a memory map, or no tensor
        but something that is indexed like one."""
        ...

    @property
    def state(self) -> Mapping[str, Any] | None:
        """What the loop has yielded at the checkpoint that this training goes on from, on the CPU;
        None at the beginning."""
        ...

    @property
    def epochs(self) -> Iterator[int]:
        """The epochs that are left, as numbers from 1: ``for epoch in training.epochs:``.

        At the beginning of each, the random numbers of ``random``, NumPy and torch are seeded by
        the recipe's seed and the epoch, so that a training that goes on draws what an unbroken one
        draws.

        Raises:
            InputError: the loop came back for the next epoch without a yield.
        """
        ...

    @property
    def lam(self) -> float:
        """Lambda for the next step, by the recipe's schedule: what the loop multiplies its robust
        term by."""
        ...

    def advance_lam(self, natural: float, robust: float, progress: float) -> None:
        """To be called after each optimiser step where lambda is not constant.

        Args:
            natural: the natural loss term of the step.
            robust: the robust one, without lambda.
            progress: the share of training, in [0, 1], that is done.
        """
        ...

    def batches(self) -> Iterator[tuple[Images, Labels]]:
        """``train`` once, in a fresh random order: images in [0, 1] and labels on ``device``, with
        the recipe's batch size and augmentation.

        Raises:
            InputError: the loop does not name ``batch_size`` in ``uses``.
        """
        ...


@runtime_checkable
class TrainingLoop(Protocol):
    """A training loop of one's own in place of robsearch's, named by ``Recipe.loop``.

    It trains; robsearch judges on ``val`` after each epoch, saves, prunes, stops, goes on from a
    checkpoint, and measures on ``test``.
    """

    @property
    def uses(self) -> tuple[str, ...]:
        """The fields of a recipe for training that the loop reads (``recipe.FOR_TRAINING``), such
        as ``("batch_size", "augment")``; all others are to be left at their defaults, and the
        record has no word of them.

        Lambda and the training attack are no such fields: they are there for every loop.
        """
        ...

    def train(self, training: Training) -> Iterator[LoopEpoch]:
        """Trains ``training.model`` in place, and yields after each epoch of ``training.epochs``.

        A training that goes on from a checkpoint begins here anew, with the saved weights in
        ``training.model`` and what was yielded in ``training.state``.
        """
        ...


class About(NamedTuple):
    """What a measure's numbers are; kept beside them wherever they are written down.

    Attributes:
        kind: what the number is to its quantity.
        unit: such as ``logits`` or ``pixel units``; ``1`` for a pure number.
        source: such as ``arXiv 1907.11780``, with the equation where it has a number.
        norm: in which it is measured, such as ``linf``, or ``linf to l1`` for a map; empty if in
            none.
        span: the range that its histogram covers, the same for every model, or None for a measure
            without one.
    """

    kind: Literal["exact", "lower bound", "upper bound", "estimate"]
    unit: str
    source: str
    norm: str = ""
    span: tuple[float, float] | None = None


ABOUT = ("kind", "unit", "norm", "source")
"""What of ``About`` is written down beside a measure's numbers."""


@runtime_checkable
class Measure(Protocol):
    """One number per example of a trained model: ``LogitMargin``, ``LogitRatio``. The evaluator
    averages."""

    @property
    def name(self) -> str:
        """The metric's stable name, such as ``margin/logit``."""
        ...

    @property
    def about(self) -> About:
        """Kind, unit, source, norm."""
        ...

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> PerExample:
        """The measure at each example; the model is in eval mode and is left untouched."""
        ...


@runtime_checkable
class LayerMeasure(Protocol):
    """One number, or several, for each layer of a trained model: ``LayerNorm``,
    ``SingularValues``."""

    @property
    def name(self) -> str:
        """The metric's stable name, such as ``norms/linf``."""
        ...

    @property
    def about(self) -> About:
        """Kind, unit, source, norm."""
        ...

    def by_layer(self, model: nn.Module, x: Images, y: Labels) -> Mapping[str, PerLayer]:
        """By the layers' names, in the model's order; the model is in eval mode and is left
        untouched.

        ``x`` are examples, or tell what needs none how large the layers' inputs are.
        """
        ...


Augment: TypeAlias = Callable[[Images], Images]
"""A random transformation of a training batch on its own device; draws from torch's global
generator."""

Checkpoint: TypeAlias = dict[str, Any]
