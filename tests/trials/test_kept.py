"""What was read of many small files and is kept in one: equal to what is in the files, whatever has
become of them or of it."""

import hashlib
import json
import os
import subprocess
import sys
import warnings

import pytest

from robsearch.trials import kept, kept_histories
from robsearch.trials.files import replacing, write_json
from robsearch.trials.kept_histories import EPOCHS, KeptHistories
from robsearch.trials.loading import AT_A_GLANCE, MEASURED, MeasuredTrials, read_history, read_test

VALUE = "val/robust_accuracy"
TWICE = """
import sys
from pathlib import Path
from robsearch.trials.files import replacing
with replacing(Path(sys.argv[1]), is_shared=True) as unfinished:
    unfinished.write_text("theirs")
"""
ALL = ("w4-000", "w4-001", "w4-002")


@pytest.fixture(autouse=True)
def _each_file_is_kept_at_once(monkeypatch):
    monkeypatch.setattr(kept, "FEW", 1)
    monkeypatch.setattr(kept_histories, "FEW", 1)
    monkeypatch.setattr(kept, "SETTLED_NS", 0)


def epochs(*values, **more):
    return [
        {"epoch": n, "time": 1.5 * n, VALUE: value, "memory": 7, **more}
        for n, value in enumerate(values, 1)
    ]


def save(trial, history, attempt=1):
    folder = trial / f"a{attempt}" / f"epoch-{len(history):04d}"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "history.json", {"sha256": "0", "epochs": history})
    (folder.parent / "LATEST").write_text(folder.name)


@pytest.fixture
def trials(tmp_path):
    """Of three: one is measured, one has not ended its first epoch."""
    folder = tmp_path / "trials"
    save(folder / ALL[0], epochs(0.1, float("nan")))
    save(folder / ALL[1], epochs(0.25, lam=2.0, loss=float("inf")))
    (folder / ALL[2]).mkdir()
    test = dict.fromkeys(AT_A_GLANCE, 0.5) | {"test/n": 100, "test/loss": None}
    write_json(folder / ALL[0] / "test.json", test)
    return folder


def measured(trials):
    reader = MeasuredTrials(trials)
    facts = [reader.read(trial) for trial in ALL]
    reader.keep()
    return facts


def histories(trials):
    """As text, in which 2 and 2.0 differ, and NaN is NaN."""
    reader = KeptHistories(trials)
    read = [reader.read(trial) for trial in ALL]
    reader.keep()
    return repr(read)


def from_files(trials):
    return repr([read_history(trials / trial) for trial in ALL])


def test_what_a_look_needs_of_a_measured_trial_is_kept_until_its_file_changes(trials):
    of_first = dict.fromkeys(AT_A_GLANCE, 0.5)
    assert measured(trials) == [of_first, {}, {}]
    assert ALL[0] in (trials.parent / MEASURED).read_text()
    file = trials / ALL[0] / "test.json"
    time = file.stat().st_mtime_ns
    # As long as before, and, as far as its time of writing says, not changed.
    file.write_text(file.read_text().replace("0.5", "0.7"))
    os.utime(file, ns=(time, time))
    assert measured(trials)[0] == dict.fromkeys(AT_A_GLANCE, 0.7)
    file.unlink()
    assert measured(trials) == [{}, {}, {}]
    write_json(file, {"test/other": 1.0})
    assert measured(trials)[0] == read_test(trials / ALL[0])


def test_a_kept_fact_is_taken_without_opening_the_file(trials):
    """Else it would be of no use: the copy is told another value than the file has."""
    measured(trials)
    copy = trials.parent / MEASURED
    body = copy.read_bytes().partition(b"\n")[2].replace(b"0.5", b"0.9")
    copy.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    assert measured(trials)[0] == dict.fromkeys(AT_A_GLANCE, 0.9)


def test_a_damaged_file_is_said_at_each_look(trials):
    measured(trials)
    (trials / ALL[0] / "test.json").write_text("{")
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"test\.json is not JSON"):
            assert measured(trials) == [{}, {}, {}]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"format": 1, "facts": {"w4-000": 3}}', None])
