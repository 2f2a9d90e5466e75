"""A damaged journal: every command names the line, and ``repair`` gives back what was decided."""

import os
import shutil
from dataclasses import replace
from functools import partial

import optuna
import pandas as pd
import pytest
from command_processes import in_this_process
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from small_spaces import recipe, standard

import robsearch
from robsearch import Epoch, InputError, Rung, RunOptions
from robsearch.search.commands.repair import repair
from robsearch.search.recording import Recorder
from robsearch.search.resuming import check_unchanged
from robsearch.search.scheduling import scheduler_of
from robsearch.spaces import Space
from robsearch.study import (
    JOURNAL,
    Lease,
    SearchRecord,
    Study,
    drop_trial,
    dropped_trials,
    examine,
    open_storage,
)
from robsearch.tracking import Tracker, default_uri
from robsearch.trials.checkpoints import Attempt, Snapshot
from robsearch.trials.files import write_json
from robsearch.trials.run_facts import RunFacts, read_run, write_run

VALUE, NATURAL = "val/robust_accuracy", "val/natural_accuracy"


def define(trial, width):
    return recipe(width, trial.suggest_float("lam", 0.5, 32.0, log=True))


SPACE = Space(define, (4, 8), controls=(standard,), sampler=optuna.samplers.RandomSampler(seed=1))


def entries(*values):
    more = {
        "train/lam": 2.0,
        "time/epoch_seconds": 1.5,
        "train/natural_loss": 1.0,
        "train/robust_loss": 0.5,
    }
    return [
        {"epoch": n, "time": float(n), VALUE: value, NATURAL: 0.9, "val/stability": 0.8, **more}
        for n, value in enumerate(values, 1)
    ]


ENDS = {
    "w4": ["COMPLETE", "FAIL", "PRUNED", "COMPLETE"],
    "w8": ["COMPLETE", "RUNNING"],
    "w4-standard": ["COMPLETE"],
    "w8-standard": [],
}


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """The search ``s``: four trials of width 4, two of width 8, of which one is running, and a
    control."""
    results = tmp_path_factory.mktemp("results")
    storage = open_storage(None, results / "s")
    setting = {"data": "Digits(train=100)"}
    record = SearchRecord(
        "s", "a_module:that_is_not_there", (4, 8), 0, 6, "", setting, controls=("standard",)
    )
    record.create(storage)
    with Lease.acquire(storage, "s"):
        record.save(storage)
        tracker = Tracker(default_uri(results), "s", results)
        recorder = Recorder(tracker, results / "s" / "trials", record)
        for stage in SPACE.stages():
            study = Study(storage, "s", SPACE, stage, trials=6, full=recipe(4), seed=0)
            for end in ENDS[stage.label]:
                train(study, recorder, end)
        assert tracker.close() == 0
        record.save(storage)
    # Its driver is no process any more.
    journal = results / "s" / JOURNAL
    journal.write_text(journal.read_text().replace(f'"pid":{os.getpid()}', '"pid":4194304'))
    return results


def train(study, recorder, end, ask=None):
    suggestion = (ask or study.ask)()
    recorder.begin(suggestion)
    history = entries(0.1, 0.5 + suggestion.number / 10, 0.2)
    folder = recorder.trials / suggestion.trial
    attempt = Attempt.claim(folder)
    for last in (1, 2, 3):
        attempt.write(Snapshot.of(Epoch(last, {}, {"epoch": last}), history[:last]))
    study.report(suggestion, history)
    if end == "COMPLETE":
        outcome = study.complete(suggestion, history[1], history[2], seconds=4.5)
        write_json(folder / "test.json", {"test/robust_accuracy": 0.4, "test/epoch": 2})
    elif end == "PRUNED":
        outcome = study.prune(suggestion, history[1], history[2], seconds=4.5)
    elif end == "FAIL":
        outcome = study.fail(suggestion, "the loss became nan", seconds=4.5)
    else:
        return
    recorder.ended(outcome.trial, history)


@pytest.fixture
def results(searched, tmp_path):
    shutil.copytree(searched / "s", tmp_path / "s")
    return tmp_path


COLUMNS = [
    *("trial", "width", "number", "state", "suggestion", "reason", "recipe", "seed"),
    *("param/lam", "lam", "value", "best_epoch", "epochs", "feasible", "collapsed", "seconds"),
]


def table(results):
    trials = robsearch.load_search("s", results).trials
    kept = [name for name in COLUMNS if name in trials]
    return trials.sort_values("trial", ignore_index=True)[kept]


def mended(results, **how):
    """What ``repair`` says, once it has been applied."""
    said = []
    outcome = repair(
        "s", RunOptions(results=results), apply=True, space=SPACE, say=said.append, **how
    )
    return outcome, said


