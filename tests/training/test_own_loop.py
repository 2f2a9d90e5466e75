"""A training loop of a user's own: what it is given, what comes of it, and what is refused."""

import dataclasses
import re
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_loops import Averaging, Momentum, recipe
from torch import nn

from robsearch import WAR, AdamW, Fixed, InputError, RobustOverfittingStopper, Standard, train
from robsearch.protocols import Split
from robsearch.spaces.checking.first_step import Task, try_recipe
from robsearch.testing import check_loop
from robsearch.training.learner import reloaded
from robsearch.training.ranks import Ranks


@dataclasses.dataclass(frozen=True)
class Does:
    """Three lines of a loop, and what it yields."""

    what: Callable
    uses: ClassVar[tuple[str, ...]] = ()

    def train(self, training):
        with torch.no_grad():
            training.model[-1].bias += 0.1 * training.lam
        for _ in training.epochs:
            yield from self.what(training)


@dataclasses.dataclass(frozen=True)
class Plain:
    """What robsearch does itself without an attack: SGD at one rate on the cross-entropy."""

    uses: ClassVar[tuple[str, ...]] = ("batch_size", "optimiser")

    def train(self, training):
        optimiser = training.recipe.optimiser.build(training.model)
        for _ in training.epochs:
            training.model.train()
            for x, y in training.batches():
                optimiser.zero_grad()
                F.cross_entropy(training.model(x), y).backward()
                optimiser.step()
            yield {}, {}


def states(made, state=None):
    return [(epoch.metrics, reloaded(epoch.state)) for epoch in train(made, state)]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def timeless(metrics):
    return {
        name: value for name, value in metrics.items() if not name.startswith(("time", "memory"))
    }


# --- what comes of it ---


def test_a_loop_that_does_what_robsearch_does_ends_at_the_same_weights_and_is_judged_alike():
    theirs = recipe(8, 0.0, Plain(), epochs=2)
    ours = dataclasses.replace(theirs, loop=None, objective=Standard(), epochs=40)
    for (metrics, state), epoch in zip(states(theirs), train(ours), strict=False):
        assert same(state["model"], epoch.state["model"])
        assert metrics["val/robust_accuracy"] == epoch.metrics["val/robust_accuracy"]
    assert metrics["train/lam"] == 0


@pytest.mark.parametrize(
    "made",
    [
        recipe(8, 2.0, Momentum()),
        recipe(8, WAR(target=1.0, lam_init=2.0, hold=0.1), Momentum()),
        recipe(8, 2.0, Averaging()),
    ],
    ids=["momentum", "war", "average and draws"],
)
@pytest.mark.parametrize("epoch", [1, 3])
def test_it_goes_on_from_a_checkpoint_bit_for_bit(made, epoch):
    whole = states(made)
    resumed = states(made, whole[epoch - 1][1])
    assert [entry["epoch"] for _, entry in resumed] == list(range(epoch + 1, 6))
    for (metrics, state), (others, other) in zip(resumed, whole[epoch:], strict=True):
        assert same(state["model"], other["model"])
        assert same(state["judged"], other["judged"])
        assert state["lam"] == other["lam"]
        assert timeless(metrics) == timeless(others)


def test_war_steers_the_lambda_of_a_loop_and_it_is_recorded():
    made = recipe(8, WAR(target=1.0, lam_init=2.0, hold=0.1), Momentum())
    lams = [metrics["train/lam"] for metrics, _ in states(made)]
    assert lams[0] != lams[-1]


def test_the_network_that_is_yielded_is_judged_and_kept():
    *_, (_, last) = states(recipe(8, 2.0, Averaging()))
    assert not same(last["judged"], last["model"])
    average = last["loop"]["average"]
    assert same(
        last["judged"],
        {name.removeprefix("module."): average[name] for name in average if name != "n_averaged"},
    )


