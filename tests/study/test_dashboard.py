"""What optuna-dashboard shows of a search, over its own HTTP interface."""

import io
import json
import warnings

import pytest
from search_records import search_record
from small_spaces import pair, recipe

from robsearch.spaces import Space, Stage
from robsearch.study import Lease, Study, ending, open_storage

dashboard = pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")

VALUE, NATURAL = "val/robust_accuracy", "val/natural_accuracy"


def entry(epoch, value, natural=0.9):
    return {"epoch": epoch, "time": 0.0, VALUE: value, NATURAL: natural, "train/lam": 2.0}


def asked(storage, path):
    """The answer of optuna-dashboard's interface to a GET."""
    said = {}
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.url_scheme": "http",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own words on Optuna's experimental parts
        body = dashboard.wsgi(storage)(environ, lambda status, *_: said.update(status=status))
    assert said["status"] == "200 OK", said
    return json.loads(b"".join(body))


@pytest.fixture(params=["journal", "sqlite"])
def shown(request, tmp_path):
    """The studies of a made search, by their names, as optuna-dashboard opens its storage anew."""
    url = f"sqlite:///{tmp_path / 'o.db'}" if request.param == "sqlite" else None
    storage = open_storage(url, tmp_path)
    search_record().create(storage)
    with Lease.acquire(storage, "s"):
        searched = Space(pair.define, (4, 8), replicates=2)
        of_width = Study(storage, "s", searched, Stage(4), trials=2, full=recipe(4), seed=0)
        first = of_width.ask()
        best = [entry(1, 0.3), entry(2, 0.2)]
        outcome = of_width.complete(first, best[0], best[1], seconds=5.0)
        of_width.complete(outcome.following, entry(1, 0.5, 0.7), entry(1, 0.5), seconds=7.0)
        pruned = of_width.ask()
        of_width.prune(pruned, best[0], best[1], seconds=1.0)
    opened = url or str(tmp_path / "optuna.journal")
    # As its command line does it.
    from optuna_dashboard._storage_url import get_storage

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = get_storage(opened)
    listed = asked(again, "/api/studies")["study_summaries"]
    return {each["study_name"]: asked(again, f"/api/studies/{each['study_id']}") for each in listed}


def attributes(of):
    return {each["key"]: each["value"] for each in of["user_attrs"]}


def test_a_person_reads_objective_suggestions_and_what_the_other_studies_are(shown):
    assert set(shown) == {"s", "s@lease-1", "s@w4"}
    assert [len(shown[name]["trials"]) for name in ("s", "s@lease-1", "s@w4")] == [0, 0, 2]
    record = attributes(shown["s"])["about"]
    assert record == "no trials: the record of 's', whose trials are in s@..."
    lease = attributes(shown["s@lease-1"])["about"]
    assert lease == "no trials: by this lease driver 1 of 's' holds it, or held it"

    of_width = shown["s@w4"]
    assert of_width["objective_names"] == [VALUE]
    best, pruned = of_width["trials"]
    assert (best["state"], best["values"]) == ("Complete", [0.4])  # of 0.3 and 0.5
    assert pruned["state"] == "Pruned"
    facts = attributes(best)
    assert facts["trials"] == "w4-000-r0, w4-000-r1"
    assert float(facts["seconds"]) == 12.0
    assert float(facts[NATURAL]) == pytest.approx(0.8)
    assert attributes(pruned)["trials"] == "w4-001-r0"
    sortable = {each["key"]: each["sortable"] for each in of_width["union_user_attrs"]}
    assert (sortable["seconds"], sortable[NATURAL]) == (True, True)


def test_a_trial_that_another_process_ends_has_its_name_too(tmp_path):
    storage = open_storage(None, tmp_path)
    of_width = Study(
        storage, "s", Space(pair.define, (4,)), Stage(4), trials=2, full=recipe(4), seed=0
    )
    trial = of_width.ask().trial
    assert ending.prune_interrupted(storage, "s", trial, [entry(1, 0.3)], best=1)
    (suggestion,) = of_width.trials()
    assert suggestion.user_attrs["trials"] == "w4-000"
    assert suggestion.user_attrs[VALUE] == 0.3
