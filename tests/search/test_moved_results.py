"""Where a search lies: folders of any name, results that were moved, names, and the commands that
lead back to them."""

import shlex
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow_stores import deliver, trial as a_trial
from small_spaces import pair
from typer.testing import CliRunner

from robsearch import InputError, RunOptions, Space, cli
from robsearch.cluster import check_address
from robsearch.doctor import examine
from robsearch.search import ResultsStore, load_search
from robsearch.search.commands.status import driver_line
from robsearch.search.commands.stop import stop
from robsearch.search.preflight import LONGEST_NAME, NAME, check_writable, new_name
from robsearch.search.recording import Recorder
from robsearch.search.syncing import sync
from robsearch.spaces import Rung
from robsearch.study import SearchRecord, open_storage
from robsearch.tracking import (
    Promoted,
    Tracker,
    check_model_names,
    check_tracking,
    default_uri,
    register,
)
from robsearch.trials.paths import without_password
from robsearch.trials.run_facts import RunFacts, write_run

ODD = ["a b 50% c#1", "50%41", "what?", "ü it's a@b"]


def begun(results, empty_database):
    """A results folder with one search ``s``, whose one trial has an artifact, a logged model and a
    model version."""
    trial = results / "s" / "trials" / "w4-000"
    (trial / "model").mkdir(parents=True)
    (trial / "model" / "MLmodel").write_text("weights")
    (trial / "test.json").write_text("rates")
    shutil.copy(empty_database, results / "mlflow.db")
    measured = a_trial(artifacts={trial / "test.json": "tables"}, model=trial / "model")
    deliver(default_uri(results), results, measured, a_trial("w4-001"))  # without an artifact
    register(
        default_uri(results),
        Promoted("s", "", "w4-000", trial / "model"),
        "net",
        only_owner=False,
        results=results,
    )
    return trial


def record(tracking, name="s"):
    return SearchRecord(name, "small_spaces:pair", (4,), 0, 6, tracking, {})


def read_artifact(uri, trial, path):
    client = MlflowClient(uri)
    number = client.get_experiment_by_name("s").experiment_id
    (run,) = client.search_runs([number], f"tags.`robsearch.trial` = '{trial}'")
    return Path(client.download_artifacts(run.info.run_id, path)).read_text()


# --- folders of any name ---


@pytest.mark.parametrize("name", ODD)
def test_a_results_folder_of_any_name_has_its_store_and_its_artifacts_in_it_and_nothing_beside_it(
    name, tmp_path, empty_database
):
    trial = begun(tmp_path / name, empty_database)
    uri = default_uri(tmp_path / name)
    check_tracking(uri)
    assert read_artifact(uri, "w4-000", "tables/test.json") == "rates"
    assert [one.name for one in tmp_path.iterdir()] == [name]
    assert sorted(one.name for one in trial.parents[2].iterdir()) == [
        "mlartifacts",
        "mlflow.db",
        "s",
    ]
    assert without_password(uri) == uri
    assert [
        one.result for one in examine(RunOptions(results=tmp_path / name)) if one.what == "tracking"
    ] == [f"{uri} answers"]


def test_the_default_store_of_an_ordinary_folder_has_the_uri_it_always_had(tmp_path):
    assert default_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"


def test_a_sqlite_uri_that_ends_at_a_question_mark_is_refused(tmp_path):
    for uri in (f"sqlite:///{tmp_path}/what?/m.db", f"sqlite:///{tmp_path}/m.db?x"):
        with pytest.raises(InputError, match="write %3F for"):
            check_tracking(uri)
        with pytest.raises(InputError, match="write %3F for"):
            open_storage(uri, tmp_path)
    check_tracking(f"sqlite:///{tmp_path}/m.db?timeout=30")
    assert not list(tmp_path.iterdir())


def test_a_sqlite_uri_with_escapes_makes_no_second_folder(tmp_path, empty_database):
    uri = RunOptions(tracking=f"sqlite:///{tmp_path}/what%3F/m.db").uri()
    (tmp_path / "what?").mkdir()
    shutil.copy(empty_database, tmp_path / "what?" / "m.db")
    assert Tracker(uri, "s", tmp_path).close() == 0
    assert [one.name for one in tmp_path.iterdir()] == ["what?"]


