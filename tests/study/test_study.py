import os
import random
import resource
import subprocess
import sys
import threading
import time
from collections import Counter

import optuna
import pytest
from optuna.storages.journal import JournalFileSymlinkLock
from search_records import search_record
from small_spaces import pair, recipe

from robsearch import InputError
from robsearch.spaces import Space, Stage
from robsearch.study import (
    JOURNAL,
    Lease,
    RecordedTrial,
    SearchRecord,
    Study,
    ask_to_stop,
    lease,
    living_owner,
    open_storage,
    recorded_trials,
    repair_journal,
    trials_of,
)
from robsearch.study.pruning import MarginPruner, epochs_of
from robsearch.study.suggestions import derived_seed
from robsearch.trials.paths import without_password

VALUE = "val/robust_accuracy"


@pytest.fixture
def storage(tmp_path):
    return open_storage(None, tmp_path)


def study(storage, width=4, define=pair.define, stage=None, trials=8, full=None, **how):
    searched = Space(define, (4, 8, 0.5), **how)
    return Study(
        storage, "s", searched, stage or Stage(width), trials=trials, full=full or recipe(4), seed=0
    )


def entries(*values, first=1):
    return [
        {"epoch": n, "time": 0.0, VALUE: value, "train/lam": 2.0}
        for n, value in enumerate(values, first)
    ]


def told(storage):
    return [(facts["trial"], facts["state"]) for facts in recorded_trials(storage, search_record())]


def test_trials_are_named_by_width_and_number_and_numbers_restart_at_each_width(storage):
    names = [study(storage, width).ask().trial for width in (4, 4, 0.5)]
    assert names == ["w4-000", "w4-001", "w0.5-000"]


def test_complete_pruned_and_failed_trials_are_told_as_such(storage):
    of_width = study(storage)
    good, poor, bad = (of_width.ask() for _ in range(3))
    history = entries(0.2, 0.6, 0.4)
    of_width.report(good, history)
    assert of_width.complete(good, history[1], history[2])[:3] == ("COMPLETE", 0.6, None)
    of_width.prune(poor, history[0], history[0])
    of_width.fail(bad, "loss became nan")
    assert told(storage) == [("w4-000", "COMPLETE"), ("w4-001", "PRUNED"), ("w4-002", "FAIL")]
    best, _, failed = of_width.trials()
    assert best.value == 0.6
    assert trials_of(best)[0].best_epoch == 2
    assert trials_of(failed)[0].reason == "loss became nan"


def test_an_orphan_is_adopted_under_its_number_with_its_recipe_and_its_reports(storage):
    left = study(storage)
    before = left.ask()
    left.report(before, entries(0.2, 0.3))
    (adopted,) = study(storage).adopt()
    assert adopted == before
    again = study(storage)
    (adopted,) = again.adopt()
    again.report(adopted, entries(0.2, 0.3, 0.4))  # a worker repeats what it had saved
    assert again.trials()[0].intermediate_values == {1: 0.2, 2: 0.3, 3: 0.4}


def test_a_trial_that_died_between_ask_and_suggest_is_adopted_too(storage):
    study(storage)._study.ask()
    (adopted,) = study(storage).adopt()
    assert adopted.trial == "w4-000"


def test_a_changed_recipe_refuses_adoption(storage):
    study(storage).ask()
    changed = study(
        storage,
        define=lambda trial, width: recipe(
            width, trial.suggest_float("lam", 0.5, 32.0, log=True), epochs=5
        ),
    )
    with pytest.raises(InputError, match="the recipe that w4-000 was started with"):
        changed.adopt()


def test_a_space_that_raises_fails_its_trial_with_the_reason(storage):
    def define(trial, width):
        raise KeyError("missing")

    assert study(storage, define=define).ask() is None
    assert told(storage) == [("w4-000", "FAIL")]


