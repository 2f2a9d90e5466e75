"""As many trials share a GPU as its memory holds: by hand, on a GPU that is not there, and with a
real Ray."""

import dataclasses
from collections import Counter

import packed_spaces
import pytest
import ray
import torch
from packed_spaces import NOTES, batched, heavy, too_heavy
from rich.console import Console
from small_spaces import pair, recipe
from tight_models import TightNet
from torch import nn

import robsearch
from robsearch import TRADES, InputError, Resources, RunOptions, WeightPerturbation, cli
from robsearch.cluster.worker import free_share, limit_memory, tensor_share
from robsearch.search.capacity import (
    MOST,
    SPARE,
    MemoryNeed,
    capacity,
    distinct_recipes,
    need_line,
)
from robsearch.training.memory import CONTEXT_GIB, GIB, footprint
from robsearch.trials.memory_probe import ALL_DUE, probe_memory
from robsearch.trials.variables import PASSED


def need(peak, context=1.0, total=16.0, micro_batch=128):
    return MemoryNeed(peak / 2, peak, context, total, micro_batch, 128)


# --- arithmetic ---


@pytest.mark.parametrize(
    ("peak", "context", "total", "trials"),
    [
        (2, 1, 16, 5),  # 2.2 + 1 = 3.2, five of which are 16
        (2, 1, 15.9, 4),
        (6, 1, 16, 2),  # 7.6
        (12, 1, 16, 1),  # 14.2
        (15.5, 0.5, 16, 1),  # fits with nothing to spare: then it has no neighbour
        (0.01, 0.75, 139.8, 64),  # 0.761: memory for 183
    ],
)
def test_as_many_share_a_gpu_as_have_room_for_their_context_and_a_tenth_more_than_their_peak(
    peak, context, total, trials
):
    assert SPARE == 1.1
    assert need(peak, context, total).per_gpu == trials <= MOST


@pytest.mark.parametrize("total", [8.0, 24.0, 79.2, 139.8])
@pytest.mark.parametrize("peak", [0.02, 0.3, 1.0, 3.7, 11.0])
def test_the_limit_of_a_share_leaves_what_was_measured_room(peak, total):
    measured = need(peak, CONTEXT_GIB, total)
    if measured.per_gpu > 1:
        assert tensor_share(1 / measured.per_gpu, total) * total >= 1.1 * peak - 1e-9
        assert measured.per_gpu * measured.gib <= total


@pytest.mark.parametrize("trials", range(1, MOST + 1))
def test_exactly_so_many_shares_fit_on_a_gpu(trials):
    from robsearch.cluster.nodes import jobs_on

    assert jobs_on({"CPU": 1000.0, "GPU": 2.0}, Resources(1, 1 / trials)) == 2 * trials


def test_the_line_of_a_width_says_what_was_measured_and_what_bounds_the_number():
    assert need_line(4, need(2), 1, 10, 10) == (
        "width 4: 2.0 GiB (training 1.0) and 1.0 beside it of 16.0 GiB: 5 trials share a GPU"
    )
    said = need_line(8, need(15.5, micro_batch=32), 2, 1, 2)
    assert said.endswith(
        "of 16.0 GiB, with 32 of 128 images at a time: a GPU for each trial; "
        "CPUs are the limit: 1 at once, not 2, with 2 CPUs each"
    )


def test_recipes_that_differ_in_lambda_and_seed_only_are_probed_once():
    assert {width: len(several) for width, several in distinct_recipes(pair).items()} == {
        4: 1,
        8: 1,
    }
    assert len(distinct_recipes(batched)[4]) == 3


# --- the option ---


def test_a_word_other_than_auto_is_refused_and_so_is_auto_where_nothing_is_measured(
    capsys, monkeypatch
):
    with pytest.raises(InputError, match="a number or auto, got 'Auto'"):
        RunOptions(gpus_per_trial="Auto")
    with pytest.raises(InputError, match="as a number here, got auto"):
        capacity(RunOptions(gpus_per_trial="auto"), pair)
    monkeypatch.setattr(
        "sys.argv", ["robsearch", "launch", "small_spaces:pair", "--gpus-per-trial", "many"]
    )
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert "expected --gpus-per-trial as a number or auto, got 'many'" in capsys.readouterr().err
    assert not ray.is_initialized()


