"""The tables of one model's measures, their averages under stable names, and what becomes of a
measure that fails."""

import dataclasses
import math

import pytest
import torch
from small_spaces import recipe

from robsearch import LogitMargin, OperatorNorm, OwnLoss, TwoLosses, WorstCase
from robsearch.protocols import About, Split
from robsearch.training.evaluation import all_rates
from robsearch.trials.measurement import Measurement, averages, finite

ABOUT = About("lower bound", "logits", "made up", norm="linf", span=(-1.0, 1.0))


@dataclasses.dataclass(frozen=True)
class Brightness:
    """The mean pixel; in train mode it is negative."""

    name: str = "made/brightness"
    about: About = ABOUT
    fails: bool = False

    def __call__(self, model, x, y):
        if self.fails:
            raise RuntimeError("a fault of the measure")
        return x.mean(dim=(1, 2, 3)) * (-1 if model.training else 1)


@dataclasses.dataclass(frozen=True)
class Weights:
    """The weights of each linear layer, in a row."""

    name: str = "made/weights"
    about: About = ABOUT

    def by_layer(self, model, x, y):
        assert not model.training
        return {
            name: p.detach().flatten()
            for name, p in model.named_parameters()
            if name.endswith("weight")
        }


@dataclasses.dataclass(frozen=True)
class Examples:
    """How many images it was given: one number for the whole model."""

    name: str = "made/examples"
    about: About = ABOUT

    def by_layer(self, model, x, y):
        return {"": torch.tensor([float(len(x))])}


