"""The full measures of a trained model, as Arrow tables, and the averages of them that are tracked.

    test, train   one row per image: index (in its split), label, the rates, confidence, loss, each measure
    layers        one row per measure and layer: its values, with mean, std, min, max
    coverage      one row per layer with weights: how many, whether norms and spectra cover it, and if not, why
    histograms    one row per split, measure and bin: low, high, count; the bins are the same for every model

What is said of a measure (kind, unit, norm, source) stands in its field's metadata, or in columns of ``layers``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from functools import partial

import pyarrow as pa
import torch
from torch import Tensor, nn

from robsearch.errors import InputError, refusal
from robsearch.evaluation import RATES, Sample, all_rates, images_at_once, in_chunks, sampled, to_float
from robsearch.layers import NotCoveredWarning, Weights, coverage, covered_share, not_covered, traced
from robsearch.measures import LOG10, histogram, layer_summary, summary
from robsearch.modes import evaluating
from robsearch.protocols import About, Attack, Images, Labels, LayerMeasure, Measure, Metrics, Split
from robsearch.wording import counted

Tables = dict[str, pa.Table]

PER_IMAGE = {**RATES, "confidence": "confidence", "loss": "loss"}
"""Columns that every table of examples has, and the fields of ``Rates`` they come from."""
LAYER_EXAMPLES = 256
"""Images that a layer measure looks at."""
WHOLE = {"": "", LOG10: "_log10"}
"""The layers' names under which a measure gives a number of the whole model, and what its metric's name ends with."""
TRAIN_SET = "train_set"
"""The prefix of metrics on training images, without augmentation: ``train/...`` are those of the training itself."""


class Measurement:
    """Takes every measure of one model; one that fails is left out and named in ``problems``.

    Args:
        model: on the device of the splits.
        attack: of the rates.
        measures: to be taken.
        n: on how many images of each split, the same for every model; None for all.
    """

    def __init__(
        self, model: nn.Module, attack: Attack, measures: tuple[Measure | LayerMeasure, ...], n: int | None
    ) -> None:
        self.model, self.attack, self.n = model, attack, n
        self.per_image = [measure for measure in measures if isinstance(measure, Measure)]
        self.per_layer = [measure for measure in measures if isinstance(measure, LayerMeasure)]
        self.problems: dict[str, str] = {}

    def tables(self, splits: Mapping[str, Split]) -> Tables:
        """All of ``test``, as many images of ``train``, the layers, the histograms."""
        whole = sampled(splits["test"], None)
        tables = {
            "test": self.examples(whole),
            "train": self.examples(sampled(splits["train"], len(whole.rows)), "train"),
            "layers": self.layers(splits["test"]),
            "coverage": self.coverage(splits["test"]),
        }
        return tables | {"histograms": self._histograms(tables)}

    def examples(self, sample: Sample, split: str = "test") -> pa.Table:
        """One row per image of the sample; a measure is null on images that it was not taken on."""
        found = all_rates(self.model, sample.split, self.attack)
        columns: dict[str, Tensor] = {"index": sample.rows, "label": sample.split.labels.long()}
        columns |= {name: getattr(found, field) for name, field in PER_IMAGE.items()}
        table = pa.table({name: values.cpu().numpy() for name, values in columns.items()})
        few = sampled(sample.split, self.n)
        for measure in self.per_image:
            values = self._taken(measure, few.split, split)
            if values is not None:
                field = pa.field(measure.name, pa.float32(), metadata=_words(measure.about))
                table = table.append_column(field, _column(values, few.rows, len(sample.rows)))
        return table

    def layers(self, split: Split) -> pa.Table:
        """One row per layer measure and layer, in the model's order."""
        few = sampled(split, min(LAYER_EXAMPLES, self.n or LAYER_EXAMPLES)).split
        return pa.Table.from_pylist(
            [row for measure in self.per_layer for row in self._rows(measure, few)], schema=_LAYERS
        )

    def coverage(self, split: Split) -> pa.Table:
        """One row per layer with weights. Those that no measure of layers covers are named in ``problems``."""
        found: list[Weights] = []
        if self.per_layer:
            try:
                found = coverage(self.model, traced(self.model, to_float(split.images[:1])))
            except Exception as error:
                self._problem("layers/covered", f"{type(error).__name__}: {error}")
        if told := not_covered(found):
            self._problem("norms and spectra", told)
        return pa.Table.from_pylist([each._asdict() for each in found], schema=_COVERAGE)

    def _problem(self, name: str, text: str) -> None:
        self.problems[name] = f"{self.problems[name]}; {text}" if name in self.problems else text

    def _taken(self, measure: Measure, split: Split, name: str) -> Tensor | None:
        def taken(x: Images, y: Labels) -> Tensor:
            return _fitting(measure(self.model, x, y), (len(y),)).float()

        try:
            with evaluating(self.model):
                values = torch.cat(in_chunks(split, taken, images_at_once(self.model, split)))
        except Exception as error:
            self._problem(measure.name, f"on {name}: {type(error).__name__}: {error}")
            return None
        lost = int(values.isnan().sum())
        if lost:
            share = f"{lost} of {counted(len(values), 'image')} ({lost / len(values):.1%})"
            self._problem(measure.name, f"on {name}: it is NaN for {share}")
        return None if lost else values

    def _rows(self, measure: LayerMeasure, split: Split) -> Iterator[dict[str, object]]:
        try:
            with evaluating(self.model), warnings.catch_warnings():
                warnings.simplefilter("ignore", NotCoveredWarning)  # said once, of all measures
                at_once = images_at_once(self.model, split, LAYER_EXAMPLES)
                work = partial(measure.by_layer, self.model)
                (raw,) = in_chunks(split, work, LAYER_EXAMPLES, at_once)
                found = {layer: _fitting(values).double() for layer, values in raw.items()}
        except Exception as error:
            self._problem(measure.name, f"{type(error).__name__}: {error}")
            return
        lost = [layer for layer, values in found.items() if not values.isfinite().all()]
        if lost:
            where = ", ".join(layer or "the whole model" for layer in lost)
            self._problem(measure.name, f"it is NaN or infinite for {where}")
        if any(layer not in WHOLE for layer in lost):
            return
        for position, (layer, exact) in enumerate(found.items()):
            if layer in lost:
                continue
            yield {
                "measure": measure.name,
                "layer": layer,
                "position": position,
                **_words(measure.about),
                "values": exact.tolist(),
                "mean": exact.mean().item(),
                "std": exact.std(correction=0).item(),
                "min": exact.min().item(),
                "max": exact.max().item(),
            }

    def _histograms(self, tables: Tables) -> pa.Table:
        rows: list[dict[str, object]] = []
        for measure in self.per_image:
            for split in ("test", "train"):
                if measure.about.span and measure.name in tables[split].column_names:
                    edges, counts = histogram(_values(tables[split], measure.name), measure.about.span)
                    sides = zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
                    rows += [
                        {"split": split, "measure": measure.name, "low": low, "high": high, "count": count}
                        for low, high, count in sides
                    ]
        return pa.Table.from_pylist(rows, schema=_HISTOGRAMS)