def test_the_default_pruner_stops_what_is_clearly_worse_and_only_in_the_last_third(storage):
    of_width = study(storage)
    for value in (0.60, 0.70):
        finished, history = of_width.ask(), entries(*[value] * 4)
        assert not of_width.report(finished, history)
        of_width.complete(finished, history[-1], history[-1])
    poor, fair = of_width.ask(), of_width.ask()
    assert not of_width.report(poor, entries(0.65))
    assert not of_width.report(fair, entries(0.67))
    assert not of_width.report(poor, entries(0.65, 0.65))
    assert of_width.report(poor, entries(0.65, 0.65, 0.65))  # 5 points below the best
    assert not of_width.report(fair, entries(0.67, 0.60, 0.60))  # 3 points: the noise of seeds


def of_epochs(trial, width):
    lam = trial.suggest_float("lam", 0.5, 32.0, log=True)
    return recipe(width, lam, epochs=trial.suggest_categorical("epochs", [6, 60]))


def trained(of_width, epochs, values):
    """Trains one suggestion until the pruner stops it; returns the epoch, or None if it ran to its
    end."""
    of_width.enqueue({"lam": 1.0 + len(of_width.trials()), "epochs": epochs})
    suggestion, history = of_width.ask(), entries(*values)
    assert suggestion.recipe.epochs == epochs == len(values)
    for entry in history:
        if of_width.report(suggestion, [entry]) and entry["epoch"] < epochs:
            of_width.prune(suggestion, entry, entry)
            return entry["epoch"]
    of_width.complete(suggestion, history[-1], history[-1])
    return None


SHORT = [0.20, 0.30, 0.40, 0.70, 0.76, 0.765]
"""Robust accuracy after each of 6 epochs: it rises when the learning rate has dropped."""


def test_with_epochs_that_are_searched_trials_are_compared_at_equal_progress(storage):
    """Of 60 epochs the fifth is at 1/12 of training: what is far behind there may end as the
    best."""
    of_width = study(storage, define=of_epochs, full=recipe(4, epochs=6))
    for _ in range(2):
        assert trained(of_width, 6, SHORT) is None
    best = [0.30] * 30 + [0.75] * 15 + [0.813] * 15
    assert (
        trained(of_width, 60, best) is None
    )  # by epochs it was stopped at epoch 4, 40 points behind
    assert max(trial.value for trial in of_width.trials() if trial.value) == 0.813
    poor = [0.30] * 30 + [0.70] * 30
    assert trained(of_width, 60, poor) == 40  # at two thirds: 5 points behind the best of 60 epochs
    assert (
        trained(of_width, 6, [each - 0.07 for each in SHORT]) == 4
    )  # two thirds of 6: .63 against .75 of the best


def test_a_pruner_of_ones_own_margin_compares_at_equal_progress_too(storage):
    own = MarginPruner(margin=0.04, startup=1)
    of_width = study(storage, define=of_epochs, pruner=own)
    assert trained(of_width, 6, SHORT) is None
    assert (
        trained(of_width, 60, [0.30] * 30 + [0.75] * 15 + [0.813] * 15) == 30
    )  # at half: 0.30 of 0.40


def test_nets_that_collapsed_are_no_measure_for_others(storage):
    """Of val 90 % are one class: a net that knows nothing else has .9, and sound ones at .6 went
    for it."""
    of_width, collapsed = study(storage), {"val/natural_accuracy": 0.1}
    for values in ([0.9] * 4, [0.9] * 4, [0.9] * 4):
        lost, history = of_width.ask(), entries(*values)
        assert not of_width.report(lost, history)
        of_width.complete(lost, history[-1] | collapsed, history[-1])
    assert [each.collapsed for each in of_width.recorded()] == [True] * 3
    assert not of_width.report(of_width.ask(), entries(0.6, 0.6, 0.6))


def test_replicates_that_collapsed_are_no_measure_for_others(storage):
    of_width = study(storage, replicates=2, pruner=MarginPruner(margin=0.04, startup=1))
    suggestion, entry = of_width.ask(), entries(0.9)[0]
    for _ in range(2):
        suggestion = of_width.complete(
            suggestion, entry | {"val/natural_accuracy": 0.1}, entry
        ).following
    sound = entries(0.6)[0]
    assert of_width.complete(of_width.ask(), sound, sound).following is not None


