"""What a space learns from: which searches and tables are refused, how the others are read, and how
fast they land."""

import errno
import os
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from small_spaces import recipe

import robsearch
from robsearch import InputError, RunOptions, WidthSampler
from robsearch.data import Digits
from robsearch.parts.attacks import PGD
from robsearch.search import imported_trials
from robsearch.search.imported_trials import read_table
from robsearch.search.results_store import ResultsStore
from robsearch.spaces import Space, Stage, check, distributions
from robsearch.study import (
    JOURNAL,
    Observation,
    SearchRecord,
    Study,
    drop_trial,
    finished_observations,
    observations_of_other_widths,
    open_storage,
    warm_start,
)
from robsearch.study.storage import UnwrittenLines

VALUE = "val/robust_accuracy"
LAM = FloatDistribution(0.5, 32.0, log=True)
JUDGE = recipe(4).eval_attack


def define(trial, width):
    return recipe(width, trial.suggest_float("lam", 0.5, 32.0, log=True))


def searched(
    results,
    name="first",
    values=(0.5, 0.6),
    trials=None,
    widths=(4, 8),
    setting=None,
    stage=None,
    **how,
):
    """A search whose trials at width 4 have these values, as a driver leaves it."""
    storage = open_storage(None, results / name)
    judged = {"evaluation attack": str(JUDGE), "data": str(recipe(4).data), **(setting or {})}
    asked = trials or len(values)
    per_trial = how.get("per_trial", "one")
    SearchRecord(
        name, "m:n", widths, 0, asked, "sqlite:///m.db", judged, per_trial=per_trial
    ).create(storage)
    space = Space(define, widths, sampler=optuna.samplers.RandomSampler(seed=1), **how)
    study = Study(storage, name, space, stage or Stage(4), trials=asked, full=recipe(4), seed=0)
    for value in values:
        entry = {"epoch": 3, "time": 0.0, VALUE: value, "train/lam": 2.0}
        told = study.complete(study.ask(), entry, entry)
        while told.following:
            told = study.complete(told.following, entry, entry)
    return storage, study


def found(results, *sources, define=define, widths=(4, 8), name="new", said=None, **how):
    space = Space(define, widths, learn_from=sources, **how)
    return imported_trials.trials_to_import(
        space, ResultsStore(results), check(space), name, (said if said is not None else []).append
    )


def refused(*arguments, **how):
    with pytest.raises(InputError) as error:
        found(*arguments, **how)
    return list(error.value.problems)


# --- other searches ---


def judged_under(eps):
    def define(trial, width):
        lam = trial.suggest_float("lam", 0.5, 32.0, log=True)
        return recipe(width, lam, eval_attack=PGD(eps=eps, step_size=0.05, steps=2))

    return define


def test_a_search_judged_alike_is_learned_from(tmp_path):
    _, study = searched(tmp_path)
    said = []
    first, second = found(tmp_path, "first", said=said)
    assert (first.width, first.values, first.source) == (4, (0.5,), "first")
    assert second.params == study.trials()[1].params
    assert said == []


def test_searches_under_another_attack_or_on_other_images_are_refused_by_name_all_at_once(tmp_path):
    searched(tmp_path, "first", setting={"evaluation attack": "PGD(eps=0.3)"})
    searched(tmp_path, "second", setting={"data": "CIFAR10()"})
    searched(tmp_path, "third")
    problems = refused(tmp_path, "first", "second", "third", "nobody")
    assert problems[:2] == [
        f"expected the evaluation attack of the new search, {JUDGE}, got PGD(eps=0.3) in "
        "'first': take 'first' out of "
        "learn_from, or, if its values are meant to be compared, export them: "
        "robsearch.load_search('first').finished.to_csv('first.csv')",
        f"expected the val images of the new search, {recipe(4).data}, got CIFAR10() in "
        "'second': take 'second' out of "
        "learn_from, or, if its values are meant to be compared, export them: "
        "robsearch.load_search('second').finished.to_csv('second.csv')",
    ]
    assert "expected the name of a search, got 'nobody'" in problems[2]
    assert len(problems) == 3


