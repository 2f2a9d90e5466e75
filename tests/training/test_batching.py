"""How images are shared out: evenly, and no image alone under BatchNorm."""

import pytest
import torch
from small_spaces import recipe
from tight_models import Tight, made
from torch import nn

from robsearch import Digits, InputError, train
from robsearch.protocols import Split
from robsearch.training.batching import (
    at_once,
    batch_sizes,
    even,
    least_images,
    micro_batch_sizes,
    share_problems,
)
from robsearch.training.learner import Learner
from robsearch.training.memory import DeviceFullError
from robsearch.training.ranks import Ranks
from robsearch.training.step import gradient_that_fits
from robsearch.training.trainer import batches

CPU = torch.device("cpu")
NORM, PLAIN = nn.BatchNorm1d(2), nn.LayerNorm(2)


def test_an_epoch_has_each_image_once_in_even_batches_and_even_shares_and_no_image_alone():
    """2 to 300 images, batches of 1 to 64, 1 to 4 ranks."""
    shares = set()
    for images in range(2, 301):
        for batch in range(1, 65):
            sizes = batch_sizes(images, batch)
            assert sum(sizes) == images
            assert len(sizes) == -(-images // batch)
            assert max(sizes) <= min(batch, min(sizes) + 1)
            for ranks in range(1, 5):
                alone = min(sizes) // ranks < 2
                assert bool(share_problems(least_images(NORM), images, batch, ranks)) == alone
                assert bool(share_problems(least_images(PLAIN), images, batch, ranks)) == (
                    batch < ranks
                )
                shares |= {(size, ranks) for size in (max(sizes), min(sizes))}
    for size, ranks in shares:
        parts = even(size, ranks)
        assert parts == [len(Ranks(rank, ranks).share(torch.empty(size))) for rank in range(ranks)]
        assert sum(parts) == size


def test_micro_batches_are_even_and_above_the_limit_only_where_an_image_would_be_alone():
    for largest in range(1, 65):
        for share in {largest, largest - 1}:
            for most in range(1, 65):
                for least in (1, 2):
                    sizes = micro_batch_sizes(share, largest, most, least)
                    assert sum(sizes) == share
                    assert not sizes or max(sizes) <= min(sizes) + 1
                    assert min(sizes, default=2) >= min(least, max(share, 1))
                    assert max(sizes, default=0) <= (
                        most if most >= least or share < 2 else least
                    ) + (least - 1)
    assert micro_batch_sizes(5, 5, 2, 1) == [2, 2, 1]
    assert micro_batch_sizes(5, 5, 2, 2) == [3, 2]
    assert micro_batch_sizes(50, 50, 12, 2) == [10] * 5
    assert at_once(9, 2, 2, 2) == 3  # shares of 5 and 4


@pytest.mark.parametrize(("images", "batch"), [(10, 3), (101, 50), (100, 50), (7, 7), (5, 1)])
def test_the_batches_that_are_trained_on_are_those(images, batch):
    split = Split(torch.arange(images, dtype=torch.uint8).view(-1, 1, 1, 1), torch.arange(images))
    seen = [batch.labels.tolist() for batch in batches(split, recipe(8, batch_size=batch))]
    assert [len(rows) for rows in seen] == batch_sizes(images, batch)
    assert sorted(row for rows in seen for row in rows) == list(range(images))


def test_a_net_with_batch_norm_trains_where_the_last_batch_would_be_of_one_image():
    (epoch,) = train(
        made(Tight(norm=True), data=Digits(train=21), batch_size=20, epochs=1), device=CPU
    )
    assert (
        epoch.state["model"]["body.3.num_batches_tracked"] == 4
    )  # two batches, each clean and perturbed


@pytest.mark.parametrize(
    ("train_images", "batch", "ranks"), [(10, 1, 1), (11, 2, 1), (100, 3, 2), (100, 6, 4)]
)
def test_an_image_alone_under_batch_norm_is_refused_before_training(train_images, batch, ranks):
    small = made(Tight(norm=True), data=Digits(train=train_images), batch_size=batch)
    with pytest.raises(
        InputError,
        match=rf"batches of at least {2 * ranks} images.*got batches down to .*"
        r"process(es)?\): pass a larg",
    ):
        next(train(small, device=CPU, ranks=Ranks(0, ranks)))
    assert not share_problems(
        least_images(small.model.build(None).eval()), train_images, batch, 1
    )  # normalises by what it has seen


def test_after_running_out_of_memory_no_image_is_alone_under_batch_norm():
    x, y = torch.rand(5, 1, 8, 8), torch.arange(5)
    sizes = {}
    for norm, limit in ((False, 1), (True, 3)):
        learner = Learner.of(made(Tight(limit, norm=norm), batch_size=5), CPU)
        with pytest.warns(UserWarning, match="images at a time"):
            gradient_that_fits(learner, x, y, 1.0, 0.0)
        learner.model.sizes.clear()
        gradient_that_fits(learner, x, y, 1.0, 0.0)
        sizes[norm] = set(learner.model.sizes)
    assert sizes == {False: {1}, True: {2, 3}}
    learner = Learner.of(made(Tight(2, norm=True), batch_size=5), CPU)
    with pytest.raises(DeviceFullError, match=r"with 3 images at a time \(batch_size=5\)"):
        gradient_that_fits(learner, x, y, 1.0, 0.0)
