"""One step is the published procedure, and nothing in it waits for the device."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from small_spaces import recipe

from robsearch import (
    ALP,
    EMA,
    MART,
    MLP,
    PGDAT,
    SGD,
    TRADES,
    AverageMargin,
    NormDecay,
    Orthogonality,
    SingularValueClipping,
    SmallCNN,
    WeightPerturbation,
    WideResNet,
)
from robsearch.training.learner import Learner
from robsearch.training.step import gradient, optimiser_step

CPU = torch.device("cpu")
LAM = 3.0


def images(n, dtype=torch.float32):
    generator = torch.Generator().manual_seed(n)
    x = torch.rand(n, 1, 8, 8, generator=generator, dtype=dtype)
    return x, torch.arange(n) % 10


def published_step(learner, optimiser, x, y, objective):
    """TRADES and PGD-AT as their papers' code computes them: the clean images run at every step of
    the attack. (For BatchNorm they run in train mode once, as in ours, and not twice.)"""
    attack, model = learner.recipe.attack, learner.model
    model.eval()
    x_adv = x + 0.001 * torch.randn_like(x)
    x_adv = x_adv.clamp(0, 1).clamp(x - attack.eps, x + attack.eps)
    for _ in range(attack.steps):
        x_adv.requires_grad_()
        if objective == TRADES():
            clean = F.softmax(model(x), dim=1)
            loss = F.kl_div(F.log_softmax(model(x_adv), dim=1), clean, reduction="sum")
        else:
            model(x)
            loss = F.cross_entropy(model(x_adv), y, reduction="sum")
        (slope,) = torch.autograd.grad(loss, [x_adv])
        x_adv = x_adv.detach() + attack.step_size * slope.sign()
        x_adv = x_adv.clamp(x - attack.eps, x + attack.eps).clamp(0, 1)
    model.train()
    optimiser.zero_grad()
    clean = model(x)
    adversarial = model(x_adv)
    if objective == TRADES():
        rows = F.softmax(clean, dim=1)
        robust = F.kl_div(F.log_softmax(adversarial, dim=1), rows, reduction="sum") / len(x)
    else:
        rise = F.cross_entropy(adversarial, y, reduction="none") - F.cross_entropy(
            clean, y, reduction="none"
        )
        robust = rise.clamp_min(0).mean()
    (F.cross_entropy(clean, y) + LAM * robust).backward()
    optimiser.step()


@pytest.mark.parametrize("objective", [TRADES(), PGDAT()])
@pytest.mark.parametrize("model", [MLP(width=8), SmallCNN(width=0.25), WideResNet(10, 0.25)])
def test_twenty_steps_in_float64_are_those_of_the_published_procedure(model, objective):
    made = recipe(8, model=model, objective=objective, optimiser=SGD(lr=0.1))
    ours = Learner.of(made, CPU)
    ours.model.double()
    theirs = dataclasses.replace(ours, model=copy.deepcopy(ours.model))
    theirs.model.to(memory_format=torch.contiguous_format)
    optimiser = torch.optim.SGD(theirs.model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    x, y = images(20, torch.float64)
    for step in range(20):
        torch.manual_seed(step)
        ours.model.train()
        gradient(ours, x, y, LAM, progress=0.0)
        optimiser_step(ours, step)
        torch.manual_seed(step)
        published_step(theirs, optimiser, x, y, objective)
    for mine, other in zip(
        ours.model.state_dict().values(), theirs.model.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": PGDAT()},
        {"objective": MART()},
        {"objective": ALP()},
        {"model": SmallCNN(width=0.25)},
        {"model": WideResNet(10, 0.25), "batch_norm": "clean"},
        {"averaging": EMA()},
        {"weight_perturbation": WeightPerturbation()},
        {"penalties": (AverageMargin(), Orthogonality(1e-3))},
        {"penalties": (NormDecay(1e-3), NormDecay(1e-3, norm="l1"))},
        {"penalties": (SingularValueClipping(1.0),)},
    ],
    ids=str,
)
def test_no_part_of_a_step_asks_the_device_for_a_number(changes):
    """On torch's meta device tensors have shapes and no values: whoever asks for one is refused."""
    meta = torch.device("meta")
    learner = Learner.of(recipe(8, **changes), meta)
    learner.model.train()
    x = torch.rand(6, 1, 8, 8, device=meta)
    y = torch.zeros(6, dtype=torch.long, device=meta)
    terms = gradient(learner, x, y, LAM, progress=0.5)
    optimiser_step(learner, 0)
    assert terms.shape == (2,)
    assert terms.device == meta
