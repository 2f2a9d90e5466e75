"""Measures per layer: what is found in a model, its layers' norms and spectra, and their
summary."""

import math

import pytest
import torch
from dense_layers import dense
from torch import Tensor, nn

from robsearch import PGD, FeatureChange
from robsearch.errors import InputError
from robsearch.measures.norms import OperatorNorm
from robsearch.measures.spectra import SingularValues
from robsearch.measures.summaries import layer_summary
from robsearch.network.layers import NotCoveredWarning, coverage, traced
from robsearch.parts.models import MLP, SmallCNN, WideResNet
from robsearch.protocols import ImageSpec
from robsearch.testing import check_layer_measure

SPEC = ImageSpec((3, 8, 8), 5, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
MEASURES = [
    *(OperatorNorm(norm, folded) for norm in ("l1", "linf", "l2") for folded in (False, True)),
    SingularValues("reshaped"),
    SingularValues("circular"),
]


def examples(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.rand(4, *SPEC.shape, dtype=dtype), torch.tensor([0, 1, 2, 3])


def wide() -> nn.Module:
    """A small network whose BatchNorms have statistics and factors of their own, some negative."""
    torch.manual_seed(0)
    model = WideResNet(depth=10, width=1).build(SPEC).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            module.running_var.uniform_(0.1, 2)
            module.running_mean.normal_()
    return model


def hooks(model: nn.Module) -> int:
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._forward_hooks_with_kwargs)
        for m in model.modules()
    )


# --- what a model runs ---


def test_a_wide_resnets_layers_come_in_order_with_their_inputs_and_what_they_feed():
    """conv1 of each block feeds bn2 and nothing else; the stem feeds the first bn1; the rest goes
    into sums."""
    found = traced(wide().eval(), examples()[0])
    assert [(t.name, t.shape, t.batch_norm) for t in found[:6]] == [
        ("stem", (3, 8, 8), "stages.0.0.bn1"),
        ("stages.0.0.bn1", (16, 8, 8), None),
        ("stages.0.0.conv1", (16, 8, 8), "stages.0.0.bn2"),
        ("stages.0.0.bn2", (16, 8, 8), None),
        ("stages.0.0.conv2", (16, 8, 8), None),
        ("stages.1.0.bn1", (16, 8, 8), None),
    ]
    assert [(t.name, t.shape) for t in found[-2:]] == [("bn", (64, 2, 2)), ("linear", (64,))]
    fed = {t.name: t.batch_norm for t in found if t.batch_norm}
    assert fed == {"stem": "stages.0.0.bn1"} | {
        f"stages.{i}.0.conv1": f"stages.{i}.0.bn2" for i in range(3)
    }
    assert next(t.shape for t in found if t.name == "stages.1.0.shortcut") == (16, 8, 8)


