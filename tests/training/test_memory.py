"""A device that is too small, done with a network that raises what torch raises when too many
images enter it."""

import copy
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from small_spaces import recipe
from tight_models import (
    AWP,
    CPU,
    EPS,
    NOTHING,
    SEARCHED,
    Tight,
    assert_close,
    frozen,
    made,
)
from torch import nn

from robsearch import (
    PGD,
    Digits,
    WeightPerturbation,
    train,
)
from robsearch.metrics import VALUE
from robsearch.protocols import Split
from robsearch.training import memory
from robsearch.training.evaluation import in_chunks
from robsearch.training.learner import Learner, seed_epoch
from robsearch.training.memory import DeviceFullError, out_of_memory, peak
from robsearch.training.step import gradient_that_fits, linear
from robsearch.training.trainer import epoch_costs, train_epoch
from robsearch.trials.trial import run


@pytest.mark.parametrize(
    ("kind", "limit", "half"), [*((kind, 20, 17) for kind in SEARCHED), ("everything", 5, 3)]
)
def test_in_micro_batches_training_is_what_it_is_in_one_piece(kind, limit, half):
    """100 images in batches of 34, 33, 33, in micro-batches of at most 17 or 3 images: 17, 17 or
    17, 16 and so on."""
    whole = frozen(made(Tight(), batch_size=41, **SEARCHED[kind]))
    tight = frozen(made(Tight(limit), batch_size=41, **SEARCHED[kind]))
    for (metrics, state), (tight_metrics, tight_state) in zip(whole, tight, strict=True):
        assert_close(state, tight_state, 1e-10)
        assert tight_metrics.pop("train/micro_batch") == tight_state["micro_batch"] == half
        assert "train/micro_batch" not in metrics
        for name in metrics:
            if not name.startswith(("time/", "memory/")):
                assert tight_metrics[name] == pytest.approx(metrics[name], rel=0, abs=1e-10), name


@pytest.mark.parametrize(
    ("awp", "late"), [(None, 0), (None, 1), (None, 2), (AWP, 0), (AWP, 1), (AWP, 3), (AWP, 4)]
)
def test_a_failed_attempt_leaves_no_trace_wherever_it_fails(awp, late):
    """Bit for bit, with random starts and BatchNorm: the step is that of a smaller micro-batch from
    the start.

    0 is the attack. The 1st and 2nd forward in train mode are those of the clean and the
    adversarial images, the 3rd and 4th those at the perturbed weights.
    """
    random = {
        "attack": PGD(eps=EPS, step_size=EPS, steps=1, start="uniform"),
        "weight_perturbation": awp,
    }
    states = []
    for limit, micro_batch in ((30, 50), (NOTHING, 25)):
        learner = Learner.of(made(Tight(limit, late, norm=True), **random), CPU)
        learner.epoch, learner.micro_batch = 1, micro_batch
        seed_epoch(0, 1)
        one_epoch(learner)
        states.append(copy.deepcopy((learner.state, torch.get_rng_state())))
    assert_close(*states, atol=0)
    assert states[0][0]["micro_batch"] == 25


@pytest.mark.parametrize("micro_batch", [50, 20])
def test_the_terms_under_a_vanishing_weight_perturbation_are_those_without(micro_batch):
    x, y = (
        torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(1)),
        torch.arange(50) % 10,
    )
    terms = []
    for awp in (None, WeightPerturbation(gamma=1e-12)):
        learner = Learner.of(made(Tight(), weight_perturbation=awp), CPU)
        learner.micro_batch = micro_batch
        terms.append(gradient_that_fits(learner, x, y, 2.0, 0.0))
    torch.testing.assert_close(*terms, rtol=0, atol=1e-9)


def test_the_linear_loss_has_the_gradient_of_the_sum():
    model = nn.Linear(3, 2).double()
    weights, parts = list(model.parameters()), [torch.eye(3).double(), torch.ones(1, 3).double()]
    losses = [lambda x=x: model(x).exp().sum() for x in parts]
    ours = torch.autograd.grad(linear((loss() for loss in losses), model), weights)
    theirs = torch.autograd.grad(losses[0]() + losses[1](), weights)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-14, atol=0)