def test_damaged_copies_are_made_anew(trials, content):
    facts = measured(trials)
    read = histories(trials)
    for name in (MEASURED, EPOCHS):
        copy = trials.parent / name
        good = copy.read_bytes()
        copy.unlink()
        if content is None:
            copy.mkdir()
        else:
            copy.write_text(content)
        assert (measured(trials), histories(trials)) == (facts, read)
        assert copy.is_file()
        assert len(copy.read_bytes()) == len(good)


def test_a_folder_that_cannot_be_written_is_no_trouble(tmp_path):
    reader = MeasuredTrials(tmp_path / "gone" / "trials")
    assert reader.read("w4-000") == {}
    facts = kept.KeptFacts(tmp_path / "gone" / "file", lambda file: {"a": 1})
    assert facts.of("w4-000", tmp_path) == {"a": 1}
    facts.keep()
    assert not (tmp_path / "gone").exists()


def test_epochs_are_those_of_the_files(trials):
    assert histories(trials) == from_files(trials)
    assert histories(trials) == from_files(trials)
    kept_now = kept_histories._load(trials.parent / EPOCHS)
    assert list(kept_now) == [*ALL[:2]]


@pytest.mark.parametrize("how", ["epoch", "attempt", "rewritten", "gone", "uneven", "mixed"])
def test_a_change_of_the_epochs_is_seen(trials, how):
    before = histories(trials)
    trial = trials / ALL[1]
    if how == "epoch":
        save(trial, epochs(0.25, 0.5, lam=2.0, loss=0.1))
    elif how == "attempt":
        save(trial, epochs(0.4), attempt=2)
    elif how == "rewritten":
        file = trial / "a1" / "epoch-0001" / "history.json"
        file.write_text(file.read_text().replace("0.25", "0.35"))
    elif how == "gone":
        for file in (trial / "a1" / "epoch-0001").iterdir():
            file.unlink()
        (trial / "a1" / "epoch-0001").rmdir()
    elif how == "uneven":
        save(trial, [*epochs(0.1), *epochs(0.2, 0.3, lam=1.0)[1:]])
    else:  # a whole number for what is none in another trial
        save(trial, epochs(0.1, 1, lam=2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        changed = from_files(trials)
    for _ in range(2):
        assert histories(trials) == changed != before


def test_a_damaged_newest_history_is_said_at_each_look_and_never_kept(trials):
    save(trials / ALL[0], epochs(0.1, 0.2, 0.3))
    histories(trials)
    (trials / ALL[0] / "a1" / "epoch-0003" / "history.json").write_text(json.dumps({}))
    for _ in range(2):
        with pytest.warns(UserWarning, match="the history before it is read"):
            assert histories(trials) == repr(
                [epochs(0.1, float("nan")), read_history(trials / ALL[1]), []]
            )


@pytest.mark.parametrize(("name", "reader"), [(MEASURED, "facts"), (EPOCHS, "epochs")])
def test_no_flipped_bit_of_a_copy_is_believed(trials, name, reader):
    looks = {"facts": measured, "epochs": histories}[reader]
    truth = looks(trials)
    file = trials.with_name(name)
    content = file.read_bytes()
    for place in range(0, len(content), max(1, len(content) // 60)):
        damaged = bytearray(content)
        damaged[place] ^= 1
        file.write_bytes(damaged)
        with warnings.catch_warnings(action="ignore"):
            assert looks(trials) == truth, place


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    """Whoever is second takes the place of the first, and neither fails."""
    file = tmp_path / "shared"
    with replacing(file, is_shared=True) as mine:
        mine.write_text("mine")
        other = subprocess.run(
            [sys.executable, "-c", TWICE, str(file)], capture_output=True, text=True, check=False
        )
        assert other.returncode == 0, other.stderr
        assert file.read_text() == "theirs"
    assert file.read_text() == "mine"
    assert [each.name for each in tmp_path.iterdir()] == ["shared"]
