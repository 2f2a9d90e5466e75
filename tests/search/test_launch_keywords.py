"""``launch`` takes where and how much as plain keywords, beside ``options``."""

import sys

import pytest
from small_spaces import pair

from robsearch import InputError, RunOptions, evaluate, launch, resume
from robsearch.search.engine import how_to_resume, unnamed
from robsearch.spaces import Space, load_space


def refusal(call, *args, **keywords):
    with pytest.raises(InputError) as error:
        call(*args, **keywords)
    return str(error.value)


def test_a_keyword_is_a_field_of_the_options_and_has_the_last_word(tmp_path):
    said = refusal(launch, pair, trials=0, parallel=0, results=tmp_path)
    assert "--parallel of at least 1, got 0" in said
    assert "--trials of at least 1, got 0" in said
    said = refusal(
        launch, pair, trials=0, parallel=2, options=RunOptions(parallel=0, disk_budget=-1.0)
    )
    assert "--parallel" not in said  # 2, not the 0 of the options
    assert "--disk-budget of at least 0, got -1" in said  # which the options alone say
    assert not list(tmp_path.iterdir())


def test_a_keyword_of_another_kind_or_name_is_refused(tmp_path):
    assert refusal(launch, pair, parallel="two", results=tmp_path) == (
        "expected --parallel of at least 1, got 'two': pass 1 or more"
    )
    said = refusal(launch, pair, trails=3)
    assert said == "expected keywords of launch, got trails: write trials"
    assert refusal(resume, "s", results=tmp_path, where=1).startswith("expected keywords of resume")
    assert "got none" not in refusal(evaluate, "s", results=tmp_path, top=0)


def in_a_cell():
    """A space as a notebook's cell defines one."""

    def mine(trial, width):
        return pair.define(trial, width)

    mine.__module__ = "__main__"
    return Space(mine, (4, 8))


def test_the_space_of_a_cell_is_found_once_its_cell_has_run_again(monkeypatch):
    recorded = unnamed(in_a_cell())
    assert recorded == "<__main__:mine, defined in a notebook or a function>"
    said = refusal(load_space, recorded)
    assert "run the cell that defines 'mine' first, or pass it" in said
    again = in_a_cell()
    monkeypatch.setattr(sys.modules["__main__"], "mine", again, raising=False)
    assert load_space(recorded) is again


def test_a_notebook_is_told_how_to_go_on(monkeypatch):
    for name in ("__spec__", "__file__"):  # a kernel's has neither
        monkeypatch.delattr(sys.modules["__main__"], name, raising=False)
    said = how_to_resume(in_a_cell(), "s")
    assert "run the cell that defines it, then robsearch.resume('s')" in said