def averages(tables: Tables) -> Metrics:
    """The scalars to track, under stable names.

    ``test/NAME`` and ``train_set/NAME``: rates, confidence and loss, each with its standard error ``NAME_se``, and
    of each measure ``mean, se, min, q05, q50, q95``. ``gap/error``, ``gap/robust_error``, ``gap/loss``: on test
    minus on training images, with ``_se``. ``NAME/mean`` and others (see ``layer_summary``) of each layer measure.
    """
    found: Metrics = {}
    for split, prefix in (("test", "test"), ("train", TRAIN_SET)):
        found |= {f"{prefix}/{name}": value for name, value in _split_averages(tables[split]).items()}
    found |= _gaps(found) | _layer_averages(tables["layers"])
    if weights := [Weights(**row) for row in tables["coverage"].to_pylist()]:
        found["layers/covered"] = covered_share(weights)
    return found


def finite(metrics: Metrics) -> tuple[Metrics, list[str]]:
    """The metrics that are finite numbers, and a sentence for each that is not. No sentence for errors of one image."""
    kept = {name: value for name, value in metrics.items() if math.isfinite(value)}
    lost = {name: value for name, value in metrics.items() if name not in kept and not name.endswith(("_se", "/se"))}
    return kept, [
        f"{name} left out: it is {'NaN' if math.isnan(value) else 'infinite'}" for name, value in lost.items()
    ]


