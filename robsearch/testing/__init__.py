"""The contracts of the plugins, for ours and for yours: each raises AssertionError and says which
promise is broken.

    def test_my_attack() -> None:
        check_attack(MyAttack(eps=8 / 255))

They need no test runner, take made-up images on the CPU, and leave torch's global generator as it
was.
"""

from __future__ import annotations

from robsearch.testing.contracts import (
    COLOURS,
    check_attack,
    check_dataset,
    check_layer_measure,
    check_learning_rate,
    check_measure,
    check_model,
    check_objective,
    check_optimiser,
    check_penalty,
    check_schedule,
)
from robsearch.testing.loops import check_loop

__all__ = [
    "COLOURS",
    "check_attack",
    "check_dataset",
    "check_layer_measure",
    "check_learning_rate",
    "check_loop",
    "check_measure",
    "check_model",
    "check_objective",
    "check_optimiser",
    "check_penalty",
    "check_schedule",
]