def split(n, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Split(images, torch.arange(n) % 10)


SPLITS = {"train": split(50, 1), "test": split(30, 2)}


def measurement(*measures, n=None):
    torch.manual_seed(0)
    model = recipe(8).model.build(recipe(8).data.spec)
    return Measurement(model, recipe(8).resolved_test_attack, measures, n)


def test_the_tables_hold_every_test_image_and_as_many_of_the_training_images():
    tables = measurement(Brightness()).tables(SPLITS)
    assert tables["test"]["index"].to_pylist() == list(range(30))
    assert tables["train"].num_rows == 30
    index = tables["train"]["index"].to_pylist()
    brightness = SPLITS["train"].images.float().div(255).mean(dim=(1, 2, 3))[index]
    assert tables["train"]["made/brightness"].to_pylist() == pytest.approx(brightness.tolist())
    assert tables["train"]["label"].to_pylist() == SPLITS["train"].labels[index].tolist()


def test_pgd_on_the_cross_entropy_is_a_figure_of_its_own_beside_another_judge():
    taken = measurement()
    pgd = taken.attack
    assert "pgd_robust_accuracy" not in taken.tables(SPLITS)["test"].column_names
    for judge in (TwoLosses.in_place_of(pgd), WorstCase((pgd, OwnLoss(pgd)))):
        taken.attack = judge
        tables = taken.tables(SPLITS)
        found = averages(tables)
        robust = all_rates(taken.model, SPLITS["test"], pgd).robust
        assert tables["test"]["pgd_robust_accuracy"].to_pylist() == robust.tolist()
        assert found["test/pgd_robust_accuracy"] == pytest.approx(robust.mean().item())
        assert "pgd_robust_accuracy" not in tables["train"].column_names


def test_the_words_of_a_measure_stand_beside_its_numbers():
    tables = measurement(Brightness(), Weights()).tables(SPLITS)
    words = {b"kind": b"lower bound", b"unit": b"logits", b"norm": b"linf", b"source": b"made up"}
    assert tables["test"].schema.field("made/brightness").metadata == words
    row = tables["layers"].to_pylist()[0]
    assert [row[key] for key in ("measure", "layer", "position")] == ["made/weights", "2.weight", 0]
    assert row["kind"] == "lower bound"


def test_a_measure_on_few_images_is_null_on_the_others_and_averaged_over_the_few():
    taken = measurement(Brightness(), Examples(), n=4)
    tables = taken.tables(SPLITS)
    column = tables["test"]["made/brightness"]
    assert column.null_count == 26
    found = averages(tables)
    values = [value for value in column.to_pylist() if value is not None]
    assert found["test/made/brightness/mean"] == pytest.approx(sum(values) / 4)
    assert found["made/examples"] == 4
    assert tables["test"]["natural_accuracy"].null_count == 0


def test_the_gap_is_the_error_on_test_minus_the_error_on_training_images():
    tables = measurement().tables(SPLITS)
    found = averages(tables)
    test, train = (
        1 - tables[name]["natural_accuracy"].to_numpy().mean() for name in ("test", "train")
    )
    assert found["gap/error"] == pytest.approx(test - train)
    loss, fitted = (tables[name]["loss"].to_numpy().mean() for name in ("test", "train"))
    assert found["gap/loss"] == pytest.approx(loss - fitted, rel=1e-5)
    assert found["gap/loss_se"] == pytest.approx(
        math.hypot(found["test/loss_se"], found["train_set/loss_se"])
    )


def test_layers_are_averaged_and_a_number_of_the_whole_model_is_itself():
    tables = measurement(Weights(), Examples()).tables(SPLITS)
    found = averages(tables)
    rows = [row for row in tables["layers"].to_pylist() if row["measure"] == "made/weights"]
    assert [row["position"] for row in rows] == [0, 1]
    assert found["made/weights/mean"] == pytest.approx(sum(row["mean"] for row in rows) / 2)
    assert found["made/weights/max"] == pytest.approx(max(row["max"] for row in rows))
    assert rows[0]["std"] == pytest.approx(torch.tensor(rows[0]["values"]).std(correction=0).item())
    assert found["made/examples"] == 30


def test_histograms_count_every_image_in_the_same_bins():
    rows = measurement(Brightness(), LogitMargin()).tables(SPLITS)["histograms"].to_pylist()
    for measure in ("made/brightness", "margin/logit"):
        bins = {
            name: [
                (row["low"], row["high"])
                for row in rows
                if (row["measure"], row["split"]) == (measure, name)
            ]
            for name in ("train", "test")
        }
        assert bins["train"] == bins["test"]
        assert (
            sum(row["count"] for row in rows if (row["measure"], row["split"]) == (measure, "test"))
            == 30
        )
        assert bins["test"][0][0] == -math.inf
        assert bins["test"][-1][1] == math.inf


def test_a_measure_that_fails_is_left_out_and_named_and_the_others_are_taken():
    taken = measurement(Brightness(fails=True), LogitMargin())
    tables = taken.tables(SPLITS)
    fault = "RuntimeError: a fault of the measure"
    assert taken.problems == {"made/brightness": f"on test: {fault}; on train: {fault}"}
    assert "made/brightness" not in tables["test"].column_names
    assert "test/margin/logit/mean" in averages(tables)


def test_measures_find_the_model_in_eval_mode_and_leave_its_own():
    taken = measurement(Brightness(), Weights())
    tables = taken.tables(SPLITS)
    assert min(tables["test"]["made/brightness"].to_pylist()) > 0
    assert not taken.problems
    assert taken.model.training


def test_the_same_model_measures_alike_twice():
    first, second = (measurement(LogitMargin(), Weights()).tables(SPLITS) for _ in "12")
    assert first == second


@dataclasses.dataclass(frozen=True)
class Odd:
    """Gives what nobody can average, on the images brighter than most."""

    how: str
    about: About = ABOUT

    @property
    def name(self):
        return f"made/{self.how}"

    def __call__(self, model, x, y):
        found = x.mean(dim=(1, 2, 3))
        odd = {
            "gradient": found.requires_grad_(),
            "shape": found[:, None],
            "number": 3.0,
            "complex": found.detach() * 1j,
            "nan": torch.where(y == 0, math.nan, found.detach()),
            "infinite": torch.where(y == 0, math.inf, found.detach()),
        }
        return odd[self.how]


@dataclasses.dataclass(frozen=True)
class OddLayers:
    """NaN in one of two layers."""

    name: str = "made/layers"
    about: About = ABOUT

    def by_layer(self, model, x, y):
        return {"1": torch.tensor([math.nan]), "2": torch.ones(1)}


@dataclasses.dataclass(frozen=True)
class Huge(OddLayers):
    """A number of the whole model that no float holds, and its logarithm."""

    name: str = "made/huge"

    def by_layer(self, model, x, y):
        return {"": torch.tensor([math.inf]), "log10": torch.tensor([400.0])}


def test_what_a_measure_gives_that_is_no_number_leaves_out_that_one_alone():
    odd = [Odd(how) for how in ("gradient", "shape", "number", "complex", "nan", "infinite")]
    taken = measurement(*odd, Brightness(), OddLayers(), Huge(), Weights())
    tables = taken.tables(SPLITS)
    found, left = finite(averages(tables))
    assert found["test/made/gradient/mean"] == pytest.approx(found["test/made/brightness/mean"])
    assert {
        "test/made/brightness/se",
        "test/robust_accuracy",
        "made/weights/mean",
        "made/huge_log10",
    } <= found.keys()
    assert not any(
        name in key
        for name in ("shape", "number", "complex", "nan", "layers/m", "huge/")
        for key in found
    )
    assert taken.problems["made/nan"].startswith("on test: it is NaN for 3 of 30 images (10.0%)")
    assert taken.problems["made/shape"].startswith(
        "on test: InputError: expected a tensor of shape (30,), got shape (30, 1)"
    )
    assert "got float" in taken.problems["made/number"]
    assert (
        "expected a tensor of real numbers, got torch.complex64" in taken.problems["made/complex"]
    )
    assert taken.problems["made/layers"] == "it is NaN or infinite for 1"
    assert taken.problems["made/huge"] == "it is NaN or infinite for the whole model"
    assert "test/made/infinite/mean left out: it is infinite" in left
    assert "test/made/infinite/min" in found


def test_a_net_with_logits_of_16_bits_is_measured_like_any_other():
    taken = measurement(*recipe(8).resolved_measures)
    whole = averages(taken.tables(SPLITS))
    taken.model.register_forward_hook(lambda model, x, logits: logits.bfloat16())
    half = averages(taken.tables(SPLITS))
    assert not taken.problems
    assert half.keys() == whole.keys()
    assert half["test/loss"] == pytest.approx(whole["test/loss"], rel=0.01)


def test_the_layers_that_norms_do_not_cover_are_in_a_table_with_their_weights_and_are_named():
    taken = measurement(OperatorNorm("linf"))
    taken.model = torch.nn.Sequential(taken.model, torch.nn.LayerNorm(10))
    tables = taken.tables(SPLITS)
    rows = {
        row["layer"]: (row["weights"], row["covered"]) for row in tables["coverage"].to_pylist()
    }
    assert rows == {"0.2": (8 * 64 + 8, True), "0.4": (8 * 10 + 10, True), "1": (20, False)}
    assert averages(tables)["layers/covered"] == pytest.approx(610 / 630)
    said = taken.problems["norms and spectra"]
    assert said == (
        "610 of 630 weights are covered; not covered: 1 (LayerNorm, 20: no operator norm is "
        "defined for it)"
    )
