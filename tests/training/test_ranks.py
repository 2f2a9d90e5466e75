"""Several processes that train one model: what they get is what one process gets, and all share one
fate."""

import copy
import dataclasses
import os
import warnings

import pytest
import torch
from rank_processes import on_ranks
from small_spaces import Faulty, recipe
from tight_models import AWP, SEARCHED, Tight, assert_close, frozen, made
from torch import nn

from robsearch import PGD, CropFlip, Digits, InputError, RobustOverfittingStopper, train
from robsearch.spaces.resources import Resources
from robsearch.training.learner import Learner
from robsearch.training.memory import DeviceFullError
from robsearch.training.ranks import ALONE, RankError, RankLostError, Ranks
from robsearch.training.trainer import NonFiniteLossError
from robsearch.trials.loading import newest_checkpoint, read_history
from robsearch.trials.trial import run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
CPU = torch.device("cpu")
STOPPER = RobustOverfittingStopper(patience=1, after=0.0)
ATTACK = PGD(eps=0.1, step_size=0.1, steps=1, start="none")


def exact(**changes):
    """Nothing random in it, in float64."""
    return made(changes.pop("model", Tight()), eval_attack=ATTACK, **changes)


# --- shares and sums ---


@pytest.mark.parametrize(
    ("rows", "size", "shares"), [(4, 2, [2, 2]), (5, 3, [2, 2, 1]), (2, 3, [1, 1, 0])]
)
def test_the_shares_of_a_batch_are_its_rows_in_order_once(rows, size, shares):
    batch = torch.arange(2 * rows).view(rows, 2)
    parts = [Ranks(rank, size).share(batch) for rank in range(size)]
    assert [len(part) for part in parts] == shares
    assert torch.equal(torch.cat(parts), batch)


def test_one_process_alone_is_given_back_what_it_has():
    batch = torch.rand(3, 2)
    assert Ranks.here() == ALONE
    assert ALONE.share(batch) is batch
    assert ALONE.sum([batch])[0] is batch
    assert ALONE.on_leader(lambda: 3) == 3
    with pytest.raises(ValueError, match="its own"), ALONE.fail_together():
        raise ValueError("its own")


def sums(ranks):
    own = float(ranks.rank + 1)
    given = [
        torch.full((2, 2), own),
        torch.tensor(own, dtype=torch.float64),
        torch.full((3,), 10 * own),
    ]
    before = copy.deepcopy(given)
    found = ranks.sum(given)
    assert all(torch.equal(one, other) for one, other in zip(given, before, strict=True))
    return [*found, ranks.on_leader(lambda: f"of rank {ranks.rank}")]


def test_sums_go_over_all_ranks_in_any_shape_and_type():
    for matrix, scalar, vector, said in on_ranks(3, sums):
        assert torch.equal(matrix, torch.full((2, 2), 6.0))
        assert torch.equal(scalar, torch.tensor(6.0, dtype=torch.float64))
        assert torch.equal(vector, torch.full((3,), 60.0))
        assert said == "of rank 0"


def draws(ranks):
    torch.manual_seed(1)
    before = torch.rand(2)
    with ranks.random_of_rank(7, CPU):
        own = torch.rand(2 + ranks.rank)[:2]
    return before, own, torch.rand(2)


def test_random_numbers_are_a_ranks_own_inside_and_everybodys_outside():
    (before, own, after), (other_before, other_own, other_after) = on_ranks(2, draws)
    assert torch.equal(before, other_before)
    assert torch.equal(after, other_after)
    assert not torch.equal(own, other_own)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(4), torch.cat([before, after]))  # as without the block


# --- one fate ---


def outcome(work):
    try:
        return work()
    except Exception as error:
        return type(error).__name__, str(error), "\n".join(getattr(error, "__notes__", []))


def fails_on_rank_1(ranks, where):
    def fail(here):
        if here == where and ranks.rank == 1:
            raise ValueError("a fault of mine")

    def work():
        with ranks.fail_together():
            fail("before")
            ranks.sum([torch.ones(1)])
            with ranks.fail_together():
                fail("inside")
                ranks.sum([torch.ones(1)])
                fail("late")
            fail("between")
            ranks.sum([torch.ones(1)])
            fail("end")
        return "came to the end"

    return outcome(work), ranks.sum([torch.ones(1)])[0].item()