def assert_same(results, whole):
    pd.testing.assert_frame_equal(table(results), whole, check_dtype=False)
    storage = open_storage(None, results / "s")
    check_unchanged(storage, SearchRecord.load(storage, "s"), SPACE, results / "s")
    assert examine(results / "s" / JOURNAL).whole
    # As many as Optuna has, and the next has the next number.
    study = optuna.load_study(study_name="s@w4", storage=storage)
    assert [trial.number for trial in study.get_trials()] == [0, 1, 2, 3]
    assert study.get_trials()[0].intermediate_values == {1: 0.1, 2: 0.5, 3: 0.2}
    assert study.ask().number == 4


WAYS = {
    "cut": lambda line: line[: len(line) // 2] + b"\n",
    "run together": lambda line: line[: len(line) // 2],
    "zeroed": lambda line: b"\0" * (len(line) - 1) + b"\n",
    "scalar": lambda line: b"17\n",
    "gone": lambda line: b"",
}


def lines_of(searched):
    return (searched / "s" / JOURNAL).read_bytes().splitlines(keepends=True)


MAKES = b'{"op_code":4'
"""How a line begins that makes a trial."""


def check_each(searched, results, way, chosen):
    """Damages one line after the other, the journal otherwise as it was."""
    whole = table(results)
    lines = lines_of(searched)
    assert len(lines) > 60
    for number in filter(chosen, range(len(lines))):
        damaged = [*lines[:number], WAYS[way](lines[number]), *lines[number + 1 :]]
        (results / "s" / JOURNAL).write_bytes(b"".join(damaged))
        outcome, said = mended(results)
        assert outcome.problems == {}, said
        assert_same(results, whole)


@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_line_costs_no_trial(searched, results, way):
    """Those that make trials, which decide what later numbers mean, and some others."""
    lines = lines_of(searched)
    check_each(searched, results, way, lambda n: n % 19 == 0 or lines[n].startswith(MAKES))


@pytest.mark.parametrize("way", WAYS)
def test_a_lost_line_does_not_shift_the_meaning_of_those_behind_it(searched, tmp_path, way):
    """What no folder has would be lost by it: suggestions brought in, or promoted."""
    lines = lines_of(searched)
    whole = suggestions_of(searched / "s" / JOURNAL)
    makers = [number for number, line in enumerate(lines) if line.startswith(MAKES)]
    for number in makers:
        damaged = [*lines[:number], WAYS[way](lines[number]), *lines[number + 1 :]]
        (tmp_path / JOURNAL).write_bytes(b"".join(damaged))
        assert suggestions_of(tmp_path / JOURNAL) == whole


def suggestions_of(journal):
    storage = examine(journal).storage
    return {
        (study.study_name, trial.number): (trial.params, trial.user_attrs, trial.state)
        for study in storage.get_all_studies()
        for trial in storage.get_all_trials(study._study_id)
    }


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_whichever_line_is_damaged_every_trial_comes_back_as_it_was(searched, results, way):
    check_each(searched, results, way, lambda n: True)


def doubled(lines):
    return [*lines, *lines]


def half_doubled(lines):
    return [*lines, *lines[: len(lines) // 2]]


def two_blanks_and_a_half(lines):
    return [*lines[:20], b"\n", b"\0\0\0\n", *lines[20:30], b'{"op_code":5,"wor', *lines[30:]]


def tail_lost(lines):
    """Behind the fourth suggestion of width 4, which is half made."""
    made = [number for number, line in enumerate(lines) if line.startswith(MAKES)]
    return lines[: made[3] + 2]


def scalars_everywhere(lines):
    return [each for line in lines for each in (line, b"null\n")]


def other_records(lines):
    return [*lines[:9], b'{"op_code":77,"worker_id":""}\n', b'{"op_code":4}\n', *lines[9:]]


@pytest.mark.parametrize(
    "damage",
    [doubled, half_doubled, two_blanks_and_a_half, tail_lost, scalars_everywhere, other_records],
)
def test_trials_are_what_they_were(searched, results, damage):
    whole = table(results)
    content = b"".join(damage(lines_of(searched)))
    (results / "s" / JOURNAL).write_bytes(content)
    outcome, said = mended(results)
    assert outcome.problems == {}, said
    assert_same(results, whole)
    # The journal as it was stays beside it, and what is mended is whole.
    assert outcome.copy.read_bytes() == content
    again, said = mended(results)
    assert again.whole
    assert said == ["the journal of s is whole: there is nothing to repair"]


def test_a_search_that_was_driven_on_with_a_doubled_journal_keeps_what_came_after(
    searched, results
):
    """The driver of that time asked for the next of width 8, whose number the double had moved."""
    whole = table(results)
    journal = results / "s" / JOURNAL
    journal.write_bytes(b"".join(doubled(lines_of(searched))))
    storage = JournalStorage(JournalFileBackend(str(journal)))
    study = optuna.load_study(study_name="s@w8", storage=storage)
    trial = study.ask()
    trial.suggest_float("lam", 0.5, 32.0, log=True)
    assert trial.number == 4  # two trials, and their doubles
    begun = {"trial": "w8-004", "width": 8, "replicate": None, "state": "FAIL", "reason": "why"}
    trial.set_user_attr("trainings", [begun])
    study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    mended(results)
    rows = table(results).set_index("trial")
    expected = whole.set_index("trial")
    pd.testing.assert_frame_equal(
        rows.loc[expected.index], expected, check_dtype=False, check_like=True
    )
    others = rows.drop(expected.index)
    assert others["state"].to_dict() == {"w8-002": "FAIL", "w8-003": "FAIL", "w8-004": "FAIL"}
    assert others["reason"]["w8-004"] == "why"
    assert "repeat" in others["reason"]["w8-002"]


COMMANDS = (
    ("status", "s"),
    ("report", "s"),
    ("compare", "s"),
    ("evaluate", "s"),
    ("sync", "s"),
    ("stop", "s"),
    ("promote", "s"),
    ("ui", "s"),
    ("resume", "s"),
)


def first_trial(lines):
    return next(number for number, line in enumerate(lines, 1) if line.startswith(MAKES))


@pytest.mark.parametrize(
    ("damage", "line_of"),
    [
        (doubled, lambda lines: len(lines) + first_trial(lines)),
        (two_blanks_and_a_half, lambda lines: 21),
        (other_records, lambda lines: 10),
        (scalars_everywhere, lambda lines: 2),
    ],
)
def test_commands_name_the_line_and_what_mends_it(searched, results, capsys, damage, line_of):
    lines = lines_of(searched)
    first = line_of(lines)
    (results / "s" / JOURNAL).write_bytes(b"".join(damage(lines)))
    for command in COMMANDS:
        capsys.readouterr()
        assert in_this_process(results, *command) == 2, command
        said = capsys.readouterr().err
        assert f"got line {first} of {results}/s/{JOURNAL}, which " in said, command
        assert f"`robsearch repair s --results {results}`" in said, command
        assert "Traceback" not in said


def test_without_apply_nothing_is_written(searched, results, capsys):
    content = b"".join(doubled(lines_of(searched)))
    (results / "s" / JOURNAL).write_bytes(content)
    files = sorted(file.name for file in (results / "s").iterdir())
    assert in_this_process(results, "repair", "s") == 0
    said = capsys.readouterr().out
    count = len(lines_of(searched))
    assert f"lines {count + 1} to {2 * count} repeat lines 1 to {count}" in said
    assert f"`robsearch repair s --apply --results {results}` does it" in said
    assert (results / "s" / JOURNAL).read_bytes() == content
    assert sorted(file.name for file in (results / "s").iterdir()) == files


def test_a_living_driver_is_left_alone(searched, results):
    with Lease.acquire(open_storage(None, results / "s"), "s"):
        lines = (results / "s" / JOURNAL).read_bytes().splitlines(keepends=True)
        content = b"".join([*lines[:20], b"\n", *lines[20:]])
        (results / "s" / JOURNAL).write_bytes(content)
        with pytest.raises(InputError, match=r"no driver of 's' at work, got .*`robsearch stop s"):
            mended(results)
        assert (results / "s" / JOURNAL).read_bytes() == content


def test_what_cannot_be_noted_again_is_said_with_the_reason(searched, results, capsys):
    """The space of the record is in no module; another space defines other recipes."""
    (results / "s" / JOURNAL).write_bytes(b"".join(tail_lost(lines_of(searched))))
    assert in_this_process(results, "repair", "s") == 1
    said = capsys.readouterr().out
    assert "w8-000: not noted again, though its folder has it (COMPLETE): " in said
    assert "a_module" in said
    other = Space(lambda trial, width: recipe(width, trial.suggest_float("lam", 0.5, 32.0)), (4,))
    outcome = repair("s", RunOptions(results=results), space=other, say=print)
    assert "has no trial of that name" in outcome.problems["w8-000"]


def test_a_journal_without_the_record_and_a_database_are_refused(searched, results):
    (results / "s" / JOURNAL).write_bytes(b"\0\n" * 9)
    with pytest.raises(InputError, match="a journal that says what 's' is"):
        mended(results)
    options = RunOptions(results=results, storage=f"sqlite:///{results}/s.db")
    with pytest.raises(InputError, match="whose decisions are in a journal"):
        repair("s", options)
    with pytest.raises(InputError, match="the name of a search"):
        repair("t", RunOptions(results=results))


# --- what stands in attributes of the search's own study ---


def with_last_line_cut(results, way):
    journal = results / "s" / JOURNAL
    *lines, last = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines, WAYS[way](last), lines[-1]]))


def tagged(folder, **tags):
    facts = read_run(folder) or RunFacts("search s")
    tags = {name.replace("_", "."): text for name, text in tags.items()}
    write_run(folder, replace(facts, tags={**facts.tags, **tags}))


@pytest.mark.parametrize("way", WAYS)
def test_a_dropped_trial_stays_dropped_by_what_its_run_says(results, way):
    drop_trial(open_storage(None, results / "s"), "s", "w4-003", "broken")
    tagged(results / "s" / "trials" / "w4-003", robsearch_dropped="broken")
    tagged(results / "s" / "trials" / "w4-000", robsearch_dropped="")  # undone
    with_last_line_cut(results, way)
    outcome, said = mended(results)
    assert outcome.noted == ("w4-003 as dropped: broken",)
    assert outcome.lost_attributes == ()
    assert "noted again, as its run.json has it: w4-003 as dropped: broken" in said
    assert dropped_trials(open_storage(None, results / "s"), "s") == {"w4-003": "broken"}
    assert mended(results)[0].whole


def test_what_a_whole_line_says_of_a_drop_stays(results):
    """It was undone when no driver lived to tell its run."""
    storage = open_storage(None, results / "s")
    drop_trial(storage, "s", "w4-003", "")
    tagged(results / "s" / "trials" / "w4-003", robsearch_dropped="broken")
    assert mended(results)[0].whole
    assert dropped_trials(storage, "s") == {}


def with_more_trials(results):
    storage = open_storage(None, results / "s")
    record = SearchRecord.load(storage, "s")
    replace(record, trials=60, budgets={"max_hours": 5.0}).save(storage)


def test_the_total_comes_back_from_the_run_of_the_search(results):
    with_more_trials(results)
    tagged(results / "s", robsearch_trials="60")
    with_last_line_cut(results, "zeroed")
    outcome, said = mended(results)
    assert outcome.noted == ("60 trials as the total",)
    assert "noted again, as its run.json has it: 60 trials as the total" in said
    assert SearchRecord.load(open_storage(None, results / "s"), "s").trials == 60


def test_a_record_that_is_lost_is_said_with_what_stands_in(results, capsys):
    with_more_trials(results)
    with_last_line_cut(results, "cut")
    assert in_this_process(results, "repair", "s", "--apply") == 1
    said = capsys.readouterr().out
    assert 'began to write "search" of the search, which is lost' in said
    assert "6 trials and no budget" in said
    assert in_this_process(results, "repair", "s") == 0  # it was said


def test_a_line_cut_before_its_name_is_said_and_a_leases_is_not(results):
    with_more_trials(results)
    journal = results / "s" / JOURNAL
    *lines, last = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines, last[:40] + b"\n"]))
    (lost,) = mended(results)[0].lost_attributes
    assert lost.startswith(f"line {len(lines) + 1} began to write an attribute of a study")
    with Lease.acquire(open_storage(None, results / "s"), "s"):
        pass
    *lines, owner, released = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines, owner, owner[:110] + b"\n", released]))
    outcome, _ = mended(results)
    assert (outcome.damaged, outcome.lost_attributes) == ((len(lines) + 2,), ())


