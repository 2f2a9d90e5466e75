"""Whatever lies in a trial's folder: every kind of damage to every file of a checkpoint, and what
is made of it."""

import contextlib
import hashlib
import json
import os
import shutil
import warnings

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small_spaces import recipe

from robsearch import SGD, Epoch
from robsearch.cluster.worker import with_warnings
from robsearch.search.models import network
from robsearch.trials import evaluating, loading, trial
from robsearch.trials.checkpoints import Attempt, CheckpointWriter, Snapshot, drop_weights
from robsearch.trials.evaluating import read_checks
from robsearch.trials.figures import draw
from robsearch.trials.files import replacing, write_json
from robsearch.trials.ladder.files import ChunkResult, read_chunk, write_chunk
from robsearch.trials.loading import (
    best_epoch,
    checkpoint_of,
    newest_checkpoint,
    read_history,
    read_test,
)
from robsearch.trials.masking import Check
from robsearch.trials.trial import evaluate_trial, measure, run

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning"
)  # what a test expects it names, and there are others
VALUE = "val/robust_accuracy"
VALUES = (0.1, 0.9, 0.2, 0.3, 0.4)
TRAINED = recipe(8, optimiser=SGD(lr=1.0), measures=())
"""Its values rise to the third of four epochs."""


def epoch(number):
    return Epoch(number, {}, {"model": {"w": torch.full((3,), float(number))}, "epoch": number})


def history(*values):
    return [{"epoch": n, "time": float(n), VALUE: value} for n, value in enumerate(values, 1)]


def save(attempt, *values, first=1):
    for number in range(first, len(values) + 1):
        attempt.write(Snapshot.of(epoch(number), history(*values[:number])))


def kept(attempt):
    return sorted(int(folder.name[6:]) for folder in attempt.glob("epoch-*"))


@pytest.fixture(autouse=True)
def _every_epoch_is_saved(monkeypatch):
    monkeypatch.setattr(trial, "REPORT_SECONDS", 0.0)


# --- kinds of damage to one file ---


def is_missing(file):
    file.unlink()


def is_empty(file):
    file.write_bytes(b"")


