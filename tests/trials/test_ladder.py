"""The ladder against closed forms of linear models, against interruptions, and against tables made
by hand."""

import itertools
import json
import shutil
import warnings

import pyarrow as pa
import pytest
import torch
from made_ladders import made
from scipy.stats import binomtest
from torch import Tensor, nn

from robsearch.errors import InputError
from robsearch.metrics import wilson
from robsearch.parts.attacks import FGSM, PGD, TwoLosses
from robsearch.protocols import Split
from robsearch.training.evaluation import all_rates
from robsearch.trials.ladder.digests import network_digest
from robsearch.trials.ladder.files import described, read, read_chunk
from robsearch.trials.ladder.results import rank_reversals, read_ladder, rung_results, shared_rung
from robsearch.trials.ladder.running import RUNGS, run_ladder

SIZE = 6
PIXELS = SIZE * SIZE
LINF = PGD(eps=0.01, step_size=0.0025, steps=10)
L2 = PGD(eps=0.05, step_size=0.0125, steps=10, norm="l2")


def linear(classes: int = 4, seed: int = 0) -> nn.Sequential:
    """Undecided at the middle of the box."""
    torch.manual_seed(seed)
    layer = nn.Linear(PIXELS, classes)
    with torch.no_grad():
        layer.bias.copy_(-layer.weight.sum(1) / 2)
    return nn.Sequential(nn.Flatten(), layer)


def split(model: nn.Module, n: int = 24, wrong: int = 3) -> Split:
    """Images well inside the box, labelled by the model itself but for the first ``wrong``."""
    images = torch.randint(
        80, 176, (n, 1, SIZE, SIZE), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )
    with torch.no_grad():
        logits = model(images / 255)
    labels = logits.argmax(1)
    labels[:wrong] = (labels[:wrong] + 1) % logits.shape[1]
    return Split(images, labels)


def done(model, data, pgd, rung, folder, chunk=16) -> pa.Table:
    list(run_ladder(model, data, pgd, rung, folder, chunk=chunk))
    return read_ladder(folder)


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    """The folder of a linear model that went up to the top. To be copied, not changed."""
    folder = tmp_path_factory.mktemp("ensemble")
    done(linear(), split(linear()), LINF, "autoattack", folder, chunk=24)
    return folder


def holds(model: nn.Sequential, data: Split, pgd: PGD) -> list[bool]:
    """Robust in the ball: for every other class, the margin is above eps times the dual norm of its
    weights."""
    weight, bias = model[1].weight.detach().double(), model[1].bias.detach().double()
    x = data.images.flatten(1).double() / 255
    held = []
    for row, y in zip(x, data.labels, strict=True):
        others = [k for k in range(len(weight)) if k != y]
        slope = weight[y] - weight[others]
        dual = slope.abs().sum(1) if pgd.norm == "linf" else slope.norm(dim=1)
        held.append(bool(((slope @ row + bias[y] - bias[others]) > pgd.eps * dual).all()))
    return held


class Counting(nn.Module):
    """Keeps the sizes of the batches that it is shown; beyond ``most`` it runs out of memory."""

    def __init__(self, inner: nn.Module, most: int = 1000) -> None:
        super().__init__()
        self.inner, self.most, self.sizes = inner, most, list[int]()

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            raise torch.OutOfMemoryError(f"{len(x)} images")
        self.sizes.append(len(x))
        return self.inner(x)


# --- what the attacks find ---


def stood(table: pa.Table) -> list[bool]:
    return [broken is None for broken in table["broken_by"].to_pylist()]


@pytest.mark.parametrize("pgd", [LINF, L2], ids=lambda pgd: pgd.norm)
def test_of_a_linear_model_the_images_stand_that_the_dual_norm_says(pgd, tmp_path):
    model = linear()
    data = split(model)
    table = done(model, data, pgd, "apgd", tmp_path)
    assert table["index"].to_pylist() == list(range(24))
    assert table["label"].to_pylist() == data.labels.tolist()
    assert table["natural"].to_pylist() == [False] * 3 + [True] * 21
    expected = holds(model, data, pgd)
    assert 4 < sum(expected) < 18
    assert stood(table) == [True] * 3 + expected[3:]  # wrong to begin with: nothing broke them
    assert rung_results(table)[-1].robust_accuracy == pytest.approx(sum(expected) / 24)