def test_the_path_of_a_sqlite_uri_is_no_password(tmp_path):
    uri = "sqlite:////me@work/s@m.db"
    assert without_password(uri) == uri
    for login in ("me:secret", "me:12/x", "me:a b", "me:a@b"):
        assert without_password(f"postgresql://{login}@db/x") == "postgresql://db/x"
    given = f"sqlite:///{tmp_path}/a@b.db"
    findings = examine(RunOptions(results=tmp_path, storage=given, tracking=given))
    assert [one.result for one in findings if one.what in ("storage", "tracking")] == [
        f"{given} will be made"
    ] * 2


def test_a_folder_is_made_absolute_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = RunOptions(results="here")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert options.store.results == tmp_path / "here"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert (
        RunOptions(results="~/there").store.results
        == ResultsStore.of("~/there").results
        == tmp_path / "there"
    )


# --- results that were moved ---


def test_a_search_with_the_default_store_remembers_no_path(tmp_path, monkeypatch):
    assert (
        RunOptions(results=tmp_path).to_remember
        == RunOptions(results=tmp_path, tracking=default_uri(tmp_path)).to_remember
        == ""
    )
    assert (
        RunOptions(results=tmp_path, tracking="http://me:secret@host:1").to_remember
        == "http://host:1"
    )
    assert (
        RunOptions(results=tmp_path, tracking="sqlite:////other/mlflow.db").to_remember
        == "sqlite:////other/mlflow.db"
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://around:1")
    assert RunOptions(results=tmp_path).to_remember == "http://around:1"
    assert RunOptions(results=tmp_path).uri_of(record("")) == default_uri(tmp_path)


def test_a_moved_search_is_recorded_where_it_lies_now(tmp_path, empty_database):
    begun(tmp_path / "old", empty_database)
    before, at = default_uri(tmp_path / "old"), tmp_path / "new 100%"
    record(before).create(
        open_storage(None, tmp_path / "old" / "s")
    )  # as earlier versions remembered it
    (tmp_path / "old").rename(at)
    assert load_search("s", at).record.tracking == default_uri(at)
    assert sync("s", RunOptions(results=at), lambda line: None) == 0
    assert read_artifact(default_uri(at), "w4-000", "tables/test.json") == "rates"
    trial = at / "s" / "trials" / "w4-000"
    late = a_trial("w4-001", artifacts={trial / "test.json": "tables"})  # of a run that had none
    deliver(RunOptions(results=at).uri_of(record("")), at, late, thorough=True)
    assert read_artifact(default_uri(at), "w4-001", "tables/test.json") == "rates"
    network = Promoted("s", "", "w4-000", trial / "model")
    assert (
        register(default_uri(at), network, "net", only_owner=False, results=at) == "models:/net/1"
    )
    version = MlflowClient(default_uri(at)).get_model_version("net", "1")
    assert version.source.startswith((at / "mlartifacts" / "s").as_uri())
    (trial / "model" / "code").mkdir()
    (
        trial / "model" / "code" / "robsearch_network.py"
    ).touch()  # saved again, by a robsearch that writes another form
    for _ in range(2):
        assert (
            register(default_uri(at), network, "net", only_owner=False, results=at)
            == "models:/net/2"
        )
    assert MlflowClient(default_uri(at)).get_model_version("net", "1").source == version.source
    assert not (tmp_path / "old").exists()


def test_of_a_copy_nothing_is_written_at_the_original(tmp_path, empty_database):
    begun(tmp_path / "old", empty_database)
    shutil.copytree(tmp_path / "old", tmp_path / "copy")
    before = sorted((tmp_path / "old").rglob("*")), (tmp_path / "old" / "mlflow.db").read_bytes()
    uri = RunOptions(results=tmp_path / "copy").uri_of(record(default_uri(tmp_path / "old")))
    assert uri == default_uri(tmp_path / "copy")
    file = tmp_path / "copy" / "s" / "trials" / "w4-000" / "test.json"
    late = a_trial("w4-001", artifacts={file: "tables"})
    deliver(uri, tmp_path / "copy", late, thorough=True)
    assert read_artifact(uri, "w4-001", "tables/test.json") == "rates"
    assert (
        sorted((tmp_path / "old").rglob("*")),
        (tmp_path / "old" / "mlflow.db").read_bytes(),
    ) == before


def test_artifacts_that_are_at_the_old_place_only_are_still_found_there(tmp_path, empty_database):
    begun(tmp_path / "old", empty_database)
    (tmp_path / "new" / "s").mkdir(parents=True)
    shutil.copy(tmp_path / "old" / "mlflow.db", tmp_path / "new" / "mlflow.db")
    assert Tracker(default_uri(tmp_path / "new"), "s", tmp_path / "new").close() == 0
    assert read_artifact(default_uri(tmp_path / "new"), "w4-000", "tables/test.json") == "rates"


def test_a_store_that_was_chosen_stays_the_one_that_is_meant(tmp_path, empty_database):
    (tmp_path / "chosen").mkdir()
    (tmp_path / "results").mkdir()
    for folder in ("chosen", "results"):  # that of the results knows no search ``s``
        shutil.copy(empty_database, tmp_path / folder / "mlflow.db")
    chosen = default_uri(tmp_path / "chosen")
    assert RunOptions(results=tmp_path / "results").uri_of(record(chosen)) == chosen
    named = f"sqlite:///{tmp_path}/gone/my.db"
    assert RunOptions(results=tmp_path / "results").uri_of(record(named)) == named
    tracker = Tracker(chosen, "s", tmp_path / "results")
    assert tracker.close() == 0
    location = MlflowClient(chosen).get_experiment_by_name("s").artifact_location
    assert location == (tmp_path / "results" / "mlartifacts" / "s").as_uri()


def test_what_waited_for_mlflow_is_delivered_from_where_the_search_lies_now(
    tmp_path, empty_database
):
    trial = begun(tmp_path / "old", empty_database)
    folder = tmp_path / "old" / "s"
    record("").create(open_storage(None, folder))
    (folder / "claims").mkdir()
    (folder / "claims" / "verdicts.json").write_text("none")
    facts = RunFacts("search s", "COMPLETE", 990.0, 1000.0)
    write_run(folder, facts)
    tracker = Tracker("http://127.0.0.1:9", "s", tmp_path / "old", patient=True)
    Recorder(tracker, trial.parent).changed("search")
    assert tracker.close(patience=0.1) == 1
    assert str(tmp_path) not in (folder / "run.json").read_text()
    (tmp_path / "old").rename(tmp_path / "new")
    assert sync("s", RunOptions(results=tmp_path / "new"), lambda line: None) == 0
    assert read_artifact(default_uri(tmp_path / "new"), "search", "claims/verdicts.json") == "none"


# --- commands that are printed ---


def test_a_printed_command_is_what_a_shell_takes(tmp_path, monkeypatch):
    monkeypatch.delenv("ROBSEARCH_RESULTS", raising=False)
    results = tmp_path / "it's a $HOME"
    store = ResultsStore.of(results, "postgresql://me:secret@db/x?a=1&b=2")
    words = [
        "robsearch",
        "resume",
        "s",
        "--results",
        str(results),
        "--storage",
        "postgresql://db/x?a=1&b=2",
    ]
    assert shlex.split(store.command("resume", "s")) == words
    assert ResultsStore.of().command("resume", "s") == "robsearch resume s"
    assert ResultsStore.of("robsearch-results").command("ui", "s") == "robsearch ui s"
    monkeypatch.setenv("ROBSEARCH_RESULTS", "robsearch-results")  # another shell may not have it
    assert shlex.split(ResultsStore.of().command("ui", "s"))[-2:] == [
        "--results",
        str(Path("robsearch-results").absolute()),
    ]


def test_every_command_about_a_search_says_where_it_lies(tmp_path, monkeypatch):
    results = tmp_path / "my results"
    record("").create(open_storage(None, results / "s"))
    search, store = load_search("s", results), ResultsStore.of(results)
    where = f"--results {shlex.quote(str(results))}"
    assert driver_line(search).endswith(f"robsearch resume s {where}")
    assert search.links == {
        "MLflow UI": f"robsearch ui s {where}",
        "Status": f"robsearch status s {where}",
    }
    assert RunOptions(results=results).command("sync", search.record) == f"robsearch sync s {where}"
    with pytest.raises(InputError) as none:
        stop("s", RunOptions(results=results))
    assert f"robsearch status s {where}" in str(none.value)
    with pytest.raises(InputError) as taken:
        new_name("s", pair, store, default_uri(results))
    assert f"robsearch resume s {where}" in str(taken.value)


# --- names ---


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a" * 300, "a name of at most 200 letters"),
        ("a" * (LONGEST_NAME + 1), "a name of at most 200 letters"),
        ("..", "a name that can be a folder"),
        ("a.", "a name that can be a folder"),
        ("a ", "a name that can be a folder"),
        ("", "a name that can be a folder"),
        ("mlartifacts", "a name that is free"),
        ("MLflow.db", "a name that is free"),
        ("file", "a name that is free"),
    ],
)
def test_a_name_that_could_not_be_a_searchs_is_refused(tmp_path, name, said):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=said):
        new_name(name, pair, ResultsStore.of(tmp_path), default_uri(tmp_path))
    assert (
        new_name("a" * LONGEST_NAME, pair, ResultsStore.of(tmp_path), default_uri(tmp_path))
        == "a" * LONGEST_NAME
    )