@pytest.mark.parametrize("where", ["before", "inside", "late", "between", "end"])
def test_what_one_rank_raises_ends_the_block_on_all_and_they_stay_in_step(where):
    first, failed, last = on_ranks(3, fails_on_rank_1, where)
    assert failed[0][:2] == ("ValueError", "a fault of mine")
    for (kind, said, notes), _ in (first, last):
        assert (kind, said) == ("RankError", "rank 1: ValueError: a fault of mine")
        assert "in fail" in notes
    assert [total for _, total in (first, failed, last)] == [3, 3, 3]


def fail_differently(ranks):
    def work():
        with ranks.fail_together():
            raise (KeyError, OSError, RuntimeError)[ranks.rank]("oh")

    return outcome(work)[0]


def test_if_all_fail_all_act_on_the_error_of_the_first():
    assert on_ranks(3, fail_differently) == ["KeyError", "RankError", "RankError"]


def counts(ranks):
    def steps():
        with ranks.fail_together():
            for step in range(10):
                ranks.sum([torch.ones(1)])
                yield step

    counted = steps()
    seen = [next(counted), next(counted)]
    if ranks.leads:
        counted.close()
        return seen
    with pytest.raises(RankError, match="rank 0: GeneratorExit"):
        list(counted)
    return "left, too"


def test_a_rank_of_which_nobody_asks_more_leaves_the_others():
    assert on_ranks(2, counts) == [[0, 1], "left, too"]


# --- training ---


def trained(ranks, recipes, state=None):
    """Metrics and states of each epoch; ``recipes`` has one for each rank, or one for all."""
    warnings.simplefilter("ignore")
    own = recipes[ranks.rank] if isinstance(recipes, tuple) else recipes
    with ranks.fail_together():
        return [(dict(e.metrics), copy.deepcopy(e.state)) for e in train(own, state, CPU, ranks)]


def scientific(metrics):
    return {
        name: value for name, value in metrics.items() if not name.startswith(("time/", "memory/"))
    }


def assert_same_training(whole, shared, atol=1e-10):
    for (metrics, state), *ranks in zip(whole, *shared, strict=True):
        for own, own_state in ranks:
            assert scientific(own) == scientific(ranks[0][0])  # exactly, lambda among them
            assert_close(own_state, ranks[0][1], 0)
            assert_close(state, own_state, atol)
            assert scientific(metrics) == pytest.approx(scientific(own), rel=0, abs=atol)


@pytest.mark.parametrize(
    ("kind", "size", "images"),
    [
        *((kind, 2, 100) for kind in SEARCHED),
        ("everything", 3, 100),
        ("everything", 3, 10),
        ("penalties", 3, 10),
    ],
)
def test_ranks_train_as_one_process_does(kind, size, images):
    """100 images in batches of 34, 33, 33, or 10 in batches of 3, 3, 2, 2: one of three ranks has
    none of the last."""
    one = exact(batch_size=41 if images == 100 else 3, data=Digits(train=images), **SEARCHED[kind])
    assert_same_training(frozen(one), on_ranks(size, trained, one))


def test_order_and_augmentation_are_those_of_one_process():
    one = exact(augment=CropFlip(padding=1), batch_size=41)
    assert_same_training(frozen(one), on_ranks(2, trained, one))


def test_random_starts_are_each_ranks_own_and_all_ranks_still_agree():
    one = exact(
        model=Tight(norm=True),
        attack=PGD(eps=0.1, step_size=0.05, steps=2),
        stopper=STOPPER,
        epochs=6,
    )
    shared = on_ranks(2, trained, one)
    assert_same_training(shared[0], shared)


@dataclasses.dataclass(frozen=True)
class Recorded:
    """Noise as augmentation, whose results are kept."""

    def __call__(self, x):
        SEEN.append((x + 0.1 * torch.rand_like(x)).clamp(0, 1))
        return SEEN[-1]