def one_epoch(learner):
    draws = torch.Generator().manual_seed(3)
    images = Split(
        torch.randint(0, 256, (100, 1, 8, 8), generator=draws).byte(), torch.arange(100) % 10
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train_epoch(learner, images)


def test_halving_goes_on_until_it_fits_holds_for_good_and_is_said_once():
    learner = Learner.of(made(Tight(13, late=0)), CPU)
    learner.model.train()
    learner.epoch = 3
    x, y = torch.rand(50, 1, 8, 8), torch.arange(50) % 10
    with pytest.warns(
        UserWarning, match="in epoch 3: training goes on with 12 of 50 images at a time"
    ) as said:
        gradient_that_fits(learner, x, y, 1.0, 0.0)
    assert len(said) == 1
    assert learner.model.sizes[:4] == [
        50,
        25,
        10,
        10,
    ]  # 5 micro-batches of one size, not 12, 12, 12, 12, 2
    learner.model.sizes.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradient_that_fits(learner, x, y, 1.0, 0.0)
    assert set(learner.model.sizes) == {10}


def test_a_last_batch_that_does_not_fit_is_halved_from_its_own_size():
    learner = Learner.of(made(Tight(8)), CPU)
    with pytest.warns(UserWarning, match="with 5 of 50 images"):
        gradient_that_fits(learner, torch.rand(10, 1, 8, 8), torch.arange(10), 1.0, 0.0)


def test_resumed_in_micro_batches_equals_uninterrupted_and_does_not_run_out_again():
    tight = made(
        Tight(20, norm=True), epochs=4, attack=PGD(eps=EPS, step_size=EPS, steps=1, start="uniform")
    )
    whole = frozen(tight)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed = [(e.metrics, copy.deepcopy(e.state)) for e in train(tight, whole[1][1], CPU)]
    assert [metrics["train/micro_batch"] for metrics, _ in resumed] == [12, 12]
    for (_, ours), (_, theirs) in zip(resumed, whole[2:], strict=True):
        assert_close(ours, theirs, 0)
        assert ours["micro_batch"] == theirs["micro_batch"]


def test_a_checkpoint_from_before_micro_batches_still_loads():
    old = frozen(made(Tight()))[0][1]
    del old["micro_batch"]
    assert frozen(made(Tight()), old)[-1][1]["micro_batch"] == 50


def test_no_room_for_one_image_fails_the_trial_and_says_what_to_do(tmp_path):
    with pytest.raises(
        DeviceFullError, match=r"one image at a time \(batch_size=3\), got CUDA out of memory"
    ):
        frozen(made(Tight(0), batch_size=3))
    (report,) = run(made(Tight(0), batch_size=3), tmp_path)
    assert report.ended == "FAIL"
    for words in ("Tight(limit=0", "batch_size=3", "train a narrower model", "--gpus-per-trial"):
        assert words in report.reason


TEXTS = {
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported": True,
    "CUDA out of memory. Tried to allocate 2.00 GiB": True,
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`": True,
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED": True,
    "[enforce fail at alloc_cpu.cpp:119] . DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 8": True,
    "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)": False,
    "CUDA error: an illegal memory access was encountered": False,
}


@pytest.mark.parametrize(("text", "full"), TEXTS.items())
def test_what_libraries_say_when_memory_runs_out_is_known(text, full):
    assert out_of_memory(RuntimeError(text)) is full
    assert not out_of_memory(ValueError(text))
    assert out_of_memory(torch.OutOfMemoryError(text))


def test_the_cpu_allocator_says_what_is_expected():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(error.value)


def test_a_librarys_out_of_memory_halves_training_and_judging_and_another_error_does_neither():
    full, broken = "CUDA error: out of memory", "mat1 and mat2 shapes cannot be multiplied"
    assert frozen(made(Tight(20, says=full), epochs=1))[0][0]["train/micro_batch"] == 12
    with pytest.raises(RuntimeError, match="shapes cannot"):
        frozen(made(Tight(20, says=broken)))
    split = Split(torch.zeros(9, 1, 8, 8, dtype=torch.uint8), torch.zeros(9, dtype=torch.long))
    with pytest.warns(UserWarning, match="with 4 images"):
        assert sum(in_chunks(split, forwarded(Tight(4, late=0, says=full)))) == 9
    with pytest.raises(RuntimeError, match="shapes cannot"):
        in_chunks(split, forwarded(Tight(4, late=0, says=broken)))


def forwarded(model):
    net = model.build(None).eval()
    return lambda x, y: len(net(x))


def test_time_and_memory_of_each_epoch_are_recorded():
    for metrics, _ in frozen(made(Tight())):
        costs_of_it = {name for name in metrics if name.startswith(("time/", "memory/"))}
        assert costs_of_it == {
            "time/train_seconds",
            "time/epoch_seconds",
            "time/images_per_second",
            "memory/peak_rss_gib",
        }
        assert metrics["time/images_per_second"] * metrics["time/train_seconds"] == pytest.approx(
            100
        )
        assert VALUE in metrics


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere getrusage is all there is")
def test_the_peak_is_that_of_the_process_alone_not_of_the_one_that_started_it():
    """The process that starts the child holds 2 GiB, and the child far less."""
    child = (
        "import torch; from robsearch.training.memory import peak;"
        "print(peak(torch.device('cpu'))['memory/peak_rss_gib'])"
    )
    parent = (
        "import subprocess, sys; held = bytearray(2 * 2**30);"
        f"subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", parent], capture_output=True, text=True, check=True
    )
    assert 0.05 < float(answer.stdout) < 1


@pytest.mark.parametrize("status", [None, "Name:\tpython\nVmRSS:\t  9444 kB\n"])
def test_a_system_that_keeps_no_high_water_mark_has_a_peak_all_the_same(
    tmp_path, monkeypatch, status
):
    if status is not None:
        (tmp_path / "status").write_text(status)
    monkeypatch.setattr(memory, "PROCESS_STATUS", tmp_path / "status")
    assert peak(CPU)["memory/peak_rss_gib"] > 0.05


def test_the_peak_is_what_the_operating_system_says_and_never_falls():
    first = peak(CPU)["memory/peak_rss_gib"]
    kept = Path("/proc/self/status")
    if kept.exists():
        (high_water,) = (
            line.split()[1] for line in kept.read_text().splitlines() if line.startswith("VmHWM")
        )
        assert first == pytest.approx(int(high_water) / 2**20, rel=0.05)
    assert peak(CPU)["memory/peak_rss_gib"] >= first > 0.05


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_that_is_too_small_training_goes_on_and_memory_is_recorded():
    gpu = torch.device("cuda")
    found = epoch_costs(gpu, 100, 1.0, 2.0)
    assert found["time/gpu_seconds"] == 2.0
    torch.cuda.set_per_process_memory_fraction(
        2**31 / torch.cuda.get_device_properties(gpu).total_memory
    )
    try:
        with pytest.warns(UserWarning, match="out of memory"):
            (epoch,) = train(
                recipe(2**18, batch_size=1000, data=Digits(train=1000), epochs=1), None, gpu
            )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert epoch.metrics["train/micro_batch"] < 1000
    assert 0 < epoch.metrics["memory/peak_gib"] <= 2
