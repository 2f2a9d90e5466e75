"""In bfloat16 the network's maps are computed, and nothing else; and only where the device has
it."""

import dataclasses

import pytest
import torch
from small_spaces import recipe
from torch import nn

from robsearch import EMA, MLP, AverageMargin, InputError, SmallCNN, WeightPerturbation, train
from robsearch.training import precision
from robsearch.training.learner import Learner
from robsearch.training.precision import BFloat16, last_layer
from robsearch.training.step import gradient

CPU = torch.device("cpu")


@pytest.fixture
def emulated(monkeypatch):
    monkeypatch.setenv(precision.EMULATE, "1")


def with_flags(monkeypatch, tmp_path, flags):
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor\t: 0\nflags\t\t: fpu sse2 {flags}\n")
    monkeypatch.setattr(precision, "CPU_INFO", info)


def types_of(learner):
    """What type each layer gives out during one step, in the order run."""
    types = {}

    def note(module, _, output, name):
        types.setdefault(name, set()).add(output.dtype)

    for name, module in learner.model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(lambda *args, name=name: note(*args, name))
    gradient(learner, torch.rand(6, 1, 8, 8), torch.arange(6), lam=1.0, progress=0.0)
    return types


def test_a_device_without_bfloat16_is_refused_before_anything_is_trained(monkeypatch, tmp_path):
    with_flags(monkeypatch, tmp_path, "avx2 avx512f")
    monkeypatch.delenv(precision.EMULATE, raising=False)
    with pytest.raises(InputError, match=r"bfloat16 in hardware.*a cpu without it.*'fp32'"):
        next(train(recipe(8, precision="bf16")))


@pytest.mark.parametrize("flags", ["avx512_bf16", "amx_bf16 amx_tile", "asimd bf16"])
def test_a_cpu_that_says_it_has_bfloat16_trains_in_it(monkeypatch, tmp_path, flags):
    with_flags(monkeypatch, tmp_path, flags)
    monkeypatch.delenv(precision.EMULATE, raising=False)
    assert next(train(recipe(8, precision="bf16"))).number == 1


def test_another_word_is_refused():
    with pytest.raises(InputError, match=r"Recipe.precision.*fp32.*bf16.*'fp16'"):
        recipe(8, precision="fp16")


def test_only_the_default_leaves_the_digest_as_it_was():
    plain = recipe(8)
    assert recipe(8, precision="fp32").digest == plain.digest
    assert recipe(8, precision="bf16").digest != plain.digest


@pytest.mark.parametrize("model", [MLP(width=8), SmallCNN(width=0.5)])
def test_all_maps_but_the_last_are_in_bfloat16_and_weights_and_gradients_are_not(model):
    learner = Learner.of(recipe(8, model=model, precision="bf16"), CPU)
    *hidden, last = types_of(learner).values()
    assert hidden == [{torch.bfloat16}] * len(hidden)
    assert last == {torch.float32}
    for weight in learner.model.parameters():
        assert weight.dtype == weight.grad.dtype == torch.float32
    logits = learner.network(torch.rand(2, 1, 8, 8))
    assert logits.dtype == torch.float32
    # The judge looks at the model itself.
    assert types_of(dataclasses.replace(learner, network=learner.model)).keys()
    assert learner.eval_model(torch.rand(2, 1, 8, 8)).dtype == torch.float32
    assert not any(isinstance(module, BFloat16) for module in learner.eval_model.modules())


def test_a_step_in_bfloat16_is_close_to_one_in_float32_and_not_equal():
    gradients = []
    for word in ("fp32", "bf16"):
        learner = Learner.of(recipe(32, precision=word), CPU)
        torch.manual_seed(0)
        gradient(learner, torch.rand(50, 1, 8, 8), torch.arange(50) % 10, lam=1.0, progress=0.0)
        weights = [weight.grad.flatten() for weight in learner.model.parameters()]
        gradients.append(torch.cat(weights))
    full, half = gradients
    assert not torch.equal(full, half)
    assert torch.linalg.vector_norm(half - full) < 0.05 * torch.linalg.vector_norm(full)


def test_averages_perturbed_weights_and_penalties_train_in_it_and_resume_bit_for_bit(emulated):
    made = recipe(
        8,
        precision="bf16",
        averaging=EMA(0.5),
        weight_perturbation=WeightPerturbation(),
        penalties=(AverageMargin(),),
    )
    whole = list(train(made))
    first = next(train(made))
    resumed = list(train(made, state=first.state))
    assert resumed[-1].metrics["train/natural_loss"] == whole[-1].metrics["train/natural_loss"]
    assert whole[-1].metrics["train/natural_loss"] < whole[0].metrics["train/natural_loss"]


class HeadFirst(nn.Module):
    """Its head is registered before its body, and is called by a keyword."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 10)
        self.body = nn.Linear(64, 8)
        self.faulty = False

    def forward(self, x):
        hidden = self.body(x.flatten(1))
        if self.faulty:
            hidden = hidden[:, 1:]
        return self.head(input=hidden)


def test_the_last_layer_is_the_one_that_runs_last_and_its_error_leaves_nothing_behind():
    model = HeadFirst()
    images = recipe(8).data.spec
    assert last_layer(model, images) == "head"
    network = BFloat16(model, images)
    assert network(torch.rand(2, 1, 8, 8)).dtype == torch.float32
    model.faulty = True
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        network(torch.rand(2, 1, 8, 8))
    assert not torch.is_autocast_enabled("cpu")
    assert not model.head._forward_pre_hooks


def test_a_net_without_linear_layers_is_in_bfloat16_as_a_whole():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(64, 10))

        def forward(self, x):
            return x.flatten(1) @ self.weight

    model = Mean()
    x = torch.rand(2, 1, 8, 8)
    logits = BFloat16(model, recipe(8).data.spec)(x)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, model(x))
    torch.testing.assert_close(logits, model(x), rtol=0, atol=0.2)
