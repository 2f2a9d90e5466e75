"""One figure per family of measures of a trained network, as PNG files that MLflow shows inline."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from robsearch.figures.accuracy import accuracy
from robsearch.figures.depth import features, norms, spectra
from robsearch.figures.distributions import lipschitz, margins
from robsearch.figures.rungs import ladder
from robsearch.figures.sheet import INK, save
from robsearch.figures.tables import read

__all__ = ["accuracy", "draw", "features", "ladder", "lipschitz", "margins", "norms", "spectra"]


def draw(folder: Path) -> list[Path]:
    """Draws what the trial's folder has been measured for, in ``folder/figures``; nothing for what it has not.

    Read are ``test.parquet`` and ``train.parquet`` (a row per image), ``layers.parquet`` (a row per measure and
    layer) and ``ladder.json``, each only if it is there.

    Returns:
        The files written: ``accuracy.png``, ``margins.png``, ``lipschitz.png``, ``norms.png``, ``spectra.png``,
        ``features.png``, ``ladder.png``, or some of these.
    """
    splits, layers, rungs = read(folder)
    figures = {
        "accuracy": accuracy(splits),
        "margins": margins(splits),
        "lipschitz": lipschitz(splits, layers),
        "norms": norms(layers),
        "spectra": spectra(layers),
        "features": features(layers),
        "ladder": ladder(rungs),
    }
    trial = folder.resolve().name
    return [_write(figure, folder / "figures", name, trial) for name, figure in figures.items() if figure is not None]


def _write(figure: Figure, folder: Path, name: str, trial: str) -> Path:
    folder.mkdir(exist_ok=True)
    figure.suptitle(f"{trial}: {name}", x=0.012, ha="left", fontsize=10, color=INK)
    file = folder / f"{name}.png"
    save(figure, file)
    return file
