"""What a plan could see at a pilot's spread."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from claimed_widths import STUDY, arms, both, grid
from typer.testing import CliRunner

from robsearch.claims.claim import Evidence
from robsearch.claims.planning import enlarged, power_analysis, read_pilot
from robsearch.claims.statistics import ALPHA, power, seeds_for
from robsearch.cli import app, main
from robsearch.errors import InputError
from robsearch.papers.war.claims import LOCAL, MARGIN, STABLE


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
        analysis = power_analysis(replace(STUDY, arm_seeds=seeds), pilot(noise))
        return [each for each in analysis.parts if each.claim == "H4"]

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
        power_analysis(STUDY, other)
    with pytest.raises(InputError, match=r"no trials\.parquet"):
        read_pilot(tmp_path)


@pytest.mark.parametrize(("noise", "code"), [(0.02, 0), (3.0, 1)])
def test_a_dry_run_refuses_what_could_not_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noise: float, code: int
) -> None:
    rng = np.random.default_rng(0)
    evidence = both(grid(rng, 3, noise=noise / 100), arms(rng, 3, war=0.0, thin=-2.0, noise=noise))
    # H5 is sure: stability is all but known from local Lipschitz over the margin.
    trials = evidence.trials
    exponent = 10 * (0.9 - trials[STABLE]) + rng.normal(0, 1e-4, len(trials))
    trials = trials.assign(**{LOCAL: trials[MARGIN] * np.exp(exponent)})
    evidence = evidence._replace(trials=trials)
    for name, frame in evidence._asdict().items():
        frame.to_parquet(tmp_path / f"{name}.parquet")
    arguments = ["validate", "claimed_widths:STUDY", "--dry-run", "--pilot", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, result.output
    assert "to be seen" in result.output
    told = str(result.exception) if result.exception else ""
    assert ("expected a power of 0.8 for H4" in result.output + told) == (code == 1)


KEPT = Path(__file__).parents[2] / "benchmarks" / "evidence" / "war.drift.learning-rate"
"""Three seeds, by which neither primary claim of the study can be judged."""


def refused_dry_run(
    folder: Path,
    seeds: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> tuple[str, str]:
    """Output and error of a dry run of the drift study, by the first seeds of its own evidence as
    the pilot; exit code 2."""
    for name in Evidence._fields:
        frame = pd.read_parquet(KEPT / f"{name}.parquet")
        frame[frame["seed"] < seeds].to_parquet(folder / f"{name}.parquet")
    words = ["validate", "war", "--preset", "drift", "--design", "learning-rate"]
    monkeypatch.setattr(sys, "argv", ["robsearch", *words, "--dry-run", "--pilot", str(folder)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_a_primary_claim_that_the_pilot_cannot_judge_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = refused_dry_run(tmp_path, 3, monkeypatch, capsys)
    assert "less-rate-1 cannot be judged: too few trials" in " ".join(out.split())
    assert "expected a pilot and a plan by which less-rate-1 can be judged, got too few" in err
    assert "expected a pilot and a plan by which less-chosen can be judged" in err
    # What stands beside the primary claims is shown, and refuses nothing.
    assert "H3-rate-4 cannot be judged" in " ".join(out.split())
    assert "H3-rate-4" not in err


def test_a_pilot_of_two_seeds_is_refused_before_an_epoch_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = refused_dry_run(tmp_path, 2, monkeypatch, capsys)
    assert "expected a pilot of 3 seeds or more in each experiment, got 2 seeds in undivided" in err
    assert "pass a validation of more seeds" in err
    assert "trainings" not in out


def test_a_plan_of_fewer_seeds_than_a_verdict_takes_is_refused() -> None:
    analysis = power_analysis(replace(STUDY, arm_seeds=5), pilot(0.1))
    (of_h4,) = [problem for problem in analysis.refusals if "H4" in problem]
    assert "got 5 seeds in the plan with all the trainings that it takes, and a verdict" in of_h4
    enough = power_analysis(replace(STUDY, arm_seeds=10), pilot(0.1))
    assert not [problem for problem in enough.refusals if "H4" in problem]


def test_a_claim_of_which_trainings_are_missing_in_the_pilot_is_refused() -> None:
    trials, epochs = pilot(0.1)
    lost = (trials["experiment"] == "arms") & (trials["arm"] == "full search")
    some = Evidence(trials[~(lost & (trials["seed"] == 2))], epochs)
    (of_h4,) = [problem for problem in power_analysis(STUDY, some).refusals if "H4" in problem]
    assert "got 2 seeds in the pilot with all the trainings that it takes, and a spread" in of_h4
