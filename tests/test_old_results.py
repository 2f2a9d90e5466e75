"""What a user has stays readable: results folders of earlier versions, as they were left on their
machines.

``tests/support/files/results-0.1.0.tar.xz`` is ``search_spaces.quickstart:digits`` with 6 trials
and one worker on a CPU: w16-000 failed (its worker was killed three times), w64-000 was evaluated
up to APGD, w64-001 was interrupted by Ctrl-C after 20 of 60 epochs. Ray's own notes and the weights
of w256-000 were left out.

``results-0.2.0.tar.xz`` is the same space from the days of 0.2.0 before its modules moved (commit
12156c6): 6 trials, w16-000 evaluated up to APGD. Beside it stands what ``status --json`` and
``compare --json`` printed then. The weights of widths 64 and 256, figures and MLflow's database
were left out.
"""

import dataclasses
import json
import tarfile
from pathlib import Path

import pytest
from mlflow import MlflowClient
from optuna.trial import FixedTrial
from typer.testing import CliRunner

import robsearch
from robsearch import PGD, InputError, Rung, RunOptions, TwoLosses
from robsearch.cli import app
from robsearch.identity import DERIVATION
from robsearch.search.commands.targets import load_finalists
from robsearch.search.resuming import check_unchanged, load_recorded
from robsearch.spaces import Stage, derived_by
from search_spaces import fidelity, quickstart

FILES = Path(__file__).parent / "support" / "files"