def test_a_number_that_is_too_small_is_refused_as_before(capsys, monkeypatch):
    monkeypatch.setattr(
        "sys.argv", ["robsearch", "launch", "small_spaces:pair", "--gpus-per-trial", "-0.5"]
    )
    with pytest.raises(SystemExit):
        cli.main()
    assert "expected --gpus-per-trial of at least 0, got -0.5" in capsys.readouterr().err


# --- what a process reads and sets ---


def test_a_job_is_kept_within_its_share_without_the_context_and_a_whole_gpu_is_its_own(monkeypatch):
    set_to = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (0, 16 * GIB))
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, device: set_to.append(share)
    )
    for gpus in (0.25, 1, 2, 0, 0.05):
        limit_memory(Resources(1, gpus))
    # 4 GiB less 0.75; whole; whole; nothing on a CPU; 0.8 GiB, of which the context leaves next to
    # nothing
    assert set_to == [pytest.approx(3.25 / 16), 1, 1, pytest.approx(0.4 / 16)]


def test_what_is_in_use_beside_the_tensors_counts_as_the_context_but_never_less_than_the_least(
    monkeypatch,
):
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 5 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 3 * GIB)
    for in_use, context in ((4.5, 1.5), (3.25, CONTEXT_GIB)):
        monkeypatch.setattr(
            torch.cuda, "mem_get_info", lambda n=in_use: (int((16 - n) * GIB), 16 * GIB)
        )
        assert footprint() == (5, context, 16)


def test_a_gpu_that_torch_does_not_see_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(RuntimeError, match="a GPU that torch can use where Ray has one, got none"):
        free_share()


# --- the memory probe ---

SEEN = Counter()


@dataclasses.dataclass(frozen=True)
class Counted(TRADES):
    def terms(self, clean_logits, adv_logits, y):
        SEEN["terms"] += 1
        return super().terms(clean_logits, adv_logits, y)


@dataclasses.dataclass(frozen=True)
class Tight:
    """An MLP that fits ``limit`` images, from its 3rd pass in training on ``later``.

    Each image in training takes a GiB, even if it does not fit.
    """

    limit: float = 1000
    later: float | None = None
    width: float = 8

    def build(self, images):
        body = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        net = TightNet(body, self.limit, late=1, says="")
        net.register_forward_pre_hook(self.held)
        return net

    def held(self, net, inputs):
        if net.training:
            SEEN["peak"] = max(SEEN["peak"], len(inputs[0]))
            SEEN["passes"] += 1
            if self.later and SEEN["passes"] > 2:
                net.limit = self.later


@pytest.fixture
def gpu(monkeypatch):
    """Of 100 GiB, whose peak is the largest forward in training since it was last forgotten."""
    SEEN.clear()
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (98 * GIB, 100 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device=None: 0)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device=None: SEEN["peak"] * GIB)
    monkeypatch.setattr(
        torch.cuda, "reset_peak_memory_stats", lambda device: SEEN.update(peak=-SEEN["peak"])
    )


def test_a_probe_reports_the_peak_of_a_full_batch_and_writes_nothing(gpu, tmp_path):
    (report,) = probe_memory(recipe(8, model=Tight(), batch_size=50), tmp_path)
    assert report.ended == "COMPLETE"
    assert report.test == {
        "training": 50,
        "peak": 50,
        "context": 2,
        "total": 100,
        "micro_batch": 50,
    }
    assert list(tmp_path.iterdir()) == []


def test_a_step_that_does_not_fit_is_halved_and_the_attempt_does_not_count(gpu, tmp_path):
    with pytest.warns(UserWarning, match="12 of 50 images at a time"):
        (report,) = probe_memory(recipe(8, model=Tight(limit=13), batch_size=50), tmp_path)
    assert report.test == {
        "training": 10,
        "peak": 10,
        "context": 2,
        "total": 100,
        "micro_batch": 12,
    }


