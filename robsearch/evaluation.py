"""Judging a model under the recipe's ``eval_attack``: averages after each epoch, per-example tables at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import torch
from torch import Tensor, nn

from robsearch.measures import Rates, rates, summary
from robsearch.modes import evaluating
from robsearch.protocols import Attack, Images, Labels, Measure, Metrics, Split
from robsearch.recipe import Recipe

EVAL_SEED = 0
"""Every trial is judged from the same attack starts, so that trials are compared like with like."""
EVAL_CHUNK = 1000
RATES = {
    "natural_accuracy": "natural",
    "robust_accuracy": "robust",
    "stability": "stable",
    "wrong_to_right": "wrong_to_right",
}
"""Metric names of the accuracy family, and the fields of ``Rates`` they average."""


def judge(recipe: Recipe, model: nn.Module, split: Split) -> Metrics:
    """Natural accuracy, robust accuracy, stability and wrong-to-right flips, as shares of the split."""
    parts = list(_rates(recipe, model, split))
    return {name: _joined(parts, field).double().mean().item() for name, field in RATES.items()}


def examples(recipe: Recipe, model: nn.Module, split: Split) -> pa.Table:
    """One row per image: index, label, the rates, confidence, and each of the recipe's measures.

    A measure's column carries its kind (exact, lower bound, ...) in the field's metadata.
    """
    parts = list(_rates(recipe, model, split))
    columns: dict[str, Tensor] = {"index": torch.arange(len(split.labels)), "label": split.labels}
    columns |= {name: _joined(parts, field) for name, field in {**RATES, "confidence": "confidence"}.items()}
    fields = [pa.field(name, pa.from_numpy_dtype(v.cpu().numpy().dtype)) for name, v in columns.items()]
    for measure in recipe.measures or ():
        with evaluating(model):
            values = torch.cat([measure(model, x, y) for x, y in _chunks(split)])
        columns[measure.name] = values
        fields.append(pa.field(measure.name, pa.float32(), metadata={"kind": measure.about.kind}))
    return pa.table([c.cpu().numpy() for c in columns.values()], schema=pa.schema(fields))


def averages(table: pa.Table, measures: tuple[Measure, ...]) -> Metrics:
    """The rates with their standard errors, and the summary of each measure, from ``examples``."""
    found: Metrics = {}
    for name in (*RATES, "confidence"):
        statistics = summary(torch.from_numpy(table[name].to_numpy()))
        found |= {name: statistics["mean"], f"{name}_se": statistics["se"]}
    for measure in measures:
        statistics = summary(torch.from_numpy(table[measure.name].to_numpy()))
        found |= {f"{measure.name}/{key}": value for key, value in statistics.items()}
    return found


def _rates(recipe: Recipe, model: nn.Module, split: Split) -> Iterator[Rates]:
    attack: Attack | None = recipe.eval_attack
    assert attack is not None, "Recipe fills it in"
    for x, y in _chunks(split):
        yield rates(model, x, y, attack)


def _chunks(split: Split) -> Iterator[tuple[Images, Labels]]:
    devices = [split.images.device] if split.images.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(EVAL_SEED)
        for images, labels in zip(split.images.split(EVAL_CHUNK), split.labels.split(EVAL_CHUNK), strict=True):
            yield to_float(images), labels


def _joined(parts: list[Rates], field: str) -> Tensor:
    return torch.cat([getattr(part, field) for part in parts])


def to_float(images: Tensor) -> Images:
    """Bytes 0..255 as floats in [0, 1]."""
    return images.float() / 255


def to_device(split: Split, device: torch.device) -> Split:
    """The split on a device; on the CPU it stays the read-only memory map."""
    return Split(split.images.to(device), split.labels.to(device))


def best_device() -> torch.device:
    """The first GPU that this process may use, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
