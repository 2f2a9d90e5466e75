"""The law of a search as a person and a program read it, and what was searched beside lambda."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from robsearch.search.commands.status import law_json, status_lines
from robsearch.search.options import RunOptions
from robsearch.search.result import Search
from robsearch.search.summary import answer_lines, closing_lines, regret_lines
from robsearch.search.tables import TRIAL_COLUMNS, searched_beside_lam
from robsearch.study import SearchRecord

WIDTHS = (4.0, 16.0)
STAR = {4.0: 2.0, 16.0: 4.0}


def search_of(folder: Path, count: int = 9, lr_effect: float = 0.0) -> Search:
    """A finished search whose lambda* is 2 and 4; 2 points are lost per squared log."""
    random = np.random.default_rng(0)
    rows = []
    for width in WIDTHS:
        for number, lam in enumerate(np.geomspace(0.5, 16, count).tolist()):
            lr = float(10 ** random.uniform(-2, 0))
            value = 0.5 - 0.02 * math.log(lam / STAR[width]) ** 2 + lr_effect * math.log10(lr)
            row = dict.fromkeys(TRIAL_COLUMNS)
            row |= {
                "trial": f"w{width:g}-{number:03d}",
                "width": width,
                "number": number,
                "replicate": 0,
                "state": "COMPLETE",
                "suggestion": "COMPLETE",
                "collapsed": False,
                "choices": "",
                "lam": lam,
                "value": value + 0.001 * random.standard_normal(),
                "param/lam": lam,
                "seconds": 1.0,
                "gpu_seconds": 0.0,
                "failed_seconds": 0.0,
                "val/natural_accuracy": 0.9,
                "test/measure_seconds": 0.0,
            }
            if lr_effect:
                row["param/lr"] = lr
            rows.append(row)
    trials = pd.DataFrame(rows)
    record = SearchRecord("s", "m:n", WIDTHS, 0, 2 * count, "", {}, identity="0" * 32)
    return Search(record, folder / "s", trials, pd.DataFrame({"trial": []}))


def test_what_reusing_a_lambda_loses_stands_in_words(tmp_path: Path) -> None:
    """0.02 log(2)^2 = 0.96 points, at either width."""
    thin, wide = regret_lines(search_of(tmp_path))
    start = "points lost at width 4 by another width's lambda*: "
    assert thin.startswith(start)
    loss = re.fullmatch(
        r"([\d.]+) \[([\d.]+), ([\d.]+)\] by that of width 16", thin.removeprefix(start)
    )
    lost, low, high = map(float, loss.groups())
    assert lost == pytest.approx(0.96, abs=0.3)
    assert low < 0.96 < high
    assert wide.startswith("points lost at width 16 by another width's lambda*: ")


def test_launch_and_status_end_with_the_law_and_the_map(tmp_path: Path) -> None:
    search = search_of(tmp_path)
    closing = list(closing_lines(search, RunOptions()))
    where = closing.index(search.ridge.sentence())
    assert closing[where + 1 : where + 3] == list(regret_lines(search))
    told = [str(line) for line in status_lines(search)]
    assert told[-3:] == [search.ridge.sentence(), *regret_lines(search)]
    assert "Curves of one shape fit all widths" in search.ridge.sentence()


def test_programs_read_families_the_shape_test_and_the_map(tmp_path: Path) -> None:
    search = search_of(tmp_path)
    law = json.loads(json.dumps(law_json(search), default=str))
    names = [family["family"] for family in law["families"]]
    assert names == ["cubic", "asymmetric parabola"]
    assert 0 <= law["one_shape_p"] <= 1
    assert [(row["width"], row["lam_star_of"]) for row in law["regret"]] == [(4, 16), (16, 4)]
    (of_wide, of_thin) = law["regret"]
    assert of_wide["lam"] == pytest.approx(search.ridge.optimum(16).lam)
    assert of_thin["low"] < of_thin["lost"] < of_thin["high"]


def test_a_search_without_trials_has_a_law_without_numbers(tmp_path: Path) -> None:
    search = search_of(tmp_path)
    empty = Search(search.record, search.folder, search.trials.head(0), search.epochs)
    law = law_json(empty)
    assert law["families"] == law["regret"] == []
    assert law["one_shape_p"] is None
    assert list(regret_lines(empty)) == []
    assert [line.split(": ")[1] for line in answer_lines(empty)] == ["lambda* not determined"] * 2


# --- covariates ---


def test_a_learning_rates_effect_is_taken_out_of_the_law(tmp_path: Path) -> None:
    """Six points per decade hide the peaks, of which they are no part."""
    ridge = search_of(tmp_path, count=16, lr_effect=0.06).ridge
    assert ridge.covariates == ("lr",)
    for width in WIDTHS:
        assert ridge.optimum(width).lam == pytest.approx(STAR[width], rel=0.1)
    assert "less the effects of lr)" in ridge.sentence()


def test_too_few_trials_for_what_was_searched_refuse_the_law_and_keep_the_map(
    tmp_path: Path,
) -> None:
    ridge = search_of(tmp_path, count=6, lr_effect=0.06).ridge
    assert ridge.law is None
    assert "too few trials: at least 1 more (the effects of lr, which were searched too" in (
        ridge.sentence()
    )
    assert ridge.regret is not None


def test_only_numbers_that_vary_beside_a_suggested_lambda_are_covariates(tmp_path: Path) -> None:
    trials = search_of(tmp_path, lr_effect=0.01).trials
    count = len(trials)
    trials = trials.assign(
        **{
            "param/depth": [1, 2] * (count // 2),
            "param/same": 3,
            "param/word": "a",
            "param/sometimes": [math.nan, *range(1, count)],
            "param/flag": [True, False] * (count // 2),
        }
    )
    assert set(searched_beside_lam(trials)) == {"lr", "depth"}
    # A lambda that was made from others was not suggested.
    assert searched_beside_lam(trials.drop(columns="param/lam")) == {}


def test_a_width_that_does_not_place_lambda_star_is_told_what_to_take(tmp_path: Path) -> None:
    """Four lambdas are too few for a curve, and enough for the surface of all trials."""
    search = search_of(tmp_path, count=4)
    thin, wide = answer_lines(search)
    for line, width in ((thin, 4.0), (wide, 16.0)):
        said = re.search(r"lambda\* not determined, ([\d.]+) has the highest mean of all", line)
        assert float(said[1]) == pytest.approx(STAR[width], rel=0.3)
    assert all("(not placed)" in line for line in regret_lines(search))
    assert [row["placed"] for row in law_json(search)["regret"]] == [False, False]
    placed, _ = answer_lines(search_of(tmp_path))
    assert "highest mean" not in placed


def test_a_width_without_trials_is_answered_by_the_law_of_two_others(tmp_path: Path) -> None:
    search = search_of(tmp_path)
    wider = Search(
        replace(search.record, widths=(*WIDTHS, 64.0)), search.folder, search.trials, search.epochs
    )
    *_, last = answer_lines(wider)
    assert re.match(r"width 64: lambda\* = [\d.]+$", last)