def test_a_stopper_ends_it_and_so_does_the_loop_itself():
    stopped = recipe(8, 1.0, Momentum(lr=1e-9), stopper=RobustOverfittingStopper(2, after=0.0))
    assert len(states(stopped)) == 3
    assert len(states(recipe(8, 1.0, StopsAfterTwo()))) == 2


def test_its_blocks_are_left_when_a_training_is_ended_from_outside():
    FREED.clear()
    epochs = train(recipe(8, 1.0, Does(with_a_resource)))
    next(epochs)
    assert FREED == []
    epochs.close()
    assert FREED == ["freed"]


FREED: list[str] = []


def with_a_resource(training):
    try:
        yield {}, {}
    finally:
        FREED.append("freed")


@dataclasses.dataclass(frozen=True)
class StopsAfterTwo(Momentum):
    """By a rule of its own."""

    def train(self, training):
        for epoch, yielded in enumerate(super().train(training), start=1):
            yield yielded
            if epoch == 2:
                return


# --- the record ---


def test_the_record_has_the_loop_and_no_word_of_what_it_does_not_use():
    flat = recipe(8, 2.0, Momentum(lr=0.1)).flat()
    assert (flat["loop"], flat["loop.lr"], flat["lam"]) == ("Momentum", 0.1, 2.0)
    assert flat["batch_size"] == 50
    assert not {"objective", "optimiser", "optimiser.lr", "learning_rate", "augment"} & flat.keys()
    assert flat["attack.eps"] == 0.03


def test_two_loops_are_two_recipes_and_none_is_the_recipe_of_before():
    made = recipe(8, 2.0, Momentum())
    assert made.digest != recipe(8, 2.0, Momentum(lr=0.06)).digest
    ours = dataclasses.replace(made, loop=None)
    assert dataclasses.replace(ours, loop=None).digest == ours.digest != made.digest


# --- what is refused when a recipe is made ---


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"optimiser": AdamW()},
            "expected no optimiser, which Momentum does not use, got AdamW(",
        ),
        ({"clip_gradient": 1.0}, "leave it out, or name it in Momentum.uses if the loop reads it"),
        ({"loop": 3}, "expected Recipe.loop to be a TrainingLoop, got 3"),
        ({"loop": Momentum}, "pass an instance, Momentum(...), not the class"),
        (
            {"lam": WAR(target=1.0, lam_init=2.0, freeze_at="first_drop")},
            "a learning rate that drops after its hold",
        ),
    ],
)
def test_a_recipe_refuses_what_its_loop_would_not_look_at(changes, said):
    with pytest.raises(InputError, match=re.escape(said)):
        dataclasses.replace(recipe(8, 2.0, Momentum()), **changes)


@dataclasses.dataclass(frozen=True)
class UsesUnknown(Momentum):
    uses: ClassVar[tuple[str, ...]] = ("batchsize",)


def test_a_field_that_a_recipe_has_not_is_refused():
    with pytest.raises(InputError, match=r"UsesUnknown\.uses to be a tuple of fields"):
        recipe(8, 2.0, UsesUnknown())


def test_it_knows_of_one_process_alone():
    with pytest.raises(InputError, match="one process for a training by Momentum, got 2"):
        next(train(recipe(8, 2.0, Momentum()), ranks=Ranks(0, 2)))


# --- what is refused after the first epoch, by check and by the contract ---


def of(value):
    """A loop's body that yields a value."""
    return lambda training: iter([value])


def twice(training):
    yield {}, {}
    yield {}, {}


def never(training):
    if training.lam < 0:
        yield {}, {}


def changes_a_layer(training):
    training.model[-1] = nn.Linear(8, 11)
    yield {}, {}


def batches_without_a_size(training):
    yield {"train/n": len(list(training.batches()))}, {}