class Twisted(nn.Module):
    """Layers used in unusual ways, on images of (1, 3, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Conv2d(1, 1, 1)
        self.late, self.first, self.second = (nn.BatchNorm2d(2) for _ in range(3))
        self.overwritten, self.twice = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.flat, self.rows, self.columns = nn.Linear(98, 3), nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.alone = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.late(self.relu(self.overwritten(x)))  # the same tensor, but written to
        x = self.twice(input=x)
        x = self.first(x) + self.second(x)
        x = self.flat(self.twice(x).flatten(1))
        return self.columns(self.rows(x[:, None].expand(-1, 3, -1))).sum(1) + self.alone(x)


def test_only_a_batch_norm_that_gets_a_layers_output_as_it_was_is_fed_by_it():
    model = Twisted().eval()
    with torch.inference_mode():
        found = {t.name: (t.shape, t.batch_norm) for t in traced(model, torch.rand(2, 1, 3, 3))}
    assert found == {
        "overwritten": ((1, 3, 3), None),
        "late": ((2, 3, 3), None),
        "twice": ((2, 3, 3), "first"),
        "first": ((2, 5, 5), None),
        "second": ((2, 5, 5), None),
        "flat": ((98,), "alone"),
        "rows": ((3, 3), None),  # BatchNorm1d takes its 3 places for channels
        "columns": ((3, 3), None),
        "alone": ((3,), None),
    }
    assert hooks(model) == 0


def test_a_layer_is_found_where_its_weight_is_frozen_or_computed_from_others():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 1))
    ).eval()
    model[0].weight.requires_grad_(False)
    assert [t.name for t in traced(model, torch.rand(1, 1, 4, 4))] == ["0", "1"]


def test_no_hook_stays_after_an_error_and_no_statistics_move():
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1), nn.Linear(7, 7))
    with pytest.raises(RuntimeError):
        traced(model, torch.rand(1, 1, 4, 4))
    assert hooks(model) == 0
    assert model.training
    assert model[1].running_mean == 0


# --- norms ---


@pytest.mark.parametrize("norm", ["l1", "linf", "l2"])
def test_raw_and_folded_norms_are_those_of_the_dense_matrices(norm):
    model = wide().eval()
    order = {"l1": 1, "linf": math.inf, "l2": 2}[norm]
    run = {t.name: t for t in traced(model, examples()[0])}
    raw, folded = (OperatorNorm(norm, fold).by_layer(model, *examples()) for fold in (False, True))
    inside = {t.batch_norm for t in run.values()} - {None}
    assert len(inside) == 4
    assert (list(raw), list(folded)) == (list(run), [name for name in run if name not in inside])
    for name in (
        "stem",
        "stages.0.0.conv1",
        "stages.0.0.bn2",
        "stages.1.0.conv1",
        "stages.2.0.shortcut",
        "linear",
    ):
        t = run[name]
        exact = torch.linalg.matrix_norm(dense(t.module, t.shape), ord=order)
        torch.testing.assert_close(
            raw[name], exact[None], rtol=1e-3 if norm == "l2" else 1e-9, atol=0
        )
        if name in folded:
            both = (
                t.module
                if t.batch_norm is None
                else nn.Sequential(t.module, model.get_submodule(t.batch_norm))
            )
            exact = torch.linalg.matrix_norm(dense(both, t.shape), ord=order)
            torch.testing.assert_close(
                folded[name], exact[None], rtol=1e-3 if norm == "l2" else 1e-9, atol=0
            )


def test_folded_a_layer_and_its_batch_norm_can_be_far_below_their_product():
    """Channels of factor 1000 and 1 that BatchNorm divides by 1000 and 1: norms 1000 and 1 apart, 1
    together."""
    model = nn.Sequential(
        nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, eps=0), nn.Flatten(), nn.Linear(2, 2)
    ).eval()
    model[0].weight.data = torch.diag(torch.tensor([1000.0, 1.0])).view(2, 2, 1, 1)
    model[1].running_var.copy_(torch.tensor([1e6, 1.0]))
    x, y = torch.rand(1, 2, 1, 1), torch.tensor([0])
    raw, folded = (OperatorNorm("linf", fold).by_layer(model, x, y) for fold in (False, True))
    assert (raw["0"].item(), raw["1"].item()) == (1000.0, 1.0)
    assert list(folded) == ["0", "3"]
    assert folded["0"].item() == pytest.approx(1.0)


def test_all_layers_without_a_norm_are_named_and_the_others_have_theirs():
    model = nn.Sequential(
        nn.Conv2d(3, 2, 3, padding=1, padding_mode="reflect"),
        nn.BatchNorm2d(2, track_running_stats=False),
        nn.Conv2d(2, 2, 3, padding=2, padding_mode="circular"),
        nn.Flatten(),
        nn.Linear(200, 5),
    ).double()
    for measure in MEASURES[:6]:
        with pytest.warns(NotCoveredWarning) as caught:
            assert list(measure.by_layer(model, *examples())) == ["4"]
        (said,) = {str(warning.message) for warning in caught}
        assert said.startswith(
            "norms and spectra: 1,005 of 1,103 weights are covered; not covered: 0 (Conv2d, 56: "
        )
        assert "expected zero padding in 0, got 'reflect'" in said
        assert "expected running statistics in 1, got none" in said
        assert "expected zero padding in 2, got 'circular'" in said
    assert hooks(model) == 0
    assert list(SingularValues("circular").by_layer(model, *examples())) == ["0", "2", "4"]


# --- spectra ---


def test_the_spectra_of_a_small_network_are_those_of_its_matrices():
    """With kernels of 1x1 the layer's matrix repeats the kernel's at each place, so each value
    comes 64 times."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(256, 5)
    ).double()
    reshaped, circular = (
        SingularValues(m).by_layer(model, *examples()) for m in ("reshaped", "circular")
    )
    assert list(reshaped) == list(circular) == ["0", "3"]
    values = torch.linalg.svdvals(model[0].weight.detach().view(4, 3))
    torch.testing.assert_close(reshaped["0"], values)
    torch.testing.assert_close(circular["0"], values.repeat_interleave(64))
    torch.testing.assert_close(reshaped["3"], torch.linalg.svdvals(model[3].weight.detach()))
    assert torch.equal(reshaped["3"], circular["3"])


