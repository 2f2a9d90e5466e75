"""The checks for gradient masking on models that mask in known ways, and on honest ones."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from robsearch.errors import InputError
from robsearch.parts.attacks import FGSM, PGD
from robsearch.trials.masking import Check, checks

GRADIENT = "the loss has a gradient"
AGAIN = "the same images get the same logits again"
ALONE = "an image's logits do not depend on its neighbours"
SINGLE = "many steps are no weaker than one"
MORE = "more steps are no weaker"
GROWTH = "robust accuracy falls as eps grows"
UNBOUNDED = "without a bound the attack breaks all"
BLACK_BOX = "a black-box attack is no stronger than the white-box one"

LINF = PGD(eps=0.1, step_size=0.025, steps=10)
L2 = PGD(eps=1.5, step_size=0.4, steps=10, norm="l2")
STRONG = PGD(eps=0.25, step_size=0.0625, steps=10)
"""Breaks nearly all: Square is through soon."""


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(labels)


@pytest.fixture(scope="module")
def held_out(digits) -> tuple[Tensor, Tensor]:
    return digits[0][1000:1050], digits[1][1000:1050]


@pytest.fixture(scope="module")
def honest(digits) -> nn.Module:
    return trained(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), *digits
    )


@pytest.fixture(scope="module")
def judged(honest, held_out) -> list[Check]:
    return checks(honest, *held_out, LINF)


def trained(model: nn.Module, x: Tensor, y: Tensor) -> nn.Module:
    torch.manual_seed(0)
    for layer in model:
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        F.cross_entropy(model(x[:1000]), y[:1000]).backward()
        optimiser.step()
    return model


class Through(nn.Module):
    """A model with something before its images or after its logits."""

    def __init__(self, model, before=lambda x: x, after=lambda z: z):
        super().__init__()
        self.model, self.before, self.after = model, before, after

    def forward(self, x):
        return self.after(self.model(self.before(x)))


def failed(found: list[Check]) -> set[str]:
    return {check.name for check in found if not check.passed}


def named(found: list[Check], name: str) -> Check:
    return next(check for check in found if check.name == name)


# --- honest models ---


def test_an_honest_net_passes_all(judged):
    assert [check.name for check in judged] == [
        GRADIENT,
        AGAIN,
        ALONE,
        SINGLE,
        MORE,
        GROWTH,
        UNBOUNDED,
        BLACK_BOX,
    ]
    assert failed(judged) == set(), judged


@pytest.mark.slow
def test_an_honest_net_passes_all_in_l2(honest, held_out):
    assert failed(checks(honest, *held_out, L2)) == set()


def test_an_honest_linear_model_passes_all(digits, held_out):
    assert (
        failed(
            checks(
                trained(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), *digits), *held_out, STRONG
            )
        )
        == set()
    )


def test_the_evidence_gives_the_numbers(honest, held_out, judged):
    (x, y), found = held_out, judged
    right = honest(x).argmax(1) == y
    natural = f"natural {100 * right.float().mean().item():.1f} %"
    assert natural in named(found, UNBOUNDED).evidence
    assert "PGD-10 at eps 1 (linf) 0.0 %" in named(found, UNBOUNDED).evidence
    assert f"no gradient in 0 of the {int(right.sum())} images" in named(found, GRADIENT).evidence
    assert "PGD-50" in named(found, MORE).evidence
    assert all(eps in named(found, GROWTH).evidence for eps in ("0.05:", "0.1:", "0.2:", "0.4:"))
    assert "Square with 5,000 queries" in named(found, BLACK_BOX).evidence
    assert all(check.evidence.endswith("n = 50") for check in found if check.name != GRADIENT)


@pytest.mark.slow
def test_nothing_is_left_behind_and_the_outcome_is_the_same(honest, held_out):
    x, y = held_out[0][:12], held_out[1][:12]
    model = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5), *honest).train()
    model[0].eval()
    flags = [part.training for part in model.modules()]
    for parameter in model.parameters():
        parameter.grad = None
    before = torch.get_rng_state()
    found = checks(model, x, y, STRONG)
    assert torch.equal(torch.get_rng_state(), before)
    assert [part.training for part in model.modules()] == flags
    assert all(
        parameter.grad is None and parameter.requires_grad for parameter in model.parameters()
    )
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    torch.manual_seed(99)
    assert checks(model, x, y, STRONG) == found
    assert failed(checks(model, x, y, STRONG, batch=5)) == set()


# --- models that mask ---


def test_logits_that_saturate_the_softmax(honest, held_out):
    """The cross-entropy has no gradient, the margin loss has: the advice is another loss."""
    found = checks(Through(honest, after=lambda z: 1e4 * z), *held_out, STRONG)
    assert failed(found) >= {GRADIENT, UNBOUNDED, BLACK_BOX}
    assert not failed(found) & {AGAIN, ALONE}
    right = int((honest(held_out[0]).argmax(1) == held_out[1]).sum())
    gone = int(named(found, GRADIENT).evidence.split()[3])
    assert right / 2 < gone <= right
    assert "margin loss" in named(found, BLACK_BOX).advice


def test_a_net_that_rounds_its_images(honest, held_out):
    """No loss has a gradient: the advice is a differentiable stand-in."""
    rounding = Through(honest, before=lambda x: (4 * x).round() / 4)
    found = checks(rounding, *held_out, PGD(eps=0.25, step_size=0.05, steps=10, start="none"))
    assert failed(found) == {GRADIENT, UNBOUNDED, BLACK_BOX, GROWTH}
    assert "BPDA" in named(found, BLACK_BOX).advice
    right = int((rounding(held_out[0]).argmax(1) == held_out[1]).sum())
    assert f"no gradient in {right} of the {right} images" in named(found, GRADIENT).evidence


def test_a_net_that_drops_out_in_eval_mode(honest, held_out):
    before = torch.get_rng_state()
    found = checks(
        Through(honest, before=lambda x: F.dropout(x, 0.2, training=True)), *held_out, STRONG
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert {AGAIN, ALONE} <= failed(found)
    assert "EOT" in named(found, AGAIN).advice


@pytest.mark.slow
def test_a_net_that_sees_the_whole_batch(honest, held_out):
    found = checks(Through(honest, after=lambda z: z - 0.2 * z.mean(dim=0)), *held_out, STRONG)
    assert ALONE in failed(found)
    assert AGAIN not in failed(found)


def test_rounding_of_floats_is_no_dependence(honest, held_out):
    noise = iter(range(10**6))
    found = checks(
        Through(honest, after=lambda z: z * (1 + 1e-5 * (next(noise) % 2))), *held_out, STRONG
    )
    assert not failed(found) & {AGAIN, ALONE}


# --- one pixel's worth of model: what each check sees, by hand ---


class OfTheMean(nn.Module):
    """Two classes; class 1 (wrong) wins where ``bad(mean of the pixels)`` is above 0."""

    def __init__(self, bad):
        super().__init__()
        self.bad = bad

    def forward(self, x):
        bad = self.bad(x.mean(dim=(1, 2, 3)))
        return torch.stack([-bad, bad], dim=1)


def grey(n: int = 20) -> tuple[Tensor, Tensor]:
    return torch.full((n, 1, 6, 6), 0.5), torch.zeros(n, dtype=torch.int64)


def test_steps_that_run_past_the_weak_spot_are_weaker_when_more():
    """One step of 0.1 lands between 0.55 and 0.65, where the class is wrong; the next steps leave
    it behind."""

    def bad(mean):
        return mean - 0.75 + 0.5 * ((mean > 0.55) & (mean < 0.65))

    found = checks(OfTheMean(bad), *grey(), PGD(eps=0.2, step_size=0.1, steps=1, start="none"))
    assert MORE in failed(found)
    assert "PGD-1 0.0 %, PGD-5 100.0 %" in named(found, MORE).evidence


def test_steps_that_stop_at_a_bump_are_weaker_than_one():
    """Short steps climb the bump at 0.55 and stay; one step of 0.2 lands at 0.7, where the class is
    wrong."""

    def bad(mean):
        return torch.where(mean < 0.6, 0.1 - (mean - 0.55).abs(), 10 * (mean - 0.65)) - 0.2 * (
            mean < 0.6
        )

    found = checks(OfTheMean(bad), *grey(), PGD(eps=0.2, step_size=0.02, steps=10, start="none"))
    assert SINGLE in failed(found)
    assert "PGD-10 100.0 %, one step of length eps 0.0 %" in named(found, SINGLE).evidence


@pytest.mark.slow
def test_a_bound_that_helps_when_it_is_wider_is_seen():
    """The step grows with eps: it hits the weak spots 0.1 and 0.4 from the image, and jumps over
    the first with 0.2."""

    def bad(mean):
        return mean - 1.5 + 2 * ((mean > 0.59) & (mean < 0.61)) + 2 * (mean > 0.89)

    found = checks(OfTheMean(bad), *grey(), PGD(eps=0.1, step_size=0.1, steps=1, start="none"))
    assert GROWTH in failed(found)
    assert "0.05: 100.0 %, 0.1: 0.0 %, 0.2: 100.0 %, 0.4: 0.0 %" in named(found, GROWTH).evidence


def test_a_model_that_is_broken_at_every_bound_has_nothing_to_lose():
    found = checks(
        OfTheMean(lambda mean: mean - 0.501), *grey(), PGD(eps=0.1, step_size=0.1, steps=1)
    )
    assert failed(found) == set()
    assert "0.05: 0.0 %, 0.1: 0.0 %" in named(found, GROWTH).evidence


@pytest.mark.slow
def test_without_a_bound_the_gradient_has_to_lead_the_way_not_a_start_far_off():
    """Any noise breaks this model, and a start in the widest ball is noise; from the image no
    gradient leads there."""

    class Brittle(nn.Module):
        def forward(self, x):
            far = (x - 0.5).abs().mean(dim=(1, 2, 3))
            bad = (far > 0.2).float() - 0.5 + 0 * far
            return torch.stack([-bad, bad], dim=1)

    found = checks(Brittle(), *grey(), PGD(eps=0.1, step_size=0.1, steps=1))
    assert UNBOUNDED in failed(found)


@pytest.mark.slow
@pytest.mark.parametrize(("unbroken", "passes"), [(2, True), (3, False)])
def test_two_images_in_a_hundred_may_withstand_an_attack_without_bounds(unbroken, passes):
    class Marked(nn.Module):
        def forward(self, x):
            bad = x[:, 0, 1:].mean(dim=(1, 2)) - torch.where(x[:, 0, 0, 0] < 0.1, 2.0, 0.45)
            return torch.stack([-bad, bad], dim=1)

    x, y = grey(100)
    x *= 0.8
    x[:unbroken, 0, 0, 0] = 0  # the mark: it has no gradient
    found = checks(Marked(), x, y, PGD(eps=0.08, step_size=0.08, steps=1))
    assert (UNBOUNDED not in failed(found)) == passes
    assert f"{unbroken}.0 %, natural 100.0 %" in named(found, UNBOUNDED).evidence


@pytest.mark.slow
@pytest.mark.parametrize(("gated", "passes"), [(4, True), (5, False)])
def test_a_handful_broken_by_the_black_box_alone_is_noise_up_to_four(gated, passes):
    """McNemar, one-sided: four of four have p = 1/16, five of five 1/32. All other images hold
    under both attacks."""

    class Gated(nn.Module):
        def forward(self, x):
            marked = x[:, 0, 0, 0] > 0.9
            mean = x[:, 0, 1:, 1:].mean(dim=(1, 2))
            bad = torch.where(marked, (100 * mean).round() - 51.5, mean - 0.9)
            return torch.stack([-bad, bad], dim=1)

    x, y = grey(10)
    x[:gated, 0, 0, 0] = 1.0
    found = checks(Gated(), x, y, PGD(eps=0.05, step_size=0.01, steps=5, start="none"))
    assert (BLACK_BOX not in failed(found)) == passes
    assert f"{gated} images broken by Square alone" in named(found, BLACK_BOX).evidence


@pytest.mark.parametrize(("flat", "passes"), [(1, True), (2, False)])
def test_one_image_in_a_hundred_may_be_without_gradient(flat, passes):
    def bad(mean):
        return torch.where(mean > 0.6, mean.detach() - 0.703, mean - 0.503)

    x, y = grey(100)
    x[:flat] = 0.7
    found = checks(OfTheMean(bad), x, y, PGD(eps=0.01, step_size=0.01, steps=1))
    assert (GRADIENT not in failed(found)) == passes
    assert f"no gradient in {flat} of the 100" in named(found, GRADIENT).evidence


def test_images_that_are_wrong_to_begin_with_do_not_count():
    """Not even when the attack turns them right: these are wrong on a spot that a step leaves."""

    def bad(mean):
        return torch.where(
            (mean > 0.6) & (mean < 0.8), mean - 2 + 3 * ((mean - 0.7).abs() < 0.005), mean - 0.505
        )

    x, y = grey(20)
    x[:10] = 0.7
    found = checks(OfTheMean(bad), x, y, PGD(eps=0.02, step_size=0.01, steps=5, start="none"))
    assert failed(found) == set()
    assert "PGD-5 0.0 %, one step of length eps 0.0 %" in named(found, SINGLE).evidence
    assert "no gradient in 0 of the 10" in named(found, GRADIENT).evidence


# --- what is refused ---


def test_bad_attacks_are_refused_before_anything_is_run(honest, held_out, unchecked):
    with pytest.raises(InputError, match="expected a PGD, got FGSM"):
        checks(honest, *held_out, FGSM(eps=0.1))
    with pytest.raises(InputError) as error:
        checks(honest, held_out[0].double(), held_out[1][1:], PGD(eps=0.0, steps=0), batch=0)
    assert [problem.split(",")[0] for problem in error.value.problems] == [
        "expected eps > 0",
        "expected steps >= 1",
        "expected a label for each of 50 images",
        "expected batch >= 1",
        "expected float32 images",
    ]


def test_models_that_cannot_be_checked_are_refused(honest, held_out):
    x, y = held_out
    wrong = (honest(x).argmax(1) + 1) % 10
    with pytest.raises(InputError, match="expected images that the model gets right, got none"):
        checks(honest, x, wrong, LINF)
    for cut in (
        Through(honest, before=lambda x: x.detach()),
        Through(honest, after=lambda z: z.detach()),
    ):
        with pytest.raises(InputError, match="detach nothing"):
            checks(cut, x, y, LINF)
    with pytest.raises(InputError, match="take the softmax off"):
        checks(Through(honest, after=lambda z: z.softmax(1)), x, y, LINF)
    with pytest.raises(InputError, match="images in"):
        checks(honest, 2 * x, y, LINF)