SEEN = []


def seen(ranks, made):
    SEEN.clear()
    trained(ranks, made)
    return torch.cat(SEEN)


def test_all_ranks_see_the_same_augmented_images_however_much_their_attacks_draw():
    """33 images are shares of 17 and 16: random starts draw more numbers on rank 0."""
    one = exact(augment=Recorded(), batch_size=41, attack=PGD(eps=0.1, step_size=0.05, steps=1))
    first, other = on_ranks(2, seen, one)
    assert len(first) == 200
    assert torch.equal(first, other)


def test_training_goes_on_with_another_number_of_processes():
    one = exact(epochs=4, **SEARCHED["everything"])
    whole = frozen(one)
    (two, _) = on_ranks(2, trained, one)
    _, half = two[1]
    assert_same_training(whole[2:], on_ranks(3, trained, one, half))
    assert_same_training(whole[2:], [frozen(one, half)])


def test_bit_for_bit_resumed_on_as_many_processes_also_with_random_starts_and_batch_norm():
    one = exact(model=Tight(norm=True), epochs=4, attack=PGD(eps=0.1, step_size=0.05, steps=2))
    whole = on_ranks(2, trained, one)
    resumed = on_ranks(2, trained, one, whole[0][1][1])
    assert_same_training(whole[0][2:], resumed, atol=0)


@pytest.mark.parametrize("awp", [None, AWP])
@pytest.mark.parametrize("late", [0, 1, 2])
def test_what_does_not_fit_on_one_rank_is_done_in_micro_batches_on_all(awp, late):
    """Rank 1 has room for 8 images; 34 are 17 and 17, halved to 8, which are 6, 6, 5."""
    one = exact(batch_size=39, weight_perturbation=awp)
    tight = dataclasses.replace(one, model=Tight(8, late))
    shared = on_ranks(2, trained, (one, tight))
    assert [state["micro_batch"] for _, state in shared[0]] == [8, 8]
    for epochs in shared:
        for metrics, _ in epochs:
            assert metrics.pop("train/micro_batch") == 8
    assert_same_training(frozen(one), shared)


def full(ranks, recipes):
    return outcome(lambda: trained(ranks, recipes))[:2]


def test_where_not_even_one_image_fits_all_ranks_say_so():
    room, none = made(Tight()), made(Tight(0))
    (first, said), (other, _) = on_ranks(2, full, (room, none))
    assert (first, other) == (DeviceFullError.__name__, RankError.__name__)
    assert "rank 1: OutOfMemoryError" in said


def test_a_loss_that_is_nan_on_one_rank_is_known_to_all():
    sound, nan = recipe(8), recipe(8, objective=Faulty(fault="nan", after=2, marker="ranks"))
    (first, said), _ = on_ranks(2, full, (sound, nan))
    assert first == NonFiniteLossError.__name__
    assert "epoch 1, step 2" in said


def test_fewer_images_in_a_batch_than_ranks_are_refused():
    with pytest.raises(
        InputError, match="batch_size at least 3, a share for each process, got 2: train with fewer"
    ):
        next(train(recipe(8, batch_size=2), ranks=Ranks(0, 3)))