def test_another_eps_is_refused_before_anything_starts(tmp_path):
    searched(tmp_path)
    space = Space(judged_under(0.2), (4, 8), learn_from=("first",))
    with pytest.raises(InputError, match=r"PGD\(eps=0.2.* got PGD\(eps=0.1.* in 'first'"):
        robsearch.launch(space, name="new", trials=2, options=RunOptions(results=tmp_path))
    assert [each.name for each in tmp_path.iterdir()] == ["first"]


def test_digests_decide_where_both_have_them(tmp_path, monkeypatch):
    """A later search remembers digests: of the images that judge, so the number of training images
    may differ."""
    searched(tmp_path)
    texts = {"evaluation attack": str(JUDGE), "data": str(Digits(train=200))}
    now = {**texts, "val data": "abc", "evaluation attack digest": "123"}
    monkeypatch.setattr(imported_trials, "judgement_of_space", lambda draws: now)

    def with_digests(**digests):
        was = {"evaluation attack": str(JUDGE), "data": str(Digits(train=100))}
        monkeypatch.setattr(imported_trials, "judgement_of", lambda record: {**was, **digests})

    with_digests(**{"val data": "abc", "evaluation attack digest": "123"})
    assert len(found(tmp_path, "first")) == 2
    with_digests(**{"val data": "xyz", "evaluation attack digest": "456"})
    images, attack = sorted(refused(tmp_path, "first"), reverse=True)
    assert (
        "val images of the new search, Digits(train=200, label_noise=0.0), got Digits(train=100"
        in images
    )
    assert (
        "evaluation attack of the new search, 123, got 456 in 'first'" in attack
    )  # their texts are the same
    with_digests()
    assert len(refused(tmp_path, "first")) == 1  # an older one: by the texts


def test_a_space_that_varies_its_evaluation_attack_learns_from_no_search(tmp_path):
    def varied(trial, width):
        lam = trial.suggest_float("lam", 0.5, 32.0, log=True)
        eps = trial.suggest_categorical("eps", (0.1, 0.2))
        return recipe(width, lam, eval_attack=PGD(eps=eps, step_size=0.05, steps=2))

    searched(tmp_path)
    (problem,) = refused(tmp_path, "first", define=varied)
    assert "PGD(eps=0.1" in problem
    assert " or PGD(eps=0.2" in problem


def test_another_metric_and_no_finished_trial_are_refused(tmp_path):
    searched(tmp_path, "idle", values=(), trials=4)
    searched(tmp_path, "scouts", stage=Stage(4, rung="scout"))
    assert refused(tmp_path, "idle", "scouts") == [
        f"expected a search with finished trials at full fidelity, got '{name}' with none: let "
        "it finish some, or take "
        f"'{name}' out of learn_from"
        for name in ("idle", "scouts")
    ]
    searched(tmp_path, "first")
    (problem,) = refused(tmp_path, "first", maximise=("val/stability",))
    assert "expected a search for val/stability, got val/robust_accuracy" in problem


def test_a_running_search_is_learned_from_as_far_as_it_is(tmp_path):
    _, study = searched(tmp_path, trials=5)
    study.ask()
    said = []
    assert len(found(tmp_path, "first", said=said)) == 2
    assert said == ["first has finished 2 of its 5 trials: only these are learned from"]


def test_sources_are_others_each_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    searched(tmp_path / "results")
    results = tmp_path / "results"
    assert "'new', which is the new search itself" in refused(results, "new")[0]
    (twice,) = refused(results, "first", "./results/first")
    assert twice.startswith("expected each source of learn_from once, got first, ./results/first")
    with pytest.raises(
        InputError, match="expected learn_from as a tuple of names and paths, got 'first'"
    ):
        Space(define, (4, 8), learn_from="first")