def test_a_finished_trial_of_an_older_robsearch_is_trained_to_its_end_and_a_running_one_is_not():
    assert epochs_of(curve(*SHORT)) == 6
    assert epochs_of(curve(*SHORT, state=optuna.trial.TrialState.RUNNING)) is None


def test_what_the_storage_keeps_of_a_trial_is_one_flat_dict_that_comes_back_as_it_was(storage):
    of_width = study(storage)
    (entry,) = entries(0.6)
    finished = of_width.complete(of_width.ask(), entry, entry, seconds=3.0, wall_seconds=5.0).trial
    (stored,) = of_width.trials()[0].user_attrs["trainings"]
    assert {name: stored[name] for name in stored if name not in ("recipe", "data", "seed")} == {
        "trial": "w4-000",
        "width": 4,
        "replicate": None,
        "state": "COMPLETE",
        "recipe_epochs": recipe(4).epochs,
        "commonest": finished.commonest,
        "lam": 2.0,
        "best_epoch": 1,
        "epochs": 1,
        "seconds": 3.0,
        "wall_seconds": 5.0,
        "feasible": True,
        "collapsed": False,
        VALUE: 0.6,
    }
    assert list(of_width.recorded()) == [finished]
    before = {"trial": "w4-000", "width": 4, "replicate": None, "state": "RUNNING", "recipe": "r"}
    assert RecordedTrial.load(0, before) == RecordedTrial(
        "w4-000", 4, 0, None, "RUNNING", None, "r"
    )


def test_seeds_derive_from_every_part():
    seeds = {derived_seed(0, "w4", n) for n in range(100)} | {
        derived_seed(1, "w4", 0),
        derived_seed(0, "w8", 0),
    }
    assert len(seeds) == 102
    assert derived_seed(0, "w4", 7) == derived_seed(0, "w4", 7) < 2**31


def test_a_taken_name_is_refused_with_the_two_ways_on(storage):
    search_record().create(storage)
    with pytest.raises(InputError, match=r"resume that one.*another --name"):
        search_record().create(storage)
    assert SearchRecord.load(storage, "s") == search_record()
    with pytest.raises(InputError, match="searches here: s"):
        SearchRecord.load(storage, "other")


def test_two_drivers_cannot_hold_one_search(storage, tmp_path):
    held = Lease.acquire(storage, "s")
    with pytest.raises(
        InputError, match=rf"no other driver of 's', got one on .*process {os.getpid()}"
    ):
        Lease.acquire(open_storage(None, tmp_path), "s")
    held.release()
    assert living_owner(storage, "s") is None
    Lease.acquire(storage, "s").release()


