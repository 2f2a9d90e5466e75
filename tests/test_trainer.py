import dataclasses

import pytest
import torch
from small_spaces import Faulty, recipe, standard

from robsearch import Epoch, train
from robsearch.evaluation import examples, judge
from robsearch.protocols import Split
from robsearch.trainer import NonFiniteLossError, loss_terms


def test_every_epoch_is_yielded_with_its_metrics():
    epochs = list(train(recipe(8)))
    assert [epoch.number for epoch in epochs] == [1, 2, 3, 4]
    assert {"train/natural_loss", "train/robust_loss", "train/lam", "val/robust_accuracy"} <= set(epochs[0].metrics)
    assert epochs[0].metrics["train/learning_rate"] == pytest.approx(0.1)
    assert epochs[-1].metrics["train/learning_rate"] == pytest.approx(0.01)
    for epoch in epochs:
        natural, stable = epoch.metrics["val/natural_accuracy"], epoch.metrics["val/stability"]
        assert max(0, natural + stable - 1) <= epoch.metrics["val/robust_accuracy"] <= min(natural, stable)


def test_training_resumed_after_an_epoch_equals_training_in_one_go_bit_for_bit():
    whole = [_frozen(epoch) for epoch in train(recipe(8))]
    resumed = [_frozen(epoch) for epoch in train(recipe(8), state=whole[1].state)]
    assert [epoch.number for epoch in resumed] == [3, 4]
    for ours, theirs in zip(resumed, whole[2:], strict=True):
        _assert_same(ours.state, theirs.state)
        timeless = [{k: v for k, v in e.metrics.items() if not k.startswith("time/")} for e in (ours, theirs)]
        assert timeless[0] == timeless[1]


def test_another_seed_trains_another_net():
    one, other = (list(train(dataclasses.replace(recipe(8), seed=seed)))[-1].state for seed in (0, 1))
    assert any(not torch.equal(one["model"][name], other["model"][name]) for name in one["model"])


def test_a_loss_that_becomes_nan_stops_at_once_and_says_where():
    with pytest.raises(NonFiniteLossError, match="epoch 1, step 2"):
        list(train(recipe(8, objective=Faulty(fault="nan", after=2, marker="first"))))


def test_a_step_runs_the_clean_images_once_in_eval_mode_and_once_in_train_mode():
    made = recipe(8)
    model = made.model.build(made.data.spec)
    modes = []
    model.register_forward_hook(lambda module, inputs, output: modes.append(module.training))
    x, y = torch.rand(5, 1, 8, 8), torch.arange(5)
    loss_terms(made, model.train(), x, y)
    assert modes.count(True) == 2  # clean and adversarial, for the loss
    assert modes.count(False) == 1 + made.attack.steps  # the reference f(x) once, then one forward per attack step


def test_an_objective_without_an_inner_loss_trains_without_attack():
    made = standard(8)
    model = made.model.build(made.data.spec)
    forwards = []
    model.register_forward_hook(lambda module, inputs, output: forwards.append(module.training))
    _, robust = loss_terms(made, model.train(), torch.rand(5, 1, 8, 8), torch.arange(5))
    assert robust == 0
    assert forwards.count(True) == 1


def test_judging_twice_gives_the_same_and_leaves_the_random_state_alone():
    made = recipe(8)
    model = made.model.build(made.data.spec)
    split = Split((torch.rand(20, 1, 8, 8) * 255).to(torch.uint8), torch.arange(20) % 10)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    assert judge(made, model, split) == judge(made, model, split)
    assert torch.equal(torch.random.get_rng_state(), before)


@dataclasses.dataclass(frozen=True)
class Mode:
    """A measure that says in which mode it found the model."""

    name: str = "mode"
    kind: str = "exact"

    def __call__(self, model, x, y):
        return torch.full((len(y),), float(model.training))


def test_measures_find_the_model_in_eval_mode_and_leave_its_own():
    made = dataclasses.replace(recipe(8), measures=(Mode(),))
    model = made.model.build(made.data.spec).train()
    split = Split((torch.rand(20, 1, 8, 8) * 255).to(torch.uint8), torch.arange(20) % 10)
    assert not examples(made, model, split)["mode"].to_numpy().any()
    assert model.training


def _frozen(epoch: Epoch) -> Epoch:
    import copy

    return Epoch(epoch.number, dict(epoch.metrics), copy.deepcopy(epoch.state))


def _assert_same(ours, theirs):
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            _assert_same(ours[key], theirs[key])
    elif isinstance(ours, list):
        for one, other in zip(ours, theirs, strict=True):
            _assert_same(one, other)
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
    else:
        assert ours == theirs
