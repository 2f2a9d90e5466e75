import dataclasses

import pytest
import torch
from small_spaces import Faulty, recipe, standard

from robsearch import (
    ALP,
    MART,
    MLP,
    PGD,
    PGDAT,
    SGD,
    TRADES,
    WAR,
    Adam,
    AdamW,
    Epoch,
    InputError,
    OwnLoss,
    RobustOverfittingStopper,
    WorstCase,
    train,
)
from robsearch.metrics import VALUE
from robsearch.parts.averaging import EMA
from robsearch.parts.weight_perturbation import WeightPerturbation
from robsearch.protocols import Penalty, Split
from robsearch.training.learner import Learner, seed_epoch
from robsearch.training.step import adversarial_images, gradient, optimiser_step
from robsearch.training.trainer import NonFiniteLossError, train_epoch


def test_every_epoch_is_yielded_with_its_metrics():
    epochs = list(train(recipe(8)))
    assert [epoch.number for epoch in epochs] == [1, 2, 3, 4]
    assert {"train/natural_loss", "train/robust_loss", "train/lam", "val/robust_accuracy"} <= set(
        epochs[0].metrics
    )
    assert epochs[0].metrics["train/learning_rate"] == pytest.approx(0.1)
    assert epochs[-1].metrics["train/learning_rate"] == pytest.approx(0.01)
    for epoch in epochs:
        natural, stable = epoch.metrics["val/natural_accuracy"], epoch.metrics["val/stability"]
        assert (
            max(0, natural + stable - 1)
            <= epoch.metrics["val/robust_accuracy"]
            <= min(natural, stable)
        )


def test_training_resumed_after_an_epoch_equals_training_in_one_go_bit_for_bit():
    whole = [_frozen(epoch) for epoch in train(recipe(8))]
    resumed = [_frozen(epoch) for epoch in train(recipe(8), state=whole[1].state)]
    assert [epoch.number for epoch in resumed] == [3, 4]
    for ours, theirs in zip(resumed, whole[2:], strict=True):
        _assert_same(ours.state, theirs.state)
        timeless = [
            {k: v for k, v in e.metrics.items() if not k.startswith(("time/", "memory/"))}
            for e in (ours, theirs)
        ]
        assert timeless[0] == timeless[1]


def test_war_in_training_holds_moves_freezes_and_resumes():
    """Eight steps in four epochs: lambda may move after those at 1/4 and 3/8 of training."""
    war = WAR(0.5, 2.0, hold=0.25, freeze_at="first_drop", alpha=50.0, alpha_per="progress")
    made = recipe(8, lam=war)
    whole = [_frozen(epoch) for epoch in train(made)]
    lams = [epoch.state["lam"]["lam"] for epoch in whole]
    assert lams[0] == 2.0 != lams[1] == lams[2] == lams[3]
    resumed = [_frozen(epoch) for epoch in train(made, state=whole[0].state)]
    _assert_same(resumed[-1].state, whole[-1].state)


@pytest.mark.parametrize("optimiser", [Adam(lr=0.01), AdamW(), SGD(nesterov=True)], ids=repr)
def test_a_resumed_training_is_the_whole_one_whatever_the_optimiser(optimiser):
    made = recipe(8, optimiser=optimiser, clip_gradient=0.5, eps_warmup=0.6)
    whole = [_frozen(epoch) for epoch in train(made)]
    resumed = [_frozen(epoch) for epoch in train(made, state=whole[1].state)]
    for ours, theirs in zip(resumed, whole[2:], strict=True):
        _assert_same(ours.state, theirs.state)
    assert whole[-1].metrics["train/learning_rate"] == pytest.approx(0.1 * optimiser.lr)


def test_a_group_with_a_factor_gets_the_rate_times_it():
    """Two steps of a rate that drops to a tenth: the second group moves ten times as far."""
    learner = Learner.of(recipe(8, optimiser=TwoRates()), torch.device("cpu"))
    draws = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (50, 1, 8, 8), generator=draws).byte()
    learner.epoch = 3  # of four, and the rate drops after two
    train_epoch(learner, Split(images, torch.arange(50) % 10))
    rates = [group["lr"] for group in learner.optimiser.param_groups]
    assert rates == pytest.approx([0.1 * 0.1, 0.1 * 0.1 * 10])


