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
    (failed,) = told["failures"]
    assert failed["trial"] == "w16-000"
    assert "its worker broke down more often than it is retried" in failed["reason"]
    assert "go on with: robsearch resume digits-1" in printed("status", "digits-1", "--results", results)


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
