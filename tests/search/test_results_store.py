"""Where a search is looked for: what was given, else where the call looks that runs, else what the
environment says."""

import os
import threading

import optuna
import pytest
from small_spaces import recipe
from typer.testing import CliRunner

import robsearch
from robsearch import InputError, Recipe, RunOptions, cli, space
from robsearch.doctor import examine
from robsearch.search import ResultsStore
from robsearch.search.options import in_store
from robsearch.study import SearchRecord, open_storage


@space(widths=(4,))
def reads(trial: optuna.Trial, width: float) -> Recipe:
    robsearch.load_search("thin")
    return recipe(width, trial.suggest_float("lam", 0.5, 32.0, log=True))


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder with a search called thin."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ROBSEARCH_RESULTS", raising=False)
    monkeypatch.delenv("ROBSEARCH_STORAGE", raising=False)
    folder = tmp_path / "results"
    SearchRecord("thin", "m:n", (4,), 0, 2, "sqlite:///m.db", {}).create(
        open_storage(None, folder / "thin")
    )
    return folder


def test_what_is_given_counts_then_the_running_call_then_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBSEARCH_RESULTS", str(tmp_path / "environment"))
    monkeypatch.setenv("ROBSEARCH_STORAGE", "sqlite:///environment.db")
    environment, given = (
        ResultsStore(tmp_path / "environment", "sqlite:///environment.db"),
        tmp_path / "given",
    )
    assert ResultsStore.of() == environment
    with ResultsStore(tmp_path / "call").current():
        assert ResultsStore.of() == ResultsStore(
            tmp_path / "call"
        )  # it has journals, whatever the environment says
        assert ResultsStore.of(given, "sqlite:///given.db") == ResultsStore(
            given, "sqlite:///given.db"
        )
        assert RunOptions(results=given).store == ResultsStore(given)
        with ResultsStore(tmp_path / "inner").current():
            assert ResultsStore.of().results == tmp_path / "inner"
        assert ResultsStore.of().results == tmp_path / "call"
        elsewhere = []
        other = threading.Thread(target=lambda: elsewhere.append(ResultsStore.of()))
        other.start()
        other.join()
        assert elsewhere == [environment]
    assert ResultsStore.of() == environment
    with pytest.raises(ValueError, match="a fault"), ResultsStore(tmp_path / "call").current():
        raise ValueError("a fault")
    assert ResultsStore.of() == environment


def test_a_call_hands_its_place_on(tmp_path):
    @in_store
    def asks(*, options=None):
        return ResultsStore.of().results

    assert asks(options=RunOptions(results=tmp_path)) == tmp_path
    assert asks() == ResultsStore.of().results != tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ["check", "test_results_store:reads"],
        ["doctor", "test_results_store:reads"],
        ["launch", "test_results_store:reads"],
    ],
)
def test_a_space_reads_another_search_where_the_options_say_and_nothing_is_left_behind(
    results, words
):
    lost = CliRunner().invoke(cli.app, words)
    assert "thin" in f"{lost.output}{lost.exception}"
    more = (
        ["--tracking", "nowhere"] if words[0] == "launch" else []
    )  # refused, after the space was asked
    found = CliRunner().invoke(cli.app, [*words, "--results", str(results), *more])
    assert "'thin'" not in f"{found.output}{found.exception}"
    assert not more or "an MLflow tracking URI" in str(found.exception)
    assert not [name for name in os.environ if name in ("ROBSEARCH_RESULTS", "ROBSEARCH_STORAGE")]


def test_from_python_too(results):
    with pytest.raises(InputError, match="got 'thin'"):
        robsearch.launch(reads, options=RunOptions())
    (finding,) = (
        one for one in examine(RunOptions(results=results), reads) if one.what == "space and data"
    )
    assert finding.ok
    with pytest.raises(
        InputError, match="an MLflow tracking URI"
    ):  # which is looked at after the space
        robsearch.launch(reads, options=RunOptions(results=results, tracking="nowhere"))
    with pytest.raises(InputError, match="got 'thin'"):  # in a storage that has none
        robsearch.launch(
            reads, options=RunOptions(results=results, storage=f"sqlite:///{results}/other.db")
        )
    assert not (results / "other.db").exists()
