"""A set that does not fit is trained and judged on as one that does, from a thread that ends."""

import dataclasses
import threading

import pytest
import torch
from rank_processes import on_ranks
from small_spaces import recipe

from robsearch import PGD, CropFlip, FeatureChange, train
from robsearch.data import load
from robsearch.metrics import VALUE
from robsearch.parts.averaging import EMA
from robsearch.protocols import Split
from robsearch.training import streaming
from robsearch.training.evaluation import all_rates, in_chunks, sampled, to_device, to_float
from robsearch.training.learner import Learner
from robsearch.training.streaming import AHEAD, StreamedImages, streamed
from robsearch.training.trainer import NonFiniteLossError, batches, train_epoch
from robsearch.trials.ladder.digests import split_digest
from robsearch.trials.measurement import Measurement

CPU = torch.device("cpu")


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("images")]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert threads() == []


@pytest.fixture
def nothing_fits(monkeypatch):
    """Every set is larger than what the device has room for."""
    stream_everything(monkeypatch)


def stream_everything(patch):
    patch.setattr(streaming, "SMALL", 0)
    patch.setattr(streaming, "RESIDENT_SHARE", 0.0)


def augmented():
    return dataclasses.replace(
        recipe(8), augment=CropFlip(1), averaging=EMA(0.9), epochs=3, batch_size=15
    )


def outcome(epochs):
    """What training left, without what it took."""
    return [
        (
            epoch.number,
            {k: v for k, v in epoch.metrics.items() if not k.startswith(("time/", "memory/"))},
            {name: value.clone() for name, value in epoch.state["judged"].items()},
        )
        for epoch in epochs
    ]


def assert_same(ours, theirs):
    assert [epoch[:2] for epoch in ours] == [epoch[:2] for epoch in theirs]
    for (*_, mine), (*_, yours) in zip(ours, theirs, strict=True):
        assert all(torch.equal(mine[name], yours[name]) for name in yours)


def test_a_set_is_streamed_where_it_is_more_than_a_share_of_what_is_free(tmp_path, monkeypatch):
    monkeypatch.setattr("robsearch.training.memory.CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("400\n")
    (tmp_path / "memory.current").write_text("0\n")
    (tmp_path / "memory.stat").write_text("inactive_file 0\n")
    few = Split(torch.zeros(25, 1, 2, 2, dtype=torch.uint8), torch.arange(25))
    more = Split(torch.zeros(26, 1, 2, 2, dtype=torch.uint8), torch.arange(26))
    # A quarter of 400 bytes; and what is small is never too large.
    assert streamed(to_device(more, CPU)) is None
    monkeypatch.setattr(streaming, "SMALL", 0)
    assert streamed(to_device(few, CPU)) is None
    assert streamed(to_device(more, CPU)) is not None


def test_training_and_judging_are_the_same_bit_for_bit_streamed_and_resumed(monkeypatch):
    whole = outcome(train(augmented()))
    stream_everything(monkeypatch)
    seen = []
    for epoch in train(augmented()):
        seen += outcome([epoch])
        if epoch.number == 1:
            state = {**epoch.state}
            break
    seen += outcome(train(augmented(), state=state))
    assert len(whole) == 3
    assert_same(seen, whole)
    assert VALUE in seen[0][1]


def train_on(ranks, streams):
    with pytest.MonkeyPatch.context() as patch:
        if streams:
            stream_everything(patch)
        return outcome(train(augmented(), device=CPU, ranks=ranks))


def test_ranks_that_stream_train_as_ranks_that_do_not():
    resident = on_ranks(2, train_on, False)
    streaming_ranks = on_ranks(2, train_on, True)
    assert_same(streaming_ranks[0], resident[0])
    assert_same(streaming_ranks[1], resident[0])


def test_batches_are_gathered_ahead_but_never_more_than_are_allowed(nothing_fits):
    asked = []
    images = torch.arange(64, dtype=torch.uint8).view(-1, 1, 1, 1)

    def parts():
        for start in range(0, 64, 8):
            asked.append(start)
            yield slice(start, start + 8)

    stream = StreamedImages(images, CPU).ahead(parts())
    assert torch.equal(next(stream), images[:8])
    assert asked == [8 * i for i in range(AHEAD + 1)]
    assert torch.equal(next(stream), images[8:16])
    assert len(asked) == AHEAD + 2
    assert len(threads()) == 1
    assert torch.equal(torch.cat(list(stream)), images[16:])


def test_no_thread_is_left_by_who_stops_early_or_fails(nothing_fits):
    stream = batches(to_device(load(recipe(8).data)["train"], CPU), recipe(8))
    next(stream)
    assert len(threads()) == 1
    stream.close()
    assert threads() == []
    epochs = train(recipe(8))
    next(epochs)
    epochs.close()
    assert threads() == []
    # The error is held, and with it the frames of the training.
    learner = Learner.of(augmented(), CPU)
    next(learner.model.parameters()).data.fill_(float("nan"))
    learner.epoch = 1
    with pytest.raises(NonFiniteLossError) as error:
        train_epoch(learner, to_device(load(recipe(8).data)["train"], CPU))
    assert threads() == []
    assert "epoch 1, step 1" in str(error.value)


def test_what_the_thread_raises_is_raised_in_the_step():
    class Broken(StreamedImages):
        def _fill(self, chosen, buffer):
            raise OSError("the disk does not answer")

    images = torch.zeros(8, 1, 1, 1, dtype=torch.uint8)
    with pytest.raises(OSError, match="the disk does not answer"):
        next(Broken(images, CPU).ahead([torch.arange(4)]))
    with (
        pytest.raises(OSError, match="the disk does not answer"),
        Broken(images, CPU).in_order() as read,
    ):
        read(slice(0, 4))


def test_samples_chunks_tables_and_digests_are_those_of_the_set_on_the_device(monkeypatch):
    splits = load(recipe(8).data)
    torch.manual_seed(0)
    model = recipe(8).model.build(recipe(8).data.spec)
    attack = PGD(eps=0.1, steps=2)
    stream_everything(monkeypatch)
    far = {name: to_device(split, CPU) for name, split in splits.items()}
    assert streamed(far["test"]) is not None
    assert split_digest(far["test"]) == split_digest(splits["test"])
    ours = sampled(far["train"], 40)
    theirs = sampled(splits["train"], 40)
    assert torch.equal(ours.rows, theirs.rows)
    assert torch.equal(to_float(ours.split.images), to_float(theirs.split.images))
    # A sample of a sample, as a measure's few images are.
    assert torch.equal(
        sampled(ours.split, 7).split.images[:], sampled(theirs.split, 7).split.images
    )
    for rates, whole in zip(
        all_rates(model, far["test"], attack), all_rates(model, splits["test"], attack), strict=True
    ):
        assert torch.equal(rates, whole)
    tables = [
        Measurement(model, attack, (FeatureChange(attack),), 30).tables(some)
        for some in (far, splits)
    ]
    assert tables[0] == tables[1]


def test_chunks_that_are_halved_go_on_with_the_right_images(nothing_fits):
    images = torch.arange(20, dtype=torch.uint8).view(-1, 1, 1, 1)
    split = to_device(Split(images, torch.arange(20)), CPU)

    def tight(x, y):
        if len(x) > 3:
            raise RuntimeError("out of memory")
        return (x.flatten() * 255).round().long() - y

    with pytest.warns(UserWarning, match="out of memory"):
        assert torch.equal(torch.cat(in_chunks(split, tight, 7)), torch.zeros(20).long())
