"""Judging: the same images, starts and seeds for every model, whatever fits into memory."""

import pytest
import torch
from small_spaces import recipe

from robsearch import FGSM, PGD, AutoAttack, FeatureChange, OperatorNorm, SampledMargin
from robsearch.network.draws import at_once
from robsearch.protocols import Split
from robsearch.training.evaluation import (
    ROOM,
    all_rates,
    images_at_once,
    in_chunks,
    judge,
    sampled,
    to_float,
)
from robsearch.training.memory import free_bytes
from robsearch.trials.measurement import Measurement


def split(n=20):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Split(images, torch.arange(n) % 10)


def network():
    torch.manual_seed(0)
    return recipe(8).model.build(recipe(8).data.spec)


def test_judging_twice_gives_the_same_and_leaves_the_random_state_alone():
    model, attack = network(), PGD(eps=0.1, steps=2)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    assert judge(model, split(), attack) == judge(model, split(), attack)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_shares_are_the_means_of_the_rates():
    model, attack = network(), PGD(eps=0.1, steps=2)
    found = all_rates(model, split(30), attack)
    shares = judge(model, split(30), attack)
    assert shares["natural_accuracy"] == pytest.approx(found.natural.mean().item())
    assert shares["wrong_to_right"] == pytest.approx(found.wrong_to_right.mean().item())
    assert (
        max(0, shares["natural_accuracy"] + shares["stability"] - 1)
        <= shares["robust_accuracy"] + 1e-9
    )
    assert found.x_adv.shape == (0, 1, 8, 8)


def test_chunks_are_in_order_and_seeded_alike():
    drawn = [
        torch.cat(in_chunks(split(7), lambda x, y: torch.stack([y, torch.rand(len(y))]).T, 3))
        for _ in "12"
    ]
    assert drawn[0][:, 0].tolist() == list(range(7))
    assert torch.equal(*drawn)


def test_what_does_not_fit_into_memory_is_halved_until_it_does_and_nothing_is_lost():
    def tight(x, y):
        sizes.append(len(y))
        if len(y) > 3:
            raise torch.OutOfMemoryError("the device is full")
        return y

    sizes: list[int] = []
    with pytest.warns(UserWarning, match="going on with 3 images at a time"):
        labels = torch.cat(in_chunks(split(13), tight, 12))
    assert torch.equal(labels, split(13).labels)
    assert sizes == [12, 6, 3, 3, 3, 3, 1]


def test_what_takes_a_chunk_as_a_whole_is_told_of_ever_fewer_images_at_once():
    def whole(x, y):
        told.append(at_once())
        if at_once() > 3:
            raise torch.OutOfMemoryError("the device is full")
        return y

    told: list[int] = []
    with pytest.warns(UserWarning, match="going on with 3 images at a time"):
        (labels,) = in_chunks(split(13), whole, 256, at_once=100)
    assert torch.equal(labels, split(13).labels)
    assert told == [100, 6, 3]


def test_a_single_image_that_does_not_fit_is_an_error():
    def hopeless(x, y):
        raise torch.OutOfMemoryError("the device is full")

    with pytest.warns(UserWarning, match="out of memory"), pytest.raises(torch.OutOfMemoryError):
        in_chunks(split(5), hopeless)


def test_a_sample_is_the_same_each_time_in_order_and_of_the_right_images():
    first, second = sampled(split(), 6), sampled(split(), 6)
    assert torch.equal(first.rows, second.rows)
    assert first.rows.tolist() == sorted(set(first.rows.tolist()))
    assert len(first.rows) == 6
    assert torch.equal(first.split.images, split().images[first.rows])
    assert torch.equal(first.split.labels, split().labels[first.rows])


@pytest.mark.parametrize("n", [None, 20, 1000])
def test_a_sample_of_all_is_the_split(n):
    assert sampled(split(), n).rows.tolist() == list(range(20))
    assert sampled(split(), n).split.images.shape == (20, 1, 8, 8)


def test_bytes_become_floats_from_0_to_1():
    assert to_float(
        torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    ).flatten().tolist() == pytest.approx([0.0, 0.2, 1.0])


class Wide(torch.nn.Module):
    """Keeps 64 KiB and more for each image of 8 x 8, and notes how many images it is given."""

    def __init__(self):
        super().__init__()
        self.wide, self.head, self.given = torch.nn.Conv2d(1, 256, 1), torch.nn.Linear(256, 10), []

    def forward(self, x):
        self.given.append(len(x))
        return self.head(self.wide(x).relu().mean(dim=(2, 3)))


def test_as_many_images_are_judged_at_once_as_memory_has_room_for(monkeypatch):
    torch.manual_seed(0)
    model, attack = Wide(), PGD(eps=0.1, steps=2)
    assert images_at_once(model, split(200)) == 1000
    whole = judge(model, split(200), attack)
    monkeypatch.setitem(ROOM, "cpu", 2**22)
    at_once = images_at_once(model, split(200))
    assert 10 < at_once < 64
    model.given.clear()
    assert judge(model, split(200), attack) == whole
    assert max(model.given) == at_once
    model.given.clear()
    measures = (SampledMargin(0.1, samples=4), FeatureChange(attack), OperatorNorm("linf"))
    Measurement(model, attack, measures, None).tables({"test": split(200), "train": split(200)})
    assert max(model.given) == at_once


def test_the_limit_of_a_container_counts(tmp_path, monkeypatch):
    monkeypatch.setattr("robsearch.training.memory.CGROUP", tmp_path)
    free = free_bytes(torch.device("cpu"))
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 200\n")
    assert free > 1000
    assert free_bytes(torch.device("cpu")) == 500
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(torch.device("cpu")) > 1000


def test_without_a_ball_robust_accuracy_is_natural_accuracy():
    for attack in (PGD(eps=0), PGD(eps=0, norm="l2", restarts=2), FGSM(eps=0), AutoAttack(eps=0)):
        found = judge(network(), split(), attack)
        assert found["robust_accuracy"] == found["natural_accuracy"]
        assert found["stability"] == 1
