"""The full measures of a trained model, as Arrow tables, and the averages of them that are tracked.

    test, train   one row per image: index (in its split), label, the rates, confidence, loss, each
                  measure; and on test, where the judge is another attack that has a ``PGD``,
                  whether the image withstands that one, and the rates of the last epoch's net
    layers        one row per measure and layer: its values, with mean, std, min, max
    coverage      one row per layer with weights: how many, whether norms and spectra cover it, and
                  if not, why
    histograms    one row per split, measure and bin: low, high, count; the bins are the same for
                  every model

What is said of a measure (kind, unit, norm, source) stands in its field's metadata, or in columns
of ``layers``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from robsearch.errors import counted, refused
from robsearch.measures import LOG10, Rates, histogram, layer_summary, summary
from robsearch.metrics import RATES
from robsearch.network.layers import (
    NotCoveredWarning,
    Weights,
    coverage,
    covered_share,
    not_covered,
    traced,
)
from robsearch.network.modes import evaluating
from robsearch.parts.attacks import standing_pgd
from robsearch.protocols import (
    ABOUT,
    About,
    Attack,
    Images,
    Labels,
    LayerMeasure,
    Measure,
    Metrics,
    Split,
)
from robsearch.training.evaluation import (
    Sample,
    all_rates,
    images_at_once,
    in_chunks,
    sampled,
    to_float,
)

Tables = dict[str, pa.Table]

PER_IMAGE = {**RATES, "confidence": "confidence", "loss": "loss"}
"""Columns that every table of examples has, and the fields of ``Rates`` they come from."""
PGD_ROBUST = "pgd_robust_accuracy"
"""The column of what withstands the ``PGD`` that stands for the judge."""
LAYER_EXAMPLES = 256
"""Images that a layer measure looks at."""
WHOLE = {"": "", LOG10: "_log10"}
"""The layers' names under which a measure gives a number of the whole model, and what its metric's
name ends with."""
TRAIN_SET = "train_set"
"""The prefix of metrics on training images, without augmentation: ``train/...`` are those of the
training itself."""


class Measurement:
    """Takes every measure of one model; one that fails is left out and named in ``problems``.

    Args:
        model: on the device of the splits.
        attack: of the rates.
        measures: to be taken.
        n: on how many images of each split, the same for every model; None for all.
    """

    def __init__(
        self,
        model: nn.Module,
        attack: Attack,
        measures: tuple[Measure | LayerMeasure, ...],
        n: int | None,
    ) -> None:
        self.model, self.attack, self.n = model, attack, n
        self.per_image = [measure for measure in measures if isinstance(measure, Measure)]
        self.per_layer = [measure for measure in measures if isinstance(measure, LayerMeasure)]
        self.problems: dict[str, str] = {}

    def tables(self, splits: Mapping[str, Split]) -> Tables:
        """All of ``test``, as many images of ``train`` if it is there, the layers, the
        histograms."""
        whole = sampled(splits["test"], None)
        tables = {"test": self._with_pgd(self.examples(whole), splits["test"])}
        if "train" in splits:
            # As many training images as test images, so that their averages are equally exact.
            as_many = sampled(splits["train"], len(whole.rows))
            tables["train"] = self.examples(as_many, "train")
        tables["layers"] = self.layers(splits["test"])
        tables["coverage"] = self.coverage(splits["test"])
        return tables | {"histograms": self._histograms(tables)}

    def examples(self, sample: Sample, split: str = "test") -> pa.Table:
        """One row per image of the sample; a measure is null on images that it was not taken on."""
        rates = all_rates(self.model, sample.split, self.attack)
        columns = {"index": sample.rows, "label": sample.split.labels.long()}
        for name, field in PER_IMAGE.items():
            columns[name] = getattr(rates, field)
        table = pa.table({name: values.cpu().numpy() for name, values in columns.items()})
        few = sampled(sample.split, self.n)
        for measure in self.per_image:
            values = self._measured(measure, few.split, split)
            if values is not None:
                column = np.full(len(sample.rows), np.nan, dtype=np.float32)
                column[few.rows.numpy()] = values.cpu().numpy()
                field = pa.field(measure.name, pa.float32(), metadata=about_texts(measure.about))
                # Not measured is null. A measure that is NaN somewhere is left out as a whole.
                table = table.append_column(field, pa.array(column, from_pandas=True))
        return table

    def _with_pgd(self, table: pa.Table, split: Split) -> pa.Table:
        """The table with what withstands PGD on the cross-entropy, as the literature quotes it."""
        pgd = standing_pgd(self.attack)
        if pgd is None or pgd == self.attack:
            return table
        robust = all_rates(self.model, split, pgd).robust.cpu().numpy()
        return table.append_column(PGD_ROBUST, pa.array(robust))

    def layers(self, split: Split) -> pa.Table:
        """One row per layer measure and layer, in the model's order."""
        few = sampled(split, min(LAYER_EXAMPLES, self.n or LAYER_EXAMPLES)).split
        rows = [row for measure in self.per_layer for row in self._layer_rows(measure, few)]
        return pa.Table.from_pylist(rows, schema=_LAYERS)

    def coverage(self, split: Split) -> pa.Table:
        """One row per layer with weights. Those that no measure of layers covers are named in
        ``problems``."""
        layers: list[Weights] = []
        if self.per_layer:
            try:
                layers = coverage(self.model, traced(self.model, to_float(split.images[:1])))
            except Exception as error:
                self._problem("layers/covered", f"{type(error).__name__}: {error}")
        if sentence := not_covered(layers):
            self._problem("norms and spectra", sentence)
        return pa.Table.from_pylist([layer._asdict() for layer in layers], schema=_COVERAGE)

    def _problem(self, name: str, text: str) -> None:
        self.problems[name] = f"{self.problems[name]}; {text}" if name in self.problems else text

    def _measured(self, measure: Measure, split: Split, name: str) -> Tensor | None:
        def checked(x: Images, y: Labels) -> Tensor:
            return _checked(measure(self.model, x, y), (len(y),)).float()

        try:
            with evaluating(self.model):
                values = torch.cat(in_chunks(split, checked, images_at_once(self.model, split)))
        except Exception as error:
            self._problem(measure.name, f"on {name}: {type(error).__name__}: {error}")
            return None
        lost = int(values.isnan().sum())
        if lost:
            share = f"{lost} of {counted(len(values), 'image')} ({lost / len(values):.1%})"
            self._problem(measure.name, f"on {name}: it is NaN for {share}")
        return None if lost else values

    def _layer_rows(self, measure: LayerMeasure, split: Split) -> Iterator[dict[str, object]]:
        try:
            with evaluating(self.model), warnings.catch_warnings():
                # ``coverage`` says it once for all measures.
                warnings.filterwarnings("ignore", "norms and spectra", NotCoveredWarning)
                at_once = images_at_once(self.model, split, LAYER_EXAMPLES)
                work = partial(measure.by_layer, self.model)
                (raw,) = in_chunks(split, work, LAYER_EXAMPLES, at_once)
                layers = {layer: _checked(values).double() for layer, values in raw.items()}
        except Exception as error:
            self._problem(measure.name, f"{type(error).__name__}: {error}")
            return
        lost = [layer for layer, values in layers.items() if not values.isfinite().all()]
        if lost:
            where = ", ".join(layer or "the whole model" for layer in lost)
            self._problem(measure.name, f"it is NaN or infinite for {where}")
        # With a layer missing, means over layers would be of another network.
        if any(layer not in WHOLE for layer in lost):
            return
        for position, (layer, values) in enumerate(layers.items()):
            if layer not in lost:
                yield {
                    "measure": measure.name,
                    "layer": layer,
                    "position": position,
                    **about_texts(measure.about),
                    "values": values.tolist(),
                    "mean": values.mean().item(),
                    "std": values.std(correction=0).item(),
                    "min": values.min().item(),
                    "max": values.max().item(),
                }

    def _histograms(self, tables: Tables) -> pa.Table:
        parts = [_HISTOGRAMS.empty_table()]
        for measure in self.per_image:
            for split in ("test", "train"):
                has_values = split in tables and measure.name in tables[split].column_names
                if measure.about.span is None or not has_values:
                    continue
                values = _values(tables[split], measure.name)
                edges, counts = histogram(values, measure.about.span)
                bins = {
                    "split": [split] * len(counts),
                    "measure": [measure.name] * len(counts),
                    "low": edges[:-1].numpy(),
                    "high": edges[1:].numpy(),
                    "count": counts.numpy(),
                }
                parts.append(pa.table(bins, schema=_HISTOGRAMS))
        return pa.concat_tables(parts)


