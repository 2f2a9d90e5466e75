"""Searches that go other than the default way, from launch to report; and the examples in
``search_spaces``."""

import os
import re
import signal
from pathlib import Path

import pytest
import search_variants
from command_processes import started, wait_until
from mlflow import MlflowClient
from small_spaces import pair

import robsearch
from robsearch import InputError, RunOptions
from robsearch.papers.war import thin_anchor
from robsearch.search import ResultsStore
from robsearch.search.tables import searched
from robsearch.tracking import default_uri
from robsearch.trials.loading import read_history

pytestmark = pytest.mark.usefixtures("uri")


def runs_of(results, name):
    client = MlflowClient(default_uri(results))
    experiment = client.get_experiment_by_name(name)
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    return {
        run.data.tags["robsearch.trial"]: run for run in runs if "robsearch.trial" in run.data.tags
    }


def launched(space, results, trials, name="s", parallel=2):
    return robsearch.launch(
        space, name=name, trials=trials, options=RunOptions(results=results, parallel=parallel)
    )


@pytest.mark.slow
def test_rungs_seeds_a_constraint_and_a_first_point_in_one_search(two_cpus, tmp_path):
    search = launched(search_variants.at_once, tmp_path, trials=4)
    assert sorted(search.trials["trial"]) == sorted(
        [f"w{w}-scout-00{n}" for w in (4, 8) for n in (0, 1)]
        + [f"w{w}-000-r{r}" for w in (4, 8) for r in (0, 1)]
        + ["w4-standard-000", "w8-standard-000"]
    )
    assert set(search.trials["state"]) == {"COMPLETE"}
    assert search.ended == search.record.trials == 4
    rows = search.trials.set_index("trial")
    for width in (4, 8):
        scouts = [rows.loc[f"w{width}-scout-00{n}"] for n in (0, 1)]
        assert scouts[0]["lam"] == pytest.approx(6.0)
        assert list(rows.loc[[f"w{width}-scout-00{n}" for n in (0, 1)], "epochs"]) == [1, 1]
        risen = max(scouts, key=lambda scout: scout["value"])
        assert (
            rows.loc[f"w{width}-000-r0", "lam"]
            == rows.loc[f"w{width}-000-r1", "lam"]
            == risen["lam"]
        )
    assert len(searched(search.trials)) == search.ridge.n == 4
    assert rows.loc[rows["rung"].notna(), "test/robust_accuracy"].isna().all()
    runs = runs_of(tmp_path, "s")
    assert set(runs) >= set(search.trials["trial"])
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert runs["w4-scout-000"].info.run_name == "w4 scout lam 6 #000"
    assert runs["w4-000-r1"].info.run_name.endswith("#000 r1")
    assert search.report.exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_metrics_over_all_widths_make_a_front(two_cpus, tmp_path):
    search = launched(search_variants.front, tmp_path, trials=6)
    done = searched(search.trials)
    assert sorted(done["trial"]) == sorted(f"w{w}-00{n}" for w in (4, 8) for n in range(3))
    assert (done.groupby("number")["lam"].nunique() == 1).all()
    front = search.front
    for _, own in front.iterrows():
        rivals = done[done["width"] == own["width"]]
        better = (rivals["value"] > own["value"]) & (
            rivals["val/natural_accuracy"] > own["val/natural_accuracy"]
        )
        assert not better.any()
    assert set(front["width"]) == {4, 8}