def is_cut_short(file):
    os.truncate(file, file.stat().st_size // 2)


def has_a_flipped_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def is_a_folder(file):
    file.unlink()
    (file / "inside").mkdir(parents=True)


def is_a_pipe(file):
    file.unlink()
    os.mkfifo(file)


def is_a_link_into_nothing(file):
    file.unlink()
    file.symlink_to("nowhere")


def is_a_link_to_itself(file):
    file.unlink()
    file.symlink_to(file)


def is_a_device(file):
    file.unlink()
    file.symlink_to("/dev/zero")


def is_no_text(file):
    file.write_bytes(b"\xff\xfe\x80\x00\xc3\x28")


def is_zeros(file):
    file.write_bytes(bytes(file.stat().st_size))


ANY_FILE = (
    is_missing,
    is_empty,
    is_cut_short,
    has_a_flipped_bit,
    is_a_folder,
    is_a_pipe,
    is_a_link_into_nothing,
    is_a_link_to_itself,
    is_a_device,
    is_no_text,
    is_zeros,
)


def changed(**entries):
    """Of the last epoch in a history."""
    return lambda told: {
        **told,
        "epochs": [*told["epochs"][:-1], {**told["epochs"][-1], **entries}],
    }


CONTENTS = {
    "null": lambda told: None,
    "a number": lambda told: 3,
    "a text": lambda told: "epochs",
    "a list": lambda told: told["epochs"],
    "an empty object": lambda told: {},
    "no digest": lambda told: {"epochs": told["epochs"]},
    "another digest": lambda told: {**told, "sha256": "0" * 64},
    "a digest that is no text": lambda told: {**told, "sha256": 5},
    "no epochs": lambda told: {**told, "epochs": []},
    "epochs that are an object": lambda told: {**told, "epochs": dict(enumerate(told["epochs"]))},
    "epochs that are numbers": lambda told: {**told, "epochs": [1.0] * len(told["epochs"])},
    "an epoch too few": lambda told: {**told, "epochs": told["epochs"][:-1]},
    "an epoch twice": lambda told: {**told, "epochs": [*told["epochs"], told["epochs"][-1]]},
    "another number": changed(epoch=77),
    "a number as text": changed(epoch="5"),
    "a value that is no number": changed(**{VALUE: None}),
    "an infinite value": changed(**{VALUE: float("inf")}),
    "a metric that is a text": changed(more="0.5"),
    "a number beyond all bounds": changed(more=10**400),
    "no value": lambda told: {
        **told,
        "epochs": [{"epoch": n} for n in range(1, len(told["epochs"]) + 1)],
    },
}
"""What ``history.json`` may hold instead."""


def holds(made):
    def damage(file):
        file.write_text(json.dumps(made(json.loads(file.read_text()))))

    return damage


def nested(file):
    file.write_text("[" * 100_000)


def digits(file):
    file.write_text("9" * 10_000)


def agreed(content):
    """A state that is not one, and a history with its digest."""

    def damage(file):
        file.write_bytes(content)
        told = json.loads((file.parent / "history.json").read_text())
        told["sha256"] = hashlib.sha256(content).hexdigest()
        (file.parent / "history.json").write_text(json.dumps(told))

    return damage


def of_another_epoch(file):
    torch.save(epoch(1).state, file)
    agreed(file.read_bytes())(file)


DAMAGES = [
    *(pytest.param("state.pt", damage, id=f"state {damage.__name__}") for damage in ANY_FILE),
    pytest.param("state.pt", agreed(b"no state"), id="state with the digest of something else"),
    pytest.param("state.pt", of_another_epoch, id="state of another epoch"),
    *(pytest.param("history.json", damage, id=f"history {damage.__name__}") for damage in ANY_FILE),
    pytest.param("history.json", nested, id="history nested"),
    pytest.param("history.json", digits, id="history digits"),
    *(
        pytest.param("history.json", holds(made), id=f"history with {words}")
        for words, made in CONTENTS.items()
    ),
]


def flipped_in_place(file, damage):
    """JSON that still is JSON of the same meaning after a flipped bit would be no damage: the
    digest is hit."""
    if damage is has_a_flipped_bit and file.name == "history.json":
        file.write_text(file.read_text().replace('"sha256": "', '"sha256": "g', 1))
    else:
        damage(file)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Five epochs, the second the best: 2, 4 and 5 are kept."""
    folder = tmp_path_factory.mktemp("saved")
    save(Attempt.claim(folder), *VALUES)
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "trial")


@pytest.mark.parametrize(("file", "damage"), DAMAGES)
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_counts(copied, file, damage):
    flipped_in_place(copied / "a1" / "epoch-0005" / file, damage)
    with pytest.warns(
        UserWarning,
        match=r"a1/epoch-0005 is damaged: going back to the one before it \((state|history)",
    ):
        found = newest_checkpoint(copied)
    assert (found.number, found.state["epoch"], found.best_state["epoch"]) == (4, 4, 2)
    assert found.history == history(*VALUES[:4])
    with warnings.catch_warnings(record=True):
        assert len(read_history(copied)) in (4, 5)


@pytest.mark.parametrize(("file", "damage"), DAMAGES[::2])
def test_a_damaged_best_checkpoint_is_named_and_the_best_that_is_not_damaged_stands_in(
    copied, file, damage
):
    flipped_in_place(copied / "a1" / "epoch-0002" / file, damage)
    found = newest_checkpoint(copied)
    assert found.state["epoch"] == 5
    with pytest.warns(UserWarning, match="a1/epoch-0002 is damaged") as said:
        best = found.best
    assert best.state["epoch"] == 5  # 0.4, beside the 0.3 of epoch 4
    words = [str(each.message) for each in said]
    assert (
        f"the weights of epoch 2, the best of {copied}, are damaged or missing: those of epoch "
        "5 stand in" in words
    )


def names_rubbish(file):
    file.write_text("epoch-0009")


def names_a_path(file):
    file.write_text("../../epoch-0004")


@pytest.mark.parametrize("damage", [*ANY_FILE, names_rubbish, names_a_path])
def test_latest_is_a_hint_whatever_it_is_and_a_wrong_one_is_named(copied, damage):
    file = copied / "a1" / "LATEST"
    damage(file)
    if damage is has_a_flipped_bit:
        file.write_text("epoch-0105")
    with pytest.warns(UserWarning, match=r"a1/LATEST .*: the checkpoints tell by themselves"):
        assert newest_checkpoint(copied).state["epoch"] == 5
    assert read_history(copied) == history(*VALUES)
    attempt = Attempt.claim(copied)
    with pytest.warns(UserWarning, match="LATEST"):
        assert attempt.resume().number == 5
    assert (attempt.folder / "LATEST").read_text() == "epoch-0005"


def test_a_checkpoint_that_is_complete_counts_also_if_its_attempt_died_before_it_was_named(copied):
    (copied / "a1" / "LATEST").write_text("epoch-0004")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert newest_checkpoint(copied).state["epoch"] == 5


def test_strange_names_are_passed_over(copied):
    for name in ("a2", "notes.txt", "abc", "a-1", "a0"):
        (copied / name).touch()
    (copied / "a3").symlink_to("nowhere")
    (copied / "a04").mkdir()
    (copied / "a٤").mkdir()
    for name in ("epoch-0005-copy", "epoch-5", "epoch-00005", "epoch-0000", "epoch-abcd"):
        (copied / "a1" / name).mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Attempt(copied, 1).refuse_if_stale()
        attempt = Attempt.claim(copied)
        assert attempt.number == 4
        assert attempt.resume().state["epoch"] == 5


def test_an_attempt_and_a_checkpoint_may_be_links_and_a_file_is_no_checkpoint(copied, tmp_path):
    shutil.move(copied / "a1", tmp_path / "elsewhere")
    (copied / "a1").symlink_to(tmp_path / "elsewhere")
    (copied / "a1" / "epoch-0006").touch()
    with pytest.warns(UserWarning, match="epoch-0006 is damaged"):
        assert newest_checkpoint(copied).state["epoch"] == 5
    assert newest_checkpoint(tmp_path / "nowhere") is None
    assert read_history(tmp_path / "nowhere") == []


def test_of_a_trial_that_trains_on_while_it_is_read_the_newest_history_is_read(
    tmp_path, monkeypatch
):
    attempt = Attempt.claim(tmp_path)
    save(attempt, *VALUES[:3])
    listed = loading.epochs

    def train_on_once(folder):
        """Between the listing and the reading the worker saves two more, and drops the rest."""
        folders = listed(folder)
        monkeypatch.setattr(loading, "epochs", listed)
        save(attempt, *VALUES, first=4)
        for old in (1, 2, 3):
            shutil.rmtree(folder / f"epoch-{old:04d}", ignore_errors=True)
        return folders

    monkeypatch.setattr(loading, "epochs", train_on_once)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_history(tmp_path) == history(*VALUES)


def test_the_ten_thousandth_epoch_is_newer_than_the_one_before(tmp_path):
    attempt = Attempt.claim(tmp_path)
    values = [0.1] * 10_001
    for number in (9_998, 9_999, 10_000, 10_001):
        attempt.write(Snapshot.of(epoch(number), history(*values[:number])))
    assert kept(attempt.folder) == [9_998, 10_000, 10_001]
    assert newest_checkpoint(tmp_path).number == 10_001


def test_nan_is_a_metric_and_no_best_value(tmp_path):
    attempt = Attempt.claim(tmp_path)
    entries = [{**entry, "more": float("nan")} for entry in history(float("nan"), 0.2, 0.1)]
    for number in (1, 2, 3):
        attempt.write(Snapshot.of(epoch(number), entries[:number]))
    assert newest_checkpoint(tmp_path).best_state["epoch"] == best_epoch(entries) == 2


# --- what is kept ---


def test_the_one_to_fall_back_on_keeps_its_own_best_until_training_has_ended(tmp_path):
    """Epoch 5 is the best; were it damaged, training would go on from epoch 4, whose best is epoch
    2."""
    writer = CheckpointWriter(Attempt.claim(tmp_path))
    values = (0.1, 0.5, 0.2, 0.3, 0.9)
    for number in range(1, 6):
        writer.save(epoch(number), history(*values[:number]))
    folder = writer.attempt.folder
    assert kept(folder) == [2, 4, 5]
    shutil.copytree(tmp_path, spoiled := tmp_path.with_name("spoiled"))
    is_cut_short(spoiled / "a1" / "epoch-0005" / "state.pt")
    with pytest.warns(UserWarning, match="epoch-0005 is damaged"):
        found = Attempt.claim(spoiled).resume()
    assert (found.state["epoch"], found.best_state["epoch"]) == (4, 2)
    assert kept(spoiled / "a2") == [2, 4]
    writer.finish(epoch(5), history(*values))
    assert kept(folder) == [4, 5]


@pytest.mark.parametrize(
    "values", [(0.1, 0.2, 0.3, 0.4, 0.5), (0.5, 0.4, 0.3, 0.2, 0.1), VALUES, (0.2,) * 5]
)
def test_never_more_than_three_are_kept_and_each_of_the_two_newest_has_its_best(tmp_path, values):
    attempt = Attempt.claim(tmp_path)
    for number in range(1, 6):
        attempt.write(Snapshot.of(epoch(number), history(*values[:number])))
        there = kept(attempt.folder)
        assert len(there) <= 3
        for last in there[-2:]:
            assert best_epoch(history(*values[:last])) in there


def test_the_best_that_stands_in_is_kept_as_the_best_from_then_on(copied):
    is_missing(copied / "a1" / "epoch-0002" / "state.pt")
    attempt = Attempt.claim(copied)
    with pytest.warns(UserWarning, match="those of epoch 5 stand in"):
        attempt.resume()
    save(attempt, *VALUES, 0.1, 0.1, 0.1, first=6)
    assert kept(attempt.folder) == [5, 7, 8]
    with pytest.warns(UserWarning, match="those of epoch 5 stand in"):
        assert newest_checkpoint(copied).best_state["epoch"] == 5


def test_a_last_checkpoint_that_is_damaged_already_is_written_again(tmp_path):
    writer = CheckpointWriter(Attempt.claim(tmp_path))
    writer.save(epoch(1), history(0.1))
    has_a_flipped_bit(writer.attempt.folder / "epoch-0001" / "state.pt")
    with pytest.warns(UserWarning, match=r"epoch-0001 is damaged: it is written again \(state.pt"):
        writer.finish(epoch(1), history(0.1))
    assert newest_checkpoint(tmp_path).state["epoch"] == 1


def test_a_checkpoint_is_on_the_disk_before_it_is_named_and_before_an_older_one_goes(
    tmp_path, monkeypatch
):
    attempt, acts = Attempt.claim(tmp_path), []
    save(attempt, *VALUES[:4])
    sync, replace, rmtree = os.fsync, os.replace, shutil.rmtree

    def syncs(opened):
        acts.append(f"sync {os.path.basename(os.readlink(f'/proc/self/fd/{opened}'))}")
        sync(opened)

    def renames(source, target):
        acts.append(f"name {target.name}")
        replace(source, target)

    def removes(folder):
        acts.append(f"drop {folder.name}")
        rmtree(folder)

    monkeypatch.setattr(os, "fsync", syncs)
    monkeypatch.setattr(os, "replace", renames)
    monkeypatch.setattr(shutil, "rmtree", removes)
    attempt.write(Snapshot.of(epoch(5), history(*VALUES)))
    writes = ["sync state.pt", "sync history.json", "sync epoch-0005"]
    names = ["sync LATEST.tmp", "name LATEST", "sync a1"]
    assert acts == [*writes, *names, "drop epoch-0003"]


# --- from one attempt to the next ---


def test_the_best_is_taken_from_an_older_attempt_where_the_newer_ones_copy_is_damaged(copied):
    attempt = Attempt.claim(copied)
    attempt.resume()
    save(attempt, *VALUES, 0.1, first=6)
    is_cut_short(attempt.folder / "epoch-0002" / "state.pt")
    with pytest.warns(UserWarning, match="a2/epoch-0002 is damaged"):
        best = newest_checkpoint(copied).best
    assert best.folder == copied / "a1" / "epoch-0002"
    third = Attempt.claim(copied)
    with pytest.warns(UserWarning, match="a2/epoch-0002 is damaged"):
        third.resume()
    assert kept(third.folder) == [2, 6]


def test_an_older_attempt_counts_where_the_newer_one_has_nothing_valid(copied):
    attempt = Attempt.claim(copied)
    attempt.resume()
    for state in attempt.folder.glob("epoch-*/state.pt"):
        is_empty(state)
    with pytest.warns(UserWarning, match="a2/epoch-0005 is damaged"):
        assert Attempt.claim(copied).resume().state["epoch"] == 5


def test_weights_of_another_training_are_never_the_best_of_this_one(copied):
    """Attempt 2 went back to epoch 4 and trained the fifth once more, to another value at another
    time."""
    is_empty(copied / "a1" / "epoch-0005" / "state.pt")
    attempt = Attempt.claim(copied)
    with pytest.warns(UserWarning, match="a1/epoch-0005"):
        attempt.resume()
    entries = [*history(*VALUES[:4]), {"epoch": 5, "time": 50.0, VALUE: 0.95}]
    attempt.write(Snapshot.of(epoch(5), entries))
    attempt.write(Snapshot.of(epoch(6), [*entries, {"epoch": 6, "time": 60.0, VALUE: 0.1}]))
    shutil.copytree(copied / "a2" / "epoch-0005", copied / "a1" / "epoch-0005", dirs_exist_ok=True)
    told = json.loads((copied / "a1" / "epoch-0005" / "history.json").read_text())
    told["epochs"][-1]["time"] = 5.0
    (copied / "a1" / "epoch-0005" / "history.json").write_text(json.dumps(told))
    is_missing(attempt.folder / "epoch-0005" / "state.pt")
    with pytest.warns(UserWarning, match="those of epoch 2 stand in"):
        assert newest_checkpoint(copied).best.folder == copied / "a1" / "epoch-0002"


def test_an_attempt_that_died_while_it_copied_is_no_step_back(copied):
    """The newest is copied first: with the best alone, epochs 3 to 5 would be trained again."""
    attempt = Attempt.claim(copied)
    (attempt.folder / "epoch-0005").mkdir()
    shutil.copy(copied / "a1" / "epoch-0005" / "state.pt", attempt.folder / "epoch-0005")
    with pytest.warns(
        UserWarning, match=r"a2/epoch-0005 is damaged: .* \(history.json is missing\)"
    ):
        assert newest_checkpoint(copied).folder == copied / "a1" / "epoch-0005"
    shutil.copy(copied / "a1" / "epoch-0005" / "history.json", attempt.folder / "epoch-0005")
    with pytest.warns(UserWarning, match="a2/LATEST is missing"):
        found = newest_checkpoint(copied)
    assert (found.folder.parent, found.best.folder.parent) == (copied / "a2", copied / "a1")


@pytest.mark.parametrize(
    "obstacle", ["folder is a file", "state is a folder", "history is a pipe", "LATEST is a folder"]
)
def test_what_stands_in_the_way_of_a_checkpoint_is_removed(tmp_path, obstacle):
    attempt = Attempt.claim(tmp_path)
    folder = attempt.folder / "epoch-0001"
    if obstacle == "folder is a file":
        folder.touch()
    elif obstacle == "state is a folder":
        (folder / "state.pt" / "inside").mkdir(parents=True)
    elif obstacle == "history is a pipe":
        folder.mkdir()
        os.mkfifo(folder / "history.json")
    else:
        (attempt.folder / "LATEST" / "inside").mkdir(parents=True)
    attempt.write(Snapshot.of(epoch(1), history(0.1)))
    assert newest_checkpoint(tmp_path).state["epoch"] == 1


def test_a_checkpoint_that_is_being_written_is_no_damage_to_whoever_looks(copied):
    (copied / "a1" / "epoch-0006").mkdir()
    (copied / "a1" / "epoch-0006" / "history.json").write_text('{"sha256": "12')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_history(copied) == history(*VALUES)
        first = Attempt.claim(copied.with_name("first"))
        (first.folder / "epoch-0001").mkdir()
        assert read_history(first.trial) == []
    is_cut_short(copied / "a1" / "epoch-0005" / "history.json")
    with pytest.warns(
        UserWarning, match=r"epoch-0005/history.json is not JSON: the history before it is read"
    ):
        assert read_history(copied) == history(*VALUES[:4])


def test_dropping_weights_does_not_mind_what_they_are(copied):
    is_a_folder(copied / "a1" / "epoch-0005" / "state.pt")
    drop_weights(copied)
    assert not list(copied.rglob("state.pt"))
    assert read_history(copied) == history(*VALUES)


def test_asked_for_one_epoch_another_does_not_stand_in(copied):
    assert checkpoint_of(copied, 4).state["epoch"] == 4
    with pytest.raises(
        FileNotFoundError,
        match=r"expected a valid checkpoint of epoch 3 in .*, got none: .* 2, 4, 5",
    ):
        checkpoint_of(copied, 3)
    is_a_pipe(copied / "a1" / "epoch-0002" / "state.pt")
    with pytest.raises(
        FileNotFoundError, match=r"epoch 2 .* got .*a1/epoch-0002/state.pt is not a file: .* 4, 5"
    ):
        checkpoint_of(copied, 2)


# --- a training, from damage to the end ---


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training from beginning to end; its newest two epochs and its best (the third) are kept."""
    folder = tmp_path_factory.mktemp("whole") / "trial"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trial, "REPORT_SECONDS", 0.0)
        list(run(TRAINED, folder))
    assert best_epoch(read_history(folder)) == 3
    return folder


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """The same, killed after its third epoch: the newest is the best."""
    folder = tmp_path_factory.mktemp("cut") / "trial"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trial, "REPORT_SECONDS", 0.0)
        begun = run(TRAINED, folder)
        for _ in range(3):
            next(begun)
        begun.close()
    return folder


