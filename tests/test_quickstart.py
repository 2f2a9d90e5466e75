"""The README's first command, as it is: what a newcomer sees, and what it costs."""

import os
import subprocess
import sys
import time

import psutil
import pytest

import robsearch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
GIB = 2**30


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    results = tmp_path_factory.mktemp("quickstart")
    code = "from robsearch.cli import main; main()"
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            code,
            "launch",
            "search_spaces.quickstart:digits",
            "--name",
            "q",
            "--parallel",
            "2",
        ],
        env={**os.environ, "ROBSEARCH_RESULTS": str(results)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, _memory(process.pid))
        time.sleep(2)
    said = process.stdout.read()
    assert process.returncode == 0, said
    return robsearch.load_search("q", results=results), said, peak


def _memory(pid):
    """Memory of a process and its children, each shared page counted once among those who share
    it."""
    total = 0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def test_suggestions_are_modelled_and_poor_trials_pruned(quickstart):
    search, _, _ = quickstart
    searched = search.trials[search.trials["control"].isna()]
    assert len(searched) >= 18
    assert (searched["state"] == "PRUNED").any()
    assert set(searched["state"]) == {"COMPLETE", "PRUNED"}
    assert (searched.groupby("width").size() > 5).all()  # TPE draws five at random, then models


def test_the_best_net_of_each_width_is_ten_points_above_one_trained_without_adversarial_loss(
    quickstart,
):
    search, _, _ = quickstart
    done = search.trials[search.trials["state"] == "COMPLETE"]
    for width in search.widths:
        of_width = done[done["width"] == width]
        searched, control = (
            of_width[of_width["control"].isna()],
            of_width[of_width["control"] == "standard"],
        )
        best = searched.sort_values("value").iloc[-1]["test/robust_accuracy"]
        assert best >= control["test/robust_accuracy"].item() + 0.10
        assert best >= control["test_last/robust_accuracy"].item() + 0.10


def test_it_ends_with_the_answer_and_where_to_look(quickstart):
    search, said, _ = quickstart
    for width in search.widths:
        assert f"width {width:g}: lambda* " in said
    assert search.ridge.sentence() in said
    assert f"report: {search.report}" in said
    assert "robsearch ui q" in said
    assert search.report.read_text().count("<svg") >= 2


def test_it_needs_less_than_four_gib(quickstart):
    _, _, peak = quickstart
    assert 0.2 * GIB < peak < 4 * GIB
