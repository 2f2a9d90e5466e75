"""Two searches of one name: wherever they could meet, the second is told. No Ray in here, but for
the last test."""

import shutil
import sys
from dataclasses import replace
from functools import partial
from subprocess import PIPE, Popen

import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, ModelVersionTag
from mlflow_stores import deliver, new_store, trial
from rich.console import Console
from search_records import search_record
from small_spaces import pair, recipe
from typer.testing import CliRunner

import robsearch
from robsearch import InputError, RunOptions, cli
from robsearch.claims.running import validate
from robsearch.papers.war import WidthStudy, digits_recipe
from robsearch.search.commands.promote import promote
from robsearch.search.commands.targets import find_target, load_target
from robsearch.search.engine import drive, extended
from robsearch.search.preflight import new_name
from robsearch.search.result import load_search
from robsearch.search.results_store import ResultsStore, claim_folder, new_identity, note_driver
from robsearch.search.resuming import check_only_copy
from robsearch.search.syncing import sync
from robsearch.study import Lease, LeaseWatch, open_storage
from robsearch.tracking import (
    SEARCH_ID,
    Promoted,
    Tracker,
    default_uri,
    experiment_of,
    register,
    run_pages,
    trial_of_run,
)
from robsearch.tracking.models import _refuse_others
from robsearch.trials.checkpoints import Attempt
from robsearch.trials.files import write_json
from robsearch.trials.provenance import read_attempts, read_search, write_attempt

ONE, OTHER = "1" * 32, "2" * 32


def begun(results, identity=ONE, storage=None, **changes):
    """A search that was launched in a results folder, with nothing trained."""
    store = ResultsStore(results, storage)
    known = search_record(identity=identity, **changes)
    claim_folder(store.folder("s"), known)
    known.create(open_storage(storage, store.folder("s")))
    note_driver(store.folder("s"), known)
    (store.folder("s") / "trials").mkdir()
    return store


def url(tmp_path, name):
    return f"sqlite:///{tmp_path / name}.db"


# --- storage and folder ---


def test_identities_are_random():
    assert len({new_identity() for _ in range(100)}) == 100


def test_another_storage_does_not_continue_the_folder_of_the_first(tmp_path):
    """The same --results and --name: the second search would have gone on from the first one's
    checkpoints."""
    begun(tmp_path / "results", storage=url(tmp_path, "first"))
    second = ResultsStore(tmp_path / "results", url(tmp_path, "second"))
    with pytest.raises(
        InputError, match=r"a results folder .*/s without a search in it, got that of a search 's'"
    ):
        new_name("s", pair, second, default_uri(second.results))
    with pytest.raises(InputError, match="without a search in it"):
        claim_folder(second.folder("s"), search_record(identity=OTHER))


def test_a_record_and_a_folder_of_two_searches_are_refused_by_everybody_who_reads_them(tmp_path):
    first, second = url(tmp_path, "first"), url(tmp_path, "second")
    begun(tmp_path / "one", ONE, first)
    begun(tmp_path / "other", OTHER, second)
    mixed = RunOptions(results=tmp_path / "one", storage=second)
    said = (
        "expected the results of 's' in .*, got those of another search of that name "
        r"\(11111111, not 22222222\)"
    )
    for act in (
        lambda: load_search("s", mixed.results, mixed.storage),
        lambda: robsearch.resume("s", options=mixed),
        lambda: robsearch.evaluate("s", options=mixed),
        lambda: sync("s", mixed),
    ):
        with pytest.raises(InputError, match=said):
            act()
    asked = ["status", "s", "--results", str(mixed.results), "--storage", second]
    with pytest.raises(InputError, match=said):
        CliRunner().invoke(cli.app, asked, catch_exceptions=False)


def test_a_folder_of_a_search_from_before_identities_is_not_taken(tmp_path):
    store = begun(tmp_path, identity="")
    (store.folder("s") / "search.json").unlink()
    assert load_search("s", tmp_path).record.identity == ""
    with pytest.raises(InputError, match="'s', which exists"):
        new_name("s", pair, store, default_uri(tmp_path))
    elsewhere = ResultsStore(tmp_path, url(tmp_path, "second"))
    with pytest.raises(InputError, match="without a search in it"):
        new_name("s", pair, elsewhere, default_uri(tmp_path))


DAMAGED_SEARCH = (
    "",
    "{",
    "[1]",
    "{}",
    '{"identity": 5, "drivers": 3}',
    '{"identity": null, "drivers": [7]}',
)


