"""A journal that is only looked at: without the values of epochs, and with all else."""

import optuna
import pytest

from robsearch.study import open_storage
from robsearch.study.journal import JOURNAL, DamagedJournalError


def tried(study):
    trial = study.ask()
    trial.suggest_float("lam", 0.5, 32.0)
    for step in (1, 2):
        trial.report(0.1 * step, step)
    study.tell(trial, 0.2)


def facts(storage):
    trials = storage.get_all_trials(0, deepcopy=False)
    return [(trial.number, trial.state, trial.params, trial.values) for trial in trials]


def values(storage):
    return [trial.intermediate_values for trial in storage.get_all_trials(0, deepcopy=False)]


@pytest.fixture
def study(tmp_path):
    """With three trials of two epochs."""
    study = optuna.create_study(storage=open_storage(None, tmp_path), study_name="s")
    for _ in range(3):
        tried(study)
    return study


def test_who_looks_has_all_but_the_values_also_of_what_is_written_later(study, tmp_path):
    whole = open_storage(None, tmp_path)
    looked = open_storage(None, tmp_path, with_values=False)
    assert facts(looked) == facts(whole)
    tried(study)
    assert facts(looked) == facts(whole)
    assert len(facts(looked)) == 4
    assert values(whole) == [{1: 0.1, 2: 0.2}] * 4
    assert values(looked) == [{}] * 4


@pytest.mark.parametrize("line", [4, 5, 9])
def test_a_damaged_line_is_named_by_its_number_in_the_file(study, tmp_path, line):
    """Lines 4 and 5 are the values of the first trial, 9 is one of the second."""
    lines = (tmp_path / JOURNAL).read_bytes().splitlines(keepends=True)
    assert lines[3].startswith(b'{"op_code":7')
    lines[line - 1] = lines[line - 1][:20] + b"\n"
    (tmp_path / JOURNAL).write_bytes(b"".join(lines))
    for with_values in (True, False):
        with pytest.raises(DamagedJournalError) as damage:
            open_storage(None, tmp_path, with_values=with_values)
        assert damage.value.line == line
