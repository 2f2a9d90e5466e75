"""The contracts of the measures: per example and per layer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import get_args, get_type_hints

from torch import Tensor, nn

from robsearch.measures import LOG10
from robsearch.protocols import About, LayerMeasure, Measure
from robsearch.testing.promises import SHAPE, check_per_example, contract, examples, left_alone, promise

_KINDS = get_args(get_type_hints(About)["kind"])
_NAME = re.compile(r"[\w\- :][\w\-. :]*(/[\w\- :][\w\-. :]*)*", re.ASCII)


@contract(Measure)
def check_measure(measure: Measure, /) -> None:
    """One number per example, detached; a name MLflow takes, a known kind; the model, in eval mode, left as it was."""
    _check_words(measure)
    network, x, y = examples()
    with left_alone(measure, network.eval()):
        values = measure(network, x, y)
    check_per_example(measure, "a call", values)
    promise(not values.requires_grad, measure, "numbers without gradient", "requires_grad=True")


@contract(LayerMeasure)
def check_layer_measure(measure: LayerMeasure, /) -> None:
    """Numbers in a row for each layer, detached; words and model as for ``check_measure``, also on convolutions."""
    _check_words(measure)
    network, x, y = examples()
    kernels = nn.Sequential(nn.Conv2d(SHAPE[0], 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
    kernels(x)
    for model in (network.eval(), kernels.eval()):
        with left_alone(measure, model):
            found = measure.by_layer(model, x, y)
        promise(isinstance(found, Mapping), measure, "by_layer to give a mapping from layers' names", type(found))
        names = {LOG10, *(name for name, _ in model.named_modules())}
        promise(set(found) <= names, measure, f"names of layers, {sorted(names)}", sorted(set(found) - names))
        for name, values in found.items():
            _check_layer(measure, name, values)


def _check_layer(measure: LayerMeasure, name: str, values: Tensor) -> None:
    row = isinstance(values, Tensor) and values.is_floating_point() and values.ndim == 1 and len(values) > 0
    got = f"{values.dtype} {tuple(values.shape)}" if isinstance(values, Tensor) else repr(values)
    promise(row, measure, f"one or more floats in a row for layer {name!r}", got)
    promise(not bool(values.isnan().any()), measure, f"layer {name!r} to have numbers", "NaN")
    promise(not values.requires_grad, measure, "numbers without gradient", "requires_grad=True")


def _check_words(measure: Measure | LayerMeasure) -> None:
    legal = bool(_NAME.fullmatch(measure.name))
    promise(legal, measure, "a name of letters, digits, _ - . space : in parts a/b", repr(measure.name))
    about = measure.about
    promise(isinstance(about, About), measure, "about to be a robsearch.protocols.About", repr(about))
    promise(about.kind in _KINDS, measure, f"a kind out of {', '.join(_KINDS)}", repr(about.kind))
    promise(bool(about.unit and about.source), measure, "a unit and a source", f"{about.unit!r}, {about.source!r}")
    low, high = about.span or (0, 1)
    promise(low < high, measure, "a span from low to high", about.span)
