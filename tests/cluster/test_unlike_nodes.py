"""Real nodes, of which one lacks two modules and has a clock that is 100 s ahead."""

import os
import signal

import pytest
from small_jobs import Listed, lasts, notes, steps
from small_spaces import hopeless
from two_nodes import joined_by_another, one_node, two_nodes

from robsearch import InputError, RunOptions, cluster
from robsearch.cluster import nodes as of_cluster
from robsearch.cluster.jobs import Job
from robsearch.doctor import examine
from robsearch.search.capacity import jobs_at_once
from robsearch.spaces import suggestions
from robsearch.spaces.resources import Resources

pytestmark = pytest.mark.slow

CUSTOM = """
import sys
import time

LACKING = ("small_jobs", "small_spaces")
seconds = time.time
time.time = lambda: seconds() + 100


class Lacking:
    def find_spec(self, name, path=None, target=None):
        if name in LACKING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Lacking())
"""


@pytest.fixture(scope="module")
def lacking(tmp_path_factory):
    """What a node's PYTHONPATH is where it lacks two modules."""
    folder = tmp_path_factory.mktemp("c")
    (folder / "sitecustomize.py").write_text(CUSTOM)  # Python imports it when it starts
    return str(folder)


def test_a_node_that_joins_gets_jobs_if_it_can_run_them(
    lacking, tmp_path_factory, tmp_path, monkeypatch
):
    """One node is at work; the next lacks a package, the third does not. Two jobs that come when
    the second was refused, and before the third has answered, run on the third, one after the
    other."""
    said, joined = [], []
    later = [Job(f"later-{i}", steps, (1, 12.0), tmp_path / f"later-{i}") for i in range(2)]
    first = Job("first", lasts, later[1].folder / "notes", tmp_path / "first")

    def on_report(listed, job):
        if not joined:
            joined.append(joined_by_another(made, monkeypatch, PYTHONPATH=lacking))
        elif said and len(joined) == 1:
            joined.append(joined_by_another(made, monkeypatch))
            listed.waiting.extend(later)

    with (
        one_node(monkeypatch, tmp_path_factory.mktemp("r")) as made,
        cluster.connected(made.address, None),
    ):
        recipes = [draw.recipe for draw in suggestions(hopeless)]
        joining = cluster.JoiningNodes(tmp_path, recipes, said.append)
        listed = Listed([first], parallel=3, on_report=on_report)
        cluster.run(listed, tmp_path, max_retries=0, joining=joining)
        refused, good = joined
        assert listed.ended == {"first": None, "later-0": None, "later-1": None}
        assert [notes(job.folder)[0][2] for job in later] == [good.node_id] * 2
        assert joining.without_jobs == (refused.node_id,)
        assert jobs_at_once(RunOptions(), {4.0: Resources()}, joining) == 2
        assert cluster.capacity(Resources()) == 3
    assert refused.node_id[:8] in said[0]
    assert said[0].startswith("a node that joined gets no trials: expected node ")
    assert "to import what a trial takes, got no module named 'small_spaces'" in said[0]
    assert [line for line in said if good.node_id[:8] in line] == [said[1]]
    assert said[1].endswith("has joined")


@pytest.fixture(scope="module")
def unlike(tmp_path_factory, lacking):
    with (
        pytest.MonkeyPatch.context() as patch,
        two_nodes(patch, tmp_path_factory.mktemp("r"), PYTHONPATH=lacking) as made,
    ):
        yield made


def test_a_package_that_a_node_lacks_is_named_before_and_while_jobs_run(unlike, tmp_path):
    made, second = unlike
    with cluster.connected(made.address, None):
        with pytest.raises(InputError) as refused:
            cluster.check_nodes(tmp_path, [draw.recipe for draw in suggestions(hopeless)])
        (problem,) = refused.value.problems
        assert second.node_id[:8] in problem
        assert "to import what a trial takes, got no module named 'small_spaces'" in problem
        jobs = [Job(f"j{i}", steps, (1, 5), tmp_path / f"j{i}") for i in range(2)]
        listed = Listed(jobs)
        cluster.run(listed, tmp_path, max_retries=0)
    (reason,) = filter(None, listed.ended.values())
    assert "the node 127.0.0.1 to import what a trial takes" in reason
    assert "got No module named 'small_jobs'" in reason


def test_doctor_says_of_each_node_what_a_launch_would_meet(unlike, tmp_path):
    made, second = unlike
    options = RunOptions(results=tmp_path, address=made.address)
    findings = {finding.what: finding for finding in examine(options, hopeless, connect=True)}
    (there,) = (what for what in findings if second.node_id[:8] in what)
    (here,) = (what for what in findings if what.startswith("node ") and what != there)
    assert findings[here].ok
    assert "clock" not in "".join(findings[here].warnings)
    assert "data: Digits" in findings[here].result
    assert findings[there].level == "fail"
    assert "no module named 'small_spaces'" in findings[there].problems[0]
    assert "one that is 100 s ahead" in "".join(findings[there].warnings)
    assert findings["token"].ok
    assert findings["cluster"].ok
    assert not list(tmp_path.glob(".shared-*"))


def test_a_node_that_does_not_answer_is_named_within_the_limit(unlike, tmp_path, monkeypatch):
    made, second = unlike
    monkeypatch.setattr(of_cluster, "EXAMINE_SECONDS", 10)
    (raylet,) = (started.process.pid for started in second.all_processes["raylet"])
    os.kill(raylet, signal.SIGSTOP)
    try:
        options = RunOptions(results=tmp_path, address=made.address)
        findings = examine(options, connect=True)
    finally:
        os.kill(raylet, signal.SIGCONT)
    (silent,) = (finding for finding in findings if second.node_id[:8] in finding.what)
    assert "to answer, got no answer within 10 s" in silent.problems[0]
    assert [finding.what for finding in findings if not finding.ok] == [silent.what]