def test_a_lease_ends_with_its_process(storage, tmp_path):
    code = (
        "import os, pathlib; from robsearch.study import Lease, open_storage;"
        f"Lease.acquire(open_storage(None, pathlib.Path({str(tmp_path)!r})), 's'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    Lease.acquire(storage, "s").release()


def test_a_torn_journal_and_a_stale_lock_are_mended_and_nothing_whole_is_lost(storage, tmp_path):
    study(storage).ask()
    journal = tmp_path / JOURNAL
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 4, "wor')
    os.symlink(journal, f"{journal}.lock")
    repair_journal(tmp_path)
    assert journal.read_bytes() == whole
    reopened = open_storage(None, tmp_path)
    assert study(reopened).ask().trial == "w4-001"


def test_whoever_writes_behind_a_torn_line_cuts_it_off_and_keeps_a_copy(storage, tmp_path):
    study(storage).ask()
    journal = tmp_path / JOURNAL
    whole = journal.read_bytes()
    torn = whole + b'{"op_code":8,"worker_id":"x","trial_id":0,"user_at'
    journal.write_bytes(torn)
    for _ in range(2):  # the second one reads what the first has written
        Lease.acquire(open_storage(None, tmp_path), "s").release()
    assert journal.read_bytes().startswith(whole + b'{"op_code":0,')
    assert journal.with_suffix(".torn").read_bytes() == torn
    assert study(open_storage(None, tmp_path)).ask().trial == "w4-001"


def test_a_line_that_a_living_writer_has_half_written_is_not_cut_off(storage, tmp_path):
    study(storage).ask()
    journal = tmp_path / JOURNAL
    line = b'{"op_code":2,"worker_id":"x","study_id":0,"user_attr":{"first":1}}\n'
    lock = JournalFileSymlinkLock(str(journal))
    lock.acquire()
    with journal.open("ab") as file:
        file.write(line[:30])
    other = open_storage(None, tmp_path)
    writing = threading.Thread(target=other.set_study_user_attr, args=(0, "second", 2))
    writing.start()
    writing.join(0.5)
    assert writing.is_alive()
    with journal.open("ab") as file:
        file.write(line[30:])
    lock.release()
    writing.join(60)
    attrs = open_storage(None, tmp_path).get_study_user_attrs(0)
    assert (attrs["first"], attrs["second"]) == (1, 2)
    assert not journal.with_suffix(".torn").exists()


def test_a_journal_whose_disk_fills_up_keeps_no_part_of_a_line_and_goes_on_once_there_is_room(
    storage, tmp_path
):
    before = study(storage)
    before.ask()
    journal = tmp_path / JOURNAL
    whole, limits = journal.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (len(whole) + 10, limits[1])
    )  # the next write stops after 10 bytes
    try:
        with pytest.raises(OSError, match="File too large"):
            before.ask()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert journal.read_bytes() == whole
    assert before.ask().trial == "w4-001"
    assert [trial for trial, _ in told(open_storage(None, tmp_path))] == ["w4-000", "w4-001"]


def test_passwords_are_not_shown():
    assert without_password("postgresql://me:secret@host/db") == "postgresql://host/db"
    with pytest.raises(InputError) as error:
        open_storage("nonsense://me:secret@host/db", None)
    assert "secret" not in str(error.value)


def test_a_driver_that_is_asked_to_stop_knows_it_and_the_next_one_is_not_asked(
    storage, monkeypatch
):
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.05)
    with pytest.raises(InputError, match="expected a process that drives 's', got none"):
        ask_to_stop(storage, "s")
    held = Lease.acquire(storage, "s")
    time.sleep(0.2)
    assert not held.stop_asked
    assert ask_to_stop(storage, "s")["pid"] == os.getpid()
    deadline = time.monotonic() + 20
    while not held.stop_asked and time.monotonic() < deadline:
        time.sleep(0.02)
    assert held.stop_asked
    held.release()
    following = Lease.acquire(storage, "s")
    time.sleep(0.2)
    assert not following.stop_asked
    following.release()


def test_a_trial_that_was_adopted_reports_only_the_epochs_the_storage_lacks(
    storage, tmp_path, recwarn
):
    dead = study(storage)
    left = dead.ask()
    dead.report(left, entries(0.1, 0.2))
    reopened = open_storage(None, tmp_path)
    heir = study(reopened)
    (suggestion,) = heir.adopt()
    journal = tmp_path / "optuna.journal"
    before = len(journal.read_bytes().splitlines())
    for _ in range(2):
        heir.report(suggestion, entries(0.9, 0.9, 0.3))
    assert len(journal.read_bytes().splitlines()) == before + 1
    assert heir.trials()[0].intermediate_values == {1: 0.1, 2: 0.2, 3: 0.3}
    assert not [w for w in recwarn if "already reported" in str(w.message)]


def curve(*values, state=optuna.trial.TrialState.COMPLETE):
    done = state == optuna.trial.TrialState.COMPLETE
    return optuna.trial.create_trial(
        state=state,
        value=max(values) if done else None,
        intermediate_values=dict(enumerate(values, 1)),
    )