def test_the_circular_spectrum_takes_the_layers_own_input_size_and_stride():
    """8x8 images halved twice by strides of 2: 8 channels at 4x4 places, 16 at 2x2, as many values
    as outputs."""
    model = SmallCNN(0.5).build(SPEC)
    found = SingularValues("circular").by_layer(model, *examples(torch.float32))
    assert [len(values) for values in found.values()] == [8 * 16, 16 * 4, 32, 5]
    assert all(bool((values.diff() <= 0).all()) for values in found.values())
    energy = (
        model[1].weight.square().sum().item() * 16
    )  # each of the 16 places holds the kernel once
    assert found["1"].square().sum().item() == pytest.approx(energy, rel=1e-5)


# --- all ---


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
def test_a_layer_measure_keeps_its_contract_and_leaves_the_model_as_it_was(measure, unchecked):
    check_layer_measure(measure)
    model, (x, y) = wide(), examples()
    model.stages[0].eval()
    flags = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = measure.by_layer(model, x, y)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert hooks(model) == 0
    assert all(
        v.dtype == torch.float64 and v.ndim == 1 and not v.requires_grad for v in found.values()
    )
    with torch.inference_mode():
        again = measure.by_layer(model, x, y)
    assert found.keys() == again.keys()
    assert all(torch.equal(found[name], again[name]) for name in found)
    for bad_x, bad_y in ((x + 1, y), (x, y + 5), (x, y[:2]), (x[:0], y[:0])):
        with pytest.raises(InputError):
            measure.by_layer(model, bad_x, bad_y)


def test_what_the_measures_say_of_themselves():
    assert [measure.name for measure in MEASURES] == [
        *(f"norms{folded}/{norm}" for norm in ("l1", "linf", "l2") for folded in ("", "_folded")),
        "spectra/reshaped",
        "spectra/circular",
    ]
    kinds = [measure.about.kind for measure in MEASURES]
    assert kinds == ["exact"] * 4 + ["lower bound"] * 2 + ["exact"] * 2
    assert {measure.about.norm for measure in MEASURES} == {"l1", "linf", "l2"}


def test_a_model_without_convolutions_or_batch_norms_will_do():
    for measure in MEASURES:
        assert list(measure.by_layer(MLP(4).build(SPEC), *examples(torch.float32))) == [
            "2",
            "4",
            "6",
        ]


@pytest.mark.parametrize(
    ("make", "problems"),
    [
        (lambda: OperatorNorm("l3", 1), 2),
        (lambda: OperatorNorm("spectral"), 1),
        (lambda: SingularValues("exact"), 1),
    ],
)
def test_refuses_all_bad_fields_at_once(make, problems, unchecked):
    with pytest.raises(InputError) as caught:
        make()
    assert len(caught.value.problems) == problems