def test_the_dearest_rung_runs_the_standard_ensemble_and_agrees(ensemble):
    table = read_ladder(ensemble)
    assert stood(table)[3:] == holds(linear(), split(linear()), LINF)[3:]
    found = rung_results(table)
    assert [standing.rung for standing in found] == ["natural", *RUNGS]
    assert found[-1].attacks == ("pgd", "two-losses", "apgd-ce", "apgd-t", "fab-t", "square")


def test_each_rung_attacks_what_the_one_below_left_so_accuracy_never_rises(tmp_path):
    model = linear(6)
    data = split(model, n=60)
    weak = PGD(eps=0.015, step_size=0.002, steps=2, start="none")
    progress = list(run_ladder(model, data, weak, "apgd", tmp_path, chunk=16))
    shares = [step.robust for step in progress]
    assert shares == sorted(shares, reverse=True)
    assert [(step.rung, step.attack) for step in progress[::4]] == [
        ("natural", "natural"),
        ("pgd", "pgd"),
        ("two-losses", "two-losses"),
        ("apgd-ce", "apgd-ce"),
        ("apgd", "apgd-t"),
    ]
    assert [(step.done, step.total) for step in progress[:4]] == [(1, 4), (2, 4), (3, 4), (4, 4)]

    found = rung_results(read_ladder(tmp_path))
    assert found[0].attacks == ()
    assert (found[0].attacked, found[0].broken) == (0, 0)
    assert found[0].robust_accuracy == pytest.approx(57 / 60)
    for below, above in itertools.pairwise(found):
        assert above.attacked == round(below.robust_accuracy * 60)
        assert above.attacked - above.broken == round(above.robust_accuracy * 60)
        assert above.low < above.robust_accuracy < above.high
    assert found[1].broken > 0
    assert found[2].broken > 0  # two short steps are not enough
    assert found[-1].robust_accuracy == shares[-1]


def test_the_dear_attacks_are_shown_survivors_only(tmp_path):
    """Here the first twelve: all others are broken by PGD, or wrong."""
    model, data = linear(2), split(linear(2), wrong=0)
    order = torch.tensor(sorted(range(24), key=lambda i: not holds(model, data, LINF)[i]))
    data = Split(data.images[order], data.labels[order])
    survivors = sum(holds(model, data, LINF))
    assert 0 < survivors < 24
    seen = Counting(model)
    steps = run_ladder(seen, data, LINF, "apgd-ce", tmp_path, chunk=24)
    next(steps), next(steps)
    seen.sizes.clear()
    list(steps)
    assert set(seen.sizes) <= {survivors}
    assert len(seen.sizes) > 100  # APGD's iterations


@pytest.mark.parametrize(
    ("classes", "attacks"),
    [
        (4, ("pgd", "two-losses", "apgd-ce", "apgd-t")),
        (3, ("pgd", "two-losses", "apgd-ce", "apgd-dlr")),
        (2, ("pgd", "two-losses", "apgd-ce")),
    ],
)
def test_a_standing_names_what_was_run_where_there_are_few_classes(classes, attacks, tmp_path):
    model = linear(classes)
    data = split(model)
    table = done(model, data, LINF, "apgd", tmp_path)
    last = rung_results(table)[-1]
    assert (last.rung, last.attacks) == ("apgd", attacks)
    if classes == 2:
        assert (last.attacked, last.broken, last.seconds) == (0, 0, 0)
        assert stood(table)[3:] == holds(model, data, LINF)[3:]


def test_with_two_classes_the_dearest_rung_is_still_run(tmp_path):
    model, strong = linear(2), PGD(eps=0.2, step_size=0.05, steps=10)
    table = done(model, split(model), strong, "autoattack", tmp_path)
    last = rung_results(table)[-1]
    assert last.attacks == ("pgd", "two-losses", "apgd-ce", "fab-t", "square")
    assert (last.robust_accuracy, last.attacked, last.broken) == (0, 0, 0)  # PGD left nothing to do
    assert last.low == 0 < last.high