def values(folder):
    return [entry[VALUE] for entry in read_history(folder)]


LEFT = {
    "epoch-0003/state.pt": [1, 2],
    "epoch-0003/history.json": [1, 2],
    "epoch-0002/state.pt": [1, 2, 3],
    "LATEST": [1, 2, 3],
    "all": None,
}


@pytest.mark.parametrize("damage", [is_missing, is_a_folder, is_no_text, has_a_flipped_bit])
@pytest.mark.parametrize("damaged", LEFT)
def test_a_damaged_training_ends_as_if_nothing_had_happened(cut, whole, tmp_path, damaged, damage):
    folder = shutil.copytree(cut, tmp_path / "trial")
    files = list(folder.rglob("state.pt")) if damaged == "all" else [folder / "a1" / damaged]
    for file in files:
        flipped_in_place(file, damage)
        if file.name == "LATEST" and damage is has_a_flipped_bit:
            file.write_text("epoch-0103")
    reports = list(with_warnings(run(TRAINED, folder)))
    assert [reports[-1].ended, reports[-1].reason] == ["COMPLETE", None]
    if LEFT[damaged] is not None:
        assert [entry["epoch"] for entry in reports[0].epochs] == LEFT[damaged]
    told = " ".join(reports[0].warnings)
    for file in files:
        if damaged != "epoch-0002/state.pt":  # older than what training goes on from: not looked at
            assert str(file if file.name == "LATEST" else file.parent) in told
    assert values(folder) == values(whole)
    states = [newest_checkpoint(each).best_state["judged"] for each in (folder, whole)]
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_a_training_whose_end_is_damaged_meanwhile_heals_it(whole, tmp_path):
    begun = with_warnings(run(TRAINED, tmp_path))
    for _ in range(4):
        next(begun)
    has_a_flipped_bit(tmp_path / "a1" / "epoch-0004" / "state.pt")
    (report,) = begun
    assert report.ended == "COMPLETE"
    assert "epoch-0004 is damaged: it is written again" in report.warnings[0]
    assert newest_checkpoint(tmp_path).number == 4
    assert values(tmp_path) == values(whole)