SAID = {
    "nothing": (of(None), "to yield a tuple of metrics and state, got a NoneType"),
    "metrics alone": (of({"train/loss": 1.0}), "to yield a tuple of metrics and state, got a dict"),
    "a list": (of(([1.0], {})), "to yield metrics as a dict, got a list"),
    "a tensor": (
        of(({"train/loss": torch.tensor(1.0)}, {})),
        "'train/loss', as a number, got tens",
    ),
    "a name of ours": (of(({"val/accuracy": 1.0}, {})), "a name that robsearch does not write"),
    "lambda": (of(({"train/lam": 1.0}, {})), "a name that robsearch does not write itself"),
    "an odd name": (of(({"loss%": 1.0}, {})), "with a name such as 'train/loss', got 'loss%'"),
    "no dict": (of(({}, [1])), "to yield a dict of what it needs to go on, got a list"),
    "an object": (
        of(({}, {"rng": np.random.default_rng(0)})),
        "a state of tensors, numbers, texts",
    ),
    "another net": (of(({}, {}, nn.Linear(2, 2))), "the network to judge of Does with the names"),
    "another layer": (changes_a_layer, "training.model of Does with the names and shapes"),
    "two yields": (twice, "to yield once in each epoch of training.epochs, got yield 2 in epoch 1"),
    "no yield": (never, "expected a yield after each epoch, got none"),
    "no batch size": (batches_without_a_size, "'batch_size' in Does.uses for training.batches()"),
}


@pytest.mark.parametrize("name", SAID)
def test_what_a_loop_must_not_yield_is_refused_with_what_was_expected(name):
    what, said = SAID[name]
    made = recipe(8, 1.0, Does(what))
    with pytest.raises(InputError, match=re.escape(said)):
        list(train(made))


def test_a_lambda_that_does_nothing_is_refused():
    with pytest.raises(InputError, match=re.escape("expected Plain to read training.lam")):
        next(train(recipe(8, 2.0, Plain())))
    war = WAR(target=1.0, lam_init=2.0, hold=0.1)
    with pytest.raises(InputError, match=re.escape("to call training.advance_lam after each step")):
        next(train(recipe(8, war, Does(of(({}, {}))))))


@dataclasses.dataclass(frozen=True)
class Forgets(Momentum):
    """Keeps the rates of its optimiser, and not its momentum."""

    def train(self, training):
        for metrics, state in super().train(training):
            yield metrics, {"optimiser": {**state["optimiser"], "state": {}}}


@dataclasses.dataclass(frozen=True)
class ForgetsToLook(Momentum):
    def train(self, training):
        training.state["optimiser"]
        yield {}, {}


def digits(n=32):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (n, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(n) % 10)


def test_check_tries_a_loop_and_its_checkpoint_on_a_few_images():
    assert try_recipe(Task(recipe(8, 2.0, Momentum()), digits())).problems == ()
    assert try_recipe(Task(recipe(8, 2.0, Averaging()), digits())).problems == ()
    (problem,) = try_recipe(Task(recipe(8, 1.0, Does(of(([1], {})))), digits())).problems
    assert problem.startswith("loop Does: expected Does to yield metrics as a dict, got a list")
    (problem,) = try_recipe(Task(recipe(8, 1.0, ForgetsToLook()), digits())).problems
    assert "training.state is None at the beginning" in problem


@pytest.mark.parametrize("loop", [Momentum(), Averaging()], ids=repr)
def test_sound_loops_keep_the_contract(loop):
    check_loop(loop)
    check_loop(loop, recipe(4, 1.0, Momentum()))


@pytest.mark.parametrize(
    ("loop", "said"),
    [
        (Forgets(), "a resumed training to end like one that went on, got another end"),
        (Momentum(lr=0.0), "epochs that move the weights of training.model, got none"),
        (ForgetsToLook(), "training.state is None at the beginning"),
        (Fixed(1.0), "all of robsearch.protocols.TrainingLoop, got no uses, train"),
    ],
    ids=repr,
)
def test_a_broken_promise_of_a_loop_is_named(loop, said):
    with pytest.raises(AssertionError, match=re.escape(said)):
        check_loop(loop)