def with_last_epoch(test: pa.Table, rates: Rates) -> pa.Table:
    """The table of ``test`` with what the net of the last epoch makes of each image, beside the one
    that is measured: ``last_natural_accuracy`` and ``last_robust_accuracy``."""
    for name in ("natural_accuracy", "robust_accuracy"):
        values = getattr(rates, RATES[name]).cpu().numpy()
        test = test.append_column(f"last_{name}", pa.array(values[test["index"].to_numpy()]))
    return test


def averages(tables: Tables) -> Metrics:
    """The scalars to track, under stable names.

    ``test/NAME`` and ``train_set/NAME``: rates, confidence and loss, each with its standard error
    ``NAME_se`` (``test/pgd_robust_accuracy`` too), and of each measure ``mean, se, min, q05, q50,
    q95``. ``gap/error``, ``gap/robust_error``, ``gap/loss``: on test minus on training images, with
    ``_se``.
    ``NAME/mean`` and others (see ``layer_summary``) of each layer measure. Without the table
    ``train`` there is neither a gap nor what is of training images.
    """
    metrics = _split_averages("test", tables["test"])
    if "train" in tables:
        metrics |= _split_averages(TRAIN_SET, tables["train"])
        metrics |= _gaps(metrics)
    metrics |= _layer_averages(tables["layers"])
    if weights := [Weights(**row) for row in tables["coverage"].to_pylist()]:
        metrics["layers/covered"] = covered_share(weights)
    return metrics


