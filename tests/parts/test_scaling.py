"""An attack in a smaller ball: all of its balls, or none."""

import dataclasses

import numpy as np
import pytest

from robsearch import FGSM, PGD, AutoAttack, OwnLoss, WorstCase
from robsearch.parts.attacks import scaled, scales


@dataclasses.dataclass(frozen=True)
class Elsewhere:
    """An attack whose ball has another name."""

    radius: float = 0.1

    def __call__(self, model, x, y, loss):
        return x


@pytest.mark.usefixtures("unchecked")
def test_each_length_of_an_attack_is_scaled_also_of_those_it_holds():
    attack = WorstCase((PGD(eps=0.2, step_size=0.1), OwnLoss(FGSM(eps=0.4)), AutoAttack(eps=0.1)))
    assert scales(attack)
    half = WorstCase((PGD(eps=0.1, step_size=0.05), OwnLoss(FGSM(eps=0.2)), AutoAttack(eps=0.05)))
    assert scaled(attack, 0.5) == half
    assert scaled(WorstCase([PGD(eps=0.2)]), 0.5).attacks[0].eps == 0.1
    assert scaled(PGD(eps=np.float32(0.25)), 0.5).eps == 0.125


@pytest.mark.parametrize(
    "attack", [Elsewhere(), WorstCase((PGD(), Elsewhere())), OwnLoss(Elsewhere())]
)
def test_an_attack_with_a_ball_of_another_name_is_none_that_scales(attack):
    assert not scales(attack)