def _split_averages(table: pa.Table) -> Metrics:
    found: Metrics = {}
    for name in table.column_names:
        if name in PER_IMAGE:
            statistics = summary(_values(table, name))
            found |= {name: statistics["mean"], f"{name}_se": statistics["se"]}
        elif table.schema.field(name).metadata:
            found |= {f"{name}/{key}": value for key, value in summary(_values(table, name)).items()}
    return found


def _gaps(found: Metrics) -> Metrics:
    gaps: Metrics = {}
    for gap, name, sign in (
        ("error", "natural_accuracy", -1),
        ("robust_error", "robust_accuracy", -1),
        ("loss", "loss", 1),
    ):
        test, train = f"test/{name}", f"{TRAIN_SET}/{name}"
        gaps[f"gap/{gap}"] = sign * (found[test] - found[train])
        gaps[f"gap/{gap}_se"] = math.hypot(found[f"{test}_se"], found[f"{train}_se"])
    return gaps


def _layer_averages(table: pa.Table) -> Metrics:
    found: Metrics = {}
    several: dict[str, dict[str, Tensor]] = {}
    for row in table.select(["measure", "layer", "values", "mean"]).to_pylist():
        if row["layer"] not in WHOLE:
            several.setdefault(row["measure"], {})[row["layer"]] = torch.tensor(row["values"], dtype=torch.float32)
        else:
            found[row["measure"] + WHOLE[row["layer"]]] = row["mean"]
    for name, layers in several.items():
        spectrum = name.startswith("spectra/")  # only singular values have a condition number
        statistics = layer_summary(layers).items()
        found |= {f"{name}/{key}": value for key, value in statistics if spectrum or key != "condition"}
    return found


def _values(table: pa.Table, name: str) -> Tensor:
    return torch.from_numpy(table[name].drop_null().to_numpy().copy())


def _column(values: Tensor, index: Tensor, total: int) -> pa.Array:
    column, missing = torch.zeros(total), torch.ones(total, dtype=torch.bool)
    column[index], missing[index] = values.cpu(), False
    return pa.array(column.numpy(), mask=missing.numpy(), type=pa.float32())


def _fitting(values: object, shape: tuple[int, ...] | None = None) -> Tensor:
    """The values without gradient.

    Raises:
        InputError: they are no tensor of this shape, or without one, no row of at least one number.
    """
    expected = f"a tensor of shape {shape}" if shape else "a tensor of one dimension with at least one number"
    if not isinstance(values, Tensor):
        raise InputError(refusal(expected, type(values).__name__, "look at the measure"))
    if values.shape != shape if shape else values.ndim != 1 or not len(values):
        raise InputError(refusal(expected, f"shape {tuple(values.shape)}", "look at the measure"))
    return values.detach()


def _words(about: About) -> dict[str, str]:
    return {"kind": about.kind, "unit": about.unit, "norm": about.norm, "source": about.source}


_TEXTS = [(name, pa.string()) for name in ("kind", "unit", "norm", "source")]
_NUMBERS = [(name, pa.float64()) for name in ("mean", "std", "min", "max")]
_NAMES = [("measure", pa.string()), ("layer", pa.string()), ("position", pa.int32())]
_LAYERS = pa.schema([*_NAMES, *_TEXTS, ("values", pa.list_(pa.float64())), *_NUMBERS])
_COVERAGE = pa.schema(
    [
        ("layer", pa.string()),
        ("type", pa.string()),
        ("weights", pa.int64()),
        ("covered", pa.bool_()),
        ("reason", pa.string()),
    ]
)
_BINS = [("low", pa.float64()), ("high", pa.float64()), ("count", pa.int64())]
_HISTOGRAMS = pa.schema([("split", pa.string()), ("measure", pa.string()), *_BINS])