# --- which suggestion rose to a rung ---

LADDER = Space(
    define,
    (4,),
    sampler=optuna.samplers.RandomSampler(seed=1),
    fidelity=(Rung("scout", lambda full: replace(full, epochs=2), keep=0.5),),
)


def test_a_suggestion_that_rose_to_a_rung_counts_as_risen_when_it_is_noted_again(tmp_path):
    storage = open_storage(None, tmp_path / "s")
    setting = {"data": "Digits(train=100)"}
    record = SearchRecord("s", "a_module:that_is_not_there", (4,), 0, 2, "", setting)
    record.create(storage)
    tracker = Tracker(default_uri(tmp_path), "s", tmp_path)
    recorder = Recorder(tracker, tmp_path / "s" / "trials", record)
    scheduler = scheduler_of(LADDER, record, storage, recipe(4))
    while (study := scheduler.next()) is not None:
        train(study, recorder, "COMPLETE", partial(scheduler.ask, study))
        scheduler.counts_of[study].settled("COMPLETE")
    tracker.close()
    (full,) = scheduler.full
    risen = full.promoted()
    assert len(risen) == 2
    journal = tmp_path / "s" / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    rises = [number for number, line in enumerate(lines) if b"risen_from" in line]
    for number in rises:
        cut = [*lines[:number], WAYS["cut"](lines[number]), *lines[number + 1 :]]
        journal.write_bytes(b"".join(cut))
        outcome = repair(
            "s", RunOptions(results=tmp_path), apply=True, space=LADDER, say=lambda _: None
        )
        assert outcome.problems == {}
        again = scheduler_of(LADDER, record, open_storage(None, tmp_path / "s"), recipe(4))
        assert again.full[0].promoted() == risen
