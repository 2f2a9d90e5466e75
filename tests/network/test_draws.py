"""An image's random numbers are its own: neither the chunk, nor the rank, nor what else is judged
changes them."""

import pytest
import torch
from small_spaces import recipe

from robsearch import (
    FGSM,
    PGD,
    AttackDistance,
    LogitRatio,
    OwnLoss,
    SampledMargin,
    TwoLosses,
    WorstCase,
)
from robsearch.measures import KLGradient, rates
from robsearch.network.draws import at_once, normal, own_draws, uniform
from robsearch.parts.attacks import AutoAttack
from robsearch.protocols import Split
from robsearch.training.evaluation import in_chunks, to_float


def split(n=30):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Split(images, torch.arange(n) % 10)


def network():
    torch.manual_seed(0)
    return recipe(8).model.build(recipe(8).data.spec).double()


STARTS = (
    PGD(eps=0.1, steps=0, restarts=1),
    PGD(eps=0.1, steps=0, start="gaussian"),
    PGD(eps=0.5, steps=0, norm="l2"),
)
ATTACKS = (
    PGD(eps=0.1, step_size=0.03, steps=3, restarts=3),
    PGD(eps=0.5, step_size=0.2, steps=3, norm="l2", restarts=2),
    TwoLosses(eps=0.1, step_size=0.03, steps=4, restarts=3),
    TwoLosses(eps=0.5, step_size=0.2, steps=4, norm="l2", restarts=2),
    WorstCase((TwoLosses(eps=0.01, steps=4, restarts=2), PGD(eps=0.1, steps=2))),
    WorstCase((PGD(eps=0.1, steps=2), OwnLoss(PGD(eps=0.1, steps=2)), FGSM(eps=0.1))),
)


@pytest.mark.parametrize("attack", [*STARTS, *ATTACKS], ids=repr)
def test_what_an_attack_does_to_an_image_is_the_same_in_chunks_of_1_7_and_1000_and_on_a_rank(
    attack,
):
    model = network()

    def attacked(x, y):
        return rates(model, x.double(), y, attack).x_adv

    whole = torch.cat(in_chunks(split(), attacked, 1000))
    moves = whole - to_float(split().images)
    assert not torch.equal(moves[0], moves[1])
    for size in (1, 7):
        assert torch.allclose(
            torch.cat(in_chunks(split(), attacked, size)), whole, rtol=0, atol=1e-12
        )
    share = Split(split().images[1::2], split().labels[1::2])
    assert torch.allclose(torch.cat(in_chunks(share, attacked)), whole[1::2], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "measure",
    [
        KLGradient(0.1),
        LogitRatio(0.1, starts=2),
        AttackDistance(steps=4, rounds=3),
        SampledMargin(0.1, samples=5),
        SampledMargin(0.5, samples=5, norm="l2"),
    ],
    ids=repr,
)
def test_what_a_measure_finds_is_the_same_in_all_chunks(measure):
    model = network()
    found = [
        torch.cat(in_chunks(split(), lambda x, y: measure(model, x.double(), y), size))
        for size in (1, 7, 1000)
    ]
    assert torch.allclose(found[0], found[2], rtol=1e-9)
    assert torch.allclose(found[1], found[2], rtol=1e-9)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.5)])
def test_what_autoattack_does_does_not_depend_on_the_batch(norm, eps):
    torch.manual_seed(0)
    model = recipe(8).model.build(recipe(8).data.spec)
    x = to_float(split(9).images)
    y = model.eval()(x).argmax(dim=1)
    for name in ("apgd-ce", "apgd-t"):
        whole = AutoAttack(eps, norm, (name,))(model, x, y)
        parts = AutoAttack(eps, norm, (name,), batch_size=4)(model, x, y)
        assert not torch.equal(whole, x)
        assert torch.allclose(parts, whole, atol=1e-4)
        alone = torch.cat(
            [
                AutoAttack(eps, norm, (name,))(model, a[None], b[None])
                for a, b in zip(x, y, strict=True)
            ]
        )
        assert torch.allclose(alone, whole, atol=1e-4)


def test_images_have_different_numbers_and_each_draw_has_others():
    x = to_float(split(200).images)
    first = uniform(x, 0, 1)
    for other in (uniform(x, 0, 2), uniform(x, 1, 1), first.roll(1, dims=0), first.roll(1, dims=3)):
        assert abs(torch.corrcoef(torch.stack([first.flatten(), other.flatten()]))[0, 1]) < 0.03
    assert first.min() >= -1
    assert first.max() < 1
    assert first.mean().abs() < 0.02
    assert first.square().mean().item() == pytest.approx(1 / 3, rel=0.02)
    drawn = normal(x, 0, 1)
    assert drawn.mean().abs() < 0.03
    assert drawn.square().mean().item() == pytest.approx(1, rel=0.05)
    assert drawn.pow(4).mean().item() == pytest.approx(3, rel=0.1)
    assert torch.equal(uniform(x[5:6], 0, 1), first[5:6])


def test_training_draws_from_torchs_generator_as_ever():
    model, x = network(), to_float(split(3).images)
    torch.manual_seed(4)
    start = PGD(eps=0.1, steps=0)(model, x, split(3).labels, lambda z: z.sum(dim=1)) - x
    torch.manual_seed(4)
    expected = (torch.empty_like(x).uniform_(-0.1, 0.1) + x).clamp(0, 1) - x
    assert torch.allclose(start, expected, atol=1e-7)
    with own_draws(0, 17):
        assert at_once() == 17
    assert at_once() is None