@dataclasses.dataclass(frozen=True)
class TwoRates:
    lr: float = 0.1

    def build(self, model):
        first, *others = model.parameters()
        fast = {"params": others, "lr": 10 * self.lr, "lr_factor": 10.0}
        return torch.optim.SGD([{"params": [first]}, fast], lr=self.lr)


@pytest.mark.parametrize(("clip", "length"), [(None, 2.0), (3.0, 2.0), (0.5, 0.5)])
def test_a_long_gradient_is_shortened_before_penalties_and_decay(clip, length):
    """Of 650 weights each has the gradient 2 / sqrt(650). Then a penalty adds 1 to each, and the
    decay a tenth of the weight."""
    optimiser = SGD(lr=1.0, momentum=0.0, weight_decay=0.1)
    made = recipe(8, optimiser=optimiser, clip_gradient=clip, penalties=(Adding(),))
    learner = Learner.of(made, torch.device("cpu"))
    weights = list(learner.model.parameters())
    before = [weight.detach().clone() for weight in weights]
    n = sum(weight.numel() for weight in weights)
    for weight in weights:
        weight.grad = torch.full_like(weight, 2 / n**0.5)
    optimiser_step(learner, 0)
    for weight, start in zip(weights, before, strict=True):
        torch.testing.assert_close(weight, 0.9 * start - 1 - length / n**0.5)


@dataclasses.dataclass(frozen=True)
class Adding(Penalty):
    def before_step(self, model, state, step):
        for weight in model.parameters():
            weight.grad.add_(1.0)
        return state


def test_the_gradient_at_perturbed_weights_is_clipped_and_the_weights_step_from_where_they_were():
    """The gradient there is far longer than 0.01, so that a step of rate 1 is just as long."""
    made = recipe(
        8,
        optimiser=SGD(lr=1.0, momentum=0.0, weight_decay=0.0),
        weight_perturbation=WeightPerturbation(),
        clip_gradient=0.01,
    )
    learner = Learner.of(made, torch.device("cpu"))
    before = [weight.detach().clone() for weight in learner.model.parameters()]
    x, y = torch.rand(20, 1, 8, 8), torch.arange(20) % 10
    gradient(learner, x, y, lam=3.0, progress=0.5)
    gradients = [weight.grad.clone() for weight in learner.model.parameters()]
    optimiser_step(learner, 0)
    length = torch.nn.utils.get_total_norm(gradients)
    assert length > 0.1
    for weight, start, slope in zip(learner.model.parameters(), before, gradients, strict=True):
        torch.testing.assert_close(weight, start - 0.01 * slope / length, rtol=1e-4, atol=1e-7)


def test_eps_rises_in_training_and_judging_has_all_of_it():
    pgd = PGD(eps=0.2, step_size=0.05, start="none")
    both = WorstCase((pgd, OwnLoss(pgd)))
    made = recipe(8, attack=both, eval_attack=pgd, eps_warmup=0.5)
    half = PGD(eps=0.1, step_size=0.025, start="none")
    assert made.training_attack(0.25) == WorstCase((half, OwnLoss(half)))
    assert made.training_attack(0.5) is made.training_attack(1.0) is both
    assert made.training_attack(0.0) is None
    assert made.resolved_eval_attack.eps == made.resolved_test_attack.eps == 0.2


@pytest.mark.parametrize("progress", [0.0, 0.05, 0.25, 0.9])
def test_adversarial_images_lie_in_the_ball_of_their_progress(progress):
    pgd = PGD(eps=0.2, step_size=0.2, steps=2, start="uniform")
    made = recipe(8, attack=pgd, eps_warmup=0.5)
    model = Learner.of(made, torch.device("cpu")).model
    x = torch.full((20, 1, 8, 8), 0.5)
    adversarial = adversarial_images(made, model, x, torch.arange(20) % 10, progress)
    eps = 0.2 * min(progress / 0.5, 1)
    assert (adversarial - x).abs().max().item() == pytest.approx(eps, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"clip_gradient": 0.0}, "Recipe.clip_gradient > 0"),
        ({"eps_warmup": 1.0}, r"Recipe.eps_warmup in \[0, 1\), got 1.0"),
        ({"eps_warmup": 0.1, "attack": print, "eval_attack": PGD()}, "its field eps"),
        ({"optimiser": SGD}, "not the class"),
        ({"optimiser": torch.optim.SGD([torch.ones(1)])}, "Recipe.optimiser to be an Optimiser"),
    ],
)
def test_what_cannot_be_trained_with_is_refused(changes, refused):
    with pytest.raises(InputError, match=refused):
        recipe(8, **changes)