@pytest.mark.parametrize(
    ("function", "name"),
    [
        ("x" * 250, "x" * 195 + "-1"),
        ("<lambda>", "lambda-1"),
        ("räume", "rume-1"),
        ("ω", "search-1"),
        ("_o", "o-1"),
    ],
)
def test_a_name_by_default_fits_whatever_the_function_is_called(tmp_path, function, name):
    def define(trial, width):
        raise NotImplementedError

    define.__name__ = function
    assert (
        new_name(None, Space(define, widths=(4,)), ResultsStore.of(tmp_path), default_uri(tmp_path))
        == name
    )
    assert NAME.fullmatch(name)
    assert len(name) <= LONGEST_NAME


@pytest.mark.parametrize("name", ["", ".", "..", "../r/s", "s/../s", "s/", "a" * 300, "a\0b"])
def test_a_name_that_leads_elsewhere_is_not_found(tmp_path, name):
    for folder in (tmp_path, tmp_path / "r", tmp_path / "r" / "s"):
        record("", name or "s").create(
            open_storage(None, folder)
        )  # a search of this name, but not in ``r``
    for command in ("status", "resume", "stop", "evaluate", "promote", "report", "sync", "ui"):
        failed = (
            CliRunner().invoke(cli.app, [command, name, "--results", str(tmp_path / "r")]).exception
        )
        assert isinstance(failed, InputError), (command, failed)


