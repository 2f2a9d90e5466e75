"""The beginning of a long journal, kept beside it in few records: it says what the journal says,
and the journal is right where they differ."""

import resource
import shutil

import optuna
import pytest
from optuna.trial import TrialState

from robsearch.study import condensed, journal as journal_module, open_storage
from robsearch.study.condensed import condensed_file, read_beginning
from robsearch.study.journal import JOURNAL, DamagedJournalError


@pytest.fixture(autouse=True)
def _ten_lines_are_long(monkeypatch):
    monkeypatch.setattr(condensed, "LONG", 10)


@pytest.fixture
def journal(tmp_path):
    """Of two studies with trials in each state, whose lines alternate."""
    storage = open_storage(None, tmp_path)
    studies = [
        optuna.create_study(storage=storage, study_name=name, direction="maximize")
        for name in ("s@w4", "s@w8")
    ]
    studies[0].set_user_attr("place", {"search": "s", "width": 4})
    storage.set_study_system_attr(1, "mine", [1, None])
    for number in range(4):
        for study in studies:
            trial = study.ask()
            trial.suggest_float("lam", 0.5, 32.0, log=True)
            trial.suggest_categorical("objective", ("trades", None, 3))
            trial.suggest_int("epochs", 6, 60, step=6)
            trial.report(0.1, 1)
            trial.set_user_attr("trainings", [{"trial": trial.number, "text": "λ"}])
            trial.report(float("nan"), 2)
            state = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, None)[number]
            if state:
                study.tell(trial, 0.5 if state == TrialState.COMPLETE else None, state=state)
    studies[0].enqueue_trial({"lam": 2.0}, user_attrs={"risen_from": 1})
    return tmp_path / JOURNAL


def said(journal, **how):
    """All that a storage says of its studies."""
    storage = open_storage(None, journal.parent, **how)
    return [
        (repr(vars(study)), repr(storage.get_all_trials(study._study_id)))
        for study in storage.get_all_studies()
    ]


def lines_of(journal):
    return journal.read_bytes().splitlines(keepends=True)


def test_what_is_kept_says_what_the_journal_says_also_of_what_comes_later(journal):
    first = said(journal)  # nothing is kept yet
    kept = read_beginning(journal, with_values=True)
    assert kept.lines == len(lines_of(journal))
    assert len(kept.records) < kept.lines / 3
    assert said(journal) == first
    storage = open_storage(None, journal.parent)
    study = optuna.load_study(study_name="s@w8", storage=storage)
    running = study.get_trials(states=(TrialState.RUNNING,))[0]
    study.tell(running.number, 0.7)
    study.ask().report(0.3, 1)
    with_copy = said(journal)
    condensed_file(journal).unlink()
    assert said(journal) == with_copy != first


def test_who_only_looks_keeps_no_values_and_who_needs_them_does_not_take_that(journal):
    said(journal, with_values=False)
    assert read_beginning(journal, with_values=False).lines == len(lines_of(journal))
    assert read_beginning(journal, with_values=True).lines == 0
    whole = said(journal)
    assert "{1: 0.1, 2: nan}" in whole[0][1]
    assert read_beginning(journal, with_values=True).lines == len(lines_of(journal))


def test_a_journal_that_was_changed_is_read_anew(journal):
    before = said(journal)
    text = journal.read_text()
    journal.write_text(text.replace('"values":[0.5]', '"values":[0.6]'))
    changed = said(journal)
    assert "values=[0.6]" in changed[0][1]
    assert changed != before
    journal.write_bytes(b"".join(lines_of(journal)[:6]))
    assert len(said(journal)) == 2
    assert "values" not in journal.read_text()


@pytest.mark.parametrize("damage", ["cut", "bytes", "folder", "empty", "other"])
def test_whatever_became_of_the_copy_the_journal_is_read(journal, damage):
    before = said(journal)
    copy = condensed_file(journal)
    content = copy.read_bytes()
    copy.unlink()
    if damage == "folder":
        copy.mkdir()
    else:
        damaged = {
            "cut": content[:-5],
            "bytes": content.replace(b'"lam":', b'"lum":'),
            "empty": b"",
            "other": b'["format"]\n{}',
        }
        assert damaged[damage] != content
        copy.write_bytes(damaged[damage])
    assert said(journal) == before
    assert read_beginning(journal, with_values=True).lines == len(lines_of(journal))  # made anew


def test_a_copy_that_cannot_be_written_is_no_trouble(journal):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        first = said(journal)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(file.name for file in journal.parent.iterdir()) == [JOURNAL]
    assert said(journal) == first


def test_a_trial_that_is_made_twice_is_seen_behind_the_copy(journal):
    said(journal)
    lines = lines_of(journal)
    maker = next(line for line in lines if line.startswith(b'{"op_code":4,'))
    with journal.open("ab") as file:
        file.write(maker)
    with pytest.raises(DamagedJournalError) as damage:
        said(journal)
    assert damage.value.line == len(lines) + 1
    assert damage.value.what == f"makes the trial of line {lines.index(maker) + 1} once more"


def test_a_journal_that_would_be_numbered_otherwise_is_not_condensed(journal):
    shutil.copy(journal, journal.with_suffix(".before"))
    optuna.delete_study(study_name="s@w4", storage=open_storage(None, journal.parent))
    condensed_file(journal).unlink()
    assert len(said(journal)) == 1
    assert not condensed_file(journal).exists()


def test_a_study_that_was_deleted_last_keeps_its_number_and_its_trials_theirs(journal):
    """As Optuna's own command deletes it. What comes later is numbered as in the journal."""
    storage = open_storage(None, journal.parent)
    optuna.create_study(storage=storage, study_name="last").ask()
    optuna.delete_study(study_name="last", storage=storage)
    condensed_file(journal).unlink(missing_ok=True)
    said(journal)
    assert read_beginning(journal, with_values=True).lines == 0
    with_copy = open_storage(None, journal.parent)
    study = optuna.create_study(storage=with_copy, study_name="s@w16")
    study.ask().set_user_attr("of", "w16")
    before = said(journal)
    condensed_file(journal).unlink(missing_ok=True)
    assert said(journal) == before
    assert "w16" in before[-1][1]


def test_what_is_appended_while_the_copy_is_made_does_not_spoil_it(journal, monkeypatch):
    lines = len(lines_of(journal))
    condensed_records = journal_module.condensed_records

    def meanwhile(storage):
        with journal.open("ab") as other:
            other.write(lines_of(journal)[-1].replace(b"risen_from", b"later"))
        return condensed_records(storage)

    monkeypatch.setattr(journal_module, "condensed_records", meanwhile)
    said(journal)
    assert read_beginning(journal, with_values=True).lines == lines