class Buffered(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(2), nn.Linear(1, 1)
        self.register_buffer("own", torch.tensor(value))
        self.images = nn.InstanceNorm1d(2, track_running_stats=True)
        nn.init.constant_(self.images.running_mean, value)
        self.norm.num_batches_tracked.fill_(int(value))
        nn.init.constant_(self.norm.running_mean, value)
        nn.init.constant_(self.norm.running_var, 10 * value)
        nn.init.constant_(self.linear.weight, value)


def united(ranks):
    learner = Learner.of(recipe(8), CPU, ranks)
    learner.model = Buffered(ranks.rank + 1.0)
    learner.sync()
    return learner.model.state_dict()


def test_statistics_of_batch_norm_become_their_mean_and_all_else_rank_0s():
    for state in on_ranks(2, united):
        assert state["norm.running_mean"].tolist() == [1.5, 1.5]
        assert state["norm.running_var"].tolist() == [15, 15]
        assert state["images.running_mean"].tolist() == [1.5, 1.5]
        assert state["norm.num_batches_tracked"].item() == 1
        assert (state["own"].item(), state["linear.weight"].item()) == (1, 1)


@dataclasses.dataclass(frozen=True)
class Idle:
    """An MLP with a layer that nothing goes through: its weights have no gradient, so no weight
    decay."""

    width: float = 8

    def build(self, images):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        model.register_module("idle", nn.Linear(2, 2))
        model.forward = lambda x: model[1](model[0](x))
        return model


def test_weights_without_a_gradient_stay_without_one_on_all_ranks():
    one = exact(model=Idle(), batch_size=33, epochs=1)
    whole, shared = frozen(one), on_ranks(3, trained, one)
    for ((_, state),) in shared:
        assert torch.equal(state["model"]["idle.weight"], whole[0][1]["model"]["idle.weight"])


# --- a trial ---


def reports(ranks, recipes, folder, enough=None):
    import robsearch.trials.trial

    robsearch.trials.trial.REPORT_SECONDS = 0.0
    own = recipes[ranks.rank] if isinstance(recipes, tuple) else recipes
    heard = []
    asked = run(own, folder, ranks)
    for report in asked:
        heard.append(report)
        if ranks.leads and len(heard) == enough:
            asked.close()
    return heard


def test_rank_0_alone_writes_and_reports_a_trial_and_all_go_on_from_what_it_wrote(tmp_path):
    one = exact(epochs=4, **SEARCHED["everything"])
    cut, _ = on_ranks(2, reports, one, tmp_path / "trial", 2)
    assert [entry["epoch"] for report in cut for entry in report.epochs] == [1, 2]
    assert (
        newest_checkpoint(tmp_path / "trial").state["epoch"] == 2
    )  # nothing was written after it was closed
    rest, other = on_ranks(2, reports, one, tmp_path / "trial")
    assert [[entry["epoch"] for entry in report.epochs] for report in rest] == [
        [1, 2],
        [3],
        [4],
        [],
    ]
    assert {report.attempt for report in rest} == {2}
    assert not [entry for report in other for entry in report.epochs]
    whole = [scientific(metrics) for metrics, _ in frozen(one)]
    for entry, metrics in zip(read_history(tmp_path / "trial"), whole, strict=True):
        assert {name: entry[name] for name in metrics} == pytest.approx(metrics, rel=0, abs=1e-10)


def test_an_error_of_another_rank_is_reported_by_rank_0_with_that_ranks_traceback(tmp_path):
    sound, faulty = recipe(8), recipe(8, objective=Faulty(fault="raises", after=3, marker="ranks"))
    heard, _ = on_ranks(2, reports, (sound, faulty), tmp_path)
    assert heard[-1].ended == "FAIL"
    assert "rank 1: RuntimeError: a fault of the objective" in heard[-1].reason
    assert "in terms" in (tmp_path / "a1" / "error.txt").read_text()


# --- what they take ---


def test_several_gpus_are_one_process_each_and_workers_are_for_cpus():
    assert [Resources(gpus=gpus).processes for gpus in (0, 0.5, 1, 2, 4)] == [1, 1, 1, 2, 4]
    assert Resources(workers=3).processes == Resources(workers=3, gpus=3).processes == 3
    for wrong in ({"workers": 0}, {"workers": 2, "gpus": 1}, {"workers": 2, "gpus": 0.5}):
        with pytest.raises(InputError, match="expected workers from 1, or one for each GPU"):
            Resources(**wrong)


# --- last, for it takes a process away ---


def dies(ranks):
    if ranks.rank == 1:
        os._exit(1)
    with pytest.raises(RankLostError, match="does not answer"), ranks.fail_together():
        ranks.sum([torch.ones(1)])
    return "heard of it"


def test_a_rank_that_died_is_lost_and_not_waited_for():
    assert on_ranks(2, dies) == ["heard of it", "died"]