def test_every_search_of_a_validation_is_named_before_the_first_is_run(tmp_path):
    run = CliRunner().invoke(
        cli.app, ["validate", "war", "--name", "a" * 199, "--results", str(tmp_path)]
    )
    assert isinstance(run.exception, InputError)
    assert "at most 200 letters" in run.exception.problems[0]
    assert not list(tmp_path.iterdir())


def test_a_rungs_name_is_short_enough_for_a_folder():
    assert Rung("x" * 40, lambda recipe: recipe, 0.5).name
    with pytest.raises(InputError, match="at most 40 letters"):
        Rung("x" * 41, lambda recipe: recipe, 0.5)


def test_a_models_name_that_the_registry_cannot_keep_is_refused_before_it_is_exported():
    check_model_names(["digits-1-w4", "my net, ü"])
    with pytest.raises(InputError) as refused:
        check_model_names(["", "a" * 257, "a/b", "a:b", "it's", "..", "fine"])
    assert len(refused.value.problems) == 6


def test_results_that_are_a_file_are_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        check_writable(tmp_path / "file")


# --- Ray's temporary files ---


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_a_temporary_folder_that_is_too_long_for_rays_sockets_is_refused_before_ray_starts(
    tmp_path, monkeypatch, variable
):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / ("x" * 100)))
    with pytest.raises(InputError, match="set RAY_TMPDIR, or TMPDIR, to a short path"):
        check_address(None)
    assert not list(tmp_path.iterdir())


def test_a_temporary_folder_that_cannot_be_written_is_refused_before_ray_starts(monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", "/dev/null")
    with pytest.raises(
        InputError, match=r"a writable folder /dev/null/ray .* got Not a directory: set RAY_TMPDIR"
    ):
        check_address(None)