def test_every_model_is_attacked_from_the_same_start_of_an_image(tmp_path):
    class Seen(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.images = inner, []

        def forward(self, x):
            self.images.append(x.detach().clone())
            return self.inner(x)

    start = PGD(eps=0.1, step_size=0.1, steps=0)
    data, seen = split(linear()), []
    for seed in (0, 1):  # the second is wrong on most images
        torch.manual_seed(seed)  # must not matter
        model = Seen(linear(seed=seed))
        list(run_ladder(model, data, start, "pgd", tmp_path / str(seed), chunk=16))
        seen.append(torch.cat(model.images[-2:]))
    assert torch.equal(seen[0], seen[1])
    assert len(seen[0]) == 24
    moves = seen[0] - data.images / 255
    assert 0 < moves.abs().max() <= 0.1 + 1e-6
    assert (moves[0] - moves[16]).abs().max() > 0.01  # each chunk has a seed of its own


def test_the_model_and_the_generator_are_left_as_they_were(tmp_path):
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5), *linear()).train()
    model[0].eval()
    data, flags = split(linear()), [part.training for part in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before = torch.get_rng_state()
    table = done(model, data, LINF, "apgd-ce", tmp_path / "training")
    assert [part.training for part in model.modules()] == flags
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(
        parameter.grad is None and parameter.requires_grad for parameter in model.parameters()
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert done(model.eval(), data, LINF, "apgd-ce", tmp_path / "evaluating").equals(table)


# --- interruptions ---


def test_a_rerun_shows_the_model_nothing_and_finds_the_same(tmp_path):
    counting = Counting(linear())
    data = split(linear())
    first = done(counting, data, LINF, "apgd", tmp_path)
    counting.sizes.clear()
    again = list(run_ladder(counting, data, LINF, "apgd", tmp_path, chunk=16))
    assert all(step.resumed for step in again)
    assert set(counting.sizes) == {
        2,
        4,
    }  # a look at two images, and at four for what memory they take
    assert len(counting.sizes) < 20
    assert read_ladder(tmp_path).equals(first, check_metadata=True)  # seconds too


def test_an_interrupted_climb_ends_as_an_uninterrupted_one(tmp_path):
    model = linear()
    data = split(model)
    whole = done(model, data, LINF, "apgd", tmp_path / "whole")
    stopped = run_ladder(model, data, LINF, "apgd", tmp_path / "part", chunk=16)
    for _ in range(3):
        next(stopped)
    stopped.close()
    with pytest.raises(InputError, match="got none: run the ladder to its end first"):
        read_ladder(tmp_path / "part")
    steps = list(run_ladder(model, data, LINF, "apgd", tmp_path / "part", chunk=16))
    assert [step.resumed for step in steps] == [True] * 3 + [False] * 7
    assert read_ladder(tmp_path / "part").equals(whole)


def test_damaged_and_foreign_files_are_done_again(tmp_path):
    model = linear()
    data = split(model)
    whole = done(model, data, LINF, "apgd-ce", tmp_path)
    for damage in (
        _truncate,
        _flip_a_byte,
        _empty,
        _another_attack,
        _another_chunk,
        _other_metadata,
    ):
        (folder,) = (path for path in (tmp_path / "ladder").iterdir())
        damage(folder)
        with pytest.warns(UserWarning, match="pgd-0000016.parquet is damaged or of another run"):
            steps = list(run_ladder(model, data, LINF, "apgd-ce", tmp_path, chunk=16))
        assert [step.resumed for step in steps] == [
            step.attack != "pgd" or step.done != 2 for step in steps
        ], damage
        assert read_ladder(tmp_path).equals(whole), damage
    assert not list(folder.glob("*.tmp"))


VICTIM = "pgd-0000016.parquet"


def _truncate(folder):
    whole = (folder / VICTIM).read_bytes()
    (folder / VICTIM).write_bytes(whole[: len(whole) // 2])


def _flip_a_byte(folder):
    whole = bytearray((folder / VICTIM).read_bytes())
    whole[40] ^= 0xFF
    (folder / VICTIM).write_bytes(whole)


def _empty(folder):
    (folder / VICTIM).write_bytes(b"")


def _another_attack(folder):
    shutil.copy(folder / "natural-0000016.parquet", folder / VICTIM)


def _another_chunk(folder):
    shutil.copy(folder / "pgd-0000000.parquet", folder / VICTIM)


def _other_metadata(folder):
    table = pa.parquet.read_table(folder / VICTIM)
    told = json.loads(table.schema.metadata[b"robsearch.ladder"])
    pa.parquet.write_table(described(table, {**told, "network": "another"}), folder / VICTIM)


def test_no_altered_byte_changes_what_is_read(ensemble, tmp_path):
    (original,) = ensemble.glob("ladder/*/apgd-ce-*.parquet")
    table, facts = read(original)
    whole, file = original.read_bytes(), tmp_path / "piece.parquet"
    for position in range(400):  # where the numbers are; what follows says how they are laid out
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = read_chunk(file, table["index"].to_numpy(), facts)
        assert found is None or found.held.tolist() == table["held"].to_pylist()


def test_a_piece_about_other_survivors_is_not_taken(tmp_path):
    """As when the natural chunk was measured anew, with another outcome."""
    model = linear()
    data = split(model)
    whole = done(model, data, LINF, "pgd", tmp_path)
    (folder,) = (path for path in (tmp_path / "ladder").iterdir())
    table = pa.parquet.read_table(folder / VICTIM)
    pa.parquet.write_table(table.slice(1), folder / VICTIM)
    with pytest.warns(UserWarning, match="of another run"):
        assert done(model, data, LINF, "pgd", tmp_path).equals(whole)


def test_other_weights_images_labels_attacks_and_chunks_never_mix(tmp_path):
    model = linear()
    data = split(model)
    other = linear()
    with torch.no_grad():
        other[1].weight[0, 0] += 1e-6
    norm = nn.Sequential(nn.BatchNorm2d(1), *model)
    shifted = nn.Sequential(nn.BatchNorm2d(1), *model)
    shifted[0].running_mean += 1e-6
    images = data.images.clone()
    images[3, 0, 0, 0] += 1
    runs = [
        (model, data, LINF, 16),
        (other, data, LINF, 16),
        (nn.Sequential(*model, nn.ReLU()), data, LINF, 16),
        (norm, data, LINF, 16),
        (shifted, data, LINF, 16),
        (model, Split(images, data.labels), LINF, 16),
        (model, Split(data.images, data.labels.flip(0)), LINF, 16),
        (model, data, PGD(eps=0.011, step_size=0.0025, steps=10), 16),
        (model, data, PGD(eps=0.01, step_size=0.0025, steps=11), 16),
        (model, data, L2, 16),
        (model, data, LINF, 20),
    ]
    for count, (network, images_of, pgd, chunk) in enumerate(runs, start=1):
        steps = list(run_ladder(network, images_of, pgd, "pgd", tmp_path, chunk=chunk))
        assert not any(step.resumed for step in steps)
        assert len(list((tmp_path / "ladder").iterdir())) == count


def test_the_digest_is_of_the_network_not_of_the_object():
    assert network_digest(linear()) == network_digest(linear().train(False))
    assert network_digest(linear()) != network_digest(linear(seed=1))


def test_a_lower_climb_keeps_the_dear_rungs_and_a_higher_one_takes_up_the_cheap(tmp_path):
    model = linear()
    data = split(model)
    low = list(run_ladder(model, data, LINF, "pgd", tmp_path, chunk=16))
    assert [standing.rung for standing in rung_results(read_ladder(tmp_path))] == ["natural", "pgd"]
    high = list(run_ladder(model, data, LINF, "apgd", tmp_path, chunk=16))
    assert [step.resumed for step in high] == [True] * len(low) + [False] * 6
    table = read_ladder(tmp_path)
    assert [step.attack for step in run_ladder(model, data, LINF, "pgd", tmp_path, chunk=16)] == [
        s.attack for s in low
    ]
    assert read_ladder(tmp_path).equals(table, check_metadata=True)
    (last,) = tmp_path.glob("ladder/*/apgd-t-0000016.parquet")
    last.unlink()  # an attack that is through with some chunks only does not count
    done(model, data, LINF, "pgd", tmp_path)
    assert [standing.rung for standing in rung_results(read_ladder(tmp_path))] == [
        "natural",
        "pgd",
        "two-losses",
        "apgd-ce",
    ]


def without_the_new_rung(ensemble, folder):
    """A ladder as it was left before there was the rung ``two-losses``."""
    shutil.copytree(ensemble, folder, dirs_exist_ok=True)
    for file in folder.glob("ladder/*/two-losses-*.parquet"):
        file.unlink()


def test_a_ladder_from_before_there_was_the_judges_rung_loses_nothing(ensemble, tmp_path):
    """Its dearer attacks saw more images than they would now: what became of each still holds."""
    without_the_new_rung(ensemble, tmp_path)
    done(linear(), split(linear()), LINF, "pgd", tmp_path, chunk=24)
    rungs = [result.rung for result in rung_results(read_ladder(tmp_path))]
    assert rungs == ["natural", "pgd", "apgd-ce", "apgd", "autoattack"]
    steps = list(run_ladder(linear(), split(linear()), LINF, "autoattack", tmp_path, chunk=24))
    assert [step.attack for step in steps if not step.resumed] == ["two-losses"]
    assert read_ladder(tmp_path)["broken_by"].equals(read_ladder(ensemble)["broken_by"])


def test_the_judges_rung_finds_what_the_judge_finds_and_pgd_before_it(tmp_path):
    """Too short steps, so that PGD and the judge break different images: the rung has both."""
    model = linear(6)
    data = split(model, n=60)
    weak = PGD(eps=0.015, step_size=0.002, steps=6)
    table = done(model, data, weak, "two-losses", tmp_path)
    judged = all_rates(model, data, TwoLosses.in_place_of(weak)).robust.bool()
    stands = all_rates(model, data, weak).robust.bool()
    natural = torch.tensor(table["natural"].to_pylist())
    assert (torch.tensor(stood(table)) & natural).tolist() == (judged & stands).tolist()
    assert 0 < judged.sum() < natural.sum()


def test_half_a_rung_does_not_count(ensemble, tmp_path):
    """FAB is through and has broken an image, Square is not: the table says nothing of FAB."""
    shutil.copytree(ensemble, tmp_path, dirs_exist_ok=True)
    (fab,) = tmp_path.glob("ladder/*/fab-t-*.parquet")
    table, facts = read(fab)
    broken = table.set_column(1, "held", pa.array([False] + [True] * (len(table) - 1)))
    pa.parquet.write_table(described(broken, facts), fab)
    (square,) = tmp_path.glob("ladder/*/square-*.parquet")
    square.unlink()
    found = done(linear(), split(linear()), LINF, "apgd", tmp_path, chunk=24)
    assert found.equals(read_ladder(ensemble))  # where FAB and Square broke nothing
    rungs = [result.rung for result in rung_results(found)]
    assert rungs == ["natural", "pgd", "two-losses", "apgd-ce", "apgd"]


def test_out_of_memory_halves_the_batch_and_goes_on(tmp_path):
    counting = Counting(linear(2), most=5)
    data = split(linear(2))
    with pytest.warns(UserWarning, match="out of memory: going on with 4 images at a time") as told:
        table = done(counting, data, LINF, "apgd-ce", tmp_path, chunk=8)
    assert len(told) <= 4  # one for each attack, however many chunks there are
    assert stood(table)[3:] == holds(counting.inner, data, LINF)[3:]
    told = json.loads((tmp_path / "ladder.json").read_text())
    assert told["batch"]["natural"] == told["batch"]["pgd"] == 4
    assert told["batch"]["apgd-ce"] <= 5

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what is on disk is not tried again
        assert done(counting, data, LINF, "apgd-ce", tmp_path, chunk=8).equals(table)


def test_an_interruption_after_running_out_of_memory_changes_nothing(tmp_path):
    counting = Counting(linear(2), most=10)
    data = split(linear(2), n=40)
    pgd = PGD(eps=0.01, step_size=0.001, steps=3)  # far from converged: the starts matter
    with pytest.warns(UserWarning, match="out of memory"):
        whole = done(counting, data, pgd, "apgd-ce", tmp_path / "whole", chunk=20)
    for stop in (2, 4, 5):
        again = tmp_path / str(stop)
        with pytest.warns(UserWarning, match="out of memory"):
            list(
                itertools.islice(run_ladder(counting, data, pgd, "apgd-ce", again, chunk=20), stop)
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert done(counting, data, pgd, "apgd-ce", again, chunk=20).equals(whole)


def test_where_not_even_one_image_fits_the_error_is_passed_on(tmp_path):
    class Full(nn.Module):
        """Has room for the first look, then no more."""

        def __init__(self):
            super().__init__()
            self.inner, self.calls = linear(), 0

        def forward(self, x):
            self.calls += 1
            if self.calls > 1:
                raise torch.OutOfMemoryError("full")
            return self.inner(x)

    steps = run_ladder(Full(), split(linear()), LINF, "pgd", tmp_path, chunk=1000)
    with (
        pytest.warns(UserWarning, match="out of memory") as told,
        pytest.raises(torch.OutOfMemoryError, match="full"),
    ):
        next(steps)
    assert [str(warning.message).split()[6] for warning in told] == ["12", "6", "3", "1"]


# --- what is refused ---


def test_all_bad_arguments_are_refused_at_once(tmp_path, unchecked):
    model = linear()
    with pytest.raises(InputError) as error:
        run_ladder(model, split(model), FGSM(eps=0.1), "square", tmp_path / "new", chunk=0)
    told = [problem.split(",")[0] for problem in error.value.problems]
    assert told == [
        "expected a PGD as the lowest rung",
        "expected a rung out of pgd",
        "expected chunk >= 1",
    ]
    assert "pass PGD(eps=8 / 255, steps=20)" in error.value.problems[0]
    assert not (tmp_path / "new").exists()


def test_models_and_images_are_refused_before_anything_is_run(tmp_path, unchecked):
    model = linear()
    data = split(model)
    small = Split(data.images[:, :, :4, :4], data.labels)
    high = data.labels.clone()
    high[20] = 4
    cases = [
        (
            model,
            Split(data.images[:0], data.labels[:0]),
            LINF,
            "pgd",
            "expected at least one image",
        ),
        (model, Split(data.images, high), LINF, "pgd", "expected labels from 0 to 3, got 0 to 4"),
        (
            model,
            Split(data.images, data.labels[:3]),
            LINF,
            "pgd",
            "expected a label for each image",
        ),
        (
            linear(1),
            data._replace(labels=torch.zeros(24, dtype=torch.int64)),
            LINF,
            "pgd",
            "at least 2 classes",
        ),
        (
            nn.Sequential(*model, nn.Softmax(1)),
            data,
            LINF,
            "apgd-ce",
            "take the softmax off the model",
        ),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(16, 4)),
            small,
            L2,
            "autoattack",
            "5 x 5 or more for square in l2",
        ),
    ]
    for network, images, pgd, rung, told in cases:
        with pytest.raises(InputError, match=told):
            run_ladder(network, images, pgd, rung, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert (
        done(nn.Sequential(nn.Flatten(), nn.Linear(16, 4)), small, L2, "pgd", tmp_path).num_rows
        == 24
    )


def test_a_folder_without_a_ladder_and_a_damaged_one_are_refused(tmp_path):
    with pytest.raises(InputError, match="got none: run the ladder to its end first"):
        read_ladder(tmp_path)
    (tmp_path / "ladder.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="run it again"):
        read_ladder(tmp_path)
    with pytest.raises(InputError, match="expected a ladder's table"):
        rung_results(pa.table({"index": [0]}))


# --- numbers ---


@pytest.mark.parametrize(("k", "n"), [(0, 10), (1, 10), (5, 10), (10, 10), (6332, 10000), (1, 1)])
def test_the_interval_is_wilsons(k, n):
    reference = binomtest(k, n).proportion_ci(method="wilson")
    assert wilson(k / n, n) == pytest.approx((reference.low, reference.high), abs=1e-12)


def test_the_json_says_what_the_table_says(tmp_path):
    model = linear()
    table = done(model, split(model), LINF, "apgd-ce", tmp_path)
    told = json.loads((tmp_path / "ladder.json").read_text())
    assert told["standings"] == [
        json.loads(json.dumps(standing._asdict())) for standing in rung_results(table)
    ]
    assert (told["attack"]["eps"], told["attack"]["norm"], told["devices"]) == (
        0.01,
        "linf",
        ["cpu"],
    )
    seconds = {standing.rung: standing.seconds for standing in rung_results(table)}
    assert seconds == {
        name: told["seconds"][name] for name in ("natural", "pgd", "two-losses", "apgd-ce")
    }
    assert 0 < seconds["pgd"] < seconds["apgd-ce"] < 60  # 10 steps, 100 steps
    assert list(tmp_path.glob("*.tmp")) == []


def test_standings_counted_by_hand():
    table = made(["wrong", "pgd", "pgd", "apgd-ce", "apgd-t", None, None, None, None, None])
    natural, pgd, apgd = rung_results(table)
    assert natural[:4] == ("natural", (), 10, 0.9)
    assert (pgd.attacked, pgd.broken, pgd.robust_accuracy, pgd.seconds) == (9, 2, 0.7, 1.0)
    assert (apgd.attacked, apgd.broken, apgd.robust_accuracy, apgd.seconds) == (7, 2, 0.5, 30.0)
    assert apgd.attacks == ("pgd", "apgd-ce", "apgd-t")


def test_a_reversed_order_is_reported_with_its_size_and_mcnemars_p():
    # Of 20: a holds 12 under PGD and then the first 4; b holds 10 under PGD and then 9, of which 8
    # are not a's.
    a = made(["wrong"] * 8 + ["apgd-t"] * 8 + [None] * 4)
    b = made([None] * 8 + ["pgd"] * 10 + ["apgd-ce"] + [None])
    (reversal,) = rank_reversals({"b": b, "a": a})
    assert reversal[:4] == ("a", "b", "pgd", "apgd")
    assert reversal.ahead == pytest.approx(10)  # 12 to 10, of 20
    assert reversal.behind == pytest.approx(25)  # 4 to 9
    # One image of a's four is b's too: 3 only a's, 8 only b's. P(at most 3 heads in 11), both
    # sides:
    assert reversal.p == pytest.approx(2 * (1 + 11 + 55 + 165) / 2**11)
    assert not reversal.beyond_noise
    sentence = (
        "a is 10.00 points ahead of b under pgd, but 25.00 behind under apgd (within "
        "noise: McNemar p = 0.23)"
    )
    assert str(reversal) == sentence


def test_a_large_reversal_is_beyond_noise():
    a = made(["apgd-t"] * 20 + ["wrong"] * 10)
    b = made([None] * 10 + ["pgd"] * 20)
    (reversal,) = rank_reversals({"a": a, "b": b})
    assert reversal.p == pytest.approx(2 / 2**10)
    assert reversal.beyond_noise
    assert "(beyond noise: McNemar p = 0.002)" in str(reversal)


def test_neither_a_tie_nor_the_same_order_nor_a_rung_of_one_alone_is_a_flip():
    a = made(["apgd-t", "apgd-t", None, None])
    same = made(["apgd-t", "pgd", "pgd", None])
    tie = made(["pgd", "pgd", None, None])
    low = made([None, "pgd", "pgd", "pgd"], rungs=("pgd",))
    assert rank_reversals({"a": a, "same": same}) == []
    assert rank_reversals({"a": a, "tie": tie}) == []
    assert rank_reversals({"a": a, "low": low}) == []
    assert rank_reversals({}) == []


def test_natural_accuracy_is_no_ranking_to_be_flipped():
    a = made(["pgd", "pgd", None])
    b = made(["wrong", None, None])
    assert rank_reversals({"a": a, "b": b}) == []


def test_ladders_of_other_images_or_attacks_are_refused():
    with pytest.raises(InputError) as error:
        rank_reversals(
            {"a": made([None]), "b": made([None], data="cifar"), "c": made([None], eps=0.2)}
        )
    assert len(error.value.problems) == 2
    assert "expected the images and the attack of a for b" in error.value.problems[0]


def test_the_dearest_rung_that_all_have_is_what_models_are_compared_by():
    both = made([None, "pgd"])
    cheap = made([None, "pgd"], rungs=("pgd",))
    dear = made([None, "apgd-t"], rungs=("apgd",))
    assert shared_rung({"a": both, "b": both}) == "apgd"
    assert shared_rung({"a": both, "b": cheap}) == "pgd"
    assert shared_rung({"a": cheap, "b": dear}) is None
    assert shared_rung({}) is None
    with pytest.raises(InputError, match="the images and the attack of a for b"):
        shared_rung({"a": both, "b": made([None], eps=0.2)})