def test_each_epoch_and_seed_draws_its_own_order_and_the_same_one_again():
    drawn = []
    for seed, epoch in ((0, 1), (0, 2), (1, 1), (0, 1)):
        seed_epoch(seed, epoch)
        drawn.append(tuple(torch.randperm(100).tolist()))
    assert len(set(drawn)) == 3
    assert drawn[0] == drawn[3]


def test_another_seed_trains_another_net():
    one, other = (
        list(train(dataclasses.replace(recipe(8), seed=seed)))[-1].state for seed in (0, 1)
    )
    assert any(not torch.equal(one["model"][name], other["model"][name]) for name in one["model"])


def test_a_loss_that_becomes_nan_stops_at_once_and_says_where():
    with pytest.raises(NonFiniteLossError, match="epoch 1, step 2"):
        list(train(recipe(8, objective=Faulty(fault="nan", after=2, marker="first"))))


def test_a_step_runs_the_clean_images_once_in_eval_mode_and_once_in_train_mode():
    learner, modes = watched(recipe(8))
    gradient(learner, torch.rand(5, 1, 8, 8), torch.arange(5), lam=1.0, progress=0.0)
    assert modes.count(True) == 2  # clean and adversarial, for the loss
    assert (
        modes.count(False) == 1 + learner.recipe.attack.steps
    )  # the reference f(x) once, then one forward per attack step


def test_an_objective_without_an_inner_loss_trains_without_attack():
    learner, modes = watched(standard(8))
    _, robust = gradient(learner, torch.rand(5, 1, 8, 8), torch.arange(5), lam=0.0, progress=0.0)
    assert robust == 0
    assert modes == [True]  # the clean images once, for the loss alone


@pytest.mark.parametrize("objective", [PGDAT(), MART(), ALP()])
def test_the_clean_images_are_not_run_for_an_attack_that_looks_at_labels_alone(objective):
    learner, modes = watched(recipe(8, objective=objective))
    gradient(learner, torch.rand(5, 1, 8, 8), torch.arange(5), lam=1.0, progress=0.0)
    assert modes.count(True) == 2
    assert modes.count(False) == learner.recipe.attack.steps


@dataclasses.dataclass(frozen=True)
class Attracted(PGDAT):
    """Another inner loss than its base, which looks at the clean logits."""

    def inner(self, clean_logits, y):
        return TRADES().inner(clean_logits, y)


def test_a_subclass_with_an_inner_loss_of_its_own_is_given_the_clean_logits():
    learner, modes = watched(recipe(8, objective=Attracted()))
    gradient(learner, torch.rand(5, 1, 8, 8), torch.arange(5), lam=1.0, progress=0.0)
    assert modes.count(False) == 1 + learner.recipe.attack.steps


def watched(made):
    learner = Learner.of(made, torch.device("cpu"))
    modes = []
    learner.model.train().register_forward_hook(
        lambda module, inputs, output: modes.append(module.training)
    )
    return learner, modes


def test_the_average_is_what_is_judged_and_survives_a_checkpoint():
    made = dataclasses.replace(recipe(8), averaging=EMA(decay=0.5))
    whole = [_frozen(epoch) for epoch in train(made)]
    resumed = [_frozen(epoch) for epoch in train(made, state=whole[1].state)]
    _assert_same(resumed[-1].state, whole[-1].state)
    state = whole[-1].state
    assert any(
        not torch.equal(state["judged"][name], state["model"][name]) for name in state["model"]
    )
    assert {"val/robust_accuracy", "val_raw/robust_accuracy"} <= set(whole[-1].metrics)


def test_the_average_of_one_step_is_the_formula():
    learner = Learner.of(
        dataclasses.replace(recipe(8), averaging=EMA(decay=0.75)), torch.device("cpu")
    )
    before = [parameter.detach().clone() for parameter in learner.model.parameters()]
    optimiser_step_of_ones(learner)  # the first update copies, as an average of one model
    first = [parameter.detach().clone() for parameter in learner.model.parameters()]
    optimiser_step_of_ones(learner)
    for start, one, two, average in zip(
        before, first, learner.model.parameters(), learner.eval_model.parameters(), strict=True
    ):
        assert not torch.equal(start, one)
        torch.testing.assert_close(average, 0.75 * one + 0.25 * two)


def optimiser_step_of_ones(learner):
    for parameter in learner.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser_step(learner, 0)