def test_a_path_leads_to_a_search_that_was_moved_and_renamed(tmp_path):
    searched(tmp_path / "old")
    (tmp_path / "old" / "first").rename(tmp_path / "old" / "renamed")
    source = str(tmp_path / "old" / "renamed")
    assert [one.source for one in found(tmp_path, source)] == [source] * 2
    assert [one.values for one in found(tmp_path, Path(source))] == [(0.5,), (0.6,)]
    (problem,) = refused(tmp_path, str(tmp_path / "old"))
    assert f"where there is no {JOURNAL}" in problem


def test_a_dropped_trial_is_not_learned_from_and_it_is_said(tmp_path):
    storage, study = searched(tmp_path)
    drop_trial(storage, "first", "w4-001", "broken")
    said = []
    (one,) = found(tmp_path, "first", said=said)
    assert one.params == study.trials()[0].params
    assert said == ["first: 1 dropped trial left out"]
    drop_trial(storage, "first", "w4-001", "")
    assert len(found(tmp_path, "first")) == 2


def test_a_suggestion_is_learned_from_while_one_of_its_trials_counts(tmp_path):
    storage, _ = searched(tmp_path, replicates=2)
    drop_trial(storage, "first", "w4-001-r0", "broken")
    assert len(found(tmp_path, "first", replicates=2)) == 2
    drop_trial(storage, "first", "w4-001-r1", "broken")
    assert len(found(tmp_path, "first", replicates=2)) == 1


def test_what_a_search_was_given_itself_is_not_passed_on(tmp_path):
    storage, _ = searched(tmp_path)
    warm_start(
        storage,
        "first",
        Space(define, (4, 8)),
        [Observation(4, {"lam": 2.0}, (0.9,), "old.csv")],
        {"lam": LAM},
    )
    assert [one.values for one in finished_observations(storage, "first", (VALUE,))] == [
        (0.5,),
        (0.6,),
    ]


def test_values_over_all_widths_are_learned_from_by_the_same_kind_of_search_only(tmp_path):
    searched(tmp_path, stage=Stage(None), per_trial="all")
    trials = found(tmp_path, "first", per_trial="all")
    assert [(one.width, one.values) for one in trials] == [(None, (0.5,)), (None, (0.6,))]
    assert "expected trials of one width each" in refused(tmp_path, "first")[0]
    assert (
        "expected trials of all of the widths (4, 16)"
        in refused(tmp_path, "first", widths=(4, 16), per_trial="all")[0]
    )
    assert (
        "t.csv, whose rows are of one width each" in refused(tmp_path, "t.csv", per_trial="all")[0]
    )

    space = Space(define, (4, 8), per_trial="all")
    storage = open_storage(None, tmp_path / "new")
    assert warm_start(storage, "new", space, trials, {"lam": LAM}).added == 2
    study = Study(storage, "new", space, Stage(None), trials=4, full=recipe(4), seed=0)
    assert [seen.values for seen in study.observations()] == [(0.5,), (0.6,)]


# --- tables ---

KNOWN = {
    "lam": LAM,
    "depth": IntDistribution(1, 4),
    "k": CategoricalDistribution((1, 2, 4)),
    "aug": CategoricalDistribution((True, False)),
}