@pytest.mark.slow
def test_a_step_that_does_not_fit_once_the_optimisers_state_is_there_is_halved_as_well(
    gpu, tmp_path
):
    """The first step passes clean and adversarial images once each; the second is halved, the third
    is measured."""
    with pytest.warns(UserWarning, match="25 of 50 images at a time"):
        (report,) = probe_memory(recipe(8, model=Tight(later=25), batch_size=50), tmp_path)
    assert report.test == {
        "training": 25,
        "peak": 25,
        "context": 2,
        "total": 100,
        "micro_batch": 25,
    }


@pytest.mark.slow
def test_no_room_for_one_image_is_said_as_a_trial_would(gpu, tmp_path):
    (report,) = probe_memory(recipe(8, model=Tight(limit=0)), tmp_path)
    assert report.ended == "FAIL"
    assert "with one image at a time" in report.reason


@pytest.mark.slow
def test_a_perturbation_after_its_warmup_and_what_is_due_every_so_many_steps_are_part_of_it(
    gpu, tmp_path
):
    late = recipe(
        8, objective=Counted(), weight_perturbation=WeightPerturbation(gamma=0.01, warmup=0.9)
    )
    counts = []
    for each in (dataclasses.replace(late, weight_perturbation=None), late):
        SEEN.clear()
        list(probe_memory(each, tmp_path))
        counts.append(SEEN["terms"])
    assert counts == [2, 4]  # two steps; the second finds the optimiser's state there
    assert all((ALL_DUE + 1) % every == 0 for every in (*range(1, 21), 100))


# --- a search on two GPUs of 16 GiB that are not there ---


@pytest.fixture(scope="module")
def notes(tmp_path_factory):
    """A Ray with 2 GPUs and room for 4 processes, whose workers find the GPUs answered for."""
    folder = tmp_path_factory.mktemp("notes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PASSED, NOTES)
        patch.setenv(NOTES, str(folder))
        patch.setenv("PYTHONPATH", packed_spaces.__file__.rpartition("/")[0])
        ray.init(num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False)
        yield folder
        ray.shutdown()


def most_at_once(spans):
    return max(sum(start <= moment <= end for start, end in spans) for moment, _ in spans)


@pytest.mark.slow
def test_each_width_gets_its_share_and_as_many_trials_run_at_once(notes, uri, tmp_path):
    console = Console(record=True, width=200, force_terminal=False)
    search = robsearch.launch(
        heavy,
        trials=8,
        options=RunOptions(results=tmp_path, gpus_per_trial="auto"),
        console=console,
    )
    said = console.export_text()
    beside = "1.0 beside it of 16.0 GiB"
    assert f"width 4: 6.0 GiB (training 6.0) and {beside}: 2 trials share a GPU\n" in said
    assert f"width 8: 12.0 GiB (training 12.0) and {beside}: a GPU for each trial\n" in said
    assert set(search.trials["state"]) <= {"COMPLETE", "PRUNED"}
    work = [list(map(float, line.split())) for line in (notes / "work").read_text().splitlines()]
    shares, at_once = {}, {}
    for width, trials in search.trials.groupby("width"):
        of_width = [entry for entry in work if entry[0] == 1.5 * width]
        moments = [
            [at for _, own, _, at in of_width if own == pytest.approx(lam)] for lam in trials["lam"]
        ]
        shares[width] = {
            share
            for _, lam, share, _ in of_width
            if any(lam == pytest.approx(x) for x in trials["lam"])
        }
        at_once[width] = most_at_once([(min(of_trial), max(of_trial)) for of_trial in moments])
    assert shares == {4: {0.5}, 8: {1.0}}
    assert at_once[4] == 4  # each waited for the other three
    assert at_once[8] <= 2
    limits = {float(limit) for limit in (notes / "limits").read_text().splitlines()}
    assert limits == {1.0, 0.5 - 0.75 / 16}


@pytest.mark.slow
def test_a_width_that_does_not_fit_on_a_whole_gpu_is_refused_before_any_trial(notes, uri, tmp_path):
    with pytest.raises(InputError) as refused:
        robsearch.launch(
            too_heavy,
            name="none",
            trials=2,
            options=RunOptions(results=tmp_path, gpus_per_trial="auto"),
        )
    (problem,) = refused.value.problems
    assert problem.startswith("at width 16: expected memory for MLP(width=16")
    assert "larger GPU" in problem
    assert robsearch.load_search("none", tmp_path).trials.empty
