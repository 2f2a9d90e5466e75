"""Each figure draws what the tables say: statistics checked by hand, on the artists themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import binomtest

from robsearch.drawing.formatting import number
from robsearch.drawing.style import look
from robsearch.metrics import wilson
from robsearch.trials.figures import (
    accuracy,
    draw,
    features,
    ladder,
    lipschitz,
    margin_histograms,
    norms,
    spectra,
)
from robsearch.trials.figures.depth import in_order
from robsearch.trials.figures.distributions import distribution, shared_edges
from robsearch.trials.figures.tables import by_layer

PIXELS = {"unit": "pixel units", "norm": "linf", "source": "arXiv 1907.11780"}
SLOPE = {"unit": "logits per pixel unit", "norm": "linf to l1", "source": "arXiv 2003.02460"}
RUNGS = [
    {
        "rung": "pgd",
        "attacks": ["PGD-20"],
        "n": 200,
        "robust_accuracy": 0.6,
        "low": 0.53,
        "high": 0.66,
        "attacked": 150,
        "broken": 30,
        "seconds": 2.0,
    },
    {
        "rung": "apgd",
        "attacks": ["PGD-20", "APGD-CE", "APGD-T"],
        "n": 200,
        "robust_accuracy": 0.55,
        "low": 0.48,
        "high": 0.62,
        "attacked": 120,
        "broken": 10,
        "seconds": 31.5,
    },
]


def images(about: dict[str, dict[str, str]] | None = None, **columns: Any) -> pa.Table:
    """A table per image; ``a__b`` stands for the column ``a/b``."""
    named = {
        name.replace("__", "/"): pa.array(np.asarray(v), from_pandas=True)
        for name, v in columns.items()
    }
    fields = [pa.field(name, v.type, metadata=(about or {}).get(name)) for name, v in named.items()]
    return pa.table(list(named.values()), schema=pa.schema(fields))


def layers(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows))


def layer(measure: str, name: str, position: int, values: Any, **about: str) -> dict[str, Any]:
    own = np.asarray(values, dtype=np.float64).reshape(-1)
    said = {"kind": "exact", "unit": "1", "norm": "l2", "source": "arXiv 2009.08435", **about}
    statistics = {name: float(getattr(own, name)()) for name in ("mean", "std", "min", "max")}
    return {
        "measure": measure,
        "layer": name,
        "position": position,
        **said,
        "values": own.tolist(),
        **statistics,
    }


def deep(depth: int) -> pa.Table:
    """All layer measures of a net of ``depth`` blocks, a convolution and a BatchNorm each."""
    random, rows = np.random.default_rng(0), []
    names = [f"stages.{i // 9}.{i % 9}.{part}" for i in range(depth) for part in ("conv1", "bn2")]
    for place, name in enumerate(names):
        rows += [
            layer(f"norms/{norm}", name, place, random.uniform(1, 30))
            for norm in ("linf", "l1", "l2")
        ]
    for place, name in enumerate(names[::2]):
        rows += [
            layer(f"norms_folded/{norm}", name, place, random.uniform(1, 30))
            for norm in ("linf", "l1")
        ]
        rows += [
            layer(f"spectra/{way}", name, place, random.random(20 + place))
            for way in ("reshaped", "circular")
        ]
        rows += [layer("features/change", name, place, random.random(50))]
    return layers(
        *rows, layer("lipschitz/global_bound", "", 0, 3e7, kind="upper bound", unit=SLOPE["unit"])
    )


def both(n: int) -> dict[str, pa.Table]:
    """Train and test tables of ``n`` images with every family in them."""
    random = np.random.default_rng(1)
    about = {
        "margin/logit": {"kind": "exact", "unit": "logits", "source": "arXiv 1907.11780"},
        "margin/input_first_order": {"kind": "estimate", **PIXELS},
        "margin/attack_distance": {"kind": "upper bound", **PIXELS},
        "lipschitz/logit_ratio": {"kind": "lower bound", **SLOPE},
        "lipschitz/interval_bound": {"kind": "upper bound", **SLOPE},
        "lipschitz/kl_gradient": {
            "kind": "lower bound",
            "unit": "nats per pixel unit",
            "norm": "linf",
        },
    }
    right = {
        name: (random.random((2, n)) < 0.7).astype(np.float32)
        for name in ("natural_accuracy", "robust_accuracy")
    }
    own = {
        name.replace("/", "__"): random.lognormal(size=(2, n)) - 0.7 * name.startswith("margin")
        for name in about
    }
    own |= {"confidence": random.random((2, n)), "loss": random.random((2, n))}
    return {
        split: images(
            about, label=np.arange(n) % 10, **{name: v[i] for name, v in {**right, **own}.items()}
        )
        for i, split in enumerate(("train", "test"))
    }


def found(figure: Figure | None) -> list[Axes]:
    assert figure is not None
    return figure.axes


def colors_of(axes: Axes) -> dict[str, str]:
    """By legend entry its colour."""
    handles, labels = axes.get_legend_handles_labels()
    return {
        label: to_hex(handle.get_color()) for label, handle in zip(labels, handles, strict=True)
    }


# --- which figures ---

RATES = {"label": [0, 1], "natural_accuracy": [1.0, 0.0]}


@pytest.mark.parametrize(
    ("files", "drawn"),
    [
        ({}, []),
        ({"test.parquet": images(label=[0, 1], index=[0, 1])}, []),
        (
            {
                "test.parquet": images(**RATES).slice(0, 0),
                "layers.parquet": deep(1).slice(0, 0),
                "ladder.json": {"standings": []},
            },
            [],
        ),
        ({"test.parquet": images(**RATES)}, ["accuracy"]),
        (
            {"train.parquet": images(stability=[1.0, 0.0], margin__logit=[1.0, 2.0])},
            ["accuracy", "margins"],
        ),
        (
            {"test.parquet": images(margin__logit=[np.nan, np.nan], lipschitz__a=[2.0, np.nan])},
            ["lipschitz"],
        ),
        ({"layers.parquet": deep(2)}, ["norms", "spectra", "features"]),
        ({"layers.parquet": layers(layer("norms_folded/l1", "a", 0, 2.0))}, ["norms"]),
        ({"layers.parquet": layers(layer("lipschitz/global_bound", "", 0, 2.0))}, []),
        ({"ladder.json": {"standings": RUNGS}}, ["ladder"]),
        ({"ladder.json": {"standings": [{"rung": "pgd", "robust_accuracy": None}]}}, []),
    ],
)
def test_a_family_without_data_draws_nothing(
    files: dict[str, Any], drawn: list[str], tmp_path: Path
) -> None:
    for name, held in files.items():
        if name.endswith("json"):
            (tmp_path / name).write_text(json.dumps(held))
        else:
            pq.write_table(held, tmp_path / name)
    wanted = [tmp_path / "figures" / f"{name}.png" for name in drawn]
    assert draw(tmp_path) == wanted
    assert sorted((tmp_path / "figures").glob("*")) == sorted(wanted)


def test_all_figures_are_small_and_of_one_width_and_change_no_setting(tmp_path: Path) -> None:
    for split, table in both(300).items():
        pq.write_table(table, tmp_path / f"{split}.parquet")
    pq.write_table(deep(15), tmp_path / "layers.parquet")
    (tmp_path / "ladder.json").write_text(json.dumps({"standings": RUNGS}))
    before = dict(matplotlib.rcParams)
    files = draw(tmp_path)
    assert dict(matplotlib.rcParams) == before
    assert len(files) == 7
    for file in files:
        assert Image.open(file).width == 900
        assert 5_000 < file.stat().st_size < 120_000


def texts(figure: Figure) -> Iterator[Any]:
    for axes in figure.axes:
        yield from (axes.title, axes.xaxis.label, axes.yaxis.label, axes.get_legend())
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            yield from (
                t.label1
                for t in axis.get_major_ticks()
                if t.label1.get_visible() and low <= t.get_loc() <= high
            )
    yield figure._supxlabel


@pytest.mark.parametrize("depth", [2, 15, 40])
@pytest.mark.parametrize(
    "family", ["accuracy", "margins", "lipschitz", "norms", "spectra", "features", "ladder"]
)
def test_no_text_leaves_the_page_or_covers_another_or_the_data(family: str, depth: int) -> None:
    splits, table = both(50 * depth), deep(depth)
    splits = {
        split: pa.concat_tables([own] * (1000 if depth == 40 else 1))
        for split, own in splits.items()
    }
    for split, own in splits.items():  # as many sources as measures: the longest note
        fields = [
            field.with_metadata({**(field.metadata or {}), "source": f"arXiv 1801.{i:05}"})
            for i, field in enumerate(own.schema)
        ]
        splits[split] = own.cast(pa.schema(fields))
    figure = {
        "accuracy": lambda: accuracy(splits),
        "margins": lambda: margin_histograms(splits),
        "lipschitz": lambda: lipschitz(splits, table),
        "norms": lambda: norms(table),
        "spectra": lambda: spectra(table),
        "features": lambda: features(table),
        "ladder": lambda: ladder(RUNGS),
    }[family]()
    assert figure is not None
    with look():
        figure.draw_without_rendering()
    page = figure.bbox.padded(0.5)
    boxes = [(t, t.get_window_extent()) for t in texts(figure) if t is not None]
    boxes = [(text, box) for text, box in boxes if box.width > 1]
    for place, (text, box) in enumerate(boxes):
        assert page.x0 <= box.x0 <= box.x1 <= page.x1, text
        assert page.y0 <= box.y0 <= box.y1 <= page.y1, text
        for axes in figure.axes:
            assert not box.padded(-1.5).overlaps(axes.bbox), text
        for other, around in boxes[place + 1 :]:
            assert not box.padded(-1.5).overlaps(around), (text, other)


# --- accuracy ---


@pytest.mark.parametrize(("right", "n"), [(0, 5), (5, 5), (1, 1), (63, 100), (9_000, 10_000)])
def test_the_interval_of_a_share_is_wilsons(right: int, n: int) -> None:
    reference = binomtest(right, n).proportion_ci(method="wilson")
    assert wilson(right / n, n) == pytest.approx((reference.low, reference.high), abs=1e-12)


def test_the_rates_are_the_means_of_the_columns_and_the_classes_of_their_images() -> None:
    test = images(
        label=[0, 0, 1, 1],
        natural_accuracy=[1, 1, 1, 0],
        robust_accuracy=[1, 0, 0, None],
        loss=[1, 2, 3, 4],
    )
    train = images(natural_accuracy=[1.0, 1.0])
    rates, classes = found(figure := accuracy({"train": train, "test": test}))
    by_split = {bars.get_label(): bars[0].get_xdata() for bars in rates.containers}
    assert by_split["train, n = 2"] == pytest.approx([100])
    assert by_split["test, n = 4"] == pytest.approx([75, 100 / 3])
    natural, robust = classes.containers
    assert natural[0].get_ydata() == pytest.approx([100, 50])
    assert robust[0].get_ydata() == pytest.approx([50, 0])
    (bar,) = natural[2]
    assert [segment[:, 1] for segment in bar.get_segments()][1] == pytest.approx(
        100 * np.array(wilson(0.5, 2))
    )
    assert (rates.get_xlabel(), classes.get_ylabel()) == ("images (%)", "test images (%)")
    assert classes.get_xlabel() == "class (1 to 2 images each)"
    assert figure is not None
    assert "Mean loss: test 2.5 nats" in figure._supxlabel.get_text()  # type: ignore[attr-defined]


# --- margins ---


def steps(axes: Axes) -> dict[str, tuple[Any, Any]]:
    """By split, heights and edges."""
    return {str(p.get_label()).split(",")[0]: p.get_data()[:2] for p in axes.patches}  # type: ignore[attr-defined]


def test_both_splits_of_a_panel_are_counted_in_the_same_bins_around_zero() -> None:
    for axes in found(margin_histograms(both(400))):
        (train, edges), (test, same) = (steps(axes)[split] for split in ("train", "test"))
        assert np.array_equal(edges, same)
        assert 0.0 in edges
        assert np.ptp(np.diff(edges)) < 1e-9 * np.ptp(edges)
        assert (train.sum(), test.sum()) == (pytest.approx(100), pytest.approx(100))


def test_a_histogram_counts_each_image_once_and_marks_the_median() -> None:
    table = images(
        {"margin/logit": {"kind": "exact", "unit": "logits"}},
        margin__logit=[-1.0, 0.0, 1.5, 3.0, None],
    )
    (axes,) = found(margin_histograms({"test": table}))
    heights, edges = steps(axes)["test"]
    at = {value: int(np.searchsorted(edges, value, side="right")) - 1 for value in (-1.0, 0.0, 1.5)}
    assert [heights[place] for place in at.values()] == [25, 25, 25]
    assert heights[-1] == 25
    assert edges[at[0.0]] == 0
    (median,) = [line for line in axes.lines if line.get_marker() == "v"]
    assert list(median.get_xdata()) == [0.75]  # type: ignore[arg-type]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("margin (logits)", "images (% per bin)")
    (entry,) = axes.get_legend().get_texts()  # type: ignore[union-attr]
    assert entry.get_text() == "test, n = 4\nmedian 0.75"


def test_a_tall_bin_of_misclassified_images_is_cut_off_and_named() -> None:
    table = images(margin__attack_distance=np.r_[np.zeros(900), np.linspace(0.1, 1, 100)])
    (axes,) = found(margin_histograms({"test": table}))
    heights = steps(axes)["test"][0]
    assert heights.max() == 90
    assert axes.get_ylim()[1] == pytest.approx(1.3 * np.sort(heights)[-2])
    assert axes.get_xlabel() == "margin (unit not given)\ncut off: test 90.0 %"


def test_few_values_far_away_fall_into_the_end_bins() -> None:
    values = np.r_[np.linspace(-1, 1, 998), 50.0, np.inf]
    (axes,) = found(margin_histograms({"test": images(margin__a=values)}))
    heights, edges = steps(axes)["test"]
    assert edges[-1] < 1.1
    assert heights.sum() == pytest.approx(100)
    outside = int(((values < edges[0]) | (values > edges[-1])).sum())
    assert axes.get_xlabel().endswith(f"end bins hold {outside} from beyond")


@pytest.mark.parametrize("value", [0.0, 2.5, -3.0])
def test_equal_values_share_one_bin(value: float) -> None:
    edges = shared_edges([np.full(7, value)])
    assert sorted(np.histogram(np.full(7, value), edges)[0])[-1] == 7
    assert 0.0 in edges


# --- Lipschitz ---


def test_a_distribution_function_counts_zeros_and_infinities_but_draws_them_nowhere() -> None:
    x, y = distribution(np.array([4.0, 0.0, 1.0, np.inf, 2.0]))
    assert x.tolist() == [1, 1, 2, 4]
    assert y == pytest.approx([20, 40, 60, 80])
    x, y = distribution(np.zeros(3))
    assert x.tolist() == [0, 0, 0, 0]
    assert y[[0, -1]] == pytest.approx([0, 100])


def test_a_long_distribution_function_keeps_its_ends_and_quantiles() -> None:
    x, y = distribution(np.arange(1.0, 100_001))
    assert len(x) <= 401
    assert (x[0], x[-1], y[-1]) == (1, 100_000, 100)
    assert y == pytest.approx(x / 1000, abs=2e-3)


def test_lower_and_upper_bounds_of_one_unit_share_a_panel_and_look_different() -> None:
    panel, nats = found(lipschitz(both(50), deep(1)))
    lines = {line.get_label(): line for line in panel.lines}
    lower = lines["logit_ratio, lower bound, n = 50 train, 50 test"]
    upper = lines["interval_bound, upper bound, n = 50 train, 50 test"]
    assert lower.get_linestyle() == "-"
    assert upper.get_linestyle() == "--"
    assert lower.get_color() != upper.get_color()
    assert panel.get_xscale() == nats.get_xscale() == "log"
    assert panel.get_xlabel() == "x (logits per pixel unit, ℓ∞ to ℓ₁)"
    assert nats.get_xlabel() == "x (nats per pixel unit, ℓ∞)"


@pytest.mark.parametrize(
    ("bound", "words"), [(12.0, "whole model: 12"), (1e6, "whole model: 1e6, off the axis")]
)
def test_a_bound_for_the_whole_model_is_a_line_or_words_where_it_is_far_off(
    bound: float, words: str
) -> None:
    about = {"lipschitz/logit_ratio": {"kind": "lower bound", **SLOPE}}
    table = images(about, lipschitz__logit_ratio=[1.0, 2.0])
    row = layer("lipschitz/global_bound", "", 0, bound, **{**SLOPE, "kind": "upper bound"})
    (axes,) = found(lipschitz({"test": table}, layers(row)))
    (line,) = [line for line in axes.lines if "global_bound" in str(line.get_label())]
    assert line.get_label() == f"global_bound, upper bound, {words}"
    assert [*np.asarray(line.get_xdata())] == ([] if "off" in words else [bound, bound])


# --- layers ---


def test_norms_stand_over_their_layer_raw_and_folded_in_the_same_colours() -> None:
    rows = [
        layer("norms/linf", name, i, 10.0 + i) for i, name in enumerate(("conv1", "bn2", "conv2"))
    ]
    rows += [layer("norms/l1", "conv1", 0, 5.0)]
    rows += [
        layer(f"norms_folded/{norm}", name, i, 20.0 + i)
        for norm in ("l1", "linf")
        for i, name in enumerate(("conv1", "conv2"))
    ]
    raw, folded = found(norms(layers(*rows)))
    drawn = {line.get_label(): line.get_xydata().tolist() for line in (*raw.lines, *folded.lines)}
    assert drawn["norms/linf, exact"] == [[0, 10], [1, 11], [2, 12]]
    assert drawn["norms_folded/linf, exact"] == [[0, 20], [2, 21]]
    assert colors_of(raw)["norms/linf, exact"] == colors_of(folded)["norms_folded/linf, exact"]
    assert colors_of(raw)["norms/l1, exact"] != colors_of(raw)["norms/linf, exact"]
    assert raw.get_yscale() == "log"
    assert raw.get_ylabel() == "operator norm (pure number)"
    assert [t.get_text() for t in folded.get_xticklabels()] == ["conv1", "bn2", "conv2"]


def test_layers_that_only_some_measures_have_stand_after_their_predecessor() -> None:
    rows = [layer("norms/a", n, i, 1) for i, n in enumerate(("a", "b", "d"))]
    rows += [layer("norms/b", n, i, 1) for i, n in enumerate(("b", "c"))]
    assert in_order(by_layer(layers(*rows), "norms")) == ["a", "b", "c", "d"]


def test_layers_stand_by_position_whatever_their_order_in_the_file() -> None:
    rows = [layer("norms/a", n, i, 1) for i, n in ((2, "c"), (0, "a"), (1, "b"))]
    assert list(by_layer(layers(*rows), "norms")["layer"]) == ["a", "b", "c"]


def test_of_many_layers_some_are_named_the_first_and_last_always() -> None:
    _, folded = found(norms(deep(40)))
    names = [t.get_text() for t in folded.get_xticklabels()]
    assert 20 <= len(names) <= 36
    assert (names[0], names[-1]) == ("stages.0.0.conv1", "stages.4.3.bn2")
    assert [place % 3 for place in folded.get_xticks()[:-1]] == [0] * (len(names) - 1)


def test_each_layer_has_its_singular_values_largest_first_and_their_mean_and_deviation() -> None:
    table = layers(
        layer("spectra/reshaped", "a", 0, [1, 3, 2]), layer("spectra/reshaped", "b", 1, [4, 4])
    )
    curves, spread, bar = found(spectra(table))
    (lines,) = curves.collections
    assert [np.round(s, 6).tolist() for s in lines.get_segments()] == [
        [[0, 3], [50, 2], [100, 1]],
        [[0, 4], [100, 4]],
    ]
    (bars,) = spread.containers
    assert bars[0].get_ydata() == pytest.approx([2, 4])
    assert bars[2][0].get_segments()[0][:, 1] == pytest.approx(
        [2 - np.sqrt(2 / 3), 2 + np.sqrt(2 / 3)]
    )
    assert curves.get_ylabel() == "singular value (pure number)"
    assert bar.get_ylabel() == "layer"


def test_the_change_of_features_is_a_median_inside_a_band() -> None:
    table = layers(
        layer("features/change", "a", 0, np.arange(101)),
        layer("features/change", "b", 1, np.full(101, 7.0)),
    )
    (axes,) = found(features(table))
    assert list(axes.lines[0].get_ydata()) == [50, 7]  # type: ignore[arg-type]
    band = axes.collections[0].get_paths()[0].vertices
    assert {(0.0, 5.0), (0.0, 95.0), (1.0, 7.0)} <= {
        (float(x), float(round(y, 9))) for x, y in band
    }
    assert axes.get_ylabel() == "relative change (pure number, ℓ₂)"
    assert axes.get_legend().get_title().get_text() == ("features/change, exact, n = 101 images")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "lost", ["values", "mean", "std", "position", "kind", "unit", "norm", "source", "min", "max"]
)
def test_a_column_of_the_layers_may_be_missing_or_null(lost: str) -> None:
    table = deep(3)
    place = table.column_names.index(lost)
    null = table.set_column(
        place, table.schema.field(place), pa.nulls(len(table), table.schema.field(place).type)
    )
    for less in (table.drop_columns([lost]), null):
        for figure in (norms, spectra, features):
            assert found(figure(less))


# --- the ladder ---


def test_each_rung_has_its_accuracy_interval_cost_and_new_attacks() -> None:
    left, right = found(ladder(RUNGS))
    (bars,) = left.containers
    assert bars[0].get_xydata() == pytest.approx(np.array([[60, 1], [55, 0]]))
    assert [segment[:, 0] for segment in bars[2][0].get_segments()] == [
        pytest.approx([53, 66]),
        pytest.approx([48, 62]),
    ]
    assert [patch.get_width() for patch in right.patches] == [2.0, 31.5]  # type: ignore[attr-defined]
    assert [t.get_text() for t in left.get_yticklabels()] == [
        "pgd\nPGD-20",
        "apgd\n+ APGD-CE, APGD-T",
    ]
    assert [t.get_text() for t in right.texts] == [
        "2.0 s, 150 attacked, 30 broken",
        "31.5 s, 120 attacked, 10 broken",
    ]
    assert left.get_xlabel() == "robust accuracy (%)"
    assert right.get_xlabel() == "wall time of the rung's own attacks (s)"


def test_a_rung_needs_nothing_but_its_name_and_accuracy() -> None:
    (axes,) = found(
        ladder(
            [{"rung": "pgd", "robust_accuracy": 0.25}, {"rung": "apgd", "robust_accuracy": None}]
        )
    )
    assert axes.containers[0][0].get_xydata().tolist() == [[25, 0]]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.1234, "−0.123"),
        (12345.6, "12,346"),
        (3.1e8, "3.1e8"),
        (2e-7, "2e−7"),
        (1e12, "1e12"),
    ],
)
def test_numbers_read_well(value: float, text: str) -> None:
    assert number(value) == text
