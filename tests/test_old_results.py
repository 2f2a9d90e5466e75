"""What a user has stays readable: a results folder written by robsearch 0.1.0, as it was left on its machine.

``tests/data/results-0.1.0.tar.xz`` is ``search_spaces.quickstart:digits`` with 6 trials and one worker on a CPU:
w16-000 failed (its worker was killed three times), w64-000 was evaluated up to APGD, w64-001 was interrupted by Ctrl-C
after 20 of 60 epochs. Ray's own notes and the weights of w256-000 were left out.
"""

import json
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

import robsearch
from robsearch.cli import app

ARCHIVE = Path(__file__).parent / "data" / "results-0.1.0.tar.xz"


@pytest.fixture
def results(tmp_path):
    """The folder, at another place than that where it was made."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "results"


def printed(*words):
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_status_reads_it(results):
    told = json.loads(printed("status", "digits-1", "--results", results, "--json"))
    assert (told["ended"], told["asked"], told["unfinished"]) == (4, 6, ["w64-001"])
    assert [row["states"]["COMPLETE"] for row in told["rows"]] == [2, 1, 1]
    assert [best["trial"] for best in told["best"]] == ["w16-001", "w64-000", "w256-000"]
    assert [best["value"] for best in told["best"]] == [0.5709876543209876, 0.7129629629629629, 0.7515432098765432]
    assert [(best["strongest"]["attack"], best["strongest"]["n"]) for best in told["best"]] == [
        ("PGD-20", 649), ("APGD-T", 649), ("PGD-20", 649),
    ]  # fmt: skip
    evaluated = told["best"][1]
    assert evaluated["strongest"]["robust_accuracy"] == 418 / 649  # not .713 on val, nor .690 under PGD-20
    assert evaluated["selected_by"]["attack"] == "PGD-10"
    (failed,) = told["failures"]
    assert failed["trial"] == "w16-000"
    assert "its worker broke down more often than it is retried" in failed["reason"]
    said = printed("status", "digits-1", "--results", results)
    assert "go on with: robsearch resume digits-1" in said
    assert "w64-000 robust 64.4% [60.6%, 68.0%] under APGD-T on 649 test images; selected on val: 71.3%" in said
    assert "under PGD-10 on 648 val images, best of 2 trials, a maximum that is about 1.1 points too good" in said
    assert "trained 19.1 s, measured on test 4.78 s" in said


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
    assert "64.4 60.6..68.0  APGD-T  649 test" in printed("compare", "digits-1", "--results", results)


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