def unpacked(version, folder):
    """The results folder, at another place than that where it was made."""
    with tarfile.open(FILES / f"results-{version}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "results"


@pytest.fixture
def results(tmp_path):
    return unpacked("0.1.0", tmp_path)


@pytest.fixture
def results_before_the_move(tmp_path):
    return unpacked("0.2.0", tmp_path)


def printed(*words):
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_status_reads_it(results):
    told = json.loads(printed("status", "digits-1", "--results", results, "--json"))
    assert (told["ended"], told["asked"], told["unfinished"]) == (4, 6, ["w64-001"])
    assert [row["states"]["COMPLETE"] for row in told["rows"]] == [2, 1, 1]
    assert [best["trial"] for best in told["best"]] == ["w16-001", "w64-000", "w256-000"]
    assert [best["value"] for best in told["best"]] == [
        0.5709876543209876,
        0.7129629629629629,
        0.7515432098765432,
    ]
    assert [(best["strongest"]["attack"], best["strongest"]["n"]) for best in told["best"]] == [
        ("PGD-20", 649),
        ("APGD-T", 649),
        ("PGD-20", 649),
    ]
    evaluated = told["best"][1]
    assert (
        evaluated["strongest"]["robust_accuracy"] == 418 / 649
    )  # not .713 on val, nor .690 under PGD-20
    assert evaluated["selected_by"]["attack"] == "PGD-10"
    (failed,) = told["failures"]
    assert failed["trial"] == "w16-000"
    assert "its worker broke down more often than it is retried" in failed["reason"]
    said = printed("status", "digits-1", "--results", results)
    assert "go on with: robsearch resume digits-1" in said
    assert (
        "w64-000 robust 64.4% [60.6%, 68.0%] under APGD-T on 649 test images; selected on val: "
        "71.3%" in said
    )
    assert (
        "under PGD-10 on 648 val images, best of 2 trials, a maximum that is about 1.1 points "
        "too good" in said
    )
    assert "trained 19.1 s, measured on test 4.78 s" in said


def test_plot_draws_it_and_its_tables_are_there(results, tmp_path):
    file = tmp_path / "lam.svg"
    words = ["--results", results, "--out", file]
    assert printed("plot", "digits-1", "accuracy-against-lam", *words) == f"figure: {file}\n"
    assert "<svg" in file.read_text()
    search = robsearch.load_search("digits-1", results)
    assert {name: bounds.is_log for name, bounds in search.ranges.items()} == {"lam": True}
    assert search.tables["best-trials"]["trial"].tolist() == ["w16-001", "w64-000", "w256-000"]
    with pytest.raises(InputError, match="got nothing beside lambda was searched"):
        printed("plot", "digits-1", "importance", "--results", results)


def test_report_reads_it(results):
    page = results / "digits-1" / "report.html"
    page.unlink()
    assert "report.html" in printed("report", "digits-1", "--results", results)
    text = page.read_text()
    for trial in ("w16-001", "w16-002", "w64-000", "w256-000"):
        assert trial in text


def test_compare_reads_it(results):
    told = json.loads(printed("compare", "digits-1", "--results", results, "--json"))
    assert [(row["width"], row["trial"]) for row in told["rows"]] == [
        (16, "w16-001"),
        (64, "w64-000"),
        (256, "w256-000"),
    ]
    assert [row["strongest/attack"] for row in told["rows"]] == ["PGD-20", "APGD-T", "PGD-20"]
    assert [row["best_of"] for row in told["rows"]] == [2, 1, 1]
    assert "64.4 60.6..68.0  APGD-T  649 test" in printed(
        "compare", "digits-1", "--results", results
    )


def test_tables_read_it(results):
    search = robsearch.load_search("digits-1", results=results)
    assert search.table("ladder", "w64-000").num_rows == 649
    assert search.table("test").num_rows == 4 * 649
    epochs = search.epochs.groupby("trial")["epoch"].max().to_dict()
    assert {trial: epochs[trial] for trial in ("w16-001", "w64-000", "w64-001")} == {
        "w16-001": 60,
        "w64-000": 60,
        "w64-001": 20,
    }


def without(facts, *names):
    """A JSON value without the fields of these names, at any depth."""
    if isinstance(facts, dict):
        return {key: without(value, *names) for key, value in facts.items() if key not in names}
    if isinstance(facts, list):
        return [without(value, *names) for value in facts]
    return facts


def test_status_says_of_a_folder_from_before_the_move_what_it_said_then(results_before_the_move):
    then = json.loads((results_before_the_move.parent / "printed" / "status.json").read_text())
    now = json.loads(printed("status", "digits-1", "--results", results_before_the_move, "--json"))
    # Where it lies; why lambda* is not determined has other words today, and the law more columns.
    changed = ("folder", "report", "tracking", "sentence", "censored")
    now["law"] = {name: now["law"][name] for name in then["law"]}
    assert now.pop("dropped") == []
    assert now.pop("underway") == []
    assert now.pop("lacking_bytes") == 0
    assert without(now, *changed) == without(then, *changed)
    for optimum in now["law"]["optima"]:
        assert optimum["censored"].startswith("too few trials: at least ")


def test_compare_says_of_a_folder_from_before_the_move_what_it_said_then(results_before_the_move):
    then = json.loads((results_before_the_move.parent / "printed" / "compare.json").read_text())
    results = results_before_the_move
    now = json.loads(printed("compare", "digits-1", "--results", results, "--json"))
    assert now.pop("better") == []  # than which other
    changed = ("files", "lam_star_problem")
    assert without(now, *changed) == without(then, *changed)


def test_a_folder_from_before_the_move_is_reported_and_synced(results_before_the_move, uri):
    results = results_before_the_move
    assert "report.html" in printed("report", "digits-1", "--results", results)
    page = (results / "digits-1" / "report.html").read_text()
    assert all(trial in page for trial in ("w16-001", "w64-000", "w256-001"))
    assert "APGD-T" in page
    said = printed("sync", "digits-1", "--results", results, "--tracking", uri)
    assert "up to date" in said
    client = MlflowClient(uri)
    (experiment,) = [each for each in client.search_experiments() if each.name == "digits-1"]
    runs = client.search_runs([experiment.experiment_id])
    of_trial = {run.data.tags.get("robsearch.trial"): run for run in runs}
    rows = json.loads(printed("compare", "digits-1", "--results", results, "--json"))["rows"]
    for row in rows:
        run = of_trial[row["trial"]]
        assert run.info.status == "FINISHED"
        assert run.data.metrics["val/robust_accuracy"] > 0.5
        assert float(run.data.params["lam"]) == pytest.approx(row["lam"])


def test_a_search_from_before_goes_on_under_the_judge_of_its_time(results_before_the_move):
    """When it was recorded, PGD on the cross-entropy alone was the default."""
    options = RunOptions(results=results_before_the_move)
    with options.store.current():
        storage, record = options.store.search("digits-1")
        folder = options.store.folder("digits-1")
        space = load_recorded(record.space, folder)
        check_unchanged(storage, record, derived_by(space, record.derivation), folder)
        with pytest.raises(InputError, match=r"eval_attack +PGD +TwoLosses"):
            check_unchanged(storage, record, space, folder)
        *_, finalists, _ = load_finalists("digits-1", options, 1)
    judges = {finalist.recipe.resolved_test_attack for finalist in finalists}
    assert judges == {PGD(eps=0.15, step_size=0.0375, steps=20)}


def test_rungs_and_controls_of_a_search_from_before_have_its_judge_too():
    def weaker(full):
        return dataclasses.replace(full, attack=PGD(eps=0.1, steps=2), epochs=1)

    now = dataclasses.replace(
        quickstart.digits, fidelity=(*fidelity.digits.fidelity, Rung("weaker", weaker, keep=0.5))
    )
    former = derived_by(now, 1)
    of_before = PGD(eps=0.15, step_size=0.0375, steps=10)
    judges = {
        (None, None): of_before,
        (None, "scout"): of_before,
        (None, "weaker"): PGD(eps=0.1, steps=2),
        ("standard", None): of_before,
    }
    for (control, rung), judge in judges.items():
        made = former.recipe(Stage(16, control, rung), FixedTrial({"lam": 2.0}), 16)
        assert made.resolved_eval_attack == judge
        made = now.recipe(Stage(16, control, rung), FixedTrial({"lam": 2.0}), 16)
        assert made.resolved_eval_attack == TwoLosses.in_place_of(judge)
    assert [stage.label for stage in former.stages()] == [stage.label for stage in now.stages()]
    assert derived_by(now, DERIVATION) is now
