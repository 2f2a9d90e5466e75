"""Spaces with the mistakes that a person makes when writing a first one: each has one."""

import dataclasses
from typing import ClassVar

import torch
import torch.nn.functional as F
from small_spaces import recipe
from torch import nn

from robsearch import (
    MLP,
    PGD,
    SGD,
    TRADES,
    WAR,
    Cosine,
    Digits,
    Fixed,
    Folder,
    Mixed,
    NormDecay,
    NpzImages,
    Recipe,
    WideResNet,
    space,
)
from robsearch.network.modes import evaluating
from robsearch.protocols import About, ImageSpec, Split


def made(define):
    return space(widths=(4, 8, 16))(define)


def lam(trial):
    return trial.suggest_float("lam", 0.5, 32.0, log=True)


def with_parts(**parts):
    """A space whose recipes have these parts: functions of the width make them."""

    def define(trial, width):
        changes = {name: make(width) for name, make in parts.items()}
        return recipe(width, lam(trial), **changes)

    return made(define)


# --- parameters ---


@made
def number_for_lambda(trial, width):
    return Recipe(model=MLP(width=width, depth=1), data=Digits(train=100), lam=lam(trial))


@made
def upside_down(trial, width):
    return recipe(width, trial.suggest_float("lam", 32.0, 0.5))


@made
def log_of_zero(trial, width):
    return recipe(width, trial.suggest_float("lam", 0, 32.0, log=True))


@made
def no_such_method(trial, width):
    return recipe(width, trial.suggest_log("lam", 0.5, 32.0))


@made
def objects_to_choose_from(trial, width):
    return recipe(width, objective=trial.suggest_categorical("objective", [TRADES()]))


@made
def negative(trial, width):
    return recipe(width, Fixed(-lam(trial)))


# --- what it returns ---


@made
def nothing(trial, width):
    recipe(width, lam(trial))


@made
def forgets_the_width(trial, width):
    return recipe(4, lam(trial))


@made
def fails(trial, width):
    return recipe(width, {4: 1.0}[width + 1] * lam(trial))


@made
def unknown_field(trial, width):
    return Recipe(model=MLP(width=width), data=Digits(), lambda_=Fixed(lam(trial)))


@made
def nothing_drops(trial, width):
    steered = WAR(target=lam(trial), lam_init=1.0, freeze_at="first_drop")
    return recipe(width, steered, learning_rate=Cosine())


pixels_of_255 = with_parts(attack=lambda width: PGD(eps=8, step_size=0.1))
a_class = with_parts(attack=lambda width: PGD)
capitals = with_parts(attack=lambda width: PGD(norm="Linf"))
words_for_epochs = with_parts(epochs=lambda width: "ten")
torchs_network = with_parts(model=lambda width: nn.Linear(64, 10))
torchs_optimiser = with_parts(optimiser=lambda width: torch.optim.SGD)
a_name_for_data = with_parts(data=lambda width: "cifar10")
no_comma = with_parts(penalties=lambda width: NormDecay())
even_depth = with_parts(model=lambda width: WideResNet(depth=27, width=width))
backwards = with_parts(optimiser=lambda width: SGD(lr=-0.1))
too_many_images = with_parts(data=lambda width: Digits(train=100_000))


# --- folders, in the folder in which the test runs ---

no_folder = with_parts(data=lambda width: Folder("no_such_folder", size=(8, 8)))
empty_folder = with_parts(data=lambda width: Folder("empty", size=(8, 8)))
flat_folder = with_parts(data=lambda width: Folder("flat", size=(8, 8)))
mixed_sizes = with_parts(data=lambda width: Folder("mixed", size=(8, 8), val=2))
one_size = with_parts(data=lambda width: Folder("mixed", size=8))


# --- extra images, in files that lie there ---


def extra_of(file, share=0.7):
    return with_parts(data=lambda width: Mixed(Digits(), extra=NpzImages(file), share=share))


no_extra_file = extra_of("no_such.npz")
text_for_extra = extra_of("words.csv")
extra_without_labels = extra_of("unlabelled.npz")
no_extra_images = extra_of("none.npz")
extra_in_colour = extra_of("colours.npz")
extra_of_twelve = extra_of("twelve.npz")
all_extra = extra_of("generated.npz", share=1.0)
percent_of_extra = extra_of("generated.npz", share=70)
path_for_extra = with_parts(data=lambda width: Mixed(Digits(), extra="generated.npz"))
only_extra = with_parts(data=lambda width: NpzImages("generated.npz"))


