"""Layer norms and spectra of the best trials, layer by layer."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame

from robsearch.wording import counted

from .canvas import SOFT, Drawing, legend, log_axis, look, panels, svg, tone, width_entries
from .evidence import Evidence, LeftOutError

NORMS = ("norms/linf", "norms/l2", "norms/l1")
"""The operator norm that is drawn is the first of these that was measured."""
SIGNS = dict(zip(NORMS, ("ℓ∞", "ℓ₂", "ℓ₁"), strict=True))
SPECTRA = ("spectra/reshaped", "spectra/circular")
LARGEST: dict[str, Any] = {"linestyle": (0, (4, 2)), "linewidth": 1.0}


def norms_and_spectra(evidence: Evidence) -> Drawing:
    """The operator norm of each layer, and the mean and largest of its singular values, of the best trials."""
    layers = evidence.layers
    norm, spectrum = (next((one for one in kinds if one in set(layers["measure"])), None) for kinds in (NORMS, SPECTRA))
    shown = [name for name in (norm, spectrum) if name]
    if not shown:
        raise LeftOutError("no best trial was measured for its layers' norms or singular values")
    with look():
        figure, axes = panels(3.5, columns=len(shown))
        for own, name in zip(axes, shown, strict=True):
            curves(own, evidence, layers[layers["measure"] == name], name in SPECTRA)
            title = "singular value" if name in SPECTRA else f"operator norm, {SIGNS[name]}"
            own.set(xlabel="layer, first to last", ylabel=f"{title} (pure number)")
            own.xaxis.set_major_locator(MaxNLocator(10, integer=True))
            log_axis(own, "y")
        apart = [
            (Line2D([], [], color=SOFT), "mean"),
            (Line2D([], [], color=SOFT, **LARGEST), "largest, of singular values"),
        ]
        legend(figure, [*width_entries(evidence.widths), *(apart if spectrum else [])])
        drawn = svg(figure, "layers", "Operator norm and singular values by layer, one colour per width")
    return Drawing(drawn, caption(evidence, layers, shown))


def curves(axes: Axes, evidence: Evidence, layers: DataFrame, spectrum: bool) -> None:
    """One line per width over its layers; of a spectrum also the largest value of each."""
    for width in evidence.widths:
        color, marker = tone(evidence.widths, width)
        own = layers[layers["width"] == width].sort_values("position")
        depth = range(1, len(own) + 1)
        axes.plot(depth, own["mean"], marker=marker, color=color, markersize=4.5, linewidth=1.2)
        if spectrum:
            axes.plot(depth, own["max"], color=color, **LARGEST)


def caption(evidence: Evidence, layers: DataFrame, shown: list[str]) -> str:
    """Whose layers, and what of them."""
    nets = layers.drop_duplicates("trial")
    bests = evidence.finished[evidence.finished["trial"].isin(nets["trial"])]
    count = layers[layers["measure"] == shown[0]].groupby("trial").size()
    layers_told = " or ".join(counted(n, "layer") for n in sorted(set(count)))
    kinds = " and ".join(dict.fromkeys(layers[layers["measure"] == shown[0]]["kind"]))
    about = f"Operator norms of each layer on its own input size ({kinds})" if shown[0] in NORMS else ""
    spectra = "singular values of each layer's weights" if shown[-1] in SPECTRA else ""
    return (
        f"{' and '.join(filter(None, (about, spectra)))}, of the best trial of each width at its best validation "
        f"epoch: {', '.join(nets['trial'])}; {layers_told}. All norms, layer by layer, are in each "
        f"run's figures. {evidence.sample(bests)}."
    )