def test_training_ends_when_patience_does_and_goes_on_waiting_after_a_checkpoint():
    made = dataclasses.replace(
        recipe(8), epochs=40, stopper=RobustOverfittingStopper(patience=2, after=0.0)
    )
    whole = [_frozen(epoch) for epoch in train(made)]
    values = [epoch.metrics[VALUE] for epoch in whole]
    best = values.index(max(values)) + 1
    assert len(whole) == best + 2 < 40
    resumed = list(train(made, state=whole[-2].state))
    assert [epoch.number for epoch in resumed] == [len(whole)]
    assert not list(train(made, state=whole[-1].state))


@dataclasses.dataclass(frozen=True)
class Counting:
    """A penalty that counts its calls in its state and pulls the weights by its loss."""

    pull: float = 0.0

    def init(self, model):
        return {"calls": torch.zeros(3)}

    def loss(self, model, clean_logits, y):
        assert clean_logits.shape == (len(y), 10)
        return self.pull * sum(parameter.square().sum() for parameter in model.parameters())

    def before_step(self, model, state, step):
        assert all(parameter.grad is not None for parameter in model.parameters())
        return {"calls": state["calls"] + torch.tensor([1.0, 0.0, step])}

    def after_step(self, model, state, step):
        return {"calls": state["calls"] + torch.tensor([0.0, 1.0, 0.0])}


def test_a_penalty_is_called_around_each_step_and_its_state_survives_a_checkpoint():
    made = dataclasses.replace(recipe(8), penalties=(Counting(),))
    whole = [_frozen(epoch) for epoch in train(made)]
    assert whole[-1].state["penalties"][0]["calls"].tolist() == [
        8,
        8,
        sum(range(8)),
    ]  # 4 epochs of 2 steps
    resumed = [_frozen(epoch) for epoch in train(made, state=whole[1].state)]
    _assert_same(resumed[-1].state, whole[-1].state)


def test_the_loss_of_a_penalty_reaches_the_weights():
    free, pulled = (
        list(train(dataclasses.replace(recipe(8), penalties=(Counting(pull=pull),))))[-1].state[
            "model"
        ]
        for pull in (0.0, 0.1)
    )
    norm = [
        sum(v.square().sum() for name, v in model.items() if "weight" in name)
        for model in (free, pulled)
    ]
    assert norm[1] < norm[0]


def _frozen(epoch: Epoch) -> Epoch:
    import copy

    return Epoch(epoch.number, dict(epoch.metrics), copy.deepcopy(epoch.state))


def _assert_same(ours, theirs):
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            _assert_same(ours[key], theirs[key])
    elif isinstance(ours, list):
        for one, other in zip(ours, theirs, strict=True):
            _assert_same(one, other)
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
    else:
        assert ours == theirs


def test_weight_perturbation_changes_the_training_and_resumes_bit_for_bit():
    made = dataclasses.replace(recipe(8), weight_perturbation=WeightPerturbation(gamma=0.05))
    whole = [_frozen(epoch) for epoch in train(made)]
    plain = [_frozen(epoch) for epoch in train(recipe(8))]
    assert any(
        not torch.equal(whole[-1].state["model"][name], plain[-1].state["model"][name])
        for name in whole[-1].state["model"]
    )
    resumed = [_frozen(epoch) for epoch in train(made, state=whole[1].state)]
    _assert_same(resumed[-1].state, whole[-1].state)


def test_perturbing_the_weights_costs_one_more_forward_of_each_kind():
    learner, modes = watched(
        dataclasses.replace(recipe(8), weight_perturbation=WeightPerturbation())
    )
    gradient(learner, torch.rand(5, 1, 8, 8), torch.arange(5), lam=1.0, progress=0.0)
    assert modes.count(True) == 4


def test_logits_that_are_not_finite_in_judging_name_the_epoch_the_split_and_how_many_images():
    @dataclasses.dataclass(frozen=True)
    class Overflowing:
        width: float = 8.0

        def build(self, images):
            return torch.nn.Sequential(MLP(8).build(images), Brittle())

    class Brittle(torch.nn.Module):
        def forward(self, z):
            return (
                z
                if self.training or torch.is_grad_enabled()
                else z / (torch.arange(len(z)) > 2)[:, None]
            )

    with pytest.raises(
        NonFiniteLossError, match=r"in epoch 1, judging val, for 3 of \d+ images of a chunk: lower"
    ):
        next(train(dataclasses.replace(recipe(8), model=Overflowing())))