# --- parts of one's own ---


@dataclasses.dataclass(frozen=True)
class WithoutGrad:
    eps: float = 0.1

    def __call__(self, model, x, y, loss):
        x = x.clone().requires_grad_()
        with evaluating(model):
            (slope,) = torch.autograd.grad(loss(model(x)).sum(), x)
        return (x + self.eps * slope.sign()).clamp(0, 1).detach()


@dataclasses.dataclass(frozen=True)
class Backward:
    eps: float = 0.1

    def __call__(self, model, x, y, loss):
        with evaluating(model), torch.enable_grad():
            x = x.clone().requires_grad_()
            loss(model(x)).sum().backward()
        return (x + self.eps * x.grad.sign()).clamp(0, 1).detach()


@dataclasses.dataclass(frozen=True)
class WithoutLoss:
    def __call__(self, model, x, y):
        return x.clone()


@dataclasses.dataclass(frozen=True)
class FromOneBatch:
    def inner(self, clean_logits, y):
        return lambda adv_logits: F.cross_entropy(adv_logits, y, reduction="none")

    def terms(self, logits, y):
        return F.cross_entropy(logits, y)


@dataclasses.dataclass(frozen=True)
class InnerValue(TRADES):
    def inner(self, clean_logits, y):
        return F.cross_entropy(clean_logits, y, reduction="none")


@dataclasses.dataclass(frozen=True)
class Sum(TRADES):
    def terms(self, clean_logits, adv_logits, y):
        natural, robust = super().terms(clean_logits, adv_logits, y)
        return natural + robust


@dataclasses.dataclass(frozen=True)
class ForMNIST:
    width: float

    def build(self, images):
        return nn.Sequential(nn.Flatten(), nn.Linear(784, images.num_classes))


@dataclasses.dataclass(frozen=True)
class ForColours:
    width: float

    def build(self, images):
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(10))


@dataclasses.dataclass(frozen=True)
class FiveClasses:
    width: float

    def build(self, images):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 5))


@dataclasses.dataclass(frozen=True)
class Mean:
    name: str = "mean"
    about: About = About("exact", "logits", "none")  # noqa: RUF009 - a named tuple

    def __call__(self, model, x, y):
        return model(x).mean()


@dataclasses.dataclass(frozen=True)
class Floats:
    @property
    def spec(self):
        return ImageSpec((1, 4, 4), 3, (0.5,), (0.25,))

    def read(self):
        labels = torch.arange(40) % 3
        return {name: Split(torch.rand(40, 1, 4, 4), labels) for name in ("train", "val", "test")}


@dataclasses.dataclass(frozen=True)
class YieldsATensor:
    """A training loop that forgets ``.item()``."""

    uses: ClassVar[tuple[str, ...]] = ()

    def train(self, training):
        for _ in training.epochs:
            yield {"train/loss": training.lam * torch.ones(())}, {}


@made
def loop_beside_an_optimiser(trial, width):
    fields = {"data": Digits(train=100), "lam": Fixed(lam(trial)), "optimiser": SGD(lr=0.5)}
    return Recipe(model=MLP(width=width), loop=YieldsATensor(), **fields)


@made
def loop_yields_a_tensor(trial, width):
    attack = PGD(eps=0.1, steps=2)
    fields = {"data": Digits(train=100), "lam": Fixed(lam(trial)), "attack": attack}
    return Recipe(model=MLP(width=width), loop=YieldsATensor(), measures=(), **fields)


without_grad = with_parts(eval_attack=lambda width: WithoutGrad())
with_backward = with_parts(attack=lambda width: Backward())
without_loss = with_parts(attack=lambda width: WithoutLoss())
from_one_batch = with_parts(objective=lambda width: FromOneBatch())
inner_value = with_parts(objective=lambda width: InnerValue())
one_sum = with_parts(objective=lambda width: Sum())
for_mnist = with_parts(model=ForMNIST)
for_colours = with_parts(model=ForColours)
five_classes = with_parts(model=FiveClasses)
one_mean = with_parts(measures=lambda width: (Mean(),))
float_images = with_parts(data=lambda width: Floats())


# --- how it is searched ---


def searched(**how):
    return space(widths=(4, 8), **how)(lambda trial, width: recipe(width, lam(trial)))


start_elsewhere = searched(start_with=({"lamda": 6.0},))
maximises_nothing = searched(maximise=("accuracy",))
learns_from_nobody = searched(learn_from=("no-such-search",))
learns_from_words = searched(learn_from=("words.csv",))