def table(folder, text, metrics=(VALUE,), known=KNOWN):
    file = folder / "t.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_table(file, metrics, known)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "an empty file"),
        ("width,value,lam\n", "a header without rows"),
        ("width;value;lam\n4;0,5;2\n", "semicolons between its columns"),
        ("width,value,lam,lam\n4,0.5,2,2\n", "lam twice"),
        (f"width,value,{VALUE},lam\n4,0.5,0.5,2\n", "both"),
        ("width,lam\n4,2\n", "width, lam: add value"),
        ("width,value,lambda\n4,0.5,2\n", "name the columns of the parameters as the space does"),
        ("width,value,lam\n4,0.5\n", "expected 3 cells in each line of t.csv, got 2 in line 2"),
        ("width,value,lam\n4,84.2,2\n", "got 84.2 in line 2: write 84.2 as a share: 0.842"),
        (
            "width,value,lam\n4,inf,2\n",
            "shares from 0 to 1 in column value of t.csv, got inf in line 2",
        ),
        ("width,value,lam\n4,nan,2\n", "got nan in line 2"),
        ("width,value,lam\n4,,2\n", "got nothing in line 2"),
        ("width,value,lam\n4,-0.5,2\n", "got -0.5 in line 2"),
        ("width,value,lam\n4,high,2\n", "got high in line 2"),
        ("width,value,lam\n4,1_0e-2,2\n", "got 1_0e-2 in line 2"),
        (
            "width,value,lam\n0,0.5,2\n",
            "finite widths above 0 in column width of t.csv, got 0 in line 2",
        ),
        ("width,value,lam\ninf,0.5,2\n", "got inf in line 2"),
        ("width,value,lam\nw4,0.5,2\n", "got w4 in line 2"),
        (
            "width,value,lam\n4,0.5,inf\n",
            "finite numbers in column lam of t.csv, got inf in line 2",
        ),
        ("width,value,lam\n4,0.5,much\n", "got much in line 2"),
        (
            "width,value,lam,depth\n4,0.5,2,deep\n",
            "finite numbers in column depth of t.csv, got deep in line 2",
        ),
        ("width,value,lam\n".encode("utf-16"), "save it as CSV in UTF-8"),
    ],
)
def test_a_table_is_refused_with_the_line_and_what_to_do(tmp_path, text, said):
    with pytest.raises(InputError) as error:
        table(tmp_path, text)
    (problem,) = error.value.problems
    assert said in problem.replace(f"{tmp_path}/", "")


