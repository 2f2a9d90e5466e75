"""PGD on the cross-entropy, then on the margin: against a plain loop over single images, and
against the facts that made it the judge."""

import dataclasses

import pytest
import torch
from torch import nn

from robsearch import MLP, PGD, SGD, Digits, InputError, OwnLoss, Piecewise, Standard, TwoLosses
from robsearch.data import load
from robsearch.network.balls import box
from robsearch.network.draws import own_draws
from robsearch.parts.attacks import WorstCase, cross_entropy, margin
from robsearch.training.evaluation import all_rates, judge
from robsearch.training.trainer import train
from search_spaces.quickstart import recipe

EPS = 0.15
STEP = EPS / 4


class Counted(nn.Module):
    """A model, and how many images went forward with and without a gradient."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.gradients = self.forwards = 0

    def forward(self, x):
        if x.requires_grad:
            self.gradients += len(x)
        else:
            self.forwards += len(x)
        return self.model(x)


class Scaled(nn.Module):
    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model = model
        self.factor = factor

    def forward(self, x):
        return self.factor * self.model(x)


def net(seed=0):
    torch.manual_seed(seed)
    layers = (nn.Flatten(), nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4))
    return nn.Sequential(*layers).double()


def examples(n=60):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 1, 4, 4, generator=generator, dtype=torch.float64)


def stands_at_all_iterates(model, x, y, starts, attack):
    """One image after the other, by autograd through the losses themselves."""
    first, second = attack.steps_on_each
    low, high = box(x, attack.eps)
    for start in starts:
        adv = start.clamp(low, high)
        for loss in [cross_entropy] * first + [margin] * second:
            leaf = adv.clone().requires_grad_()
            logits = model(leaf)
            if logits.argmax() != y:
                return False
            (gradient,) = torch.autograd.grad(loss(y)(logits).sum(), leaf)
            adv = (adv + attack.step_size * gradient.sign()).clamp(low, high)
        if model(adv).argmax() != y:
            return False
    return True


@pytest.mark.parametrize("restarts", [1, 3])
def test_an_image_is_robust_if_it_stands_at_every_iterate_of_every_restart(restarts):
    model, x = net(), examples()
    y = model(x).argmax(dim=1)
    attack = TwoLosses(eps=0.1, step_size=0.03, steps=10, restarts=restarts)
    assert attack.steps_on_each == (5, 7)
    with own_draws(0):
        adv = attack(model, x, y)
    with own_draws(0):
        starts = [attack.as_pgd.start_in(x) for _ in range(restarts)]
    expected = [
        stands_at_all_iterates(
            model, x[i : i + 1], y[i : i + 1], [start[i : i + 1] for start in starts], attack
        )
        for i in range(len(x))
    ]
    assert (model(adv).argmax(dim=1) == y).tolist() == expected
    assert 0.2 < sum(expected) / len(x) < 0.9


class Always(nn.Module):
    def __init__(self, predicted: int) -> None:
        super().__init__()
        self.predicted = predicted

    def forward(self, x):
        away = x.flatten(1).sum(dim=1, keepdim=True) * torch.tensor([[0.1, -0.1]])
        away[:, self.predicted] += 5
        return away


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 20])
def test_what_falls_leaves_and_nothing_costs_more_than_1_2_times_pgd(steps):
    x, y = torch.rand(9, 1, 2, 2), torch.zeros(9, dtype=torch.long)
    attack = TwoLosses(steps=steps)
    stands, falls = Counted(Always(0)), Counted(Always(1))
    attack(stands, x, y)
    attack(falls, x, y)
    assert stands.gradients == len(x) * sum(attack.steps_on_each)
    assert steps <= sum(attack.steps_on_each) <= 1.2 * steps
    assert falls.gradients == len(x), "each fell at its start"
    assert stands.forwards == falls.forwards == 0


def trained(width, made, **changes):
    """The last network of a training that is judged as cheaply as can be."""
    quick = PGD(eps=EPS, step_size=EPS, steps=1)
    changes = {"model": MLP(width=width, depth=2), "eval_attack": quick, "measures": ()} | changes
    *_, epoch = train(dataclasses.replace(made, **changes))
    model = changes["model"].build(Digits().spec)
    model.load_state_dict(epoch.state["judged"])
    return model.eval()


def robust(model, attack, split="test"):
    return judge(model, load(Digits(train=500))[split], attack)["robust_accuracy"]


def test_the_scale_of_logits_flatters_the_cross_entropy_but_not_the_judge():
    natural = trained(
        64,
        recipe(64, 0.0, Standard()),
        epochs=15,
        optimiser=SGD(lr=0.1),
        learning_rate=Piecewise(drops=(0.8,)),
    )
    pgd = PGD(eps=0.08, step_size=0.02, steps=20)
    two = TwoLosses(eps=0.08, step_size=0.02, steps=20)
    as_it_is = robust(natural, pgd), robust(natural, two)
    times_100 = robust(Scaled(natural, 100), pgd), robust(Scaled(natural, 100), two)
    assert times_100[0] > as_it_is[0] + 0.25, "the gradient of the cross-entropy vanishes"
    assert abs(times_100[1] - as_it_is[1]) < 0.03
    assert as_it_is[1] <= as_it_is[0] + 0.01


def test_rates_stay_what_they_say_and_say_it_of_wrong_images_too():
    """Stability is of all images, so those that are wrong to begin with are attacked as well."""
    model = trained(16, recipe(16, 2.0), epochs=2)
    test = load(Digits(train=500))["test"]
    by_image = all_rates(model, test, TwoLosses(eps=0.02, step_size=0.005))
    natural, withstood, stable = (field.bool() for field in by_image[:3])
    assert torch.equal(withstood, natural & stable)
    wrong = ~natural
    assert 0 < stable[wrong].sum() < wrong.sum()
    assert (by_image.wrong_to_right.bool() & ~wrong).sum() == 0


def test_nothing_of_the_judge_runs_under_autocast():
    model = trained(16, recipe(16, 2.0), epochs=2)
    test = load(Digits(train=500))["test"]
    attack = TwoLosses(eps=EPS, step_size=STEP)
    plain = all_rates(model, test, attack)
    with torch.autocast("cpu", torch.bfloat16):
        inside = all_rates(model, test, attack)
    assert torch.equal(plain.loss, inside.loss)
    assert torch.equal(plain.robust, inside.robust)


@pytest.mark.slow
def test_a_large_lambda_hides_from_the_cross_entropy_and_not_from_the_judge():
    """Digits, width 256: PGD-20 on the cross-entropy says that lambda 16 is by far the better; the
    worst of both losses that they are within two points, and so does the judge."""
    small, large = (trained(256, recipe(256, lam)) for lam in (0.5, 16.0))
    pgd = PGD(eps=EPS, step_size=STEP, steps=20)
    both = WorstCase((pgd, OwnLoss(pgd)))
    two = TwoLosses(eps=EPS, step_size=STEP, steps=20)
    gains = [robust(large, attack) - robust(small, attack) for attack in (pgd, both, two)]
    assert gains[0] > 0.03
    assert gains[1] < 0.025
    assert abs(gains[2] - gains[1]) < 0.025
    for model in (small, large):
        assert abs(robust(model, two) - robust(model, both)) < 0.02


def test_fields_that_do_not_fit_are_refused_at_once(unchecked):
    with pytest.raises(InputError) as refused:
        TwoLosses(eps=-1, step_size=0, steps=-1, norm="l1", restarts=0)
    assert len(refused.value.problems) == 5