@pytest.mark.parametrize(
    ("damaged", "measured", "last"),
    [
        ([], 3, 4),
        ([3], 4, 4),
        ([4], 3, 3),
        ([3, 4], None, None),
    ],
)
def test_measuring_falls_back_and_says_which_epoch_it_measured(
    whole, tmp_path, damaged, measured, last
):
    folder = shutil.copytree(whole, tmp_path / "trial")
    for number in damaged:
        has_a_flipped_bit(folder / "a1" / f"epoch-{number:04d}" / "state.pt")
    (report,) = with_warnings(measure(TRAINED, folder))
    if measured is None:
        assert (report.ended, read_test(folder)) == ("FAIL", {})
        assert "no valid checkpoint" in report.reason
        return
    assert report.ended == "COMPLETE"
    assert report.test["test/epoch"] == read_test(folder)["test/epoch"] == measured
    words = f"epoch {measured} is measured, and epoch {last} as the last" if damaged else None
    if words is None:
        assert (report.reason, report.warnings) == (None, ())
    else:
        names = ", ".join(f"a1/epoch-{number:04d}" for number in damaged)
        assert report.reason == f"checkpoints are damaged or missing ({names}): {words}"
        assert all(
            any(f"epoch-{number:04d} is damaged" in text for text in report.warnings)
            for number in damaged
        )
    assert len(read_history(folder)) == 4