@pytest.mark.parametrize("text", [None, *DAMAGED_SEARCH])
def test_where_search_json_is_damaged_the_attempts_say_whose_the_folder_is(tmp_path, text):
    store = begun(tmp_path)
    folder = store.folder("s")
    attempt = Attempt.claim(folder / "trials" / "w4-000")
    write_attempt(attempt.folder, attempt.number, recipe(4))
    other = Attempt.claim(folder / "trials" / "w4-001")
    (folder / "search.json").unlink()
    if text is not None:
        (folder / "search.json").write_text(text)
    with pytest.warns(
        UserWarning, match=r"search.json is missing or damaged: the attempts at its trials say"
    ):
        assert load_search("s", tmp_path).record.identity == ONE
    note_driver(folder, search_record(identity=ONE))
    assert read_search(folder)["identity"] == ONE
    assert len(read_search(folder)["drivers"]) == 1
    write_json(other.folder / "attempt.json", {**read_attempts(attempt.trial)[0], "search": OTHER})
    (folder / "search.json").write_text(text or "")
    with pytest.raises(
        InputError, match=r"a damaged search\.json, and no attempt at a trial that says whose"
    ):
        load_search("s", tmp_path)


def test_a_search_without_its_folder_does_not_begin_another_one(tmp_path):
    """A wrong --results: the search would have gone on without its checkpoints."""
    storage = url(tmp_path, "first")
    begun(tmp_path / "results", storage=storage)
    elsewhere = RunOptions(results=tmp_path / "elsewhere", storage=storage)
    with pytest.raises(
        InputError, match=r"the results of 's' in .*, got no such folder: pass the --results"
    ):
        robsearch.resume("s", options=elsewhere)
    (tmp_path / "elsewhere" / "s").mkdir(parents=True)
    with pytest.raises(InputError, match=r"got a folder without search\.json"):
        load_search("s", elsewhere.results, storage)


def test_a_search_of_a_newer_robsearch_says_which_one_it_needs(tmp_path):
    store = begun(tmp_path)
    storage = store.open("s")
    facts = {**vars(search_record(identity=ONE)), "written_by": "9.1", "spirit": "free"}
    storage.set_study_user_attr(storage.get_study_id_from_name("s"), "search", facts)
    with pytest.raises(
        InputError, match=r"got 9\.1's: install that version: the search records spirit"
    ):
        load_search("s", tmp_path)


def test_a_copy_beside_its_original_does_not_write_to_the_same_runs(tmp_path):
    store = begun(tmp_path / "results", tracking="http://127.0.0.1:9")
    shutil.copytree(tmp_path / "results", tmp_path / "copy")
    copy = ResultsStore(tmp_path / "copy")
    _, known = copy.search("s")
    with pytest.raises(InputError, match=r"got a copy, whose original .*/results/s is still there"):
        check_only_copy(copy.folder("s"), known)
    check_only_copy(store.folder("s"), known)
    own = search_record(identity=ONE)
    check_only_copy(copy.folder("s"), own)  # it has stores of its own
    check_only_copy(copy.folder("s"), own, url(tmp_path / "copy", "all"))
    with pytest.raises(InputError, match=r"both have the same record in sqlite:.*all\.db: go on"):
        check_only_copy(copy.folder("s"), own, url(tmp_path, "all"))
    shutil.rmtree(store.folder("s"))
    check_only_copy(copy.folder("s"), known)  # it was moved


def test_a_validation_does_not_write_over_a_search_or_another_validation(tmp_path):
    study = WidthStudy(widths=(4, 8, 16), lams=(1, 2, 4), seeds=3, base=digits_recipe(100, 0.0, 2))
    begun(tmp_path)
    with pytest.raises(InputError, match="the name of a validation, got 's', which is a search's"):
        validate(study, "s", options=RunOptions(results=tmp_path))
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "verdicts.json").write_text('[{"claim": "N1"}]')
    with pytest.raises(InputError, match="under the name 'v', got verdicts on N1 in"):
        validate(study, "v", options=RunOptions(results=tmp_path))


def test_a_range_that_depends_on_the_number_of_the_trial_is_refused_by_check():
    """It was silent: ``check`` drew three first trials, and from the second on the search had
    another range."""

    @robsearch.space(widths=(4,))
    def growing(trial, width):
        return recipe(width, trial.suggest_float("lam", 1.0, 8.0 + trial.number))

    with pytest.raises(InputError, match="expected one range for 'lam'"):
        robsearch.check(growing)