# --- their summary ---


def test_the_summary_of_one_number_for_each_layer_by_hand():
    found = layer_summary(
        {"a": torch.tensor([2.0]), "b": torch.tensor([5.0]), "c": torch.tensor([8.0])}
    )
    assert found == {"mean": 5.0, "max": 8.0, "spread": pytest.approx(math.sqrt(6))}
    assert layer_summary({"a": torch.tensor([2.0])}) == {"mean": 2.0, "max": 2.0, "spread": 0.0}


def test_the_summary_counts_each_layer_once_however_many_values_it_has():
    """Means 4, 2; deviations sqrt((9 + 1 + 4 + 0) / 4) and 0; 7 / 2 and 1 for the layer of one
    value."""
    found = layer_summary({"a": torch.tensor([7.0, 3.0, 2.0, 4.0]), "b": torch.tensor([2.0])})
    std, condition = math.sqrt(14 / 4) / 2, math.log10(3.5) / 2
    expected = {"mean": 3.0, "max": 7.0, "spread": 1.0, "std": std, "condition": condition}
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(("dtype", "digits"), [(torch.float32, 6.92), (torch.float64, 15.65)])
def test_a_layer_that_loses_a_direction_shows_as_the_precision_of_its_floats(dtype, digits):
    assert (
        layer_summary({"a": torch.tensor([0.0]), "b": torch.tensor([3.0, 3.0])})["condition"] == 0.0
    )
    for lost in ([3.0, 0.0], [3.0, 1e-30], [0.0, 0.0]):
        found = layer_summary(
            {"a": torch.tensor(lost, dtype=dtype), "b": torch.tensor([2.0, 2.0], dtype=dtype)}
        )
        assert found["condition"] == pytest.approx(digits / 2, abs=0.01)
        assert all(math.isfinite(value) for value in found.values())


def test_the_summary_refuses_all_layers_that_it_cannot_summarise():
    with pytest.raises(InputError, match="expected at least one layer"):
        layer_summary({})
    bad = {
        "a": torch.tensor([]),
        "b": torch.tensor([1.0]),
        "c": torch.tensor([math.nan]),
        "d": torch.tensor([math.inf]),
    }
    with pytest.raises(InputError) as caught:
        layer_summary(bad)
    assert len(caught.value.problems) == 3


# --- all layers ---