def test_a_network_to_promote_or_evaluate_falls_back_too(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluating, "MASKING_EXAMPLES", 20)
    folder = shutil.copytree(whole, tmp_path / "trial")
    best = network(TRAINED, folder).state_dict()
    is_empty(folder / "a1" / "epoch-0003" / "state.pt")
    with pytest.warns(UserWarning, match="those of epoch 4 stand in"):
        standing_in = network(TRAINED, folder).state_dict()
    assert any(not torch.equal(best[name], standing_in[name]) for name in best)
    *_, report = with_warnings(evaluate_trial(TRAINED, folder, "pgd"))
    assert report.ended == "COMPLETE"
    *_, report = evaluate_trial(TRAINED, folder, "pgd", epoch=3)
    assert report.ended == "FAIL"
    assert "expected a valid checkpoint of epoch 3" in report.reason
    assert "state.pt is empty" in report.reason


# --- what was measured ---


@pytest.mark.parametrize("damage", ANY_FILE)
def test_a_damaged_table_of_averages_is_named_and_measured_again(whole, tmp_path, damage):
    folder = tmp_path / "trial"
    folder.mkdir()
    file = folder / "test.json"
    write_json(file, {"test/robust_accuracy": 0.5, "test/epoch": 3, "norms/x": None})
    assert read_test(folder) == {"test/robust_accuracy": 0.5, "test/epoch": 3, "norms/x": None}
    damage(file)
    if damage is is_missing:
        assert read_test(folder) == {}
        return
    if damage is has_a_flipped_bit:
        file.write_text('{"test/robust_accuracy": "0.5"}')
    with pytest.warns(
        UserWarning, match=r"trial/test.json .*: it is left out, and the trial is measured again"
    ):
        assert read_test(folder) == {}
    write_json(file, {"test/epoch": 3})
    assert read_test(folder) == {"test/epoch": 3}


