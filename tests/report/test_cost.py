"""The report's cost by width, against sums made by hand."""

import re
from dataclasses import replace

import pandas as pd
import pytest
from planted_searches import bare, drawn_axes, piece, searched, trial

from robsearch.report import cost as cost_module
from robsearch.report.cost import cost_by_width, time_by_width


def cost(search):
    return piece(cost_by_width, search)


def rows_of(table):
    found = re.findall(r"<tr><th scope=.row.>(.*?)</th>(.*?)</tr>", table)
    return {
        re.sub("<.*?>", "", first): [
            re.sub("<.*?>|\u202f", "", cell) for cell in re.findall(r"<td>(.*?)</td>", rest)
        ]
        for first, rest in found
    }


@pytest.fixture
def search():
    """Two trainings of width 4 (3 epochs each), one and a control of width 16; epochs of 10 s and
    20 s."""
    control = {**trial(16.0, 0, 1.0), "trial": "w16-standard-000", "control": "standard"}
    made = searched([trial(4.0, 0, 1.0), trial(4.0, 1, 2.0), trial(16.0, 0, 2.0), control])
    wide = made.epochs["trial"].str.startswith("w16")
    made.trials["seconds"] = [30.0, 30.0, 60.0, 60.0]
    made.epochs["time/images_per_second"] = wide.map({True: 50.0, False: 2000.0})
    made.epochs["memory/peak_rss_gib"] = range(len(made.epochs))
    made.trials["time/measure_seconds"] = [1.0, 2.0, 3.0, 4.0]
    return made


def test_each_width_has_its_sums_and_medians(search):
    rows = rows_of(cost(search))
    assert rows["4"] == ["2", "60s", "–", "30s", "2,000", "5", "3s"]
    assert rows["16"] == ["2", "2min", "–", "60s", "50", "11", "7s"]


def test_gpu_time_and_memory_are_shown_where_there_is_a_gpu(search):
    search.trials["gpu_seconds"] = 15.0
    search.epochs["memory/peak_gib"] = 7.25
    text = cost(search)
    assert rows_of(text)["16"][1:6] == ["2min", "30s", "60s", "50", "7.25"]
    assert "what tensors took on the GPU" in text


def test_what_failed_trials_took_is_said(search):
    search.trials["failed_seconds"] = [0.0, 0.0, 0.0, 200.0]
    assert "Trials that failed took 3 min in all." in bare(cost(search))


def test_a_search_recorded_without_costs_shows_dashes_and_one_without_epochs_says_so():
    alone = searched([trial(4.0, 0, 1.0) | {"seconds": 0.0}])
    assert rows_of(cost(alone))["4"] == ["1", *["–"] * 6]
    empty = pd.DataFrame(columns=["trial", "epoch"])
    assert "Left out: no epoch has ended yet." in cost(replace(alone, epochs=empty))


def test_times_are_drawn_with_the_median_of_each_width(search, monkeypatch):
    search.trials["seconds"] = [10.0, 30.0, 80.0, 5.0]
    (axes,) = drawn_axes(cost_module, time_by_width, search, monkeypatch)
    assert axes.lines[0].get_xydata().tolist() == [[4, 20], [16, 80]]
    assert axes.get_ylabel() == "time of a training (s)"