# --- MLflow ---


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One MLflow store, with the experiment of a first search ``s`` and a run of its trial
    w4-000."""
    folder = tmp_path_factory.mktemp("shared")
    uri = new_store(folder)
    deliver(uri, folder, trial(tags={SEARCH_ID: ONE}), identity=ONE)
    return uri


def test_the_experiment_of_another_search_is_refused_by_everybody_who_opens_it(shared, tmp_path):
    said = (
        "expected an MLflow experiment 's' of this search, got experiment .* which is of "
        "another search"
    )
    with pytest.raises(InputError, match=said):
        Tracker(shared, "s", tmp_path, OTHER)
    with pytest.raises(InputError, match=said):
        Tracker(shared, "s", tmp_path, OTHER, patient=True)
    with pytest.raises(InputError, match=said):
        experiment_of(shared, "s", OTHER)
    assert run_pages(shared, "s", OTHER) == {}
    assert list(run_pages(shared, "s", ONE)) == ["w4-000"]
    Tracker(shared, "s", tmp_path, ONE).close()


def test_a_default_name_is_free_in_the_store_too_and_an_asked_one_is_refused(shared, tmp_path):
    store = ResultsStore(tmp_path)
    assert new_name(None, pair, store, shared) == "pair-1"
    client = MlflowClient(shared)
    client.create_experiment("pair-1")
    client.delete_experiment(client.create_experiment("pair-2"))
    assert new_name(None, pair, store, shared) == "pair-3"
    (tmp_path / "pair-3" / "trials").mkdir(parents=True)
    assert new_name(None, pair, store, shared) == "pair-4"
    for name in ("s", "pair-2"):
        with pytest.raises(InputError, match=f"got '{name}', of which sqlite:.* has an experiment"):
            new_name(name, pair, store, shared)
    assert not (tmp_path / "mlflow.db").exists()
    assert new_name("fresh", pair, store, default_uri(tmp_path)) == "fresh"
    assert not (tmp_path / "mlflow.db").exists()  # to ask is not to make


def test_an_experiment_that_was_deleted_is_refused_at_the_start(uri, tmp_path):
    Tracker(uri, "s", tmp_path, ONE).close()
    client = MlflowClient(uri)
    number = client.get_experiment_by_name("s").experiment_id
    client.delete_experiment(number)
    said = f"can be written, got experiment {number} in .*, which was deleted: restore it"
    with pytest.raises(InputError, match=said):
        Tracker(uri, "s", tmp_path, ONE, patient=True)
    store = begun(tmp_path, tracking=uri)
    with pytest.raises(InputError, match=said):
        sync("s", RunOptions(results=store.results))
    client.restore_experiment(number)
    assert sync("s", RunOptions(results=store.results)) == 0


def test_an_experiment_that_a_person_renamed_is_still_the_searchs(uri, tmp_path):
    """Refusals advise to rename: then a second, empty experiment was made, and nothing could be
    promoted any more."""
    deliver(uri, tmp_path, trial(tags={SEARCH_ID: ONE, "robsearch.search": "s"}), identity=ONE)
    client = MlflowClient(uri)
    number = experiment_of(uri, "s", ONE)
    client.rename_experiment(number, "aside")
    Tracker(uri, "s", tmp_path, OTHER).close()  # the name is free for another search
    again = Tracker(uri, "s", tmp_path, ONE)
    again.close()
    assert (
        again.experiment == experiment_of(uri, "s", ONE) == number != experiment_of(uri, "s", OTHER)
    )
    (run,) = client.search_runs([number])
    assert trial_of_run(uri, run.info.run_id) == ("s", "w4-000", ONE)
    client.delete_experiment(number)
    with pytest.raises(InputError, match="which was deleted"):
        Tracker(uri, "s", tmp_path, ONE)


def test_a_run_that_a_person_deleted_is_named_by_promote(uri, tmp_path):
    tracker = deliver(uri, tmp_path, trial(tags={SEARCH_ID: ONE}), identity=ONE)
    (run,) = MlflowClient(uri).search_runs([tracker.experiment])
    MlflowClient(uri).delete_run(run.info.run_id)
    network = Promoted("s", ONE, "w4-000", tmp_path)
    with pytest.raises(
        InputError, match=f"got run {run.info.run_id}, which was deleted: restore it"
    ):
        register(uri, network, "s-w4", only_owner=True)


def test_a_resume_that_mlflow_refuses_adds_no_trials(uri, tmp_path):
    store = begun(tmp_path)
    Tracker(uri, "s", tmp_path, OTHER).close()
    storage, known = store.search("s")

    def refused(record):
        return Tracker(uri, "s", tmp_path, record.identity, patient=True)

    with pytest.raises(InputError, match="which is of another search"):
        drive(
            pair,
            replace(known, trials=9),
            storage,
            refused,
            RunOptions(results=tmp_path),
            None,
            Console(quiet=True),
        )
    assert store.search("s")[1].trials == known.trials


class StoppedError(Exception):
    """Ends a drive before it trains."""


def test_a_resume_keeps_what_another_one_added_while_it_was_loading(tmp_path):
    store = begun(tmp_path, trials=4)
    storage, known = store.search("s")
    watch = LeaseWatch(storage, "s")
    with Lease.acquire(store.open("s"), "s"):
        replace(known, trials=24, budgets={"max_hours": 9.0}).save(store.open("s"))
    options = RunOptions(results=tmp_path)
    taken = []

    def stop(record):
        taken.append(record)
        raise StoppedError

    def resume(space):
        more = partial(extended, space=space, total=lambda before: before + 2, options=options)
        drive(
            space,
            known,
            storage,
            stop,
            options,
            None,
            Console(quiet=True),
            watch=watch,
            extended=more,
        )

    with pytest.raises(StoppedError):
        resume(pair)
    (record,) = taken
    assert (record.trials, record.budgets) == (26, {"max_hours": 9.0})
    # The other one may have begun suggestions of another space.
    with pytest.raises(InputError, match="expected the space that 's' was begun with"):
        resume(replace(pair, widths=(4, 8, 16)))


@pytest.mark.slow
def test_processes_that_make_one_store_at_once_all_get_in(tmp_path):
    code = "import sys; from robsearch.tracking import Tracker; from pathlib import Path; "
    code += "uri, name, folder = sys.argv[1:]; Tracker(uri, name, Path(folder), name * 32).close()"
    uri = url(tmp_path, "new")
    made = [
        Popen([sys.executable, "-c", code, uri, name, str(tmp_path)], stderr=PIPE) for name in "12"
    ]
    said = [process.communicate()[1].decode() for process in made]
    assert [process.returncode for process in made] == [0, 0], said


def test_an_experiment_from_before_identities_is_adopted_by_its_own_search_only(uri, tmp_path):
    Tracker(uri, "s", tmp_path).close()
    with pytest.raises(InputError, match="which this search did not make"):
        Tracker(uri, "s", tmp_path, ONE)
    Tracker(uri, "s", tmp_path, ONE, adopt=True).close()
    assert MlflowClient(uri).get_experiment_by_name("s").tags[SEARCH_ID] == ONE
    with pytest.raises(InputError, match="which is of another search"):
        Tracker(uri, "s", tmp_path, OTHER, adopt=True)


def test_the_run_of_another_search_does_not_lead_to_the_one_that_is_here(shared, tmp_path):
    run = MlflowClient(shared).search_runs([experiment_of(shared, "s", ONE)])[0].info.run_id
    assert trial_of_run(shared, run) == ("s", "w4-000", ONE)
    begun(tmp_path, OTHER)
    target, options = find_target(run, RunOptions(results=tmp_path, tracking=shared))
    with pytest.raises(
        InputError, match="the search 's' that made this run, got another search of that name"
    ):
        load_target(target, options)


# --- all together ---


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_folders_with_one_store_are_two_searches_and_each_promotes_its_own_network(
    two_cpus, tmp_path
):
    uri, quiet = new_store(tmp_path / "store"), Console(quiet=True)
    made = {}
    for folder in ("a", "b"):
        options = RunOptions(results=tmp_path / folder, tracking=uri, models=False, parallel=1)
        made[folder] = robsearch.launch(
            pair, trials=2, seed=ord(folder), options=options, console=quiet
        )
    assert [search.name for search in made.values()] == ["pair-1", "pair-2"]
    client = MlflowClient(uri)
    for folder, search in made.items():
        options = RunOptions(results=tmp_path / folder, tracking=uri)
        (promoted,) = promote(f"{search.name}/w4-000", options=options).values()
        _, name, version = promoted.rsplit("/", 2)
        assert (name, version) == (f"{search.name}-w4", "1")
        tags = client.get_model_version(name, version).tags
        assert tags[SEARCH_ID] == search.record.identity
        source = client.get_run(client.get_model_version(name, version).run_id)
        assert source.data.tags[SEARCH_ID] == search.record.identity
        assert source.data.metrics["test/robust_accuracy"] == pytest.approx(
            search.trials.set_index("trial").loc["w4-000", "test/robust_accuracy"]
        )
    shutil.rmtree(made["b"].folder)
    with pytest.raises(InputError, match=r"got 'pair-2', of which .* has an experiment"):
        robsearch.launch(
            pair,
            name="pair-2",
            options=RunOptions(results=tmp_path / "b", tracking=uri),
            console=quiet,
        )


def test_a_model_that_was_registered_before_its_search_had_an_identity_is_the_searchs():
    """``promote`` of a search of robsearch 0.1, then ``resume``, which gives it an identity, then
    ``promote``."""
    versions = [
        ModelVersion("s-w4", number, 0, tags=tags) for number, tags in ((1, None), (2, [tag("")]))
    ]
    _refuse_others(versions, "s-w4", "1" * 32)
    with pytest.raises(
        InputError,
        match=r"a registered model 's-w4' of this search, got version 3 of another search",
    ):
        _refuse_others(
            [*versions, ModelVersion("s-w4", 3, 0, tags=[tag("2" * 32)])], "s-w4", "1" * 32
        )


def tag(identity):
    return ModelVersionTag("robsearch.search_id", identity)