@pytest.mark.slow
def test_what_is_learned_from_must_be_there_and_is_not_trained_again(
    two_cpus, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as refused:
        launched(search_variants.taught, tmp_path, trials=2)
    assert "expected the name of a search, got 'first'" in str(refused.value)
    assert "expected a table to learn from, table.csv" in str(refused.value)
    launched(pair, tmp_path, trials=2, name="first", parallel=1)
    (tmp_path / "table.csv").write_text("width,value,lam,note\n4,0.5,2.0,x\n2,0.4,1.5,y\n")
    search = launched(search_variants.taught, tmp_path, trials=2, parallel=1)
    assert list(search.trials["trial"]) == ["w4-002", "w8-001"]  # after those that were brought in
    assert search.ended == 2
    assert set(runs_of(tmp_path, "s")) >= {"w4-002", "w8-001"}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("two_cpus")
class TestExamples:
    """Each example of ``search_spaces`` as a user launches it, with few trials, one at a time: to
    start a second process takes as long as one of them."""

    def launch(self, space, results, trials, name="s"):
        return launched(f"search_spaces.{space}", results, trials, name, parallel=1)

    def test_power_law(self, tmp_path):
        search = self.launch("power_law:digits", tmp_path, trials=3)
        lams = search.trials.set_index("trial")["lam"]
        assert list(lams.index) == ["w16-000", "w32-000", "w64-000"]
        assert lams["w32-000"] / lams["w16-000"] == pytest.approx(lams["w64-000"] / lams["w32-000"])

    def test_war_learns_from_a_named_thin_search_in_the_same_place(self, tmp_path):
        with pytest.raises(InputError, match="expected the name of a search, got 'thin'"):
            self.launch("war:wide", tmp_path, trials=2)
        thin = self.launch("war:thin", tmp_path, trials=2, name="thin")
        search = self.launch("war:wide", tmp_path, trials=2)
        assert set(search.trials["state"]) == {"COMPLETE"}
        assert set(search.trials["trial"]) == {"w64-000", "w256-000"}  # one at each
        targets = {
            run.data.params["lam.target"]
            for run in runs_of(tmp_path, "s").values()
            if "lam" in run.data.params
        }
        assert targets == {str(thin_anchor(thin).ratios)}
        first = search.epochs[search.epochs["epoch"] == 1]["train/lam"]
        assert (first != thin_anchor(thin).lam).all()  # WAR moved it
        # The documentation's function, in the same place.
        page = (Path(__file__).parents[2] / "docs" / "concepts" / "war.md").read_text()
        (block,) = re.findall(r"```python\n([^`]*static_war[^`]*)```", page)
        names = {}
        exec(block, names)
        with ResultsStore(tmp_path).current():
            assert 0.1 < names["wide_lambda"](64) < 100

    def test_constrained(self, tmp_path):
        search = self.launch("constrained:digits", tmp_path, trials=4)
        natural = search.finished.set_index("width")["val/natural_accuracy"]
        met = searched(search.trials)["val/natural_accuracy"] >= 0.90
        for width, met_there in met.groupby(search.trials["width"]):
            assert (natural[[width]] >= 0.90).all() or not met_there.any()
        assert search.trials["feasible"].tolist() == met.tolist()

    def test_pareto(self, tmp_path):
        search = self.launch("pareto:digits", tmp_path, trials=2)
        assert set(search.trials["state"]) == {"COMPLETE"}
        assert not search.front.empty

    def test_replicates(self, tmp_path):
        search = self.launch("replicates:digits", tmp_path, trials=3)
        assert list(search.suggestions["n"]) == [3]
        assert (search.suggestions["sd"] > 0).all()

    def test_fidelity(self, tmp_path):
        search = self.launch("fidelity:digits", tmp_path, trials=2)
        counts = search.trials["rung"].fillna("full").value_counts()
        assert counts.to_dict() == {"scout": 8, "full": 2}

    def test_width_aware(self, tmp_path):
        search = self.launch("width_aware:digits", tmp_path, trials=4)
        assert list(searched(search.trials).groupby("width").size()) == [1, 1, 1, 1]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_driver_that_is_killed_between_two_seeds_is_taken_over_with_nothing_trained_twice(
    two_cpus,
    tmp_path,
):
    launch = started(
        tmp_path,
        "launch",
        "search_variants:slow_seeds",
        "--name",
        "s",
        "--trials",
        "4",
        "--parallel",
        "1",
    )
    trials = tmp_path / "s" / "trials"
    wait_until(lambda: len(read_history(trials / "w4-000-r1")) > 20, launch)
    os.kill(launch.pid, signal.SIGKILL)
    launch.wait()
    before = robsearch.load_search("s", results=tmp_path)
    whole = before.trials[before.trials["state"] == "COMPLETE"].set_index("trial")
    assert "w4-000-r0" in whole.index
    robsearch.resume("s", options=RunOptions(results=tmp_path, parallel=2))
    after = robsearch.load_search("s", results=tmp_path)
    rows = after.trials.set_index("trial")
    assert list(rows.loc[whole.index, "seconds"]) == list(whole["seconds"])
    assert rows["rung"].fillna("full").value_counts().to_dict() == {"full": 4, "scout": 4}
    assert set(rows["state"]) == {"COMPLETE"}
    assert (after.suggestions["n"] == 2).all()
    runs = runs_of(tmp_path, "s")
    assert {
        name: run.info.status for name, run in runs.items() if name != "search"
    } == dict.fromkeys(rows.index, "FINISHED")