@pytest.mark.parametrize(
    "content", ["null", "3", "[]", "[1, 2]", '"text"', "NaN", '{"a": [1]}', '{"a": true}']
)
def test_json_that_is_no_table_of_numbers_is_no_measurement(tmp_path, content):
    (tmp_path / "test.json").write_text(content)
    with pytest.warns(UserWarning, match=r"test.json is not a table of numbers"):
        assert read_test(tmp_path) == {}


@pytest.mark.parametrize(
    "damage", [*ANY_FILE, holds(lambda told: {}), holds(lambda told: [3]), holds(lambda told: 5)]
)
def test_damaged_checks_are_none_and_are_named(tmp_path, damage):
    file, check = tmp_path / "masking.json", Check("name", True, "evidence", "advice")
    write_json(file, [check._asdict()])
    assert read_checks(tmp_path) == [check]
    damage(file)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = read_checks(tmp_path)
    if damage is has_a_flipped_bit:
        assert len(found) <= 1
    else:
        assert found == []
        assert len(said) == (damage is not is_missing)


@pytest.mark.parametrize("damage", [is_missing, is_cut_short, is_a_folder, is_a_pipe, is_no_text])
@pytest.mark.parametrize("name", ["ladder.json", "layers.parquet", "test.parquet"])
def test_figures_are_drawn_of_what_is_not_damaged(tmp_path, name, damage):
    pq.write_table(
        pa.table({"natural_accuracy": [1.0, 0.0], "robust_accuracy": [0.0, 0.0]}),
        tmp_path / "test.parquet",
    )
    pq.write_table(
        pa.table({"measure": ["norms/l1"], "layer": ["a"], "mean": [1.0]}),
        tmp_path / "layers.parquet",
    )
    write_json(tmp_path / "ladder.json", {"standings": []})
    damage(tmp_path / name)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        draw(tmp_path)
    ours = [str(each.message) for each in said if name in str(each.message)]
    assert len(ours) == (damage is not is_missing)


@pytest.mark.parametrize(
    "damage", [damage for damage in ANY_FILE if damage is not has_a_flipped_bit]
)
def test_a_damaged_piece_of_a_ladder_is_done_again(tmp_path, damage):
    file, facts, rows = tmp_path / "pgd-0.parquet", {"first": 0}, torch.arange(3).numpy()
    result = ChunkResult(rows, rows < 2, 1.0, 3, "cpu")
    write_chunk(file, result, facts)
    damage(file)
    with warnings.catch_warnings(record=True):
        assert read_chunk(file, rows, facts) is None
    write_chunk(file, result, facts)
    assert read_chunk(file, rows, facts).seconds == 1.0


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "a.json"
    write_json(file, 1)
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(file, object())
    with contextlib.suppress(KeyError), replacing(file) as unfinished:
        unfinished.write_text("half")
        raise KeyError
    assert (file.read_text(), os.listdir(tmp_path)) == ("1", ["a.json"])