class SmallViT(nn.Module):
    """Patches, attention as torch has it and as people write it, and a head; on 2 x 8 x 8
    images."""

    def __init__(self):
        super().__init__()
        self.patches, self.place = nn.Conv2d(2, 8, 4, 4), nn.Parameter(torch.randn(4, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.qkv, self.norm, self.head = nn.Linear(8, 24), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        z = self.block(self.patches(x).flatten(2).mT + self.place)
        query, key, value = self.qkv(z).chunk(3, dim=-1)
        z = z + (query @ key.mT).softmax(dim=-1) @ value
        return self.head(self.norm(z).mean(dim=1))


def sequences():
    back = nn.Sequential(
        nn.Unflatten(1, (2, 64)), nn.ConvTranspose1d(2, 3, 2, 2), nn.BatchNorm1d(3), nn.ReLU()
    )
    return nn.Sequential(
        nn.Flatten(2),
        nn.Conv1d(2, 4, 3, padding=1),
        nn.Flatten(),
        nn.Linear(256, 128),
        *back,
        nn.Flatten(),
        nn.Linear(384, 3),
    )


@pytest.mark.parametrize("model", [SmallViT(), sequences()], ids=["vit", "sequences"])
def test_covered_and_not_covered_weights_are_all_weights(model):
    found = coverage(model, traced(model, torch.rand(1, 2, 8, 8)))
    assert sum(each.weights for each in found) == sum(
        weight.numel() for weight in model.parameters()
    )
    left = {each.layer for each in found if not each.covered}
    assert left == (
        {"place", "block.norm1", "block.norm2", "norm"} if isinstance(model, SmallViT) else set()
    )


def test_a_map_with_complex_weights_has_no_norm_and_is_named():
    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.there, self.head = nn.Linear(128, 4, dtype=torch.complex64), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.there(x.flatten(1).to(torch.complex64)).abs())

    model = Halves()
    left = [
        each for each in coverage(model, traced(model, torch.rand(1, 2, 8, 8))) if not each.covered
    ]
    assert [(each.layer, each.weights) for each in left] == [("there", 516)]
    assert "expected real weights in there, got torch.complex64" in left[0].reason
    with pytest.warns(NotCoveredWarning, match="there"):
        found = OperatorNorm("linf").by_layer(model, torch.rand(2, 2, 8, 8), torch.tensor([0, 1]))
    assert list(found) == ["head"]


def test_the_matrices_of_an_attention_have_the_norms_of_their_thirds():
    model, x, y = SmallViT(), torch.rand(2, 2, 8, 8), torch.tensor([0, 1])
    attention = model.block.self_attn
    with pytest.warns(NotCoveredWarning, match=r"not covered: place \(SmallViT, 32"):
        found = OperatorNorm("l2").by_layer(model, x, y)
    for name, third in zip("qkv", attention.in_proj_weight.chunk(3), strict=True):
        expected = torch.linalg.svdvals(third)[0].item()
        assert found[f"block.self_attn.{name}_proj"].item() == pytest.approx(expected, rel=1e-5)
    with pytest.warns(NotCoveredWarning):
        assert "block.self_attn.out_proj" in SingularValues().by_layer(model, x, y)
    change = FeatureChange(PGD(eps=0.1, steps=1)).by_layer(model, x, y)
    assert list(change) == [
        "patches",
        "block.self_attn",
        "block.linear1",
        "block.linear2",
        "qkv",
        "head",
    ]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (4, 7)),
        (nn.Conv3d(2, 3, 2, stride=2, padding=1), (2, 3, 4, 3)),
        (nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), (4, 5)),
        (nn.ConvTranspose2d(4, 2, (3, 2), stride=(2, 1), dilation=(1, 2)), (4, 3, 4)),
        (nn.ConvTranspose3d(2, 3, 2, stride=2), (2, 2, 3, 2)),
    ],
    ids=repr,
)
def test_the_norms_of_convolutions_of_any_dimension_and_transposed_ones_are_those_of_the_matrix(
    layer, shape
):
    layer = layer.double()
    layer.bias.data.zero_()
    places = torch.eye(math.prod(shape), dtype=torch.float64).unflatten(1, shape)
    matrix = layer(places).flatten(1).T.detach()
    expected = {
        "l1": matrix.abs().sum(dim=0).max(),
        "linf": matrix.abs().sum(dim=1).max(),
        "l2": torch.linalg.svdvals(matrix)[0],
    }
    (found,) = traced(
        nn.Sequential(nn.Flatten(), nn.Unflatten(1, shape), layer), places[:1].view(1, 1, 1, -1)
    )
    for norm, value in expected.items():
        assert OperatorNorm(norm)._of(found).item() == pytest.approx(value.item(), rel=1e-3)


def test_a_batch_norm_behind_a_transposed_convolution_is_folded_into_it():
    model = nn.Sequential(
        nn.ConvTranspose2d(4, 4, 3, groups=2), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3)
    )
    model[1].running_var.copy_(torch.tensor([0.25, 1.0, 4.0, 9.0]))
    x = torch.rand(1, 4, 4, 4)
    found = OperatorNorm("linf", folded=True).by_layer(model, x, torch.tensor([0]))
    both = nn.Sequential(*model[:2]).eval().double()
    places = torch.eye(64, dtype=torch.float64).unflatten(1, (4, 4, 4))
    matrix = (both(places) - both(places * 0)).flatten(1).detach()
    assert list(found) == ["0", "3"]
    assert found["0"].item() == pytest.approx(matrix.abs().sum(dim=0).max().item(), rel=1e-4)
