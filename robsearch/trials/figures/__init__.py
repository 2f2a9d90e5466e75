"""One figure per family of measures of a trained network, as PNG files that MLflow shows inline."""

from __future__ import annotations

from pathlib import Path

from robsearch.drawing.style import look, save
from robsearch.trials.figures.accuracy import accuracy
from robsearch.trials.figures.depth import features, norms, spectra
from robsearch.trials.figures.distributions import lipschitz, margin_histograms
from robsearch.trials.figures.rungs import ladder
from robsearch.trials.figures.tables import read_splits, read_standings
from robsearch.trials.files import read_parquet, unless_damaged


def draw(folder: Path) -> list[Path]:
    """Draws what the trial's folder has been measured for, in ``folder/figures``; nothing for what
    it has not.

    Read are ``test.parquet`` and ``train.parquet`` (a row per image), ``layers.parquet`` (a row per
    measure and layer) and ``ladder.json``, each only if it is there; of those that are damaged a
    warning tells.

    Returns:
        The files written: ``accuracy.png``, ``margins.png``, ``lipschitz.png``, ``norms.png``,
        ``spectra.png``, ``features.png``, ``ladder.png``, or some of these.
    """
    splits = read_splits(folder)
    layers = unless_damaged(read_parquet, folder / "layers.parquet")
    figures = {
        "accuracy": accuracy(splits),
        "margins": margin_histograms(splits),
        "lipschitz": lipschitz(splits, layers),
        "norms": norms(layers),
        "spectra": spectra(layers),
        "features": features(layers),
        "ladder": ladder(read_standings(folder)),
    }
    written = []
    for name, figure in figures.items():
        if figure is not None:
            file = folder / "figures" / f"{name}.png"
            file.parent.mkdir(exist_ok=True)
            with look():
                figure.suptitle(f"{folder.resolve().name}: {name}", x=0.012, ha="left", fontsize=11)
            save(figure, file)
            written.append(file)
    return written
