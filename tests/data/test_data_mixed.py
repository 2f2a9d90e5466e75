"""Extra images mixed into training: exactly a share of each batch, the same for a seed, and neither
in ``val`` nor in ``test``."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter

import numpy as np
import pytest
import torch
from rank_processes import on_ranks
from small_spaces import recipe

from robsearch import (
    MNIST,
    PGD,
    PGDAT,
    CropFlip,
    Digits,
    InputError,
    Mixed,
    NpzImages,
    Recipe,
    train,
)
from robsearch.data import arrow_file, check_source, content_digests, load, wrong_labels
from robsearch.data.store import split_problems
from robsearch.identity import content_hash
from robsearch.metrics import APART, NATURAL_LOSS, ROBUST_LOSS
from robsearch.protocols import Split
from robsearch.testing import check_dataset
from robsearch.training import streaming
from robsearch.training.evaluation import to_device
from robsearch.training.learner import seed_epoch
from robsearch.training.mixing import Extra, extra_counts, extra_of
from robsearch.training.ranks import ALONE
from robsearch.training.streaming import streamed
from robsearch.training.trainer import batches
from robsearch.trials.pricing import _fewer

CPU = torch.device("cpu")
REAL = Digits(train=100)


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """A file of 60 images as a generator would give them, with pseudo-labels."""
    return write(tmp_path_factory.mktemp("generated") / "60.npz")


def write(file, n=60, shape=(8, 8), classes=10, compress=False, **changes):
    random = np.random.RandomState(0)
    arrays = {
        "image": random.randint(256, size=(n, *shape)).astype(np.uint8),
        "label": np.arange(n) % classes,
    }
    (np.savez_compressed if compress else np.savez)(file, **{**arrays, **changes})
    return file


def mixed(generated, share=0.7, **changes):
    return Mixed(dataclasses.replace(REAL, **changes), extra=NpzImages(generated), share=share)


def numbered():
    """Images that say by their value which they are: real ones are 0 to 99, extra ones 200 to
    209."""
    images = torch.arange(100, dtype=torch.uint8).view(-1, 1, 1, 1)
    real = Split(images, torch.arange(100) % 10)
    more = torch.arange(200, 210, dtype=torch.uint8).view(-1, 1, 1, 1)
    return real, Split(more, torch.arange(10))


def epoch_of(seed, epoch, batch_size=20, share=0.7, wrong=None):
    real, extra = numbered()
    seed_epoch(seed, epoch)
    made = dataclasses.replace(recipe(8), batch_size=batch_size)
    return [
        ((batch.images.flatten() * 255).round().int().tolist(), batch.labels.tolist(), batch.wrong)
        for batch in batches(real, made, wrong, Extra(extra, share))
    ]


# --- the composition of an epoch ---


def test_a_batch_has_exactly_the_share_and_an_epoch_as_many_images_as_the_real_set():
    epoch = epoch_of(0, 1)
    assert [len(images) for images, *_ in epoch] == [20] * 5
    for images, labels, _ in epoch:
        kinds = [image >= 200 for image in images]
        assert sum(kinds) == 14
        # An image brings its label.
        assert labels == [image % 10 for image in images]
        # Neighbours, which ranks and micro-batches take, are not of one kind.
        assert kinds != sorted(kinds)
    real = [image for images, *_ in epoch for image in images if image < 200]
    assert len(set(real)) == len(real) == 30


def test_an_epoch_is_the_same_for_a_seed_and_another_one_for_another_seed_or_epoch():
    assert epoch_of(3, 2) == epoch_of(3, 2)
    assert epoch_of(3, 2) != epoch_of(3, 3) != epoch_of(4, 3)


def test_shares_that_are_no_whole_images_add_up_over_an_epoch():
    """0.3 of 7 images are 2.1: of ten batches nine have 2 and one has 3."""
    assert Counter(extra_counts([7] * 10, 0.3)) == {2: 9, 3: 1}
    assert extra_counts([3, 3, 3], 0.5) == [2, 1, 1]
    assert sum(extra_counts([128] * 294 + [127] * 58, 0.7)) == round(0.7 * 44_998)


def test_wrong_labels_of_real_images_keep_their_place_and_extra_ones_count_as_right():
    wrong = torch.arange(100) < 30
    for images, _, of_batch in epoch_of(0, 1, wrong=wrong):
        assert of_batch.tolist() == [image < 30 for image in images]


# --- the set ---


def test_val_test_and_normalisation_are_the_real_sets(generated):
    data = mixed(generated)
    splits, alone = load(data), load(REAL)
    for name in ("train", "val", "test"):
        assert torch.equal(splits[name].images, alone[name].images)
    with np.load(generated) as file:
        assert torch.equal(splits["extra"].images[:, 0], torch.from_numpy(file["image"]))
        assert torch.equal(splits["extra"].labels, torch.from_numpy(file["label"]))
    assert data.spec == REAL.spec
    assert data.extra.spec.mean != REAL.spec.mean
    digests = content_digests(data)
    assert digests["val"] == content_digests(REAL)["val"]
    assert digests["all"] != content_digests(REAL)["all"]
    check_dataset(data)


def test_any_data_set_gives_its_training_images(generated):
    data = Mixed(REAL, extra=Digits(train=50, draw=3))
    assert torch.equal(load(data)["extra"].images, load(Digits(train=50, draw=3))["train"].images)
    assert content_digests(data)["extra"] == content_digests(Digits(train=50, draw=3))["train"]


@pytest.mark.parametrize("compress", [False, True])
def test_a_file_is_read_piece_by_piece_and_channels_come_first(tmp_path, monkeypatch, compress):
    monkeypatch.setattr("robsearch.data.npz.PIECE", 7 * 3 * 4 * 5)
    file = write(tmp_path / "colours.npz", 20, (4, 5, 3), compress=compress)
    images, labels = NpzImages(file).parts()
    pieces = list(images)
    assert [len(piece) for piece in pieces] == [7, 7, 6]
    with np.load(file) as arrays:
        expected = arrays["image"].transpose(0, 3, 1, 2)
    assert np.array_equal(torch.cat(pieces).numpy(), expected)
    assert (labels.dtype, len(labels)) == (torch.int64, 20)


def test_the_identity_is_the_content_and_not_the_place(generated, tmp_path):
    copy = tmp_path / "copy.npz"
    copy.write_bytes(generated.read_bytes())
    ours, theirs = mixed(generated), mixed(copy)
    assert ours == theirs
    assert made(ours).digest == made(theirs).digest
    other = write(tmp_path / "other.npz", label=np.zeros(60, int))
    assert made(Mixed(REAL, extra=NpzImages(other, num_classes=10))).digest != made(ours).digest
    assert made(dataclasses.replace(ours, share=0.5)).digest != made(ours).digest
    # Another share builds no file.
    assert arrow_file(dataclasses.replace(ours, share=0.5).extra) == arrow_file(theirs.extra)


def test_the_published_digest_of_a_file_stays(tmp_path):
    """With the fingerprint of another day: the bytes of an .npz depend on who wrote it."""
    images = NpzImages(write(tmp_path / "two.npz", 2, (4, 4)))
    object.__setattr__(images, "fingerprint", "0123456789abcdef")
    assert content_hash(images) == "7607dd4e5328a375"


def test_a_file_that_was_changed_is_refused_when_it_is_read(tmp_path):
    images = NpzImages(write(tmp_path / "changing.npz", 23))
    write(tmp_path / "changing.npz", 61)
    with pytest.raises(InputError, match="got another content"):
        load(Mixed(REAL, extra=images))


def test_a_draw_by_seed_is_resolved_in_both_sets():
    noisy = Digits(train=100, label_noise=0.3, draw="seed")
    data = Mixed(noisy, extra=dataclasses.replace(noisy, train=50))
    resolved = made(data, seed=5).resolved_data
    assert resolved.real == dataclasses.replace(noisy, draw=5)
    assert resolved.extra.draw == 5
    splits = load(resolved)
    right = load(dataclasses.replace(resolved.real, label_noise=0))["train"].labels
    assert torch.equal(splits["train"].labels != right, wrong_labels(resolved.real, 100))
    assert made(Mixed(REAL, extra=REAL)).resolved_data == Mixed(REAL, extra=REAL)


def test_where_a_node_would_take_it_from(generated, tmp_path):
    assert check_source(mixed(generated)).startswith("Digits ")
    gone = NpzImages(write(tmp_path / "gone.npz", 13))
    assert check_source(Mixed(REAL, extra=gone)).endswith(f" and NpzImages in {gone.path}")
    (tmp_path / "gone.npz").unlink()
    with pytest.raises(InputError, match=re.escape(f"got no file {gone.path}")):
        check_source(Mixed(REAL, extra=gone))


# --- training ---


def made(data, **changes) -> Recipe:
    changes = {"augment": CropFlip(1), "epochs": 3, "batch_size": 15, **changes}
    return dataclasses.replace(recipe(8), data=data, **changes)


def outcome(epochs):
    """What training left, without what it took."""
    return [
        (
            {k: v for k, v in epoch.metrics.items() if not k.startswith(("time/", "memory/"))},
            {name: value.clone() for name, value in epoch.state["judged"].items()},
        )
        for epoch in epochs
    ]


def assert_same(ours, theirs):
    for (metrics, weights), (others, expected) in zip(ours, theirs, strict=True):
        assert metrics == others
        assert all(torch.equal(weights[name], expected[name]) for name in expected)


def stream_everything(patch):
    patch.setattr(streaming, "SMALL", 0)
    patch.setattr(streaming, "RESIDENT_SHARE", 0.0)


def test_a_training_is_the_same_bit_for_bit_resumed_and_streamed(generated, monkeypatch):
    whole = outcome(train(made(mixed(generated))))
    assert len(whole) == 3
    alone = outcome(train(made(REAL)))
    assert whole[0][0][NATURAL_LOSS] != alone[0][0][NATURAL_LOSS]
    stream_everything(monkeypatch)
    seen = []
    for epoch in train(made(mixed(generated))):
        seen += outcome([epoch])
        state = {**epoch.state}
        break
    assert_same(seen + outcome(train(made(mixed(generated)), state=state)), whole)
    extra = extra_of(mixed(generated), load(mixed(generated)), CPU)
    assert streamed(extra.split) is not None


def train_on(ranks, file):
    """Without random starts, which each rank draws for itself."""
    attack = PGD(eps=0.1, step_size=0.05, steps=1, start="none")
    alike = made(mixed(file), objective=PGDAT(), attack=attack, epochs=1)
    return outcome(train(alike, device=CPU, ranks=ranks))


def test_ranks_draw_the_same_batches(generated):
    """Two processes see the images of one; their sums are rounded otherwise."""
    alone = train_on(ALONE, generated)
    first, second = on_ranks(2, train_on, generated)
    assert_same(first, second)
    for name in (NATURAL_LOSS, ROBUST_LOSS):
        assert first[0][0][name] == pytest.approx(alone[0][0][name], rel=1e-5)


def test_both_kinds_of_labels_are_told_apart(generated):
    (*_, epoch) = train(made(mixed(generated, share=0.5, label_noise=0.3), epochs=2))
    assert APART.keys() <= epoch.metrics.keys()


def test_a_cost_is_measured_on_fewer_real_images(generated, monkeypatch):
    monkeypatch.setattr("robsearch.trials.pricing._affordable", lambda *_: 40)
    few = _fewer(made(mixed(generated)))
    assert (few.real.train, few.extra, few.share) == (40, NpzImages(generated), 0.7)


@pytest.mark.usefixtures("data_root")
def test_mnist_with_images_of_its_own_kind():
    data = Mixed(MNIST(train=100, val=100, test=50), extra=MNIST(train=300, val=100), share=0.5)
    splits = load(data)
    assert {name: len(split.labels) for name, split in splits.items()} == {
        "train": 100,
        "val": 100,
        "test": 50,
        "extra": 300,
    }
    assert split_problems(data.spec, splits) == []
    real = to_device(splits["train"], CPU)
    extra = extra_of(data, splits, CPU)
    assert sum(len(batch.labels) for batch in batches(real, made(data), extra=extra)) == 100


# --- what is refused ---


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan"), "0.7", True])
def test_a_share_lies_between_0_and_1(generated, share):
    with pytest.raises(InputError, match=r"expected Mixed.share in \(0, 1\)"):
        mixed(generated, share=share)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("contents", "refused"),
    [
        ({"shape": (9, 8)}, "expected extra images of (1, 8, 8), as the real ones"),
        ({"classes": 9}, "expected an extra set of 10 classes, as the real one"),
        ({"classes": 12}, "expected an extra set of 10 classes, as the real one"),
        ({"n": 0}, "got 0 images and 0 labels"),
        ({"label": np.arange(59)}, "got 60 images and 59 labels"),
        ({"label": np.arange(60) - 1}, "got -1 to 58"),
        ({"label": np.eye(60)}, "got float64 (60, 60) as 'label'"),
        ({"image": np.zeros((60, 8, 8))}, "got float64 (60, 8, 8) as 'image'"),
        ({"image": np.zeros((60, 64), np.uint8)}, "got uint8 (60, 64) as 'image'"),
        ({"label": np.array([None] * 60)}, "Object arrays cannot be loaded"),
    ],
)
def test_a_set_that_does_not_fit_is_refused_when_it_is_made(tmp_path, contents, refused):
    with pytest.raises(InputError, match=re.escape(refused)):
        Mixed(REAL, extra=NpzImages(write(tmp_path / "wrong.npz", **contents)))


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_such_file_is_refused(tmp_path):
    expected = "expected an .npz file with arrays 'image' (uint8, n x h x w x c) and 'label'"
    np.savez(tmp_path / "others.npz", images=np.zeros(3))
    (tmp_path / "text.npz").write_text("no archive")
    for name, got in (
        ("missing.npz", "No such file"),
        ("others.npz", "There is no item named 'image.npy'"),
        ("text.npz", "File is not a zip file"),
        ("", "a pipe, socket or device"),
    ):
        with pytest.raises(InputError, match=re.escape(expected)) as error:
            NpzImages(tmp_path / name)
        assert got in str(error.value)
    with pytest.raises(InputError, match=r"NpzImages.path as a path, got 3"):
        NpzImages(3)


def test_a_file_that_is_damaged_is_refused_and_leaves_nothing(tmp_path):
    file = write(tmp_path / "damaged.npz", 600)
    content = bytearray(file.read_bytes())
    content[20_000] ^= 1
    file.write_bytes(content)
    images = NpzImages(file)
    with pytest.raises(InputError, match="Bad CRC-32"):
        load(Mixed(REAL, extra=images))
    assert not arrow_file(images).exists()


@pytest.mark.usefixtures("unchecked")
def test_only_two_sets_are_mixed_and_a_file_alone_is_no_data_set(generated):
    with pytest.raises(InputError, match="Mixed of two sets"):
        Mixed(mixed(generated), extra=NpzImages(generated))
    with pytest.raises(InputError, match=r"expected Mixed\.real to be a Dataset"):
        Mixed(NpzImages(generated), extra=REAL)
    with pytest.raises(InputError, match=r"Mixed\.extra to be a data set or an NpzImages, got '1m"):
        Mixed(REAL, extra="1m.npz")
    with pytest.raises(InputError, match=r"expected Recipe\.data to be a Dataset"):
        made(NpzImages(generated))
