"""What was planned is kept from before the first training on, and what differs is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from claimed_widths import STUDY

from robsearch.claims.registration import REGISTRATION, differences, register
from robsearch.papers.war import WidthStudy


class Fewer(WidthStudy):
    """A study that leaves a claim out."""

    @property
    def claims(self):
        return super().claims[:-1]


def test_a_plan_is_kept_as_it_was_when_training_began(tmp_path: Path) -> None:
    first = register(STUDY, 0, tmp_path, trained=0)
    again = register(replace(STUDY, seeds=7), 0, tmp_path, trained=3)
    assert again == first
    assert "before any training" in first.sentence()
    assert first.digest in first.sentence()
    assert first.plan["experiments"]["grid"]["seeds"] == STUDY.seeds
    assert first.plan["claims"]["H4"]["least_seeds"] == 10
    assert "OwnLoss" in first.plan["chosen by, on val"]


def test_a_plan_may_change_until_something_is_trained(tmp_path: Path) -> None:
    first = register(STUDY, 0, tmp_path, trained=0)
    second = register(replace(STUDY, seeds=7), 0, tmp_path, trained=0)
    assert second.digest != first.digest
    assert json.loads((tmp_path / REGISTRATION).read_text())["digest"] == second.digest


def test_a_plan_that_was_written_later_says_so(tmp_path: Path) -> None:
    assert "after 1 training" in register(STUDY, 0, tmp_path, trained=1).sentence()


def test_nothing_differs_from_a_plan_that_was_kept(tmp_path: Path) -> None:
    assert list(differences(register(STUDY, 0, tmp_path, 0), STUDY, 0)) == []


@pytest.mark.parametrize(
    ("study", "seed", "difference"),
    [
        (replace(STUDY, seeds=7), 0, "experiment grid differs from what was registered"),
        (STUDY, 1, "seed differs from what was registered"),
        (replace(STUDY, control_seeds=0), 0, "experiment retuned was registered and is gone"),
        (
            Fewer(STUDY.widths, STUDY.lams, STUDY.base, control_seeds=1),
            0,
            "claim H3-normalised was registered and is gone",
        ),
        (
            replace(STUDY, base=replace(STUDY.base, epochs=11)),
            0,
            "recipe differs from what was registered",
        ),
    ],
)
def test_what_differs_is_named(tmp_path: Path, study, seed: int, difference: str) -> None:
    registration = register(STUDY, 0, tmp_path, trained=0)
    assert difference in list(differences(registration, study, seed))
