"""What a plan could see at a pilot's spread."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from claimed_widths import STUDY, arms, both, grid
from typer.testing import CliRunner

from robsearch.claims.claim import Evidence
from robsearch.claims.planning import enlarged, powers, read_pilot
from robsearch.claims.statistics import ALPHA, power, seeds_for
from robsearch.cli import app
from robsearch.errors import InputError
from robsearch.papers.war.claims import GLOBAL, LOCAL


def test_power_is_that_of_the_books() -> None:
    """Ten pairs see a difference of one standard deviation with 80 %, by a two-sided test at 5 %
    (Cohen 1988, table 2.3: 0.80); without an effect it is the level."""
    assert power(1.0, 1.0, 10) == pytest.approx(0.803, abs=0.001)
    assert power(0.0, 1.0, 10) == pytest.approx(ALPHA)
    assert power(5.0, 0.0, 3) == 1.0
    assert seeds_for(1.0, 1.0) == 10


def pilot(noise: float) -> Evidence:
    rng = np.random.default_rng(0)
    return both(grid(rng, 3), arms(rng, 3, war=0.0, thin=-2.0, noise=noise))


def test_a_plan_has_the_seeds_of_its_experiments() -> None:
    larger = enlarged(pilot(0.3), replace(STUDY, seeds=4, arm_seeds=12))
    seeds = larger.trials.groupby("experiment")["seed"].nunique()
    assert seeds.to_dict() == {"grid": 4, "arms": 12}
    whole = 4 * 5 * 7 + 12 * 7
    assert len(larger.trials) == whole
    assert len(larger.epochs) == 10 * whole


def test_h4_is_seen_by_ten_seeds_that_agree_and_not_by_ten_that_do_not() -> None:
    def of_h4(noise: float, seeds: int):
        planned = powers(replace(STUDY, arm_seeds=seeds), pilot(noise))
        return [each for each in planned if each.claim == "H4"]

    behind, gain = of_h4(0.1, 10)
    assert behind.effect == 0.5
    # The pilot shows two points of gain, of which more than the 0.25 that matter are sure.
    assert gain.effect == gain.part.estimate.low > 0.25
    assert (behind.seeds, gain.seeds) == (10, 10)
    assert behind.power > 0.8
    wide = of_h4(2.0, 10)[0]
    assert wide.power < 0.5
    assert wide.power == pytest.approx(power(0.5, wide.part.estimate.sd, 10, ALPHA / 5))
    assert of_h4(2.0, wide.needed)[0].power >= 0.8
    assert of_h4(2.0, wide.needed - 1)[0].power < 0.8


def test_a_pilot_of_something_else_is_refused(tmp_path: Path) -> None:
    other = Evidence(*(frame.assign(experiment="another") for frame in pilot(0.1)))
    with pytest.raises(InputError, match=r"expected a pilot with trainings of grid, arms"):
        list(powers(STUDY, other))
    with pytest.raises(InputError, match=r"no trials\.parquet"):
        read_pilot(tmp_path)


@pytest.mark.parametrize(("noise", "code"), [(0.02, 0), (3.0, 1)])
def test_a_dry_run_refuses_what_could_not_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noise: float, code: int
) -> None:
    rng = np.random.default_rng(0)
    evidence = both(grid(rng, 3, noise=noise / 100), arms(rng, 3, war=0.0, thin=-2.0, noise=noise))
    # Without its predictors H5 is not asked.
    evidence = evidence._replace(trials=evidence.trials.drop(columns=[LOCAL, GLOBAL]))
    for name, frame in evidence._asdict().items():
        frame.to_parquet(tmp_path / f"{name}.parquet")
    arguments = ["validate", "claimed_widths:STUDY", "--dry-run", "--pilot", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, result.output
    assert "to be seen" in result.output
    told = str(result.exception) if result.exception else ""
    assert ("expected a power of 0.8 for H4" in result.output + told) == (code == 1)
