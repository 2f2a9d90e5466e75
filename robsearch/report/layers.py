"""Layer norms and spectra of the best trials, layer by layer."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame

from robsearch.drawing.style import (
    SOFT,
    legend,
    log_axis,
    panels,
    svg,
    width_entries,
)
from robsearch.errors import counted
from robsearch.report.evidence import Evidence, LeftOutError

NORMS = {
    "norms/linf": "ℓ∞",
    "norms/l2": "ℓ₂",
    "norms/l1": "ℓ₁",
}
"""The operator norm that is drawn is the first of these that was measured."""
SPECTRA = ("spectra/reshaped", "spectra/circular")
LARGEST: dict[str, Any] = {"linestyle": (0, (4, 2)), "linewidth": 1.0}


def norms_and_spectra(evidence: Evidence) -> dict[str, Any]:
    """The operator norm of each layer, and the mean and largest of its singular values, of the best
    trials."""
    measured = set(evidence.layers["measure"])
    norms = [name for name in NORMS if name in measured][:1]
    spectra = [name for name in SPECTRA if name in measured][:1]
    measures = norms + spectra
    if not measures:
        raise LeftOutError("no best trial was measured for its layers' norms or singular values")
    rows = evidence.layers[evidence.layers["measure"] == measures[0]]
    nets = list(evidence.layers["trial"].unique())
    # Nets of other widths may also have another number of layers.
    depths = sorted(set(rows.groupby("trial").size()))
    return {
        "svg": layers_figure(evidence, measures),
        "kinds": list(rows["kind"].unique()) if norms else [],
        "spectra": bool(spectra),
        "nets": nets,
        "bests": evidence.finished[evidence.finished["trial"].isin(nets)],
        "depths": [counted(depth, "layer") for depth in depths],
    }


def layers_figure(evidence: Evidence, measures: list[str]) -> Markup:
    """A panel for each measure."""
    figure, axes = panels(3.5, columns=len(measures))
    entries = width_entries(evidence.widths)
    for panel, name in zip(axes, measures, strict=True):
        rows = evidence.layers[evidence.layers["measure"] == name]
        is_spectrum = name in SPECTRA
        draw_layers(panel, evidence, rows, is_spectrum)
        title = "singular value" if is_spectrum else f"operator norm, {NORMS[name]}"
        panel.set(xlabel="layer, first to last", ylabel=f"{title} (pure number)")
        panel.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        log_axis(panel, "y")
    if measures[-1] in SPECTRA:
        entries.append((Line2D([], [], color=SOFT), "mean"))
        largest = Line2D([], [], color=SOFT, **LARGEST)
        entries.append((largest, "largest, of singular values"))
    legend(figure, entries)
    label = "Operator norm and singular values by layer, one colour per width"
    return svg(figure, "layers", label)


def draw_layers(axes: Axes, evidence: Evidence, layers: DataFrame, is_spectrum: bool) -> None:
    """One line per width over its layers; of a spectrum also the largest value of each."""
    for _, (color, marker), rows in evidence.by_width(layers):
        rows = rows.sort_values("position")
        depth = range(1, len(rows) + 1)
        axes.plot(
            depth,
            rows["mean"],
            marker=marker,
            color=color,
            markersize=4.5,
            linewidth=1.2,
        )
        if is_spectrum:
            axes.plot(depth, rows["max"], color=color, **LARGEST)