def by_hand(pruner, study, trial):
    """The definition, with every finished curve read anew."""
    step = trial.last_step
    finished = [t for t in study.get_trials() if t.state.name == "COMPLETE"]
    if step < pruner.warmup or len(finished) < pruner.startup:
        return False

    def best(t):
        return max(
            (v for at, v in t.intermediate_values.items() if at <= step), default=float("-inf")
        )

    return best(trial) < max(map(best, finished)) - pruner.margin


@pytest.mark.parametrize("seed", range(5))
def test_a_pruner_that_remembers_curves_decides_as_one_that_reads_them_all(seed):
    draw = random.Random(seed)
    pruner, verdicts = MarginPruner(margin=0.1, startup=3, warmup=2), []
    widths = [optuna.create_study(direction="maximize"), optuna.create_study(direction="maximize")]
    for _ in range(60):
        own = draw.choice(widths)
        values = [
            draw.random() * (0.5 if own is widths[0] else 1.0) for _ in range(draw.randint(1, 5))
        ]
        running = curve(*values, state=optuna.trial.TrialState.RUNNING)
        verdicts.append(pruner.prune(own, running))
        assert verdicts[-1] == by_hand(pruner, own, running)
        if draw.random() < 0.3:
            own.add_trial(curve(*values))
    assert set(verdicts) == {True, False}


def test_each_finished_curve_is_read_once_however_many_reports_come():
    looked_at = Counter()

    def steps_of(trial):
        looked_at[trial.number, trial.state.name] += 1
        return None if trial.number == 2 else 3

    pruner = MarginPruner(margin=0.1, startup=2).with_steps(steps_of)
    of_width = optuna.create_study(direction="maximize")
    running = curve(0.4, state=optuna.trial.TrialState.RUNNING)
    running.number = 99
    for reports in range(1, 6):
        of_width.add_trial(curve(0.6, 0.7, 0.8))
        for _ in range(10):
            # of trials 0 to 2 the last is no measure
            assert pruner.prune(of_width, running) == (reports >= 2)
    assert looked_at == {(99, "RUNNING"): 50, **{(number, "COMPLETE"): 1 for number in range(5)}}


def test_a_pruner_that_hears_of_ends_decides_as_one_that_asks_for_all_and_asks_once(
    tmp_path, monkeypatch
):
    draw = random.Random(0)
    storage = open_storage(None, tmp_path)
    of_width = study(storage)
    asked = []
    get_trials = of_width._study.get_trials

    def counted_trials(**how):
        asked.append(how)
        return get_trials(**how)

    monkeypatch.setattr(of_width._study, "get_trials", counted_trials)
    pruned = []
    for _ in range(30):
        suggestion = of_width.ask()
        asked.clear()
        values = [draw.random() for _ in range(4)]
        for epoch, entry in enumerate(entries(*values), 1):
            prune = of_width.report(suggestion, [entry])
            running = storage.get_trial(suggestion.number)
            anew = MarginPruner(margin=0.04, startup=2, after=2 / 3).with_steps(epochs_of)
            other = optuna.load_study(study_name="s@w4", storage=storage)
            assert prune == anew.prune(other, running)
            if prune and epoch < 4:
                of_width.prune(suggestion, entry, entry)
                break
        else:
            of_width.complete(suggestion, entry, entry)
        pruned.append(prune and epoch < 4)
        # Only in the first training that comes to its last third.
        assert len(asked) == (1 if len(pruned) == 1 else 0)
    assert set(pruned) == {True, False}


def test_the_same_pruner_with_other_steps_forgets_what_it_has_read():
    of_width = optuna.create_study(direction="maximize")
    of_width.add_trial(curve(0.1, 0.9))
    running = curve(0.4, state=optuna.trial.TrialState.RUNNING)
    pruner = MarginPruner(margin=0.1, startup=1)
    assert not pruner.prune(of_width, running)
    assert pruner.with_steps(
        lambda trial: 2 if trial.state == optuna.trial.TrialState.COMPLETE else 1
    ).prune(of_width, running)