def test_all_problems_of_all_sources_are_said_at_once_and_many_lines_are_counted(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("width,value,lam\n" + "4,84.2,2\n" * 1203 + "\n-1,0.5,x\n")
    problems = refused(tmp_path, "a.csv", "b.csv", "nobody")
    assert problems[:3] == [
        "expected shares, not percents, in column value of a.csv, got 84.2 in line 2, 84.2 in "
        "line 3, 84.2 in line 4 "
        "and 1,200 more: write 84.2 as a share: 0.842",
        "expected finite numbers in column lam of a.csv, got x in line 1206: correct these "
        "cells, or delete their "
        "lines",
        "expected finite widths above 0 in column width of a.csv, got -1 in line 1206: correct "
        "these cells, or delete "
        "their lines",
    ]
    assert problems[3].startswith(
        "expected a table to learn from, b.csv, got No such file or directory: correct the"
    )
    assert problems[4].startswith("expected the name of a search, got 'nobody'")


def test_cells_mean_what_the_space_asks_for(tmp_path):
    text = "\ufeffwidth, value ,lam,depth,k,aug,note\n4,0.5,2,3.0,2.0,True,x\n\n,,,,,,\n"
    text += "8,1,1e0,2.5,1,FALSE,\n8,0,1,,,0,y\n"
    first, second, third = table(tmp_path, text)
    assert first == Observation(
        4.0, {"lam": 2.0, "depth": 3, "k": 2, "aug": True}, (0.5,), str(tmp_path / "t.csv")
    )
    assert isinstance(first.params["depth"], int)
    assert (second.params, second.values) == (
        {"lam": 1.0, "depth": 2.5, "k": 1, "aug": False},
        (1.0,),
    )
    assert third.params == {"lam": 1.0, "aug": False}  # an empty cell: it was not asked for
    assert table(tmp_path, "width,a,b,lam\n4,0.5,0.6,2\n", metrics=("b", "a"))[0].values == (
        0.6,
        0.5,
    )


def test_the_export_of_a_search_is_a_table_that_is_learned_from(tmp_path):
    """The way out that a refusal names."""
    searched(tmp_path / "r")
    search = robsearch.load_search("first", tmp_path / "r")
    rows = search.finished.assign(
        value=[0.5, 0.6]
    )  # without the folders of its trials it has no values
    rows.to_csv(tmp_path / "t.csv")
    first, second = found(tmp_path, str(tmp_path / "t.csv"))
    assert first.params["lam"] == pytest.approx(
        rows.iloc[0]["param/lam"], rel=1e-12
    )  # not the empty train/lam
    assert (second.width, second.values) == (4.0, (0.6,))
    rows.assign(rung="scout").to_csv(tmp_path / "t.csv")
    assert "expected rung empty" in refused(tmp_path, str(tmp_path / "t.csv"))[0]


# --- what fits ---


def fitting(trials, sampler=None, define=define, widths=(4, 8)):
    space = Space(define, widths, sampler=sampler)
    known = distributions(check(space))
    trials = [Observation(width, params, (0.5,), "t.csv") for width, params in trials]
    return dict(
        warm_start(optuna.storages.InMemoryStorage(), "new", space, trials, known).unknown["t.csv"]
    )


def test_the_launch_says_how_many_of_each_source_fit_and_why_not_the_others(tmp_path):
    trials = [Observation(4, {"lam": lam}, (0.5,), "a.csv") for lam in (1.0, 2.0, 99.0)] + [
        Observation(4, {"lam": 1}, (0.4,), "b")
    ]
    said = []
    storage = open_storage(None, tmp_path)
    imported_trials.import_trials(
        storage, "new", Space(define, (4, 8)), trials, {"lam": LAM}, said.append
    )
    assert said == [
        "samplers know 2 of 3 trials from a.csv; 1 outside lam 0.5 to 32, log",
        "samplers know 1 of 1 trial from b",
    ]


def test_a_sampler_of_one_width_does_not_know_other_widths_and_is_not_said_to():
    trials = [(4, {"lam": 1.0}), (2, {"lam": 1.0})]
    assert fitting(trials, WidthSampler()) == {}
    assert fitting(trials) == {
        "at a width that is not searched (TPESampler learns at each width by itself)": 1
    }


def test_whole_numbers_and_choices_outside_are_left_out_by_their_range():
    def define(trial, width):
        trial.suggest_int("depth", 1, 4)
        trial.suggest_categorical("k", (1, "a"))
        return recipe(width)

    trials = [
        (4, {"depth": 2.0, "k": 1}),
        (4, {"depth": 2.5, "k": "a"}),
        (4, {"depth": 9, "k": "b"}),
    ]
    assert fitting(trials, define=define) == {
        "outside depth whole numbers 1 to 4": 1,
        "outside depth whole numbers 1 to 4 and k one of 1, 'a'": 1,
    }


def test_a_trial_without_a_parameter_is_left_out_unless_the_space_asks_for_it_only_in_some_cases():
    """One that lacks it would end the joint modelling of all parameters, for Optuna models what all
    trials have."""

    def both(trial, width):
        trial.suggest_float("lr", 0.01, 1.0)
        return define(trial, width)

    assert fitting([(4, {"lam": 1.0}), (4, {"lam": 1.0, "lr": 0.1})], define=both) == {
        "without lr": 1
    }

    def some(trial, width):
        if trial.suggest_categorical("kind", ("plain", "fast")) == "fast":
            trial.suggest_float("lr", 0.01, 1.0)
        return define(trial, width)

    whole = [(4, {"lam": 1.0, "kind": "plain"}), (4, {"lam": 1.0, "kind": "fast", "lr": 0.1})]
    assert fitting(whole, define=some) == {}


# --- how they land ---


@pytest.fixture(params=["journal", "sqlite"])
def url(request, tmp_path):
    return None if request.param == "journal" else f"sqlite:///{tmp_path}/s.db"


def rows(n):
    return [
        Observation((2, 4, 8)[i % 3], {"lam": 1.0 + i / n}, (i / n,), "t.csv") for i in range(n)
    ]


def writes(storage, monkeypatch):
    """A list that grows by one with each write to the disk."""
    seen = []
    if isinstance(storage, optuna.storages.JournalStorage):
        sync = os.fsync
        monkeypatch.setattr(os, "fsync", lambda file: seen.append(file) or sync(file))
    else:
        sqlalchemy.event.listen(storage._backend.engine, "commit", seen.append)
    return seen


def test_many_trials_land_in_few_writes(url, tmp_path, monkeypatch):
    storage = open_storage(url, tmp_path)
    seen = writes(storage, monkeypatch)
    assert warm_start(storage, "s", Space(define, (4, 8)), rows(300), {"lam": LAM}).added == 300
    assert len(seen) <= (
        1 if url is None else 25
    )  # a write, or some for each of three studies and one for all trials


def test_they_are_what_optuna_would_have_stored(url, tmp_path):
    storage = open_storage(url, tmp_path)
    space = Space(define, (4, 8), maximise=(VALUE, "val/natural_accuracy"))
    trials = [Observation(4, {"lam": lam}, (0.5, lam / 10), "t.csv") for lam in (1.0, 2.0)]
    warm_start(storage, "s", space, trials[:1], {"lam": LAM})
    warm_start(storage, "s", space, trials[1:], {"lam": LAM})
    ours = optuna.load_study(study_name="s@w4", storage=open_storage(url, tmp_path))
    theirs = optuna.create_study(
        directions=["maximize"] * 2, study_name="theirs", storage=open_storage(url, tmp_path)
    )
    for lam in (1.0, 2.0):
        facts = {"imported from": "t.csv", "width": 4}
        params, known = {"lam": lam}, {"lam": LAM}
        theirs.add_trial(
            optuna.create_trial(
                params=params, distributions=known, values=[0.5, lam / 10], user_attrs=facts
            )
        )
    for mine, other in zip(ours.trials, theirs.trials, strict=True):
        assert (mine.number, mine.state, mine.params, mine.values) == (
            other.number,
            TrialState.COMPLETE,
            other.params,
            other.values,
        )
        assert (mine.distributions, mine.user_attrs) == (other.distributions, other.user_attrs)
        assert abs((mine.datetime_complete - other.datetime_complete).total_seconds()) < 60
    assert ours.ask().number == 2
    assert observations_of_other_widths(storage, "s") == []


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path, monkeypatch):
    storage = open_storage(None, tmp_path)
    before = (tmp_path / JOURNAL).read_bytes()

    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            warm_start(storage, "s", Space(define, (4, 8)), rows(30), {"lam": LAM})
    assert (tmp_path / JOURNAL).read_bytes() == before
    again = open_storage(None, tmp_path)
    assert warm_start(again, "s", Space(define, (4, 8)), rows(30), {"lam": LAM}).added == 30
    assert (
        len(optuna.load_study(study_name="s@w4", storage=open_storage(None, tmp_path)).trials) == 10
    )


