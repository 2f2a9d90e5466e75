"""Where a search is looked for: what was given, else where the call looks that runs, else what the environment says."""

import os
import threading

import optuna
import pytest
from small_spaces import recipe
from typer.testing import CliRunner

import robsearch
from robsearch import InputError, Means, Recipe, cli, space
from robsearch.doctor import examine
from robsearch.search import Place
from robsearch.search.workplace import in_place
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
    SearchRecord("thin", "m:n", (4,), 0, 2, "sqlite:///m.db", {}).create(open_storage(None, folder / "thin"))
    return folder


def test_what_is_given_counts_then_the_running_call_then_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBSEARCH_RESULTS", str(tmp_path / "environment"))
    monkeypatch.setenv("ROBSEARCH_STORAGE", "sqlite:///environment.db")
    environment, given = Place(tmp_path / "environment", "sqlite:///environment.db"), tmp_path / "given"
    assert Place.of() == environment
    with Place(tmp_path / "call").current():
        assert Place.of() == Place(tmp_path / "call")  # it has journals, whatever the environment says
        assert Place.of(given, "sqlite:///given.db") == Place(given, "sqlite:///given.db")
        assert Means(results=given).place == Place(given)
        with Place(tmp_path / "inner").current():
            assert Place.of().results == tmp_path / "inner"
        assert Place.of().results == tmp_path / "call"
        elsewhere = []
        other = threading.Thread(target=lambda: elsewhere.append(Place.of()))
        other.start()
        other.join()
        assert elsewhere == [environment]
    assert Place.of() == environment
    with pytest.raises(ValueError, match="a fault"), Place(tmp_path / "call").current():
        raise ValueError("a fault")
    assert Place.of() == environment


def test_a_call_hands_its_place_on(tmp_path):
    @in_place
    def asks(*, means=None):
        return Place.of().results

    assert asks(means=Means(results=tmp_path)) == tmp_path
    assert asks() == Place.of().results != tmp_path


@pytest.mark.parametrize(
    "words", [["check", "test_place:reads"], ["doctor", "test_place:reads"], ["launch", "test_place:reads"]]
)
def test_a_space_reads_another_search_where_the_options_say_and_nothing_is_left_behind(results, words):
    lost = CliRunner().invoke(cli.app, words)
    assert "thin" in f"{lost.output}{lost.exception}"
    more = ["--tracking", "nowhere"] if words[0] == "launch" else []  # refused, after the space was asked
    found = CliRunner().invoke(cli.app, [*words, "--results", str(results), *more])
    assert "'thin'" not in f"{found.output}{found.exception}"
    assert not more or "an MLflow tracking URI" in str(found.exception)
    assert not [name for name in os.environ if name in ("ROBSEARCH_RESULTS", "ROBSEARCH_STORAGE")]


def test_from_python_too(results):
    with pytest.raises(InputError, match="got 'thin'"):
        robsearch.launch(reads, means=Means())
    (finding,) = (one for one in examine(Means(results), reads) if one.what == "space and data")
    assert finding.ok
    with pytest.raises(InputError, match="an MLflow tracking URI"):  # which is looked at after the space
        robsearch.launch(reads, means=Means(results, tracking="nowhere"))
    with pytest.raises(InputError, match="got 'thin'"):  # in a storage that has none
        robsearch.launch(reads, means=Means(results, storage=f"sqlite:///{results}/other.db"))
    assert not (results / "other.db").exists()