def finite(metrics: Metrics) -> tuple[Metrics, list[str]]:
    """The metrics that are finite numbers, and a sentence for each that is not. No sentence for
    errors of one image."""
    finite_metrics = {}
    problems = []
    for name, value in metrics.items():
        if math.isfinite(value):
            finite_metrics[name] = value
        elif not name.endswith(("_se", "/se")):
            kind = "NaN" if math.isnan(value) else "infinite"
            problems.append(f"{name} left out: it is {kind}")
    return finite_metrics, problems


def _split_averages(prefix: str, table: pa.Table) -> Metrics:
    metrics: Metrics = {}
    for name in table.column_names:
        metric = f"{prefix}/{name}"
        if name in (*PER_IMAGE, PGD_ROBUST):
            statistics = summary(_values(table, name))
            metrics[metric] = statistics["mean"]
            metrics[f"{metric}_se"] = statistics["se"]
        elif table.schema.field(name).metadata:
            for key, value in summary(_values(table, name)).items():
                metrics[f"{metric}/{key}"] = value
    return metrics


def _gaps(averages: Metrics) -> Metrics:
    gaps = {}
    for gap, name, sign in (
        ("error", "natural_accuracy", -1),
        ("robust_error", "robust_accuracy", -1),
        ("loss", "loss", 1),
    ):
        test, train = f"test/{name}", f"{TRAIN_SET}/{name}"
        gaps[f"gap/{gap}"] = sign * (averages[test] - averages[train])
        gaps[f"gap/{gap}_se"] = math.hypot(averages[f"{test}_se"], averages[f"{train}_se"])
    return gaps


def _layer_averages(table: pa.Table) -> Metrics:
    metrics: Metrics = {}
    by_measure: dict[str, dict[str, Tensor]] = {}
    for row in table.to_pylist():
        name, layer = row["measure"], row["layer"]
        if layer in WHOLE:
            metrics[name + WHOLE[layer]] = row["mean"]
        else:
            values = torch.tensor(row["values"], dtype=torch.float32)
            by_measure.setdefault(name, {})[layer] = values
    for name, layers in by_measure.items():
        for key, value in layer_summary(layers).items():
            # Only singular values have a condition number.
            if key != "condition" or name.startswith("spectra/"):
                metrics[f"{name}/{key}"] = value
    return metrics


def _values(table: pa.Table, name: str) -> Tensor:
    return torch.from_numpy(table[name].drop_null().to_numpy().copy())


def _checked(values: object, shape: tuple[int, ...] | None = None) -> Tensor:
    """The values without gradient.

    Raises:
        InputError: they are no tensor of this shape, or without one, no row of at least one number.
    """
    expected = "a tensor of one dimension with at least one number"
    if shape:
        expected = f"a tensor of shape {shape}"
    got: object = None
    if not isinstance(values, Tensor):
        got = type(values).__name__
    elif values.is_complex():
        expected, got = "a tensor of real numbers", values.dtype
    elif (shape and values.shape != shape) or values.ndim != 1 or not len(values):
        got = f"shape {tuple(values.shape)}"
    if got is not None:
        raise refused(expected, got, "look at the measure")
    assert isinstance(values, Tensor)
    return values.detach()


def about_texts(about: About) -> dict[str, str]:
    """What is written beside a measure's numbers."""
    return {name: getattr(about, name) for name in ABOUT}


_TEXT, _NUMBER = pa.string(), pa.float64()
_LAYERS = pa.schema(
    {
        "measure": _TEXT,
        "layer": _TEXT,
        "position": pa.int32(),
        **dict.fromkeys(ABOUT, _TEXT),
        "values": pa.list_(_NUMBER),
        "mean": _NUMBER,
        "std": _NUMBER,
        "min": _NUMBER,
        "max": _NUMBER,
    }
)
_COVERAGE = pa.schema(
    {
        "layer": _TEXT,
        "type": _TEXT,
        "weights": pa.int64(),
        "covered": pa.bool_(),
        "reason": _TEXT,
    }
)
_HISTOGRAMS = pa.schema(
    {
        "split": _TEXT,
        "measure": _TEXT,
        "low": _NUMBER,
        "high": _NUMBER,
        "count": pa.int64(),
    }
)