def test_nothing_lands_after_an_error_between(url, tmp_path):
    storage = open_storage(url, tmp_path)
    bad = [
        *rows(3),
        Observation(4, {"lam": 1.0}, (0.5, 0.5), "t.csv"),
    ]  # two values where one is maximised
    with pytest.raises(ValueError, match="values"):
        warm_start(storage, "s", Space(define, (4, 8)), bad, {"lam": LAM})
    again = open_storage(url, tmp_path)
    assert sum(len(again.get_all_trials(study._study_id)) for study in again.get_all_studies()) == 0
    assert warm_start(again, "s", Space(define, (4, 8)), rows(3), {"lam": LAM}).added == 3


def test_what_is_appended_at_once_is_read_meanwhile(tmp_path):
    storage = open_storage(None, tmp_path)
    study = optuna.create_study(storage=storage, study_name="a")
    study.ask()
    unwritten = UnwrittenLines(storage.lines)
    at_once = optuna.load_study(study_name="a", storage=optuna.storages.JournalStorage(unwritten))
    at_once.set_user_attr("x", 1)
    assert at_once.user_attrs == {"x": 1}
    assert len(at_once.trials) == 1
    assert optuna.load_study(study_name="a", storage=open_storage(None, tmp_path)).user_attrs == {}
    unwritten.write()
    assert study.user_attrs == {"x": 1}
    assert optuna.load_study(study_name="a", storage=open_storage(None, tmp_path)).user_attrs == {
        "x": 1
    }
    assert not list(tmp_path.glob("*.lock"))
